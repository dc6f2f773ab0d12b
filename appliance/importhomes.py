"""Which folder of another Hub's homes belongs to whom, and the command that copies it to where homes are here."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import BadInput
from appliance.homes.directory import HOME

# as plain folders; DockerSpawner's volumes; The Littlest JupyterHub's users of the machine
_PREFIXES = ("", "jupyterhub-user-", "jupyter-")
_VOLUME = "_data"


@dataclass(frozen=True)
class FoundHome:
    """uid: None until the account is here. command: for a shell, "" without a uid."""

    name: str
    source: Path
    uid: int | None
    command: str


@dataclass(frozen=True)
class HomesReport:
    found: tuple[FoundHome, ...]
    missing: tuple[str, ...]         # accounts without a folder
    doubtful: tuple[str, ...]        # accounts with more than one
    others: tuple[str, ...]          # folders of nobody in the file


def report(folder: Path, names: Mapping[str, str], uids: Mapping[str, int], root: Path) -> HomesReport:
    """Look at `folder` and change nothing. names: of accounts, the other Hub's and ours; root: of the homes here.

    Raises BadInput.
    """
    try:
        there = {place.name: place for place in folder.absolute().iterdir() if place.is_dir() and not place.is_symlink()}
    except OSError as error:
        raise BadInput(f"The folder {folder} cannot be read: {error.strerror or error}.", action="Check its name.") from error
    found, missing, doubtful, used = list[FoundHome](), list[str](), list[str](), set[str]()
    for old, name in sorted(names.items(), key=lambda pair: pair[1]):
        mine = sorted(_spellings(old) & there.keys())
        used.update(mine)
        if len(mine) != 1:
            (doubtful if mine else missing).append(name)
            continue
        place = there[mine[0]]
        source = place / _VOLUME if (place / _VOLUME).is_dir() and not (place / _VOLUME).is_symlink() else place
        uid = uids.get(name)
        found.append(FoundHome(name, source, uid, "" if uid is None else _command(source, root.absolute(), uid)))
    return HomesReport(tuple(found), tuple(missing), tuple(doubtful), tuple(sorted(there.keys() - used)))


def _command(source: Path, root: Path, uid: int) -> str:
    """Copy as a new home; where there is one already, into a folder in it, so that nothing is written over."""
    home = root / f"u{uid}" / HOME
    fresh = not home.exists()
    target = home if fresh else home / "from-jupyterhub"
    steps = [["install", "-d", "-m", "0711", str(home.parent)]] if fresh else [["test", "!", "-e", str(target)]]
    steps += [["cp", "-a", "--reflink=auto", str(source), str(target)],
              ["chown", "-R", "-h", f"{uid}:{uid}", str(target)], ["chmod", "0700", str(target)]]
    return " && ".join(shlex.join(step) for step in steps)


def _spellings(name: str) -> Collection[str] | set[str]:
    forms = {name, name.lower(), _escaped(name, "-"), _escaped(name, "_")}
    return {f"{prefix}{form}" for prefix in _PREFIXES for form in forms}


def _escaped(name: str, mark: str) -> str:
    """As DockerSpawner writes a name: all but ASCII letters and digits as `mark` and their bytes in hexadecimal."""
    return "".join(char if (char.isascii() and char.isalnum()) or (char == "-" and mark == "_")
                   else "".join(f"{mark}{byte:02x}" for byte in char.encode()) for char in name.lower())
