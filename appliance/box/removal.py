"""How the parts of a box are taken off: each step is right where its object is half gone, or gone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from appliance.box import shell
from appliance.box.found import lines
from appliance.box.paths import Paths
from appliance.box.shell import BoxError, say


def runs(*argv: str | Path) -> Callable[[], None]:
    return lambda: _run_if_there(*argv)


def _run_if_there(*argv: str | Path) -> None:
    """Run a command; that its object is gone already is what was wanted. Raises BoxError."""
    done = shell.run(argv, check=False, timeout_s=180)
    gone = ("no such", "not found", "does not exist", "not mounted", "not loaded", "could not delete non-existent")
    if not done.ok and done.returncode != 127 and not any(word in done.stderr.lower() for word in gone):
        raise BoxError(f"“{' '.join(map(str, argv))}” failed: {done.words}", evidence=done.stderr[-2000:])


def disable(units: Iterable[str]) -> None:
    for unit in units:
        _run_if_there("systemctl", "disable", "--now", unit)
        shell.run(["systemctl", "reset-failed", unit], check=False, timeout_s=30)


def remove_images(images: Iterable[str]) -> None:
    """Remove images, a child before its parent: what is refused is tried again as long as one more goes.

    What somebody else's container or image stands on stays.
    """
    left = list(images)
    while left:
        refused = [image for image in left
                   if not shell.run(["docker", "rmi", "--force", image], check=False, timeout_s=120).ok]
        there = set(lines("docker", "images", "--all", "--quiet", "--no-trunc"))
        refused = [image for image in refused if image in there]
        if len(refused) == len(left):
            say(f"{shell.counted(len(refused), 'image stays', 'images stay')}, because containers or images that are not the "
                "box's stand on what is in there.")
            return
        left = refused


def clean_fstab(paths: Paths, lines: Iterable[str]) -> None:
    fstab, out = paths.at("/etc/fstab"), set(lines)
    kept = [line for line in fstab.read_text().splitlines(keepends=True) if line.rstrip("\n") not in out]
    shell.write_file(fstab, "".join(kept), 0o644)


def purge(names: list[str]) -> None:
    """Remove packages and what only they needed; what nobody needed before is none of our business."""
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    there = [line.split()[1] for line in lines(
        "dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Package}\n", *names) if line.startswith("installed")]
    if not there:
        return
    before = _unneeded()
    shell.run(["apt-mark", "auto", *there], timeout_s=60)
    ours = sorted(_unneeded() - before)
    if ours:
        shell.run(["apt-get", "purge", "--yes", "--quiet", *ours], env=environment, timeout_s=900)


def _unneeded() -> set[str]:
    # recommendations and suggestions of others keep nothing here: we install without them
    said = lines("apt-get", "--simulate", "-o", "APT::AutoRemove::RecommendsImportant=true",
                  "-o", "APT::AutoRemove::SuggestsImportant=false", "autoremove")
    return {line.split()[1] for line in said if line.startswith("Remv ")}


def remover(place: Path) -> Callable[[], None]:
    return lambda: _remove(place)


def _remove(place: Path) -> None:
    if os.path.ismount(place):
        raise BoxError(f"{place} is still mounted; nothing in it was touched.", f"Run: umount {place}")
    if place.is_dir() and not place.is_symlink():
        # what is in a mount below it is somebody's disk
        inner = [line.split()[1] for line in _proc_mounts() if Path(line.split()[1]).is_relative_to(place)]
        if inner:
            raise BoxError(f"{inner[0]} is still mounted; nothing in {place} was touched.", f"Run: umount {inner[0]}")
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
        if place.parent.name.endswith((".service.d", ".timer.d")):   # made for a file of ours
            remove_if_empty(place.parent)


def _proc_mounts() -> list[str]:
    try:
        return [line for line in Path("/proc/self/mounts").read_text().splitlines() if len(line.split()) > 1]
    except OSError:
        return []


def empty(place: Path) -> None:
    """Delete what is in a file system. Btrfs's read-only snapshots cannot be removed file by file."""
    if shell.find("btrfs"):
        names = [line.rpartition(" path ")[2] for line in lines("btrfs", "subvolume", "list", str(place))]
        for name in sorted(names, key=len, reverse=True):
            shell.run(["btrfs", "subvolume", "delete", place / name], check=False, timeout_s=120)
    for entry in place.iterdir():
        _remove(entry)


def is_empty(place: Path) -> bool:
    return place.is_dir() and not place.is_symlink() and not os.path.ismount(place) and not any(place.iterdir())


def remove_if_empty(place: Path) -> None:
    if is_empty(place):
        place.rmdir()


def remove_tree(place: Path, *, keep: Iterable[Path]) -> None:
    kept = {file for file in keep if file.exists()}
    if not kept:
        _remove(place)
        return
    for file in sorted(place.rglob("*"), reverse=True):
        if file in kept or any(k.is_relative_to(file) for k in kept):
            continue
        if file.is_dir() and not file.is_symlink():
            file.rmdir()
        else:
            file.unlink(missing_ok=True)
