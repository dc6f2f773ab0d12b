"""For tests: fakes of drivers, and the contracts that every Spawner, Homes driver and Proxy passes.

    class TestMySpawner(SpawnerContract):
        @pytest.fixture
        async def spawner(self, state_dir):
            spawner = MySpawner()
            spawner.state_dir = state_dir
            await spawner.prepare()
            yield spawner
            await spawner.close()

Tests are run by anyio's own pytest plugin, which comes with anyio.
"""

from appliance.testing.homes import FakeHomes, HomesContract
from appliance.testing.proxies import FakeProxy, ProxyContract
from appliance.testing.spawners import FakeEngine, FakeSpawner, SpawnerContract

__all__ = ["FakeEngine", "FakeHomes", "FakeProxy", "FakeSpawner", "HomesContract", "ProxyContract", "SpawnerContract"]
