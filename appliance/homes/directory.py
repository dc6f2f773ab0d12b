"""Homes as plain directories: ROOT/u<uid>/home, which belongs to the user, beside ROOT/u<uid>/owner.json, which does not.

With the database lost, owner.json still says whose home it is.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio.to_thread
from traitlets import Bool

from appliance.errors import DiskFull, HomesUnavailable
from appliance.ports import Home, Homes

_OWNER = "owner.json"
HOME = "home"
# never through a link, and never anything but a directory
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class DirectoryHomes(Homes):
    """Works on every file system. Knows no quotas and no snapshots."""

    require_mount = Bool(
        False, help="Start no server unless the homes' folder is a mount point, so that a disk that was not mounted is "
                    "never mistaken for empty homes.").tag(config=True)

    async def check(self) -> None:
        await anyio.to_thread.run_sync(self._check)

    async def ensure(self, uid: int, user_name: str) -> Path:
        return await anyio.to_thread.run_sync(self._ensure, uid, user_name)

    async def rename(self, uid: int, user_name: str) -> None:
        await anyio.to_thread.run_sync(self._rename, uid, user_name)

    async def list(self) -> builtins.list[Home]:
        return await anyio.to_thread.run_sync(self._list)

    def _check(self) -> None:
        root = self.root.absolute()
        if not root.is_dir():
            raise HomesUnavailable(action=f"The homes' folder {root} does not exist; make it or mount it.")
        if self.require_mount and not os.path.ismount(root):
            raise HomesUnavailable(action=f"{root} is not a mount point; mount the homes' file system there.")

    def _ensure(self, uid: int, user_name: str) -> Path:
        if uid <= 0:
            raise HomesUnavailable(evidence=f"A home for uid {uid} was asked for.")
        self._check()
        place = self.root.absolute() / f"u{uid}"
        # 0711: the user passes through it and changes nothing in it
        with explained(place), _directory(place, mode=0o711) as folder:
            self._ensure_owner(folder, place, uid, user_name)
            self._make_home(folder, place)
            _give_home(folder, place, uid)
        return place / HOME

    def _make_home(self, folder: int, place: Path) -> None:
        """Make what will be the home, empty and still the Hub's, unless it is there. folder: a descriptor of `place`."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(HOME, 0o700, dir_fd=folder)

    @staticmethod
    def _ensure_owner(folder: int, place: Path, uid: int, user_name: str) -> None:
        owner = _read_owner(place)
        if owner is None:
            _write(place, json.dumps({"user_name": user_name, "uid": uid}) + "\n", folder)
        elif owner != (uid, user_name):
            raise HomesUnavailable(
                action=f"{place} belongs to “{owner[1]}” (uid {owner[0]}) and not to “{user_name}”; if the user was "
                       f"renamed, correct {place / _OWNER}.")

    def _rename(self, uid: int, user_name: str) -> None:
        self._check()
        place = self.root.absolute() / f"u{uid}"
        with explained(place):
            if _read_owner(place) is not None:
                with _directory(place, mode=0o711) as folder:
                    _write(place, json.dumps({"user_name": user_name, "uid": uid}) + "\n", folder)

    def _list(self) -> builtins.list[Home]:
        self._check()
        homes = []
        with explained(self.root):
            for place in sorted(self.root.absolute().iterdir()):
                try:
                    owner = _read_owner(place) if place.name.startswith("u") else None
                except HomesUnavailable as error:  # one that is damaged must not hide the others
                    self.log.warning("%s", error.action)
                    continue
                if owner is not None and place.name == f"u{owner[0]}":
                    homes.append(Home(owner[0], owner[1], place / HOME))
        return homes


def _give_home(folder: int, place: Path, uid: int) -> None:
    home = os.open(HOME, DIRECTORY, dir_fd=folder)
    try:
        found = os.fstat(home)
        if found.st_uid == uid:
            return
        if found.st_uid != os.geteuid():
            raise HomesUnavailable(action=f"{place / HOME} belongs to uid {found.st_uid}, not to {uid}; give it back "
                                          f"with chown if that is a mistake.")
        os.fchown(home, uid, uid)  # just made, by us or by a Hub that was killed at this very line
        os.fchmod(home, 0o700)
        os.fsync(home)
    finally:
        os.close(home)


@contextmanager
def _directory(path: Path, mode: int) -> Iterator[int]:
    """Yield a descriptor of a directory that belongs to the Hub, made if missing."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=mode)
        path.chmod(mode)  # whatever the umask
    descriptor = os.open(path, DIRECTORY)
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            raise HomesUnavailable(action=f"{path} must belong to the Hub's own user.")
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def explained(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(evidence=str(error)) from error
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise HomesUnavailable(action=f"{place} or what is in it is a link or a file where a folder should be.",
                                   evidence=str(error)) from error
        raise HomesUnavailable(evidence=str(error)) from error


def _read_owner(place: Path) -> tuple[int, str] | None:
    """Return (uid, user name), None where there is no readable owner.json."""
    try:
        descriptor = os.open(place / _OWNER, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with os.fdopen(descriptor) as file:
        try:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            said = json.load(file)
            return int(said["uid"]), str(said["user_name"])
        except (ValueError, KeyError, TypeError):
            raise HomesUnavailable(action=f"{place / _OWNER} cannot be read; write "
                                          '{"user_name": …, "uid": …} into it.') from None


def _write(place: Path, text: str, folder: int) -> None:
    """Write owner.json in one step that survives a power cut."""
    descriptor, temporary = tempfile.mkstemp(dir=place, prefix=f".{_OWNER}-")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, place / _OWNER)
    except BaseException:
        os.unlink(temporary)
        raise
    os.fsync(folder)
