"""A fake Spawner with its scriptable engine, and the contract of every Spawner."""

from __future__ import annotations

import asyncio
import builtins
import hashlib
import os
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from appliance.domain.offers import ImageChoice
from appliance.errors import (
    ApplianceError,
    EngineDown,
    ImageMissing,
    ImageNotAllowed,
    StartFailed,
)
from appliance.ports import (
    ActualServer,
    ActualState,
    ServerHandle,
    ServerSpec,
    Spawner,
    Usage,
)

SOON_S = 10.0


# ------------------------------------------------------------------------------------------------------------- fakes --
@dataclass
class FakeEngine:
    """What outlives a FakeSpawner, as the Docker Engine outlives a Hub. Scripted by tests."""

    servers: dict[str, ActualServer] = field(default_factory=dict)
    printed: dict[str, str] = field(default_factory=dict)
    images: set[str] = field(default_factory=lambda: {"fake:latest"})
    down: bool = False
    start_takes_s: float = 0.0
    stop_takes_s: float = 0.0
    failures: list[ApplianceError] = field(default_factory=list)        # of the next starts, in order
    exits: list[tuple[int, str]] = field(default_factory=list)          # (code, log) of the next starts that end at once
    specs: dict[str, ServerSpec] = field(default_factory=dict)          # of the last start of each server
    calls: list[tuple[str, str, int]] = field(default_factory=list)     # ("start" or "stop", server id, start number)
    status: int = 200                                                   # what servers that listen answer
    listeners: dict[str, asyncio.Server] = field(default_factory=dict)
    _watchers: set[asyncio.Queue[str]] = field(default_factory=set)

    def tell(self, server_id: str) -> None:
        """Wake those who watch; "" is any server."""
        for queue in self._watchers:
            queue.put_nowait(server_id)

    def end(self, server_id: str, exit_code: int = 0, *, oom_killed: bool = False, log: str = "") -> None:
        """Let a server end by itself."""
        self.servers[server_id] = replace(
            self.servers[server_id], state=ActualState.EXITED, url="", exit_code=exit_code, oom_killed=oom_killed,
            ended_at=datetime.now(UTC))
        self.printed[server_id] = self.printed.get(server_id, "") + log
        self.hush(server_id)
        self.tell(server_id)

    def vanish(self, server_id: str) -> None:
        """Let somebody remove a server behind the Hub's back."""
        del self.servers[server_id]
        self.hush(server_id)
        self.tell(server_id)

    def hush(self, server_id: str) -> None:
        if listener := self.listeners.pop(server_id, None):
            listener.close()

    @contextmanager
    def watched(self) -> Iterator[asyncio.Queue[str]]:
        queue: asyncio.Queue[str] = asyncio.Queue()
        self._watchers.add(queue)
        try:
            yield queue
        finally:
            self._watchers.discard(queue)


class FakeSpawner(Spawner):
    """Keeps servers in memory. With `listens` each is a tiny web server on a free port of 127.0.0.1."""

    listens = False
    choices: tuple[ImageChoice, ...] = ()        # images to choose from, the default one first
    subnet = "10.99.0."

    def __init__(self, engine: FakeEngine | None = None, *, listens: bool = False, **traits: Any) -> None:
        super().__init__(**traits)
        self.engine = engine or FakeEngine()
        self.listens = listens
        self._locks: dict[str, asyncio.Lock] = {}

    async def prepare(self) -> None:
        self._answer()

    def addresses(self) -> Iterable[str]:
        return (f"{self.subnet}{number}" for number in range(2, 255))

    def image_choices(self) -> tuple[ImageChoice, ...]:
        return self.choices

    @property
    def _default_image(self) -> str:
        return self.choices[0].image if self.choices else "fake:latest"

    async def missing_images(self, images: Iterable[str]) -> frozenset[str]:
        self._answer()
        return frozenset(images) - self.engine.images

    async def check_image(self, image: str) -> None:
        self._answer()
        if image and image not in self.engine.images:
            raise ImageNotAllowed()
        if not self.engine.images:
            raise ImageMissing()

    def spec_hash(self, spec: ServerSpec) -> str:
        words = (spec.user_name, spec.uid, spec.home, spec.prefix, spec.image, sorted(spec.environment.items()),
                 spec.mem_limit_bytes, spec.cpu_limit)
        return hashlib.sha256(repr(words).encode()).hexdigest()[:32]

    async def start(self, spec: ServerSpec) -> ServerHandle:
        self._answer()
        self.engine.calls.append(("start", spec.server_id, spec.start_no))
        self.engine.specs[spec.server_id] = spec
        async with self._locks.setdefault(spec.server_id, asyncio.Lock()):
            there = self.engine.servers.get(spec.server_id)
            if there and there.start_no == spec.start_no and there.state is ActualState.RUNNING:
                return ServerHandle(there.url)
            self.engine.servers.pop(spec.server_id, None)
            self.engine.hush(spec.server_id)
            if self.engine.failures:
                raise self.engine.failures.pop(0)
            await asyncio.sleep(self.engine.start_takes_s)
            self._answer()
            return ServerHandle(await self._run(spec))

    async def _run(self, spec: ServerSpec) -> str:
        url = await self._listen(spec.server_id) if self.listens else f"http://{spec.address or '127.0.0.1'}:{self.port}"
        self.engine.servers[spec.server_id] = ActualServer(
            spec.server_id, spec.start_no, spec.user_name, spec.server_name, spec.uid, ActualState.RUNNING, url,
            spec.address, spec.image or self._default_image, self.spec_hash(spec), datetime.now(UTC))
        self.engine.printed[spec.server_id] = "The fake server started.\n"
        self.engine.tell(spec.server_id)
        if self.engine.exits:
            code, log = self.engine.exits.pop(0)
            self.engine.end(spec.server_id, code, log=log)
        return url

    async def stop(self, server_id: str) -> None:
        self._answer()
        there = self.engine.servers.get(server_id)
        self.engine.calls.append(("stop", server_id, there.start_no if there else 0))
        if there is not None:
            await asyncio.sleep(self.engine.stop_takes_s)
            self.engine.servers.pop(server_id, None)
            self.engine.printed.pop(server_id, None)
            self.engine.hush(server_id)
            self.engine.tell(server_id)

    async def list(self) -> builtins.list[ActualServer]:
        self._answer()
        return [*self.engine.servers.values()]

    async def inspect(self, server_id: str) -> ActualServer | None:
        self._answer()
        return self.engine.servers.get(server_id)

    async def logs(self, server_id: str, lines: int = 50) -> str:
        self._answer()
        return "".join(self.engine.printed.get(server_id, "").splitlines(keepends=True)[-lines:])

    async def watch(self) -> AsyncIterator[str]:
        with self.engine.watched() as queue:
            yield ""
            while True:
                yield await queue.get()

    async def usage(self, server_id: str) -> Usage | None:
        self._answer()
        running = self.engine.servers.get(server_id)
        alive = running is not None and running.state is ActualState.RUNNING
        limit = self.engine.specs[server_id].mem_limit_bytes if server_id in self.engine.specs else None
        return Usage(50 << 20, limit or self.mem_limit, 1.0, 3) if alive else None

    def _answer(self) -> None:
        if self.engine.down:
            raise EngineDown()

    async def _listen(self, server_id: str) -> str:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(f"HTTP/1.1 {self.engine.status} X\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok".encode())
                await writer.drain()
            except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                pass
            finally:
                writer.close()

        # in two steps: cancelled between socket and return, nobody would ever close it
        listener = await asyncio.start_server(answer, "127.0.0.1", 0, start_serving=False)
        self.engine.listeners[server_id] = listener
        await listener.start_serving()
        return f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"


# --------------------------------------------------------------------------------------------------- Spawner contract --
class SpawnerContract:
    """What every Spawner does. A subclass has a fixture `spawner`, prepared; the rest fits it to its surroundings."""

    pytestmark = pytest.mark.anyio

    user_name = "alice"
    uid = 30077
    python = "python3"        # what a server runs in these tests
    serves = True             # False: the spawner's servers do not really listen

    # -- for a subclass to change -------------------------------------------------------------------------------------
    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def state_dir(self, tmp_path: Path) -> Path:
        return tmp_path / "state"

    @pytest.fixture
    def home(self, tmp_path: Path) -> Path:
        home = tmp_path / "home"
        home.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(home, self.uid, self.uid)
        return home

    def again(self, spawner: Any) -> Any:
        """Return a second spawner of the same box, as the next Hub makes it."""
        other = type(spawner)(config=spawner.config)
        other.state_dir = spawner.state_dir
        return other

    def let_answer(self, spawner: Any) -> None:
        """Make servers answer HTTP on their port."""
        port = "{port}" if not list(spawner.addresses()) else str(spawner.port)
        spawner.cmd = [self.python, "-u", "-m", "http.server", port]

    def let_exit(self, spawner: Any, code: int, text: str) -> None:
        """Make the next server print `text` and end with `code`."""
        spawner.cmd = [self.python, "-c", f"print({text!r}, flush=True); raise SystemExit({code})"]

    def let_be_missing(self, spawner: Any) -> None:
        """Make the next start fail or end at once, because its program is not there."""
        spawner.cmd = ["/no/such/program"]

    def let_ignore_sigterm(self, spawner: Any) -> None:
        spawner.cmd = [self.python, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"]

    async def kill(self, spawner: Any, server_id: str) -> None:
        """End a server behind the spawner's back, as whoever has the machine could. Every subclass has to say how."""
        raise AssertionError(f"{type(self).__name__} has to say how a server is killed: override `kill`.")

    # -- helpers ------------------------------------------------------------------------------------------------------
    @pytest.fixture
    def spec(self, spawner: Any, home: Path) -> ServerSpec:
        self.let_answer(spawner)
        return ServerSpec(
            server_id="k3f9xq", start_no=1, user_name=self.user_name, server_name="", uid=self.uid, home=home,
            prefix=f"/user/{self.user_name}/", address=next(iter(spawner.addresses()), ""), image="",
            environment={"FROM_THE_HUB": "yes"})

    async def eventually(self, check: Callable[[], Awaitable[Any]], within_s: float = SOON_S) -> Any:
        end = time.monotonic() + within_s
        while not (answer := await check()):
            assert time.monotonic() < end, "did not happen in time"
            await anyio.sleep(0.02)
        return answer

    async def ended(self, spawner: Any, server_id: str) -> ActualServer:
        async def has_ended() -> ActualServer | None:
            found: ActualServer | None = await spawner.inspect(server_id)
            return found if found and found.state is ActualState.EXITED else None

        found: ActualServer = await self.eventually(has_ended)
        return found

    # -- the contract -------------------------------------------------------------------------------------------------
    async def test_a_started_server_answers_at_its_url(self, spawner: Any, spec: ServerSpec) -> None:
        handle = await spawner.start(spec)
        assert not handle.url.endswith("/")
        if self.serves:
            async def answers() -> bool:
                return await anyio.to_thread.run_sync(_status, handle.url + "/") == 200

            assert await self.eventually(answers)

    async def test_what_is_listed_is_enough_to_rebuild_a_lost_database(self, spawner: Any, spec: ServerSpec) -> None:
        handle = await spawner.start(spec)
        listed = {server.server_id: server for server in await spawner.list()}[spec.server_id]
        for found in (listed, await spawner.inspect(spec.server_id)):
            assert (found.start_no, found.user_name, found.server_name, found.uid) == (
                spec.start_no, spec.user_name, spec.server_name, spec.uid)
            assert (found.state, found.url, found.address) == (ActualState.RUNNING, handle.url, spec.address)
            assert found.spec_hash == spawner.spec_hash(spec)
            assert found.exit_code is None
            assert found.started_at is not None
            assert found.started_at.tzinfo is not None

    async def test_the_same_start_twice_is_one_server(self, spawner: Any, spec: ServerSpec) -> None:
        first = await spawner.start(spec)
        began = (await spawner.inspect(spec.server_id)).started_at
        assert await spawner.start(spec) == first
        assert (await spawner.inspect(spec.server_id)).started_at == began
        assert len([one for one in await spawner.list() if one.server_id == spec.server_id]) == 1

    async def test_two_starts_at_once_are_one_server(self, spawner: Any, spec: ServerSpec) -> None:
        handles = []

        async def start() -> None:
            handles.append(await spawner.start(spec))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(start)
            tasks.start_soon(start)
        assert handles[0] == handles[1]
        assert len(await spawner.list()) == 1

    async def test_a_later_start_replaces_the_earlier(self, spawner: Any, spec: ServerSpec) -> None:
        await spawner.start(spec)
        handle = await spawner.start(replace(spec, start_no=2, environment={"FROM_THE_HUB": "again"}))
        found = await spawner.inspect(spec.server_id)
        assert (found.start_no, found.state, found.url) == (2, ActualState.RUNNING, handle.url)
        assert len(await spawner.list()) == 1

    async def test_a_dead_server_keeps_its_cause_and_its_last_words(self, spawner: Any, spec: ServerSpec) -> None:
        self.let_exit(spawner, 3, "these are my last words")
        await spawner.start(spec)
        found = await self.ended(spawner, spec.server_id)
        assert (found.exit_code, found.url) == (3, "")
        assert "these are my last words" in await spawner.logs(spec.server_id)

    async def test_a_start_that_ended_is_started_anew(self, spawner: Any, spec: ServerSpec) -> None:
        self.let_exit(spawner, 3, "gone")
        await spawner.start(spec)
        await self.ended(spawner, spec.server_id)
        self.let_answer(spawner)
        await spawner.start(spec)
        assert (await spawner.inspect(spec.server_id)).state is ActualState.RUNNING

    async def test_a_missing_program_fails_and_the_second_try_works(self, spawner: Any, spec: ServerSpec) -> None:
        self.let_be_missing(spawner)
        try:
            await spawner.start(spec)
        except StartFailed:
            pass
        else:  # an init of its own found out
            assert (await self.ended(spawner, spec.server_id)).exit_code
        assert all(server.state is not ActualState.RUNNING for server in await spawner.list())
        self.let_answer(spawner)
        await spawner.start(spec)
        assert (await spawner.inspect(spec.server_id)).state is ActualState.RUNNING

    async def test_stop_leaves_nothing_and_may_be_repeated(self, spawner: Any, spec: ServerSpec) -> None:
        await spawner.start(spec)
        await spawner.stop(spec.server_id)
        await spawner.stop(spec.server_id)
        assert await spawner.list() == []
        assert await spawner.inspect(spec.server_id) is None

    async def test_a_server_that_will_not_end_is_ended(self, spawner: Any, spec: ServerSpec) -> None:
        self.let_ignore_sigterm(spawner)
        spawner.stop_timeout = 1
        await spawner.start(spec)
        with anyio.fail_after(15):
            await spawner.stop(spec.server_id)
        assert await spawner.list() == []

    async def test_nobody_s_server_can_be_asked_about(self, spawner: Any) -> None:
        assert await spawner.inspect("nobodys") is None
        assert await spawner.logs("nobodys") == ""
        assert await spawner.usage("nobodys") is None
        await spawner.stop("nobodys")

    async def test_the_next_hub_finds_and_ends_what_this_one_started(self, spawner: Any, spec: ServerSpec) -> None:
        handle = await spawner.start(spec)
        other = self.again(spawner)
        try:
            assert [server.url for server in await other.list()] == [handle.url]
            await other.stop(spec.server_id)
            assert await spawner.list() == []
        finally:
            await other.close()

    async def test_closing_ends_no_server(self, spawner: Any, spec: ServerSpec) -> None:
        await spawner.start(spec)
        await spawner.close()
        assert (await spawner.inspect(spec.server_id)).state is ActualState.RUNNING

    async def test_the_hash_changes_with_what_a_server_is_made_of(self, spawner: Any, spec: ServerSpec) -> None:
        assert spawner.spec_hash(spec) == spawner.spec_hash(replace(spec))
        assert spawner.spec_hash(spec) != spawner.spec_hash(replace(spec, environment={"FROM_THE_HUB": "no"}))
        assert spawner.spec_hash(spec) == spawner.spec_hash(replace(spec, server_id="other")), "not of what it is called"

    async def test_watch_tells_of_a_start_and_of_an_end(self, spawner: Any, spec: ServerSpec) -> None:
        seen: list[str] = []

        async def has_seen() -> bool:
            return spec.server_id in seen

        async def is_connected() -> bool:
            return "" in seen

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_look, spawner, seen)
            await self.eventually(is_connected)
            await anyio.sleep(0.3)
            await spawner.start(spec)
            await self.eventually(has_seen, 3)
            await anyio.sleep(0.5)
            seen.clear()
            await spawner.stop(spec.server_id)
            await self.eventually(has_seen, 3)
            cancelled_at = time.monotonic()
            tasks.cancel_scope.cancel()
        assert time.monotonic() - cancelled_at < 2

    async def test_watch_tells_of_a_server_that_was_killed(self, spawner: Any, spec: ServerSpec) -> None:
        await spawner.start(spec)
        seen: list[str] = []

        async def has_seen() -> bool:
            return spec.server_id in seen

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_look, spawner, seen)
            await anyio.sleep(0.5)
            seen.clear()
            await self.kill(spawner, spec.server_id)
            await self.eventually(has_seen, 1.0)
            tasks.cancel_scope.cancel()
        assert (await self.ended(spawner, spec.server_id)).exit_code != 0

    async def test_an_image_that_is_not_allowed_is_refused(self, spawner: Any) -> None:
        with pytest.raises(StartFailed):
            await spawner.check_image("somebody/elses:image")
        await spawner.check_image("")

    async def test_usage_of_a_running_server(self, spawner: Any, spec: ServerSpec) -> None:
        await spawner.start(spec)
        used = await spawner.usage(spec.server_id)
        assert used is None or used.memory_bytes >= 0

    async def test_no_two_servers_get_one_address(self, spawner: Any) -> None:
        addresses = list(spawner.addresses())
        assert len(addresses) == len(set(addresses))


async def _look(spawner: Any, seen: list[str]) -> None:
    async for server_id in spawner.watch():
        seen.append(server_id)


def _status(url: str) -> int | None:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return None
