"""A disk of its own for a test: a file behind a loop device, with a file system on it.

    with loop_disk(tmp_path, "512M", "mkfs.btrfs", "-q") as folder:
        (folder / "homes").mkdir()
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def loop_disk(place: Path, size: str, *mkfs: str) -> Iterator[Path]:
    """Yield where the disk is mounted; at the end file, device and mount are gone."""
    image, folder = place / "disk.img", place / "disk"
    _run("truncate", "-s", size, str(image))
    _run(*mkfs, str(image))
    device = _attach(image)
    try:
        folder.mkdir()
        _run("mount", device, str(folder))
        try:
            yield folder
        finally:
            _run("umount", str(folder))
            folder.rmdir()
    finally:
        _run("losetup", "-d", device)
        image.unlink()


def _attach(image: Path) -> str:
    for _ in range(20):  # others take devices at the same time
        device = _run("losetup", "-f")
        number = re.search(r"\d+$", device)
        assert number is not None, device
        if not os.path.exists(device):  # a /dev that is not kept by the kernel, as in most containers
            os.mknod(device, stat.S_IFBLK | 0o660, os.makedev(7, int(number[0])))
        with contextlib.suppress(subprocess.CalledProcessError):
            _run("losetup", device, str(image))
            return device
    raise AssertionError("no loop device is free")


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()
