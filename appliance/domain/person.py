"""A user together with what the REST API tells about one."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.domain.server import Server
from appliance.domain.user import User


@dataclass(frozen=True)
class Person:
    """groups: names. servers: all of them, or those that are up, as it was asked for."""

    user: User
    groups: tuple[str, ...] = ()
    servers: tuple[Server, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """state: "", "active" (some server is up), "ready" or "inactive". names, of_groups: None for everybody; else who is in one
    of the two. stopped: with the servers that do not run, too."""

    state: str = ""
    name_filter: str = ""
    sort: str = "id"
    descending: bool = False
    offset: int = 0
    limit: int = 200
    names: frozenset[str] | None = None
    of_groups: frozenset[str] | None = None
    stopped: bool = False
