"""Names of machines: what may stand in a certificate."""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_DNS_NAME = re.compile(r"(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def clean_host(name: str) -> str:
    """Return a DNS name or an IP address as it stands in a certificate, "" if it is neither."""
    name = name.strip().strip("[]").rstrip(".").lower()
    with suppress(ValueError):
        return str(ipaddress.ip_address(name))
    with suppress(UnicodeError):
        name = name if name.isascii() else name.encode("idna").decode()
        if len(name) <= 253 and _DNS_NAME.fullmatch(name) and not name.rpartition(".")[2].isdecimal():
            return name
    return ""


def is_address(name: str) -> bool:
    with suppress(ValueError):
        return bool(ipaddress.ip_address(name))
    return False
