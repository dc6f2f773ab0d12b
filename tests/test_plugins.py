"""Drivers are found by short name, entry point, import path or class, and refused with what there is."""

from __future__ import annotations

import importlib
import importlib.metadata
from pathlib import Path

import pytest

from appliance import plugins
from appliance.authenticators.local import AccountsAuthenticator
from appliance.authenticators.pam import PAMAuthenticator
from appliance.errors import Misconfigured
from appliance.ports import Authenticator

pytestmark = pytest.mark.unit


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's distribution, as pip would leave it."""
    info = tmp_path / "classroster-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: classroster\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[jupyterhub.authenticators]\nroster = classroster:Roster\nlocal = classroster:Roster\nbroken = classroster_broken:X\n")
    (tmp_path / "classroster.py").write_text(
        "from appliance import Authenticator\n\n\nclass Roster(Authenticator):\n    pass\n")
    (tmp_path / "classroster_broken.py").write_text("raise RuntimeError('needs a licence')\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()


@pytest.mark.parametrize(("name", "cls"), [
    ("local", AccountsAuthenticator), ("PAM", PAMAuthenticator), ("default", PAMAuthenticator),
    ("jupyterhub.auth.PAMAuthenticator", PAMAuthenticator), (PAMAuthenticator, PAMAuthenticator),
    ("appliance.authenticators.local:AccountsAuthenticator", AccountsAuthenticator),
    ("appliance.authenticators.local.AccountsAuthenticator", AccountsAuthenticator),
])
def test_found(name: str | type, cls: type) -> None:
    assert plugins.find(plugins.AUTHENTICATOR, name) is cls


@pytest.mark.parametrize("kind", plugins.KINDS, ids=lambda kind: kind.option)
def test_every_built_in_driver_is_one(kind: plugins.Kind) -> None:
    for name in kind.builtin:
        assert issubclass(plugins.find(kind, name), kind.base)


@pytest.mark.usefixtures("installed")
def test_entry_point_of_another_distribution_is_found() -> None:
    found = plugins.find(plugins.AUTHENTICATOR, "Roster")
    assert issubclass(found, Authenticator)
    assert found.__name__ == "Roster"


@pytest.mark.usefixtures("installed")
def test_entry_point_does_not_replace_what_is_built_in() -> None:
    assert plugins.find(plugins.AUTHENTICATOR, "local") is AccountsAuthenticator


@pytest.mark.usefixtures("installed")
def test_names_of_other_distributions_are_listed() -> None:
    with pytest.raises(Misconfigured, match="There is: broken, local, pam, roster;"):
        plugins.find(plugins.AUTHENTICATOR, "nothing")


@pytest.mark.usefixtures("installed")
def test_plugin_that_cannot_be_imported_says_why() -> None:
    with pytest.raises(Misconfigured, match="'broken' cannot be imported: needs a licence"):
        plugins.find(plugins.AUTHENTICATOR, "broken")


@pytest.mark.usefixtures("installed")
def test_plugin_that_cannot_be_imported_is_not_offered_instead() -> None:
    with pytest.raises(Misconfigured, match=r"There is also: local, pam, roster\.$"):
        plugins.find(plugins.AUTHENTICATOR, "broken")


def test_authenticator_of_jupyterhub_leads_to_how_one_is_written_here() -> None:
    with pytest.raises(Misconfigured, match=r"for JupyterHub, and those cannot be used here.*see “Writing an Authenticator”"):
        plugins.find(plugins.AUTHENTICATOR, "oauthenticator.GitHubOAuthenticator")


@pytest.mark.parametrize("kind", plugins.KINDS, ids=lambda kind: kind.option)
def test_driver_of_another_kind_is_refused(kind: plugins.Kind) -> None:
    with pytest.raises(Misconfigured, match=f"it is no subclass of appliance.{kind.base.__name__}; see “{kind.page}”"):
        plugins.find(kind, "pathlib.Path")
