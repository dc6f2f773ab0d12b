"""What the kernel's control groups say of one container, versions 1 and 2 and both at once.

The engine knows the same, but an old one (20.10) takes up to a second to say it. Every function reads below `root`, so
that any layout can be tested with files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from appliance.errors import BadOption

_ROOT = Path("/")
_UNLIMITED_V1 = 1 << 60     # what version 1 says where there is no limit is a little less than 1 << 63


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


def read(pid: int, container_id: str, parent: PurePosixPath | None = None, root: Path = _ROOT) -> Reading | None:
    """Return what the container whose first process is `pid` uses, None if that cannot be read from here.

    A Hub in a container of its own does not see the host's processes: `pid` may be anybody's there, which is why the group
    has to bear the container's id. If it sees the host's groups it looks for that name below `parent` (see `group_of`) and
    where the engine puts a container that has none.
    """
    try:
        mounts = list(parse_mounts((root / "proc/self/mountinfo").read_text(), root))
    except (OSError, ValueError):
        return None
    try:
        groups = groups_of((root / f"proc/{pid}/cgroup").read_text(), container_id)
    except (OSError, ValueError):
        groups = {}
    known = _read(lambda controller: _folder(groups, mounts, controller))
    return known or _read(lambda controller: _search(container_id, parent, mounts, controller))


def _read(folder_of: Callable[[str], tuple[Path, bool]]) -> Reading | None:
    """folder_of: returns a controller's folder and whether that is of version 1; raises LookupError."""
    try:
        memory, memory_v1 = folder_of("memory")
        cpu, cpu_v1 = folder_of("cpuacct")
        return Reading(_memory(memory, v1=memory_v1), _cpu_s(cpu, v1=cpu_v1), _pids(folder_of))
    except (OSError, LookupError, ValueError):
        return None


# -- the group all servers are in -------------------------------------------------------------------------------------
def check_name(name: str) -> None:
    """Raises BadOption for what is no name of a group."""
    word = r"[A-Za-z0-9_][A-Za-z0-9_.:]*"
    if name and not re.fullmatch(rf"{word}(-{word})*", name):
        raise BadOption(f"“{name}” is not a name like appliance.slice: letters, digits, '_', '.', ':' and single '-'.")


def group_of(name: str, *, systemd: bool) -> PurePosixPath:
    """Return the group that `name` stands for: systemd puts a-b.slice into a.slice."""
    if not systemd:
        return PurePosixPath("/", name)
    parts = name.removesuffix(".slice").split("-")
    return PurePosixPath("/", *("-".join(parts[:depth]) + ".slice" for depth in range(1, len(parts) + 1)))


def _mounts(root: Path) -> list[Mount]:
    """Return the mounts of control groups; none where they cannot be seen from here."""
    try:
        return list(parse_mounts((root / "proc/self/mountinfo").read_text(), root))
    except (OSError, ValueError):
        return []


def is_limited(group: PurePosixPath, root: Path = _ROOT) -> bool | None:
    """Say whether a group's memory has a limit; None if that cannot be seen from here."""
    for mount in _mounts(root):
        v1 = "memory" in mount.controllers
        try:
            if v1:
                return _number(_below(mount, group) / "memory.limit_in_bytes") < _UNLIMITED_V1
            if not mount.controllers:
                return (_below(mount, group) / "memory.max").read_text().strip() != "max"
        except (OSError, ValueError):
            continue
    return None


def shared_memory(group: PurePosixPath, root: Path = _ROOT) -> tuple[int, int | None] | None:
    """Return what a group and all below it use and may use, in bytes; None if that cannot be seen from here."""
    for mount in _mounts(root):
        v1 = "memory" in mount.controllers
        if not v1 and mount.controllers:
            continue
        folder = _below(mount, group)
        try:
            said = (folder / ("memory.limit_in_bytes" if v1 else "memory.max")).read_text().strip()
            limit = None if said == "max" or int(said) >= _UNLIMITED_V1 else int(said)
            return _memory(folder, v1=v1), limit
        except (OSError, LookupError, ValueError):
            continue
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


def _search(
    container_id: str, parent: PurePosixPath | None, mounts: list[Mount], controller: str,
) -> tuple[Path, bool]:
    """The same by the container's name alone. Raises LookupError."""
    names = (container_id, f"docker-{container_id}.scope")  # as the engine calls it itself, or lets systemd
    places = [parent / name for name in names] if parent is not None else []
    places += [PurePosixPath("/docker", names[0]), PurePosixPath("/system.slice", names[1])]
    for v1 in (True, False):
        for mount in mounts:
            if controller in mount.controllers if v1 else not mount.controllers:
                for place in places:
                    if (folder := _below(mount, place)).is_dir():
                        return folder, v1
    raise LookupError(controller)


def _below(mount: Mount, group: PurePosixPath) -> Path:
    """Return a group's folder where the whole tree is mounted. Seen from a container, the kernel writes the tree's root as
    "/../..", so what it writes is no help."""
    return mount.point / group.relative_to("/")


def _memory(folder: Path, *, v1: bool) -> int:
    used, cache = ("memory.usage_in_bytes", "total_inactive_file") if v1 else ("memory.current", "inactive_file")
    return max(0, _number(folder / used) - _table(folder / "memory.stat")[cache])


def _cpu_s(folder: Path, *, v1: bool) -> float:
    return _number(folder / "cpuacct.usage") / 1e9 if v1 else _table(folder / "cpu.stat")["usage_usec"] / 1e6


def _pids(folder_of: Callable[[str], tuple[Path, bool]]) -> int | None:
    try:
        return _number(folder_of("pids")[0] / "pids.current")
    except (OSError, LookupError):
        return None


def _number(file: Path) -> int:
    return int(file.read_text())


def _table(file: Path) -> dict[str, int]:
    """Read lines of a name and a number; other lines do not count."""
    rows = (line.split() for line in file.read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdecimal()}
