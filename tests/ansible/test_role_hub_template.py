"""10-box.py as the playbook writes it, for every kind of box: the Hub's own loader takes it, and it says what was meant."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import Environment, StrictUndefined

from appliance.config import Settings, load_settings
from appliance.errors import Misconfigured

pytestmark = pytest.mark.unit

ROLES = Path(__file__).resolve().parents[2] / "ansible" / "roles"


def defaults() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for role in ("appliance", "storage", "hub", "traefik"):
        found |= yaml.safe_load((ROLES / role / "defaults/main.yml").read_text())
    return found


def rendered(**given: Any) -> str:
    """What Ansible makes of the template. Variables that are templates themselves are given as plain values here."""
    values = defaults() | {
        "ansible_managed": "Ansible managed", "hub_homes_class": "directory", "traefik_names": ["box.school"],
        "__hub_address": "https://box.school", "__hub_edge_port": 443} | given
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"to_json": lambda value, **options: json.dumps(value, **options),
                            "bool": lambda value: value in (True, "true", "yes", "1", 1)}
    return environment.from_string((ROLES / "hub/templates/10-box.py.j2").read_text()).render(values)


def loaded(folder: Path, text: str) -> Settings:
    """Load it as the Hub does, but for paths that only a box has."""
    for name in ("box.crt", "box.key", "metrics_token", "acme-ca.crt"):
        (folder / name).write_text("")
    for place in ("/etc/appliance/tls", "/etc/appliance/secrets"):
        text = text.replace(place, str(folder))
    (folder / "box.py").write_text(text)
    return load_settings(["-f", str(folder / "box.py")])


@pytest.mark.parametrize(("tls", "homes", "cpu", "quota", "challenge"), [
    row for row in itertools.product(
        ("off", "selfsigned", "files", "letsencrypt"), ("directory", "btrfs"), (0, 1.5), ("", "2G"),
        ("http", "dns")) if row[0] == "letsencrypt" or row[4] == "http"])
def test_every_kind_of_box_is_loaded(tmp_path: Path, tls: str, homes: str, cpu: float, quota: str, challenge: str) -> None:
    settings = loaded(tmp_path, rendered(
        traefik_tls=tls, hub_homes_class=homes, storage_homes="loop" if homes == "btrfs" else "directory", hub_student_cpu=cpu,
        storage_quota=quota, traefik_acme_challenge=challenge, traefik_acme_dns_provider="cloudflare",
        traefik_acme_email="it@school.example", __hub_edge_port=80 if tls == "off" else 443))
    assert settings.tls == tls
    assert settings.port == (80 if tls == "off" else 443)
    assert settings.homes_class.__name__ == ("BtrfsHomes" if homes == "btrfs" else "DirectoryHomes")
    assert settings.config.Spawner.get("cpu_limit") == (cpu or None)
    assert settings.config.BtrfsHomes.get("quota") == (quota if homes == "btrfs" and quota else None)
    for name in ("spawner_class", "proxy_class", "homes_class", "authenticator_class"):
        settings.make(getattr(settings, name))


def test_admins_names_and_free_text_arrive_as_they_were_written(tmp_path: Path) -> None:
    settings = loaded(tmp_path, rendered(
        hub_admin_users=["josé", 'o"neil'], hub_config="c.JupyterHub.active_server_limit = 40\n", hub_tmp_size="1G"))
    assert settings.config.Authenticator.admin_users == {"josé", 'o"neil'}
    assert settings.active_server_limit == 40
    assert settings.config.DockerSpawner.tmp_size == "1G"


def test_hsts_is_the_hubs_decision_unless_somebody_says_a_number(tmp_path: Path) -> None:
    assert "hsts_seconds" not in rendered()
    assert loaded(tmp_path, rendered(traefik_hsts_seconds="0")).config.TraefikProxy.hsts_seconds == 0


def test_a_mistake_in_free_text_is_a_sentence_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"line \d+.*activ_server_limit|activ_server_limit"):
        settings = loaded(tmp_path, rendered(hub_config="c.JupyterHub.activ_server_limit = 'many'"))
        raise Misconfigured("; ".join(settings.notices))


def test_what_an_admin_types_cannot_end_a_string(tmp_path: Path) -> None:
    settings = loaded(tmp_path, rendered(hub_image='x"; raise SystemExit #\n'))
    assert settings.config.DockerSpawner.image == 'x"; raise SystemExit #\n'
