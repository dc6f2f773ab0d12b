"""What a share and a share code is: what somebody else may do with one server.

Stored are the names of scopes alone, because a share belongs to a server by its id; the filter is added by its present name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from appliance.domain.scopes import CUSTOM, SCOPES, Scope, check
from appliance.domain.server import Server
from appliance.errors import BadScope

ACCESS = "access:servers"
# those that mean something where they reach one server and not its owner; continues “you may …”
SHAREABLE: Mapping[str, str] = MappingProxyType({
    ACCESS: "use it: run programs in it, read its files and change them",
    "read:servers": "see whether it runs and what was chosen for it",
    "start:servers": "start and change it",
    "delete:servers": "stop and delete it",
    "servers": "start, change, stop and delete it",
    "admin:servers": "start, change, stop and delete it, and read its inner state",
    "admin:server_state": "read its inner state",
    "read:shares": "see with whom it is shared",
    "shares": "use it: run programs in it, read its files and change them; and share it with others",
})
CODE_EXPIRES_IN_S = 86_400
CODE_EXPIRES_IN_LEAST_S, CODE_EXPIRES_IN_MOST_S = 60, 365 * 86_400


@dataclass(frozen=True)
class Share:
    """Of one user or one group, exactly one of the two names is given. scopes: with the server's present name."""

    id: int
    server: Server
    user_name: str | None
    group_name: str | None
    scopes: tuple[str, ...]
    created_at: datetime


@dataclass(frozen=True)
class ShareCode:
    id: int
    server: Server
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    exchange_count: int
    last_exchanged_at: datetime | None


def scope_names(scopes: Iterable[str], owner: str, server: str, known: Mapping[str, Scope] = SCOPES) -> tuple[str, ...]:
    """Return the names of scopes to share, sorted; none given means to open the server.

    Raises BadScope for what is no scope, says nothing about a server, or has another filter than this server's.
    """
    names: set[str] = set()
    for scope in scopes:
        name, mark, said = check(scope, known).partition("!")
        if mark and said != f"server={owner}/{server}":
            raise BadScope(f"A share is for one server, so its scopes take no other filter than !server={owner}/{server}.")
        if name not in SHAREABLE and not CUSTOM.fullmatch(name):
            raise BadScope(f"“{name}” says nothing about a server, so it cannot be shared.",
                           action=f"Share any of {', '.join(sorted(SHAREABLE))}.")
        names.add(name)
    return tuple(sorted(names or {ACCESS}))


def for_server(names: Collection[str], owner: str, server: str, known: Mapping[str, Scope] = SCOPES) -> tuple[str, ...]:
    """Return stored names as scopes of this server; one that is no longer known falls away."""
    return tuple(f"{name}!server={owner}/{server}" for name in sorted(names) if name in known)
