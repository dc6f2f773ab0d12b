"""The one way a handler is reached: it finds who came and refuses what a handler should not have to think of."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from appliance.errors import (
    ApplianceError,
    MissingScope,
    MustChangePassword,
    NotAdmin,
    NotFound,
    NotSignedIn,
)
from appliance.web import cookies, security
from appliance.web.errors import of_http, show_error
from appliance.web.visit import Visit, redirect, sign_in_by_cookie, sign_in_by_token

if TYPE_CHECKING:
    from appliance.hub.hub import Hub

log = logging.getLogger(__name__)

Handler = Callable[[Visit], Awaitable[Response]]


class Access(Enum):
    UNKNOWN = auto()         # nobody looks who it is
    ANYONE = auto()
    SIGNED_IN = auto()
    FIRST_STEPS = auto()     # signed in, also before a password of one's own is chosen
    ADMIN = auto()
    PROXY = auto()           # our own Traefik only


@dataclass(frozen=True)
class Entry:
    """One line of the table in `web/app.py`. path: below the base URL, no leading slash."""

    path: str
    handler: Handler
    access: Access = Access.SIGNED_IN
    methods: tuple[str, ...] = ("GET",)
    checks_itself: bool = False     # the handler checks origin and XSRF, or changes nothing
    page: bool = False              # for people, although it stands under hub/api
    scopes: tuple[str, ...] = ()    # one of these is needed, with whatever filter: whom it reaches, the handler looks at

    @property
    def api(self) -> bool:
        return not self.page and (self.path == "hub/api" or self.path.startswith("hub/api/"))


def route(entry: Entry, hub: Hub, *, public: bool = True, base: str = "") -> Route:
    """Return the Starlette route of an entry.

    public: False for the listener that containers reach: tokens only. base: another than the Hub's base URL.
    """

    async def endpoint(request: Request) -> Response:
        began_at = time.perf_counter()
        response = await answer(request)
        hub.metrics.request(request.method, entry.path, response.status_code, time.perf_counter() - began_at)
        return response

    async def answer(request: Request) -> Response:
        visit = Visit.of(request, hub, trust_proxy=public, api=entry.api)
        try:
            response = await _explained(visit, _answer(visit, entry, public))
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception:  # the root of a request
            error_id = secrets.token_hex(4)
            log.exception("error %s: %s %s", error_id, request.method, entry.path)
            response = show_error(visit, ApplianceError(), error_id=error_id)
        return visit.finish(response)

    return _Route(f"{base or hub.urls.base}{entry.path}", endpoint, methods=list(entry.methods), name=entry.handler.__name__)


class _Route(Route):
    """Most of a long table is ruled out by how an address begins, which is cheaper than its pattern."""

    def __init__(self, path: str, *rest: Any, **options: Any) -> None:
        super().__init__(path, *rest, **options)
        self._begins = path.partition("{")[0]

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches(scope) if scope["path"].startswith(self._begins) else (Match.NONE, {})


async def _explained(visit: Visit, answer: Awaitable[Response]) -> Response:
    """Turn what was refused on purpose into its page."""
    try:
        return await answer
    except ApplianceError as error:
        return _turned_away(visit, error) or show_error(visit, error)
    except HTTPException as error:
        return show_error(visit, of_http(error.status_code), status=error.status_code)


async def _answer(visit: Visit, entry: Entry, public: bool) -> Response:
    if entry.access is Access.UNKNOWN:
        return await entry.handler(visit)
    by_token = entry.api and await sign_in_by_token(visit)
    if public and not by_token:
        tokens = [token for name in cookies.session_names(visit.cookies) for token in visit.cookies[name]]
        await sign_in_by_cookie(visit, await visit.hub.sessions.find(tokens[:50]))
    changes = visit.request.method not in security.SAFE_METHODS and not entry.checks_itself
    if changes and not by_token:
        security.check_origin(visit.request.headers, visit.own_origins)
    _check_access(visit, entry)
    if changes and not by_token:
        await visit.check_xsrf()
    return await entry.handler(visit)


def _check_access(visit: Visit, entry: Entry) -> None:
    access = entry.access
    if access is Access.ANYONE:
        return
    if access is Access.PROXY:
        if not visit.trusted:
            raise NotFound()
        return
    if visit.requester is None:
        raise NotSignedIn()
    user = visit.user
    if user is not None and user.must_change_password and visit.session and access is not Access.FIRST_STEPS:
        raise MustChangePassword()
    if access is Access.ADMIN and not visit.requester.rights.has("admin-ui"):
        raise NotAdmin()
    if entry.scopes and not any(visit.requester.rights.reach(scope) for scope in entry.scopes):
        raise MissingScope.of(*entry.scopes)


def _turned_away(visit: Visit, error: ApplianceError) -> Response | None:
    """A person who opens a page without the right to it yet is led to where to get it."""
    if visit.api or visit.request.method not in ("GET", "HEAD") or not visit.wants_html:
        return None
    if isinstance(error, NotSignedIn):
        return redirect(visit.hub_url("login", next=visit.here))
    if isinstance(error, MustChangePassword):
        return redirect(visit.hub_url("change-password", next=visit.here))
    return None
