"""How a device is told to trust the box: only where it has an authority of its own, and without anything secret."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

import pytest

from appliance.errors import CertificateTrouble
from appliance.proxies.certificates import ensure_leaf, fingerprint

from .browser import Browser
from .fakes import FakeHub

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


@pytest.fixture
def root(hub: FakeHub, tmp_path: Path) -> Path:
    ensure_leaf(tmp_path, ("box.school",))
    hub.authority_file = tmp_path / "ca.crt"
    return hub.authority_file


async def test_sign_in_links_to_it_only_where_browsers_warn(hub: FakeHub, stranger: Browser, tmp_path: Path) -> None:
    assert "/hub/help" not in (await stranger.get("/hub/login")).text
    assert (await stranger.get("/hub/help")).status_code == 404
    assert (await stranger.get("/hub/help/ca.crt")).status_code == 404
    hub.authority_file = tmp_path / "not-there-yet.crt"
    assert 'href="/hub/help"' in (await stranger.get("/hub/login")).text
    assert (await stranger.get("/hub/help/ca.crt")).status_code == 404


async def test_the_root_can_be_downloaded_and_compared(root: Path, stranger: Browser) -> None:
    page = (await stranger.get("/hub/help")).text
    shown = "".join(page.split('class="fingerprint">')[1].split("</p>")[0].replace("<code>", "").replace("</code>", "").split())
    assert shown == fingerprint(root).replace(":", "")
    answer = await stranger.get("/hub/help/ca.crt")
    assert answer.headers["content-type"] == "application/x-x509-ca-cert"
    assert hashlib.sha256(ssl.PEM_cert_to_DER_cert(answer.text)).hexdigest().upper() == shown
    assert "PRIVATE KEY" not in answer.text
    assert answer.text.count("BEGIN") == 1


async def test_every_kind_of_device_is_told(root: Path, stranger: Browser) -> None:
    page = (await stranger.get("/hub/help")).text
    for device in ("Windows", "Mac", "iPad", "Android", "Chromebook", "Firefox", "Linux"):
        assert f"<summary><h2>{device}" in page
    assert "set-cookie" not in (await stranger.get("/hub/help")).headers


async def test_a_certificate_that_cannot_be_had_is_a_problem_in_health_and_not_on_pages(
    hub: FakeHub, browser: Browser,
) -> None:
    hub.edge_trouble = [CertificateTrouble("The authority cannot reach box.school on port 80.")]
    assert (await browser.get("/hub/health")).json()["problems"] == ["certificate"]
    assert "port 80" not in (await browser.get("/hub/home")).text
