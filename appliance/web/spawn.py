"""Starting and entering one's own server."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import unquote

from starlette.responses import Response

from appliance.domain.names import quote_name
from appliance.domain.server import Failure, Phase, Server, Wanted
from appliance.errors import BadNext, MustChangePassword, Unavailable
from appliance.web import options, words
from appliance.web.servers import (
    deep_link,
    let_in,
    own_server,
    pending_url,
    prefix_of,
    progress_url,
    server_at,
    view_of,
)
from appliance.web.shares import refuse_entry
from appliance.web.views import Page, render
from appliance.web.visit import Visit, redirect

_ENTERED = "appliance-entered"
_ENTER_TRIES = 3


@dataclass(frozen=True)
class Step:
    words: str
    state: str                     # "done", "now", "later"


@dataclass(frozen=True)
class ProgressPage(Page):
    message: str
    percent: int
    steps: list[Step]
    elapsed_s: int
    enter_url: str
    progress_url: str              # of the events
    stop_url: str


@dataclass(frozen=True)
class StoppedPage(Page):
    """Not running, or failed: with the button that starts it."""

    title: str
    message: str
    failure: Failure | None
    start_url: str
    deep_link: str                 # where the button leads in the end, as a person reads it; "" for the usual place
    waiting: bool = False          # being stopped: look again soon


async def spawn(visit: Visit) -> Response:
    """Start the own server if it does not run, and go there; where there is something to choose, by way of a form. A link
    may do that: it is one's own."""
    server = await own_server(visit, may_be_new=True)
    target = deep_link(visit, server, visit.next())
    if server.ready:
        return await let_in(visit, server, target)
    if not (server.phase.pending and server.wanted is Wanted.RUNNING):
        page = await options.start(visit, server, target)
        if page is not None:
            return page
    return redirect(pending_url(visit, server, target), 302 if visit.request.method == "GET" else 303)


async def stop(visit: Visit) -> Response:
    server, user = await own_server(visit), visit.signed_in().user
    await visit.hub.servers.stop(user, server.name, actor=user.name)
    return redirect(visit.hub_url("home"), 303)


async def pending(visit: Visit) -> Response:
    server = await own_server(visit)
    target = deep_link(visit, server, visit.next())
    if server.ready:
        return redirect(visit.hub_url("enter", next=target or prefix_of(visit, server)))
    if not server.phase.pending or server.wanted is Wanted.STOPPED:
        return stopped(visit, server, target)
    return progress(visit, server, target)


async def enter(visit: Visit) -> Response:
    """Where a browser without a capability comes by, with the address it wanted in `next`."""
    target = visit.next()
    if visit.session is None:
        return redirect(visit.hub_url("login", next=target))
    if visit.session.user.must_change_password:
        raise MustChangePassword()
    if target and not target.startswith(visit.urls.users):
        return redirect(target)
    server = await server_at(visit.hub, target) if target else await view_of(visit.hub, visit.session.user)
    if server.user_id != visit.session.user.id:
        raise await refuse_entry(visit, server, visit.session.user)
    if server.ready:
        _count_entry(visit, target)
        landing = "" if target == prefix_of(visit, server) else target
        return await let_in(visit, server, landing)
    if server.phase.pending and server.wanted is Wanted.RUNNING:
        return redirect(pending_url(visit, server, target))
    return stopped(visit, server, target)


def _count_entry(visit: Visit, target: str) -> None:
    """Raises Unavailable for a browser that is let in and comes straight back, again and again."""
    mark = hashlib.sha256(target.encode()).hexdigest()[:12]
    seen, _, count = next(iter(visit.cookies.get(_ENTERED, [])), "").partition(".")
    tries = int(count[:2]) if seen == mark and count.isdecimal() else 0
    if tries >= _ENTER_TRIES:
        raise Unavailable(
            "Your browser was let in to your server but came back without its key. "
            "Please allow cookies for this site, then try again.")
    visit.set_cookie(_ENTERED, f"{mark}.{tries + 1}", path=visit.hub_url("enter"), max_age_s=15)


async def user_redirect(visit: Visit) -> Response:
    """/hub/user-redirect/PATH?query → the same below one's own server, which is started on the way if it does not run."""
    rest = visit.here.removeprefix(visit.hub_url("user-redirect")).removeprefix("/")
    user, name = visit.signed_in().user, visit.hub.servers.offers.named.default_name
    target = visit.urls.server(user.name, name) + rest
    try:
        target = visit.urls.safe_next(target) or target
    except BadNext:
        raise BadNext("That link does not lead to a page of your server.") from None
    server = await visit.hub.servers.view(user.name, name)
    if server is not None and server.ready:
        return redirect(target)
    path = f"spawn/{quote_name(user.name)}"
    return redirect(visit.hub_url(f"{path}/{quote_name(name)}" if name else path, next=target))


# -- pages -------------------------------------------------------------------------------------------------------------
def progress(visit: Visit, server: Server, target: str) -> Response:
    hub, now_at = visit.hub, words.step_of(server)
    began = server.started_at or server.phase_at
    return render(visit, "progress.html", ProgressPage(
        message=words.message(server, hub.servers.queue_position(server.id)),
        percent=round(hub.servers.progress(server) * 100),
        steps=[Step(text, "done" if i < now_at else "now" if i == now_at else "later")
               for i, (_, text) in enumerate(words.STEPS)],
        elapsed_s=max(0, int((datetime.now(UTC) - began).total_seconds())),
        enter_url=visit.hub_url("enter", next=target or prefix_of(visit, server)),
        progress_url=progress_url(visit, server),
        stop_url=_action_url(visit, "stop", server),
    ))


def stopped(visit: Visit, server: Server, target: str, status: int = 200) -> Response:
    failed = server.phase is Phase.FAILED
    return render(visit, "stopped.html", StoppedPage(
        title=_of(server, "Your server is not running" if failed else words.message(server).removesuffix(".")),
        message=words.message(server), failure=server.failure if failed else None,
        start_url=_action_url(visit, "spawn", server, deep_link(visit, server, target)),
        deep_link=_readable(visit, server, target), waiting=server.phase is Phase.STOPPING,
    ), status)


def _of(server: Server, title: str) -> str:
    return title.replace("Your server", f"Your server {words.called(server)}", 1) if server.name else title


def _readable(visit: Visit, server: Server, target: str) -> str:
    """Return the path below the server as a person reads it, "" where it leads to the usual place."""
    path = deep_link(visit, server, target).removeprefix(prefix_of(visit, server)).partition("?")[0]
    read = unquote(path)
    return read if read.isprintable() else path


def _action_url(visit: Visit, action: str, server: Server, target: str = "") -> str:
    path = f"{action}/{quote_name(server.user_name)}"
    return visit.hub_url(f"{path}/{quote_name(server.name)}" if server.name else path, next=target)
