"""What /proc says of a server's processes."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def of_tree(root: int) -> tuple[int, float, int]:
    """Return (bytes of memory, seconds of CPU, processes) of a process and all below it."""
    table = _processes()
    below: defaultdict[int, list[int]] = defaultdict(list)
    for pid, fields in table.items():
        below[int(fields[1])].append(pid)
    memory, ticks, count, left = 0, 0, 0, [root]
    while left:
        pid = left.pop()
        left += below[pid]
        if pid in table:
            fields = table[pid]
            memory += int(fields[21]) * _PAGE
            ticks += int(fields[11]) + int(fields[12])
            count += 1
    return memory, ticks / _TICKS, count


def session(leader: int) -> list[int]:
    """Return the processes of the session that `leader` began, and everything below it."""
    return [pid for pid, fields in _processes().items() if int(fields[3]) == leader]


def _processes() -> dict[int, list[bytes]]:
    """Return the fields of every /proc/PID/stat from the state on."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = (entry / "stat").read_bytes().rpartition(b")")[2].split()
            except OSError:
                continue
    return found
