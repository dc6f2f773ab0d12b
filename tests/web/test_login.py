"""Signing in and out, and what a stranger learns from it."""

from __future__ import annotations

import html

import httpx
import pytest

from appliance.domain.user import User
from appliance.errors import EngineDown, LoginRefused
from appliance.web import cookies

from .browser import NAVIGATION, Browser
from .fakes import FakeHub

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


async def log_in(browser: Browser, name: str = "alice") -> httpx.Response:
    await browser.get("/hub/login")
    return await browser.post("/hub/login", username=name, password=f"{name}-password")


async def test_script_signs_in_as_the_ecosystem_does(hub: FakeHub, stranger: Browser, alice: User) -> None:
    """No Origin, no Sec-Fetch headers, the token from the cookie, as JupyterHub's own clients do it."""
    await stranger.client.get("/hub/login")
    response = await stranger.client.post(
        "/hub/login", params={"next": ""},
        data={"username": "alice", "password": "alice-password", "_xsrf": stranger.client.cookies["_xsrf"]})
    assert response.status_code == 302
    assert response.headers["location"] == "/hub/spawn"
    assert (await stranger.client.get("/hub/home")).status_code == 200
    cookie = next(c for c in response.headers.get_list("set-cookie") if c.startswith(cookies.SESSION))
    assert "Path=/hub/" in cookie
    assert "HttpOnly" in cookie


async def test_signing_in_starts_the_server_at_once(hub: FakeHub, stranger: Browser, alice: User) -> None:
    await log_in(stranger)
    assert hub.servers.starts == [("alice", "", "alice")]


@pytest.mark.parametrize(("target", "started"), [
    ("/user/alice/lab/tree/x.ipynb?a=1", True), ("/hub/user-redirect/git-pull?repo=x", True),
    ("/hub/home", False), ("/user/alicebob/lab", False), ("/user/bob/", False)])
async def test_next_is_followed_and_its_server_started(
    target: str, started: bool, hub: FakeHub, stranger: Browser, alice: User,
) -> None:
    await stranger.get("/hub/login")
    response = await stranger.client.post(
        "/hub/login", params={"next": target},
        data={"username": "alice", "password": "alice-password", "_xsrf": stranger.xsrf})
    assert response.headers["location"] == target
    assert bool(hub.servers.starts) is started


async def test_engine_that_is_down_does_not_keep_anybody_from_signing_in(
    hub: FakeHub, stranger: Browser, alice: User,
) -> None:
    hub.servers.error = EngineDown()
    response = await log_in(stranger)
    assert response.status_code == 302
    page, _ = await stranger.follow("/hub/spawn")
    assert page.status_code == 503
    assert EngineDown.sentence in html.unescape(page.text)
    assert page.headers["retry-after"]


@pytest.mark.parametrize(("name", "password"), [
    ("alice", "wrong"), ("nobody", "wrong"), ("alice", ""), ("", ""), ("x" * 300, "x"), ("al\x00ice", "x"),
    ("alice\r\nX: y", "alice-password"), ("..", "x"), ("a/b", "x"), ("alice", "p" * 5000), ("\u202eecila", "x")])
async def test_refused_the_same_way_whichever_half_was_wrong(
    name: str, password: str, hub: FakeHub, stranger: Browser, alice: User,
) -> None:
    await stranger.get("/hub/login")
    response = await stranger.post("/hub/login", username=name, password=password)
    assert response.status_code == 403
    assert LoginRefused.sentence in response.text
    assert cookies.SESSION not in str(response.headers.get_list("set-cookie"))
    assert len(name) < 65 or name not in response.text
    if password:
        assert f'"{password}"' not in response.text


async def test_throttled_login_says_when_to_come_back(hub: FakeHub, stranger: Browser, alice: User) -> None:
    hub.accounts.throttled = True
    await stranger.get("/hub/login")
    response = await stranger.post("/hub/login", username="alice", password="x")
    assert response.status_code == 429
    assert response.headers["retry-after"] == "17"
    assert "17 seconds" in response.text


@pytest.mark.parametrize("token", ["", "x", "nonce." + "A" * 43])
async def test_login_form_needs_its_token(token: str, hub: FakeHub, stranger: Browser, alice: User) -> None:
    stranger.client.cookies.set("_xsrf", token, "box.test", "/hub/")
    response = await stranger.client.post(
        "/hub/login", data={"username": "alice", "password": "alice-password", "_xsrf": token}, headers=NAVIGATION)
    assert response.status_code == 403
    assert "open for too long" in response.text
    assert 'name="password"' in response.text     # and can be sent again at once
    assert not hub.accounts.requests


async def test_login_from_another_site_is_refused(hub: FakeHub, stranger: Browser, alice: User) -> None:
    await stranger.get("/hub/login")
    response = await stranger.client.post(
        "/hub/login", headers={"Origin": "https://evil.test"},
        data={"username": "alice", "password": "alice-password", "_xsrf": stranger.xsrf})
    assert response.status_code == 403
    assert not hub.accounts.requests


async def test_name_is_shown_again_escaped(stranger: Browser) -> None:
    await stranger.get("/hub/login")
    response = await stranger.post("/hub/login", username='"><script>alert(1)</script>', password="x")
    assert "<script>" not in response.text
    assert "&lt;script&gt;" in response.text


async def test_next_is_escaped_in_the_form(stranger: Browser) -> None:
    response = await stranger.client.get("/hub/login", params={"next": '/hub/home?"><script>x'})
    assert "<script>" not in response.text


async def test_token_of_the_login_page_ends_with_the_login(hub: FakeHub, stranger: Browser, alice: User) -> None:
    await stranger.get("/hub/login")
    before = stranger.xsrf
    await log_in(stranger)
    assert stranger.xsrf != before


async def test_somebody_else_signing_in_ends_the_session_before(
    hub: FakeHub, browser: Browser, alice: User, bob: User,
) -> None:
    assert await hub.sessions.list(alice)
    await browser.post("/hub/login", username="bob", password="bob-password")
    assert not await hub.sessions.list(alice)
    assert len(await hub.sessions.list(bob)) == 1


async def test_who_is_signed_in_needs_no_login_page(browser: Browser) -> None:
    assert (await browser.get("/hub/login")).headers["location"] == "/hub/home"
    assert (await browser.get("/hub/login?next=/user/alice/lab")).headers["location"] == "/user/alice/lab"
    assert (await browser.get("/hub/")).headers["location"] == "/hub/home"


# -- out ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("site", ["same-origin", "none", None])
async def test_link_inside_lab_signs_out(site: str | None, hub: FakeHub, browser: Browser, alice: User) -> None:
    server = hub.servers.ready(alice)
    headers = {"Accept": "text/html", "Sec-Fetch-Site": site} if site else {"Accept": "text/html"}
    response = await browser.get("/hub/logout", headers)
    assert response.headers["location"] == "/hub/login?signed_out=1"
    assert not hub.sessions.live
    gone = response.headers.get_list("set-cookie")
    assert any(c.startswith(f"appliance-server-{server.id}=") and "Path=/user/alice/" in c and "Max-Age=0" in c
               for c in gone)
    assert any(c.startswith(cookies.SESSION) and "Max-Age=0" in c for c in gone)
    assert "You are signed out" in (await browser.get("/hub/login?signed_out=1")).text


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_link_on_another_site_only_asks(site: str, hub: FakeHub, browser: Browser) -> None:
    response = await browser.get("/hub/logout", NAVIGATION | {"Sec-Fetch-Site": site})
    assert response.status_code == 200
    assert "Sign out?" in response.text
    assert hub.sessions.live
    assert (await browser.post("/hub/logout")).status_code == 302
    assert not hub.sessions.live


async def test_signing_out_when_signed_out_is_no_error(stranger: Browser) -> None:
    response, _ = await stranger.follow("/hub/logout")
    assert response.status_code == 200


# -- passwords ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", ["/hub/home", "/hub/spawn", "/hub/admin", "/hub/spawn-pending/eve"])
async def test_password_of_ones_own_comes_before_everything(path: str, hub: FakeHub, stranger: Browser) -> None:
    hub.accounts.add("eve", must_change_password=True)
    response = await log_in(stranger, "eve")
    assert response.headers["location"] == "/hub/change-password"
    assert not hub.servers.starts
    page, way = await stranger.follow(path)
    assert "Choose a password of your own" in page.text
    assert way[-1] == f"/hub/change-password?next={path}"
    assert (await stranger.get("/hub/api/user")).status_code == 403
    response = await stranger.post(
        f"/hub/change-password?next={path}", old="eve-password", new="long enough", again="long enough")
    assert response.headers["location"] == path


async def test_entering_waits_for_the_password_too(hub: FakeHub, stranger: Browser) -> None:
    hub.servers.ready(hub.accounts.add("eve", must_change_password=True))
    await log_in(stranger, "eve")
    response = await stranger.get("/hub/enter?next=/user/eve/lab")
    assert response.headers["location"].startswith("/hub/change-password?next=")


@pytest.mark.parametrize(("fields", "status", "said"), [
    (("wrong", "long enough", "long enough"), 403, "old password is not right"),
    (("alice-password", "long enough", "another one"), 400, "not the same"),
    (("alice-password", "short", "short"), 400, "at least 8"),
    (("alice-password", "x" * 5000, "x" * 5000), 400, "at most 4096")])
async def test_refused_password_is_explained(
    fields: tuple[str, str, str], status: int, said: str, browser: Browser,
) -> None:
    old, new, again = fields
    response = await browser.post("/hub/change-password", old=old, new=new, again=again)
    assert response.status_code == status
    assert said in response.text
    assert new not in response.text


async def test_accounts_kept_elsewhere_have_no_password_page(hub: FakeHub, browser: Browser) -> None:
    hub.accounts.manages_passwords = False
    assert (await browser.get("/hub/change-password")).status_code == 404
    assert (await browser.post("/hub/change-password")).status_code == 404
    assert "change-password" not in (await browser.get("/hub/home")).text


# -- sessions ----------------------------------------------------------------------------------------------------------
async def test_another_session_is_ended_from_home(hub: FakeHub, browser: Browser, alice: User, bob: User) -> None:
    other, bobs = hub.sessions.open(alice, user_agent="Mozilla/5.0 (Windows) Firefox/130.0"), hub.sessions.open(bob)
    page = await browser.get("/hub/home")
    assert "Firefox on Windows" in page.text
    assert bobs.id not in page.text
    await browser.post("/hub/sessions/revoke", session=other.id)
    await browser.post("/hub/sessions/revoke", session=bobs.id)
    assert other.id not in hub.sessions.live
    assert bobs.id in hub.sessions.live
    await browser.post("/hub/sessions/revoke-all")
    assert not await hub.sessions.list(alice)
    assert (await browser.get("/hub/home")).headers["location"] == "/hub/login?next=/hub/home"


