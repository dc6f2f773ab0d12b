"""Machine or engine were restarted: who ran runs again, who did not stays as it was."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from appliance.config import default_run_dir, load_settings
from appliance.domain.server import Phase, Wanted
from appliance.hub.reboot import Marker
from appliance.ports import ActualState
from appliance.store import events, users
from appliance.store.rows import ServerRow
from hub.conftest import World
from hub.test_killed_hub import Killed, dies_at

pytestmark = [pytest.mark.unit, pytest.mark.anyio]
MACHINE, ENGINE = "restarted after the machine was", "restarted after the container engine was"


@pytest.fixture
def run_dir(world: World) -> Path:
    folder = world.path / "run"
    world.marker = Marker(folder, world.path / "state")
    return folder


def reboot(world: World, run_dir: Path) -> None:
    """What a Hub finds that was ended by it: containers that exited, and an empty /run."""
    for server_id in list(world.engine.servers):
        world.engine.end(server_id, 137)
    forget(run_dir)


def forget(run_dir: Path) -> None:
    for file in run_dir.iterdir():
        file.unlink()


async def reasons(world: World, server_id: str) -> list[str]:
    return [event.data["why"] for event in await world.db.read(lambda t: events.of_server(t, server_id))
            if "why" in event.data]


async def test_who_ran_runs_again_and_who_did_not_stays(world: World, run_dir: Path) -> None:
    async with world.hub() as hub:
        alice, bob = await hub.start("alice"), await hub.start("bob")
        carol, dave = await hub.start("carol"), await hub.start("dave")
        await hub.servers.stop(await hub.user("carol"), actor="carol")
        await hub.until(carol.id, Phase.STOPPED)
        world.engine.end(dave.id, 1)
        await hub.until(dave.id, Phase.FAILED)
        await hub.eventually(lambda: dave.id not in world.engine.servers)
    reboot(world, run_dir)
    del world.engine.servers[bob.id]           # whether the engine still knows it makes no difference
    async with world.hub() as hub:
        for server in (alice, bob):
            again = await hub.until(server.id, Phase.READY, Phase.FAILED)
            if again.start_no == 1:            # not noticed yet
                again = await hub.until(server.id, Phase.QUEUED, Phase.STARTING, Phase.BOOTING)
                again = await hub.until(server.id, Phase.READY)
            assert (again.phase, again.start_no, again.failure) == (Phase.READY, 2, None)
            assert await reasons(world, server.id) == [MACHINE]
            await hub.eventually(lambda: world.proxy.live[server.id].url == world.engine.servers[server.id].url)  # noqa: B023
        for server, phase in ((carol, Phase.STOPPED), (dave, Phase.FAILED)):
            now = await hub.servers.by_id(server.id)
            assert now is not None
            assert (now.phase, now.wanted, now.start_no) == (phase, Wanted.STOPPED, 1)
    assert world.engine.calls.count(("start", alice.id, 2)) == 1


async def test_who_still_runs_is_adopted(world: World, run_dir: Path) -> None:
    async with world.hub() as hub:
        alice, bob = await hub.start("alice"), await hub.start("bob")
    forget(run_dir)
    world.engine.end(bob.id, 137)
    async with world.hub() as hub:
        await hub.eventually(lambda: ("start", bob.id, 2) in world.engine.calls)
        await hub.until(bob.id, Phase.READY)
        there = await hub.servers.by_id(alice.id)
        assert there is not None
        assert (there.phase, there.start_no) == (Phase.READY, 1)
        assert await reasons(world, alice.id) == []


async def test_without_a_reboot_who_ended_is_explained_and_not_started(world: World, run_dir: Path) -> None:
    async with world.hub() as hub:
        server = await hub.start()
    world.engine.end(server.id, 1)
    async with world.hub() as hub:
        assert (await hub.until(server.id, Phase.FAILED)).start_no == 1
    assert await reasons(world, server.id) == []


async def test_those_active_last_come_first_and_the_others_wait_their_turn(world: World, run_dir: Path) -> None:
    names = ("alice", "bob", "carol")
    async with world.hub() as hub:
        ids = {name: (await hub.start(name)).id for name in names}
    now = datetime.now(UTC)
    ago_min = {"alice": 30, "bob": 10, "carol": 20}

    def write(t: users.Transaction) -> None:
        for row in t.query(ServerRow):
            row.last_activity_at = row.user.last_activity_at = now - timedelta(minutes=ago_min[row.user.name])

    await world.db.transact(write)
    reboot(world, run_dir)
    world.limit, world.engine.start_takes_s = 1, 0.2
    world.engine.calls.clear()
    async with world.hub() as hub:
        await hub.eventually(lambda: len([call for call in world.engine.calls if call[0] == "start"]) == 3)
        for server_id in ids.values():
            await hub.until(server_id, Phase.READY)
    assert [call[1] for call in world.engine.calls if call[0] == "start"] == [ids["bob"], ids["carol"], ids["alice"]]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_hub_killed_before_it_wrote_the_marker_leaves_the_rest_to_the_next(
    world: World, run_dir: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with world.hub() as hub:
        server = await hub.start()
    reboot(world, run_dir)

    def killed(self: Marker) -> None:
        raise Killed()

    with monkeypatch.context() as patched, pytest.raises(BaseExceptionGroup) as group:
        patched.setattr(Marker, "write", killed)
        async with world.hub() as hub:
            await hub.eventually(lambda: False)
    assert group.value.subgroup(Killed) is not None
    async with world.hub() as hub:
        again = await hub.until(server.id, Phase.READY)
        assert again.start_no == 2
    assert await reasons(world, server.id) == [MACHINE]


async def test_a_start_the_reboot_cut_short_is_made_again(world: World, run_dir: Path) -> None:
    with pytest.raises(BaseExceptionGroup):
        async with world.hub(dies_at("created")) as hub:  # type: ignore[arg-type]
            server = await hub.start(until=None)
            await hub.eventually(lambda: False)
    reboot(world, run_dir)
    async with world.hub() as hub:
        await hub.eventually(lambda: ("start", server.id, 2) in world.engine.calls)
        await hub.until(server.id, Phase.READY)


async def test_an_engine_that_comes_later_than_the_hub_is_waited_for(world: World, run_dir: Path) -> None:
    async with world.hub() as hub:
        server = await hub.start()
    reboot(world, run_dir)
    world.engine.down = True
    async with world.hub() as hub:
        hub.reconciler.wake(server.id)         # as a click, an event or a timer would
        await anyio.sleep(0.3)
        there = await hub.servers.by_id(server.id)
        assert there is not None
        assert there.phase is Phase.READY
        world.engine.down = False
        await hub.eventually(lambda: ("start", server.id, 2) in world.engine.calls)
        await hub.until(server.id, Phase.READY)


async def test_servers_that_ended_with_their_engine_are_started_again(world: World) -> None:
    async with world.hub() as hub:
        alice, bob, carol = await hub.start("alice"), await hub.start("bob"), await hub.start("carol")
        world.engine.down = True
        world.engine.tell("")
        world.engine.end(alice.id, 137)
        world.engine.end(bob.id, 137, oom_killed=True)
        await hub.eventually(lambda: hub.reconciler.problem is not None)
        world.engine.down = False
        world.engine.tell("")
        await hub.eventually(lambda: ("start", alice.id, 2) in world.engine.calls)
        await hub.until(alice.id, Phase.READY)
        failed = await hub.until(bob.id, Phase.FAILED)     # that would have happened in any case
        assert failed.failure is not None
        assert failed.failure.code == "out-of-memory"
        there = await hub.servers.by_id(carol.id)
        assert there is not None
        assert (there.phase, there.start_no) == (Phase.READY, 1)
    assert await reasons(world, alice.id) == [ENGINE]
    assert await reasons(world, carol.id) == []


async def test_a_server_that_ended_before_its_engine_went_is_explained(world: World) -> None:
    async with world.hub() as hub:
        server = await hub.start()
        world.engine.down = True
        world.engine.tell("")
        world.engine.end(server.id, 1, log="broken\n")
        ended = world.engine.servers[server.id]
        world.engine.servers[server.id] = replace(
            ended, state=ActualState.EXITED, ended_at=datetime.now(UTC) - timedelta(hours=1))
        await hub.eventually(lambda: hub.reconciler.problem is not None)
        world.engine.down = False
        world.engine.tell("")
        failed = await hub.until(server.id, Phase.FAILED)
        assert failed.start_no == 1


# -- the marker -------------------------------------------------------------------------------------------------------
def test_the_marker_is_there_until_the_folder_is_emptied(tmp_path: Path) -> None:
    marker = Marker(tmp_path / "a" / "run", tmp_path / "state")
    assert marker.missing()
    marker.write()
    assert not Marker(tmp_path / "a" / "run", tmp_path / "state").missing()
    assert not (tmp_path / "state").exists()
    next((tmp_path / "a" / "run").iterdir()).unlink()
    assert marker.missing()


def test_a_marker_of_another_boot_does_not_count(tmp_path: Path) -> None:
    marker = Marker(tmp_path, tmp_path)
    marker.write()
    next(tmp_path.iterdir()).write_text("another")
    assert marker.missing()


def test_where_the_folder_cannot_be_made_the_other_one_serves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    marker = Marker(tmp_path / "file" / "run", tmp_path / "state")
    marker.write()
    assert not marker.missing()
    Marker(tmp_path / "file" / "run", tmp_path / "file" / "state").write()
    assert "can be written to" in caplog.text


def test_boxes_on_one_machine_have_markers_of_their_own() -> None:
    one, other = default_run_dir(Path("/srv/a/state")), default_run_dir(Path("/srv/b/state"))
    assert one != other
    assert one.parent == other.parent == Path("/run/appliance")
    assert load_settings(["--JupyterHub.run_dir=/run/mine"]).run_dir == Path("/run/mine")
    assert load_settings(["--JupyterHub.state_dir=/srv/a/state"]).run_dir == one
