"""Fake and LocalProcessSpawner pass the one contract; DockerSpawner's is in test_docker.py."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from appliance.errors import SpawnError
from appliance.ports import ServerSpec
from appliance.spawners.local import LocalProcessSpawner
from appliance.testing import FakeEngine, FakeSpawner, SpawnerContract

pytestmark = pytest.mark.unit


class TestFakeSpawner(SpawnerContract):
    serves = False

    @pytest.fixture
    def spawner(self) -> FakeSpawner:
        return FakeSpawner(FakeEngine())

    def again(self, spawner: FakeSpawner) -> FakeSpawner:
        return FakeSpawner(spawner.engine)

    def let_answer(self, spawner: FakeSpawner) -> None:
        spawner.engine.exits.clear()

    def let_exit(self, spawner: FakeSpawner, code: int, text: str) -> None:
        spawner.engine.exits.append((code, text))

    def let_be_missing(self, spawner: FakeSpawner) -> None:
        spawner.engine.failures.append(SpawnError())

    async def kill(self, spawner: FakeSpawner, server_id: str) -> None:
        spawner.engine.end(server_id, 137)


class TestFakeSpawnerThatListens(TestFakeSpawner):
    serves = True

    @pytest.fixture
    async def spawner(self) -> AsyncIterator[FakeSpawner]:  # type: ignore[override]
        spawner = FakeSpawner(FakeEngine(), listens=True)
        yield spawner
        for server in await spawner.list():
            await spawner.stop(server.server_id)

    def again(self, spawner: FakeSpawner) -> FakeSpawner:
        return FakeSpawner(spawner.engine, listens=True)


class TestLocalProcessSpawner(SpawnerContract):
    # as root, some user that is there and is not root; else ourselves
    user_name = pwd.getpwuid(os.geteuid() or 65534).pw_name
    uid = os.geteuid() or 65534

    @pytest.fixture
    def place(self) -> Iterator[Path]:
        """A folder that the user can pass through, which pytest's own are not."""
        place = Path(tempfile.mkdtemp(prefix="appliance-local-"))
        place.chmod(0o711)
        yield place
        shutil.rmtree(place)

    @pytest.fixture
    def state_dir(self, place: Path) -> Path:
        return place / "state"

    @pytest.fixture
    def home(self, place: Path) -> Path:
        home = place / "home"
        home.mkdir(mode=0o700)
        os.chown(home, self.uid, -1)
        return home

    @pytest.fixture
    async def spawner(self, state_dir: Path) -> AsyncIterator[LocalProcessSpawner]:
        spawner = LocalProcessSpawner()
        spawner.state_dir = state_dir
        spawner.stop_timeout = 5
        await spawner.prepare()
        yield spawner
        for server in await spawner.list():
            await spawner.stop(server.server_id)

    async def kill(self, spawner: LocalProcessSpawner, server_id: str) -> None:
        os.kill(_state(spawner, server_id)["pid"], signal.SIGKILL)

    async def run(self, spawner: Any, spec: ServerSpec, program: str) -> str:
        """Return what a server that runs `program` and ends has printed."""
        spawner.cmd = [self.python, "-c", program]
        await spawner.start(spec)
        await self.ended(spawner, spec.server_id)
        return str(await spawner.logs(spec.server_id, 1000))

    async def test_it_is_its_user_in_its_home_and_nothing_more(
        self, spawner: LocalProcessSpawner, spec: ServerSpec, home: Path, monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("SECRET_OF_THE_HUB", "hush")
        said = await self.run(spawner, spec, (
            "import os; print(os.getresuid(), os.getcwd(), os.environ['HOME'], os.environ['USER'],"
            "'SECRET_OF_THE_HUB' in os.environ, os.environ['FROM_THE_HUB'], sorted(os.listdir('/proc/self/fd')));"
            "open('work', 'w').close()"))
        expected = f"({self.uid}, {self.uid}, {self.uid}) {home} {home} {self.user_name} False yes ['0', '1', '2', '3']"
        assert said.strip() == expected
        assert (home / "work").stat().st_uid == self.uid

    async def test_the_first_server_outlives_the_hub_and_so_does_its_exit_code(
        self, spawner: LocalProcessSpawner, spec: ServerSpec,
    ) -> None:
        said = await self.run(spawner, spec, "import os, signal; os.kill(os.getpid(), signal.SIGUSR1)")
        found = await self.again(spawner).inspect(spec.server_id)
        assert (found.exit_code, said) == (-signal.SIGUSR1, "")

    async def test_one_that_ends_while_it_is_looked_at_keeps_its_exit_code(
        self, spawner: LocalProcessSpawner, spec: ServerSpec, monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        await self.run(spawner, spec, "import sys; sys.exit(3)")
        state = _state(spawner, spec.server_id)
        before = {key: value for key, value in state.items() if key != "exit_code"}
        answers = [before, state]
        monkeypatch.setattr(spawner, "_read", lambda file: answers.pop(0))
        found = await spawner.inspect(spec.server_id)
        assert (found and found.exit_code, answers) == (3, [])

    async def test_children_with_sessions_of_their_own_end_too(
        self, spawner: LocalProcessSpawner, spec: ServerSpec, home: Path,
    ) -> None:
        spawner.cmd = [self.python, "-c", (
            "import subprocess, time; p = subprocess.Popen(['sleep', '600'], start_new_session=True);"
            "print(p.pid, flush=True); time.sleep(600)")]
        await spawner.start(spec)

        async def printed() -> str:
            return await spawner.logs(spec.server_id)

        kernel = int(await self.eventually(printed))
        os.kill(kernel, 0)
        await spawner.stop(spec.server_id)
        with pytest.raises(ProcessLookupError):
            os.kill(kernel, 0)

    async def test_it_is_found_and_ended_without_its_shim(
        self, spawner: LocalProcessSpawner, spec: ServerSpec,
    ) -> None:
        await spawner.start(spec)
        state = _state(spawner, spec.server_id)
        os.kill(state["shim"], signal.SIGKILL)
        await anyio.sleep(0.1)
        assert [server.server_id for server in await spawner.list()] == [spec.server_id]
        await spawner.stop(spec.server_id)
        assert await spawner.list() == []

    async def test_its_log_stays_small(self, spawner: LocalProcessSpawner, spec: ServerSpec) -> None:
        spawner.log_max_bytes = 8192
        said = await self.run(spawner, spec, "for n in range(20000): print('line', n)")
        assert said.endswith("line 19999\n")
        kept = sum(path.stat().st_size for path in (spawner.state_dir / "local").glob(f"{spec.server_id}.log*"))
        assert kept <= 2 * 8192

    async def test_who_has_no_account_is_told(self, spawner: LocalProcessSpawner, spec: ServerSpec) -> None:
        with pytest.raises(SpawnError) as refused:
            await spawner.start(replace(spec, user_name="nobody-has-this-name"))
        assert "no system user" in refused.value.sentence

    async def test_root_is_refused(self, spawner: LocalProcessSpawner, spec: ServerSpec) -> None:
        with pytest.raises(SpawnError) as refused:
            await spawner.start(replace(spec, user_name="root"))
        assert "root" in refused.value.sentence


def _state(spawner: LocalProcessSpawner, server_id: str) -> dict[str, Any]:
    state = spawner._read(spawner._file(server_id))
    assert state is not None
    return state
