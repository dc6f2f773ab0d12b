"""Real backups with restic of a real database and real homes, and their way back. Only the containers are fakes."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from loop_disk import loop_disk

from appliance.box import backup, compose, release, restic, restore, shell, snapshot, switchsteps
from appliance.box.__main__ import main
from appliance.box.paths import Paths
from appliance.box.shell import BoxError
from appliance.store.database import HEAD, Database

pytestmark = pytest.mark.engine

RELEASE = "0.2.0-aaaaaaaaaaaa"
ODD = ["a b", "ümläut“x”", "new\nline", "back\\slash", "*star?[x]", "-dash", "\udcff\udcfe"]


class Box:
    def __init__(self, root: Path) -> None:
        self.paths = Paths(root)
        self.calls: list[str] = []
        for folder in (self.paths.config_d, self.paths.tls, self.paths.secrets, self.paths.state, self.paths.homes):
            folder.mkdir(parents=True, exist_ok=True)
        self.paths.homes.chmod(0o711)
        shell.write_file(self.paths.secrets / "restic_password", "secret\n", 0o600)
        shell.write_file(self.paths.config_d / "10-box.py", "# the playbook's\n")
        shell.write_file(self.paths.config_d / "50-own.py", "# the school's\n")
        shell.write_file(self.paths.cookie_secret, "aa" * 32, 0o600)
        shell.write_file(self.paths.state / "server_tokens_secret", "bb" * 32, 0o600)
        shell.write_file(self.paths.state / "tls/ca.key", "own authority\n", 0o600)
        shell.write_file(self.paths.release(RELEASE) / "release.json", json.dumps({
            "id": RELEASE, "version": "0.2.0", "schema": HEAD, "images": {}, "made_at": "2026-01-01T00:00:00+00:00"}))
        self.paths.current.symlink_to(f"releases/{RELEASE}")

    @property
    def facts(self) -> dict[str, Any]:
        schema = None
        if self.paths.database.exists():
            schema = self.sql("SELECT version_num FROM appliance_schema")[0][0]
        return {"database": {"kind": "sqlite", "path": "/var/lib/appliance/jupyterhub.sqlite"}, "schema": schema, "head": HEAD,
                "homes": "/var/lib/appliance/homes", "homes_class": "DirectoryHomes", "port": 1, "hub_port": 1, "ip": ""}

    def sql(self, statement: str) -> list[Any]:
        with closing(sqlite3.connect(self.paths.database)) as database, database:
            return database.execute(statement).fetchall()

    def add_user(self, name: str, uid: int) -> Path:
        self.sql("INSERT INTO users (name, uid, admin, created_at, must_change_password) "
                 f"VALUES ('{name}', {uid}, 0, '2026-01-01', 0)")
        home = self.paths.homes / f"u{uid}/home"
        if not home.exists():
            home.mkdir(parents=True)
        shell.write_file(home.parent / "owner.json", json.dumps({"user_name": name, "uid": uid}))
        os.chown(home, uid, uid)
        home.chmod(0o700)
        return home

    def appliance(self, *words: str) -> int:
        return main(words, self.paths)


@pytest.fixture(params=["directory", "btrfs"])
def box(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    made = Box(tmp_path / "box")
    monkeypatch.setattr(snapshot, "facts", lambda paths, folder=None: made.facts)
    monkeypatch.setattr(compose, "inspect", lambda paths, service: None)
    monkeypatch.setattr(restore, "_end_servers", lambda paths: made.calls.append("servers"))
    for name in ("stop_hub", "clear", "prepare", "migrate", "up", "wait", "check"):
        monkeypatch.setattr(switchsteps.Machine, name, lambda self, *_, name=name: made.calls.append(name))
    monkeypatch.setattr(switchsteps.Machine, "facts", lambda self, target: made.facts)
    database = Database(str(made.paths.database))
    database.ensure_current()
    database.close()
    if request.param == "directory":
        yield made
        return
    (tmp_path / "loop").mkdir()
    with loop_disk(tmp_path / "loop", "256M", "mkfs.btrfs", "-q") as disk:
        shell.run(["mount", "--bind", disk, made.paths.homes])
        try:
            yield made
        finally:
            shell.run(["umount", made.paths.homes])


def fill(home: Path, uid: int) -> None:
    for name in ODD:
        (home / name).write_text(name, errors="surrogateescape")
        os.chown(home / name, uid, uid)
    (home / "folder").mkdir()
    (home / "folder/linked twice").write_text("one file")
    os.link(home / "folder/linked twice", home / "second name")
    (home / "away").symlink_to("/etc/passwd")
    (home / "dangling").symlink_to("no such file")
    (home / "program").write_text("#!/bin/sh\n")
    (home / "program").chmod(0o4755)
    os.utime(home / "program", (1_000_000_000, 1_000_000_000))
    (home / ".cache").mkdir()
    (home / ".cache/large").write_bytes(b"x" * 1000)
    shell.run(["chown", "-R", "--no-dereference", f"{uid}:{uid}", home])
    (home / "program").chmod(0o4755)


def picture(folder: Path) -> dict[str, Any]:
    """Everything that a home has to keep."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        info = path.lstat()
        what = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[os.fsencode(path.relative_to(folder)).decode("latin-1")] = (
            what, info.st_mode, info.st_uid, info.st_gid, info.st_nlink if path.is_file() else 0,
            None if path.is_dir() else info.st_mtime_ns)
    return {name: said for name, said in found.items() if not name.startswith(".cache")}


def make_home(box: Box, name: str, uid: int) -> Path:
    if shell.run(["stat", "-f", "-c", "%T", box.paths.homes]).stdout.strip() == "btrfs":
        (box.paths.homes / f"u{uid}").mkdir()
        shell.run(["btrfs", "subvolume", "create", box.paths.homes / f"u{uid}/home"])
    home = box.add_user(name, uid)
    fill(home, uid)
    return home


def is_btrfs(box: Box) -> bool:
    return shell.run(["stat", "-f", "-c", "%T", box.paths.homes]).stdout.strip() == "btrfs"


def test_a_box_comes_back_whole(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    home = make_home(box, "alice", 10001)
    before = picture(home)
    with closing(sqlite3.connect(box.paths.database)) as in_use:  # as the Hub has it
        in_use.execute("PRAGMA journal_mode=WAL")
        in_use.execute("BEGIN IMMEDIATE")
        in_use.execute("UPDATE users SET name = 'never committed'")
        report = backup.make(box.paths)
        in_use.rollback()
    assert (report.ok, report.homes) == (True, 1)
    assert any("1 of 1 home may have been written to" in each for each in report.warnings) != is_btrfs(box)
    status = shell.read_json(box.paths.backup_status)
    assert (status["ok"], status["last_ok_at"], status["checked_at"] != "") == (True, status["at"], True)
    assert box.appliance("backup", "--verify") == 0

    # life goes on, and then it all has to come back
    (home / "a b").write_text("overwritten")
    shutil.rmtree(home / "folder")
    make_home(box, "bob", 10002)
    shell.write_file(box.paths.config_d / "50-own.py", "# broken\n")
    shell.write_file(box.paths.config_d / "10-box.py", "# the playbook's, of now\n")
    box.calls.clear()
    capsys.readouterr()
    assert box.appliance("restore", "--yes") == 0
    said = capsys.readouterr().out
    assert "1 home was put back." in said
    assert f"The 2 homes of before are in {next(box.paths.homes.glob('.before-restore-*'))};" in said
    assert box.calls == ["stop_hub", "clear", "prepare", "servers", "clear", "prepare", "up", "wait", "check"]
    assert box.sql("SELECT name, uid FROM users") == [("alice", 10001)]
    assert picture(home) == before
    assert not (home / ".cache").exists()
    assert home.stat().st_uid == 10001
    assert (home.stat().st_ino == 256) == is_btrfs(box)
    assert not box.paths.cookie_secret.exists()  # the Hub makes a new one, which ends every session
    assert (box.paths.config_d / "50-own.py").read_text() == "# the school's\n"
    assert (box.paths.config_d / "10-box.py").read_text() == "# the playbook's, of now\n"
    assert (box.paths.state / "tls/ca.key").read_text() == "own authority\n"
    aside = next(box.paths.homes.glob(".before-restore-*"))
    assert sorted(path.name for path in aside.iterdir()) == ["u10001", "u10002"]
    assert (aside / "u10002/home/folder").is_dir()
    kept = next(box.paths.snapshots.glob("*-restore"))
    assert (kept.stat().st_mode & 0o777, (kept / "jupyterhub.sqlite").exists()) == (0o700, True)
    for left in (box.paths.data / backup.STAGING, box.paths.data / restore.INCOMING, box.paths.homes / restore.INCOMING,
                 box.paths.homes / backup.BTRFS_COPIES):
        assert not left.exists()


class Killed(BaseException):
    """The power went."""


# Each takes seconds, because restic takes its time with a password: these are the moments that differ.
KILLED = {
    "fetching homes": (restore, "_fetch_homes", 1),
    "before the database": (switchsteps.Machine, "put_database_back", 1),
    "before the homes": (restore, "_put_homes", 1),
    "with homes on their way out": (Path, "rename", 2),
    "with homes on their way in": (Path, "rename", 5),
    "when the Hub runs": (switchsteps.Machine, "wait", 1),
}


@pytest.mark.parametrize(("box", "moment"), [*(("directory", moment) for moment in KILLED),
                                             ("btrfs", "with homes on their way in")], indirect=["box"])
def test_a_restore_killed_anywhere_is_ended_when_the_machine_starts(
        box: Box, moment: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = {name: picture(make_home(box, name, uid)) for name, uid in (("alice", 10001), ("bob", 10002))}
    backup.make(box.paths)
    make_home(box, "carol", 10003)
    for name, uid in (("alice", 10001), ("bob", 10002)):
        (box.paths.homes / f"u{uid}/home/a b").write_text(f"{name}'s, of later")
    shell.write_file(box.paths.config_d / "50-own.py", "# of later\n")
    later = {uid: picture(box.paths.homes / f"u{uid}/home") for uid in (10001, 10002, 10003)}

    place, name, count = KILLED[moment]
    left, real = [count], getattr(place, name)

    def kill(*words: Any, **more: Any) -> Any:
        if name != "rename" or box.paths.homes in (words[0].parent, Path(words[1]).parent):
            left[0] -= 1
            if left[0] == 0:
                raise Killed
        return real(*words, **more)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, kill)
        # what a power cut does not run
        patch.setattr(restore, "_forget", lambda paths, note: None)
        with pytest.raises(Killed):
            box.appliance("restore", "--yes")
    assert box.appliance("switch", "--finish") == 0
    if "fetch" in moment:
        assert "interrupted before anything was changed" in capsys.readouterr().out
        assert {uid: picture(box.paths.homes / f"u{uid}/home") for uid in later} == later
        assert ("carol",) in box.sql("SELECT name FROM users")
    else:
        assert "was interrupted; it is done now" in capsys.readouterr().out
        assert box.sql("SELECT name, uid FROM users") == [("alice", 10001), ("bob", 10002)]
        assert {"alice": picture(box.paths.homes / "u10001/home"), "bob": picture(box.paths.homes / "u10002/home")} == before
        assert (box.paths.config_d / "50-own.py").read_text() == "# the school's\n"
        assert not (box.paths.homes / "u10003").exists()
        aside = next(box.paths.homes.glob(".before-restore-*"))
        assert {uid: picture(aside / f"u{uid}/home") for uid in later} == later
        assert box.calls[-3:] == ["up", "wait", "check"]
    for gone in (box.paths.opt / "restore.json", box.paths.data / restore.INCOMING, box.paths.homes / restore.INCOMING):
        assert not gone.exists()
    assert box.appliance("switch", "--finish") == 0
    assert "Nothing was interrupted." in capsys.readouterr().out


def test_a_backup_goes_into_an_empty_box(box: Box, tmp_path: Path) -> None:
    before = picture(make_home(box, "zoë", 10007))
    backup.make(box.paths)
    place, password = tmp_path / "elsewhere", tmp_path / "password"
    box.paths.backups.rename(place)
    shell.write_file(password, "secret\n", 0o600)
    # the playbook has run on a new machine
    if is_btrfs(box):
        shell.run(["btrfs", "subvolume", "delete", box.paths.homes / "u10007/home"])
    shutil.rmtree(box.paths.homes / "u10007")
    box.paths.database.unlink()
    shell.write_file(box.paths.secrets / "restic_password", "another\n", 0o600)
    assert box.appliance("restore", "--yes", "--repository", str(place)) == 1  # the wrong password
    assert box.appliance("restore", "--yes", "--repository", str(place), "--password-file", str(password)) == 0
    assert box.sql("SELECT name FROM users") == [("zoë",)]
    assert picture(box.paths.homes / "u10007/home") == before
    assert (box.paths.secrets / "restic_password").read_text() == "another\n"


def test_one_home_comes_back_beside_what_is_there(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    home = make_home(box, "alice", 10001)
    before = picture(home)
    backup.make(box.paths)
    (home / "a b").write_text("newer")
    assert box.appliance("restore", "--only", "homes/alice") == 0
    found = next(home.glob("restored-*"))
    assert str(found) in capsys.readouterr().out
    assert picture(found) == before
    assert (found.stat().st_uid, (home / "a b").read_text()) == (10001, "newer")
    assert box.appliance("restore", "--only", "alice/*star?[x]") == 0
    second = next(path for path in home.glob("restored-*") if path != found)
    assert [path.name for path in second.iterdir()] == ["*star?[x]"]
    assert (second.stat().st_uid, (second / "*star?[x]").stat().st_uid) == (10001, 10001)
    capsys.readouterr()
    assert box.appliance("restore", "--only", "homes/nobody") == 1
    assert "holds no home of “nobody”. It holds those of: alice" in capsys.readouterr().err
    assert box.appliance("restore", "--only", "homes/alice/no such file") == 1
    assert "There is no no such file in that home" in capsys.readouterr().err
    assert box.calls == []  # nobody was interrupted


@pytest.mark.parametrize("box", ["directory"], indirect=True)
def test_a_home_that_leads_away_is_not_followed(box: Box, tmp_path: Path) -> None:
    home = make_home(box, "mallory", 10001)
    backup.make(box.paths)
    away = tmp_path / "away"
    away.mkdir()
    name = f"restored-{time.strftime('%Y-%m-%d')}"
    for minute in range(-2, 3):
        at = time.strftime("%Y-%m-%d-%H%M", time.localtime(time.time() + 60 * minute))
        (home / f"restored-{at}").symlink_to(away)
    assert box.appliance("restore", "--only", "homes/mallory/program") == 0
    assert list(away.iterdir()) == []
    assert next(path for path in home.glob(f"{name}*") if not path.is_symlink()).joinpath("program").exists()


@pytest.mark.parametrize("box", ["directory"], indirect=True)
def test_what_does_not_fit_this_box_is_refused_before_anything_is_touched(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    box.add_user("alice", 10001)
    box.sql("UPDATE appliance_schema SET version_num = '9999'")
    backup.make(box.paths)
    assert box.appliance("restore", "--yes") == 1
    assert f"newer version (schema 9999; this release knows {HEAD})" in capsys.readouterr().err
    assert box.appliance("restore", "ffffffff", "--yes") == 1
    assert "There is no backup ffffffff" in capsys.readouterr().err
    assert box.appliance("restore") == 1
    assert "needs a yes" in capsys.readouterr().err
    assert box.calls == []
    assert not box.paths.snapshots.exists()


@pytest.mark.parametrize("box", ["directory"], indirect=True)
@pytest.mark.parametrize(("spoil", "sentence"), [
    (lambda box: (box.paths.secrets / "restic_password").unlink(), "There is no password of the backups"),
    (lambda box: shell.write_file(box.paths.secrets / "backup.env", "APPLIANCE_BACKUP_KEEP_DAILY=many\n"), "is “many”"),
    (lambda box: shell.write_file(box.paths.backups / "holiday.jpg", "x"), "holds something else than backups"),
    (lambda box: box.paths.database.write_bytes(b"SQLite format 3\0" + b"\0\1" * 3000), "could not be copied|damaged"),
], ids=["password", "policy", "folder", "database"])
def test_a_failed_backup_is_written_down(box: Box, spoil: Callable[[Box], Any], sentence: str,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    facts = box.facts
    monkeypatch.setattr(snapshot, "facts", lambda paths, folder=None: facts)
    spoil(box)
    with pytest.raises(BoxError, match=sentence):
        backup.make(box.paths)
    status = shell.read_json(box.paths.backup_status)
    assert (status["ok"], status["last_ok_at"]) == (False, "")
    assert status["sentence"].endswith(".")
    assert not (box.paths.data / backup.STAGING).exists()


@pytest.mark.parametrize("box", ["directory"], indirect=True)
def test_old_backups_are_let_go_and_an_interrupted_first_one_is_made_anew(box: Box) -> None:
    (box.paths.backups / "keys").mkdir(parents=True)  # an init that was cut off
    shell.write_file(box.paths.secrets / "backup.env", "".join(
        f"APPLIANCE_BACKUP_KEEP_{name}=0\n" for name in ("DAILY", "WEEKLY", "MONTHLY")))
    first = backup.make(box.paths)
    make_home(box, "alice", 10001)
    second = backup.make(box.paths)
    found = restic.snapshots(restic.open_repository(box.paths))
    assert [each["short_id"] for each in found] == [second.snapshot]
    assert first.snapshot != second.snapshot
    assert first.checked_at == second.checked_at  # once a week is enough


def test_a_killed_backups_copies_are_removed_by_the_next(box: Box) -> None:
    home = make_home(box, "alice", 10001)
    if is_btrfs(box):
        left = box.paths.homes / backup.BTRFS_COPIES / "u10001"
        left.mkdir(parents=True)
        shell.run(["btrfs", "subvolume", "snapshot", "-r", home, left / "home"])
    shell.write_file(box.paths.data / backup.STAGING / "config/x", "old")
    backup.make(box.paths)
    assert not (box.paths.homes / backup.BTRFS_COPIES).exists()
    assert release.linked(box.paths.current) == RELEASE
