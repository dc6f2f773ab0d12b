"""Asks an app in a server whether it answers."""

from __future__ import annotations

import json
import ssl
from urllib.parse import urlsplit

import anyio
import httpx

CONNECT_TIMEOUT_S = 1.0
MOST_BYTES = 256 << 10        # of an answer; nothing in a server is trusted


class Probe:
    """One HTTP client for all probes; redirects are not followed, nothing is trusted but the status."""

    def __init__(self) -> None:
        # servers speak plain HTTP on the bridge: no need to load the system's certificates into memory
        self._client = httpx.AsyncClient(trust_env=False, verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    async def listens(self, url: str) -> bool:
        """Say whether somebody accepts connections at "http://host:port"; costs far less than a request."""
        parts = urlsplit(url)
        try:
            with anyio.fail_after(CONNECT_TIMEOUT_S):
                stream = await anyio.connect_tcp(parts.hostname or "", parts.port or 80)
                await stream.aclose()
        except (OSError, TimeoutError):
            return False
        return True

    async def status(self, url: str, *, token: str | None, timeout_s: float) -> int | None:
        """Return the status of GET `url`, None if there was no answer in time."""
        headers = {"Connection": "close"} | ({"Authorization": f"token {token}"} if token else {})
        try:
            async with self._client.stream("GET", url, headers=headers, timeout=timeout_s) as response:
                return response.status_code
        except (httpx.HTTPError, OSError):
            return None

    async def json(self, url: str, *, token: str | None, timeout_s: float) -> tuple[bool, object]:
        """Return whether there was an answer of any kind, and what GET `url` says in JSON, None if it does not."""
        headers = {"Connection": "close", "Accept": "application/json"} | ({"Authorization": f"token {token}"} if token else {})
        body = bytearray()
        try:
            with anyio.fail_after(timeout_s):
                async with self._client.stream("GET", url, headers=headers, timeout=timeout_s) as response:
                    if response.status_code != 200:
                        return response.status_code < 500, None
                    async for part in response.aiter_bytes():
                        body += part
                        if len(body) > MOST_BYTES:
                            return True, None
        except (httpx.HTTPError, OSError):      # TimeoutError is one
            return False, None
        try:
            return True, json.loads(body)
        except (ValueError, RecursionError):
            return True, None

    async def close(self) -> None:
        await self._client.aclose()
