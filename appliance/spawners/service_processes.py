"""Services as processes of this machine, which end with the Hub, however that ends."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from anyio.abc import ByteReceiveStream

from appliance.errors import ServiceFailed
from appliance.ports import ServiceSpec, ServiceStart
from appliance.spawners import local_shim

STOP_TIMEOUT_S = 5.0
LONGEST_LINE = 4096
CHUNK, MOST_BYTES_PER_S = 8192, 500_000
# as JupyterHub has it: what tells programs apart and where they are, and nothing that may be secret
_KEPT = ("PATH", "PYTHONPATH", "CONDA_ROOT", "CONDA_DEFAULT_ENV", "VIRTUAL_ENV", "LANG", "LC_ALL", "TZ")


class ServiceProcesses:
    """See ports.ServiceRunner. Each has a small parent, local_shim, that ends it and all its descendants with the Hub."""

    async def clear(self, keep: Collection[str]) -> None:
        """Nothing outlives a Hub."""

    async def stop(self, name: str) -> None:
        """Nothing is there that no `run` looks after."""

    async def uids(self) -> set[int]:
        return set()

    async def run(
        self, spec: ServiceSpec, started: Callable[[ServiceStart], Awaitable[None]], line: Callable[[str], None],
    ) -> str:
        job = await anyio.to_thread.run_sync(_job, spec)
        shim = await anyio.open_process(
            [sys.executable, "-I", "-S", local_shim.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, cwd="/", env={}, start_new_session=True)
        assert shim.stdin is not None
        assert shim.stdout is not None
        pid = 0
        printed = _lines(shim.stdout)
        try:
            await shim.stdin.send(json.dumps(job).encode() + b"\n")
            answer = _answer(await anext(printed, ""))
            if "error" in answer:
                raise _explain(spec, str(answer["error"]))
            pid = int(answer["pid"])
            await started(ServiceStart(pid=pid))
            async for text in printed:
                line(text)
            return _in_words(await shim.wait())
        finally:
            with anyio.CancelScope(shield=True):
                await _end(shim, pid)


async def _end(shim: anyio.abc.Process, pid: int) -> None:
    """Let the shim end everything; without it, what is left is ended by force."""
    assert shim.stdin is not None
    assert shim.stdout is not None
    with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError, OSError):
        await shim.stdin.aclose()
    with anyio.move_on_after(STOP_TIMEOUT_S + 5):
        with suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            while True:
                await shim.stdout.receive()   # else it might wait for somebody to read
        await shim.wait()
    if shim.returncode is None or shim.returncode == -signal.SIGKILL:
        with suppress(ProcessLookupError):
            shim.kill()
        with suppress(ProcessLookupError, PermissionError):
            if pid:
                os.killpg(pid, signal.SIGKILL)   # it leads a session of its own
        await shim.wait()
    await shim.aclose()


async def _lines(stream: ByteReceiveStream) -> AsyncIterator[str]:
    """Yield what is printed, line by line; a line that is too long in pieces."""
    rest = b""
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        while True:
            chunk = await stream.receive(CHUNK)
            *whole, rest = (rest + chunk).split(b"\n")
            for piece in (piece for each in whole for piece in _pieces(each)):
                yield piece
            if len(rest) > LONGEST_LINE:
                *whole, rest = (rest[at:at + LONGEST_LINE] for at in range(0, len(rest), LONGEST_LINE))
                for each in whole:
                    yield _text(each)
            if len(chunk) == CHUNK:     # one that prints without end waits for the Hub, and not the Hub for it
                await anyio.sleep(CHUNK / MOST_BYTES_PER_S)
    if rest:
        yield _text(rest)


def _pieces(line: bytes) -> list[str]:
    return [_text(line[at:at + LONGEST_LINE]) for at in range(0, len(line), LONGEST_LINE)] or [""]


def _text(line: bytes) -> str:
    return line.decode(errors="replace").rstrip("\r")


def _answer(text: str) -> dict[str, Any]:
    with suppress(ValueError):
        answer = json.loads(text)
        if isinstance(answer, dict) and answer.keys() & {"pid", "error"}:
            return answer
    return {"error": text[:500] or "the process that watches over it did not answer"}


def _job(spec: ServiceSpec) -> dict[str, Any]:
    """Raises ServiceFailed."""
    account: dict[str, Any] = {"uid": None, "gid": None, "groups": []}
    environment = {key: os.environ[key] for key in _KEPT if key in os.environ}
    # programs that are installed with the Hub are found, after all others
    environment["PATH"] = os.pathsep.join(
        (environment.get("PATH", os.defpath), str(Path(sys.executable).parent)))
    home = str(Path.home())
    if spec.user:
        user = _system_user(spec)
        home = user.pw_dir
        account = {"uid": user.pw_uid, "gid": user.pw_gid, "groups": os.getgrouplist(user.pw_name, user.pw_gid)}
        environment |= {"USER": user.pw_name, "LOGNAME": user.pw_name, "SHELL": user.pw_shell}
    cwd = spec.cwd or (home if spec.user else os.getcwd())
    if not Path(cwd).is_dir():
        raise ServiceFailed(f"The service {spec.name} cannot be started: there is no folder {cwd}.",
                            action="Make the folder, or correct “cwd” in c.JupyterHub.services.")
    return {**account, "tied": True, "cwd": str(Path(cwd).absolute()), "cmd": list(spec.command),
            "environment": {**environment, "HOME": home, **spec.environment}, "stop_timeout": STOP_TIMEOUT_S}


def _system_user(spec: ServiceSpec) -> pwd.struct_passwd:
    try:
        user = pwd.getpwnam(spec.user)
    except KeyError:
        raise ServiceFailed(f"The service {spec.name} cannot be started: this machine has no system user “{spec.user}”.",
                            action=f"Add the user (useradd -m {spec.user}), or correct “user” in c.JupyterHub.services."
                            ) from None
    if os.geteuid() not in (0, user.pw_uid):
        raise ServiceFailed(f"The service {spec.name} cannot be started: the Hub may not become “{spec.user}”.",
                            action="Run the Hub as root, or leave “user” out.")
    return user


def _explain(spec: ServiceSpec, words: str) -> ServiceFailed:
    program = spec.command[0]
    reason = f"“{program}” could not be run"
    if words.startswith("FileNotFoundError"):
        reason = f"there is no program “{program}”"
    elif words.startswith("PermissionError"):
        reason = f"“{program}” may not be run{f' by {spec.user}' if spec.user else ''}"
    return ServiceFailed(f"The service {spec.name} cannot be started: {reason}.", evidence=words,
                         action="Install it, or correct “command” in c.JupyterHub.services.")


def _in_words(code: int) -> str:
    if code < 0 or code > 128:
        number = -code if code < 0 else code - 128
        with suppress(ValueError):
            return f"by {signal.Signals(number).name}"
    return f"with status {code}"
