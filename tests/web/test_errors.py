"""Every error has a status, a sentence and a shape."""

from __future__ import annotations

import html
import inspect
import logging
import re

import pytest

from appliance import errors
from appliance.errors import ApplianceError
from appliance.web import static
from appliance.web.app import create_app
from appliance.web.errors import STATUS, title_of

from .browser import NAVIGATION, SCRIPT, Browser
from .fakes import FakeHub

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, ApplianceError)]


def test_each_class_has_its_own_line_in_the_table() -> None:
    assert set(STATUS) == set(CLASSES)
    assert all(400 <= status < 600 for status in STATUS.values())


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.code)
async def test_each_class_is_a_page_and_json(cls: type[ApplianceError], hub: FakeHub, browser: Browser) -> None:
    error = cls(7) if cls is errors.LoginThrottled else cls(evidence="EVIDENCE")  # type: ignore[arg-type]

    def fail() -> list[ApplianceError]:
        raise error

    hub.problems = fail  # type: ignore[method-assign]
    page = await browser.get("/hub/home")
    if cls in (errors.NotSignedIn, errors.MustChangePassword):
        assert page.status_code == 302
    else:
        assert page.status_code == STATUS[cls]
        assert error.sentence in html.unescape(page.text)
        assert title_of(page.status_code) in page.text
    assert "EVIDENCE" not in page.text
    answer = await browser.get("/hub/home", {"Accept": "application/json"})
    assert answer.json() == {"status": STATUS[cls], "message": error.sentence}
    assert ("retry-after" in answer.headers) == (STATUS[cls] in (429, 503))


@pytest.mark.parametrize("path", ["/", "/hub", "/hub/", "/hub/home"])
async def test_first_addresses_lead_to_the_login(path: str, stranger: Browser) -> None:
    page, _ = await stranger.follow(path)
    assert page.status_code == 200
    assert "Sign in" in page.text


@pytest.mark.parametrize("path", [
    "/nothing", "/hub/nothing", "/hub/login/", "/hub/static/x/../../app.py", "/hub/static/0/app.py", "/hub/static/",
    "/hub/static/0/%2e%2e%2fapp.py", "/hub/a%0ab", "/a%00b", "/%ff", "/.git/config", "/hub/home%20", "/hub/Home"])
async def test_unknown_addresses_are_404_pages(path: str, stranger: Browser) -> None:
    response = await stranger.get(path)
    assert response.status_code == 404
    assert "Nothing here" in response.text
    assert not response.headers.get_list("set-cookie")


async def test_unknown_address_for_a_script_is_json(stranger: Browser) -> None:
    response = await stranger.get("/hub/nothing", {"Accept": "application/json"})
    assert response.json()["status"] == 404


async def test_wrong_method_is_a_page(browser: Browser) -> None:
    response = await browser.client.put("/hub/home", headers=NAVIGATION)
    assert response.status_code in (404, 405)
    assert response.text.startswith("<!doctype")


@pytest.mark.parametrize("headers", [NAVIGATION, {"Accept": "application/json"}], ids=["page", "json"])
async def test_unexpected_error_has_a_number_that_is_in_the_log(
    headers: dict[str, str], hub: FakeHub, browser: Browser, caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> list[ApplianceError]:
        raise RuntimeError("a secret from deep inside")

    hub.problems = fail  # type: ignore[method-assign]
    with caplog.at_level(logging.ERROR):
        response = await browser.get("/hub/home?token=secret", headers)
    assert response.status_code == 500
    assert "deep inside" not in response.text
    number = re.search(r"<code>(\w{8})</code>|\"error_id\":\"(\w{8})\"", response.text)
    assert number
    assert (number[1] or number[2]) in caplog.text
    assert "token=secret" not in caplog.text
    assert response.headers["content-security-policy"]


async def test_health_tells_programs(hub: FakeHub, stranger: Browser) -> None:
    assert (await stranger.get("/hub/health", SCRIPT)).json() == {
        "status": "ok", "version": hub.version, "ready": True, "problems": []}
    hub.trouble = [errors.EngineDown(evidence="secret")]
    response = await stranger.get("/hub/health", SCRIPT)
    assert response.json()["problems"] == ["engine-down"]
    assert "secret" not in response.text


# -- files -------------------------------------------------------------------------------------------------------------
async def test_files_are_kept_for_ever_by_their_hash(hub: FakeHub, stranger: Browser) -> None:
    page = await stranger.get("/hub/login")
    links = re.findall(r'(?:href|src)="(/hub/static/[^"]+)"', page.text)
    assert len(set(links)) == 2
    for link in links:
        response = await stranger.get(link)
        assert response.status_code == 200
        assert "immutable" in response.headers["cache-control"]
    old = await stranger.get("/hub/static/0000000000000000/style.css")
    assert old.headers["cache-control"] == "no-cache"
    assert old.headers["content-type"].startswith("text/css")
    assert (await stranger.get("/hub/logo")).headers["content-type"].startswith("image/svg+xml")
    assert "Disallow: /" in (await stranger.get("/robots.txt")).text


@pytest.mark.parametrize("name", ["progress.js", "style.css"])
def test_files_reach_for_nothing_outside(name: str) -> None:
    text = static.files()[name].content.decode()
    assert "http" not in text
    assert "url(" not in text
    assert "innerHTML" not in text
    assert "eval(" not in text


async def test_app_is_made_of_a_hub_alone() -> None:
    assert create_app(FakeHub())  # type: ignore[arg-type]
