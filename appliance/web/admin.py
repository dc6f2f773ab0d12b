"""The admins' list of users and servers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from starlette.responses import Response

from appliance.domain.names import validate_servername, validate_username
from appliance.domain.server import Failure, Phase, Server
from appliance.domain.user import User
from appliance.errors import ApplianceError, NotFound
from appliance.ports import Usage
from appliance.web import words
from appliance.web.home import usage_of
from appliance.web.views import Page, render
from appliance.web.visit import Visit, redirect

PAGE_SIZE = 100


@dataclass(frozen=True)
class Line:
    user: User
    groups: tuple[str, ...]
    server_name: str
    state: str
    phase: Phase
    since: datetime | None
    last_activity_at: datetime | None
    usage: Usage | None
    failure: Failure | None


@dataclass(frozen=True)
class AdminPage(Page):
    lines: list[Line]
    search: str
    only: str                      # "", "running" or "archived"
    number: int                    # of this page, from 1
    pages: int
    found: int
    users: int
    archived: int
    running: int
    problems: list[ApplianceError]
    here: str                      # path and query of this very list


async def admin(visit: Visit) -> Response:
    visit.require("list:users")
    query = visit.request.query_params
    search, only = query.get("q", "")[:64].strip(), query.get("only", "")
    only = only if only in ("running", "archived") else ""
    accounts, wanted = visit.hub.accounts, query.get("page", "1")
    number = max(1, int(wanted) if wanted.isdecimal() and len(wanted) < 6 else 1)
    users, found = await accounts.page(search=search.lower(), up=only == "running", archived=only == "archived",
                                       offset=(number - 1) * PAGE_SIZE, limit=PAGE_SIZE)
    pages = max(1, -(-found // PAGE_SIZE))
    if number > pages:
        return redirect(visit.hub_url("admin", q=search, only=only, page=str(pages)))
    _, everybody = await accounts.page(limit=0)
    _, archived = await accounts.page(archived=True, limit=0)
    groups = await accounts.groups_of(users)
    shown = _pair(users, await visit.hub.servers.of_users(users), only)
    usages = await asyncio.gather(*(_usage(visit, server) for _, server in shown))
    return render(visit, "admin.html", AdminPage(
        lines=[_line(user, groups.get(user.id, ()), server, usage)
               for (user, server), usage in zip(shown, usages, strict=True)],
        search=search, only=only, number=number, pages=pages, found=found, users=everybody,
        archived=archived,
        running=await visit.hub.servers.count_ready(), problems=visit.hub.problems(),
        here=visit.hub_url("admin", q=search, only=only, page=str(number) if number > 1 else ""),
    ))


def _pair(users: Sequence[User], servers: Sequence[Server], only: str) -> list[tuple[User, Server | None]]:
    """Return a line for each user's default server, whether it ever ran or not, and for each named one."""
    by_user: dict[int, list[Server]] = {}
    for server in servers:
        by_user.setdefault(server.user_id, []).append(server)
    found: list[tuple[User, Server | None]] = []
    for user in users:
        own = sorted(by_user.get(user.id, []), key=lambda server: server.name)
        missing: list[Server | None] = [] if any(server.name == "" for server in own) else [None]
        found += [(user, server) for server in [*missing, *own]]
    if only == "running":
        found = [(user, server) for user, server in found if server and server.phase not in Phase.down()]
    return found


async def _usage(visit: Visit, server: Server | None) -> Usage | None:
    return await usage_of(visit, server) if server else None


def _line(user: User, groups: tuple[str, ...], server: Server | None, usage: Usage | None) -> Line:
    if server is None:
        return Line(user, groups, "", words.STATES[Phase.STOPPED], Phase.STOPPED, None, user.last_activity_at, None, None)
    phase = words.shown_phase(server)
    unused = server.start_no == 0 and phase is Phase.STOPPED     # made or imported, and not started since
    return Line(
        user, groups, server.name, "Has never run" if unused else words.STATES[phase], phase,
        None if unused else server.phase_at,
        server.last_activity_at or user.last_activity_at, usage,
        server.failure if server.phase is Phase.FAILED else None)


async def start(visit: Visit) -> Response:
    visit.require("start:servers")
    user, server_name = await _named(visit)
    await visit.hub.servers.start(user, server_name, actor=visit.somebody().name)
    return await _back(visit)


async def stop(visit: Visit) -> Response:
    visit.require("delete:servers")
    user, server_name = await _named(visit)
    await visit.hub.servers.stop(user, server_name, actor=visit.somebody().name)
    return await _back(visit)


async def _named(visit: Visit) -> tuple[User, str]:
    """Return the user and the server's name that the form says. Raises BadName, NotFound."""
    name = validate_username(await visit.field("user"))
    server_name = validate_servername(await visit.field("server"))
    user = await visit.hub.accounts.find_user(name)
    if user is None or user.deleted:
        raise NotFound(f"There is no user “{name}”.")
    if server_name:
        server = await visit.hub.servers.view(name, server_name)
        if server is None or not server.id:
            raise NotFound(f"“{name}” has no server “{server_name}”.")
    return user, server_name


async def _back(visit: Visit) -> Response:
    here = visit.hub_url("admin")
    target = visit.next(here)
    return redirect(target if target.split("?", 1)[0] == here else here, 303)


