"""Log lines of a server, made fit for a page and for an admin's eyes."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"((?:token|password|secret)[=:]\s*)[^\s&'\"]+", re.IGNORECASE)
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


def readable(log: bytes | str) -> str:
    """Return `log` without control characters and tokens."""
    text = log.decode(errors="replace") if isinstance(log, bytes) else log
    return _TOKEN.sub(r"\1…", _CONTROL.sub("", text))
