"""The cookies the Hub reads and sets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

SESSION = "jupyterhub-hub-login"
DEVICE = "appliance-device"
DEVICE_MAX_AGE_S = 365 * 24 * 3600


@dataclass(frozen=True)
class Cookie:
    """One Set-Cookie. max_age_s: None ends with the browser, 0 deletes."""

    name: str
    value: str
    path: str
    max_age_s: int | None = None


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
