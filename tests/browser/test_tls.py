"""A box with an authority of its own: a browser warns, is told to trust the root, and then works as over HTTP."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from box import Box, free_port
from playwright.sync_api import Browser, Error, Playwright, expect, sync_playwright

from .conftest import ARTIFACTS, FLAGS, take_picture
from .person import PATIENCE_MS, Person
from .test_looks import LOW_CONTRAST, NAMELESS, SIZES, TWICE, WIDER_THAN_THE_SCREEN

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def http_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def encrypted(http_port: int) -> Iterator[Box]:
    with Box(f"c.JupyterHub.tls = 'selfsigned'\nc.TraefikProxy.http_port = {http_port}\n") as box:
        box.url = f"https://127.0.0.1:{box.port}"
        yield box


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as made:
        yield made


def launch(playwright: Playwright, home: Path) -> Browser:
    expect.set_options(timeout=PATIENCE_MS)
    # Every container that starts here changes this machine's network, and Chromium then ends its HTTP/2 sessions with an error.
    return playwright.chromium.launch(
        executable_path=shutil.which("chromium"), args=[*FLAGS, "--disable-http2"], env={**os.environ, "HOME": str(home)})


def trust(home: Path, root: Path) -> None:
    """What the help page says for Chromium on Linux, without the mouse."""
    database = home / ".pki" / "nssdb"
    database.mkdir(parents=True)
    for command in (["-N", "--empty-password"], ["-A", "-t", "C,,", "-n", "Classroom box", "-i", str(root)]):
        subprocess.run(["certutil", "-d", f"sql:{database}", *command], check=True)


def refusal(browser: Browser, url: str) -> str:
    """Return why the browser does not show a page; a container's interface that came meanwhile is no reason."""
    for _ in range(5):
        page = browser.new_page()
        with pytest.raises(Error) as raised:
            page.goto(url)
        if "ERR_NETWORK_CHANGED" not in str(raised.value):
            break
    return str(raised.value)


def test_a_browser_that_trusts_the_root_signs_in_and_runs_a_cell(
    encrypted: Box, http_port: int, playwright: Playwright, tmp_path: Path,
) -> None:
    with launch(playwright, tmp_path / "stranger") as browser:
        assert "ERR_CERT_AUTHORITY_INVALID" in refusal(browser, encrypted.url)
        page = browser.new_page()
        # without clicking the warning away: help and root are there over HTTP
        page.goto(f"http://127.0.0.1:{http_port}/hub/help")
        with page.expect_download() as downloading:
            page.get_by_role("link", name="Download the certificate").click()
        root = tmp_path / "root.crt"
        downloading.value.save_as(root)
    assert root.read_bytes() == (encrypted.folder / "state" / "tls" / "ca.crt").read_bytes()
    trust(tmp_path / "home", root)
    with launch(playwright, tmp_path / "home") as browser:
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        context.set_default_timeout(PATIENCE_MS)
        if encrypted.user("ada") is None:
            encrypted.add_user("ada")
        ada = Person(encrypted, context, "ada")
        ada.sign_in("/hub/home")
        ada.is_at("/hub/home")
        assert {cookie["secure"] for cookie in context.cookies()} == {True}
        status = ada.page.evaluate("""async prefix => {
            const socket = new WebSocket(`wss://${location.host}${prefix}`);
            return await new Promise(done => { socket.onerror = () => done('refused'); socket.onopen = () => done('open'); });
        }""", "/user/ada/api/events/subscribe")
        assert status == "refused", "there is no server yet"
        ada.open("/hub/spawn")
        ada.is_at("/user/ada/lab*")
        expect(ada.page.locator(".jp-Launcher").first).to_be_visible()
        status = ada.page.evaluate("""async prefix => {
            const socket = new WebSocket(`wss://${location.host}${prefix}`);
            return await new Promise(done => { socket.onerror = () => done('refused'); socket.onopen = () => done('open'); });
        }""", "/user/ada/api/events/subscribe")
        assert status == "open"
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_help_page_looks_right_and_can_be_used_by_everybody(
    encrypted: Box, http_port: int, playwright: Playwright, tmp_path: Path, scheme: str, size: str,
) -> None:
    pictures = ARTIFACTS / "looks"
    pictures.mkdir(parents=True, exist_ok=True)
    with launch(playwright, tmp_path) as browser:
        page = browser.new_page(viewport=SIZES[size], color_scheme=scheme, ignore_https_errors=True)
        page.goto(f"{encrypted.url}/hub/login")
        page.get_by_role("link", name="Make this device trust it").click()
        for opened in (False, True):
            if opened:
                page.evaluate("() => document.querySelectorAll('details').forEach(each => each.open = true)")
            take_picture(page, pictures / f"help{'-open' if opened else ''}-{size}-{scheme}.png", full_page=True)
            for fault in (NAMELESS, TWICE, LOW_CONTRAST):
                assert page.evaluate(fault) == []
            assert page.evaluate(WIDER_THAN_THE_SCREEN) <= 0
