"""The Hub itself: its version, what it is made of, the ways through its proxy, and its end."""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.background import BackgroundTask
from starlette.responses import Response

from appliance.domain.server import Server
from appliance.errors import BadInput
from appliance.web.api.models import time
from appliance.web.api.operation import Call, Operation, Target, answer, done
from appliance.web.api.paging import LIMIT, OFFSET, Page, paged, paged_schema
from appliance.web.api.schema import ANY_OBJECT, FLAG, TEXT, obj


async def version(call: Call) -> Response:
    return answer({"version": call.hub.version})


async def info(call: Call) -> Response:
    return answer(call.hub.control.info)


async def shut_down(call: Call) -> Response:
    """Answer, then end. Without a word about them, servers and proxy go on: the next Hub adopts them."""
    body = call.body or {}
    response = answer({"message": "The Hub is shutting down."}, 202)
    response.background = BackgroundTask(partial(
        call.hub.control.shut_down, servers=bool(body.get("servers")), proxy=bool(body.get("proxy")),
        actor=call.requester.name))
    return response


async def list_routes(call: Call) -> Response:
    page = Page.of(call)
    routes = {"/": {"routespec": call.visit.urls.base, "target": "hub", "data": {"hub": True}}}
    routes |= {route["routespec"]: route for server in await call.hub.control.routed()
               if (route := _route(call, server))}
    shown = sorted(routes)[page.offset:page.offset + page.limit]
    return paged(call, page, {path: routes[path] for path in shown}, len(routes))


async def sync_routes(call: Call) -> Response:
    await call.hub.control.sync()
    return done(200)


async def move_proxy(call: Call) -> Response:
    raise BadInput("The Hub of this box starts and keeps its own proxy; there is no other one to tell it of.",
                   action="To have all routes written anew, send POST.")


def _route(call: Call, server: Server) -> dict[str, Any]:
    return {"routespec": call.visit.urls.server(server.user_name, server.name), "target": server.url, "data": {
        "user": server.user_name, "server_name": server.name, "last_activity": time(server.last_activity_at)}}


_CLASS = obj({"class": TEXT, "version": TEXT}, required=("class", "version"))
_ROUTES = {"type": "object", "additionalProperties": obj(
    {"routespec": TEXT, "target": TEXT, "data": ANY_OBJECT}, required=("routespec", "target", "data"))}
_VERSION = obj({"version": TEXT}, required=("version",))

OPERATIONS = (
    Operation("GET", "", version, "The version of the Hub", tag="hub", anyone=True, responses={200: _VERSION}),
    Operation("GET", "/", version, "The same", tag="hub", anyone=True, responses={200: _VERSION}),
    Operation("GET", "info", info, "What the Hub is made of", ("read:hub",), "hub", responses={200: obj(
        {"version": TEXT, "python": TEXT, "sys_executable": TEXT, "spawner": _CLASS, "authenticator": _CLASS},
        required=("version", "python", "spawner", "authenticator"))}),
    Operation("POST", "shutdown", shut_down, "End the Hub, with its servers and its proxy if that is asked for",
              ("shutdown",), "hub", body=obj({"servers": FLAG, "proxy": FLAG}, more=True),
              responses={202: obj({"message": TEXT}, required=("message",))}),
    Operation("GET", "proxy", list_routes, "List the routes", ("proxy",), "proxy", query=(OFFSET, LIMIT),
              responses={200: paged_schema(_ROUTES)}),
    Operation("POST", "proxy", sync_routes, "Have all routes written anew", ("proxy",), "proxy", responses={200: None}),
    Operation("PATCH", "proxy", move_proxy, "Refused: the Hub keeps its own proxy", ("proxy",), "proxy", Target.ALL,
              responses={}),
)
