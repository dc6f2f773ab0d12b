from __future__ import annotations

from dataclasses import replace

import anyio
import pytest

from appliance.domain.server import Phase, Wanted
from appliance.errors import DiskFull, ImageMissing
from appliance.store import servers as store
from appliance.store import users
from hub.conftest import World

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


async def test_a_click_becomes_a_ready_server_with_a_route(world: World) -> None:
    async with world.hub() as hub:
        session = await hub.session()
        server = await hub.start()
        value = await hub.servers.enter(session, server)
        route = world.proxy.live[server.id]
        assert route.url == server.url == world.engine.servers[server.id].url
        assert route.capabilities == (value,)
        assert route.origins == ("http://box",)
        assert route.injected_token is not None


async def test_two_clicks_at_once_start_once(world: World) -> None:
    world.engine.start_takes_s = 0.2
    async with world.hub() as hub:
        user = await hub.user()
        async with anyio.create_task_group() as clicks:
            for _ in range(5):
                clicks.start_soon(lambda: hub.servers.start(user, actor="alice"))
        server = await hub.start()
        assert server.start_no == 1
    assert [call[0] for call in world.engine.calls] == ["start"]


async def test_stop_leaves_no_container_and_no_route(world: World) -> None:
    async with world.hub() as hub:
        server = await hub.start()
        await hub.servers.stop(await hub.user(), actor="alice")
        stopped = await hub.until(server.id, Phase.STOPPED)
        assert stopped.url == ""
    assert not world.engine.servers
    assert not world.proxy.wanted


async def test_stop_during_start_stops(world: World) -> None:
    world.engine.start_takes_s = 0.3
    async with world.hub() as hub:
        server = await hub.start(until=Phase.STARTING)
        await hub.servers.stop(await hub.user(), actor="alice")
        await hub.until(server.id, Phase.STOPPED)
    assert not world.engine.servers
    assert not world.proxy.wanted


async def test_start_during_stop_starts_again(world: World) -> None:
    async with world.hub() as hub:
        first = await hub.start()
        world.engine.stop_takes_s = 0.3
        await hub.servers.stop(await hub.user(), actor="alice")
        await hub.until(first.id, Phase.STOPPING)
        again = await hub.start()
        assert again.start_no == first.start_no + 1
        assert world.engine.servers[first.id].start_no == again.start_no


async def test_stop_and_start_at_once_during_boot_ends_with_the_later_start(world: World) -> None:
    world.engine.status = 503
    async with world.hub() as hub:
        first = await hub.start(until=Phase.BOOTING)
        await hub.servers.stop(await hub.user(), actor="alice")
        await hub.servers.start(await hub.user(), actor="alice")
        world.engine.status = 200
        again = await hub.until(first.id, Phase.READY)
        assert again.start_no == 2
        assert world.proxy.live[again.id].start_no == 2


async def test_servers_queue_first_come_first_served(world: World) -> None:
    world.limit = 1
    world.engine.start_takes_s = 0.5
    async with world.hub() as hub:
        first = await hub.start("alice", until=Phase.STARTING)
        second, third = await hub.start("bob", until=None), await hub.start("carol", until=None)
        await hub.eventually(lambda: hub.servers.queue_position(third.id) == 2)
        assert hub.servers.queue_position(second.id) == 1
        for server in (first, second, third):
            await hub.until(server.id, Phase.READY)
        assert hub.servers.queue_position(third.id) is None
    assert [call[1] for call in world.engine.calls] == [first.id, second.id, third.id]


async def test_a_server_that_waits_can_be_stopped(world: World) -> None:
    world.limit = 1
    world.engine.start_takes_s = 0.5
    async with world.hub() as hub:
        first = await hub.start("alice", until=Phase.STARTING)
        second, third = await hub.start("bob", until=None), await hub.start("carol", until=None)
        await hub.eventually(lambda: hub.servers.queue_position(third.id) == 2)
        await hub.servers.stop(await hub.user("bob"), actor="bob")
        await hub.until(second.id, Phase.STOPPED)
        await hub.eventually(lambda: hub.servers.queue_position(third.id) in (1, None))
        await hub.until(first.id, Phase.READY)
        await hub.until(third.id, Phase.READY)
    assert second.id not in world.engine.servers


async def test_a_full_box_says_so(world: World) -> None:
    world.active_limit = 1
    async with world.hub() as hub:
        await hub.start("alice")
        refused = await hub.start("bob", until=Phase.FAILED)
        assert refused.failure is not None
        assert refused.failure.code == "box-full"


@pytest.mark.parametrize(("script", "code"), [
    ({"failures": [ImageMissing()]}, "image-missing"),
    ({"failures": [DiskFull()]}, "disk-full"),
    ({"exits": [(3, "Traceback: no such kernel\n")]}, "app-exited"),
    ({"exits": [(127, "")]}, "app-exited"),
    ({"status": 500}, "app-answers-errors"),
])
async def test_a_start_that_fails_says_why_and_the_next_works(world: World, script: dict[str, object], code: str) -> None:
    world.traits = {"http_timeout": 1}
    for name, value in script.items():
        setattr(world.engine, name, value)
    async with world.hub() as hub:
        failed = await hub.start(until=Phase.FAILED)
        assert failed.failure is not None
        assert failed.failure.sentence.endswith((".", "!"))
        assert failed.failure.code == code or (code == "app-exited" and failed.failure.code == "image-broken")
        assert failed.wanted is Wanted.STOPPED
        await hub.eventually(lambda: not world.engine.servers and not world.proxy.wanted)
        world.engine.status = 200
        await hub.start()


async def test_the_last_words_of_a_server_are_evidence_without_its_secrets(world: World) -> None:
    world.engine.exits = [(1, "http://x/?token=abcdef123456\nKilled by a bug\n")]
    async with world.hub() as hub:
        failed = await hub.start(until=Phase.FAILED)
        assert failed.failure is not None
        assert "Killed by a bug" in failed.failure.evidence
        assert "abcdef123456" not in failed.failure.evidence


async def test_a_server_that_never_listens_fails_in_time(world: World) -> None:
    world.traits = {"http_timeout": 1}
    async with world.hub() as hub:
        hub.spawner.listens, hub.spawner.subnet = False, "127.66.0."
        failed = await hub.start(until=Phase.FAILED)
        assert failed.failure is not None
        assert failed.failure.code == "app-never-listened"


async def test_a_start_that_hangs_ends_at_its_deadline(world: World) -> None:
    world.traits = {"start_timeout": 1}
    world.engine.start_takes_s = 60
    async with world.hub() as hub:
        failed = await hub.start(until=Phase.FAILED)
        assert failed.failure is not None
        assert failed.failure.code == "start-timeout"
        world.engine.start_takes_s = 0
        await hub.start()


@pytest.mark.parametrize(("end", "code"), [
    ({"exit_code": 137, "oom_killed": True}, "out-of-memory"),
    ({"exit_code": 137}, "app-gone"),
    ({"exit_code": 1}, "app-exited"),
])
async def test_a_server_that_dies_is_noticed_and_explained(world: World, end: dict[str, int], code: str) -> None:
    async with world.hub() as hub:
        server = await hub.start()
        world.engine.end(server.id, **end)  # type: ignore[arg-type]
        failed = await hub.until(server.id, Phase.FAILED)
        assert failed.failure is not None
        assert failed.failure.code == code
        await hub.eventually(lambda: not world.engine.servers and not world.proxy.wanted)


async def test_a_server_removed_behind_the_hubs_back_is_noticed(world: World) -> None:
    async with world.hub() as hub:
        server = await hub.start()
        world.engine.vanish(server.id)
        failed = await hub.until(server.id, Phase.FAILED)
        assert failed.failure is not None
        assert failed.failure.code == "app-gone"


async def test_a_server_that_believes_in_an_old_address_is_ended_and_told(world: World) -> None:
    async with world.hub() as hub:
        server = await hub.start()
    world.engine.servers[server.id] = replace(world.engine.servers[server.id], prefix="/jupyter/user/alice/")
    async with world.hub() as hub:
        failed = await hub.until(server.id, Phase.FAILED)
        assert failed.failure is not None
        assert failed.failure.code == "address-changed"
        await hub.start()


async def test_without_the_engine_a_start_fails_with_a_sentence_and_works_later(world: World) -> None:
    world.engine.down = True
    async with world.hub() as hub:
        failed = await hub.start(until=Phase.FAILED)
        assert failed.failure is not None
        assert failed.failure.code == "engine-down"
        world.engine.down = False
        await hub.eventually(lambda: hub.reconciler.problem is None)
        await hub.start()


async def test_an_engine_that_goes_away_interrupts_nobody(world: World) -> None:
    async with world.hub() as hub:
        server = await hub.start()
        world.engine.down = True
        world.engine.tell("")
        await hub.eventually(lambda: hub.reconciler.problem is not None)
        hub.reconciler.wake(server.id)
        await anyio.sleep(0.2)
        assert (await hub.servers.by_id(server.id) or server).phase is Phase.READY
        assert server.id in world.proxy.live
        world.engine.down = False
        await hub.eventually(lambda: hub.reconciler.problem is None)
        assert (await hub.servers.by_id(server.id) or server).phase is Phase.READY


async def test_nothing_stays_stopping_when_the_engine_is_away(world: World) -> None:
    world.traits = {"stop_timeout": -19}  # with the margin on top: one second
    async with world.hub() as hub:
        server = await hub.start()
        world.engine.down = True
        await hub.servers.stop(await hub.user(), actor="alice")
        failed = await hub.until(server.id, Phase.FAILED)
        assert failed.failure is not None
        assert failed.failure.code == "engine-down"
        world.engine.down = False
        await hub.eventually(lambda: not world.engine.servers)


async def test_homes_that_are_away_start_nothing(world: World) -> None:
    world.homes.unavailable = True
    async with world.hub() as hub:
        failed = await hub.start(until=Phase.FAILED)
        assert failed.failure is not None
        assert failed.failure.code == "homes-unavailable"
    assert "start" not in [call[0] for call in world.engine.calls]


async def test_a_proxy_that_is_down_fails_the_start_with_a_sentence(world: World) -> None:
    world.proxy.is_down = True
    async with world.hub() as hub:
        failed = await hub.start(until=Phase.FAILED)
        assert failed.failure is not None
        assert failed.failure.code == "proxy-down"
    assert not world.engine.servers


async def test_a_deleted_user_leaves_no_server(world: World) -> None:
    async with world.hub() as hub:
        server = await hub.start()
        await world.db.transact(lambda t: users.delete(t, "alice"))
        await hub.gone(server.id)
    assert not world.proxy.wanted


async def test_a_container_of_nobody_is_ended(world: World) -> None:
    async with world.hub() as hub:
        server = await hub.start()
        await world.db.transact(lambda t: store.delete(t, server.id))
        world.engine.tell(server.id)
        await hub.gone(server.id)
    assert not world.proxy.wanted


async def test_a_lost_database_costs_nobody_a_running_server(world: World) -> None:
    async with world.hub() as hub:
        server = await hub.start()
        uid = server.uid
    await world.db.transact(_forget_everything)
    async with world.hub() as hub:
        found = None
        while found is None:
            await anyio.sleep(0.02)
            found = await hub.servers.by_id(server.id)
        await hub.eventually(lambda: server.id in world.proxy.live)
        assert (found.user_name, found.uid, found.start_no, found.phase) == ("alice", uid, server.start_no, Phase.READY)
        session = await hub.session()
        assert session.user.uid == uid
        await hub.servers.enter(session, found)
        assert (await hub.user("bob")).uid > uid
    assert [call[0] for call in world.engine.calls] == ["start"]


def _forget_everything(t: users.Transaction) -> None:
    from appliance.store.rows import Base

    for table in reversed(Base.metadata.sorted_tables):
        t.execute(table.delete())


async def test_a_home_found_in_a_new_database_keeps_its_owner_and_its_uid(world: World) -> None:
    from appliance.main import open_store

    await world.homes.ensure(100_007, "ada")
    await world.homes.ensure(100_009, "bad name!")  # nobody's name any more, still somebody's files
    world.db.close()
    for file in world.path.glob("appliance.sqlite*"):
        file.unlink()
    await open_store(world.db, world.homes)
    async with world.hub() as hub:
        assert (await hub.user("ada")).uid == 100_007
        assert (await hub.user("bob")).uid == 100_010


async def test_a_deleted_users_home_brings_nobody_back(world: World) -> None:
    async with world.hub() as hub:
        ada = await hub.user("ada")
        await world.homes.ensure(ada.uid, "ada")
        await world.db.transact(lambda t: users.delete(t, "ada"))
    async with world.hub() as hub:
        await hub.start("bob")
        assert await hub.accounts.find_user("ada") is None


async def test_a_home_is_in_use_while_another_server_of_its_user_is_up_or_a_container_is_left(world: World) -> None:
    world.engine.start_takes_s = 0.5
    async with world.hub() as hub:
        server = await hub.start(until=Phase.STARTING)
        in_use = hub.reconciler._life.home_in_use
        assert not await in_use(server.uid)                  # only the one that is being started
        second = await hub.servers.start(await hub.user(), "lab2", actor="alice")
        await hub.until(second.id, Phase.STARTING)
        assert await in_use(server.uid)                      # which may have been given the home already
        assert not await in_use(server.uid + 1)
        await hub.until(server.id, Phase.READY)
        await hub.servers.stop(await hub.user(), "lab2", actor="alice")
        await hub.until(second.id, Phase.STOPPED)
        assert await in_use(server.uid)                      # its container runs


async def test_a_start_that_fails_in_a_full_home_says_so(world: World) -> None:
    world.engine.exits = [(1, "OSError: [Errno 122] Disk quota exceeded: '/home/alice/.jupyter'\n")]
    async with world.hub() as hub:
        failed = await hub.start(until=Phase.FAILED)
        assert failed.failure is not None
        assert failed.failure.code == "home-full"
        assert "Disk quota exceeded" in failed.failure.evidence
