"""The command: its help, its accounts, and a sentence instead of a traceback."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance import __version__, cli, main
from appliance.config import Settings, load_settings
from appliance.errors import EngineDown
from appliance.ports import Proxy, Spawner
from appliance.store import tokens, users
from appliance.store.database import Database
from appliance.testing import FakeHomes  # noqa: F401 (named in CONFIG)

pytestmark = pytest.mark.unit


class FakeSpawner(Spawner):
    pass


class FakeProxy(Proxy):
    pass


CONFIG = f"""
c.JupyterHub.authenticator_class = 'local'
c.JupyterHub.spawner_class = '{__name__}.FakeSpawner'
c.JupyterHub.proxy_class = '{__name__}.FakeProxy'
c.JupyterHub.homes_class = '{__name__}.FakeHomes'
"""


@dataclass
class Said:
    status: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command line in a folder of its own, with local accounts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["appliance"])
    monkeypatch.delenv("APPLIANCE_ADMIN_PASSWORD", raising=False)
    Path("jupyterhub_config.py").write_text(CONFIG)

    def run(*argv: str, stdin: str = "") -> Said:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        try:
            status = cli.main(argv)
        except SystemExit as end:  # argparse's way to end --help and --version
            status = int(end.code or 0)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return Said(status, captured.out, captured.err)

    return run


def refused(said: Said, *words: str) -> None:
    assert (said.status, said.out) == (1, "")
    assert said.err.startswith("appliance: ")
    assert said.err.count("\n") == 1
    assert all(word in said.err for word in words), said.err


# --------------------------------------------------------------------------------------------------------------- help --
def test_help_names_flags_and_commands(run: Run) -> None:
    said = run("-h")
    assert said.status == 0
    for word in ("--help-all", "--generate-config", "-f FILE", "--ip", "--port", "--base-url", "--ssl-key", "--ssl-cert",
                 "--db", "--debug", "--version", "upgrade-db", "stop", "user", "token", "--Class.option=VALUE"):
        assert word in said.out


def test_help_all_shows_every_class(run: Run) -> None:
    said = run("--help-all")
    for word in ("JupyterHub.port", "Authenticator.admin_users", "Spawner.mem_limit", "DockerSpawner.image",
                 "PAMAuthenticator.service", "AccountsAuthenticator.minimum_password_length"):
        assert f"--{word}=" in said.out


def test_version_is_a_version_and_nothing_else(run: Run) -> None:
    assert run("--version").out == f"{__version__}\n"


def test_command_runs_as_a_program(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "appliance.cli", "--port=abc"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "appliance: on the command line: c.JupyterHub.port must be a whole number from 1 to 65535, not 'abc'.\n")


@pytest.mark.parametrize(("words", "status", "said"), [
    (["--version"], 0, f"{__version__}\n"), (["--port=abc"], 1, ""), (["--help"], 0, "--help-all")])
def test_command_ends_early_but_with_everything_said(tmp_path: Path, words: list[str], status: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from appliance.program import program; program()", *words], cwd=tmp_path, capture_output=True,
        text=True, check=False, env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])})
    assert done.returncode == status
    assert said in done.stdout
    assert ("must be a whole number" in done.stderr) == (status == 1)


@pytest.mark.parametrize("argv", [["--nonsense"], ["nonsense"], ["user"], ["user", "add"], ["user", "add", "a", "b"],
                                  ["token"], ["--por=80"], ["--JupyterHub.port"], ["stop", "--port=1"]])
def test_unknown_words_are_refused_in_one_sentence(run: Run, argv: list[str]) -> None:
    refused(run(*argv))


def test_broken_configuration_is_one_sentence(run: Run) -> None:
    Path("jupyterhub_config.py").write_text("c.JupyterHub.port = \n")
    refused(run(), "jupyterhub_config.py, line 1: invalid syntax")


# ---------------------------------------------------------------------------------------------------- configuration --
def test_generated_configuration_is_taken_as_it_is_and_with_every_option_taken_in(run: Run) -> None:
    Path("jupyterhub_config.py").unlink()
    assert run("--generate-config").status == 0
    text = Path("jupyterhub_config.py").read_text()
    assert load_settings().notices == ()
    everything, count = re.subn(r"(?m)^# (?=c\.[A-Z]\w*\.\w+ = )", "", text)
    assert count > 60
    Path("jupyterhub_config.py").write_text(everything)
    assert not [notice for notice in load_settings().notices if "has no effect, because c.JupyterHub." not in notice]


def test_generate_config_replaces_nothing_unasked(run: Run) -> None:
    refused(run("--generate-config"), "jupyterhub_config.py is there already", "-y")
    assert Path("jupyterhub_config.py").read_text() == CONFIG
    assert run("--generate-config", "-y").status == 0
    assert Path("jupyterhub_config.py").read_text() != CONFIG
    assert run("--generate-config", "-f", "other.py").status == 0
    assert Path("other.py").exists()


# --------------------------------------------------------------------------------------------------------------- Hub --
def test_without_a_command_the_hub_runs_with_the_flags(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []
    monkeypatch.setattr(main, "run_hub", lambda settings: seen.append(settings) or 0)
    assert run("--ip=127.0.0.1", "--port", "9000", "--base-url=/lab", "--db=x.sqlite", "--Spawner.cpu_limit=2").status == 0
    assert (seen[0].ip, seen[0].port, seen[0].base_url) == ("127.0.0.1", 9000, "/lab/")
    assert seen[0].db_url.endswith("/x.sqlite")
    assert seen[0].make(seen[0].spawner_class).cpu_limit == 2


@pytest.mark.parametrize(("argv", "servers"), [(["stop"], False), (["stop", "--servers"], True)])
def test_stop(run: Run, monkeypatch: pytest.MonkeyPatch, argv: list[str], servers: bool) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(main, "stop", lambda settings, *, servers: seen.append(servers) or 0)
    assert run(*argv).status == 0
    assert seen == [servers]


def test_error_of_the_hub_is_its_sentence_and_what_to_do(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(settings: Settings) -> int:
        raise EngineDown()

    monkeypatch.setattr(main, "run_hub", fail)
    refused(run(), EngineDown.sentence, EngineDown.action)


def test_error_nobody_foresaw_is_a_sentence_unless_debug(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(settings: Settings) -> int:
        raise RuntimeError("odd")

    monkeypatch.setattr(main, "run_hub", fail)
    refused(run(), "RuntimeError: odd", "--debug")
    with pytest.raises(RuntimeError, match="odd"):
        run("--debug")


def test_upgrade_db_says_what_it_did(run: Run) -> None:
    said = run("upgrade-db")
    assert said.status == 0
    assert "jupyterhub.sqlite" in said.out


# ------------------------------------------------------------------------------------------------------------ accounts --
def stored(name: str) -> tuple[str, bool]:
    db = Database(load_settings().db_url)
    try:
        found = db.run(lambda t: users.get_password(t, name), write=False)
    finally:
        db.close()
    assert found is not None
    return found


def verifies(name: str, password: str) -> bool:
    from appliance.authenticators.local import HASHER

    return HASHER.verify(stored(name)[0], password)


def test_added_account_gets_a_password_that_is_printed_once(run: Run) -> None:
    said = run("user", "add", "Alice")
    assert said.status == 0
    password = re.search(r"Password of alice, shown only this once: (\S+)", said.out)
    assert password is not None
    assert verifies("alice", password[1])
    assert stored("alice")[1], "has to be changed at the first sign-in"
    assert password[1] not in run("user", "list").out


def test_password_from_standard_input_is_not_printed(run: Run) -> None:
    said = run("user", "add", "alice", "--admin", "--password-stdin", stdin=" a pass phrase \nsecond line\n")
    assert said.status == 0
    assert "pass phrase" not in said.out
    assert verifies("alice", " a pass phrase ")


@pytest.mark.parametrize("stdin", ["", "\n"])
def test_no_password_on_standard_input_is_refused(run: Run, stdin: str) -> None:
    refused(run("user", "add", "alice", "--password-stdin", stdin=stdin), "no password on standard input")


def test_account_with_a_weak_password_is_not_added(run: Run) -> None:
    refused(run("user", "add", "alice", "--password-stdin", stdin="short\n"), "at least 8 characters")
    assert "no accounts yet" in run("user", "list").out


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "a\nb", "x" * 300, "\u0440\u0430\u0443pal", "a b"])
def test_impossible_name_is_refused(run: Run, name: str) -> None:
    refused(run("user", "add", name))


def test_name_that_is_taken_is_refused(run: Run) -> None:
    assert run("user", "add", "alice").status == 0
    refused(run("user", "add", "ALICE"))


def test_list_as_a_table_and_for_programs(run: Run) -> None:
    run("user", "add", "bob")
    run("user", "add", "alice", "--admin")
    table = [line.split() for line in run("user", "list").out.splitlines()]
    assert [row[0] for row in table] == ["NAME", "alice", "bob"]
    assert table[1][1] == "yes"
    listed = json.loads(run("user", "list", "--json").out)
    assert [(user["name"], user["admin"]) for user in listed] == [("alice", True), ("bob", False)]
    assert not any("hash" in key or key == "password" for user in listed for key in user)


def test_new_password(run: Run) -> None:
    run("user", "add", "alice")
    assert run("user", "passwd", "alice", "--password-stdin", stdin="another phrase\n").status == 0
    assert verifies("alice", "another phrase")
    assert stored("alice")[1]
    refused(run("user", "passwd", "nobody"), "nobody")


def test_delete_asks_and_says_that_files_stay(run: Run) -> None:
    run("user", "add", "alice")
    refused(run("user", "delete", "alice"), "--yes")
    said = run("user", "delete", "alice", "--yes")
    assert said.status == 0
    assert "files of that account stay" in said.out
    refused(run("user", "delete", "alice", "-y"), "alice")


def test_first_admin_is_made_once(run: Run) -> None:
    said = run("user", "ensure-admin")
    password = re.search(r"shown only this once: (\S+)", said.out)
    assert password is not None
    assert verifies("admin", password[1])
    assert stored("admin")[1]
    again = run("user", "ensure-admin")
    assert again.status == 0
    assert "already" in again.out
    assert verifies("admin", password[1])


def test_first_admins_password_from_the_environment_stays(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPLIANCE_ADMIN_PASSWORD", "set by the machine")
    said = run("user", "ensure-admin")
    assert "set by the machine" not in said.out
    assert verifies("admin", "set by the machine")
    assert not stored("admin")[1], "nobody is there to change it"


def test_the_last_admin_cannot_be_deleted(run: Run) -> None:
    run("user", "add", "ada", "--admin")
    refused(run("user", "delete", "ada", "--yes"), "ada is the only admin")
    run("user", "add", "bob", "--admin")
    assert run("user", "delete", "ada", "--yes").status == 0


def test_an_admin_put_back_from_its_home_is_the_admin_again(run: Run) -> None:
    run("user", "add", "admin")
    said = run("user", "ensure-admin")
    assert said.status == 0
    assert "Password, shown only this once" in said.out
    assert re.search(r"^admin +yes", run("user", "list").out, re.MULTILINE)


def test_where_passwords_are_kept_elsewhere_none_is_set(run: Run) -> None:
    Path("jupyterhub_config.py").write_text(CONFIG.replace("'local'", "'pam'"))
    said = run("user", "add", "alice")
    assert said.status == 0
    assert "kept elsewhere" in said.out
    refused(run("user", "passwd", "alice"), "kept elsewhere")
    refused(run("user", "add", "bob", "--password-stdin", stdin="a pass phrase\n"), "kept elsewhere")
    assert "no account was made" in run("user", "ensure-admin").out


def test_token_is_printed_alone(run: Run) -> None:
    run("user", "add", "alice")
    said = run("token", "alice", "--note", "cron", "--expires-in", "30d")
    assert said.status == 0
    assert re.fullmatch(r"\S{32,}\n", said.out)
    refused(run("token", "nobody"), "nobody")


def test_a_token_may_be_given_less_than_its_account_may(run: Run) -> None:
    run("user", "add", "alice")
    said = run("token", "alice", "--scope", "read:users!user", "--scope=servers!user")
    assert said.status == 0
    db = Database("jupyterhub.sqlite")
    try:
        found = db.run(lambda t: tokens.find(t, said.out.strip()))
    finally:
        db.close()
    assert found is not None
    assert found.scopes == ("read:users!user", "servers!user")
    refused(run("token", "alice", "--scope", "read:everything"), "no scope “read:everything”")
    refused(run("token", "alice", "--scope", "users!team=x"), "is no filter")
    refused(run("token", "alice", "--scope", "admin:users"), "what alice does not hold: admin:users")


@pytest.mark.parametrize("text", ["0", "-1", "", "soon", "1y", "0d", "1e9", "99999999w"])
def test_token_that_ends_at_no_time_is_refused(run: Run, text: str) -> None:
    refused(run("token", "alice", f"--expires-in={text}"), "is not a time")


@pytest.mark.parametrize(("text", "seconds"), [("3600", 3600), ("90s", 90), ("5m", 300), ("12h", 43200), ("30d", 2592000)])
def test_times(text: str, seconds: int) -> None:
    assert cli.duration_s(text) == seconds


@pytest.mark.parametrize("module", ["appliance", "appliance.program", "appliance.cli"])
def test_the_program_is_also_a_module(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("usage: ")
    assert "import-jupyterhub" in done.stdout
