"""The capability: a secret cookie by which Traefik lets a browser in to one server, for one session and one start.

Value: `<session id>.<start number>.<role>.<mac>`, where the MAC is HMAC-SHA-256 over session, server, start number and
role, in unpadded URL-safe base64 (256 bits). Nothing is stored: it ends with any of its parts.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass

OWNER = "owner"
_VALUE = re.compile(r"([a-z0-9]{8,40})\.(\d{1,9})\.([a-z]{1,16})\.([A-Za-z0-9_-]{43})")
_SERVER_TOKEN = re.compile(r"([a-z0-9]{8,40})\.(\d{1,9})\.[A-Za-z0-9_-]{43}")
_COOKIE = re.compile(r"appliance-server-([a-z0-9]{8,40})")


@dataclass(frozen=True)
class Capability:
    session_id: str
    server_id: str
    start_no: int
    role: str = OWNER

    def value(self, key: bytes) -> str:
        """Return the cookie's value. key: 32 bytes."""
        message = "\n".join(("capability", self.session_id, self.server_id, str(self.start_no), self.role))
        return f"{self.session_id}.{self.start_no}.{self.role}.{_mac(key, message)}"


def cookie_name(server_id: str) -> str:
    return f"appliance-server-{server_id}"


def server_id_of_cookie(name: str) -> str | None:
    """Return the server id in the name of a capability cookie, or None if it is another cookie."""
    match = _COOKIE.fullmatch(name)
    return match[1] if match else None


def verify(key: bytes, server_id: str, value: str) -> Capability | None:
    """Return what `value` says if its MAC holds for this server, else None. Whether it is still current is not said."""
    match = _VALUE.fullmatch(value)
    if match is None:
        return None
    said = Capability(match[1], server_id, int(match[2]), match[3])
    return said if hmac.compare_digest(said.value(key).encode(), value.encode()) else None


def injected_token(key: bytes, server_id: str, start_no: int) -> str:
    """Return the secret that the edge adds as `Authorization: token …` for this start of this server."""
    return _mac(key, f"injected\n{server_id}\n{start_no}")


def server_token(key: bytes, server_id: str, start_no: int) -> str:
    """Return the API token of this start of a server itself (JUPYTERHUB_API_TOKEN), which is also its OAuth client's secret."""
    mac = _mac(key, f"server token\n{server_id}\n{start_no}")
    return f"{server_id}.{start_no}.{mac}"


def read_server_token(key: bytes, token: str) -> tuple[str, int] | None:
    """Return (server id, start number) of a token that this key signed, else None. Whether that start is over is not said."""
    match = _SERVER_TOKEN.fullmatch(token)
    if match is None:
        return None
    server_id, start_no = match[1], int(match[2])
    holds = hmac.compare_digest(server_token(key, server_id, start_no).encode(), token.encode())
    return (server_id, start_no) if holds else None


def service_token(key: bytes, name: str) -> str:
    """Return the API token of a service that was given none: the same after a restart, and kept nowhere."""
    return _mac(key, f"service\n{name}")


def derive_key(secret: bytes, purpose: str) -> bytes:
    """Return a key of its own (32 bytes) for `purpose` from the one secret of the installation."""
    return hmac.new(secret, f"appliance {purpose}".encode(), hashlib.sha256).digest()


def _mac(key: bytes, message: str) -> str:
    return base64.urlsafe_b64encode(hmac.new(key, message.encode(), hashlib.sha256).digest()).rstrip(b"=").decode()
