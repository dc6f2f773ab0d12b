"""Traefik's own API: what it really serves. On the loopback address, behind a password."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from base64 import b64encode
from collections import Counter
from pathlib import Path

from appliance.proxies.machine import free_port, write_private
from appliance.proxies.traefik_files import API_USER

# A request that Traefik or the Hub answers instead is none of the service's. One that fails has reached nobody.
_REQUESTS = re.compile(r'^traefik_service_requests_total\{([^}]*)\} (\S+)$', re.MULTILINE)
_SERVICE = re.compile(r'(?:^|,)service="server-([a-z0-9]+)@file"')
_FAILED = re.compile(r'(?:^|,)code="(?:502|504)"')
_STARTED = re.compile(r"^process_start_time_seconds (\S+)$", re.MULTILINE)


def api_access(path: Path) -> tuple[int, str]:
    """Return the port and the password of the API, chosen at the first start and kept in `path`."""
    try:
        kept = json.loads(path.read_text())
        return int(kept["port"]), str(kept["password"])
    except (OSError, ValueError, KeyError, TypeError):
        port, password = free_port(), secrets.token_urlsafe(32)
        write_private(path, json.dumps({"port": port, "password": password}))
        return port, password


async def ask_api(port: int, password: str, path: str, timeout_s: float) -> tuple[int, str]:
    """Return (status, body), or (0, reason) if Traefik does not answer.

    A connection each (0.3 ms on the loopback), so that nothing is left open whenever the Hub ends. HTTP/1.0: no chunks.
    """
    login = b64encode(f"{API_USER}:{password}".encode()).decode()
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(
                    f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nAuthorization: Basic {login}\r\n\r\n".encode())
                head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
            finally:
                writer.close()
            return int(head.split(b" ", 2)[1]), body.decode(errors="replace")
    except (OSError, TimeoutError, IndexError, ValueError) as error:
        return 0, f"Traefik's API does not answer: {error!r}"


def read_counts(metrics: str) -> tuple[str, Counter[str]] | None:
    """Return when this Traefik was started and how many requests each server got, out of its /metrics."""
    started = _STARTED.search(metrics)
    if started is None:
        return None
    counts: Counter[str] = Counter()
    for labels, number in _REQUESTS.findall(metrics):
        service = _SERVICE.search(labels)
        if service is not None and not _FAILED.search(labels):
            counts[service[1]] += int(float(number))
    return started[1], counts
