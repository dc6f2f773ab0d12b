"""The REST API under /hub/api, thin: what signing in, starting and stopping need, in JupyterHub's shapes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

from starlette.responses import JSONResponse, Response

from appliance.domain.names import validate_servername, validate_username
from appliance.domain.server import Phase, Server, Wanted
from appliance.domain.user import User
from appliance.errors import BadInput, BadName, NotFound, NotYours, Refused
from appliance.web.events import ProgressStream
from appliance.web.servers import progress_url
from appliance.web.visit import Visit

_MOST = 200


async def version(visit: Visit) -> Response:
    return JSONResponse({"version": visit.hub.version})


async def current_user(visit: Visit) -> Response:
    user = visit.somebody()
    model = await _user_model(visit, user)
    assert visit.requester is not None
    model |= {"scopes": sorted(visit.requester.rights.expanded), "session_id": visit.requester.session_id or None}
    return JSONResponse(model)


async def list_users(visit: Visit) -> Response:
    query = visit.request.query_params
    offset, limit = _number(query.get("offset"), 0), _number(query.get("limit"), _MOST)
    users, total = await visit.hub.accounts.page(offset=offset, limit=min(limit, _MOST))
    servers: dict[int, list[Server]] = {}
    for server in await visit.hub.servers.of_users(users):
        servers.setdefault(server.user_id, []).append(server)
    groups = await visit.hub.accounts.groups_of(users)
    items = [user_model(visit, user, servers.get(user.id, []), groups.get(user.id, ())) for user in users]
    if "application/jupyterhub-pagination+json" not in visit.request.headers.get("accept", ""):
        return JSONResponse(items)
    after = offset + len(items)
    following = {
        "offset": after, "limit": limit,
        "url": f"{visit.origin}{visit.hub_url('api/users', offset=str(after), limit=str(limit))}",
    } if after < total else None
    page = {"offset": offset, "limit": limit, "total": total, "next": following}
    return JSONResponse({"items": items, "_pagination": page})


async def get_user(visit: Visit) -> Response:
    return JSONResponse(await _user_model(visit, await _named_user(visit)))


async def start_server(visit: Visit) -> Response:
    user, server = await _named_server(visit)
    if server.ready or (server.phase.pending and server.wanted is Wanted.RUNNING):
        raise BadInput(f"{user.name}'s server is already {'running' if server.ready else 'starting'}.")
    image = (await _options(visit)).get("image", "")
    if not isinstance(image, str) or len(image) > 255:
        raise BadInput("“image” has to be the name of an image.")
    server = await visit.hub.servers.start(user, server.name, image=image, actor=visit.somebody().name)
    return Response(status_code=201 if server.ready else 202)


async def stop_server(visit: Visit) -> Response:
    user, server = await _named_server(visit)
    if server.phase in (Phase.STOPPED, Phase.FAILED):
        return Response(status_code=204)
    now = await visit.hub.servers.stop(user, server.name, actor=visit.somebody().name)
    return Response(status_code=204 if now is None or now.phase is Phase.STOPPED else 202)


async def progress(visit: Visit) -> Response:
    _, server = await _named_server(visit)
    return ProgressStream(visit.hub, server)


async def authorize(visit: Visit) -> Response:
    """What the proxy asks for a script's API token: may it enter this server, and with which header instead?

    Nobody enters another's server here, not even an admin, unless it is shared with them. The user's own token never
    reaches a container.
    """
    server = await visit.hub.servers.by_id(visit.param("server_id")[:64])
    requester = visit.requester
    if server is None or requester is None or visit.session or not server.ready \
            or not await visit.hub.permissions.may_enter(requester, server):
        raise Refused("This API token does not open that server.")
    injected = visit.hub.servers.injected_authorization(server)
    # without the header in the answer, the proxy takes the one in the request away
    return Response(status_code=200, headers={"Authorization": injected} if injected else {})


# -- who and which -----------------------------------------------------------------------------------------------------
async def _named_user(visit: Visit) -> User:
    """Return the user in the address, for the user and for admins. Raises NotYours, NotFound."""
    visitor = visit.somebody()
    try:
        name = validate_username(visit.param("name"))
    except BadName:
        raise NotFound() from None
    if name == visitor.name:
        return visitor
    if not visitor.admin:
        raise NotYours("You may not see or change other users.")
    user = await visit.hub.accounts.find_user(name)
    if user is None or user.deleted:
        raise NotFound("There is no such user.")
    return user


async def _named_server(visit: Visit) -> tuple[User, Server]:
    user = await _named_user(visit)
    try:
        server_name = validate_servername(visit.param("server"))
    except BadName:
        raise NotFound() from None
    server = await visit.hub.servers.view(user.name, server_name)
    if server is None or (server_name and not server.id):
        raise NotFound("There is no such server.")
    return user, server


async def _options(visit: Visit) -> dict[str, object]:
    body = await visit.request.body()
    try:
        options = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError):
        options = None
    if not isinstance(options, dict):
        raise BadInput("The body has to be a JSON object.")
    return options


# -- JupyterHub's shapes -----------------------------------------------------------------------------------------------
async def _user_model(visit: Visit, user: User) -> dict[str, object]:
    server = await visit.hub.servers.view(user.name)
    groups = await visit.hub.accounts.groups_of([user])
    return user_model(visit, user, [server] if server else [], groups.get(user.id, ()))


def user_model(visit: Visit, user: User, servers: list[Server], groups: Sequence[str]) -> dict[str, object]:
    active = {server.name: server_model(visit, server) for server in servers
              if server.phase not in (Phase.STOPPED, Phase.FAILED)}
    default = active.get("", {})
    return {
        "kind": "user", "name": user.name, "admin": user.admin, "groups": list(groups),
        "roles": ["admin", "user"] if user.admin else ["user"],
        "created": _time(user.created_at), "last_activity": _time(user.last_activity_at),
        "server": default.get("url") if default.get("ready") else None, "pending": default.get("pending"),
        "servers": active,
    }


def server_model(visit: Visit, server: Server) -> dict[str, object]:
    pending = None
    if server.phase.pending:
        pending = "stop" if server.wanted is Wanted.STOPPED else "spawn"
    return {
        "name": server.name, "full_name": f"{server.user_name}/{server.name}",
        "url": visit.urls.server(server.user_name, server.name), "progress_url": progress_url(visit, server),
        "ready": server.ready, "stopped": False, "pending": pending,
        "started": _time(server.started_at), "last_activity": _time(server.last_activity_at),
        "user_options": {"image": server.image} if server.image else {},
    }


def _time(at: datetime | None) -> str | None:
    return at.isoformat().replace("+00:00", "Z") if at else None


def _number(text: str | None, default: int) -> int:
    if not text:
        return default
    if not text.isdecimal() or len(text) > 9:
        raise BadInput("“offset” and “limit” have to be whole numbers.")
    return int(text)
