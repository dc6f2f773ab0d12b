"""What an OAuth client is: a running server or a service that asks the Hub who its visitor is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from appliance.domain.names import validate_servername, validate_username
from appliance.errors import BadName

_SERVER_PREFIX = "jupyterhub-user-"
_SERVER_ID = re.compile(r"jupyterhub-user-([A-Za-z0-9._%~]{1,800})(?:-([A-Za-z0-9._%~]{1,800}))?")


@dataclass(frozen=True)
class OAuthClient:
    """Nothing of it is stored: a server's follows from the start that runs, a service's from the services there are."""

    id: str
    redirect_uri: str              # exactly this one: a path of the box, or a whole address
    shown: str                     # "alice's server", as a person reads it
    access_scope: str              # "access:servers!server=alice/": what its visitors have to hold
    allowed_scopes: tuple[str, ...] = ()    # what else it may get, where a visitor holds it and agrees
    no_confirm: bool = False       # asks nobody
    owner_id: int | None = None    # of a server: whose it is

    @property
    def client_id(self) -> str:
        return self.id


def server_client_id(user_name: str, server_name: str = "") -> str:
    """Return the id of a server's client, which is also the name of the cookie that the server sets.

    Percent-encoded, dashes too: the default server of “a-b” and the server “b” of “a” are two.
    """
    client_id = _SERVER_PREFIX + _quoted(user_name)
    return f"{client_id}-{_quoted(server_name)}" if server_name else client_id


def read_server_client_id(client_id: str) -> tuple[str, str] | None:
    """Return (user, server) of a client's id, None if it is not a server's."""
    match = _SERVER_ID.fullmatch(client_id)
    if match is None:
        return None
    try:
        user = validate_username(unquote(match[1], errors="strict"))
        server = validate_servername(unquote(match[2] or "", errors="strict"))
    except (UnicodeDecodeError, BadName):
        return None
    return (user, server) if server_client_id(user, server) == client_id else None


def server_access_scopes(user_name: str, server_name: str) -> tuple[str, str]:
    """Return the scopes either of which lets somebody in to a server, the narrower one first."""
    return f"access:servers!server={user_name}/{server_name}", f"access:servers!user={user_name}"


def _quoted(name: str) -> str:
    return quote(name, safe="").replace("-", "%2D")
