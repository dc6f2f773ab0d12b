"""A class from a file of the machine, its cards to a file of the machine: the Hub in its container sees neither."""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from appliance import cli
from appliance.box import handed

pytestmark = pytest.mark.unit

SOURCE = Path(cli.__file__).parent.parent
PEOPLE = "name,display_name,group\nada,Ada Lovelace,biology\n"

# Stands for Docker: runs the real command line where the Hub's would run, in a folder that the list is not in.
DOCKER = """#!/bin/sh
case "$1 $2" in
  "container inspect") echo true; exit ;;
esac
while [ "$1" != appliance ]; do [ "$1" != --env ] || export "$2"; shift; done
shift
cd {inside} && exec {python} -c 'import sys; from appliance import cli
sys.argv[1:] = [word.replace("/var/lib/appliance", "{data}") for word in sys.argv[1:]]
class Back:
    def write(self, text): return sys.__stdout__.write(text.replace("{data}", "/var/lib/appliance"))
    def flush(self): sys.__stdout__.flush()
sys.stdout = Back()
sys.exit(cli.main())' "$@"
"""


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder an admin stands in. The data folder has one path inside and outside."""
    here, inside, programs = tmp_path / "here", tmp_path / "inside", tmp_path / "bin"
    for folder in (here, inside, programs, tmp_path / "var/lib/appliance"):
        folder.mkdir(parents=True)
    (inside / "jupyterhub_config.py").write_text(
        f"c.JupyterHub.authenticator_class = 'local'\nc.JupyterHub.db_url = {str(inside / 'db.sqlite')!r}\n"
        f"c.JupyterHub.state_dir = {str(inside / 'state')!r}\n")
    (programs / "docker").write_text(DOCKER.format(
        inside=inside, python=sys.executable, data=tmp_path / "var/lib/appliance"))
    (programs / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(SOURCE))
    monkeypatch.chdir(here)
    (here / "class.csv").write_text(PEOPLE)
    return here


def apply(box: Path, *words: str, command: tuple[str, ...] = ("roster", "apply")) -> subprocess.CompletedProcess[str]:
    code = ("import sys; from pathlib import Path; from appliance.box.__main__ import main; "
            "from appliance.box.paths import Paths; "
            f"sys.exit(main({[*command, *words]!r}, Paths(Path({str(box.parent)!r}))))")
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120,
                          stdin=subprocess.DEVNULL, cwd=box)


def test_list_and_cards_are_files_of_this_machine(box: Path) -> None:
    done = apply(box, "class.csv", "--sheet", "cards.html")
    assert done.returncode == 0, done.stderr
    cards = box / "cards.html"
    assert "Ada Lovelace" in cards.read_text()
    assert stat.S_IMODE(cards.stat().st_mode) == 0o600
    assert f"The cards with 1 new password are in {cards}." in done.stdout
    assert list((box.parent / "var/lib/appliance").iterdir()) == []


def test_a_database_of_the_original_jupyterhub_is_a_file_of_this_machine(box: Path) -> None:
    with sqlite3.connect(box / "jupyterhub.sqlite") as old:
        old.executescript("CREATE TABLE users (id, name, admin); CREATE TABLE groups (id, name);"
                          "CREATE TABLE user_group_map (user_id, group_id); CREATE TABLE spawners (id, user_id, name);"
                          "CREATE TABLE api_tokens (user_id, hashed, prefix); INSERT INTO users VALUES (1, 'ada', 0);")
    command = ("import-jupyterhub",)
    done = apply(box, "jupyterhub.sqlite", "--sheet", "cards.html", command=command)
    assert done.returncode == 0, done.stderr
    assert "New accounts: 1\n  ada\n" in done.stdout
    assert f"The cards with the new passwords are in {box / 'cards.html'}." in done.stdout
    assert "<code>" in (box / "cards.html").read_text()
    again = apply(box, "jupyterhub.sqlite", command=command)
    assert (again.returncode, "Nothing to do." in again.stdout) == (0, True)
    assert list((box.parent / "var/lib/appliance").iterdir()) == []
    assert not [path for path in (box.parent / "inside").rglob("*") if "old-hub" in path.name]


def test_for_programs_the_sheet_has_its_name_as_well(box: Path) -> None:
    done = apply(box, "--json", "class.csv", "--sheet=cards.html")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sheet"] == str(box / "cards.html")


def test_a_dry_run_writes_no_cards(box: Path) -> None:
    done = apply(box, "class.csv", "--dry-run", "--sheet", "cards.html", "--format", "csv")
    assert done.returncode == 0, done.stderr
    assert "nothing was changed" in done.stdout
    assert not (box / "cards.html").exists()


def test_cards_that_are_there_are_not_written_over(box: Path) -> None:
    (box / "cards.html").write_text("of last year")
    done = apply(box, "class.csv", "--sheet", "cards.html")
    assert done.returncode == 1
    assert "is there already and was left alone" in done.stderr
    assert (box / "cards.html").read_text() == "of last year"
    assert apply(box, "class.csv", "--sheet", "other.html").returncode == 0, "somebody was added"


def test_a_list_that_is_not_there_is_a_sentence(box: Path) -> None:
    done = apply(box, "clas.csv", "--sheet", "cards.html")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("appliance: The file clas.csv cannot be read: No such file or directory.")
    assert apply(box, "class.csv", "--sheet", "no/such/cards.html").stderr.startswith("appliance: The sheet ")


def test_cards_that_do_not_fit_stay_where_they_are(tmp_path: Path) -> None:
    source = tmp_path / "cards"
    source.write_text("secret")
    with pytest.raises(handed.BoxError, match="could not be written") as error:
        handed._bring(source, tmp_path / "no/such/folder")
    assert str(source) in error.value.action
    assert source.read_text() == "secret"


@pytest.mark.parametrize("words", list(handed.WITH_VALUE), ids=" ".join)
def test_options_with_a_value_are_those_of_the_hubs_command_line(words: tuple[str, ...]) -> None:
    parser = cli._parser()
    for word in words:
        below = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        parser = below.choices[word]
    found = {option for action in parser._actions if action.option_strings and action.nargs != 0
             for option in action.option_strings}
    assert found == set(handed.WITH_VALUE[words])


def test_help_speaks_of_nothing_in_the_hubs_container(box: Path) -> None:
    done = apply(box, "--help")
    assert done.returncode == 0, done.stderr
    assert "--sheet FILE.html" in done.stdout
    assert "jupyterhub_config" not in done.stdout
    assert "--db" not in done.stdout
    assert "--db" in subprocess.run([sys.executable, "-m", "appliance.cli", "roster", "apply", "--help"], capture_output=True,
                                    text=True, check=True).stdout
