"""API tokens of users."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from appliance.domain.user import ApiToken
from appliance.errors import BadInput, NotFound
from appliance.web.api import models
from appliance.web.api.operation import Call, Operation, Target, answer, done
from appliance.web.api.schema import TEXT, array, nullable, obj, ref

_MOST_NOTE = 200


async def list_tokens(call: Call) -> Response:
    found = await call.hub.tokens.list(call.owner.user)
    found = sorted(found, key=lambda token: token.last_used_at or token.created_at)
    return answer({"api_tokens": [models.token(token) for token in found]})


async def get_token(call: Call) -> Response:
    return answer(models.token(await _named(call)))


async def create_token(call: Call) -> Response:
    """The token itself is in this one answer and never again."""
    body, owner, requester = call.body or {}, call.owner.user, call.requester
    note = body.get("note") or "Requested via api"
    if not body.get("note") and (requester.user is None or requester.user.id != owner.id):
        note = f"Requested via api by {requester.kind} {requester.name}"
    secret, token = await call.hub.tokens.create(
        owner, note=note[:_MOST_NOTE], expires_in_s=body.get("expires_in"), scopes=_scopes(call, body), by=requester)
    return answer(models.token(token) | {"token": secret}, 201)


async def revoke_token(call: Call) -> Response:
    token = await _named(call)
    revoked = [token]
    if token.client_id:    # of OAuth: the client is to get in no more, whichever of its tokens was meant
        revoked = [other for other in await call.hub.tokens.list(call.owner.user) if other.client_id == token.client_id]
    for each in revoked:
        await call.hub.tokens.revoke(each, actor=call.requester.name)
    return done()


async def _named(call: Call) -> ApiToken:
    token = await call.hub.tokens.get(call.owner.user, call.visit.param("token_id"))
    if token is None:
        raise NotFound("There is no such token.")
    return token


def _scopes(call: Call, body: dict[str, Any]) -> list[str] | None:
    """Return the scopes asked for; roles, as older clients send them, stand for their scopes."""
    scopes, roles = body.get("scopes"), body.get("roles")
    if roles is None:
        return scopes
    if scopes is not None:
        raise BadInput("A token has scopes or roles; name one of the two.")
    known = call.hub.permissions.roles
    for role in roles:
        if role not in known.by_name:
            raise BadInput(f"There is no role “{role[:60] if role.isprintable() else '?'}”.")
    return known.scopes_of(roles)


_BODY = obj({
    "note": nullable({"type": "string", "maxLength": _MOST_NOTE}),
    "expires_in": nullable({"type": "integer", "minimum": 1, "maximum": 10 * 365 * 86_400}),
    "scopes": nullable(array(TEXT, maxItems=500)), "roles": nullable(array(TEXT, maxItems=100)),
    "auth": nullable(obj({"username": TEXT, "password": TEXT}, required=("username", "password"))),
}, description="expires_in: seconds. Without scopes, the token may what its owner may. auth: name and password of "
                          "who asks, instead of a token.")
_OF_USER, _ONE = "users/{name}/tokens", "users/{name}/tokens/{token_id}"

OPERATIONS = (
    Operation("GET", _OF_USER, list_tokens, "List a user's tokens", ("read:tokens",), "tokens", Target.USER,
              responses={200: obj({"api_tokens": array(ref("Token"))}, required=("api_tokens",))}),
    Operation("POST", _OF_USER, create_token, "Make a token", ("tokens",), "tokens", Target.USER, body=_BODY, hides=False,
              by_password=True,
              responses={201: ref("NewToken")}),
    Operation("GET", _ONE, get_token, "Read about a token", ("read:tokens",), "tokens", Target.USER,
              responses={200: ref("Token")}),
    Operation("DELETE", _ONE, revoke_token, "Revoke a token; one of OAuth together with the others of its client",
              ("tokens",), "tokens", Target.USER, responses={204: None}),
)
