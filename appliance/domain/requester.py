"""Who asks: a person in a browser, a script with a token, a service, or a running server."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.domain.scopes import INHERIT, Rights
from appliance.domain.user import User

USER, SERVICE, SERVER = "user", "service", "server"


@dataclass(frozen=True)
class Requester:
    """kind: "user", "service", or "server" for the two tokens of a running server, which act for its owner, but hardly may
    anything. scopes: as the token has them; ("inherit",) for a session."""

    kind: str
    name: str                         # of the user or the service
    rights: Rights
    user: User | None = None          # None for a service
    service_name: str = ""
    roles: tuple[str, ...] = ()       # of the user or the service
    groups: tuple[str, ...] = ()      # of the user
    scopes: tuple[str, ...] = (INHERIT,)
    token_id: int | None = None       # None: a session, or a token that is derived and not stored
    session_id: str = ""
    client_id: str = ""               # of OAuth: whom the token was given to
    server_id: str = ""               # of kind "server"
    start_no: int = 0

    @property
    def is_token(self) -> bool:
        """Not a browser's session: what came is a token."""
        return self.token_id is not None or bool(self.server_id) or self.kind == SERVICE

    @property
    def inherits(self) -> bool:
        """What its owner may, now and later, it may too."""
        return INHERIT in self.scopes
