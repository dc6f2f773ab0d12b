"""Services: which there are, how they are, and those that are made while the Hub runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from appliance.domain.scopes import Rights
from appliance.domain.service import ServiceDefinition
from appliance.errors import NotFound, Refused
from appliance.web.api.models import Seen
from appliance.web.api.operation import Call, Operation, Target, answer, done
from appliance.web.api.schema import ANY_OBJECT, FLAG, TEXT, array, nullable, obj, ref

if TYPE_CHECKING:
    from appliance.hub.hub import Hub

_BASE = frozenset({"kind", "name", "admin"})
KEYS = {
    "read:services": _BASE | {"url", "prefix", "command", "pid", "info", "display", "state", "message", "restarts"},
    "read:services:name": _BASE,
    "read:roles:services": _BASE | {"roles"},
    "admin:services": frozenset({"last_lines"}),
}


def shape(hub: Hub, rights: Rights, service: ServiceDefinition) -> dict[str, Any]:
    """Return what somebody with these rights sees of a service, {} where that is nothing."""
    seen = Seen(rights, KEYS).of(lambda reach: reach.service(service.name))
    state = hub.services.state(service.name)
    model = {
        "kind": "service", "name": service.name, "admin": service.admin,
        "roles": hub.permissions.roles_of_service(service.name), "url": service.url or state.url,
        "prefix": hub.services.prefix(service), "command": service.command, "pid": state.pid, "info": dict(service.info),
        "display": service.display, "state": state.phase, "message": state.said, "restarts": state.restarts,
        "last_lines": state.lines,
    }
    return {key: value for key, value in model.items() if key in seen}


async def list_services(call: Call) -> Response:
    reach = call.reach("list:services")
    if not (reach.everything or reach.services):
        raise Refused("This token's list:services is for something else, and lists no service.")
    return answer({service.name: shape(call.hub, call.requester.rights, service)
                   for service in call.hub.services.all() if reach.service(service.name)})


async def get_service(call: Call) -> Response:
    service = call.hub.services.get(call.visit.param("service"))
    if service is None:
        raise NotFound("There is no such service.")
    return answer(shape(call.hub, call.requester.rights, service))


async def add_service(call: Call) -> Response:
    added = await call.hub.services.add(call.visit.param("service"), call.body, call.requester)
    return answer(shape(call.hub, call.requester.rights, added), 201)


async def delete_service(call: Call) -> Response:
    await call.hub.services.remove(call.visit.param("service"), call.requester)
    return done(200)


_NEW = obj({
    "name": {**TEXT, "description": "As in the address."},
    "admin": FLAG, "url": nullable(TEXT), "api_token": nullable(TEXT), "oauth_client_id": nullable(TEXT),
    "oauth_redirect_uri": nullable(TEXT), "oauth_client_allowed_scopes": array(TEXT, maxItems=100),
    "oauth_no_confirm": FLAG, "info": ANY_OBJECT, "display": FLAG,
    "timeout": {"type": "integer", "minimum": 1, "maximum": 3600},
}, more={"description": "What only a service of the configuration can have is refused."})
_SERVICE, _ONE = ref("Service"), "services/{service}"

OPERATIONS = (
    Operation("GET", "services", list_services, "List services, by name", ("list:services",), "services", Target.SOME,
              responses={200: {"type": "object", "additionalProperties": _SERVICE}}),
    Operation("GET", _ONE, get_service, "Read about a service", ("read:services", "read:services:name", "read:roles:services"),
              "services", Target.SERVICE, responses={200: _SERVICE}),
    Operation("POST", _ONE, add_service, "Make a service that runs elsewhere", ("admin:services",), "services", Target.SERVICE,
              body=_NEW, body_needed=True, responses={201: _SERVICE, 409: ref("Error")}),
    Operation("DELETE", _ONE, delete_service, "Take away a service that was made here; one of the configuration stays",
              ("admin:services",), "services", Target.SERVICE, responses={200: None, 405: ref("Error")}),
)
