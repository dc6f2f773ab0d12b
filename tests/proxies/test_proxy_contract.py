"""Both Proxies pass the one contract."""

from __future__ import annotations

import pytest
from proxy_box import Box

from appliance.proxies.traefik import TraefikProxy
from appliance.testing.proxies import HUB, FakeProxy, ProxyContract


@pytest.mark.unit
class TestFakeProxy(ProxyContract):
    @pytest.fixture
    async def proxy(self) -> FakeProxy:
        proxy = FakeProxy()
        await proxy.start()
        return proxy

    async def destination(self, proxy: FakeProxy, path: str, cookie: str = "", origin: str = "") -> str:
        return proxy.destination(path, cookie, origin)


@pytest.mark.engine
class TestTraefikProxy(ProxyContract):
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
