"""From an address to a server, and letting a browser in to it: what several handlers share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from starlette.responses import Response

from appliance.domain.names import quote_name, validate_servername, validate_username
from appliance.domain.server import Server
from appliance.domain.user import User
from appliance.errors import BadName, NotFound, NotYours
from appliance.web.visit import Visit, redirect

if TYPE_CHECKING:
    from appliance.hub.hub import Hub

_ODD = re.compile(r"//|\\|%2f|%5c|%[01][0-9a-f]|%7f|(^|/)(\.|%2e){1,2}(/|;|%3b|$)", re.IGNORECASE)


@dataclass(frozen=True)
class UserPath:
    """An address under /user/, taken apart. rest: what follows the name, as it came: "" or "/lab/tree/x"."""

    user_name: str
    rest: str
    canonical: str      # the whole path, with the name as a browser should send it


def read_user_path(hub: Hub, path: str) -> UserPath:
    """Take "/user/alice/lab" apart. path: as sent, without the query. Raises NotFound for all that is no such path."""
    if not path.startswith(hub.urls.users) or _ODD.search(path):
        raise NotFound()
    name, slash, rest = path.removeprefix(hub.urls.users).partition("/")
    try:
        user_name = validate_username(unquote(name, errors="strict"))
    except (UnicodeDecodeError, BadName):
        raise NotFound() from None
    return UserPath(user_name, slash + rest, f"{hub.urls.users}{quote_name(user_name)}/{rest}")


async def server_at(hub: Hub, path: str) -> Server:
    """Return the server that answers for a path under /user/. Raises NotFound."""
    where = read_user_path(hub, path.split("?", 1)[0])
    segment = where.rest.removeprefix("/").split("/", 1)[0]
    if segment:   # a named server, or else a path of the default one
        try:
            named = await hub.servers.view(where.user_name, validate_servername(unquote(segment, errors="strict")))
        except (UnicodeDecodeError, BadName):
            named = None
        if named is not None and named.id:
            return named
    server = await hub.servers.view(where.user_name)
    if server is None:
        raise NotFound()
    return server


async def own_server(visit: Visit, *, may_be_new: bool = False) -> Server:
    """Return the visitor's own server that the address names (`{user}` and `{server}`, both optional).

    may_be_new: also a named one that is not there yet; its id is "". Raises NotYours, NotFound.
    """
    user, named = visit.signed_in().user, visit.hub.servers.offers.named
    try:
        name = validate_username(visit.param("user") or user.name)
        server_name = validate_servername(visit.param("server") if visit.param("user") else named.default_name)
    except BadName:
        raise NotFound() from None
    if name != user.name:
        helps = visit.requester is not None and visit.requester.rights.has("start:servers")
        raise NotYours(action="Start it for its owner on the page People.") if helps else NotYours()
    server = await visit.hub.servers.view(user.name, server_name)
    if server is None or (server_name and not server.id and not (may_be_new and named.allowed)):
        raise NotFound()
    return server


async def view_of(hub: Hub, user: User) -> Server:
    server = await hub.servers.view(user.name)
    if server is None:
        raise NotFound()
    return server


def prefix_of(visit: Visit, server: Server) -> str:
    return visit.urls.server(server.user_name, server.name)


def deep_link(visit: Visit, server: Server, target: str) -> str:
    """Return `target` if it is an address of this server, else ""."""
    return target if target.startswith(prefix_of(visit, server)) else ""


def pending_url(visit: Visit, server: Server, target: str = "") -> str:
    path = f"spawn-pending/{quote_name(server.user_name)}"
    if server.name:
        path += f"/{quote_name(server.name)}"
    return visit.hub_url(path, next=target)


def progress_url(visit: Visit, server: Server) -> str:
    """Return where the events of a start are told, as JupyterHub has it."""
    path = f"api/users/{quote_name(server.user_name)}"
    return visit.hub_url(f"{path}/servers/{quote_name(server.name)}/progress" if server.name else f"{path}/server/progress")


async def let_in(visit: Visit, server: Server, target: str) -> Response:
    """Give the browser its capability and send it to `target`, or to where the owner lands."""
    value = await visit.hub.servers.enter(visit.signed_in(), server)
    visit.set_capability(server, value)
    return redirect(deep_link(visit, server, target) or visit.hub.servers.landing(server))
