"""A real Traefik in front of a Hub and two servers that say what they were sent."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from appliance.domain.route import Route
from appliance.proxies.traefik import TraefikProxy
from appliance.testing.proxies import HUB, ProxyContract, Reply, Request, TinyServer

HUB_SECRET = "hub-secret-4711"


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def get(self, name: str) -> str:
        return ", ".join(value for key, value in self.headers if key.lower() == name.lower())

    @property
    def served_by(self) -> str:
        return self.get("X-Served-By")


@dataclass
class Box:
    """Traefik's public port, the Hub behind it and two servers."""

    proxy: TraefikProxy
    hub: TinyServer
    one: TinyServer
    two: TinyServer
    older: list[TraefikProxy] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.proxy.state_dir / "traefik"

    async def ask(self, target: str, *headers: str, method: str = "GET", body: bytes = b"") -> Answer:
        """Send one request byte by byte as given; `target` and headers are not touched."""
        return await ask(self.proxy.bind_port, target, *headers, method=method, body=body)

    async def serve(self, *routes: Route) -> None:
        await self.proxy.set_routes({route.server_id: route for route in routes})
        for route in routes:
            await self.proxy.wait_live(route.server_id)

    def another_hub(self, **changes: object) -> TraefikProxy:
        """Return the Proxy of a Hub that starts after this one."""
        proxy = make_proxy(self.proxy.state_dir, self.proxy.bind_port, self.hub.url)
        for name, value in changes.items():
            setattr(proxy, name, value)
        self.older.append(self.proxy)
        self.proxy = proxy
        return proxy


async def ask(port: int, target: str, *headers: str, method: str = "GET", body: bytes = b"") -> Answer:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        lines = [f"{method} {target} HTTP/1.1", "Host: box.school:8000", "Connection: close", *headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        async with asyncio.timeout(10):
            head, _, rest = (await reader.read(-1)).partition(b"\r\n\r\n")
    finally:
        writer.close()
    status, *fields = head.decode("latin-1").split("\r\n")
    pairs = [(key, value.strip()) for key, value in (line.split(":", 1) for line in fields)]
    return Answer(int(status.split(" ")[1]), pairs, rest)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_proxy(state_dir: Path, port: int, hub_url: str) -> TraefikProxy:
    proxy = TraefikProxy()
    proxy.state_dir, proxy.bind_port, proxy.hub_url, proxy.hub_secret = state_dir, port, hub_url, HUB_SECRET
    proxy.bind_ip = "127.0.0.1"
    return proxy


def answer_as_hub(request: Request) -> Reply | None:
    """Let in the API token "good" for the server k3f9k3f9; "silent" too, but without saying what to send instead."""
    if not request.target.startswith("/hub/api/internal/authorize/"):
        return None
    if not request.target.endswith("/k3f9k3f9"):
        return Reply(403)
    if request.get("X-Appliance-Proxy") != HUB_SECRET:
        return Reply(400)
    if request.get("Authorization") == "token good":
        return Reply(200, {"Authorization": "token by-the-hub"})
    return Reply(200 if request.get("Authorization") == "token silent" else 403)


@asynccontextmanager
async def make_box(state_dir: Path) -> AsyncIterator[Box]:
    """Run everything; at the end every Traefik that was started is ended."""
    async with TinyServer("hub", answer_as_hub) as hub, TinyServer("one") as one, TinyServer("two") as two:
        box = Box(make_proxy(state_dir, free_port(), hub.url), hub, one, two)
        try:
            await box.proxy.start()
            yield box
        finally:
            for proxy in (box.proxy, *box.older):
                await proxy.stop()  # the older ones reap what was their child


class TraefikContract(ProxyContract):
    """The contract, asked of the fixture `box`'s Traefik over HTTP."""

    @pytest.fixture
    def servers(self, box: Box) -> tuple[str, str]:
        return box.one.url, box.two.url

    @pytest.fixture
    async def proxy(self, box: Box) -> TraefikProxy:
        self.box = box
        await box.serve()
        return box.proxy

    async def destination(self, proxy: TraefikProxy, path: str, cookie: str = "", origin: str = "") -> str:
        headers = [f"Cookie: {cookie}"] * bool(cookie) + [f"Origin: {origin}"] * bool(origin)
        answer = await self.box.ask(path, *headers)
        return {"hub": HUB, "one": self.box.one.url, "two": self.box.two.url}[answer.served_by]
