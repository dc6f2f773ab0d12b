"""Limits as people write them."""

from __future__ import annotations

import re

from appliance.errors import BadOption

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", re.IGNORECASE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_bytes(text: str | int | float) -> int:
    """Return bytes of 1073741824, "512M", "1.5G" (powers of 1024). Raises BadOption."""
    if isinstance(text, (int, float)) and not isinstance(text, bool) and text >= 0:
        return int(text)
    match = _SIZE.fullmatch(str(text))
    if match is None:
        raise BadOption(f"“{text}” is not a size; write it like 512M or 2G.")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def format_bytes(count: int) -> str:
    """Return "1.5 GB" and the like, in powers of 1024."""
    size = float(count)
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit in ("bytes", "KB", "MB") or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TB"


def parse_cores(said: object) -> float | None:
    """Return a number of cores, None for None. Raises BadOption."""
    if said is None:
        return None
    if isinstance(said, bool) or not isinstance(said, (int, float)) or not 0.01 <= said <= 1024:
        raise BadOption("“cpu_limit” is a number of cores like 0.5 or 2.")
    return float(said)
