"""One Hub a folder: the kernel's lock ends with its process, however that ends."""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType


@dataclass(frozen=True)
class Other:
    pid: int
    url: str
    pid_space: str = ""       # the processes among which `pid` is one; "" is ours

    @property
    def is_near(self) -> bool:
        """Whether `pid` is a process that we can see: a container has pids of its own."""
        return self.pid_space in ("", _pid_space())

    @property
    def where(self) -> str:
        return f"process {self.pid}" if self.is_near else f"process {self.pid} of another container, or of the host"


class HubLock:
    """`other` says who holds the lock; None: we do. wait_s: how long to wait for another to let go."""

    def __init__(self, path: Path, *, wait_s: float = 0) -> None:
        self._path, self._wait_s = path, wait_s
        self._fd = -1
        self.other: Other | None = None

    def __enter__(self) -> HubLock:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        until = time.monotonic() + self._wait_s
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.other = None
                return self
            except BlockingIOError:
                self.other = self._read()
                if time.monotonic() >= until:
                    return self
                time.sleep(0.05)

    def write(self, url: str) -> None:
        """Say where the Hub is reached."""
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps({"pid": os.getpid(), "url": url, "pid_space": _pid_space()}).encode(), 0)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._fd)

    def _read(self) -> Other:
        try:
            said = json.loads(os.pread(self._fd, 4096, 0))
            return Other(int(said["pid"]), str(said["url"]), str(said.get("pid_space", "")))
        except (ValueError, KeyError, OSError):
            return Other(0, "an address it is still making")


def _pid_space() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
