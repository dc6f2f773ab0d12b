"""The Traefik of one attempt at a certificate: a process here, or a container beside the one that people use."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from appliance.ports import KeptContainer
from appliance.proxies.acme import Helper


class _Process:
    def __init__(self, process: asyncio.subprocess.Process, output: Path) -> None:
        self._process, self._output = process, output

    async def is_alive(self) -> bool:
        return self._process.returncode is None

    async def stop(self) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()      # it serves nobody, so there is nothing to end in good order
        await self._process.wait()

    async def output(self) -> str:
        return self._output.read_text(errors="replace")[-2000:]


async def in_process(executable: str, static: Path) -> Helper:
    """Start Traefik with `static`; one that a killed Hub left is ended first. Raises OSError."""
    argument, output = f"--configfile={static}", static.with_suffix(".out")
    _end_earlier(argument)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        process = await asyncio.create_subprocess_exec(
            executable, argument, stdin=subprocess.DEVNULL, stdout=descriptor, stderr=descriptor, cwd=static.parent,
            umask=0o077, env={key: value for key, value in os.environ.items() if not key.upper().startswith("TRAEFIK_")})
    finally:
        os.close(descriptor)
    return _Process(process, output)


def _end_earlier(argument: str) -> None:
    for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
        with suppress(OSError):
            if os.fsencode(argument) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                os.kill(pid, signal.SIGKILL)


class _Container:
    def __init__(self, container: KeptContainer) -> None:
        self._container = container

    async def is_alive(self) -> bool:
        return await self._container.state() in ("created", "running")

    async def stop(self) -> None:
        await self._container.remove()
        await self._container.close()

    async def output(self) -> str:
        return await self._container.logs(20)


async def in_container(edge: KeptContainer, static: Path) -> Helper:
    """Start a container like the edge's, with the same environment (the DNS provider's variables) and mounts."""
    try:
        return _Container(await edge.start_another("acme", [f"--configfile={static}"]))
    finally:
        await edge.close()
