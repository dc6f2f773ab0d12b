"""Everything under /user/ that the proxy did not route, and its error page. Nothing here ever answers 200.

The Hub's session cookie does not come here: it lives on /hub/. What may come is a capability: of this start, when the
route is not live yet or the browser spells its cookies in an unusual way; of an earlier start; or of a stopped server.
"""

from __future__ import annotations

import asyncio
import hashlib
from urllib.parse import urlsplit

from starlette.responses import Response

from appliance.domain.capability import cookie_name, server_id_of_cookie
from appliance.domain.server import Phase, Server, Wanted
from appliance.domain.user import Session
from appliance.errors import ApplianceError, BadInput, ForeignOrigin, NotFound, NotSignedIn, NotYours, Unavailable
from appliance.web import words
from appliance.web.errors import RETRY_AFTER_S, error_json, show_error, status_of
from appliance.web.servers import prefix_of, read_user_path, server_at
from appliance.web.visit import Visit, redirect, sign_in_by_token

_RETRY = "appliance-retry"
_RETRY_MAX_AGE_S = 5
CAUSE_TIMEOUT_S = 0.7


async def catch_all(visit: Visit) -> Response:
    """Answer an address under /user/ that leads to no running server, or not for this browser."""
    try:
        response = await _answer(visit)
    except ApplianceError as error:
        response = _refuse(visit, error)
    assert response.status_code >= 300   # a page of ours here would look like the server's own
    return response


async def _answer(visit: Visit) -> Response:
    if visit.request.headers.get("origin", visit.origin) not in visit.own_origins:
        raise ForeignOrigin()
    here = visit.here
    path, _, query = here.partition("?")
    where = read_user_path(visit.hub, path)
    canonical = where.canonical + (f"?{query}" if query else "")
    if canonical != here:
        return redirect(canonical, 301 if visit.request.method in ("GET", "HEAD") else 308)
    known = await find_capability(visit, path)
    if known is None:
        if visit.request.headers.get("authorization", "").lower().startswith(("token ", "bearer ")):
            return await _to_script(visit, path)
        if not visit.navigates:
            raise NotSignedIn()
        return _to_enter(visit, here)
    session, entered = known
    server = await server_at(visit.hub, path)
    if server.id != entered.id:     # the default server's cookie comes along to the paths of named ones
        if server.ready and not visit.navigates:
            raise NotSignedIn("This browser has not entered that server yet; open it first.")
        return _to_enter(visit, here) if visit.navigates else not_running(server)
    if server.ready:
        return await _renew(visit, session, server, here)
    if visit.navigates:
        return _to_enter(visit, here)
    return not_running(server)


async def _to_script(visit: Visit, path: str) -> Response:
    """Answer a script with an API token, which comes here only while the server does not run."""
    if not await sign_in_by_token(visit):
        raise NotSignedIn()
    server = await server_at(visit.hub, path)
    if visit.requester is None or not await visit.hub.permissions.may_enter(visit.requester, server):
        raise NotYours()
    return not_running(server)


async def find_capability(visit: Visit, path: str) -> tuple[Session, Server] | None:
    """Return whose browser this is and the server that it may enter at `path`, by any valid cookie that came."""
    found: list[tuple[Session, Server]] = []
    for name in visit.cookies:
        known = await _holder(visit, server_id_of_cookie(name))
        if known and path.startswith(prefix_of(visit, known[1])):
            found.append(known)
    # a named server lies below the default one
    return max(found, key=lambda pair: len(pair[1].name), default=None)


async def _holder(visit: Visit, server_id: str | None) -> tuple[Session, Server] | None:
    """Return the session and the server of the first valid capability among the cookies for `server_id`."""
    if server_id is None:
        return None
    for value in visit.cookies.get(cookie_name(server_id), [])[:10]:
        checked = await visit.hub.servers.check_capability(server_id, value)
        if checked:
            return checked[:2]
    return None


async def _renew(visit: Visit, session: Session, server: Server, here: str) -> Response:
    """Hand out the capability of the current start, once an address: what still comes here then gets a page."""
    mark = hashlib.sha256(here.encode()).hexdigest()[:16]
    prefix = prefix_of(visit, server)
    if mark in visit.cookies.get(_RETRY, []):
        visit.set_cookie(_RETRY, "", path=prefix, max_age_s=0)
        raise Unavailable("Your server runs, but the way to it is not open right now. Please try again in a moment.")
    visit.set_capability(server, await visit.hub.servers.enter(session, server))
    visit.set_cookie(_RETRY, mark, path=prefix, max_age_s=_RETRY_MAX_AGE_S)
    return redirect(here, 307)


def _to_enter(visit: Visit, here: str) -> Response:
    try:
        target = visit.urls.safe_next(here) or ""
    except ApplianceError:   # too long, or of a kind that is never followed: the server's own first page then
        target = ""
    return redirect(visit.hub_url("enter", next=target))


def not_running(server: Server) -> Response:
    """What a script in an open tab gets; 424 as JupyterHub has it."""
    if server.phase.pending and server.wanted is Wanted.RUNNING:
        response = error_json(503, words.message(server))
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
        return response
    return error_json(424, words.message(server))


def _refuse(visit: Visit, error: ApplianceError) -> Response:
    if not visit.navigates:
        response = error_json(status_of(error), error.sentence)
        if response.status_code == 503:
            response.headers["Retry-After"] = str(RETRY_AFTER_S)
        return response
    if isinstance(error, Unavailable):
        return show_error(visit, error, button="Try again", button_url=visit.here)
    return show_error(visit, error, button="My server", button_url=visit.hub_url("home"))


# -- what the proxy shows when a server's address is dead --------------------------------------------------------------
async def proxy_error(visit: Visit) -> Response:
    """/hub/error/502?server=…&url=…: tell why. Waits a moment, because the Hub learns of a death at about the same time.

    Only a browser with a capability of that server learns anything about it.
    """
    if visit.param("status") not in ("500", "502", "503", "504"):
        raise NotFound()
    status = int(visit.param("status"))
    known = await _holder(visit, visit.request.query_params.get("server"))
    if known is None:
        return _show_dead(visit, status, Unavailable("This server does not answer right now."), "")
    server = await _wait_for_cause(visit, known[1])
    target = _asked_for(visit, server)
    if server.failure and server.phase is Phase.FAILED:
        cause = ApplianceError(server.failure.sentence, action=server.failure.action)
        return _show_dead(visit, status, cause, target, "Start it again")
    if server.ready:
        cause = ApplianceError("Your server does not answer right now. It may be very busy; please try again.")
        return _show_dead(visit, status, cause, target)
    return _show_dead(visit, status, ApplianceError(words.message(server)), target, "Start it")


def _asked_for(visit: Visit, server: Server) -> str:
    """Return the path and query that failed; the server's own first page where it cannot be told."""
    prefix = prefix_of(visit, server)
    try:
        parts = urlsplit(visit.request.query_params.get("url", ""))
        # the proxy tells the path as the server got it: of some images without the prefix
        path = parts.path if parts.path.startswith(prefix) else prefix + parts.path.removeprefix("/")
        return visit.urls.safe_next(f"{path}?{parts.query}" if parts.query else path) or prefix
    except (ValueError, BadInput):
        return prefix


async def _wait_for_cause(visit: Visit, server: Server) -> Server:
    try:
        async with asyncio.timeout(CAUSE_TIMEOUT_S):
            async for newer in visit.hub.events.follow(server.id):
                server = newer
                if not server.ready:
                    break
    except TimeoutError:
        pass
    return server


def _show_dead(visit: Visit, status: int, cause: ApplianceError, target: str, button: str = "Try again") -> Response:
    if not visit.navigates:
        return error_json(status, cause.sentence)
    # no form: this page stands under /user/, where the session's cookies do not come
    url = (target or visit.hub_url("home")) if button == "Try again" else visit.hub_url("spawn", next=target)
    return show_error(visit, cause, status=status, button=button, button_url=url)


