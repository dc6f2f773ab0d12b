"""The page on which somebody chooses what their server is started with, and what a form or a link said of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from markupsafe import Markup
from starlette.responses import Response

from appliance.domain.limits import format_bytes
from appliance.domain.names import quote_name
from appliance.domain.offers import Profile
from appliance.domain.server import Server
from appliance.domain.user import User
from appliance.errors import ApplianceError, BadOption, ImageMissing, ImageNotAllowed
from appliance.hub.offers import Offer
from appliance.web import words
from appliance.web.errors import status_of
from appliance.web.servers import server_at
from appliance.web.views import Page, render
from appliance.web.visit import Visit, redirect

_MARK = "_form"       # only our own page sends it: other buttons that start a server have nothing to say of options
_OURS = frozenset(("_xsrf", _MARK))


@dataclass(frozen=True)
class Line:
    value: str
    title: str
    description: str
    detail: str           # "2.0 GB of memory · 1 core", "" where nothing is special
    checked: bool
    missing: bool         # its image is not on this box


@dataclass(frozen=True)
class OptionsPage(Page):
    title: str
    action: str
    field: str            # what is chosen by the lines: "profile" or "image"
    lines: list[Line]
    own: Markup           # the configuration's own fields
    message: str          # why nothing was started, "" at first


async def start(visit: Visit, server: Server, target: str) -> Response | None:
    """Start a server with what was chosen for it; return a page where something is to be chosen first, else None.

    server: as `own_server` returns it, a named one perhaps not made yet. target: where its owner wants to go in the end.
    """
    offers, user = visit.hub.servers.offers, visit.signed_in().user
    made = server if server.id else None
    offer = await offers.of(user, made)
    if server.name and made is None:
        await offers.check_name(offer, server.name, exists=False)
    own, asks = await _asks(visit, offer)
    sent = await visit.form() if visit.request.method == "POST" else None
    try:
        options: dict[str, object] | None = None
        if sent is not None and _MARK in sent:
            options = await _read(visit, offer, bool(own))
        elif sent is None and (linked := _in_link(visit)):
            options = linked
        elif asks or (made is None and server.name and _from_elsewhere(visit)):
            if sent is not None:
                return redirect(_here(visit, server, target), 303)
            return await _show(visit, server, offer, own, target)
        title = visit.request.query_params.get("display_name") if made is None else None
        await visit.hub.servers.start(user, server.name, options=options, display_name=title, actor=user.name)
    except (BadOption, ImageNotAllowed, ImageMissing) as error:
        if not asks:
            raise
        return await _show(visit, server, offer, own, target, error)
    return None


async def start_ahead(visit: Visit, user: User, target: str) -> None:
    """Start the server that somebody who just signed in is led to, unless there is something to choose. Raises what
    `Servers.start` raises."""
    hub, offers = visit.hub, visit.hub.servers.offers
    named = target.startswith(visit.urls.server(user.name))
    server = await server_at(hub, target) if named else await hub.servers.view(user.name, offers.named.default_name)
    if server is None or server.ready:
        return
    offer = await offers.of(user, server if server.id else None)
    if not (await _asks(visit, offer))[1]:
        await hub.servers.start(user, server.name, actor=user.name)


async def _asks(visit: Visit, offer: Offer) -> tuple[str, bool]:
    """Return the configuration's own fields, and whether there is anything to choose."""
    own = await visit.hub.servers.offers.form_html(offer)
    return own, offer.asks_profile or offer.asks_image or bool(own)


async def _read(visit: Visit, offer: Offer, own: bool) -> dict[str, object]:
    """Return the options that the form's fields stand for. Raises BadOption."""
    fields: dict[str, list[str]] = {}
    for name, value in (await visit.form()).multi_items():
        if name not in _OURS and isinstance(value, str):
            fields.setdefault(name, []).append(value)
    asked = "profile" if offer.asks_profile else "image" if offer.asks_image else ""
    chosen: dict[str, object] = {asked: value} if (value := fields.pop(asked, [""])[0]) else {}
    return {**(await visit.hub.servers.offers.options_from_form(fields) if own else {}), **chosen}


def _in_link(visit: Visit) -> dict[str, object]:
    query = visit.request.query_params
    return {name: query[name] for name in ("profile", "image") if query.get(name)}


def _from_elsewhere(visit: Visit) -> bool:
    """Say whether another site led here: it may open one's server, but makes none without a click."""
    return visit.request.headers.get("sec-fetch-site", "") in ("cross-site", "same-site")


def _here(visit: Visit, server: Server, target: str) -> str:
    path = f"spawn/{quote_name(server.user_name)}"
    return visit.hub_url(f"{path}/{quote_name(server.name)}" if server.name else path, next=target,
                         display_name=visit.request.query_params.get("display_name", ""))


async def _show(visit: Visit, server: Server, offer: Offer, own: str, target: str,
                error: ApplianceError | None = None) -> Response:
    missing = await visit.hub.servers.offers.missing(offer)
    lines: list[Line] = []
    if offer.asks_profile:
        lines = [Line(each.slug, each.display_name, each.description, _detail(each), False, each.start.image in missing)
                 for each in offer.profiles]
    elif offer.asks_image:
        lines = [Line(each.name, each.display_name, each.description, "", False, each.image in missing)
                 for each in offer.images]
    called = server if server.id else replace(server, display_name=_title_typed(visit))
    return render(visit, "options.html", OptionsPage(
        title=f"Start {words.called(called)}", action=_here(visit, server, target),
        field="profile" if offer.asks_profile else "image", lines=_with_last(lines, offer), own=Markup(own),
        message=error.sentence if error else ""), status_of(error) if error else 200)


def _title_typed(visit: Visit) -> str:
    """Return what somebody wants to call the server that this start would make. Raises BadName."""
    return visit.hub.servers.offers.check_display_name(visit.request.query_params.get("display_name"))


def _with_last(lines: list[Line], offer: Offer) -> list[Line]:
    """Check what was chosen the last time, or else the default one, of those that are there."""
    options = offer.person.user_options
    last = options.get("profile") if offer.asks_profile else (
        found.name if (found := offer.image(options.get("image"))) else None)
    there = [line.value for line in lines if not line.missing]
    checked = last if last in there else next(iter(there), "")
    return [Line(line.value, line.title, line.description, line.detail, line.value == checked, line.missing)
            for line in lines]


def _detail(profile: Profile) -> str:
    memory, cores = profile.start.mem_limit_bytes, profile.start.cpu_limit
    said = [f"{format_bytes(memory)} of memory" if memory else "",
            f"{cores:g} processor core{'' if cores == 1 else 's'}" if cores else ""]
    return " · ".join(filter(None, said))
