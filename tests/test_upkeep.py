"""What the box's own tools ask of the Hub: facts, a trial on a copy, the schema's way back."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from appliance import cli
from appliance.store.database import HEAD
from appliance.testing import FakeHomes, FakeProxy, FakeSpawner  # noqa: F401 (named in CONFIG)

pytestmark = pytest.mark.unit

CONFIG = f"""
c.JupyterHub.authenticator_class = 'local'
c.JupyterHub.spawner_class = '{__name__}.FakeSpawner'
c.JupyterHub.proxy_class = '{__name__}.FakeProxy'
c.JupyterHub.homes_class = '{__name__}.FakeHomes'
c.JupyterHub.base_url = '/lab/'
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(cli.__file__).parents[1]))  # a migration runs in a process of its own
    Path("jupyterhub_config.py").write_text(CONFIG)
    return tmp_path


def schema(file: Path) -> str:
    with closing(sqlite3.connect(file)) as database:
        return str(database.execute("SELECT version_num FROM appliance_schema").fetchone()[0])


def test_facts_say_where_everything_is_and_make_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["facts"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["database"] == {"kind": "sqlite", "path": str(folder / "jupyterhub.sqlite")}
    assert (said["schema"], said["head"], said["base_url"], said["homes"]) == (None, HEAD, "/lab/", str(folder / "homes"))
    assert [path.name for path in folder.iterdir()] == ["jupyterhub_config.py"]
    cli.main(["upgrade-db"])
    capsys.readouterr()
    cli.main(["facts"])
    assert json.loads(capsys.readouterr().out)["schema"] == HEAD


def test_a_trial_migrates_a_copy_and_asks_it_for_its_pages(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["upgrade-db"])
    cli.main(["downgrade-db", "0001"])
    shutil.copy("jupyterhub.sqlite", "copy.sqlite")
    capsys.readouterr()
    assert cli.main(["trial", "--database", str(folder / "copy.sqlite")]) == 0
    assert capsys.readouterr().out == (
        f"The trial went well: schema 0001 became {HEAD}; hub/health answers; hub/login answers.\n")
    assert (schema(folder / "jupyterhub.sqlite"), schema(folder / "copy.sqlite")) == ("0001", HEAD)
    assert not (folder / "homes").exists()


def test_a_trial_on_the_database_itself_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["upgrade-db"])
    assert cli.main(["trial", "--database", "./jupyterhub.sqlite"]) == 1
    assert "That is the database itself" in capsys.readouterr().err


def test_a_trial_of_a_hub_whose_pages_fail_says_which(folder: Path, capsys: pytest.CaptureFixture[str],
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    from appliance.web import login

    def broken(*_: object, **more: object) -> None:
        raise RuntimeError("a template is missing")

    monkeypatch.setattr(login, "_login_form", broken)
    assert cli.main(["trial", "--database", str(folder / "copy.sqlite")]) == 1
    assert "The page hub/login answers with 500 instead of 200" in capsys.readouterr().err


def test_a_broken_configuration_fails_its_trial_with_its_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("jupyterhub_config.py").write_text(CONFIG + "c.JupyterHub.port = 'eighty'\n")
    assert cli.main(["trial", "--database", str(folder / "copy.sqlite")]) == 1
    assert "c.JupyterHub.port must be a whole number" in capsys.readouterr().err


def test_an_unknown_schema_is_refused_with_the_known_ones(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["upgrade-db"])
    assert cli.main(["downgrade-db", "0404"]) == 1
    assert "There is no schema 0404; this program knows 0001, " in capsys.readouterr().err
    assert schema(folder / "jupyterhub.sqlite") == HEAD
