"""OAuth 2 as RFC 6749, 7636 and 9700 have it, by oauthlib: authorization codes for clients with a secret, and nothing else.

The one file that uses oauthlib. It is synchronous, so a whole request runs inside one transaction.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from oauthlib.common import Request
from oauthlib.oauth2 import (
    AuthorizationCodeGrant,
    AuthorizationEndpoint,
    BearerToken,
    FatalClientError,
    OAuth2Error,
    RequestValidator,
    TokenEndpoint,
)
from oauthlib.oauth2.rfc6749.grant_types.authorization_code import code_challenge_method_s256

from appliance.domain.oauth import OAuthClient
from appliance.domain.scopes import IDENTIFY
from appliance.domain.user import Session
from appliance.errors import BadInput
from appliance.store import oauth as store
from appliance.store.database import Transaction

# oauthlib knows absolute addresses only; a path of the box is told to it below this one
_BOX = "https://hub.invalid"
_ASKED = ("client_id", "redirect_uri", "response_type", "state", "scope", "code_challenge", "code_challenge_method")
_EXCHANGED = ("grant_type", "code", "redirect_uri", "client_id", "code_verifier")
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True)
class Asked:
    """What a browser brings to /authorize; `check_asked` returns one."""

    client: OAuthClient
    query: str                                      # what was asked for, and nothing beyond, for oauthlib
    scopes: tuple[str, ...]                         # asked for by name; (): everything the client is allowed
    state: str


@dataclass(frozen=True)
class Answer:
    status: int
    body: str
    headers: Mapping[str, str] = field(default_factory=dict)


class ErrorForClient(Exception):
    """The client asked for what cannot be; its own page tells. location: where that is."""

    def __init__(self, location: str) -> None:
        super().__init__("an error of OAuth")
        self.location = location


def check_asked(client: OAuthClient, params: Mapping[str, Sequence[str]]) -> Asked:
    """Take apart what was asked for, for a known client. Raises BadInput where the browser may not be sent back to whoever
    asked, ErrorForClient where it may be."""
    for name in _ASKED:
        if len(params.get(name, ())) > 1:
            raise BadInput(f"This link names “{name}” twice.", action="Start again from the page that led you here.")
    said = {name: params[name][0] for name in _ASKED if params.get(name) and params[name][0]}
    if said.setdefault("redirect_uri", client.redirect_uri) != client.redirect_uri:
        raise BadInput("This link would send you on to an address that does not belong to whoever asks, so it was not "
                       "followed.", action="Start again from your home page.")
    asked = Asked(client, urlencode({**said, "redirect_uri": _absolute(client.redirect_uri)}),
                  tuple(said.get("scope", "").split()), said.get("state", ""))
    try:
        AuthorizationEndpoint("code", None, {"code": _Grant(_Validator(client))}).validate_authorization_request(
            f"{_BOX}/authorize?{asked.query}")
    except FatalClientError as error:
        raise BadInput("This link asks for a sign-in in a way that is not understood.",
                       action="Start again from your home page.", evidence=str(error.description)) from error
    except OAuth2Error as error:
        raise ErrorForClient(_relative(error.in_uri(_absolute(client.redirect_uri)))) from error
    if said.get("code_challenge") and not _CHALLENGE.fullmatch(said["code_challenge"]):
        raise ErrorForClient(refusal(asked, "invalid_request", "The code_challenge is not one of S256."))
    return asked


def refusal(asked: Asked, error: str, description: str) -> str:
    """Return where a browser goes with an error of OAuth."""
    said = {"error": error, "error_description": description} | ({"state": asked.state} if asked.state else {})
    uri = asked.client.redirect_uri
    return f"{uri}{'&' if '?' in uri else '?'}{urlencode(said)}"


def give_code(t: Transaction, asked: Asked, session: Session, scopes: Sequence[str]) -> str:
    """Return where the browser goes, with a new code."""
    endpoint = AuthorizationEndpoint("code", None, {"code": _Grant(_Validator(asked.client, t, session))})
    headers, _, status = endpoint.create_authorization_response(f"{_BOX}/authorize?{asked.query}", scopes=list(scopes))
    assert status == 302
    return _relative(str(headers["Location"]))


def give_token(t: Transaction, client: OAuthClient | None, form: Sequence[tuple[str, str]], expires_in_s: int) -> Answer:
    """Answer a client's request at /token. client: the one that proved who it is, None where none did."""
    validator = _Validator(client, t, expires_in_s=expires_in_s)
    grant = _Grant(validator)
    bearer = BearerToken(validator, token_generator=validator.make_token, expires_in=expires_in_s)
    endpoint = TokenEndpoint("authorization_code", bearer, {"authorization_code": grant})
    body = urlencode([(name, _absolute(value) if name == "redirect_uri" else value)
                      for name, value in form if name in _EXCHANGED and value])
    try:
        headers, body, status = endpoint.create_token_response(f"{_BOX}/token", body=body)
    except OAuth2Error as error:
        headers, body, status = error.headers, error.json, error.status_code
    return Answer(status, body or "{}", {"Cache-Control": "no-store", "Pragma": "no-cache"} | dict(headers))


def _absolute(uri: str) -> str:
    return _BOX + uri if uri.startswith("/") else uri


def _relative(uri: str) -> str:
    return uri.removeprefix(_BOX)


class _Grant(AuthorizationCodeGrant):  # type: ignore[misc]  # oauthlib has no types
    """No challenge but S256, no refresh tokens."""

    _code_challenge_methods = {"S256": code_challenge_method_s256}  # noqa: RUF012 (oauthlib's)
    refresh_token = False

    def create_authorization_code(self, request: Request) -> dict[str, str]:
        return {"code": secrets.token_urlsafe(32)} | ({"state": request.state} if request.state else {})


class _Validator(RequestValidator):  # type: ignore[misc]  # oauthlib has no types
    """What oauthlib asks about one request. client: the only one that counts in it; t: None where nothing is stored."""

    def __init__(self, client: OAuthClient | None, t: Transaction | None = None, session: Session | None = None, *,
                 expires_in_s: int = 0) -> None:
        super().__init__()
        self._client, self._t, self._session, self._expires_in_s = client, t, session, expires_in_s
        self._code: store.OAuthCode | None = None

    # -- /authorize ----------------------------------------------------------------------------------------------------
    def validate_client_id(self, client_id: str, request: Request, *args: Any, **kwargs: Any) -> bool:
        request.client = self._client
        return self._client is not None and client_id == self._client.id

    def validate_redirect_uri(self, client_id: str, redirect_uri: str, request: Request, *args: Any, **kwargs: Any) -> bool:
        return self._client is not None and redirect_uri == _absolute(self._client.redirect_uri)

    def get_default_redirect_uri(self, client_id: str, request: Request, *args: Any, **kwargs: Any) -> str:
        return _absolute(self._client.redirect_uri) if self._client is not None else ""

    def validate_response_type(self, client_id: str, response_type: str, client: OAuthClient, request: Request,
                               *args: Any, **kwargs: Any) -> bool:
        return response_type == "code"

    def get_default_scopes(self, client_id: str, request: Request, *args: Any, **kwargs: Any) -> list[str]:
        return [self._client.access_scope] if self._client is not None else []

    def validate_scopes(self, client_id: str, scopes: Sequence[str], client: OAuthClient, request: Request,
                        *args: Any, **kwargs: Any) -> bool:
        return self._client is not None and set(scopes) <= {
            self._client.access_scope, *IDENTIFY, *self._client.allowed_scopes}

    def is_pkce_required(self, client_id: str, request: Request) -> bool:
        return False     # jupyterhub-singleuser 5 has none

    def save_authorization_code(self, client_id: str, code: Mapping[str, str], request: Request, *args: Any,
                                **kwargs: Any) -> None:
        assert self._t is not None
        assert self._session is not None
        assert self._client is not None
        store.add_code(
            self._t, code["code"], client_id=client_id, session=self._session, redirect_uri=self._client.redirect_uri,
            scopes=request.scopes, challenge=request.code_challenge or "",
            challenge_method=(request.code_challenge_method or "") if request.code_challenge else "")

    # -- /token --------------------------------------------------------------------------------------------------------
    def client_authentication_required(self, request: Request, *args: Any, **kwargs: Any) -> bool:
        return True

    def authenticate_client(self, request: Request, *args: Any, **kwargs: Any) -> bool:
        request.client = self._client
        return self._client is not None and request.client_id in (None, "", self._client.id)

    def validate_grant_type(self, client_id: str, grant_type: str, client: OAuthClient, request: Request, *args: Any,
                            **kwargs: Any) -> bool:
        return grant_type == "authorization_code"

    def validate_code(self, client_id: str, code: str, client: OAuthClient, request: Request, *args: Any,
                      **kwargs: Any) -> bool:
        assert self._t is not None
        self._code = found = store.find_code(self._t, code, client_id)
        # a verifier for a code without a challenge: somebody put another code in (RFC 9700, 4.8.2)
        if found is None or (request.code_verifier and not found.challenge):
            return False
        request.user, request.scopes = found.session.user, list(found.scopes)
        return True

    def get_code_challenge(self, code: str, request: Request) -> str | None:
        return self._code.challenge or None if self._code is not None else None

    def get_code_challenge_method(self, code: str, request: Request) -> str | None:
        return self._code.challenge_method or None if self._code is not None else None

    def confirm_redirect_uri(self, client_id: str, code: str, redirect_uri: str, client: OAuthClient, request: Request,
                             *args: Any, **kwargs: Any) -> bool:
        return self._code is not None and redirect_uri == _absolute(self._code.redirect_uri)

    def make_token(self, request: Request) -> str:
        assert self._t is not None
        assert self._code is not None
        assert self._client is not None
        return store.exchange(self._t, self._code, client_id=self._client.id, expires_in_s=self._expires_in_s,
                              note=self._client.shown)

    def save_token(self, token: Mapping[str, Any], request: Request, *args: Any, **kwargs: Any) -> None:
        """It was kept when it was made."""

    def invalidate_authorization_code(self, client_id: str, code: str, request: Request, *args: Any, **kwargs: Any) -> None:
        """It was used up when the token was made."""

