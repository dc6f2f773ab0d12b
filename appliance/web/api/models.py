"""JupyterHub's shapes of users, servers, groups and tokens; of each, an asker sees what the scopes at hand let them see."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from appliance.domain.person import Person
from appliance.domain.scopes import Reach, Rights
from appliance.domain.server import Phase, Server, Wanted
from appliance.domain.user import ApiToken, Group, User
from appliance.web.api.schema import ANY_OBJECT, FLAG, TEXT, TIME, Schema, array, nullable, obj, ref
from appliance.web.servers import progress_url

if TYPE_CHECKING:
    from appliance.web.visit import Visit

_BASE = frozenset({"kind", "name"})
USER_KEYS: Mapping[str, frozenset[str]] = {
    "read:users": _BASE | {"user_info", "admin", "roles", "groups", "server", "pending", "created", "last_activity"},
    "read:users:name": _BASE | {"user_info", "admin"},
    "read:users:groups": _BASE | {"groups"},
    "read:users:activity": _BASE | {"last_activity"},
    "read:servers": _BASE | {"servers"},
    "read:roles:users": _BASE | {"roles", "admin"},
    "admin:auth_state": _BASE | {"auth_state"},
}
_ALL_OF_USER = len(frozenset[str]().union(*USER_KEYS.values()))
GROUP_KEYS: Mapping[str, frozenset[str]] = {
    "read:groups": _BASE | {"properties", "users"},
    "read:groups:name": _BASE,
    "read:roles:groups": _BASE | {"roles"},
}


class Seen:
    """Which parts of a shape an asker sees, for `keys` by scope."""

    def __init__(self, rights: Rights, keys: Mapping[str, frozenset[str]]) -> None:
        reaches = [(rights.reach(scope), parts) for scope, parts in keys.items()]
        self.of_all = frozenset[str]().union(*(parts for reach, parts in reaches if reach.everything))
        self.by_filter = [(reach, parts) for reach, parts in reaches
                         if reach and not reach.everything and not parts <= self.of_all]

    def of(self, covers: Callable[[Reach], bool]) -> frozenset[str]:
        found = self.of_all
        for reach, parts in self.by_filter:
            if covers(reach):
                found |= parts
        return found


class Shapes:
    """Makes what one asker sees."""

    def __init__(self, visit: Visit, rights: Rights) -> None:
        self._visit, self._roles = visit, visit.hub.permissions.roles
        self._public = visit.public_origin
        self._users, self._groups = Seen(rights, USER_KEYS), Seen(rights, GROUP_KEYS)
        self._by_standing: dict[tuple[bool, tuple[str, ...]], tuple[str, ...]] = {}
        self._servers, self._state = rights.reach("read:servers"), rights.reach("admin:server_state")

    def user(self, person: Person, *, stopped: bool = False) -> dict[str, Any]:
        """Return {} for one who is not to be seen; times are left to `answer`. stopped: also the servers that do not run."""
        user, groups = person.user, person.groups
        seen = self._users.of(lambda reach: reach.user(user.name, groups)) if self._users.by_filter else self._users.of_all
        if not seen:
            return {}
        default = next((server for server in person.servers if not server.name), None) if person.servers else None
        model = {
            "kind": "user", "name": user.name, "admin": user.admin, "groups": groups,
            "roles": self._roles_of(user, groups) if "roles" in seen else (),
            "server": self._visit.urls.server(user.name) if default and default.ready else None,
            "pending": pending(default) if default else None,
            "created": user.created_at, "last_activity": user.last_activity_at, "auth_state": None,
            "user_info": {"name": user.display_name, "display_name": user.display_name} if user.display_name else None,
        }
        if len(seen) < _ALL_OF_USER:
            model = {key: value for key, value in model.items() if key in seen}
        servers = {server.name: self.server(server, groups) for server in person.servers
                   if (stopped or server.phase not in Phase.down())
                   and self._servers.server(user.name, server.name, groups)} if person.servers else {}
        if servers or "servers" in seen:
            model["servers"] = servers
        return model

    def _roles_of(self, user: User, groups: tuple[str, ...]) -> tuple[str, ...]:
        """Of most users the roles follow from the flag and the groups alone, and of many these are the same."""
        if user.name in self._roles.named:
            return self._roles.of_user(user.name, groups, admin=user.admin)
        found = self._by_standing.get((user.admin, groups))
        if found is None:
            found = self._by_standing[user.admin, groups] = self._roles.of_user("", groups, admin=user.admin)
        return found

    def server(self, server: Server, owners_groups: tuple[str, ...] = ()) -> dict[str, Any]:
        url, progress = self._visit.urls.server(server.user_name, server.name), progress_url(self._visit, server)
        model: dict[str, Any] = {
            "name": server.name, "display_name": server.display_name, "full_name": f"{server.user_name}/{server.name}",
            "last_activity": time(server.last_activity_at), "started": time(server.started_at) if not is_down(server) else None,
            "pending": pending(server), "ready": server.ready, "stopped": is_down(server),
            "url": url, "progress_url": progress, "user_options": user_options(server),
            "full_url": self._public + url if self._public else None,
            "full_progress_url": self._public + progress if self._public else None,
        }
        if self._state.server(server.user_name, server.name, owners_groups):
            model["state"] = {"server_id": server.id, "phase": server.phase, "start_no": server.start_no}
        return model

    def group(self, group: Group) -> dict[str, Any]:
        seen = self._groups.of(lambda reach: reach.group(group.name))
        model = {"kind": "group", "name": group.name, "users": group.members, "properties": group.properties,
                 "roles": self._roles.of_group(group.name)}
        return {key: value for key, value in model.items() if key in seen}


def token(found: ApiToken) -> dict[str, Any]:
    owner = {"user": found.user.name} if found.user else {"service": found.service_name}
    return owner | {
        "kind": "api_token", "id": found.api_id, "roles": [], "scopes": sorted(found.scopes),
        "created": time(found.created_at), "last_activity": time(found.last_used_at), "expires_at": time(found.expires_at),
        "note": found.note, "session_id": found.session_id or None, "oauth_client": found.client_id or "JupyterHub",
    }


def is_down(server: Server) -> bool:
    return server.phase in Phase.down()


def pending(server: Server) -> str | None:
    if not server.phase.pending:
        return None
    return "stop" if server.phase is Phase.STOPPING or server.wanted is Wanted.STOPPED else "spawn"


def user_options(server: Server) -> dict[str, Any]:
    """Return what was chosen for this server."""
    return ({"image": server.image} if server.image else {}) | dict(server.user_options)


def time(at: datetime | None) -> str | None:
    return f"{at.isoformat()[:-6]}Z" if at else None       # every time of ours is in UTC


# -- the same for the documentation ------------------------------------------------------------------------------------
_NAMES, _TIME, _TEXT = array(TEXT), nullable(TIME), nullable(TEXT)
_USER = {
    "kind": TEXT, "name": TEXT, "admin": FLAG, "roles": _NAMES, "groups": _NAMES, "server": _TEXT, "pending": _TEXT,
    "created": _TIME, "last_activity": _TIME, "user_info": nullable(ANY_OBJECT), "auth_state": nullable(ANY_OBJECT),
    "servers": {"type": "object", "additionalProperties": ref("Server")},
}
_TOKEN = {
    "user": TEXT, "service": TEXT, "kind": TEXT, "id": TEXT, "roles": _NAMES, "scopes": _NAMES, "created": _TIME,
    "last_activity": _TIME, "expires_at": _TIME, "note": TEXT, "session_id": _TEXT, "oauth_client": TEXT,
}
SCHEMAS: dict[str, Schema] = {
    "Error": obj({"status": {"type": "integer"}, "message": TEXT, "error_id": TEXT, "action": TEXT, "evidence": TEXT},
                 required=("status", "message")),
    "User": obj(_USER, description="The parts that the scopes of the token let one see."),
    "Server": obj({
        "name": TEXT, "display_name": TEXT, "full_name": TEXT, "last_activity": _TIME, "started": _TIME,
        "pending": {"type": ["string", "null"], "enum": ["spawn", "stop", None]},
        "ready": FLAG, "stopped": FLAG, "url": TEXT, "progress_url": TEXT, "full_url": _TEXT, "full_progress_url": _TEXT,
        "user_options": ANY_OBJECT, "state": ANY_OBJECT,
    }, required=("name", "ready", "stopped", "pending", "url", "last_activity", "started", "user_options")),
    "Group": obj({"kind": TEXT, "name": TEXT, "users": _NAMES, "properties": ANY_OBJECT, "roles": _NAMES}),
    "Service": obj({
        "kind": TEXT, "name": TEXT, "admin": FLAG, "roles": _NAMES, "url": TEXT, "prefix": TEXT, "command": _NAMES,
        "pid": {"type": "integer"}, "info": ANY_OBJECT, "display": FLAG, "state": TEXT, "message": TEXT,
        "restarts": {"type": "integer"}, "last_lines": _NAMES,
    }, required=("kind", "name", "admin"), description="The parts that the scopes of the token let one see."),
    "Token": obj(_TOKEN, required=("kind", "id", "scopes", "created", "last_activity", "expires_at", "note")),
    "NewToken": obj({**_TOKEN, "token": TEXT}, required=("kind", "id", "token", "scopes")),
    "Identity": obj({**_USER, "scopes": _NAMES, "session_id": _TEXT, "token_id": _TEXT}, more=True,
                    required=("kind", "name", "scopes", "session_id", "token_id"),
                    description="Whose token it is: the parts of a user, or of a service."),
}
