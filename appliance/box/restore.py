"""appliance restore: a backup comes back, whole or one home beside the one that is there.

Nothing that is there is deleted: the database, configuration and secrets of before go into a snapshot, homes of before
into homes/.before-restore-TIME. What restic writes is complete before anything that runs is touched; from then on
/opt/appliance/restore.json says how far it came, and whatever interrupts it, the next command, or the next start of the
machine, ends it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import time
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from appliance.box import backup, compose, release, restic, shell, snapshot, switch, switchsteps
from appliance.box.paths import Paths
from appliance.box.release import Release
from appliance.box.restic import Repository
from appliance.box.shell import BoxError, say, step

INCOMING, BEFORE = ".restoring", ".before-restore-"
# What belongs to this machine and this run of the playbook, not to what a backup is of.
_STAYS = ("appliance.env", "installed.json", "plan.json", "config.d/10-box.py", "secrets/restic_password", "secrets/backup.env",
          "secrets/postgres_password")


def when(found: dict[str, Any]) -> str:
    text = str(found["time"])
    with contextlib.suppress(ValueError):  # restic writes nanoseconds
        zone = text[text.rindex("Z"):] if text.endswith("Z") else text[-6:]
        return datetime.fromisoformat(text[:19] + zone.replace("Z", "+00:00")).astimezone().strftime("%Y-%m-%d %H:%M")
    return text


def about(repository: Repository, found: dict[str, Any]) -> dict[str, Any]:
    """Return what a backup says of itself. Raises BoxError for one that is not ours."""
    try:
        made: dict[str, Any] = json.loads(restic.dump(repository, found["id"], f"{_staging_of(found)}/{backup.MADE}"))
        if made["format"] != 1:
            raise BoxError(f"The backup {found['short_id']} was made by a newer version of this program.",
                           "Install that version first.")
        return made
    except (ValueError, KeyError, TypeError):
        raise BoxError(f"The backup {found['short_id']} was not made by this program.",
                       "Choose another one: appliance backup --list") from None


def _staging_of(found: dict[str, Any]) -> str:
    place = next((path for path in found["paths"] if PurePosixPath(path).name == backup.STAGING), None)
    if place is None:
        raise BoxError(f"The backup {found['short_id']} was not made by this program.",
                       "Choose another one: appliance backup --list")
    return str(place)


def fetch_staging(repository: Repository, found: dict[str, Any], target: Path) -> Path:
    """Put the part of a backup that is not homes below `target`, and return its folder."""
    place = _staging_of(found)
    restic.restore(repository, found["id"], target, [place])
    return target / place.lstrip("/")


# ------------------------------------------------------------------------------------------------------ the whole box --
def restore_all(paths: Paths, repository: Repository, found: dict[str, Any]) -> list[str]:
    """Put a whole backup back and return sentences about it. May be repeated after it was interrupted. Raises BoxError."""
    made = {**about(repository, found), "staging": _staging_of(found)}
    current = Release.read(paths.current)
    if current is None:
        raise BoxError("No release is in place on this box yet.", "Run the playbook first, then restore.")
    if made["schema"] is not None and made["schema"] > current.schema:
        raise BoxError(f"The backup is of a newer version (schema {made['schema']}; this release knows {current.schema}).",
                       "Upgrade first: appliance upgrade SOURCE")
    facts = snapshot.facts(paths)
    where = facts["database"]
    if made["database_file"] is not None and made["database"] != where["kind"]:
        raise BoxError(f"The backup holds a {made['database']} database, and this box uses {where['kind']}.",
                       "Set hub_database to that of the backup, run the playbook, then restore.")
    homes = paths.at(facts["homes"])
    homes.mkdir(mode=0o711, parents=True, exist_ok=True)
    _ensure_room(repository, found, homes)

    taken = snapshot.take(paths, "restore", where, facts["schema"])
    note = Note(found["short_id"], when(found), made, where, str(homes),
                str(homes / f"{BEFORE}{time.strftime('%Y%m%dT%H%M%S')}"), "begun")
    _write(paths, note)
    try:
        _fetch(paths, repository, found, note)
    except BaseException:
        _forget(paths, note)
        raise
    os.sync()
    return [f"What was here before is in {taken}.", *_put_back(paths, _write(paths, replace(note, step="fetched")), current)]


def _fetch(paths: Paths, repository: Repository, found: dict[str, Any], note: Note) -> None:
    """Bring everything onto the disks where it is to be. Raises BoxError if something of it is missing."""
    incoming_data, incoming_homes = paths.data / INCOMING, note.incoming_homes
    for incoming in (incoming_data, incoming_homes):
        _remove(incoming)
        incoming.mkdir(mode=0o700)
    step("Fetching the database, configuration and secrets …")
    staging = fetch_staging(repository, found, incoming_data)
    if note.made["database_file"] == snapshot.SQLITE_COPY:
        snapshot.check_sqlite(staging / "database" / snapshot.SQLITE_COPY)
    step(f"Fetching {shell.counted(len(note.made['homes']), 'home')} …")
    _fetch_homes(repository, found, note.made, incoming_homes)
    wanted = [note.fetched(home) for home in note.made["homes"].values()]
    wanted += [staging / "database" / note.made["database_file"]] if note.made["database_file"] is not None else []
    if missing := [path for path in wanted if not path.exists()]:
        raise BoxError(f"The backup {note.backup} is not whole: {missing[0].relative_to(paths.root)} is not in it.",
                       "Choose another one: appliance backup --list")


# -- from here on without the repository, and as often as need be
@dataclass(frozen=True)
class Note:
    """The journal of a restore. Steps: begun (nothing that runs was touched), fetched (all of it is on the disks), placed
    (it is where it belongs)."""

    backup: str
    at: str
    made: dict[str, Any]
    where: dict[str, str]
    homes: str
    aside: str                  # where homes of before go
    step: str
    by: str = str(switch.PROGRAM)
    format: int = 1

    @property
    def incoming_homes(self) -> Path:
        return Path(self.homes) / INCOMING

    def fetched(self, home: dict[str, Any]) -> Path:
        return self.incoming_homes / str(home["path"]).lstrip("/")


def _file(paths: Paths) -> Path:
    return paths.opt / "restore.json"


def _write(paths: Paths, note: Note) -> Note:
    shell.write_file(_file(paths), json.dumps(asdict(note), indent=2) + "\n", 0o600)
    return note


def _forget(paths: Paths, note: Note) -> None:
    _remove(paths.data / INCOMING)
    _remove(note.incoming_homes)
    _file(paths).unlink(missing_ok=True)


def repair(paths: Paths) -> str:
    """End a restore that was interrupted, and return a sentence about it, "" where there was none. Raises BoxError."""
    note = switch.read_note(Note, _file(paths))
    if note is None:
        return ""
    if note.step == "begun":
        _forget(paths, note)
        return f"A restore of the backup {note.backup} was interrupted before anything was changed."
    current = Release.read(paths.current)
    if current is None:
        raise BoxError("No release is in place on this box yet.", "Run the playbook first.")
    _put_back(paths, note, current)
    return f"A restore of the backup {note.backup} of {note.at} was interrupted; it is done now."


def _put_back(paths: Paths, note: Note, current: Release) -> list[str]:
    """Exchange what is there for what was fetched, start the Hub, and return sentences. Each part may be done already.
    Raises BoxError."""
    try:
        return _do_put_back(paths, note, current)
    except BoxError as error:
        raise BoxError(
            f"{error.sentence.rstrip('.')}. The restore is half done.",
            "When that is mended, “appliance switch --finish” goes on from here.", evidence=error.evidence) from error


def _do_put_back(paths: Paths, note: Note, current: Release) -> list[str]:
    machine = switchsteps.Machine(paths)
    said = []
    if note.step == "fetched":
        step("Ending the Hub and the servers …")
        machine.stop_hub()
        machine.clear()
        machine.prepare(current)
        _end_servers(paths)
        said = _exchange(paths, note, machine)
        os.sync()
        note = _write(paths, replace(note, step="placed"))
    step("Starting the Hub …")
    machine.clear()
    machine.prepare(current)
    if note.made["schema"] is not None and note.made["schema"] < current.schema:
        machine.migrate(current)
    machine.up(current)
    # what compose found unchanged it did not start, and what runs has read the secrets of before
    for service in ("hub", "traefik"):
        if compose.inspect(paths, service) is not None:
            shell.run(["docker", "restart", "--time", "20", paths.container(service)], timeout_s=120)
    machine.wait()
    machine.check(current, machine.facts(current))
    switch.Switch(paths, machine).remember(current, note.where)
    _forget(paths, note)
    return said


def _exchange(paths: Paths, note: Note, machine: switchsteps.Machine) -> list[str]:
    staging = paths.data / INCOMING / note.made["staging"].lstrip("/")
    if note.made["database_file"] is not None:
        machine.put_database_back(note.where, staging / "database")
    changed = _put_files(staging / "config", paths.config)
    said = [f"Put back of the configuration: {', '.join(changed)}."] if changed else []
    for name in backup.STATE:
        if (staging / "state" / name).exists():
            _replace(staging / "state" / name, paths.state / name)
    snapshot.replace_cookie_secret(paths)
    said.append("Everybody has to sign in again: a session that was ended since must not come alive.")
    return said + _put_homes(note)


def _ensure_room(repository: Repository, found: dict[str, Any], homes: Path) -> None:
    """Homes of before stay, so everything needs its room once more."""
    said = restic.run(repository, "stats", "--json", "--no-lock", "--mode", "restore-size", str(found["id"]))
    with contextlib.suppress(ValueError, KeyError):
        release.ensure_room(homes, int(json.loads(said.stdout)["total_size"] * 1.05), "restore this backup")


def _fetch_homes(repository: Repository, found: dict[str, Any], made: dict[str, Any], incoming: Path) -> None:
    """Where homes were Btrfs subvolumes and can be again, restic writes into new ones, so that a quota can hold for them."""
    paths = [home["path"] for home in made["homes"].values()]
    if not paths:
        return
    if shell.find("btrfs") and shell.run(["stat", "--file-system", "--format", "%T", incoming]).stdout.strip() == "btrfs":
        for home in made["homes"].values():
            if home.get("subvolume"):
                place = incoming / home["path"].lstrip("/")
                place.mkdir(mode=0o711, parents=True)
                shell.run(["btrfs", "subvolume", "create", place / "home"], timeout_s=120)
    restic.restore(repository, found["id"], incoming, paths)


def _end_servers(paths: Paths) -> None:
    """Nobody may write into a home while it is exchanged. The Hub that starts afterwards starts the wanted ones again."""
    listed = shell.run(["docker", "ps", "--all", "--quiet", "--filter", f"label=org.appliance.namespace={paths.name}"],
                       timeout_s=60).stdout.split()
    if listed:
        shell.run(["docker", "stop", "--time", "10", *listed], check=False, timeout_s=600)
        shell.run(["docker", "rm", "--force", "--volumes", *listed], check=False, timeout_s=600)


def _put_files(source: Path, target: Path) -> list[str]:
    """Put back what the admin decided, but not what belongs to this machine; return the names that changed.

    A certificate that is here stays: the one in the backup may have ended.
    """
    changed = []
    for path in sorted(source.rglob("*")) if source.is_dir() else ():
        name = path.relative_to(source)
        place = target / name
        if path.is_symlink() or not path.is_file() or name.as_posix() in _STAYS or (name.parts[0] == "tls" and place.exists()):
            continue
        if not place.exists() or place.read_bytes() != path.read_bytes():
            shell.write_file(place, path.read_bytes(), path.stat().st_mode & 0o777)
            changed.append(name.as_posix())
    return changed


def _replace(source: Path, target: Path) -> None:
    """Put a file or folder in the place of another, owners and modes as they were."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.is_file() and not path.is_symlink():
                _replace(path, target / path.relative_to(source))
        return
    found = source.stat()
    shell.write_file(target, source.read_bytes(), found.st_mode & 0o777)
    os.chown(target, found.st_uid, found.st_gid)


def _put_homes(note: Note) -> list[str]:
    """Exchange homes by renaming. Homes that the backup does not know go aside as well: their numbers may be given anew."""
    homes, aside = Path(note.homes), Path(note.aside)
    known = {str(home["folder"]): note.fetched(home) for home in note.made["homes"].values()}
    for place in sorted(path for path in homes.glob("u*") if path.is_dir() and not path.is_symlink()):
        if place.name in known and not known[place.name].exists():
            continue  # exchanged already
        aside.mkdir(mode=0o700, exist_ok=True)
        place.rename(aside / place.name)
    for name, fetched in known.items():
        if fetched.exists():
            fetched.rename(homes / name)
    said = [f"{shell.counted(len(known), 'home was', 'homes were')} put back."]
    if aside.exists():
        number = len(list(aside.iterdir()))
        said.append(f"The {shell.counted(number, 'home')} of before {'is' if number == 1 else 'are'} in {aside}; "
                    "remove it when nobody misses anything.")
    return said


def _remove(folder: Path) -> None:
    """Remove a folder that may hold Btrfs subvolumes."""
    if not folder.exists():
        return
    for root, names, _ in os.walk(folder):
        for name in list(names):
            path = Path(root, name)
            if not path.is_symlink() and path.lstat().st_ino == 256 and shell.find("btrfs"):
                shell.run(["btrfs", "subvolume", "delete", path], check=False, timeout_s=120)
                if not path.exists():
                    names.remove(name)
    shutil.rmtree(folder)


# ----------------------------------------------------------------------------------------------------------- one home --
def restore_home(paths: Paths, repository: Repository, found: dict[str, Any], only: str) -> str:
    """Put one student's files, or one of them, into a new folder in that student's home, and return a sentence.

    `only`: homes/NAME, homes/NAME/FILE or the same without "homes/". Nothing is overwritten.
    """
    made = about(repository, found)
    parts = [part for part in PurePosixPath(only.removeprefix("homes/")).parts if part not in ("/", ".")]
    if not parts or ".." in parts or parts[0] not in made["homes"]:
        raise BoxError(f"The backup {found['short_id']} holds no home of “{parts[0] if parts else only}”.",
                       f"It holds those of: {', '.join(sorted(made['homes'])) or 'nobody'}.")
    home = made["homes"][parts[0]]
    homes = paths.at(snapshot.facts(paths)["homes"])
    target = homes / home["folder"] / "home"
    if not target.is_dir() or target.is_symlink():
        raise BoxError(f"{parts[0]} has no home on this box to put the files into.", "Restore the whole backup, or let "
                       f"{parts[0]} start a server once; then try again.")
    inside = "/".join([home["path"], "home", *parts[1:]])
    incoming = homes / INCOMING
    _remove(incoming)
    incoming.mkdir(mode=0o700)
    try:
        restic.restore(repository, found["id"], incoming, [inside])
        fetched = incoming / inside.lstrip("/")
        if not os.path.lexists(fetched):
            raise BoxError(f"There is no {'/'.join(parts[1:])} in that home in the backup of {when(found)}.",
                           "Check how it is written; names are as on the box, with capital and small letters.")
        folder = f"restored-{when(found).replace(':', '').replace(' ', '-')}"
        name = _place_beside(fetched, target, folder, whole=len(parts) == 1)
    finally:
        _remove(incoming)
    return (f"{'/'.join(parts)} as it was on {when(found)} is now in the folder “{name}” in {parts[0]}'s home, "
            f"on this machine {target / name}.")


def _place_beside(fetched: Path, home: Path, name: str, *, whole: bool) -> str:
    """Copy into a new folder of a home that its owner may be changing at this moment: by descriptors, through no link."""
    descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        owner = os.fstat(descriptor)
        chosen, number = name, 1
        while True:
            try:
                os.mkdir(chosen, 0o700, dir_fd=descriptor)
                break
            except FileExistsError:
                number += 1
                chosen = f"{name}-{number}"
        new = os.open(chosen, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
        try:  # root's until it is full
            source = f"{fetched}/." if whole else str(fetched)
            done = shell.run(["cp", "--archive", "--reflink=auto", "--no-target-directory" if whole else "--", source,
                              f"/proc/{os.getpid()}/fd/{new}/."], check=False)
            os.fchown(new, owner.st_uid, owner.st_gid)
        finally:
            os.close(new)
        if not done.ok:
            raise BoxError(f"The files did not fit into the home: {done.words.rstrip('.')}.",
                           f"Raise the quota or make room there. What came through is in “{chosen}”.")
        return chosen
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------------------------------------------------ command --
def add_restore_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("backup", nargs="?", default="latest", metavar="BACKUP",
                        help="one of “appliance backup --list” (default: the latest)")
    parser.add_argument("--only", metavar="homes/NAME[/FILE]",
                        help="only one student's files, or one of them, beside what is there; nobody is interrupted")
    parser.add_argument("--repository", metavar="PLACE", default="", help="another place than that of backup.env")
    parser.add_argument("--password-file", metavar="FILE", type=Path, help="the password of that place")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.add_argument("--json", action="store_true", help="for programs")


def run_restore(paths: Paths, parsed: argparse.Namespace) -> int:
    os.umask(0o022)
    repository = restic.open_repository(paths, parsed.repository, parsed.password_file)
    with backup.alone(paths):
        found = restic.find(repository, parsed.backup)
        if parsed.only:
            said = [restore_home(paths, repository, found, parsed.only)]
        else:
            made = about(repository, found)
            number = shell.counted(len(made["homes"]), "home")
            shell.ask(f"Put back the backup {found['short_id']} of {when(found)} ({number})? "
                       "All servers are ended, everybody has to sign in again, and what was done since is put aside.",
                      parsed.yes)
            with shell.undisturbed(), release.alone(paths):
                for sentence in (switch.Switch(paths).repair(), repair(paths)):
                    if sentence:
                        step(sentence)
                said = restore_all(paths, repository, found)
    if parsed.json:
        shell.print_json({"changed": True, "backup": found["short_id"], "sentences": said})
        return 0
    for sentence in said:
        say(sentence)
    return 0
