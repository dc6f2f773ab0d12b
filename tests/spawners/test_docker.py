"""DockerSpawner with the real engine: the contract, and what a server is from the inside."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import docker
import pytest
from docker_box import IMAGE, clear, client, inside, make_spawner, prepare_once

from appliance.errors import EngineDown, EngineUnsuitable, ImageBroken, ImageMissing, ImageNotAllowed, SpawnError
from appliance.hub.failures import why_ended
from appliance.ports import ActualState, ServerSpec
from appliance.spawners import cgroups
from appliance.spawners.docker import DockerSpawner
from appliance.spawners.docker_container import NAMESPACE, container_name, labels
from appliance.testing import SpawnerContract

pytestmark = [pytest.mark.engine, pytest.mark.anyio]
NAME = "spawnertest"
SUBNET = "10.201.2.0/24"


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The network of these tests; yields where the spawners keep their files."""
    clear(NAME)
    state_dir = tmp_path_factory.mktemp("state")
    anyio.run(prepare_once, make_spawner(NAME, SUBNET, state_dir))
    yield state_dir
    clear(NAME)


@pytest.fixture
async def spawner(box: Path) -> AsyncIterator[DockerSpawner]:
    made = make_spawner(NAME, SUBNET, box)
    yield made
    await made.close()
    clear(NAME, network=False)


def freeze(engine: docker.APIClient, name: str) -> None:
    """Control groups of version 1 sometimes cannot freeze while the machine is busy, and can a moment later."""
    for last in (False, False, False, False, True):
        try:
            engine.pause(name)
            return
        except docker.errors.APIError as error:
            if last or "unable to freeze" not in str(error):
                raise
            time.sleep(0.5)


class TestDockerSpawner(SpawnerContract):
    user_name = "josé"

    def again(self, spawner: DockerSpawner) -> DockerSpawner:
        return make_spawner(NAME, SUBNET, spawner.state_dir)

    async def kill(self, spawner: DockerSpawner, server_id: str) -> None:
        with client() as engine:
            engine.kill(container_name(NAME, server_id))

    # -- what it is from the inside -----------------------------------------------------------------------------------
    async def test_whoami_is_the_user_and_files_are_theirs(
        self, spawner: DockerSpawner, spec: ServerSpec, home: Path,
    ) -> None:
        await spawner.start(spec)
        assert inside(NAME, spec.server_id, "whoami") == "josé"
        assert inside(NAME, spec.server_id, "id") == f"uid={self.uid}(josé) gid={self.uid}(josé) groups={self.uid}(josé)"
        assert inside(NAME, spec.server_id, "sh", "-c", "pwd; echo $HOME $USER $FROM_THE_HUB; ls -ld /root | cut -c1-5") == (
            "/home/josé\n/home/josé josé yes\ndrwx-")
        inside(NAME, spec.server_id, "sh", "-c", "echo mine > work; ls")
        found = os.stat(home / "work")
        assert (found.st_uid, found.st_gid) == (self.uid, self.uid)
        assert "root" in inside(NAME, spec.server_id, "getent", "passwd", "0")

    async def test_it_has_no_rights_and_cannot_get_any(self, spawner: DockerSpawner, spec: ServerSpec) -> None:
        await spawner.start(spec)
        status = dict(
            line.split(":\t", 1) for line in inside(NAME, spec.server_id, "cat", "/proc/self/status").splitlines()
            if ":\t" in line)
        assert {status[key] for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
        assert inside(NAME, spec.server_id, "cat", "/proc/1/comm") in ("docker-init", "tini")
        assert "denied" in inside(NAME, spec.server_id, "sh", "-c", "cat /etc/shadow")
        assert "denied" in inside(NAME, spec.server_id, "sh", "-c", "echo x >> /etc/passwd")

    async def test_memory_and_processes_are_limited(self, spawner: DockerSpawner, spec: ServerSpec) -> None:
        spawner.cpu_limit = 0.5
        await spawner.start(spec)
        memory = inside(NAME, spec.server_id, "sh", "-c",
                        "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null")
        pids = inside(NAME, spec.server_id, "sh", "-c", "cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max 2>/dev/null")
        assert (memory, pids) == (str(256 << 20), "64")
        forks = inside(NAME, spec.server_id, "python3", "-c", (
            "import os, time, signal\nn = 0\ntry:\n  while n < 500:\n    pid = os.fork()\n"
            "    if not pid: time.sleep(2); os._exit(0)\n    n += 1\nexcept BlockingIOError: pass\nprint(n)"))
        assert int(forks) < 64
        used = await spawner.usage(spec.server_id)
        assert used is not None
        assert 0 < used.memory_bytes < used.memory_limit_bytes == 256 << 20  # type: ignore[operator]
        with client() as engine:
            found = engine.inspect_container(container_name(NAME, spec.server_id))["HostConfig"]
        assert found["NanoCpus"] == 500_000_000
        assert found["MemorySwap"] == found["Memory"]
        assert found["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "2"}

    @pytest.mark.parametrize("source", ["control groups", "engine"])
    async def test_usage_of_a_busy_server_is_plausible(
        self, spawner: DockerSpawner, spec: ServerSpec, source: str, monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        if source == "engine":  # as for a Hub in a container of its own
            monkeypatch.setattr(cgroups, "read", lambda *_: None)
        await spawner.start(spec)
        idle = await spawner.usage(spec.server_id)
        inside(NAME, spec.server_id, "sh", "-c",
               "python3 -c 'x = b\"x\" * (64 << 20)\nwhile True: pass' >/dev/null 2>&1 &")
        await anyio.sleep(1)
        took_s, percents = [], []
        for _ in range(4):
            began = time.monotonic()
            used = await spawner.usage(spec.server_id)
            took_s.append(time.monotonic() - began)
            assert used is not None
            percents.append(used.cpu_percent)
            await anyio.sleep(0.6)
        assert idle is not None
        assert idle.cpu_percent is None
        assert idle.memory_bytes < 64 << 20 < used.memory_bytes < 256 << 20
        assert idle.pids is not None
        assert used.pids is not None
        assert 1 <= idle.pids < used.pids <= 64
        assert all(percent is not None and 10 < percent < 130 for percent in percents[1:])  # others use this machine as well
        if source == "control groups":
            assert min(took_s) < 0.1
        await spawner.stop(spec.server_id)
        assert await spawner.usage(spec.server_id) is None
        assert len(spawner._cpu) == 0

    async def test_who_uses_too_much_memory_is_ended_and_it_is_known(
        self, spawner: DockerSpawner, spec: ServerSpec,
    ) -> None:
        spawner.mem_limit = "32M"
        spawner.cmd = ["python3", "-c", "x = bytearray(200 << 20)"]
        await spawner.start(spec)
        assert (await self.ended(spawner, spec.server_id)).oom_killed

    async def test_limits_of_one_start_reach_its_control_groups_and_are_shown(
        self, spawner: DockerSpawner, spec: ServerSpec,
    ) -> None:
        await spawner.start(replace(spec, mem_limit_bytes=96 << 20, cpu_limit=0.5))
        used = await spawner.usage(spec.server_id)
        assert used is not None
        assert used.memory_limit_bytes == 96 << 20
        memory, quota, period = inside(NAME, spec.server_id, "sh", "-c", (
            "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us "
            "/sys/fs/cgroup/cpu/cpu.cfs_period_us 2>/dev/null || cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max")).split()
        assert int(memory) == 96 << 20
        assert int(quota) / int(period) == 0.5

    async def test_who_used_too_much_is_told_the_limit_of_that_start(self, spawner: DockerSpawner, spec: ServerSpec) -> None:
        spawner.cmd = ["python3", "-c", "x = bytearray(200 << 20)"]
        await spawner.start(replace(spec, mem_limit_bytes=32 << 20))
        ended = await self.ended(spawner, spec.server_id)
        assert (ended.oom_killed, ended.mem_limit_bytes) == (True, 32 << 20)
        assert "(32 MB)" in why_ended(ended, "", mem_limit_bytes=ended.mem_limit_bytes).sentence

    async def test_an_image_that_is_not_there_is_known_without_an_error(self, spawner: DockerSpawner) -> None:
        gone = "appliance/never-built:latest"
        assert await spawner.missing_images([IMAGE, gone]) == {gone}

    # -- images -------------------------------------------------------------------------------------------------------
    async def test_only_images_of_the_list_are_used(self, spawner: DockerSpawner, spec: ServerSpec) -> None:
        other = "appliance/hello:latest"
        for call in (spawner.check_image(other), spawner.start(replace(spec, image=other))):
            with pytest.raises(ImageNotAllowed):
                await call
        spawner.allowed_images = {"Python": IMAGE, "Gone": "appliance/never-built:latest"}
        await spawner.check_image("Python")
        await spawner.check_image(IMAGE)
        with pytest.raises(ImageMissing):
            await spawner.check_image("Gone")
        with pytest.raises(ImageMissing):
            await spawner.start(replace(spec, image="Gone"))
        assert await spawner.list() == []

    async def test_a_program_that_is_missing_is_the_image_s_fault(
        self, spawner: DockerSpawner, spec: ServerSpec,
    ) -> None:
        spawner.extra_host_config = {"init": False}
        spawner.cmd = ["/no/such/program"]
        with pytest.raises(ImageBroken) as failed:
            await spawner.start(spec)
        assert "/no/such/program" in failed.value.evidence

    # -- begun by a Hub that was killed -------------------------------------------------------------------------------
    async def test_a_container_that_was_never_started_is_replaced(
        self, spawner: DockerSpawner, spec: ServerSpec,
    ) -> None:
        said = labels(spec, namespace=NAME, box=str(spawner.state_dir.absolute()), spec_hash="", image=IMAGE,
                      image_id="", url="")
        with client() as engine:
            made = engine.create_container_from_config(
                {"Image": IMAGE, "Cmd": ["true"], "Labels": said}, container_name(NAME, spec.server_id))
            assert [server.state for server in await spawner.list()] == [ActualState.CREATED]
            await spawner.start(spec)
            with pytest.raises(docker.errors.NotFound):
                engine.inspect_container(made["Id"])
        assert (await spawner.inspect(spec.server_id)).state is ActualState.RUNNING  # type: ignore[union-attr]

    async def test_another_boxs_servers_are_neither_ended_nor_mixed_with_ours(
        self, spawner: DockerSpawner, spec: ServerSpec,
    ) -> None:
        said = labels(spec, namespace=NAME, box="/srv/other/state", spec_hash="", image=IMAGE, image_id="", url="")
        with client() as engine:
            made = engine.create_container_from_config({"Image": IMAGE, "Cmd": ["true"], "Labels": said}, f"{NAME}-other")
            try:
                assert await spawner.list() == []
                with pytest.raises(EngineUnsuitable) as refused:
                    await spawner.prepare()
                assert "/srv/other/state" in refused.value.action
            finally:
                engine.remove_container(made["Id"])
        await spawner.prepare()

    async def test_a_stranger_s_container_of_the_same_name_is_not_touched(
        self, spawner: DockerSpawner, spec: ServerSpec,
    ) -> None:
        with client() as engine:
            made = engine.create_container_from_config(
                {"Image": IMAGE, "Cmd": ["true"], "Labels": {NAMESPACE: NAME}}, container_name(NAME, spec.server_id))
            with pytest.raises(SpawnError) as failed:
                await spawner.start(spec)
            assert "not ours" in failed.value.action
            engine.inspect_container(made["Id"])

    async def test_a_start_that_is_cancelled_is_over_at_once_and_undone_by_a_stop(
        self, spawner: DockerSpawner, spec: ServerSpec,
    ) -> None:
        for wait_s in (0.0, 0.005, 0.02, 0.1):
            with anyio.move_on_after(wait_s):
                await spawner.start(spec)
            await spawner.stop(spec.server_id)
            assert await spawner.list() == []

    async def test_a_frozen_server_is_listed_thawed_by_a_start_and_can_be_stopped(
        self, spawner: DockerSpawner, spec: ServerSpec,
    ) -> None:
        handle = await spawner.start(spec)
        with client() as engine:
            freeze(engine, container_name(NAME, spec.server_id))
            assert [(s.state, s.url) for s in await spawner.list()] == [(ActualState.PAUSED, handle.url)]
            await spawner.start(spec)
            assert (await spawner.inspect(spec.server_id)).state is ActualState.RUNNING  # type: ignore[union-attr]
            freeze(engine, container_name(NAME, spec.server_id))
        with anyio.fail_after(10):
            await spawner.stop(spec.server_id)
        assert await spawner.list() == []

    async def test_a_container_that_is_not_ours_is_left_alone(self, spawner: DockerSpawner, spec: ServerSpec) -> None:
        await spawner.start(spec)
        stranger = make_spawner("otherbox", "10.201.9.0/24", spawner.state_dir)
        try:
            assert await stranger.list() == []
            await stranger.stop(spec.server_id)
        finally:
            await stranger.close()
        assert len(await spawner.list()) == 1

    # -- more to mount, more to set -----------------------------------------------------------------------------------
    async def test_volumes_are_mounted_by_name(
        self, spawner: DockerSpawner, spec: ServerSpec, tmp_path: Path,
    ) -> None:
        for folder in ("shared", "own-josé"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "x").write_text(folder)
        spawner.volumes = {str(tmp_path / "own-{username}"): "/own/{username}"}
        spawner.read_only_volumes = {str(tmp_path / "shared"): {"bind": "/shared", "mode": "rw"}}
        await spawner.start(spec)
        assert inside(NAME, spec.server_id, "cat", "/own/josé/x", "/shared/x") == "own-joséshared"
        assert "ead-only" in inside(NAME, spec.server_id, "sh", "-c", "echo x > /shared/y")

    async def test_a_volume_that_is_not_there_is_named(self, spawner: DockerSpawner, spec: ServerSpec) -> None:
        spawner.volumes = {"/no/such/folder": "/x"}
        with pytest.raises(SpawnError) as failed:
            await spawner.start(spec)
        assert "/no/such/folder" in failed.value.evidence

    async def test_root_is_refused(self, spawner: DockerSpawner, spec: ServerSpec) -> None:
        with pytest.raises(SpawnError):
            await spawner.start(replace(spec, uid=0))


async def test_an_engine_that_is_away_is_said_to_be_down(tmp_path: Path) -> None:
    spawner = make_spawner(NAME, SUBNET, tmp_path, docker_host=f"unix://{tmp_path}/nobody.sock")
    spec = ServerSpec("x", 1, "alice", "", 30077, tmp_path, "/user/alice/", "10.201.2.9", "", {})
    calls: list[Any] = [
        spawner.prepare(), spawner.start(spec), spawner.stop("x"), spawner.list(), spawner.inspect("x"),
        spawner.logs("x"), spawner.usage("x"), spawner.check_image("")]
    for call in calls:
        with anyio.fail_after(5), pytest.raises(EngineDown):
            await call
    with anyio.move_on_after(0.5) as scope:  # waits until it is back
        async for _ in spawner.watch():
            pytest.fail("there is nothing to tell")
    assert scope.cancelled_caught


@contextlib.asynccontextmanager
async def engine_behind(path: Path) -> AsyncIterator[None]:
    """Let the engine answer at `path`, too, for as long as this lasts."""
    open_ends: set[asyncio.StreamWriter] = set()

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        target.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        engine_reader, engine_writer = await asyncio.open_unix_connection("/var/run/docker.sock")
        open_ends.update((writer, engine_writer))
        await asyncio.gather(copy(reader, engine_writer), copy(engine_reader, writer))

    door = await asyncio.start_unix_server(serve, path)
    try:
        yield
    finally:
        door.close()
        for end in open_ends:
            end.transport.abort()
        os.unlink(path)
        await asyncio.sleep(0.05)


async def test_an_engine_that_goes_away_and_comes_back(box: Path, tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    spawner = make_spawner(NAME, SUBNET, box, docker_host=f"unix://{path}")
    told: list[str] = []

    async def watch() -> None:
        async for server_id in spawner.watch():
            told.append(server_id)

    async def has_been_told(times: int) -> None:
        with anyio.fail_after(10):
            while told.count("") < times:
                await anyio.sleep(0.02)

    async with anyio.create_task_group() as tasks:
        async with engine_behind(path):
            tasks.start_soon(watch)
            await has_been_told(1)
            assert await spawner.list() == []
        with pytest.raises(EngineDown):
            await spawner.list()
        async with engine_behind(path):
            await has_been_told(2)
            assert await spawner.list() == []
            tasks.cancel_scope.cancel()
    await spawner.close()
