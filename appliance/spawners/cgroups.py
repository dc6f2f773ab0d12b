"""What the kernel's control groups say of one container, versions 1 and 2 and both at once.

The engine knows the same, but an old one (20.10) takes up to a second to say it. Every function reads below `root`, so
that any layout can be tested with files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


@dataclass(frozen=True)
class Reading:
    memory_bytes: int       # without the cache the kernel gives back
    cpu_s: float            # used since the container began
    pids: int | None        # None: nobody counts them


@dataclass(frozen=True)
class Mount:
    controllers: frozenset[str]     # of version 1; empty for version 2, which has them all
    group: PurePosixPath            # the group that is seen at `point`
    point: Path


def read(pid: int, container_id: str, root: Path = _ROOT) -> Reading | None:
    """Return what the container whose first process is `pid` uses, None if that cannot be read from here.

    A Hub in a container of its own sees neither the host's processes nor its groups: `pid` may be anybody's there, which
    is why the group has to bear the container's id.
    """
    try:
        groups = groups_of((root / f"proc/{pid}/cgroup").read_text(), container_id)
        mounts = list(parse_mounts((root / "proc/self/mountinfo").read_text(), root))
        memory, memory_v1 = _folder(groups, mounts, "memory")
        cpu, cpu_v1 = _folder(groups, mounts, "cpuacct")
        return Reading(_memory(memory, v1=memory_v1), _cpu_s(cpu, v1=cpu_v1), _pids(groups, mounts))
    except (OSError, LookupError, ValueError):
        return None


def groups_of(text: str, container_id: str) -> dict[str, PurePosixPath]:
    """Return a container's group per controller ("" is version 2), out of /proc/PID/cgroup. Groups that its own processes
    made below it are left off, and so is every group that is not the container's."""
    found = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        parts = PurePosixPath(path).parts
        depth = next((depth for depth, part in enumerate(parts, 1) if container_id in part), None)
        if depth is not None:
            found.update(dict.fromkeys(controllers.split(","), PurePosixPath(*parts[:depth])))
    return found


def parse_mounts(text: str, root: Path = _ROOT) -> Iterator[Mount]:
    """Yield where groups are mounted, out of /proc/self/mountinfo."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            group, point = (re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), field)
                            for field in before.split(" ")[3:5])
            controllers = frozenset(options.split(",")) if kind == "cgroup" else frozenset[str]()
            yield Mount(controllers, PurePosixPath(group), root / point.lstrip("/"))


def _folder(groups: dict[str, PurePosixPath], mounts: list[Mount], controller: str) -> tuple[Path, bool]:
    """Return a group's folder and whether it is one of version 1. Raises LookupError."""
    v1 = controller in groups
    group = groups[controller if v1 else ""]
    for mount in mounts:
        if (controller in mount.controllers if v1 else not mount.controllers) and group.is_relative_to(mount.group):
            return mount.point / group.relative_to(mount.group), v1
    raise LookupError(controller)


def _memory(folder: Path, *, v1: bool) -> int:
    used, cache = ("memory.usage_in_bytes", "total_inactive_file") if v1 else ("memory.current", "inactive_file")
    return max(0, _number(folder / used) - _table(folder / "memory.stat")[cache])


def _cpu_s(folder: Path, *, v1: bool) -> float:
    return _number(folder / "cpuacct.usage") / 1e9 if v1 else _table(folder / "cpu.stat")["usage_usec"] / 1e6


def _pids(groups: dict[str, PurePosixPath], mounts: list[Mount]) -> int | None:
    try:
        return _number(_folder(groups, mounts, "pids")[0] / "pids.current")
    except (OSError, LookupError):
        return None


def _number(file: Path) -> int:
    return int(file.read_text())


def _table(file: Path) -> dict[str, int]:
    """Read lines of a name and a number; other lines do not count."""
    rows = (line.split() for line in file.read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdecimal()}
