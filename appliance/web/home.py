"""The first pages: where one's own server and sessions stand."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime

from starlette.responses import JSONResponse, Response

from appliance.domain.server import Failure, Phase, Server
from appliance.errors import ApplianceError
from appliance.ports import Usage
from appliance.web import words
from appliance.web.servers import pending_url, progress_url, view_of
from appliance.web.views import Page, render
from appliance.web.visit import Visit, redirect

USAGE_TIMEOUT_S = 1.0


@dataclass(frozen=True)
class SessionLine:
    id: str
    browser: str
    address: str
    last_seen_at: datetime
    current: bool


@dataclass(frozen=True)
class HomePage(Page):
    state: str                      # "Running"
    phase: Phase
    message: str                    # a sentence about the state
    since: datetime
    ever_ran: bool
    server_url: str                 # where the owner lands
    pending_url: str
    progress_url: str               # of the events, "" unless something is under way
    usage: Usage | None
    failure: Failure | None
    sessions: list[SessionLine]
    changes_passwords: bool
    problems: list[ApplianceError]


async def root(visit: Visit) -> Response:
    return redirect(visit.urls.hub)


async def hub_root(visit: Visit) -> Response:
    return redirect(visit.hub_url("home" if visit.session else "login"))


async def home(visit: Visit) -> Response:
    session, hub = visit.signed_in(), visit.hub
    server = await view_of(hub, session.user)
    usage, phase = await usage_of(visit, server), words.shown_phase(server)
    sessions = [
        SessionLine(other.id, words.browser(other.user_agent), other.address, other.last_seen_at,
                    other.id == session.id)
        for other in await hub.sessions.list(session.user)
    ]
    return render(visit, "home.html", HomePage(
        state=words.STATES[phase], phase=phase,
        message=words.message(server, hub.servers.queue_position(server.id)), since=server.phase_at,
        ever_ran=bool(server.id), server_url=hub.servers.landing(server), pending_url=pending_url(visit, server),
        progress_url=progress_url(visit, server) if phase.pending else "",
        usage=usage, failure=server.failure if server.phase is Phase.FAILED else None,
        sessions=sorted(sessions, key=lambda line: (not line.current, -line.last_seen_at.timestamp())),
        changes_passwords=hub.accounts.manages_passwords, problems=hub.problems(),
    ))


async def usage_of(visit: Visit, server: Server) -> Usage | None:
    """Return what a running server uses, None if that is not known at once: a page does not wait for it."""
    if not server.ready:
        return None
    try:
        async with asyncio.timeout(USAGE_TIMEOUT_S):
            return await visit.hub.servers.usage(server.id)
    except (TimeoutError, ApplianceError):
        return None


async def revoke_session(visit: Visit) -> Response:
    await visit.hub.sessions.revoke(visit.signed_in().user, (await visit.field("session"))[:64])
    return redirect(visit.hub_url("home"), 303)


async def sign_out_everywhere(visit: Visit) -> Response:
    await visit.hub.sessions.sign_out_everywhere(visit.signed_in().user)
    return redirect(visit.hub_url("login", signed_out="1"), 303)


async def health(visit: Visit) -> Response:
    problems = [error.code for error in (*visit.hub.problems(), *visit.hub.concerns())]
    return JSONResponse({"status": "ok", "version": visit.hub.version, "ready": visit.hub.ready, "problems": problems})
