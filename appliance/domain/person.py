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
