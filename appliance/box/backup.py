"""appliance backup: database, homes, configuration and secrets into a restic repository, while everybody works.

One restic snapshot holds two trees: `backup-staging` (a consistent copy of the database, and what is small) and the homes:
read-only Btrfs snapshots of them where they are subvolumes, else the folders themselves. `restore.py` is the way back.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from appliance.box import release, restic, restore, shell, snapshot
from appliance.box.paths import Paths, read_env
from appliance.box.release import Release
from appliance.box.restic import Repository
from appliance.box.shell import BoxError, say, step

STAGING = "backup-staging"
MADE = "backup.json"             # in the staging folder: what the backup is
BTRFS_COPIES = ".backup"         # below homes, while a backup is made
# What programs make again by themselves. backup.env may say others: APPLIANCE_BACKUP_EXCLUDE="PATTERN PATTERN"
EXCLUDED = (".cache", "__pycache__", ".local/share/Trash", ".npm", "node_modules")
KEPT = {"DAILY": "7", "WEEKLY": "5", "MONTHLY": "12"}
# Of the state, what cannot be made anew: the Hub's secrets, certificates, the account at Let's Encrypt.
STATE = ("server_tokens_secret", "tls", "traefik/acme")
_CHECK_EVERY_S, _CHECKED_SHARE = 7 * 86400, "5%"
_SUBVOLUME_INODE = 256           # of the root of every Btrfs subvolume, and of nothing else there


@dataclass
class Report:
    """What the last backup was; in backup-status.json, which `doctor` reads. Times are UTC."""

    at: str
    ok: bool = False
    sentence: str = ""
    last_ok_at: str = ""
    snapshot: str = ""
    repository: str = ""
    homes: int = 0
    seconds: float = 0.0
    added_bytes: int = 0
    checked_at: str = ""
    verified_at: str = ""
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def last(cls, paths: Paths) -> Report:
        said = shell.read_json(paths.backup_status)
        known = {name: said[name] for name in cls.__dataclass_fields__ if name in said}
        return cls(**{"at": "", **known})

    def write(self, paths: Paths) -> None:
        shell.write_file(paths.backup_status, json.dumps(vars(self), indent=2, ensure_ascii=False) + "\n", 0o644)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def alone(paths: Paths) -> Iterator[None]:
    """Raises BoxError while another backup or restore works."""
    paths.data.mkdir(parents=True, exist_ok=True)
    with open(paths.data / ".backup.lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BoxError("A backup or restore runs at this moment.", "Wait for it to end, then try again.") from None
        yield


def make(paths: Paths) -> Report:
    """Make a backup, and write what came of it where `doctor` finds it. Raises BoxError."""
    with alone(paths):
        before, began = Report.last(paths), time.monotonic()
        report = Report(_now(), last_ok_at=before.last_ok_at, checked_at=before.checked_at, verified_at=before.verified_at)
        try:
            repository = restic.open_repository(paths)
            report.repository = repository.shown
            _make(paths, repository, report)
        except BaseException as error:
            report.sentence = error.sentence if isinstance(error, BoxError) else f"It was ended ({type(error).__name__})."
            report.seconds = round(time.monotonic() - began, 1)
            report.write(paths)
            raise
        report.ok, report.last_ok_at, report.sentence = True, report.at, "The last backup went well."
        report.seconds = round(time.monotonic() - began, 1)
        report.write(paths)
        return report


def _make(paths: Paths, repository: Repository, report: Report) -> None:
    if restic.ensure_repository(repository):
        say(f"Made a new place for backups: {repository.shown}. Keep a copy of {repository.password_file} elsewhere: "
            "without it nobody can read them.")
    folder = repository.folder
    if folder is not None and folder.stat().st_dev == paths.data.stat().st_dev:
        report.warnings.append(f"Backups are on the same disk as what they are of ({folder}): if it dies, both are gone.")
    facts = snapshot.facts(paths)
    staging = paths.data / STAGING
    with _staging(staging), _homes(paths, Path(facts["homes"])) as homes:
        step("Copying the database, configuration and secrets …")
        _stage(paths, staging, facts, homes, report)
        step("Writing what is new …")
        _write(paths, repository, [staging, *homes.folders], report)
    step("Letting go of old backups …")
    forget(paths, repository)
    _check_now_and_then(repository, report)


@contextmanager
def _staging(folder: Path) -> Iterator[None]:
    """An empty folder that only root sees, always the same: restic then finds what it has already."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stage(paths: Paths, staging: Path, facts: dict[str, Any], homes: Homes, report: Report) -> None:
    where = facts["database"]
    release.ensure_room(paths.data, int(snapshot.database_size(paths, where) * 1.2) + (64 << 20), "copy the database")
    (staging / "database").mkdir()
    copied = snapshot.copy_database(paths, where, staging / "database")
    if copied is None and snapshot.is_elsewhere(paths, where):
        report.warnings.append(f"The database is kept on {where['host']} and is not in this backup: back it up there.")
    if copied is not None and where["kind"] == "sqlite":
        snapshot.check_sqlite(copied)
    if paths.config.is_dir():
        # its own password inside the backup would help nobody
        shutil.copytree(paths.config, staging / "config", symlinks=True, ignore=shutil.ignore_patterns("restic_password"))
    (staging / "state").mkdir()
    if paths.cookie_secret.exists():
        shutil.copy2(paths.cookie_secret, staging / "state")
    for name in STATE:
        source, target = paths.state / name, staging / "state" / name
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, ignore=_only_files)
        elif source.exists():
            shutil.copy2(source, target)
    current = Release.read(paths.current)
    report.homes = len(homes.users)
    report.warnings += homes.warnings
    shell.write_file(staging / MADE, json.dumps({
        "format": 1, "at": report.at, "host": socket.gethostname(), "name": paths.name,
        "release": current.id if current else None, "schema": facts["schema"], "database": where["kind"],
        "database_file": copied.name if copied else None, "homes": homes.users, "homes_class": facts["homes_class"]},
        indent=2, ensure_ascii=False) + "\n", 0o600)


def _only_files(folder: str, names: list[str]) -> list[str]:
    """Leave out sockets and the like."""
    paths = {name: Path(folder, name) for name in names}
    return [name for name, path in paths.items() if not (path.is_file() or path.is_dir() or path.is_symlink())]


# ------------------------------------------------------------------------------------------------------------- homes --
@dataclass
class Homes:
    """What restic is given of the homes. `users`: name → {"folder": "u1001", "path": where it is in the backup}."""

    folders: list[Path] = field(default_factory=list)
    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@contextmanager
def _homes(paths: Paths, root: Path) -> Iterator[Homes]:
    """Yield the homes as they are at one moment, as far as the file system can do that."""
    real = paths.at(root)
    copies = real / BTRFS_COPIES
    _remove_copies(copies)
    homes = Homes()
    places = sorted(path for path in real.glob("u*") if path.is_dir() and not path.is_symlink()) if real.is_dir() else []
    btrfs = shell.find("btrfs")
    live = []
    try:
        for place in places:
            owner = shell.read_json(place / "owner.json")
            is_subvolume = btrfs is not None and _is_subvolume(place / "home")
            if is_subvolume:
                (copies / place.name).mkdir(mode=0o700, parents=True)
                copies.chmod(0o700)
                with contextlib.suppress(FileNotFoundError):
                    shutil.copy2(place / "owner.json", copies / place.name)
                shell.run(["btrfs", "subvolume", "snapshot", "-r", place / "home", copies / place.name / "home"], timeout_s=300)
            else:
                live.append(place)
            inside = (copies if is_subvolume else real) / place.name
            homes.users[str(owner.get("user_name") or place.name)] = {
                "folder": place.name, "uid": owner.get("uid"), "path": str(inside), "subvolume": is_subvolume}
        homes.folders = [*([copies] if copies.exists() else []), *live]
        if live:
            homes.warnings.append(f"{len(live)} of {shell.counted(len(places), 'home')} may have been written to while it was "
                                  "copied: only of a Btrfs subvolume can a picture of one moment be taken.")
        yield homes
    finally:
        _remove_copies(copies)


def _is_subvolume(path: Path) -> bool:
    try:
        return path.lstat().st_ino == _SUBVOLUME_INODE and path.is_dir() and not path.is_symlink()
    except OSError:
        return False


def _remove_copies(copies: Path) -> None:
    """Also those of a backup that was killed."""
    if not copies.is_dir():
        return
    for home in copies.glob("u*/home"):
        if _is_subvolume(home):
            shell.run(["btrfs", "subvolume", "delete", home], check=False, timeout_s=300)
    shutil.rmtree(copies, ignore_errors=True)


# ------------------------------------------------------------------------------------------------------------ restic --
def _write(paths: Paths, repository: Repository, folders: list[Path], report: Report) -> None:
    settings = read_env(paths.secrets / "backup.env")
    excluded = settings["APPLIANCE_BACKUP_EXCLUDE"].split() if "APPLIANCE_BACKUP_EXCLUDE" in settings else list(EXCLUDED)
    restic.run(repository, "unlock", check=False, timeout_s=300)  # only locks whose owner is gone
    with tempfile.NamedTemporaryFile("w", prefix="appliance-excluded-") as file:
        file.write("".join(f"{pattern}\n" for pattern in excluded))
        file.flush()
        # named, because restic by itself takes only one with the very same folders, and homes come and go
        last = restic.snapshots(repository)[:1]
        result = shell.run([
            "restic", "backup", "--json", "--tag", restic.TAG, "--host", paths.name, "--exclude-file", file.name,
            *(word for each in last for word in ("--parent", str(each["id"]))), "--", *folders],
            check=False, env=repository.env)
    summary = next((line for line in reversed(result.stdout.splitlines()) if '"summary"' in line), "")
    if result.returncode == 3:
        unread = [line for line in result.stderr.splitlines() if '"error"' in line]
        report.warnings.append(f"{shell.counted(len(unread), 'file') if unread else 'Some files'} could not be read and "
                               f"{'is' if len(unread) == 1 else 'are'} not in the backup.")
    elif not result.ok:
        raise restic.explain(repository, result)
    said = json.loads(summary) if summary else {}
    report.snapshot, report.added_bytes = str(said.get("snapshot_id", ""))[:8], int(said.get("data_added", 0))
    if not report.snapshot:
        raise BoxError("restic said nothing of the backup it made.", "Try again: appliance backup", evidence=result.stderr)


def forget(paths: Paths, repository: Repository) -> None:
    """Let old backups go, by the policy of backup.env; the last one stays whatever it says."""
    settings = read_env(paths.secrets / "backup.env")
    policy = ["--keep-last", "1"]
    for name, default in KEPT.items():
        count = settings.get(f"APPLIANCE_BACKUP_KEEP_{name}", default)
        if not count.isdigit():
            raise BoxError(f"APPLIANCE_BACKUP_KEEP_{name} in backup.env is “{count}”, which is no whole number.",
                           f"Write one, like {default}.")
        if count != "0":
            policy += [f"--keep-{name.lower()}", count]
    restic.run(repository, "forget", "--prune", "--tag", restic.TAG, "--group-by", "host,tags", *policy)


def _check_now_and_then(repository: Repository, report: Report) -> None:
    with contextlib.suppress(ValueError):
        if (datetime.now(UTC) - datetime.fromisoformat(report.checked_at)).total_seconds() < _CHECK_EVERY_S:
            return
    step("Reading a part of the repository again, to see that it is whole …")
    restic.run(repository, "check", f"--read-data-subset={_CHECKED_SHARE}")
    report.checked_at = _now()


def verify(paths: Paths, wanted: str = "latest") -> str:
    """Put a backup's database into a temporary place, see that it is whole, and return a sentence. Raises BoxError."""
    repository = restic.open_repository(paths)
    found = restic.find(repository, wanted)
    made = restore.about(repository, found)
    with alone(paths), tempfile.TemporaryDirectory(dir=paths.data, prefix=".verify-") as folder:
        top = restore.fetch_staging(repository, found, Path(folder))
        if made["database_file"] is None:
            return f"The backup {found['short_id']} holds no database."
        copy = top / "database" / made["database_file"]
        if made["database"] == "sqlite":
            snapshot.check_sqlite(copy)
            said = "SQLite finds it whole"
        else:
            where = snapshot.facts(paths)["database"]
            snapshot.make_spare(paths, where, copy)
            snapshot.drop_spare(paths, where)
            said = "PostgreSQL takes it"
        report = Report.last(paths)
        report.verified_at = _now()
        report.write(paths)
    return f"The database in the backup {found['short_id']} of {restore.when(found)} is well: {said}."


# ---------------------------------------------------------------------------------------------------------- commands --
def add_backup_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--list", action="store_true", help="list the backups there are")
    which.add_argument("--verify", nargs="?", const="latest", metavar="BACKUP",
                       help="see that the database in a backup (default: the latest) is whole; changes nothing")
    parser.add_argument("--json", action="store_true", help="for programs")


def run_backup(paths: Paths, parsed: argparse.Namespace) -> int:
    os.umask(0o077)
    if parsed.list:
        return _show_list(paths, parsed)
    if parsed.verify:
        sentence = verify(paths, parsed.verify)
        if parsed.json:
            shell.print_json({"ok": True, "sentence": sentence})
        else:
            say(sentence)
        return 0
    report = make(paths)
    if parsed.json:
        shell.print_json(vars(report))
        return 0
    for warning in report.warnings:
        say(f"Mind: {warning}")
    say(f"Backup {report.snapshot} of {shell.counted(report.homes, 'home')} is in {report.repository} after "
        f"{report.seconds:.0f} s ({shell.size(report.added_bytes)} new).")
    return 0


def _show_list(paths: Paths, parsed: argparse.Namespace) -> int:
    repository = restic.open_repository(paths)
    found = restic.snapshots(repository)
    if parsed.json:
        shell.print_json([{"id": each["short_id"], "at": each["time"], "host": each.get("hostname", "")} for each in found])
        return 0
    for each in found:
        say(f"{each['short_id']}  {restore.when(each)}  {each.get('hostname', '')}")
    if not found:
        say(f"There is no backup in {repository.shown} yet; make one with: appliance backup")
    return 0
