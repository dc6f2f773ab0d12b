"""The event log: what is written, when, and what happens where it cannot be."""

from __future__ import annotations

import ast
import fcntl
import json
import logging
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import anyio
import pytest

import appliance
from appliance.admin import Admin
from appliance.config import load_settings
from appliance.domain.eventschemas import SCHEMAS, SERVER_ACTION, record
from appliance.domain.server import Failure, Phase
from appliance.main import open_database
from appliance.store import events, groups, migrate, servers, services, sessions, shares, tokens, users
from appliance.store.database import Database
from appliance.store.eventlog import EventLog

pytestmark = pytest.mark.unit


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def db(db_url: str, file: Path) -> Iterator[Database]:
    database = Database(db_url, EventLog(file))
    migrate.upgrade(database.url)
    yield database
    database.close()


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def kinds(file: Path) -> list[str]:
    return [line["__schema__"].removeprefix("urn:appliance:events:") for line in lines(file)]


# ------------------------------------------------------------------------------------------------- what is written --
def test_a_line_is_what_jupyterhub_s_own_log_has(db: Database, file: Path) -> None:
    ada = db.run(lambda t: users.add(t, "ada", actor="bob"))
    server = db.run(lambda t: servers.want_running(t, ada.id, "lab", image="", addresses=(), actor="ada"))
    for phase in (Phase.STARTING, Phase.BOOTING, Phase.READY):
        db.run(lambda t, phase=phase: servers._enter(t, t.get_one(servers.ServerRow, server.id), phase))
    db.run(lambda t: servers.want_stopped(t, server.id, actor="ada"))
    db.run(lambda t: servers._enter(t, t.get_one(servers.ServerRow, server.id), Phase.STOPPED))

    assert kinds(file) == ["user.added", "server.made", "server.queued", "server.starting", "server.booting", SERVER_ACTION,
                           "server.stop-wanted", SERVER_ACTION]
    added, made, *_ = lines(file)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", added.pop("__timestamp__"))
    assert added == {"__schema__": "urn:appliance:events:user.added", "__schema_version__": "1", "__metadata_version__": 1,
                     "actor": "bob", "username": "ada", "admin": False}
    assert (made["servername"], made["server_id"], made["start_no"]) == ("lab", server.id, 0)
    started, stopped = [line for line in lines(file) if line["__schema__"] == SERVER_ACTION]
    for line, action in ((started, "start"), (stopped, "stop")):
        assert {name: value for name, value in line.items() if not name.startswith("__")} == {
            "action": action, "username": "ada", "servername": "lab"}


def test_times_are_in_utc() -> None:
    at = datetime(2026, 5, 4, 1, 2, 3, tzinfo=timezone(timedelta(hours=2)))
    assert record("user.added", at, {})["__timestamp__"] == "2026-05-03T23:02:03.000000Z"


def test_only_declared_fields_are_written() -> None:
    said = record("user.password", datetime.now(UTC), {"actor": "ada", "username": "ada", "password": "hunter2"})
    assert "hunter2" not in json.dumps(said)
    assert set(said) == {"__timestamp__", "__schema__", "__schema_version__", "__metadata_version__", "actor", "username"}


def test_what_is_rolled_back_is_not_written(db: Database, file: Path) -> None:
    def half(t: Any) -> None:
        users.add(t, "ada")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        db.run(half)
    assert not file.exists()
    db.run(lambda t: users.add(t, "bob"))
    assert [line["username"] for line in lines(file)] == ["bob"]


def test_what_cannot_be_committed_is_not_written(tmp_path: Path, file: Path) -> None:
    """A foreign key that is looked at with the commit only."""
    from sqlalchemy import text
    from sqlalchemy.exc import IntegrityError

    db = Database(str(tmp_path / "x.sqlite"), EventLog(file))
    migrate.upgrade(db.url)

    def broken(t: Any) -> None:
        t.execute(text("PRAGMA defer_foreign_keys=ON"))
        ada = users.add(t, "ada")
        t.execute(text("INSERT INTO user_groups (user_id, group_id) VALUES (:u, 4711)"), {"u": ada.id})

    with pytest.raises(IntegrityError):
        db.run(broken)
    assert db.run(users.list_all) == []
    assert not file.exists()
    db.close()


def test_reading_writes_nothing(db: Database, file: Path) -> None:
    db.run(users.list_all, write=False)
    assert not file.exists()


def test_no_secret_is_written(db: Database, file: Path) -> None:
    ada, bob = db.run(lambda t: (users.add(t, "ada"), users.add(t, "bob")))
    db.run(lambda t: users.set_password(t, "ada", "scrypt:hash-of-ada", must_change=False))
    session = "session-id-0123456789"
    db.run(lambda t: sessions.add(t, session, ada.id, origin="https://box", address="10.1.1.1", user_agent="Firefox/1",
                                  lifetime_s=60))
    token, made = db.run(lambda t: tokens.add(t, user_id=ada.id, note="script", actor="ada", session_id=session))
    db.run(lambda t: services.add(t, "grades", {}, api_token="grades-own-token-0123456789", actor="ada"))
    server = db.run(lambda t: servers.want_running(t, ada.id, "", image="", addresses=(), actor="ada"))
    _, code = db.run(lambda t: shares.add_code(t, server.id, ["access:servers"], expires_in_s=60, actor="ada"))
    db.run(lambda t: shares.exchange(t, code, bob.id, actor="bob"))
    db.run(lambda t: shares.delete_codes(t, server.id, actor="ada"))
    db.run(lambda t: groups.add(t, "7b", ["bob"], actor="ada"))
    db.run(lambda t: servers.fail(t, server.id, Failure("oom", "Memory is used up.", "Give more.", "evidence: 137"),
                                  start_no=server.start_no))
    db.run(lambda t: sessions.end(t, [session], actor="ada"))

    text = file.read_text()
    assert {"user.password", "session.begun", "token.created", "service.created", "share-code.created", "share.granted",
            "share-code.deleted", "group.members", "server.failed", "session.ended"} <= set(kinds(file))
    for secret in (token, code, session, "hash-of-ada", "grades-own-token-0123456789", "evidence"):
        assert secret not in text
    assert made.id in [line.get("id") for line in lines(file)]


def test_what_the_hub_and_a_command_do_comes_into_one_file(
        tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(["--JupyterHub.authenticator_class=local", f"--JupyterHub.event_log_file={file.name}"])
    assert settings.event_log_file == file
    with Admin(settings) as admin:
        admin.add_user("ada", admin=False, password=None)
    hub = open_database(settings)
    anyio.run(hub.transact, lambda t: users.archive(t, "ada", actor="bob"))
    hub.close()
    assert [(line["actor"], line["username"]) for line in lines(file)] == [("appliance", "ada"), ("bob", "ada")]
    assert open_database(load_settings([]))._log is None


# --------------------------------------------------------------------------------------------------- the schemas --
def appended() -> Iterator[str]:
    """Yield every kind of event that the program appends anywhere."""
    for path in Path(appliance.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call):
                continue
            if ast.unparse(call.func) == "events.append":
                kind = call.args[1]
                if isinstance(kind, ast.Constant):
                    yield kind.value
                elif isinstance(kind, ast.JoinedStr):
                    assert ast.unparse(kind) == "f'server.{phase}'", path
                    yield from (f"server.{phase}" for phase in Phase)
                else:
                    assert (ast.unparse(kind), path.name) == ("kind", "shares.py")
            elif ast.unparse(call.func) == "_tell" and path.name == "shares.py":
                assert isinstance(call.args[2], ast.Constant)
                yield call.args[2].value


def test_every_event_there_is_has_a_schema_and_every_schema_an_event() -> None:
    assert set(appended()) == set(SCHEMAS)


def test_nothing_adds_an_event_past_the_log() -> None:
    for path in Path(appliance.__file__).parent.rglob("*.py"):
        if path.name not in ("rows.py", "events.py"):
            assert "EventRow(" not in path.read_text(), path


def test_what_stands_beside_an_event_is_declared() -> None:
    """Of every dictionary that is written out where an event is appended."""
    seen = 0
    for path in Path(appliance.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(call, ast.Call) and ast.unparse(call.func) == "events.append"):
                continue
            kind, said = call.args[1], next((word.value for word in call.keywords if word.arg == "data"), None)
            if isinstance(kind, ast.Constant) and isinstance(said, ast.Dict):
                seen += 1
                names = {key.value for key in said.keys if isinstance(key, ast.Constant)} - {"name"}    # is servername
                assert names <= SCHEMAS[kind.value].fields.keys(), kind.value
    assert seen > 10


@pytest.mark.parametrize("kind", SCHEMAS)
def test_no_field_is_a_secret_s(kind: str) -> None:
    schema = SCHEMAS[kind]
    assert schema.description.endswith(".")
    for name, meaning in schema.fields.items():
        assert meaning
        assert not re.search(r"password|secret|hash|token|cookie|session|key|evidence", name)
    assert len({s.id for s in SCHEMAS.values() if s.id != SERVER_ACTION}) == len(SCHEMAS) - 2


# -------------------------------------------------------------------------------------------------------- the file --
LINE = {"n": "x" * 90}      # 100 bytes and a line's end


def test_only_its_owner_reads_it(file: Path) -> None:
    old = os.umask(0)
    try:
        EventLog(file, 150).write([LINE])
        EventLog(file, 150).write([LINE])
    finally:
        os.umask(old)
    assert {stat.S_IMODE(path.stat().st_mode) for path in file.parent.iterdir()} == {0o600}
    assert len(list(file.parent.iterdir())) == 2


def test_a_large_file_is_put_aside_and_one_older_kept(file: Path) -> None:
    log = EventLog(file, 350)
    for n in range(10):
        log.write([LINE | {"i": n}])
    assert sorted(path.name for path in file.parent.iterdir()) == ["events.jsonl", "events.jsonl.1"]
    assert [line["i"] for line in lines(file.with_name("events.jsonl.1")) + lines(file)] == [6, 7, 8, 9]
    assert file.stat().st_size <= 350


def test_one_that_others_move_away_is_begun_anew(file: Path) -> None:
    log = EventLog(file)
    log.write([LINE])
    file.rename(file.with_name("moved"))
    log.write([LINE | {"i": 1}])
    assert len(lines(file)) == len(lines(file.with_name("moved"))) == 1


def test_two_processes_lose_no_line_while_the_file_is_put_aside(file: Path) -> None:
    program = ("import sys, pathlib; from appliance.store.eventlog import EventLog\n"
               "log = EventLog(pathlib.Path(sys.argv[1]), 30_000)\n"
               "for i in range(200): log.write([{'who': sys.argv[2], 'i': i, 'x': 'x' * 50}])\n")
    running = [subprocess.Popen([sys.executable, "-c", program, str(file), who]) for who in "ab"]
    assert [process.wait(60) for process in running] == [0, 0]
    found = lines(file.with_name("events.jsonl.1")) + lines(file)
    for who in "ab":
        assert [line["i"] for line in found if line["who"] == who] == list(range(200))


# ------------------------------------------------------------------------------------------------ what cannot be --
def test_a_folder_that_is_missing_ends_nothing_and_is_said_once(
        tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "logs"
    db = Database(str(tmp_path / "x.sqlite"), EventLog(folder / "events.jsonl"))
    migrate.upgrade(db.url)
    caplog.set_level(logging.WARNING, logger="appliance.store.eventlog")
    caplog.clear()
    for name in ("ada", "bob"):
        db.run(lambda t, name=name: users.add(t, name))
    assert len(db.run(events.newest)) == 2
    assert [entry.getMessage().split(": ")[-1] for entry in caplog.records] == [
        "No such file or directory. They are still in the database."]
    folder.mkdir()
    db.run(lambda t: users.add(t, "eve"))
    assert [line["username"] for line in lines(folder / "events.jsonl")] == ["eve"]
    assert "again; 2 are missing" in caplog.records[-1].getMessage()
    db.close()


def test_a_full_disk_leaves_no_half_a_line(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A limit on the file's size cuts a write off as a full disk does."""
    program = ("import sys, pathlib, resource, signal; from appliance.store.eventlog import EventLog\n"
               "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (250, 250))\n"
               "log = EventLog(pathlib.Path(sys.argv[1]))\n"
               "for i in range(5): log.write([{'i': i, 'x': 'x' * 90}])\n")
    done = subprocess.run([sys.executable, "-c", program, str(file)], check=True, capture_output=True, text=True)
    assert [line["i"] for line in lines(file)] == [0, 1]
    assert done.stderr.count("cannot be written") == 1


def test_a_pipe_that_nobody_reads_does_not_hold_the_hub(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.mkfifo(file)
    reader = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    EventLog(file).write([LINE])
    os.close(reader)
    assert "that is not a file" in caplog.text
    EventLog(file).write([LINE])


def test_one_who_keeps_it_locked_is_waited_for_once(
        file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.store.eventlog.LOCK_TIMEOUT_S", 0.05)
    log = EventLog(file)
    with file.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        log.write([LINE])
        log.write([LINE])
    assert "another program has locked it" in caplog.text
    log.write([LINE])
    assert len(lines(file)) == 1
