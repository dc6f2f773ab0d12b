"""Lists of people: what schools' files look like, the difference they make, the sheet."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from appliance import cli, rosterfile
from appliance.errors import BadInput
from appliance.rosterfile import Person
from appliance.store import groups, users
from appliance.store.database import Database

pytestmark = pytest.mark.unit

GOOD = "name,display name,group,password,admin\nada,Ada Lovelace,10a,,\nbob,Bob Ross,\"10a, Chor\",sunflower-7-river,yes\n"


def people(data: bytes | str) -> list[tuple[object, ...]]:
    roster = rosterfile.read(data.encode() if isinstance(data, str) else data)
    assert not roster.problems, roster.problems
    return [(p.name, p.display_name, p.groups, p.password, p.admin) for p in roster.people]


EXPECTED = [("ada", "Ada Lovelace", ("10a",), None, None), ("bob", "Bob Ross", ("10a", "Chor"), "sunflower-7-river", True)]


# ------------------------------------------------------------------------------------------------------- reading --
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("said", [
    pytest.param(GOOD, id="plain"),
    pytest.param(GOOD.replace("\n", "\r\n"), id="windows line ends"),
    pytest.param("Login;Vollst. Name;Name;Klasse;Kennwort;Lehrer\nada;x;Ada Lovelace;10a;;\n"
                 "bob;y;Bob Ross;10a, Chor;sunflower-7-river;ja\n", id="semicolons, another language, an unknown column"),
    pytest.param("\n\nPASSWORD\tGroup\tAdmin\tVorname\tNachname\tUser_Name\n\t10a\t\tAda\tLovelace\tADA\n"
                 "sunflower-7-river\tChor|10a\t1\tBob\tRoss\t bob \n", id="tabs, another order and case, two names"),
    pytest.param("sep=;\nlogin;name;class;password;teacher\nada;Ada Lovelace;10a;;\n"
                 "bob;Bob Ross;Chor,10a;sunflower-7-river;x\n\n", id="Excel's first line"),
    pytest.param("ada,Ada Lovelace,10a\nbob,Bob Ross,10a;Chor,sunflower-7-river,y\n", id="no header"),
])
def test_one_list_in_many_spellings(said: str, encoding: str) -> None:
    assert people(said.encode(encoding)) == EXPECTED


def test_json_as_a_playbook_gives_it() -> None:
    rows = [{"name": "ada", "display_name": "Ada Lovelace", "group": "10a"},
            {"name": "bob", "display_name": "Bob Ross", "groups": ["Chor", "10a"], "password": "sunflower-7-river",
             "admin": True}]
    assert people(json.dumps(rows)) == EXPECTED
    assert people(json.dumps({"users": rows})) == EXPECTED
    assert people('["ada"]') == [("ada", None, None, None, None)]
    assert people('[{"name": 4711}]') == [("4711", None, None, None, None)]


def test_latin_1_is_guessed_and_said() -> None:
    roster = rosterfile.read("login;name\nmüller;Jörg Müller\n".encode("latin-1"))
    assert [(p.name, p.display_name) for p in roster.people] == [("müller", "Jörg Müller")]
    assert "Latin-1" in roster.warnings[0]


def test_cells_of_several_lines_and_quotes_keep_their_line() -> None:
    roster = rosterfile.read(b'login,name\n"ada","Ada\nLovelace"\nbob,"Bob ""the"" Ross"\n/,x\n')
    assert [(p.line, p.name, p.display_name) for p in roster.people] == [
        (2, "ada", "Ada Lovelace"), (4, "bob", 'Bob "the" Ross')]
    assert [problem.line for problem in roster.problems] == [5]


def test_a_single_column_of_names() -> None:
    assert [row[0] for row in people("login\nada\nbob\n")] == ["ada", "bob"]
    assert [row[0] for row in people("name\nada\n")] == ["ada"]
    assert [row[0] for row in people("ada\nbob\n")] == ["ada", "bob"]


def test_an_empty_cell_changes_nothing_but_for_groups() -> None:
    assert people("login,name,class,password,admin\nada,,,,\n") == [("ada", None, (), None, None)]


def test_all_mistakes_are_said_with_their_lines() -> None:
    roster = rosterfile.read(
        b"login,name,class,admin\nada,Ada,10a,\na b,,10/a,perhaps\nADA,,,\n,Nobody,,\nsmoke-test,,,\nbob,,,,,one too many\n")
    said = [(problem.line, problem.sentence) for problem in roster.problems]
    assert [line for line, _ in said] == [3, 3, 3, 4, 5, 6, 7]
    for words, (_, sentence) in zip(("a blank", "group", "neither yes nor no", "first in line 2", "empty", "kept for",
                                     "6 cells"), said, strict=True):
        assert words in sentence


@pytest.mark.parametrize(("data", "words"), [
    (b"PK\x03\x04....", "spreadsheet"), (b"a\0b,c\n", "not text"), (b"\xff\xfea", "broken"), (b"[1,", "not JSON"),
    (b'{"a": 1}', "list of people"), (b"a,b,c,d,e,f,g\n", "no header"), (b"x" * (rosterfile.MAX_BYTES + 1), "larger"),
])
def test_what_is_no_list_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        rosterfile.read(data)


@pytest.mark.parametrize(("data", "words"), [
    (b'login,name\nada,"Ada\nbob,Bob\n', "never ends"), (b"vorname,klasse\nAda,10a\n", "holds the login"),
    (b"login,password,kennwort\nada,a,b\n", "Two columns"), (b'[{"name": "ada", "pasword": "x"}]', "pasword"),
    (b"[3]", "an object"), (b'[{"name": ["ada"]}]', "has to be text"),
    (b'[{"name": "ada", "password": ""}]', "cannot be empty"),
    ('[{"name": "ada", "display_name": "a\u202eb"}]'.encode(), "control"),
])
def test_mistakes_of_the_whole(data: bytes, words: str) -> None:
    assert words in " ".join(problem.sentence for problem in rosterfile.read(data).problems)


def test_an_empty_file_is_nobody() -> None:
    assert people(b"") == people(b"\xef\xbb\xbf\n \n") == people(b"login,name\n") == people(b"[]") == []


def test_a_password_is_in_no_representation() -> None:
    assert "secret" not in repr(Person(1, "ada", password="secret"))


# ------------------------------------------------------------------------------------------------------ applying --
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in a folder of its own; the list is its standard input. Returns status, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(cli.__file__).parents[1]))   # for the migration's own process
    (tmp_path / "jupyterhub_config.py").write_text(
        "c.JupyterHub.authenticator_class = 'local'\nc.JupyterHub.public_url = 'https://box.school'\n")

    def run(data: str, *words: str) -> tuple[int, str, str]:
        stdin = io.TextIOWrapper(io.BytesIO(data.encode()))
        monkeypatch.setattr(sys, "stdin", stdin)
        status = cli.main(["roster", "apply", "-", *words])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def stored() -> dict[str, tuple[str, bool, bool, tuple[str, ...]]]:
    db = Database("jupyterhub.sqlite")
    try:
        of = db.run(lambda t: groups.of_users(t))
        return {user.name: (user.display_name, user.admin, user.archived, of.get(user.id, ()))
                for user in db.run(users.list_all)}
    finally:
        db.close()


def verifies(name: str, password: str) -> bool:
    from appliance.authenticators.local import HASHER, _verify

    assert HASHER
    db = Database("jupyterhub.sqlite")
    try:
        found = db.run(lambda t: users.get_password(t, name))
        return found is not None and _verify(found[0], password)
    finally:
        db.close()


def as_json(*people: dict[str, object]) -> str:
    return json.dumps(people)


def test_apply_twice_is_nothing_to_do(run: Run, tmp_path: Path) -> None:
    assert run(GOOD, "--sheet", "cards.html")[0] == 0
    assert stored() == {"ada": ("Ada Lovelace", False, False, ("10a",)), "bob": ("Bob Ross", True, False, ("10a", "Chor"))}
    status, out, _ = run(GOOD)
    assert (status, out.splitlines()[-1]) == (0, "Nothing to do.")
    said = json.loads(run(GOOD, "--json", "--sheet", "again.html")[1])
    assert (said["changed"], said["unchanged"], said["sheet"]) == (False, 2, None)
    assert not (tmp_path / "again.html").exists()


def test_the_sheet_is_private_and_its_passwords_work(run: Run, tmp_path: Path) -> None:
    status, out, err = run(GOOD, "--sheet", "cards.html", "--json")
    assert status == 0
    file = tmp_path / "cards.html"
    assert file.stat().st_mode & 0o777 == 0o600
    page = file.read_text()
    shown = dict(re.findall(r"<dt>Login</dt><dd><code>(.*?)</code></dd><dt>Password</dt><dd><code>(.*?)</code>", page))
    assert shown.keys() == {"ada", "bob"}
    assert all(verifies(name, password) for name, password in shown.items())
    assert shown["bob"] == "sunflower-7-river"
    assert "https://box.school/" in page
    assert not re.search(r"""(src|href|url|@import)\s*[=(]?\s*["']?(https?:)?//""", page.replace("https://box.school/", ""))
    assert not any(password in out + err for password in shown.values())
    said = json.loads(out)
    assert said["added"] == [{"name": "ada", "password": "generated"}, {"name": "bob", "password": "given"}]
    assert said["sheet"] == str(file)


def test_a_sheet_that_is_there_is_not_replaced(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cards.html").write_text("older passwords")
    status, _, err = run(GOOD, "--sheet", "cards.html")
    assert status == 1
    assert "there already" in err
    assert (tmp_path / "cards.html").read_text() == "older passwords"
    assert stored() == {}


def test_the_sheet_on_standard_output_leaves_it_to_the_page(run: Run) -> None:
    status, out, err = run(GOOD, "--sheet", "-", "--address", "https://other.school/")
    assert status == 0
    assert out.startswith("<!doctype html>")
    assert "https://other.school/" in out
    assert "New, added: 2" in err


def test_new_passwords_need_a_sheet(run: Run) -> None:
    status, _, err = run(GOOD)
    assert status == 1
    assert "--sheet" in err
    assert stored() == {}


def test_markup_in_a_name_stays_text(run: Run) -> None:
    _, page, _ = run(as_json({"name": "ada", "display_name": "<b>Ada</b> & \"co\""}), "--sheet", "-")
    assert "&lt;b&gt;Ada&lt;/b&gt; &amp; &quot;co&quot;" in page


def test_a_dry_run_writes_nothing(run: Run, tmp_path: Path) -> None:
    status, out, _ = run(GOOD, "--dry-run", "--sheet", "cards.html")
    assert status == 0
    assert "New, would be added: 2" in out
    assert "dry run" in out
    assert stored() == {}
    assert not (tmp_path / "cards.html").exists()


def test_only_what_the_list_says_changes(run: Run) -> None:
    run(GOOD, "--sheet", "cards.html")
    status, out, _ = run(as_json({"name": "ada", "groups": ["10b"]}, {"name": "bob"}), "--json")
    assert status == 0
    assert json.loads(out)["updated"] == {"ada": {"groups": {"before": "10a", "after": "10b"}}}
    assert stored()["ada"] == ("Ada Lovelace", False, False, ("10b",))
    assert stored()["bob"] == ("Bob Ross", True, False, ("10a", "Chor"))


def test_a_password_of_the_list_is_set_once_and_its_owners_own_stays(run: Run) -> None:
    first = as_json({"name": "ada", "password": "sunflower-7-river"})
    assert json.loads(run(first, "--json")[1])["changed"]
    db = Database("jupyterhub.sqlite")
    db.run(lambda t: users.set_password(t, "ada", "$argon2id$her own", must_change=False))
    db.close()
    assert not json.loads(run(first, "--json")[1])["changed"]
    said = json.loads(run(as_json({"name": "ada", "password": "another-7-river"}), "--json")[1])
    assert list(said["updated"]["ada"]) == ["password"]
    assert verifies("ada", "another-7-river")


def test_an_account_made_by_hand_with_that_password_is_left_alone(
        run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("sunflower-7-river\n"))
    assert cli.main(["user", "add", "ada", "--password-stdin"]) == 0
    capsys.readouterr()
    assert not json.loads(run(as_json({"name": "ada", "password": "sunflower-7-river"}), "--json")[1])["changed"]


def test_weak_passwords_are_all_said_and_nothing_is_written(run: Run) -> None:
    bad = as_json({"name": "ada", "password": "short"}, {"name": "bob", "password": "password123"}, {"name": "eve"})
    status, out, _ = run(bad, "--json", "--sheet", "cards.html")
    assert status == 1
    said = json.loads(out)
    assert not said["changed"]
    assert [error["line"] for error in said["errors"]] == [1, 2]
    assert "short" not in out
    assert stored() == {}


def test_mistakes_are_said_on_the_terminal_and_nothing_is_written(run: Run) -> None:
    status, out, err = run("login,name\nada,Ada\na b,\n")
    assert (status, out) == (1, "")
    assert "line 3" in err
    assert "Nothing was changed" in err
    assert not Path("jupyterhub.sqlite").exists() or stored() == {}


def test_missing_people_stay_unless_told_and_admins_always(run: Run) -> None:
    run(as_json(*({"name": name, "admin": name == "head", "password": "sunflower-7-river"} for name in ("ada", "bob", "head"))))
    said = json.loads(run('["ada"]', "--json")[1])
    assert (said["changed"], said["missing"], said["missing_admins"]) == (False, ["bob"], ["head"])
    said = json.loads(run('["ada"]', "--json", "--archive-missing")[1])
    assert said["archived"] == ["bob"]
    assert {name: row[2] for name, row in stored().items()} == {"ada": False, "bob": True, "head": False}
    assert not json.loads(run('["ada"]', "--json", "--archive-missing")[1])["changed"]
    said = json.loads(run('["ada", "bob"]', "--json", "--archive-missing")[1])
    assert list(said["updated"]["bob"]) == ["unarchived"]
    assert verifies("bob", "sunflower-7-river")


def test_an_empty_list_archives_nobody_unless_that_is_meant(run: Run) -> None:
    run(as_json({"name": "ada", "password": "sunflower-7-river"}))
    status, _, err = run("", "--archive-missing")
    assert status == 1
    assert "--yes" in err
    assert not stored()["ada"][2]
    assert run("", "--archive-missing", "--yes")[0] == 0
    assert stored()["ada"][2]


def test_the_last_admin_keeps_the_rights(run: Run) -> None:
    run(as_json({"name": "head", "admin": True, "password": "sunflower-7-river"}))
    status, _, err = run(as_json({"name": "head", "admin": False}))
    assert status == 1
    assert "last admin" in err
    two = as_json({"name": "head", "admin": False}, {"name": "new", "admin": True, "password": "sunflower-7-river"})
    assert run(two)[0] == 0
    assert (stored()["head"][1], stored()["new"][1]) == (False, True)


def test_where_passwords_are_kept_elsewhere_accounts_need_none(run: Run, tmp_path: Path) -> None:
    (tmp_path / "jupyterhub_config.py").write_text("c.JupyterHub.authenticator_class = 'pam'\n")
    assert json.loads(run('["ada"]', "--json")[1])["added"] == [{"name": "ada", "password": "none"}]
    status, _, err = run(as_json({"name": "bob", "password": "sunflower-7-river"}))
    assert status == 1
    assert "kept elsewhere" in err


def test_a_failed_write_leaves_no_account_and_no_sheet(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run('["first"]', "--sheet", "first.html")
    db = Database("jupyterhub.sqlite")
    db.run(lambda t: t.execute(text(
        "CREATE TRIGGER full BEFORE INSERT ON users WHEN NEW.name = 'bob' BEGIN SELECT RAISE(ABORT, 'no space'); END")))
    db.close()
    status, _, _ = run('["ada", "bob"]', "--sheet", "cards.html")
    assert status == 1
    assert list(stored()) == ["first"]
    assert not (tmp_path / "cards.html").exists()


def test_archive_and_unarchive_one(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run(as_json({"name": "head", "admin": True, "password": "sunflower-7-river"},
                {"name": "ada", "password": "sunflower-7-river", "display_name": "Ada Lovelace", "groups": ["10a"]}))
    assert cli.main(["user", "archive", "ada"]) == 0
    assert stored()["ada"][2]
    assert cli.main(["user", "archive", "head"]) == 1
    assert cli.main(["user", "archive", "nobody"]) == 1
    capsys.readouterr()
    cli.main(["user", "list"])
    assert re.search(r"ada +Ada Lovelace +10a .*archived", capsys.readouterr().out)
    assert cli.main(["user", "unarchive", "ada"]) == 0
    assert verifies("ada", "sunflower-7-river")


def test_the_boxs_own_name_is_nobody_elses(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["user", "add", "smoke-test"]) == 1
    assert "kept for" in capsys.readouterr().err
