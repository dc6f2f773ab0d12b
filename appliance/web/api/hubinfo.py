"""The Hub itself: its version, what it is made of, the ways through its proxy, and its end."""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.background import BackgroundTask
from starlette.responses import Response

from appliance.errors import BadInput
from appliance.web.api.models import time
from appliance.web.api.operation import Call, Operation, Target, answer, done
from appliance.web.api.paging import LIMIT, OFFSET, Page, paged, paged_schema
from appliance.web.api.schema import ANY_OBJECT, FLAG, TEXT, obj
from appliance.web.security import JUPYTERHUB_VERSION


async def version(call: Call) -> Response:
    return answer({"version": JUPYTERHUB_VERSION})


async def info(call: Call) -> Response:
    return answer({**call.hub.control.info, "version": JUPYTERHUB_VERSION})


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
    routes = [_route(call.visit.urls.base, "hub", {"hub": True})]
    routes += [_route(call.visit.urls.server(server.user_name, server.name), server.url, {
        "user": server.user_name, "server_name": server.name, "last_activity": time(server.last_activity_at)})
        for server in await call.hub.control.routed()]
    services = call.hub.services
    routes += [_route(services.prefix(service), url, {"service": service.name}) for service in services.all()
               if services.prefix(service) and (url := services.state(service.name).url)]
    shown = sorted(routes, key=lambda route: route["routespec"])[page.offset:page.offset + page.limit]
    return paged(call, page, {route["routespec"]: route for route in shown}, len(routes))


async def sync_routes(call: Call) -> Response:
    await call.hub.control.sync()
    return done(200)


async def move_proxy(call: Call) -> Response:
    raise BadInput("The Hub of this box starts and keeps its own proxy; there is no other one to tell it of.",
                   action="To have all routes written anew, send POST.")


def _route(path: str, target: str, data: dict[str, Any]) -> dict[str, Any]:
    return {"routespec": path, "target": target, "data": data}


_CLASS = obj({"class": TEXT, "version": TEXT}, required=("class", "version"))
_ROUTES = {"type": "object", "additionalProperties": obj(
    {"routespec": TEXT, "target": TEXT, "data": ANY_OBJECT}, required=("routespec", "target", "data"))}
_VERSION = obj({"version": TEXT}, required=("version",))

OPERATIONS = (
    Operation("GET", "", version, "The version that clients go by", tag="hub", anyone=True, responses={200: _VERSION}),
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
