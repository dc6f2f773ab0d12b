"""Every address the Hub answers, in one table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from appliance.errors import NotFound
from appliance.web import admin, csp, home, login, metrics, oauth, services, shares, spawn, static, token, user
from appliance.web import help as trust_help
from appliance.web.api import internal
from appliance.web.api.table import ENTRIES, documentation
from appliance.web.errors import show_error
from appliance.web.routing import Access, Entry, route
from appliance.web.security import SecurityHeaders
from appliance.web.visit import Visit
from appliance.web.websockets import RefuseWebSockets

if TYPE_CHECKING:
    from appliance.hub.hub import Hub

_ANYONE, _UNKNOWN, _FIRST = Access.ANYONE, Access.UNKNOWN, Access.FIRST_STEPS
_ADMIN, _PROXY = Access.ADMIN, Access.PROXY
_POST = ("POST",)
_ALL = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


async def nothing_here(visit: Visit) -> Response:
    raise NotFound()


PAGES = (
    Entry("", home.root, _UNKNOWN),
    Entry("hub", home.root, _UNKNOWN),
    Entry("hub/", home.hub_root, _ANYONE),
    Entry("hub/login", login.show_login, _ANYONE),
    # checks origin and XSRF itself, to show its form again
    Entry("hub/login", login.sign_in, _ANYONE, _POST, checks_itself=True),
    Entry("hub/logout", login.show_logout, _ANYONE),
    Entry("hub/logout", login.sign_out, _FIRST, _POST),
    Entry("hub/change-password", login.show_change_password, _FIRST),
    Entry("hub/change-password", login.change_password, _FIRST, _POST),
    Entry("hub/home", home.home),
    Entry("hub/new-server", home.new_server, methods=_POST),
    Entry("hub/delete-server/{user}/{server}", home.show_delete),
    Entry("hub/delete-server/{user}/{server}", home.delete_server, methods=_POST),
    Entry("hub/sessions/revoke", home.revoke_session, methods=_POST),
    Entry("hub/sessions/revoke-all", home.sign_out_everywhere, _FIRST, _POST),
    Entry("hub/spawn", spawn.spawn),
    Entry("hub/spawn", spawn.spawn, methods=_POST),
    Entry("hub/spawn/{user}", spawn.spawn),
    Entry("hub/spawn/{user}", spawn.spawn, methods=_POST),
    Entry("hub/spawn/{user}/{server}", spawn.spawn),
    Entry("hub/spawn/{user}/{server}", spawn.spawn, methods=_POST),
    Entry("hub/stop/{user}", spawn.stop, methods=_POST),
    Entry("hub/stop/{user}/{server}", spawn.stop, methods=_POST),
    Entry("hub/spawn-pending/{user}", spawn.pending),
    Entry("hub/spawn-pending/{user}/{server}", spawn.pending),
    Entry("hub/enter", spawn.enter, _ANYONE),
    Entry("hub/user-redirect", spawn.user_redirect),
    Entry("hub/user-redirect/{path:path}", spawn.user_redirect),
    Entry("hub/admin", admin.admin, _ADMIN),
    Entry("hub/admin/start", admin.start, _ADMIN, _POST),
    Entry("hub/admin/stop", admin.stop, _ADMIN, _POST),
    Entry("hub/accept-share", shares.show_code),
    Entry("hub/accept-share", shares.accept_code, methods=_POST),
    Entry("hub/services", services.show_services),
    Entry("hub/error/service/{name}/{status}", services.proxy_error, _UNKNOWN, _ALL, checks_itself=True),
    Entry("hub/error/{status}", user.proxy_error, _UNKNOWN, _ALL, checks_itself=True),
    Entry("hub/metrics", metrics.metrics, _ANYONE),
    Entry("hub/token", token.show_tokens),
    Entry("hub/token", token.make_token, methods=_POST),
    Entry("hub/token/revoke", token.end_token, methods=_POST),
    Entry("hub/api/oauth2/authorize", oauth.authorize, page=True),
    Entry("hub/api/oauth2/authorize", oauth.confirm, methods=_POST, page=True),
    Entry("hub/security/csp-report", csp.report, _UNKNOWN, _POST, checks_itself=True),
    Entry("hub/api/docs", documentation.show, _ANYONE, page=True),
    Entry("hub/help", trust_help.show_help, _UNKNOWN),
    Entry("hub/help/ca.crt", trust_help.certificate, _UNKNOWN),
    Entry("hub/health", home.health, _UNKNOWN),
    Entry("hub/logo", static.logo, _UNKNOWN),
    Entry("hub/static/{digest}/{name}", static.serve, _UNKNOWN),
    Entry("robots.txt", static.robots, _UNKNOWN),
)
API = (
    *ENTRIES,
    Entry("hub/api/oauth2/token", oauth.token, _UNKNOWN, _POST, checks_itself=True),
)
INTERNAL = (
    Entry("hub/api/internal/authorize/{server_id}", internal.authorize, _PROXY, _ALL, checks_itself=True),
)
LAST = (
    Entry("hub/api/{path:path}", nothing_here, _ANYONE, _ALL, checks_itself=True),
    Entry("user/{path:path}", user.catch_all, _UNKNOWN, _ALL, checks_itself=True),
    Entry("services/{path:path}", services.catch_all, _UNKNOWN, _ALL, checks_itself=True),
    Entry("{path:path}", nothing_here, _ANYONE, _ALL, checks_itself=True),
)


def create_app(hub: Hub) -> ASGIApp:
    """Return the Hub's whole web side, for the listener behind the proxy."""
    routes = [route(entry, hub) for entry in PAGES + API + INTERNAL + LAST]
    if hub.urls.base != "/":
        routes += [route(entry, hub, base="/") for entry in (Entry("", home.root, _UNKNOWN), LAST[-1])]
    return _app(hub, routes)


def create_api_app(hub: Hub) -> ASGIApp:
    """Return what containers may reach: the REST API alone, by token; no cookie and no forwarded header counts."""
    return _app(hub, [route(entry, hub, public=False) for entry in (*API, LAST[0])])


def _app(hub: Hub, routes: list[Route]) -> ASGIApp:
    async def no_route(request: Request, error: Exception) -> Response:
        return show_error(Visit.of(request, hub), NotFound())

    app = Starlette(routes=routes, middleware=[Middleware(SecurityHeaders)],
                    exception_handlers={404: no_route})
    app.router.redirect_slashes = False     # would build an absolute address out of the Host header
    return RefuseWebSockets(app)
