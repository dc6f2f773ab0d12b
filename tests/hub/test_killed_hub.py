"""The Hub is ended after every single step of a start, a stop and a failure; the next one finishes the work."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from appliance.domain.server import Phase, Wanted
from hub.conftest import World

pytestmark = [
    pytest.mark.unit, pytest.mark.anyio,
    # whoever is killed closes nothing
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

START = ("starting", "home", "created", "booting", "route", "route-live", "ready")
STOP = ("stopping", "route-removed", "container-removed", "stopped")


@pytest.fixture(autouse=True)
def left_open() -> Iterator[None]:
    yield
    gc.collect()  # here, and not in another test


class Killed(BaseException):
    pass


def dies_at(step: str) -> object:
    def on_step(name: str) -> None:
        if name == step:
            raise Killed()

    return on_step


async def run_until_killed(world: World, step: str, *, wanted: Wanted) -> None:
    try:
        async with world.hub(dies_at(step)) as hub:  # type: ignore[arg-type]
            user = await hub.user()
            if wanted is Wanted.RUNNING:
                await hub.servers.start(user, actor="alice")
            else:
                await hub.servers.stop(user, actor="alice")
            await hub.eventually(lambda: False)
    except BaseExceptionGroup as group:
        assert group.subgroup(Killed) is not None
        return
    raise AssertionError(f"no step {step} was made")


@pytest.mark.parametrize("step", START)
async def test_the_next_hub_finishes_a_start(world: World, step: str) -> None:
    await run_until_killed(world, step, wanted=Wanted.RUNNING)
    async with world.hub() as hub:
        view = await hub.servers.view("alice")
        assert view is not None
        server = await hub.until(view.id, Phase.READY)
        assert server.start_no == 1
        assert server.url == world.engine.servers[server.id].url
        session = await hub.session()
        await hub.servers.enter(session, server)
        assert world.proxy.live[server.id].url == server.url
    assert len(world.engine.servers) == 1
    assert world.engine.calls.count(("start", server.id, 1)) <= 2  # twice is the same start: idempotent


@pytest.mark.parametrize("step", STOP)
async def test_the_next_hub_finishes_a_stop(world: World, step: str) -> None:
    async with world.hub() as hub:
        server = await hub.start()
    await run_until_killed(world, step, wanted=Wanted.STOPPED)
    async with world.hub() as hub:
        await hub.until(server.id, Phase.STOPPED)
        assert not world.proxy.wanted
        again = await hub.start()
        assert again.start_no == 2
    assert len(world.engine.servers) == 1


async def test_the_next_hub_finishes_a_failure(world: World) -> None:
    world.engine.exits = [(1, "broken\n")]
    await run_until_killed(world, "failed", wanted=Wanted.RUNNING)
    async with world.hub() as hub:
        view = await hub.servers.view("alice")
        assert view is not None
        assert view.phase is Phase.FAILED
        await hub.eventually(lambda: not world.engine.servers)
        assert view.failure is not None
        assert "broken" in view.failure.evidence
        await hub.start()


async def test_a_server_that_ran_on_without_a_hub_is_adopted(world: World) -> None:
    async with world.hub() as hub:
        server = await hub.start()
    world.proxy.wanted.clear()  # its files were lost meanwhile
    async with world.hub() as hub:
        await hub.eventually(lambda: server.id in world.proxy.live)
    assert [call[0] for call in world.engine.calls] == ["start"]


async def test_a_server_that_died_without_a_hub_is_explained_by_the_next(world: World) -> None:
    async with world.hub() as hub:
        server = await hub.start()
    world.engine.end(server.id, 137, oom_killed=True)
    async with world.hub() as hub:
        failed = await hub.until(server.id, Phase.FAILED)
        assert failed.failure is not None
        assert failed.failure.code == "out-of-memory"
