"""Homes as Btrfs subvolumes, each with a hard limit on what it may hold.

Beside ROOT/u<uid>/home, which is a subvolume here, everything is as `DirectoryHomes` has it. What the kernel tells for
nothing (is it a subvolume, what does it hold, what is its limit) is asked by ioctl and read from /sys; what changes
something is done by the program `btrfs`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import struct
import subprocess
import uuid
from pathlib import Path
from weakref import WeakValueDictionary

import anyio
import anyio.to_thread

from appliance.errors import DiskFull, HomesUnavailable
from appliance.homes.directory import DIRECTORY, HOME, DirectoryHomes, explained
from appliance.ports import ByteSize, HomeUsage

_NEW = "home.new"              # a copy that is not complete while there is a HOME beside it
_BEFORE = "home.before"        # the folder that was copied
_SUBVOLUME_INODE = 256         # of the root of every subvolume, and of nothing else
_INO_LOOKUP = 0xD0009412       # ioctls of linux/btrfs.h
_FS_INFO = 0x8400941F
_QUICK_S = 60
_SYS = Path("/sys/fs/btrfs")


class BtrfsHomes(DirectoryHomes):
    """Makes each home a Btrfs subvolume with a quota. A folder that DirectoryHomes made becomes one at the next start of
    its user's server; what was there before stays beside it as `home.before`."""

    quota = ByteSize(
        help="Most a home may hold: bytes, or like 2G; None: no limit. It holds for the homes there are from the Hub's "
             "next start on. The first limit switches on the file system's quota groups, once: from then on Btrfs counts who "
             "holds what each time it writes to the disk, a few percent of a busy disk's time, and noticeably more where "
             "there are many snapshots.").tag(config=True)

    _applied: object = ()      # the quota that every home was given

    async def check(self) -> None:
        await super().check()
        if self._applied != (self.quota,):
            await anyio.to_thread.run_sync(self._limit_all)

    async def ensure(self, uid: int, user_name: str) -> Path:
        async with self._alone(uid):
            if await anyio.to_thread.run_sync(self._is_folder, uid):
                if self.in_use is None or await self.in_use(uid):
                    self.log.warning("The home of %s is no subvolume yet and has no quota: it is in use.", user_name)
                    return await super().ensure(uid, user_name)
                await anyio.to_thread.run_sync(self._convert, uid, user_name)
            return await super().ensure(uid, user_name)

    async def usage(self, uid: int) -> HomeUsage | None:
        return await anyio.to_thread.run_sync(self._usage, self._place(uid) / HOME)

    # -- the file system ----------------------------------------------------------------------------------------------
    def _check(self) -> None:
        super()._check()
        root = self.root.absolute()
        if _file_system(root) is None:
            raise HomesUnavailable(action=f"{root} is not on a Btrfs file system; mount one there, or set "
                                          'c.JupyterHub.homes_class = "directory".')
        if shutil.which("btrfs") is None:
            raise HomesUnavailable(action="The program btrfs is missing; install the package btrfs-progs.")

    def _limit_all(self) -> None:
        quota = self.quota
        if quota is not None:
            self._ensure_counting()
        for home in self._list():
            with explained(home.path.parent):
                if _is_subvolume(home.path):
                    self._limit(home.path)
        self._applied = (quota,)

    def _ensure_counting(self) -> None:
        """Switch quota groups on, unless they are, and let the kernel count anew where it says that it lost count."""
        root = self.root.absolute()
        file_system = _file_system(root)
        groups = _SYS / str(file_system) / "qgroups"
        if not groups.is_dir():
            self._btrfs("quota", "enable", str(root), failing="Quotas could not be switched on")
            self.log.info("Quotas are switched on for the file system of %s.", root)
        elif _read(groups / "inconsistent") == 1:
            with contextlib.suppress(HomesUnavailable):  # it counts already
                self._btrfs("quota", "rescan", str(root), failing="")

    def _limit(self, home: Path) -> None:
        """Give a subvolume the limit of now; costs no process where it has it."""
        known = self._usage(home)
        if (known is None and self.quota is not None) or (known is not None and known.quota_bytes != self.quota):
            # named by its number: through its own path, the limit of a full home cannot be changed any more
            self._btrfs("qgroup", "limit", "none" if self.quota is None else str(self.quota), f"0/{_subvolume_id(home)}",
                        str(self.root.absolute()), failing=f"The quota of {home} could not be set")

    def _usage(self, home: Path) -> HomeUsage | None:
        try:
            group = _SYS / str(_file_system(home)) / "qgroups" / f"0_{_subvolume_id(home)}"
        except OSError:
            return None
        used, flags = _read(group / "referenced"), _read(group / "limit_flags")
        if used is None or flags is None:
            return None
        return HomeUsage(used, _read(group / "max_referenced") if flags & 1 else None)

    def _btrfs(self, *words: str, failing: str) -> None:
        """Run the program. Raises HomesUnavailable, DiskFull."""
        try:
            done = subprocess.run(["btrfs", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                  errors="replace", timeout=_QUICK_S, check=False)
        except FileNotFoundError as error:
            raise HomesUnavailable(action="The program btrfs is missing; install the package btrfs-progs.") from error
        except subprocess.TimeoutExpired as error:
            raise HomesUnavailable(action=f"{failing}: btrfs {words[0]} {words[1]} did not end within {_QUICK_S} s."
                                   ) from error
        if done.returncode == 0:
            return
        said = (done.stderr or done.stdout).strip()[-1000:]
        if "no space left" in said.lower():
            raise DiskFull(evidence=said)
        if "operation not permitted" in said.lower():
            raise HomesUnavailable(
                action=f"{failing}: the Hub lacks the capability CAP_SYS_ADMIN, which Btrfs asks for; give it to the Hub's "
                       'container, or set c.JupyterHub.homes_class = "directory".', evidence=said)
        raise HomesUnavailable(action=f"{failing}; the evidence holds the program's own words.", evidence=said)

    # -- one home -----------------------------------------------------------------------------------------------------
    def _place(self, uid: int) -> Path:
        return self.root.absolute() / f"u{uid}"

    def _ensure(self, uid: int, user_name: str) -> Path:
        home = super()._ensure(uid, user_name)
        with explained(home.parent):
            if _is_subvolume(home):
                if self.quota is not None:
                    self._ensure_counting()
                self._limit(home)
        return home

    def _make_home(self, folder: int, place: Path) -> None:
        if HOME in os.listdir(folder):
            return
        if _NEW in os.listdir(folder) and any(name.startswith(_BEFORE) for name in os.listdir(folder)):
            os.rename(_NEW, HOME, src_dir_fd=folder, dst_dir_fd=folder)  # a Hub was killed between the two renames
            os.fsync(folder)
            return
        self._btrfs("subvolume", "create", str(place / HOME), failing=f"{place / HOME} could not be made")

    # -- a folder becomes a subvolume ---------------------------------------------------------------------------------
    def _is_folder(self, uid: int) -> bool:
        self._check()
        home = self._place(uid) / HOME
        return home.is_dir() and not home.is_symlink() and not _is_subvolume(home)

    def _convert(self, uid: int, user_name: str) -> None:
        """Copy a home into a subvolume of its own and put that in its place. Nothing is deleted but a copy that is not
        complete; killed at any line, the next call finds either the folder as it was or the complete copy."""
        place = self._place(uid)
        with explained(place):
            folder = os.open(place, DIRECTORY)
            try:
                self._ensure_owner(folder, place, uid, user_name)
                home = os.stat(HOME, dir_fd=folder, follow_symlinks=False)
                if home.st_uid != uid:
                    return  # ensure() explains it
                if home.st_dev != os.fstat(folder).st_dev:
                    raise HomesUnavailable(action=f"{place / HOME} is on another file system; move it to this one.")
                self.log.info("The home of %s becomes a subvolume.", user_name)
                self._copy(place)
                before = _free_name(folder)
                os.rename(HOME, before, src_dir_fd=folder, dst_dir_fd=folder)
                os.rename(_NEW, HOME, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
            finally:
                os.close(folder)
        self.log.warning("The home of %s is a subvolume now. The folder it was copied from is kept as %s; remove it when "
                         "nobody misses anything.", user_name, place / before)

    def _copy(self, place: Path) -> None:
        new = place / _NEW
        if new.is_dir() and not new.is_symlink() and _is_subvolume(new):
            self._btrfs("subvolume", "delete", str(new), failing=f"The incomplete copy {new} could not be removed")
        self._btrfs("subvolume", "create", str(new), failing=f"{new} could not be made")
        done = subprocess.run(["cp", "-a", "--reflink=auto", "--", f"{place / HOME}/.", f"{new}/"],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            said = done.stderr.strip()[-1000:]
            with contextlib.suppress(HomesUnavailable):
                self._btrfs("subvolume", "delete", str(new), failing="")
            if os.strerror(errno.ENOSPC).lower() in said.lower():
                raise DiskFull(evidence=said)
            raise HomesUnavailable(action=f"{place / HOME} could not be copied into a subvolume; it is as it was.",
                                   evidence=said)
        self._btrfs("filesystem", "sync", str(new), failing=f"{new} could not be written to the disk")

    def _alone(self, uid: int) -> anyio.Lock:
        locks = self.__dict__.setdefault("_locks", WeakValueDictionary())
        lock: anyio.Lock = locks.setdefault(uid, anyio.Lock())
        return lock


# -- what the kernel says ---------------------------------------------------------------------------------------------
def _file_system(path: Path) -> uuid.UUID | None:
    """Return which Btrfs file system a folder is on, None if it is on none. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        answer = fcntl.ioctl(descriptor, _FS_INFO, bytes(1024))
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP):
            return None
        raise
    finally:
        os.close(descriptor)
    return uuid.UUID(bytes=answer[16:32])


def _subvolume_id(path: Path) -> int:
    """Raises OSError."""
    descriptor = os.open(path, DIRECTORY)
    answer = bytearray(4096)  # what is longer than 1024 bytes has to be changed in place
    struct.pack_into("=QQ", answer, 0, 0, _SUBVOLUME_INODE)
    try:
        fcntl.ioctl(descriptor, _INO_LOOKUP, answer)
    finally:
        os.close(descriptor)
    return int(struct.unpack_from("=Q", answer)[0])


def _is_subvolume(path: Path) -> bool:
    return os.stat(path, follow_symlinks=False).st_ino == _SUBVOLUME_INODE


def _read(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _free_name(folder: int) -> str:
    taken, number, name = os.listdir(folder), 1, _BEFORE
    while name in taken:
        number += 1
        name = f"{_BEFORE}.{number}"
    return name
