"""The folder of dynamic files that Traefik watches: it holds exactly what is wanted, whoever touches it."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from appliance.proxies.machine import has_group, write_private

_Seen = tuple[int, int, int, int]


class RouteFolder:
    """Files by name. Blocking, but only for a few small files on a local disk.

    One file that does not parse stops all of Traefik's updates, so nothing foreign may stay. A temporary name lies
    beside the folder, on the same file system: Traefik never reads half a file.
    """

    def __init__(self, path: Path, log: logging.Logger, group: int | None = None) -> None:
        self.path = path
        self._group = group   # of a Traefik that runs as somebody else: it may read
        self.identity = ""    # a folder made anew is another one to whoever watches it
        self._log = log
        self._wanted: dict[str, str] = {}
        self._seen: dict[str, _Seen] = {}

    def put(self, name: str, text: str) -> None:
        if self._wanted.get(name) != text or name not in self._seen:
            self._wanted[name] = text
            if self._ensure_folder():
                self.repair()
            else:
                self._write(name)

    def drop(self, name: str) -> bool:
        """Remove a file and say whether Traefik may have read it."""
        was_wanted = self._wanted.pop(name, None) is not None
        self._seen.pop(name, None)
        try:
            (self.path / name).unlink()
        except FileNotFoundError:
            return was_wanted
        return True

    def put_all(self, files: Mapping[str, str]) -> bool:
        """Make these the wanted files and say whether others were removed; those that stay are never away, and
        unchanged ones are not touched."""
        dropped = [self.drop(name) for name in list(self._wanted) if name not in files]
        for name in files:
            if self._wanted.get(name) != files[name]:
                self._seen.pop(name, None)
        self._wanted = dict(files)
        self.repair(quiet=True)
        return any(dropped)

    def repair(self, *, quiet: bool = False) -> bool:
        """Make the folder hold what is wanted and say whether anything had to be done. quiet: a file that differs is
        to be changed, not damaged."""
        self._ensure_folder()
        found: dict[str, os.stat_result] = {}
        with os.scandir(self.path) as entries:
            for entry in entries:
                found[entry.name] = entry.stat(follow_symlinks=False)
        repaired = False
        for name in self._wanted:
            status = found.pop(name, None)
            if status is not None and self._seen.get(name) == _identity(status):
                continue
            if status is not None and has_group(status, self._group) and self._reads_as_wanted(name):
                self._seen[name] = _identity(status)
                continue
            if not quiet:
                self._log.warning("The route file %s was %s and is written again.",
                                  name, "removed" if status is None else "changed")
            self._write(name)
            repaired = True
        for name in found:
            self._refuse(name)
            repaired = True
        return repaired

    def _reads_as_wanted(self, name: str) -> bool:
        path = self.path / name
        try:
            return not path.is_symlink() and path.read_text() == self._wanted[name]
        except (OSError, UnicodeDecodeError):
            return False

    def _write(self, name: str) -> None:
        target = self.path / name
        if target.is_dir() and not target.is_symlink():
            self._refuse(name)
        write_private(target, self._wanted[name], group=self._group, via=self.path.parent / f".new-{name}")
        self._seen[name] = _identity(target.lstat())

    def _refuse(self, name: str) -> None:
        """Move what is not ours out of the folder, to be looked at."""
        refused = self.path.parent / "refused"
        refused.mkdir(mode=0o700, exist_ok=True)
        target = refused / name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        with suppress(FileNotFoundError):
            os.replace(self.path / name, target)
            self._log.warning("%r in the folder of routes is not ours and was moved to %s.", name, refused)

    def _ensure_folder(self) -> bool:
        """Make the folder if there is none and say whether it is another one than before."""
        is_new = False
        try:
            inode = self.path.stat().st_ino
        except FileNotFoundError:
            self.path.mkdir(mode=0o700, parents=True)
            is_new, inode = True, self.path.stat().st_ino
        self._let_group_in()
        if not is_new and self.identity.startswith(f"{inode}-"):
            return False
        if self.identity:
            self._log.warning("The folder of routes was removed; all routes are written again.")
        self.identity = self._identify(inode, is_new=is_new)
        self._seen.clear()
        return True

    def _let_group_in(self) -> None:
        if self._group is not None:
            found = self.path.stat()
            if (found.st_mode & 0o777, found.st_gid) != (0o750, self._group):
                os.chown(self.path, -1, self._group)
                self.path.chmod(0o750)

    def _identify(self, inode: int, *, is_new: bool) -> str:
        """Return what this folder is known by, to the next Hub too; its inode alone may be that of a removed one."""
        note = self.path.parent / "routes.id"
        with suppress(OSError):
            known = note.read_text()
            if known.startswith(f"{inode}-") and not is_new:
                return known
        identity = f"{inode}-{secrets.token_hex(4)}"
        write_private(note, identity)
        return identity


def _identity(status: os.stat_result) -> _Seen:
    # the time of the last change of the inode cannot be set by anybody
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
