"""What browsers report about pages that tried more than their policy allows."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from urllib.parse import urlsplit

from starlette.responses import Response

from appliance.web.visit import Visit

log = logging.getLogger(__name__)

MOST_PER_MINUTE = 10
_WORDS = ("document-uri", "blocked-uri", "effective-directive", "violated-directive")
_SHOWN = 120
_written_at: deque[float] = deque(maxlen=MOST_PER_MINUTE)


async def report(visit: Visit) -> Response:
    """Anybody may send one, so little of it is written, and not often; never what may hold a secret."""
    said = _read(await visit.request.body())
    now = time.monotonic()
    if said and not (len(_written_at) == MOST_PER_MINUTE and now - _written_at[0] < 60):
        _written_at.append(now)
        log.warning("A browser refused a page's wish: %s", said)
    return Response(status_code=204)


def _read(body: bytes) -> str:
    try:
        sent = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    found = sent.get("csp-report") if isinstance(sent, dict) else None
    if not isinstance(found, dict):
        return ""
    return ", ".join(f"{name} {_shown(value)}" for name in _WORDS if isinstance(value := found.get(name), str) and value)


def _shown(value: str) -> str:
    """Return it without a query, which may hold a token, and without what is no text."""
    try:
        parts = urlsplit(value[:2000])
    except ValueError:
        return "?"
    text = f"{parts.scheme}://{parts.hostname or ''}{parts.path}" if parts.scheme and parts.netloc else value.partition("?")[0]
    return "".join(char for char in text[:_SHOWN] if char.isprintable())
