"""What people may choose, in the configuration: taken, or refused with the file, the line and what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.config import Settings, load_settings
from appliance.domain.offers import Person
from appliance.errors import Misconfigured
from appliance.hub.offers import Offers

pytestmark = pytest.mark.unit


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.chdir(tmp_path)

    def load(text: str) -> Settings:
        (tmp_path / "jupyterhub_config.py").write_text(f"c = get_config()\n{text}\n")
        return load_settings([])

    return load


def test_what_is_said_arrives(load: object) -> None:
    settings = load("c.JupyterHub.allow_named_servers = True\n"  # type: ignore[operator]
                    "c.JupyterHub.named_server_limit_per_user = lambda person: 2\n"
                    "c.JupyterHub.default_server_name = 'Main'\n"
                    "c.JupyterHub.group_limits = {'7b': {'mem_limit': '1G', 'profiles': ['a']}}\n"
                    "c.Spawner.profile_list = [{'display_name': 'A'}]\n")
    assert settings.notices == ()
    assert (settings.named_servers.allowed, settings.named_servers.default_name) == (True, "main")
    limit = settings.named_servers.limit
    assert callable(limit)
    assert limit(Person("ada")) == 2
    assert settings.group_limits["7b"].mem_limit_bytes == 1 << 30
    assert [profile.slug for profile in settings.make(settings.spawner_class).profiles()] == ["a"]


def test_a_default_server_without_named_servers_is_none(load: object) -> None:
    assert load("c.JupyterHub.default_server_name = 'main'").named_servers.default_name == ""  # type: ignore[operator]


@pytest.mark.parametrize(("line", "reason"), [
    ("c.JupyterHub.group_limits = {'7b': {'memory': '1G'}}", "known are mem_limit"),
    ("c.JupyterHub.group_limits = {'7b': {'mem_limit': 'lots'}}", "“lots” is not a size"),
    ("c.JupyterHub.group_limits = {'7b': '1G'}", "dictionary"),
    ("c.JupyterHub.group_limits = {'7/b': {}}", "cannot contain"),
    ("c.JupyterHub.group_limits = ['7b']", "dictionary"),
    ("c.JupyterHub.named_server_limit_per_user = -1", "whole number"),
    ("c.JupyterHub.default_server_name = 'a b'", "blank"),
    ("c.JupyterHub.default_server_name = 'lab'", "page of every server"),
    ("c.Spawner.profile_list = [{'name': 'A'}]", "Profile 1 has no name"),
    ("c.DockerSpawner.profile_list = [{'display_name': 'A', 'mem_limit': 5}]", "at least 16M"),
    ("c.DockerSpawner.allowed_images = {'R': {'img': 'r:1'}}", "the nearest is “image”, and known are image"),
    ("c.JupyterHub.group_limits = {'7b': {'memlimit': '1G'}}", "the nearest is “mem_limit”"),
    ("c.Spawner.profile_list = [{'display_name': 'A', 'kubespawner_override': {}}]",
     "write the keys of kubespawner_override directly into the profile."),
    ("c.Spawner.options_form = 5", "text in quotes or a function"),
    ("c.Spawner.options_from_form = 'advanced'", "a function or one of"),
    ("c.Spawner.apply_user_options = {'a': 'b'}", "a function"),
])
def test_what_cannot_be_is_refused_with_file_line_and_reason(load: object, line: str, reason: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        load(f"\n{line}")  # type: ignore[operator]
    assert caught.value.sentence.startswith("jupyterhub_config.py, line 3: ")
    assert reason in caught.value.sentence


def test_a_group_s_profiles_have_to_be_there(load: object) -> None:
    settings = load("c.JupyterHub.group_limits = {'7b': {'profiles': ['a']}}")  # type: ignore[operator]
    assert settings.group_limits_at == "jupyterhub_config.py, line 2: "
    with pytest.raises(Misconfigured, match="not in profile_list"):
        Offers(settings.make(settings.spawner_class), lambda user_id: None, settings.named_servers, settings.group_limits)
