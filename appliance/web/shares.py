"""The page behind a share link: whose server it is, what it allows, and the button that accepts."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.responses import Response

from appliance.domain.server import Server
from appliance.domain.share import ACCESS, SHAREABLE, ShareCode
from appliance.domain.user import User
from appliance.errors import BadNext, NotYours
from appliance.web.servers import prefix_of
from appliance.web.views import Page, render
from appliance.web.visit import Visit, redirect

_WHY = ("nobody opens another's server in a browser here: all servers have one address, so the pages of this one could act in "
        "your name.")
SCRIPTS_ONLY = f"You may use it by scripts, with one of your API tokens, but {_WHY}"
CANNOT_ENTER = f"This server is shared with you, but {_WHY}"
WHAT_ELSE = "What whoever runs the box can change about that is in its documentation, under “Sharing a server”."


@dataclass(frozen=True)
class SharePage(Page):
    owner: str
    server: str                    # "" is the default one
    url: str
    may: list[str]                 # continues “you may …”
    accepted: bool
    ready: bool
    cannot_enter: str              # "" where the code is not for opening the server
    what_else: str
    code: str
    next: str                      # where to go on to, "" for nowhere


async def show_code(visit: Visit) -> Response:
    user = visit.signed_in().user
    said = visit.request.query_params.get("code", "")
    code = await visit.hub.shares.look_at_code(said, user)
    return await _page(visit, user, code, said)


async def accept_code(visit: Visit) -> Response:
    user, said = visit.signed_in().user, await visit.field("code")
    target = _next(visit, await visit.field("next"))
    share = await visit.hub.shares.accept_code(said, user)
    # the server itself cannot be the next page: the one behind the link says why
    if not target or target.startswith(prefix_of(visit, share.server)):
        target = visit.hub_url("accept-share", code=said)
    return redirect(target, 303)


async def refuse_entry(visit: Visit, server: Server, user: User) -> NotYours:
    """Return what to tell somebody who came to another's server."""
    if await visit.hub.shares.opens(server, user):
        return NotYours(CANNOT_ENTER, action=f"A script may use it with one of your API tokens. {WHAT_ELSE}")
    return NotYours()


async def _page(visit: Visit, user: User, code: ShareCode, said: str) -> Response:
    server = code.server
    owner = await visit.hub.accounts.find_user(server.user_name)
    held = await visit.hub.shares.holds(code, user)
    names = [scope.partition("!")[0] for scope in code.scopes]
    return render(visit, "accept-share.html", SharePage(
        owner=owner.shown_name if owner else server.user_name, server=server.display_name or server.name,
        url=prefix_of(visit, server), may=[SHAREABLE.get(name, name) for name in names],
        accepted=held, ready=server.ready, cannot_enter=SCRIPTS_ONLY if {ACCESS, "shares"} & set(names) else "",
        what_else=WHAT_ELSE, code=said, next=_next(visit, visit.request.query_params.get("next", ""))))


def _next(visit: Visit, said: str) -> str:
    """Return where to go on to if it may be followed; the home page if it may not be."""
    try:
        return visit.urls.safe_next(said) or ""
    except BadNext:
        return visit.hub_url("home")
