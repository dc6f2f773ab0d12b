"""Users' servers: starting, stopping, making, changing and removing them, and watching one start."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from appliance.domain.server import Phase, Server
from appliance.errors import BadInput, Exists, NotFound
from appliance.web.api.models import Shapes, pending
from appliance.web.api.operation import Call, Operation, Target, answer, done
from appliance.web.api.schema import ANY_OBJECT, FLAG, TEXT, nullable, obj, ref
from appliance.web.events import ProgressStream


async def get_server(call: Call) -> Response:
    return answer(_shape(call, _there(call)))


async def create_server(call: Call) -> Response:
    """Make a named server without starting it."""
    if not call.server_name:
        raise Exists(f"{call.owner.user.name} has a default server already.")
    options, display_name = _asked(call.body)
    server = await call.hub.servers.create(
        call.owner.user, call.server_name, options=options or {}, display_name=display_name or "", actor=call.requester.name)
    return answer(_shape(call, server), 201)


async def start_server(call: Call) -> Response:
    """Start a server, which is made if it is not there yet. 201: it is ready; 202: it is on its way."""
    user, server = call.owner.user, call.server
    options, display_name = _asked(call.body)
    if server is not None:
        state = pending(server)
        if state == "spawn":
            return done(202)
        if state:
            raise BadInput(f"{user.name}'s server is being stopped; start it when it has stopped.")
        if server.ready:
            raise BadInput(f"{user.name}'s server is already running.")
    started = await call.hub.servers.start(
        user, call.server_name, options=options, display_name=display_name, actor=call.requester.name)
    return done(201 if started.ready else 202)


async def change_server(call: Call) -> Response:
    """Change a server that does not run."""
    if not call.body:
        raise BadInput("Name at least one of “name”, “display_name” and “user_options”.")
    server, body = _there(call), call.body
    changed = await call.hub.servers.update(
        call.owner.user, server.name, new_name=body.get("name"), display_name=body.get("display_name"),
        options=body.get("user_options"), actor=call.requester.name)
    return answer(_shape(call, changed))


async def stop_server(call: Call) -> Response:
    """Stop a server, and remove it with {"remove": true}. 204: it has stopped; 202: it is being stopped."""
    user, server, actor = call.owner.user, call.server, call.requester.name
    remove = bool((call.body or {}).get("remove"))
    if remove and not call.server_name:
        raise BadInput("The default server cannot be removed, only stopped.")
    if server is None:
        if call.server_name:
            raise NotFound("There is no such server.")
        return done()
    if remove:
        left = await call.hub.servers.delete(user, server.name, actor=actor)
        return done(204 if left is None else 202)
    if server.phase in Phase.down():
        return done()
    now = await call.hub.servers.stop(user, server.name, actor=actor)
    return done(204 if now is None or now.phase in Phase.down() else 202)


async def progress(call: Call) -> Response:
    server = call.server if call.server_name else await call.hub.servers.view(call.owner.user.name)
    if server is None:
        raise NotFound("There is no such server.")
    stream = ProgressStream(call.hub, server)
    head = call.visit.request.method == "HEAD"
    return Response(headers={"Content-Type": stream.headers["content-type"]}) if head else stream


def _there(call: Call) -> Server:
    if call.server is None:
        raise NotFound("There is no such server.")
    return call.server


def _shape(call: Call, server: Server) -> dict[str, Any]:
    return Shapes(call.visit, call.requester.rights).server(server, call.owner.groups)


def _asked(body: dict[str, Any] | None) -> tuple[dict[str, Any] | None, str | None]:
    """Return options and display name. The body of older clients is the options themselves; None: as last time."""
    if not body:
        return None, None
    if "user_options" in body or "display_name" in body:
        return body.get("user_options"), body.get("display_name")
    return body, None


_REQUEST = obj({"user_options": nullable(ANY_OBJECT), "display_name": nullable(TEXT)}, more=True, description=(
    "What is chosen for the server. Without “user_options” and “display_name”, the whole object is the options."))
_EVENT = obj({"data": TEXT}, required=("data",), more=True, description=(
    "One event. “data” is JSON with “progress” (0 to 100) and “message”; in the last one is “ready” with “url”, or “failed”."))
_CHANGE = obj({"name": TEXT, "display_name": TEXT, "user_options": ANY_OBJECT})
_REMOVE = obj({"remove": FLAG}, more=True)
_START = ("start:servers",)


def _operations(path: str, which: str) -> tuple[Operation, ...]:
    tag, target = "servers", Target.SERVER
    return (
        Operation("GET", path, get_server, f"Read about {which}", ("read:servers",), tag, target,
                  responses={200: ref("Server")}),
        Operation("PUT", path, create_server, f"Make {which} without starting it", _START, tag, target, body=_REQUEST,
                  makes=True, responses={201: ref("Server"), 409: ref("Error")}),
        Operation("POST", path, start_server, f"Start {which}", _START, tag, target, body=_REQUEST, makes=True,
                  responses={201: None, 202: None, 507: ref("Error")}),
        Operation("PATCH", path, change_server, f"Rename {which} or change its options, while it is stopped", _START, tag,
                  target, body=_CHANGE, responses={200: ref("Server"), 409: ref("Error")}),
        Operation("DELETE", path, stop_server, f"Stop {which}", ("delete:servers",), tag, target, body=_REMOVE,
                  responses={202: None, 204: None}),
        Operation("GET", f"{path}/progress", progress, f"Watch {which} start", ("read:servers",), tag, target,
                  responses={200: _EVENT}, media_type="text/event-stream"),
    )


OPERATIONS = _operations("users/{name}/server", "a user's default server") + _operations(
    "users/{name}/servers/{server}", "a user's named server")
