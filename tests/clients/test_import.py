"""`appliance import-jupyterhub` on files that original JupyterHubs from PyPI made themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from appliance import cli
from appliance.store import groups, servers, shares, tokens, users
from appliance.store.database import Database

pytestmark = pytest.mark.clients

FILL = Path(__file__).with_name("old_hub.py")


@pytest.fixture(params=["5.5.4", "6.1.1"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, dict[str, str]]:
    """Return the version, its database, and the tokens in it. The installation is kept for the next run."""
    config = request.config
    assert config.cache is not None
    venv = config.cache.mkdir("jupyterhubs") / request.param
    python = venv / "bin/python"
    if not (venv / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", f"jupyterhub=={request.param}"], check=True)
        (venv / "complete").touch()
    file = tmp_path / "old" / "jupyterhub.sqlite"
    file.parent.mkdir()
    said = subprocess.run([python, FILL, file], check=True, stdout=subprocess.PIPE, text=True, cwd=tmp_path).stdout
    return request.param, file, json.loads(said)


def test_people_groups_shares_and_scripts_come_over(
        old: tuple[str, Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    version, file, made = old
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jupyterhub_config.py").write_text(
        "c.JupyterHub.spawner_class = 'localprocess'\nc.JupyterHub.authenticator_class = 'local'\n"
        "c.JupyterHub.db_url = 'sqlite:///here.sqlite'\n")
    before = file.read_bytes()
    assert cli.main(["import-jupyterhub", str(file), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert f"A database of JupyterHub {version[0]}: 4 accounts, 1 group, 2 shares." in said
    assert "1 share code: whoever shares makes a new link." in said
    assert "Cannot come" not in said
    assert cli.main(["import-jupyterhub", str(file), "--sheet", "cards.html"]) == 0
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["jupyterhub.sqlite"]

    db = Database("sqlite:///here.sqlite")
    try:
        assert {user.name: user.admin for user in db.run(users.list_all, write=False)} == {
            "ada": True, "bob": False, "carol": False, "dora-é": False}
        assert [(group.name, group.members, dict(group.properties)) for group in db.run(groups.list_all, write=False)] == [
            ("7b", ("bob", "carol"), {"room": 12})]
        lab = next(server for server in db.run(servers.list_all, write=False) if server.name == "lab")
        assert dict(lab.user_options) == {"image": "scipy"}
        assert lab.display_name == ("The lab" if version.startswith("6") else "")
        assert sorted((share.server.name, share.user_name, share.group_name, len(share.scopes)) for share in db.run(
            shares.list_all, write=False)) == [("", "bob", None, 1), ("lab", None, "7b", 2)]
        for secret, note, scope in (("token", "my script", "inherit"), ("narrow", "reads", "read:users!user=bob")):
            found = db.run(lambda t, secret=secret: tokens.find(t, made[secret]), write=False)
            assert found is not None
            assert (found.user.name if found.user else "", found.note, found.scopes) == ("bob", note, (scope,))
        assert db.run(lambda t: tokens.find(t, "chosen-by-hand-long-enough"), write=False) is None
    finally:
        db.close()
    capsys.readouterr()
    assert cli.main(["import-jupyterhub", str(file)]) == 0
    assert "Nothing to do." in capsys.readouterr().out
