"""What a user, a session, an API token and an event is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True)
class User:
    id: int
    name: str
    uid: int                     # numeric uid of the home and the container, allocated once, never reused
    admin: bool
    created_at: datetime
    last_activity_at: datetime | None
    must_change_password: bool = False
    deleted: bool = False
    display_name: str = ""
    archived: bool = False       # cannot sign in and runs nothing; files and name stay

    @property
    def shown_name(self) -> str:
        return self.display_name or self.name


@dataclass(frozen=True)
class Group:
    id: int
    name: str
    members: tuple[str, ...]     # names of users
    properties: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Session:
    id: str                      # public id, random
    user: User
    origin: str                  # "https://box.school", where the browser signed in
    created_at: datetime
    expires_at: datetime
    last_seen_at: datetime
    address: str                 # of the browser, as the proxy saw it
    user_agent: str


@dataclass(frozen=True)
class ApiToken:
    """Of a user or of a service; the token itself is known to nobody but who has it."""

    id: int
    user: User | None
    note: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    service_name: str = ""
    scopes: tuple[str, ...] = ("inherit",)     # as they were given, not expanded
    client_id: str = ""                        # of OAuth: whom it was given to
    session_id: str = ""                       # of OAuth: it ends with this session

    @property
    def api_id(self) -> str:
        """As the REST API calls it: "a12"."""
        return f"a{self.id}"


@dataclass(frozen=True)
class Event:
    id: int
    at: datetime
    kind: str                    # "server.ready", "login", "user.added", …
    actor: str                   # name of who did it, or "hub"
    user_name: str
    server_id: str
    start_no: int
    data: Mapping[str, object] = field(default_factory=dict)
