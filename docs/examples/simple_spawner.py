"""A whole Spawner in one file: each server a process of the Hub's own user, known by a folder of its own.

It shows what a Spawner has to do. It is not for a class: every server would run as the same system user.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio.to_thread

from appliance import ActualServer, ActualState, ServerHandle, ServerSpec, Spawner
from appliance.errors import ImageBroken, ImageNotAllowed, SpawnError, StopTimeout

# The shell outlives its program, so that it can write down how that ended; a polite signal is for the program.
WATCHED = 'trap : TERM; echo $$ >"$0/pid"; "$@" >"$0/log" 2>&1; echo $? >"$0/exit"'


class SimpleSpawner(Spawner):
    """In `cmd`, {port} and {prefix} are filled in; the program also finds its port in PORT."""

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self._locks: dict[str, anyio.Lock] = {}

    async def check_image(self, image: str) -> None:
        if image:
            raise ImageNotAllowed("There are no images here to choose from.")

    def spec_hash(self, spec: ServerSpec) -> str:
        made_of = [self.cmd, self.args, dict(self.environment), dict(spec.environment), str(spec.home), spec.prefix]
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:32]

    # -- starting -----------------------------------------------------------------------------------------------------
    async def start(self, spec: ServerSpec) -> ServerHandle:
        async with self._locks.setdefault(spec.server_id, anyio.Lock()):  # two at once are one
            return await anyio.to_thread.run_sync(self._start, spec)

    def _start(self, spec: ServerSpec) -> ServerHandle:
        there = self._read(spec.server_id)
        if there and there.start_no == spec.start_no and there.state is ActualState.RUNNING:
            return ServerHandle(there.url)
        self._end(spec.server_id)
        with socket.socket() as door:
            door.bind(("127.0.0.1", 0))
            port = door.getsockname()[1]
        command = [word.replace("{port}", str(port)).replace("{prefix}", spec.prefix) for word in (*self.cmd, *self.args)]
        if not command or not shutil.which(command[0]):
            raise ImageBroken(action="Check c.Spawner.cmd.", evidence=f"There is no program {command[:1]}.")
        url = f"http://127.0.0.1:{port}"
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(spec.home), **self.environment, **spec.environment,
            "PORT": str(port), "JUPYTERHUB_SERVICE_URL": url + spec.prefix}
        facts = {
            "start_no": spec.start_no, "user_name": spec.user_name, "server_name": spec.server_name, "uid": spec.uid,
            "url": url, "spec_hash": self.spec_hash(spec), "started_at": datetime.now(UTC).isoformat()}
        folder = self._folder(spec.server_id)
        try:
            folder.mkdir(mode=0o700, parents=True)
            (folder / "facts.json").write_text(json.dumps(facts))  # first, so that no process is without them
            subprocess.run(["setsid", "--fork", "sh", "-c", WATCHED, str(folder), *command],
                           check=True, cwd=spec.home, env=environment, stdin=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SpawnError(evidence=str(error)) from error
        if not _wait(lambda: _number(folder / "pid") is not None, 5):
            raise SpawnError(evidence="The shell did not start.")
        return ServerHandle(url)

    # -- ending -------------------------------------------------------------------------------------------------------
    async def stop(self, server_id: str) -> None:
        async with self._locks.setdefault(server_id, anyio.Lock()):
            await anyio.to_thread.run_sync(self._end, server_id)

    def _end(self, server_id: str) -> None:
        folder = self._folder(server_id)
        pid = _number(folder / "pid")
        # Twice politely: the first time the shell may not have started its program yet, which then never hears of it.
        for number, patience_s in ((signal.SIGTERM, 0.5), (signal.SIGTERM, self.stop_timeout), (signal.SIGKILL, 5)):
            if pid is not None and _is_ours(pid, folder):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, number)
                _wait(lambda: not _is_ours(pid, folder), patience_s)
        if pid is not None and _is_ours(pid, folder):
            raise StopTimeout(evidence=f"Process {pid} does not end.")
        if folder.exists():
            shutil.rmtree(folder)

    # -- what there is ------------------------------------------------------------------------------------------------
    async def list(self) -> list[ActualServer]:
        ids = [path.name for path in self._root.iterdir()] if self._root.exists() else []
        return [found for found in map(self._read, ids) if found]

    async def inspect(self, server_id: str) -> ActualServer | None:
        return self._read(server_id)

    async def logs(self, server_id: str, lines: int = 50) -> str:
        try:
            return "".join((self._folder(server_id) / "log").read_text(errors="replace").splitlines(True)[-lines:])
        except OSError:
            return ""

    async def watch(self) -> AsyncIterator[str]:
        before: dict[str, Any] = {}
        yield ""  # anything may have changed
        while True:
            now = {each.server_id: (each.start_no, each.state) for each in await self.list()}
            for server_id in now.keys() | before.keys():
                if now.get(server_id) != before.get(server_id):
                    yield server_id
            before = now
            await asyncio.sleep(0.2)

    def _read(self, server_id: str) -> ActualServer | None:
        folder = self._folder(server_id)
        try:
            facts = json.loads((folder / "facts.json").read_text())
        except (OSError, ValueError):
            return None
        pid, exit_code = _number(folder / "pid"), _number(folder / "exit")
        runs = pid is not None and exit_code is None and _is_ours(pid, folder)
        return ActualServer(
            server_id=server_id, start_no=facts["start_no"], user_name=facts["user_name"],
            server_name=facts["server_name"], uid=facts["uid"],
            state=ActualState.RUNNING if runs else ActualState.EXITED, url=facts["url"] if runs else "", address="",
            image="", spec_hash=facts["spec_hash"], started_at=datetime.fromisoformat(facts["started_at"]),
            exit_code=exit_code)

    @property
    def _root(self) -> Path:
        return self.state_dir.absolute() / "simple"

    def _folder(self, server_id: str) -> Path:
        return self._root / server_id


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _is_ours(pid: int, folder: Path) -> bool:
    """A process of that number may be somebody else's by now; ours has the server's folder in its command."""
    try:
        return os.fsencode(folder) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _wait(done: Callable[[], bool], timeout_s: float) -> bool:
    end = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
