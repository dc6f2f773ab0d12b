"""`next=` never leads away from the box."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

import pytest

from appliance.domain.user import User

from .browser import ORIGIN, Browser
from .fakes import FakeHub

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

DISGUISES = [
    "https://evil.test", "https://evil.test/", "http:evil.test", "https:/evil.test", "HTTPS://EVIL.TEST", "//evil.test",
    "///evil.test", "////evil.test", "/\\evil.test", "\\\\evil.test", "\\/evil.test", "/\t/evil.test", "\t//evil.test",
    "/\n/evil.test", "\r\n//evil.test", " //evil.test", "/ /evil.test", "\x00//evil.test", "/%2fevil.test",
    "/%2Fevil.test", "/%5cevil.test", "/%5Cevil.test", "/%252fevil.test", "/%09/evil.test", "/%0a/evil.test",
    "/%0d%0aLocation:%20https://evil.test", "javascript:alert(1)", "data:text/html,x", "vbscript:x", "evil.test",
    "@evil.test", ":80", "?next=//evil.test", "#//evil.test", ".//evil.test", "/.//evil.test", "/..//evil.test",
    "/hub/..//evil.test", "/hub/%2e%2e//evil.test", "/user/alice/..%2f..%2f/evil.test", "/hub//evil.test",
    "/\u2028/evil.test\\", "/;@evil.test//", "//evil.test@box.test", "http://box.test@evil.test", "x" * 5000,
    "/" + "x" * 5000, "//[::1]/", "/\u2215\\evil.test", "http://box.test.evil.test",
]


def stays(location: str) -> bool:
    return urlsplit(urljoin(f"{ORIGIN}/hub/login", location.replace("\\", "/"))).netloc == "box.test"


def test_there_are_enough_of_them() -> None:
    assert len(set(DISGUISES)) >= 30


@pytest.mark.parametrize("target", DISGUISES)
async def test_login_does_not_lead_away(target: str, hub: FakeHub, stranger: Browser, alice: User) -> None:
    page = await stranger.client.get("/hub/login", params={"next": target})
    assert page.status_code == 200
    assert "evil" not in page.text
    response = await stranger.client.post(
        "/hub/login", params={"next": target},
        data={"username": "alice", "password": "alice-password", "_xsrf": stranger.xsrf})
    assert response.headers["location"] == "/hub/home"


@pytest.mark.parametrize("path", [
    "/hub/login", "/hub/spawn", "/hub/spawn-pending/alice", "/hub/enter", "/hub/change-password", "/hub/logout"])
@pytest.mark.parametrize("target", DISGUISES)
async def test_no_page_leads_away(path: str, target: str, hub: FakeHub, browser: Browser, alice: User) -> None:
    hub.servers.ready(alice)
    response = await browser.client.get(path, params={"next": target}, headers={"Accept": "text/html"})
    assert response.status_code in (200, 302)
    assert stays(response.headers.get("location", "/"))
    assert "evil" not in response.text


@pytest.mark.parametrize("path", ["/hub/change-password", "/hub/spawn", "/hub/logout"])
@pytest.mark.parametrize("target", DISGUISES[:30])
async def test_no_form_leads_away(path: str, target: str, hub: FakeHub, browser: Browser, alice: User) -> None:
    response = await browser.client.post(path, params={"next": target}, data={
        "_xsrf": browser.xsrf, "old": "alice-password", "new": "long enough", "again": "long enough"})
    assert response.is_redirect
    assert stays(response.headers["location"])
    assert "evil" not in response.headers["location"]


@pytest.mark.parametrize("target", DISGUISES[:30])
async def test_admins_form_leads_back_to_the_list_only(target: str, desk: Browser, alice: User) -> None:
    response = await desk.client.post("/hub/admin/stop", params={"next": target},
                                      data={"_xsrf": desk.xsrf, "user": "alice"})
    assert response.headers["location"] == "/hub/admin"


@pytest.mark.parametrize("rest", ["/evil.test", "%2fevil.test", "\\evil.test", "..//evil.test", "%2e%2e/%2e%2e/hub/home"])
async def test_user_redirect_stays_on_ones_own_server(rest: str, browser: Browser) -> None:
    response = await browser.client.get(f"/hub/user-redirect/{rest}", headers={"Accept": "text/html"})
    if response.is_redirect:
        assert response.headers["location"].startswith("/user/alice/")
    else:
        assert response.status_code in (400, 404)
