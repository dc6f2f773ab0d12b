"""The box as a browser has it: its pages, and for how long nobody could connect."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from appliance.box.shell import BoxError

CHECK_S = 30.0


class Watch:
    """Knocks at the public port and at the Hub's while the body runs, and knows how long each was closed at most."""

    EVERY_S = 0.05

    def __init__(self, host: str, port: int, hub_port: int) -> None:
        self.public_s = self.hub_s = 0.0
        self._doors = ((host, port), ("127.0.0.1", hub_port))
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._knock, args=(number,), daemon=True) for number in (0, 1)]

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=5)

    def _knock(self, number: int) -> None:
        closed_at: float | None = None
        while not self._over.is_set():
            now = time.monotonic()
            try:
                with socket.create_connection(self._doors[number], timeout=2):
                    closed_at = None
            except OSError:
                closed_at = closed_at or now
                gap = round(time.monotonic() - closed_at + self.EVERY_S, 2)
                if number == 0:
                    self.public_s = max(self.public_s, gap)
                else:
                    self.hub_s = max(self.hub_s, gap)
            self._over.wait(self.EVERY_S)


def address(facts: dict[str, Any]) -> str:
    """Where this machine itself reaches the public port."""
    ip = str(facts.get("ip", ""))
    return "127.0.0.1" if ip in ("", "0.0.0.0") else "::1" if ip == "::" else ip


def check_pages(facts: dict[str, Any], version: str, *, before: frozenset[str] | None = None, within_s: float = CHECK_S,
                sleep: Callable[[float], None] = time.sleep) -> None:
    """Ask through Traefik for the login page and for the Hub, until it knows whether it can start servers.

    before: what was wrong with the old Hub; a new trouble is an error. Raises BoxError.
    """
    ends_at = time.monotonic() + within_s
    while True:
        try:
            status, _ = get(facts, "hub/login")
            health = json.loads(get(facts, "hub/health")[1])
            found = health.get("version")
            if status == 200 and found == version and health.get("ready", True):  # 0.1 does not say
                if before is not None and (new := sorted({*health["problems"]} - before)):
                    raise BoxError(f"The new Hub has a trouble the old one had not ({', '.join(new)}).", "appliance doctor")
                return
            said = f"the login page answers with {status}, and the Hub says it has version {found}"
        except (OSError, http.client.HTTPException, ValueError) as error:
            said = str(error) or type(error).__name__
        if time.monotonic() >= ends_at:
            raise BoxError(f"The login page cannot be reached through Traefik: {said}.", "appliance doctor")
        sleep(0.2)


def get(facts: dict[str, Any], path: str) -> tuple[int, bytes]:
    """GET a page of the Hub from the public port, under the name people use, whoever has signed its certificate."""
    host, port = address(facts), int(facts["port"])
    name = urlsplit(str(facts.get("public_origin") or "")).netloc
    if facts.get("tls", "off") == "off":
        connection = http.client.HTTPConnection(host, port, timeout=10)
    else:
        trust = ssl.create_default_context()
        trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=10, context=trust)
    try:
        connection.request("GET", f"{facts['base_url']}{path}", headers={"Host": name} if name else {})
        answer = connection.getresponse()
        return answer.status, answer.read(1 << 20)
    finally:
        connection.close()
