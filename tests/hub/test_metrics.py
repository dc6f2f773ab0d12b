"""What is counted while servers come and go."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import event

from appliance.domain.names import SMOKE_USER
from appliance.domain.server import Phase
from appliance.errors import SpawnError
from appliance.hub.census import Census
from appliance.hub.metrics import State
from appliance.ports import ServerHandle, ServerSpec
from appliance.store import events, users
from hub.conftest import MiniHub, World

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


def value(text: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found, f"{name} is not in\n{text}"
    return float(found[1])


async def scrape(hub: MiniHub) -> str:
    return hub.metrics.render(await Census(hub.db, hub.reconciler, hub.spawner, hub.world.homes).take()).decode()


async def test_starts_and_stops_are_counted_with_their_time(world: World) -> None:
    async with world.hub() as hub:
        server = await hub.start("alice")
        text = await scrape(hub)
        assert value(text, "jupyterhub_running_servers") == value(text, 'appliance_servers{phase="ready"}') == 1
        assert value(text, "jupyterhub_total_users") == 1
        assert value(text, 'jupyterhub_server_spawn_duration_seconds_count{status="success"}') == 1
        assert value(text, 'jupyterhub_server_spawn_duration_seconds_sum{status="success"}') < 15
        await hub.servers.stop(await hub.user("alice"), actor="alice")
        await hub.until(server.id, Phase.STOPPED)
        await hub.eventually(lambda: b'server_stop_seconds_count{status="success"} 1.0' in hub.metrics.render(State()))
        assert value(await scrape(hub), "jupyterhub_running_servers") == 0
        assert value(await scrape(hub), 'jupyterhub_proxy_add_duration_seconds_count{status="success"}') == 1
        assert value(await scrape(hub), 'jupyterhub_proxy_delete_duration_seconds_count{status="success"}') == 1


async def test_a_container_ends_after_its_route_and_also_while_the_proxy_is_away(world: World) -> None:
    async with world.hub() as hub:
        server = await hub.start("alice")
        world.proxy.is_down = True
        await hub.servers.stop(await hub.user("alice"), actor="alice")
        await hub.until(server.id, Phase.STOPPED)
        assert not world.proxy.wanted
        assert value(await scrape(hub), 'jupyterhub_proxy_delete_duration_seconds_count{status="failure"}') == 1


async def test_failures_are_counted_by_cause(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world.hub() as hub:
        async def fail(spec: ServerSpec) -> ServerHandle:
            raise SpawnError()

        monkeypatch.setattr(hub.spawner, "start", fail)
        await hub.start("alice", until=Phase.FAILED)
        text = await scrape(hub)
        assert value(text, f'appliance_server_failures_total{{code="{SpawnError.code}"}}') == 1
        assert value(text, 'jupyterhub_server_spawn_duration_seconds_count{status="failure"}') == 1


async def test_the_boxs_own_account_counts_nowhere(world: World) -> None:
    async with world.hub() as hub:
        await hub.start(SMOKE_USER)
        text = await scrape(hub)
        for name in ("jupyterhub_running_servers", "jupyterhub_total_users", 'jupyterhub_active_users{period="24h"}',
                     'jupyterhub_server_spawn_duration_seconds_count{status="success"}'):
            assert value(text, name) == 0


async def test_the_active_are_counted_by_period(world: World) -> None:
    async with world.hub() as hub:
        await hub.session("alice")
        await hub.start("alice")    # makes a home
        await hub.user("bob")
        await world.db.transact(lambda t: users.add(t, "carol"))
        await world.db.transact(lambda t: users.archive(t, "carol"))
        text = await scrape(hub)
        assert value(text, 'jupyterhub_active_users{period="24h"}') == 1
        assert value(text, "jupyterhub_total_users") == 2
        assert value(text, "appliance_archived_users") == 1
        assert value(text, "appliance_homes_size_bytes") > value(text, "appliance_homes_available_bytes") > 0


async def test_the_log_of_events_is_never_read(world: World) -> None:
    async with world.hub() as hub:
        await hub.start("alice")
        for _ in range(50):
            await world.db.transact(lambda t: events.append(t, "noise"))
        asked: list[str] = []
        event.listen(world.db.engine, "before_cursor_execute", lambda c, cursor, statement, *rest: asked.append(statement))
        census = Census(hub.db, hub.reconciler, hub.spawner, world.homes)
        await census.take()
        first = len(asked)
        await census.take()
        assert asked
        assert not any("events" in statement for statement in asked if "noise" not in statement and "INSERT" not in statement)
        assert len(asked) - first < first   # who was active is not asked again so soon
