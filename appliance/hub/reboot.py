"""Whether the machine was restarted since the last Hub ran here: told by a file where a restart leaves none."""

from __future__ import annotations

import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

_NAME = "machine-is-up"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Marker:
    """A file in `folder`, which should be in memory, as /run is. It holds the kernel's boot id besides, for a folder that is
    on a disk after all; that alone would not do, because a machine that is a container itself has its host's.

    otherwise: a folder to use where `folder` may not be written to.
    """

    def __init__(self, folder: Path, otherwise: Path) -> None:
        self._folders = (folder, otherwise)

    def missing(self) -> bool:
        """Say whether the machine was restarted since `write`, or `write` was never called."""
        return not any(self._read(folder) == _boot_id() for folder in self._folders)

    def write(self) -> None:
        for folder in self._folders:
            try:
                folder.mkdir(parents=True, exist_ok=True, mode=0o755)
                new = folder / f".{_NAME}-{os.getpid()}"
                new.write_text(_boot_id())
                new.replace(folder / _NAME)
            except OSError:
                continue
            return
        log.warning("Neither %s nor %s can be written to, so the next Hub will believe that the machine was restarted.",
                    *self._folders)

    @staticmethod
    def _read(folder: Path) -> str | None:
        try:
            return (folder / _NAME).read_text()
        except OSError:
            return None


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return "unknown"
