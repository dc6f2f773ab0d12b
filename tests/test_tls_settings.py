"""What may be said of TLS, and a sentence with file and line for all that does not fit together."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance import config
from appliance.config import Settings, load_settings
from appliance.errors import Misconfigured
from appliance.proxies.certificates import ensure_leaf

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("key", "cert"):
        (tmp_path / name).write_text("")
    ensure_leaf(tmp_path / "authority", ("acme.school",))
    return tmp_path


def load(*lines: str) -> Settings:
    Path("jupyterhub_config.py").write_text("\n".join(f"c.{line}" for line in lines) + "\n")
    return load_settings()


FILES = ("JupyterHub.ssl_cert = 'cert'", "JupyterHub.ssl_key = 'key'")
NAMES = "JupyterHub.tls_names = ['Box.School.', 'www.box.school']"
LETSENCRYPT = "JupyterHub.tls = 'letsencrypt'"


@pytest.mark.parametrize(("lines", "mode"), [
    ((), "off"), (FILES, "files"), ((*FILES, "JupyterHub.tls = 'files'"), "files"), (("JupyterHub.tls = 'off'",), "off"),
    (("JupyterHub.tls = 'selfsigned'",), "selfsigned"), ((LETSENCRYPT, NAMES), "letsencrypt"),
])
def test_modes(lines: tuple[str, ...], mode: str) -> None:
    settings = load(*lines)
    assert settings.tls == mode
    assert any("without encryption" in warning for warning in config.warnings(settings)) is (mode == "off")
    assert (settings.authority_file is not None) is (mode == "selfsigned")


def test_names_are_those_of_a_certificate() -> None:
    settings = load("JupyterHub.tls = 'selfsigned'",
                    "JupyterHub.tls_names = ['Box.School.', '192.0.2.7', 'box.school', '[::1]']")
    assert settings.tls_names == ("box.school", "192.0.2.7", "::1")
    assert load("JupyterHub.tls = 'selfsigned'", "JupyterHub.public_url = 'https://box.school'").public_host == "box.school"


@pytest.mark.parametrize("lines", [
    (LETSENCRYPT, NAMES, "TraefikProxy.acme_email = 'it@school.org'"),
    (LETSENCRYPT, NAMES, "TraefikProxy.acme_challenge = 'dns'", "TraefikProxy.acme_dns_provider = 'cloudflare'"),
    (LETSENCRYPT, "JupyterHub.tls_names = ['*.box.school']", "TraefikProxy.acme_challenge = 'dns'",
     "TraefikProxy.acme_dns_provider = 'cloudflare'"),
    (LETSENCRYPT, NAMES, "TraefikProxy.acme_server = 'https://acme.school/dir'", "TraefikProxy.acme_staging_server = ''",
     "TraefikProxy.acme_ca_file = 'authority/ca.crt'"),
    ("JupyterHub.bind_url = 'https://:443'", "JupyterHub.tls = 'selfsigned'"),
    ("TraefikProxy.acme_challenge = 'http'", "TraefikProxy.acme_email = ''"),
])
def test_what_fits_together(lines: tuple[str, ...]) -> None:
    assert load(*lines)


@pytest.mark.parametrize(("lines", "at", "reason"), [
    (("JupyterHub.tls = 'https'",), 1, "c.JupyterHub.tls must be one of '', 'off', 'selfsigned', 'files', 'letsencrypt'"),
    (("JupyterHub.tls = 'files'",), 1, "is 'files', which needs c.JupyterHub.ssl_cert and ssl_key"),
    ((*FILES, "JupyterHub.tls = 'selfsigned'"), 3, "which does not go with c.JupyterHub.ssl_cert and ssl_key"),
    ((*FILES, "JupyterHub.tls = 'off'"), 3, "which does not go with c.JupyterHub.ssl_cert and ssl_key"),
    ((LETSENCRYPT,), 1, "which needs the box's names in c.JupyterHub.tls_names"),
    ((*FILES, NAMES), 3, "c.JupyterHub.tls_names has no effect, because c.JupyterHub.tls is 'files'"),
    ((NAMES,), 1, "c.JupyterHub.tls_names has no effect, because c.JupyterHub.tls is 'off'"),
    (("JupyterHub.tls = 'selfsigned'", "JupyterHub.tls_names = ['a b']"), 2, "'a b', which is neither a DNS name nor"),
    (("JupyterHub.tls = 'selfsigned'", "JupyterHub.tls_names = 'box'"), 2, "must be a list"),
    (("JupyterHub.port = 80", "JupyterHub.tls = 'selfsigned'"), 2, "c.JupyterHub.port cannot be 80"),
    ((LETSENCRYPT, NAMES, "TraefikProxy.acme_challenge = 'dns'"), 3, "which needs c.TraefikProxy.acme_dns_provider"),
    ((LETSENCRYPT, NAMES, "TraefikProxy.acme_challenge = 'tls'"), 3, "must be one of 'http', 'dns'"),
    ((LETSENCRYPT, NAMES, "TraefikProxy.acme_dns_provider = 'x'"), 3, "c.TraefikProxy.acme_challenge is 'http'"),
    ((LETSENCRYPT, "JupyterHub.tls_names = ['*.box.school']"), 1, "must be 'dns' for a name like *.box.school"),
    ((LETSENCRYPT, "JupyterHub.tls_names = ['192.0.2.7']"), 1, "public DNS names only, not 192.0.2.7"),
    ((LETSENCRYPT, "JupyterHub.tls_names = ['box']"), 1, "public DNS names only, not box"),
    ((LETSENCRYPT, NAMES, "TraefikProxy.acme_email = 'nobody'"), 3, "must be an address for mail, not 'nobody'"),
    ((LETSENCRYPT, NAMES, "TraefikProxy.acme_server = 'acme.school'"), 3, "not 'acme.school'"),
    ((LETSENCRYPT, NAMES, "TraefikProxy.acme_staging_server = 'http://x/'"), 3, "not 'http://x/'"),
    ((LETSENCRYPT, NAMES, "TraefikProxy.acme_ca_file = 'nowhere'"), 3, "nowhere: No such file or directory"),
    ((LETSENCRYPT, NAMES, "TraefikProxy.acme_ca_file = 'key'"), 3, "c.TraefikProxy.acme_ca_file cannot be used: key: "),
    ((LETSENCRYPT, NAMES, "TraefikProxy.hsts_seconds = -1"), 3, "must be a whole number of at least 0, or None, not -1"),
    ((*FILES, "TraefikProxy.acme_challenge = 'dns'"), 3, "has no effect, because c.JupyterHub.tls is 'files'"),
    (("TraefikProxy.http_port = 0",), 1, "from 1 to 65535"),
])
def test_what_does_not_fit_together_stops_with_file_line_and_reason(lines: tuple[str, ...], at: int, reason: str) -> None:
    with pytest.raises(Misconfigured) as raised:
        load(*lines)
    assert raised.value.sentence.startswith(f"jupyterhub_config.py, line {at}: c."), raised.value.sentence
    assert reason in raised.value.sentence
