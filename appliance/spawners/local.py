"""Every server a process of this machine, as the system user of the same name; for machines without Docker.

Weaker than containers: users see each other's processes, share the network and the disk, and limits of memory and CPU
are not enforced. What each runs is still reachable through the proxy only with its own secret.
"""

from __future__ import annotations

import asyncio
import builtins
import hashlib
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio.to_thread
from traitlets import Integer

from appliance.errors import DiskFull, ImageBroken, ImageNotAllowed, SpawnError, StopTimeout
from appliance.ports import ActualServer, ActualState, ServerHandle, ServerSpec, Spawner, Usage
from appliance.spawners import local_shim, local_usage
from appliance.spawners.cpu_meter import CpuMeter
from appliance.spawners.log_lines import readable
from appliance.spawners.server_locks import ServerLocks

_POLL_S = 0.2
_ADDRESS = "127.0.0.1"
_JUPYTER = (
    "jupyter-lab", f"--ServerApp.ip={_ADDRESS}", "--ServerApp.port={port}", "--ServerApp.port_retries=0",
    "--ServerApp.open_browser=False", "--ServerApp.allow_remote_access=True", "--ServerApp.base_url={prefix}",
)


class LocalProcessSpawner(Spawner):
    """Starts each server as its system user on a free port of localhost.

    In `cmd`, `args` and `environment`, {port}, {prefix} and {username} are filled in; the process also finds its port
    in PORT and in JUPYTERHUB_SERVICE_URL. It works in the home of the Homes driver if that belongs to the system user,
    else in the system user's own.
    """

    log_max_bytes = Integer(1 << 20, min=4096, help="Size of a server's log; two such files are kept.").tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._locks = ServerLocks()
        self._cpu = CpuMeter()
        self._warned = False

    async def prepare(self) -> None:
        if (self.mem_limit or self.cpu_limit) and not self._warned:
            self._warned = True
            self.log.warning("LocalProcessSpawner does not enforce mem_limit and cpu_limit; DockerSpawner does.")
        await anyio.to_thread.run_sync(self._ensure_folder)

    async def check_image(self, image: str) -> None:
        if image:
            raise ImageNotAllowed("Servers are processes of this machine here, so there is no image to choose.")

    def spec_hash(self, spec: ServerSpec) -> str:
        job = [self._command(spec, 0), self._environment(spec, 0, ""), spec.user_name, spec.uid, str(spec.home)]
        return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:32]

    # -- starting -----------------------------------------------------------------------------------------------------
    async def start(self, spec: ServerSpec) -> ServerHandle:
        await self.check_image(spec.image)
        return await anyio.to_thread.run_sync(self._start, spec, abandon_on_cancel=True)

    def _start(self, spec: ServerSpec) -> ServerHandle:
        with self._locks.hold(spec.server_id):
            return self._start_alone(spec)

    def _start_alone(self, spec: ServerSpec) -> ServerHandle:
        there = self._read(self._file(spec.server_id))
        if there is not None:
            if there["start_no"] == spec.start_no and _alive(there):
                return ServerHandle(str(there["url"]))
            self._end(there)
        user = _system_user(spec.user_name)
        cwd = spec.home if spec.home.is_dir() and spec.home.stat().st_uid == user.pw_uid else Path(user.pw_dir)
        port = _free_port()
        state = {
            "server_id": spec.server_id, "start_no": spec.start_no, "user_name": spec.user_name,
            "server_name": spec.server_name, "uid": spec.uid, "url": f"http://{_ADDRESS}:{port}",
            "spec_hash": self.spec_hash(spec), "started_at": datetime.now(UTC).isoformat(),
        }
        self._ensure_folder()
        answer = self._run_shim({
            "uid": user.pw_uid, "gid": user.pw_gid, "groups": os.getgrouplist(user.pw_name, user.pw_gid),
            "cwd": str(cwd), "cmd": self._command(spec, port),
            "environment": {**_base_environment(user, cwd), **self._environment(spec, port, f"http://{_ADDRESS}:{port}")},
            "stop_timeout": self.stop_timeout, "log": str(self._log(spec.server_id)), "log_bytes": self.log_max_bytes,
            "state_file": str(self._file(spec.server_id)), "state": state,
        })
        if "error" in answer:
            raise _explain(str(answer["error"]))
        return ServerHandle(str(state["url"]))

    @staticmethod
    def _run_shim(job: dict[str, Any]) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-I", "-S", local_shim.__file__], input=json.dumps(job), capture_output=True, text=True,
            timeout=60, check=False, cwd="/", env={}, start_new_session=True)
        try:
            answer: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            return {"error": done.stderr[-1000:] or "the process that watches over the server did not answer"}
        return answer

    def _command(self, spec: ServerSpec, port: int) -> list[str]:
        return [_expand(word, spec, port) for word in (*(self.cmd or _JUPYTER), *self.args)]

    def _environment(self, spec: ServerSpec, port: int, url: str) -> dict[str, str]:
        own = {str(key): _expand(str(value), spec, port) for key, value in self.environment.items()}
        return {**own, **spec.environment, "PORT": str(port), "JUPYTERHUB_SERVICE_URL": f"{url}{spec.prefix}"}

    # -- ending -------------------------------------------------------------------------------------------------------
    async def stop(self, server_id: str) -> None:
        await anyio.to_thread.run_sync(self._stop, server_id, abandon_on_cancel=True)
        self._cpu.forget(server_id)

    def _stop(self, server_id: str) -> None:
        with self._locks.hold(server_id):
            there = self._read(self._file(server_id))
            if there is not None:
                self._end(there)

    def _end(self, there: dict[str, Any]) -> None:
        """End a server's processes, then forget it."""
        if _is(there["shim"], there["shim_started"]):
            _signal(there["shim"], signal.SIGTERM)
            _wait(lambda: not _is(there["shim"], there["shim_started"]), self.stop_timeout + 5)
        if _alive(there):  # without its shim it is alone
            _signal(there["pid"], signal.SIGTERM)
            _wait(lambda: not _alive(there), self.stop_timeout)
        for pid in local_usage.session(there["pid"]) if _alive(there) else ():
            _signal(pid, signal.SIGKILL)
        if not _wait(lambda: not _alive(there), 5):
            raise StopTimeout(evidence=f"Process {there['pid']} does not end.")
        for path in (self._file(there["server_id"]), self._log(there["server_id"]),
                     Path(f"{self._log(there['server_id'])}.1")):
            path.unlink(missing_ok=True)

    # -- what there is ------------------------------------------------------------------------------------------------
    async def list(self) -> builtins.list[ActualServer]:
        return await anyio.to_thread.run_sync(self._list)

    def _list(self) -> builtins.list[ActualServer]:
        found = (self._look(file) for file in sorted(self._folder.glob("*.json")))
        return [each for each in found if each is not None]

    async def inspect(self, server_id: str) -> ActualServer | None:
        return await anyio.to_thread.run_sync(self._look, self._file(server_id))

    async def logs(self, server_id: str, lines: int = 50) -> str:
        def read() -> str:
            log = self._log(server_id)
            parts = [path.read_text(errors="replace") for path in (Path(f"{log}.1"), log) if path.exists()]
            return "".join("".join(parts).splitlines(keepends=True)[-lines:]) if lines > 0 else ""

        return readable(await anyio.to_thread.run_sync(read))

    async def usage(self, server_id: str) -> Usage | None:
        there = await anyio.to_thread.run_sync(self._read, self._file(server_id))
        if there is None or not _alive(there):
            return None
        memory, cpu_s, count = await anyio.to_thread.run_sync(local_usage.of_tree, there["pid"])
        percent = self._cpu.percent(server_id, str(there["start_no"]), cpu_s, time.monotonic())
        return Usage(memory, None, percent, count)

    async def watch(self) -> AsyncIterator[str]:
        yield ""
        seen: dict[str, tuple[int, ActualState]] = {}
        first = True
        while True:
            now = {each.server_id: (each.start_no, each.state) for each in await self.list()}
            for server_id in () if first else sorted({*seen, *now}):
                if seen.get(server_id) != now.get(server_id):
                    yield server_id
            seen, first = now, False
            await asyncio.sleep(_POLL_S)

    # -- files --------------------------------------------------------------------------------------------------------
    @property
    def _folder(self) -> Path:
        return self.state_dir.absolute() / "local"

    def _ensure_folder(self) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SpawnError(evidence=str(error)) from error

    def _file(self, server_id: str) -> Path:
        return self._folder / f"{server_id}.json"

    def _log(self, server_id: str) -> Path:
        return self._folder / f"{server_id}.log"

    def _look(self, file: Path) -> ActualServer | None:
        there = self._read(file)
        if there is not None and not _runs(there):
            there = self._read(file)    # it may have ended, and written down how, since it was read
        return None if there is None else _actual(there)

    @staticmethod
    def _read(file: Path) -> dict[str, Any] | None:
        try:
            there: dict[str, Any] = json.loads(file.read_text())
        except (OSError, ValueError):
            return None
        return there


def _actual(there: dict[str, Any]) -> ActualServer:
    alive = _runs(there)
    return ActualServer(
        server_id=there["server_id"], start_no=there["start_no"], user_name=there["user_name"],
        server_name=there["server_name"], uid=there["uid"],
        state=ActualState.RUNNING if alive else ActualState.EXITED, url=there["url"] if alive else "", address="",
        image="", spec_hash=there["spec_hash"], started_at=datetime.fromisoformat(there["started_at"]),
        exit_code=None if alive else there.get("exit_code"))


def _runs(there: dict[str, Any]) -> bool:
    """Until its shim has written down how it ended, it has not."""
    return _alive(there) or _is(there["shim"], there["shim_started"])


def _alive(there: dict[str, Any]) -> bool:
    return _is(there["pid"], there["started"])


def _is(pid: int, started: int) -> bool:
    return local_shim.started(pid) == started != 0


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _wait(done: Any, timeout_s: float) -> bool:
    end = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _system_user(name: str) -> pwd.struct_passwd:
    """Raises SpawnError where there is none, or none that may run a server."""
    try:
        user = pwd.getpwnam(name)
    except KeyError as error:
        raise SpawnError(f"There is no system user “{name}” on this box.",
                         action=f"Add the user (useradd -m {name}), or use DockerSpawner.") from error
    if user.pw_uid == 0:
        raise SpawnError("A server cannot run as root.", action="Give this user an account that is not root.")
    if os.geteuid() not in (0, user.pw_uid):
        raise SpawnError(action="The Hub must run as root to start processes of other users.")
    return user


def _base_environment(user: pwd.struct_passwd, cwd: Path) -> dict[str, str]:
    # nothing of the Hub's own environment, which may hold secrets, but where programs are and which language they speak
    kept = {key: os.environ[key] for key in ("PATH", "LANG", "LC_ALL", "TZ") if key in os.environ}
    return {**kept, "HOME": str(cwd), "USER": user.pw_name, "LOGNAME": user.pw_name, "SHELL": user.pw_shell}


def _expand(template: str, spec: ServerSpec, port: int) -> str:
    for key, value in (("port", str(port)), ("prefix", spec.prefix), ("username", spec.user_name)):
        template = template.replace("{" + key + "}", value)
    return template


def _free_port() -> int:
    with socket.socket() as door:
        door.bind((_ADDRESS, 0))
        return int(door.getsockname()[1])


def _explain(words: str) -> Exception:
    if words.startswith(("FileNotFoundError", "PermissionError: [Errno 13]", "OSError: [Errno 8]")):
        return ImageBroken("The program your server runs cannot be started on this box. Your teacher can fix this.",
                           action="Check c.Spawner.cmd and that every user may run it.", evidence=words)
    if "No space left" in words:
        return DiskFull(evidence=words)
    return SpawnError(evidence=words)


