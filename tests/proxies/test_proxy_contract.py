"""Both Proxies pass the one contract."""

from __future__ import annotations

import pytest
from proxy_box import TraefikContract

from appliance.testing.proxies import FakeProxy, ProxyContract


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
class TestTraefikProxy(TraefikContract):
    """As a process of the Hub's."""
