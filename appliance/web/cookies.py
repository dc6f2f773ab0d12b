"""The cookies the Hub reads and sets."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

SESSION = "jupyterhub-hub-login"      # the beginning of its name
SESSION_ID = "jupyterhub-session-id"    # for servers: it tells one sign-in from the next and opens nothing
DEVICE = "appliance-device"
DEVICE_MAX_AGE_S = 365 * 24 * 3600


@dataclass(frozen=True)
class Cookie:
    """One Set-Cookie. max_age_s: None ends with the browser, 0 deletes."""

    name: str
    value: str
    path: str
    max_age_s: int | None = None


def session_name(key: bytes, session_id: str) -> str:
    """Return the name of a session's cookie, which nobody but its browser and the Hub knows.

    A page of the user's own server shares the site and may set cookies for the Hub's path: one whose name it cannot
    guess it cannot replace.
    """
    return f"{SESSION}-{hmac.new(key, session_id.encode(), hashlib.sha256).hexdigest()[:16]}"


def session_names(found: Mapping[str, list[str]]) -> list[str]:
    """Return the names of all session cookies that came."""
    return [name for name in found if name == SESSION or name.startswith(f"{SESSION}-")]


def parse(headers: Iterable[str]) -> dict[str, list[str]]:
    """Return every value of every name in the Cookie headers, in the order they came.

    Usual parsers keep the last of two cookies of one name; then a page that tosses a cookie chooses which one counts.
    """
    found: dict[str, list[str]] = {}
    for header in headers:
        for part in header.split(";"):
            name, equals, value = part.strip().partition("=")
            if equals:
                found.setdefault(name.strip(), []).append(value.strip())
    return found
