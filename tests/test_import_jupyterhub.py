"""`appliance import-jupyterhub` on files that have JupyterHub's tables: what comes, what cannot, and that it is one step.

That such files look like this is tested with JupyterHub itself, in tests/clients/test_import.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance import cli
from appliance.store import groups, servers, shares, tokens, users
from appliance.store.database import Database

pytestmark = pytest.mark.unit

TABLES = """
CREATE TABLE alembic_version (version_num);
CREATE TABLE users (id INTEGER PRIMARY KEY, name, user_info, admin);
CREATE TABLE groups (id INTEGER PRIMARY KEY, name, properties);
CREATE TABLE user_group_map (user_id, group_id);
CREATE TABLE spawners (id INTEGER PRIMARY KEY, user_id, name, display_name, user_options);
CREATE TABLE shares (id INTEGER PRIMARY KEY, owner_id, spawner_id, user_id, group_id, scopes, expires_at);
CREATE TABLE share_codes (id INTEGER PRIMARY KEY);
CREATE TABLE api_tokens (id INTEGER PRIMARY KEY, user_id, service_id, prefix, hashed, client_id, session_id, note, scopes,
                         created, expires_at, last_activity);
CREATE TABLE roles (id INTEGER PRIMARY KEY, name);
CREATE TABLE user_role_map (user_id, role_id);
CREATE TABLE services (id INTEGER PRIMARY KEY, name, from_config);
INSERT INTO alembic_version VALUES ('f460b0348206');
"""
SECRET = "0123456789abcdef0123456789abcdef"


def kept(token: str, rounds: int = 1) -> str:
    digest = hashlib.sha512(b"5a175a17" + token.encode() * rounds).hexdigest()
    return f"sha512:{rounds}:5a175a17:{digest}"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A Hub with three people, two groups, two servers, a share of each kind and tokens of every kind."""
    path = tmp_path / "jupyterhub.sqlite"
    with sqlite3.connect(path) as file:
        file.executescript(TABLES)
        file.executemany("INSERT INTO users VALUES (?, ?, ?, ?)", [
            (1, "ada", '{"name": "Ada Lovelace"}', 1), (2, "bob", None, 0), (3, "Carol", "", 0)])
        file.executemany("INSERT INTO groups VALUES (?, ?, ?)", [(1, "7b", '{"room": 12}'), (2, "empty", "{}")])
        file.executemany("INSERT INTO user_group_map VALUES (?, ?)", [(2, 1), (3, 1), (99, 1)])
        file.executemany("INSERT INTO spawners VALUES (?, ?, ?, ?, ?)", [
            (1, 1, "", None, "{}"), (2, 1, "lab", "The lab", '{"image": "scipy"}'), (3, 2, "", None, "{}")])
        file.executemany("INSERT INTO shares VALUES (?, ?, ?, ?, ?, ?, ?)", [
            (1, 1, 1, 2, None, '["access:servers!server=ada/"]', None),
            (2, 1, 2, None, 1, '["access:servers!server=ada/lab", "read:servers!server=ada/lab"]', None),
            (3, 1, 2, 2, None, '["access:servers!server=ada/lab"]', "2001-01-01 00:00:00.000000")])
        file.executemany("INSERT INTO api_tokens VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", [
            (1, 2, None, SECRET[:4], kept(SECRET), "jupyterhub", None, "my script", '["inherit"]', "2026-01-01 00:00:00",
             None, None),
            (2, 2, None, "aaaa", kept("a" * 32), "jupyterhub", None, "Server at /user/bob/", '["access:servers!server=bob/"]',
             None, None, None),
            (3, 2, None, "bbbb", kept("b" * 32), "jupyterhub-user-bob", "s1", "", '["access:servers!server=bob/"]', None,
             None, None),
            (4, None, 1, "cccc", kept("c" * 32, 16384), "jupyterhub", None, "from config", '["inherit"]', None, None, None),
            (5, 2, None, "dddd", kept("d" * 32), "jupyterhub", None, "over", '["inherit"]', None, "2001-01-01 00:00:00", None)])
    return path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Return how a command is run and what it printed."""
    monkeypatch.chdir(tmp_path)

    def command(*words: str | Path) -> tuple[int, str]:
        status = cli.main(["import-jupyterhub", *map(str, words)])
        said = capsys.readouterr()
        return status, said.out + said.err

    return command


@pytest.fixture
def db(tmp_path: Path) -> Database:
    return Database(f"sqlite:///{tmp_path}/jupyterhub-here.sqlite")


@pytest.fixture(autouse=True)
def configured(tmp_path: Path) -> None:
    (tmp_path / "jupyterhub_config.py").write_text(
        "c.JupyterHub.db_url = 'sqlite:///jupyterhub-here.sqlite'\n"
        "c.JupyterHub.spawner_class = 'localprocess'\nc.JupyterHub.authenticator_class = 'local'\n")


def test_a_dry_run_says_it_all_and_writes_nothing(old: Path, run: Callable[..., tuple[int, str]], db: Database) -> None:
    before, there = old.read_bytes(), sorted(old.parent.rglob("*"))
    status, said = run(old, "--dry-run")
    assert status == 0
    assert sorted(old.parent.rglob("*")) == there
    for words in ("A database of JupyterHub 6: 3 accounts, 2 groups, 2 shares.", "ada (Ada Lovelace, an admin)",
                  "carol (there as Carol)", "7b: bob", "7b: carol", "ada's server “lab” (The lab)",
                  "ada's default server with bob: access:servers", "bob: my script", "This was a dry run"):
        assert words in said
    assert old.read_bytes() == before
    assert not [path for path in old.parent.iterdir() if path.name.startswith("jupyterhub.sqlite-")]


def test_everything_comes_once(old: Path, run: Callable[..., tuple[int, str]], db: Database) -> None:
    status, said = run(old, "--without-passwords")
    assert status == 0, said
    assert "appliance user passwd NAME" in said
    people = {user.name: user for user in db.run(users.list_all, write=False)}
    assert {name: (user.admin, user.display_name) for name, user in people.items()} == {
        "ada": (True, "Ada Lovelace"), "bob": (False, ""), "carol": (False, "")}
    found = {group.name: (group.members, dict(group.properties)) for group in db.run(groups.list_all, write=False)}
    assert found == {"7b": (("bob", "carol"), {"room": 12}), "empty": ((), {})}
    made = {(server.user_name, server.name): server for server in db.run(servers.list_all, write=False)}
    assert sorted(made) == [("ada", ""), ("ada", "lab")]
    assert made["ada", "lab"].display_name == "The lab"
    assert dict(made["ada", "lab"].user_options) == {"image": "scipy"}
    given = [(share.server.name, share.user_name or share.group_name, share.scopes) for share in db.run(
        shares.list_all, write=False)]
    assert given == [("", "bob", ("access:servers!server=ada/",)),
                     ("lab", "7b", ("access:servers!server=ada/lab", "read:servers!server=ada/lab"))]
    status, again = run(old)
    assert (status, "Nothing to do." in again) == (0, True)
    assert [line for line in again.splitlines() if line.startswith("New ")] == []
    assert len(db.run(users.list_all, write=False)) == 3


def test_a_script_goes_on_with_its_token_and_a_server_does_not(
        old: Path, run: Callable[..., tuple[int, str]], db: Database) -> None:
    run(old, "--without-passwords")
    found = db.run(lambda t: tokens.find(t, SECRET), write=False)
    assert found is not None
    assert (found.user.name if found.user else "", found.note, found.scopes) == ("bob", "my script", ("inherit",))
    for letter in "abcd":
        assert db.run(lambda t, letter=letter: tokens.find(t, letter * 32), write=False) is None
    assert db.run(lambda t: tokens.find(t, SECRET[:-1] + "0"), write=False) is None


def test_tokens_stay_behind_if_that_is_wanted(old: Path, run: Callable[..., tuple[int, str]], db: Database) -> None:
    run(old, "--without-passwords", "--without-tokens")
    assert db.run(lambda t: tokens.find(t, SECRET), write=False) is None


def test_new_passwords_come_on_a_sheet(old: Path, run: Callable[..., tuple[int, str]], db: Database) -> None:
    status, said = run(old)
    assert (status, "There is no password for 3 new accounts" in said) == (1, True)
    assert db.run(users.list_all, write=False) == []
    status, said = run(old, "--sheet", "cards.html")
    assert status == 0
    page = (old.parent / "cards.html").read_text()
    assert "Ada Lovelace" in page
    assert page.count("<code>") >= 3
    password = db.run(lambda t: users.get_password(t, "bob"), write=False)
    assert password is not None
    assert password[1] is True


def test_what_is_here_stays(old: Path, run: Callable[..., tuple[int, str]], db: Database) -> None:
    db.ensure_current()

    def prepare(t: object) -> None:
        users.add(t, "ada")                                                  # type: ignore[arg-type]
        bob = users.add(t, "bob", admin=True)                                # type: ignore[arg-type]
        users.set_display_name(t, bob.id, "Bobby")                           # type: ignore[arg-type]
        groups.set_of_user(t, bob.id, ["choir"])                             # type: ignore[arg-type]

    db.run(prepare)
    status, said = run(old, "--without-passwords")
    assert (status, "Accounts here that become admins': 1" in said) == (0, True)
    people = {user.name: (user.admin, user.display_name) for user in db.run(users.list_all, write=False)}
    assert people == {"ada": (True, "Ada Lovelace"), "bob": (True, "Bobby"), "carol": (False, "")}
    joined = {group.name: group.members for group in db.run(groups.list_all, write=False)}
    assert joined["choir"] == ("bob",)
    assert joined["7b"] == ("bob", "carol")


def test_names_that_cannot_be_used_are_listed_and_the_rest_comes(
        old: Path, run: Callable[..., tuple[int, str]], db: Database) -> None:
    with sqlite3.connect(old) as file:
        file.executemany("INSERT INTO users (id, name, admin) VALUES (?, ?, 0)", [
            (10, "dora"), (11, "DORA"), (12, "../etc"), (13, "a`b"), (14, "smoke-test"), (15, ""), (16, None), (17, "x" * 300)])
        file.executemany("INSERT INTO groups VALUES (?, ?, NULL)", [(10, "a  b"), (11, "a b"), (12, "x/y"), (13, "\x1b[31m")])
        file.execute("INSERT INTO spawners VALUES (10, 1, 'la/b', NULL, '{}')")
        file.execute("INSERT INTO spawners VALUES (11, 2, 'x', NULL, 'no json')")
        file.execute("INSERT INTO spawners VALUES (12, 2, 'y', NULL, '{\"__reserved\": 1}')")
        file.execute("UPDATE groups SET properties = '{\"mem_limit\": \"soon\"}' WHERE id = 2")
        file.execute("INSERT INTO shares VALUES (9, 1, 2, 2, NULL, '[\"users\", \"nonsense\"]', NULL)")
    status, said = run(old, "--without-passwords")
    assert status == 0
    assert "“dora” and “DORA” would both be “dora” here, so none of them comes" in said
    assert "\x1b" not in said
    assert sorted(user.name for user in db.run(users.list_all, write=False)) == ["ada", "bob", "carol"]
    assert sorted(group.name for group in db.run(groups.list_all, write=False)) == ["7b", "empty"]
    made = {(server.user_name, server.name): dict(server.user_options) for server in db.run(servers.list_all, write=False)}
    assert made["bob", "x"] == {} == made["bob", "y"]
    assert run(old)[1].count("Nothing to do.") == 1


def test_nothing_is_half_written(old: Path, run: Callable[..., tuple[int, str]], db: Database,
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **more: object) -> None:
        raise sqlite3.OperationalError("the disk is gone")

    monkeypatch.setattr("appliance.store.imports.add_token", fail)
    status, said = run(old, "--sheet", "cards.html")
    assert (status, "the disk is gone" in said) == (1, True)
    assert db.run(users.list_all, write=False) == []
    assert not (old.parent / "cards.html").exists()


@pytest.mark.parametrize("what", ["nothing", "a folder", "text", "empty", "ours", "another's", "half"])
def test_what_is_no_such_file_is_refused(what: str, tmp_path: Path, old: Path, run: Callable[..., tuple[int, str]],
                                         db: Database) -> None:
    path = tmp_path / "given"
    if what == "a folder":
        path.mkdir()
    elif what in ("text", "empty"):
        path.write_text("name,group\nada,7b\n" if what == "text" else "")
    elif what == "ours":
        run(old, "--dry-run")
        path = tmp_path / "jupyterhub-here.sqlite"
    elif what == "another's":
        with sqlite3.connect(path) as file:
            file.execute("CREATE TABLE users (id, name, admin)")
    elif what == "half":
        path.write_bytes(old.read_bytes()[:5000])
    status, said = run(path)
    assert status == 1
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) == 1


def test_what_stays_behind_is_said(old: Path, run: Callable[..., tuple[int, str]]) -> None:
    with sqlite3.connect(old) as file:
        file.execute("CREATE TABLE users_info (id INTEGER PRIMARY KEY, username, password)")
        file.execute("INSERT INTO users_info VALUES (1, 'ada', x'2432622431322478')")
        file.execute("INSERT INTO share_codes VALUES (1)")
        file.executemany("INSERT INTO roles VALUES (?, ?)", [(1, "user"), (2, "teacher"), (3, "unused")])
        file.executemany("INSERT INTO user_role_map VALUES (?, ?)", [(1, 1), (2, 2)])
        file.executemany("INSERT INTO services VALUES (?, ?, ?)", [(1, "culler", 1), (2, "board", 0)])
    _, said = run(old, "--dry-run")
    for words in ("1 password of NativeAuthenticator: they are hashes of another kind", "1 API token of services, or chosen by",
                  "1 share code: whoever shares makes a new link.", "The role teacher (user bob): write it into",
                  "The role unused (nobody has it)", "Services made through the REST API (board)"):
        assert words in said, words
    assert "The role user " not in said
    assert "culler" not in said


def test_json_for_programs(old: Path, run: Callable[..., tuple[int, str]]) -> None:
    status, said = run(old, "--dry-run", "--json")
    told = json.loads(said)
    assert (status, told["changed"], told["version"]) == (0, True, "6")
    assert [user["name"] for user in told["users"]] == ["ada", "bob", "carol"]
    assert SECRET not in said
    assert kept(SECRET).split(":")[3] not in said


def test_an_unknown_schema_is_read_and_told(old: Path, run: Callable[..., tuple[int, str]]) -> None:
    with sqlite3.connect(old) as file:
        file.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        file.execute("DROP TABLE shares")
        file.execute("ALTER TABLE spawners DROP COLUMN display_name")
    status, said = run(old, "--dry-run")
    assert (status, "is not known here (schema ffffffffffff" in said) == (0, True)


@pytest.mark.parametrize("kind", ["plain", "volumes", "tljh"])
def test_homes_are_found_and_copied(kind: str, old: Path, run: Callable[..., tuple[int, str]], db: Database,
                                    tmp_path: Path) -> None:
    folder = tmp_path / "homes of theirs"
    form = {"plain": "{}", "volumes": "jupyterhub-user-{}/_data", "tljh": "jupyter-{}"}[kind]
    for name in ("ada", "bob", "zoe"):
        home = folder / form.format(name)
        home.mkdir(parents=True)
        (home / "work.ipynb").write_text(name)
    (folder / "link").symlink_to("/etc")
    assert "run this again then" in run(old, "--dry-run", "--homes", folder)[1]
    status, said = run(old, "--without-passwords", "--homes", folder)
    assert status == 0
    assert "No folder found for: 1\n  carol" in said
    assert "Folders of nobody in the file: 1" in said
    commands = [line for line in said.splitlines() if " && " in line]
    assert len(commands) == 2
    uid = {user.name: user.uid for user in db.run(users.list_all, write=False)}["ada"]
    if os.geteuid() == 0:
        (tmp_path / "homes").mkdir(exist_ok=True)
        assert [os.system(command) for command in commands] == [0, 0]
        copied = tmp_path / f"homes/u{uid}/home/work.ipynb"
        assert (copied.read_text(), copied.stat().st_uid, copied.parent.stat().st_mode & 0o777) == ("ada", uid, 0o700)
        again = [line for line in run(old, "--homes", folder)[1].splitlines() if " && " in line]
        assert all("from-jupyterhub" in line for line in again)
    assert (folder / form.format("ada") / "work.ipynb").read_text() == "ada"
