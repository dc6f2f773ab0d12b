"""The first pages: where one's own server and sessions stand."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime

from starlette.responses import JSONResponse, Response

from appliance.domain.limits import format_bytes
from appliance.domain.names import MAX_LENGTH, quote_name, validate_display_name, validate_new_servername
from appliance.domain.server import Failure, Phase, Server
from appliance.errors import ApplianceError, BadInput, BadName
from appliance.ports import Usage
from appliance.web import words
from appliance.web.errors import status_of
from appliance.web.servers import own_server, pending_url, progress_url
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
class NamedLine:
    name: str                       # in addresses
    title: str
    state: str
    phase: Phase
    about: str                      # what it is, what it uses, or why it failed
    url: str                        # "alice/lab2", below the Hub's actions
    progress_url: str


@dataclass(frozen=True)
class NamedServersPart:
    lines: list[NamedLine]
    may_make: bool
    most: int                       # 0: any number
    said: str = ""                  # a name that could not be taken, and why
    error: str = ""


@dataclass(frozen=True)
class HomePage(Page):
    state: str                      # "Running"
    phase: Phase
    message: str                    # a sentence about the state
    since: datetime
    ever_ran: bool
    label: str                      # what was chosen for it, "" where there was no choice
    server_url: str                 # where the owner lands
    pending_url: str
    progress_url: str               # of the events, "" unless something is under way
    usage: Usage | None
    failure: Failure | None
    named: NamedServersPart | None
    sessions: list[SessionLine]
    changes_passwords: bool
    problems: list[ApplianceError]


@dataclass(frozen=True)
class DeletePage(Page):
    title: str
    action: str
    runs: bool


async def root(visit: Visit) -> Response:
    return redirect(visit.urls.hub)


async def hub_root(visit: Visit) -> Response:
    return redirect(visit.hub_url("home" if visit.session else "login"))


async def home(visit: Visit) -> Response:
    return await _show(visit)


async def _show(visit: Visit, *, said: str = "", error: BadInput | None = None) -> Response:
    session, hub = visit.signed_in(), visit.hub
    server, *others = await hub.servers.of_user(session.user)
    usage, phase = await usage_of(visit, server), words.shown_phase(server)
    sessions = [
        SessionLine(other.id, words.browser(other.user_agent), other.address, other.last_seen_at,
                    other.id == session.id)
        for other in await hub.sessions.list(session.user)
    ]
    return render(visit, "home.html", HomePage(
        state=words.STATES[phase], phase=phase,
        message=words.message(server, hub.servers.queue_position(server.id)), since=server.phase_at,
        ever_ran=bool(server.id and server.start_no), label=hub.servers.offers.label(server),
        server_url=hub.servers.landing(server), pending_url=pending_url(visit, server),
        progress_url=progress_url(visit, server) if phase.pending else "",
        usage=usage, failure=server.failure if server.phase is Phase.FAILED else None,
        named=await _named(visit, others, said, error),
        sessions=sorted(sessions, key=lambda line: (not line.current, -line.last_seen_at.timestamp())),
        changes_passwords=hub.accounts.manages_passwords, problems=hub.problems(),
    ), status_of(error) if error else 200)


async def _named(visit: Visit, servers: list[Server], said: str, error: BadInput | None) -> NamedServersPart | None:
    offers = visit.hub.servers.offers
    if not (offers.named.allowed or servers):
        return None
    most = await offers.most_named(await offers.of(visit.signed_in().user)) if offers.named.allowed else 0
    usages = await asyncio.gather(*(usage_of(visit, server) for server in servers))
    lines = [_named_line(visit, server, usage) for server, usage in zip(servers, usages, strict=True)]
    return NamedServersPart(lines, offers.named.allowed and (not most or len(lines) < most), most, said,
                            error.sentence if error else "")


def _named_line(visit: Visit, server: Server, usage: Usage | None) -> NamedLine:
    phase = words.shown_phase(server)
    said = [visit.hub.servers.offers.label(server), f"{format_bytes(usage.memory_bytes)} of memory used" if usage else ""]
    if server.phase is Phase.FAILED and server.failure:
        said = [server.failure.sentence]
    return NamedLine(
        server.name, server.display_name or server.name, words.STATES[phase], phase, " · ".join(filter(None, said)),
        f"{quote_name(server.user_name)}/{quote_name(server.name)}",
        progress_url(visit, server) if phase.pending else "")


async def new_server(visit: Visit) -> Response:
    """Take the name of a new server, and lead to where it is started; what cannot be in a name is kept for the people."""
    user, said = visit.signed_in().user, (await visit.field("name")).strip()
    try:
        title = validate_display_name(said)
        name = validate_new_servername("-".join(title.lower().split()))
        if not name:
            raise BadName("A server needs a name.")
    except BadName as error:
        return await _show(visit, said=said[:MAX_LENGTH], error=error)
    path = f"spawn/{quote_name(user.name)}/{quote_name(name)}"
    return redirect(visit.hub_url(path, display_name=title if title != name else ""), 303)


async def show_delete(visit: Visit) -> Response:
    server = await own_server(visit)
    path = f"delete-server/{quote_name(server.user_name)}/{quote_name(server.name)}"
    return render(visit, "delete-server.html", DeletePage(
        server.display_name or server.name, visit.hub_url(path), server.phase not in Phase.down()))


async def delete_server(visit: Visit) -> Response:
    server, user = await own_server(visit), visit.signed_in().user
    await visit.hub.servers.delete(user, server.name, actor=user.name)
    return redirect(visit.hub_url("home"), 303)


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
