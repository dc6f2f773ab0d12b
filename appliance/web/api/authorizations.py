"""Whose token, whose cookie: what clients asked before there was /hub/api/user."""

from __future__ import annotations

from starlette.responses import Response

from appliance.domain.scopes import Owner, identify
from appliance.errors import NotFound
from appliance.web import cookies
from appliance.web.api import services
from appliance.web.api.models import Shapes
from appliance.web.api.operation import Call, Operation, Target, answer
from appliance.web.api.schema import ref


async def of_token(call: Call) -> Response:
    """Whoever has a token may know whose it is."""
    found = await call.hub.permissions.by_token(call.visit.param("token"))
    if found is None:
        raise NotFound("There is no such token.")
    if found.user is None:
        service = call.hub.services.get(found.name)
        if service is None:
            raise NotFound("There is no such token.")
        seen = call.requester.rights.with_more(identify(Owner(service=found.name)))
        return answer(services.shape(call.hub, seen, service))
    person = await call.hub.directory.person(found.user.name)
    if person is None:
        raise NotFound("There is no such token.")
    rights = call.requester.rights.with_more(identify(Owner(user=found.user.name)))
    return answer(Shapes(call.visit, rights).user(person))


async def of_cookie(call: Call) -> Response:
    name, value = call.visit.param("cookie"), call.visit.param("value")
    session = await call.hub.sessions.find([value]) if name in cookies.session_names({name: [value]}) else None
    person = await call.hub.directory.person(session.user.name) if session else None
    model = Shapes(call.visit, call.requester.rights).user(person) if person else {}
    if not model:
        raise NotFound("There is no such cookie, or it is not yours to see whose it is.")
    return answer(model)


async def mint(call: Call) -> Response:
    raise NotFound("Tokens are made at /hub/api/users/NAME/tokens.")


_TAG = "authorizations"
OPERATIONS = (
    Operation("POST", "authorizations/token", mint, "Gone", tag=_TAG, anyone=True, deprecated=True),
    Operation("GET", "authorizations/token/{token}", of_token, "Whose token it is", tag=_TAG, target=Target.SOME,
              deprecated=True, responses={200: {"anyOf": [ref("User"), ref("Service")]}}),
    Operation("GET", "authorizations/cookie/{cookie}/{value}", of_cookie, "Whose cookie it is", tag=_TAG, target=Target.SOME,
              deprecated=True, responses={200: ref("User")}),
)
