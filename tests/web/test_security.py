"""What holds for every address in the table: XSRF, origin, headers, rights."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.domain.user import User
from appliance.errors import BadXsrf, ForeignOrigin
from appliance.web import app as table
from appliance.web import cookies, security
from appliance.web.api.table import OPERATIONS
from appliance.web.routing import Access, Entry

from .browser import NAVIGATION, ORIGIN, Browser
from .fakes import FakeHub

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


def each_operation(entry: Entry) -> list[Entry]:
    """An address of the REST API takes whatever its operations do; they check for themselves, as all others are checked."""
    if entry.methods:
        return [entry]
    return [replace(entry, methods=(operation.method,), checks_itself=operation.anyone) for operation in OPERATIONS
            if entry.path == (f"hub/api/{operation.path.lstrip('/')}" if operation.path else "hub/api")]


ENTRIES = [each for entry in table.PAGES + table.API + table.INTERNAL + table.LAST for each in each_operation(entry)]
MUTATIONS = [entry for entry in ENTRIES if not security.SAFE_METHODS.issuperset(entry.methods)]
PROTECTED = [entry for entry in MUTATIONS if not entry.checks_itself]


def address(entry: Entry, who: str = "alice") -> str:
    values = {"user": who, "name": who, "owner": who, "server": "two", "status": "502", "path": "x", "digest": "0",
              "server_id": "q", "group": "7b", "service": "grades", "token_id": "a1", "token": "t", "cookie": "c", "value": "v"}
    return "/" + re.sub(r"{(\w+)(:\w+)?}", lambda match: values[match[1]], entry.path)


def named(entry: Entry) -> str:
    return f"{entry.methods[0]} {entry.path}"


def test_only_these_check_for_themselves() -> None:
    """Each of these either shows its own form again or changes nothing; another one needs a reason and a test."""
    assert {entry.path for entry in MUTATIONS if entry.checks_itself} == {
        "hub/login", "hub/error/{status}", "hub/api/internal/authorize/{server_id}", "hub/api/{path:path}",
        "user/{path:path}", "services/{path:path}", "hub/error/service/{name}/{status}", "{path:path}",
        "hub/security/csp-report",
        "hub/api/oauth2/token", "hub/api/authorizations/token"}     # the first takes a client's secret, the other is gone
    assert len(PROTECTED) > 10


@pytest.mark.parametrize("entry", PROTECTED, ids=named)
@pytest.mark.parametrize("token", ["", "x", "foreign", "anonymous", "unsigned"])
async def test_mutation_needs_the_sessions_own_token(
    entry: Entry, token: str, hub: FakeHub, browser: Browser, desk: Browser,
) -> None:
    visitor = desk if entry.access is Access.ADMIN else browser
    other = hub.sessions.open(hub.accounts.add("mallory"))
    sent = {
        "foreign": security.make_xsrf(hub.key("xsrf"), other.id),
        "anonymous": security.make_xsrf(hub.key("xsrf"), ""),
        "unsigned": "nonce." + "A" * 43,
    }.get(token, token)
    # tossed on us together with the form, as a page on the same host can do
    visitor.client.cookies.set("_xsrf", sent, "box.test", "/hub/login")
    visitor.client.cookies.set("_xsrf", sent, "box.test", "/hub")
    response = await visitor.client.request(
        entry.methods[0], address(entry), data={"_xsrf": sent} if sent else {}, headers={"Origin": ORIGIN})
    assert response.status_code == 403
    assert BadXsrf.sentence in response.text
    assert not hub.servers.starts
    assert not hub.servers.stops


@pytest.mark.parametrize("entry", PROTECTED, ids=named)
@pytest.mark.parametrize("headers", [
    {"Origin": "https://evil.test"}, {"Origin": "null"}, {"Origin": "http://box.test.evil.test"},
    {"Origin": "http://box.test:81"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": ORIGIN, "Sec-Fetch-Site": "same-site"},
], ids=str)
async def test_mutation_refuses_foreign_pages(
    entry: Entry, headers: dict[str, str], hub: FakeHub, browser: Browser, desk: Browser,
) -> None:
    visitor = desk if entry.access is Access.ADMIN else browser
    response = await visitor.client.request(
        entry.methods[0], address(entry), data={"_xsrf": visitor.xsrf}, headers=headers)
    assert response.status_code == 403
    assert ForeignOrigin.sentence in response.text
    assert not hub.servers.starts


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.access in (Access.SIGNED_IN, Access.FIRST_STEPS, Access.ADMIN)],
                         ids=named)
async def test_nobody_gets_in_without_a_session(entry: Entry, stranger: Browser, hub: FakeHub, alice: User) -> None:
    response = await stranger.client.request(entry.methods[0], address(entry), headers=NAVIGATION)
    assert response.status_code == 403 or response.headers["location"].startswith("/hub/login?next=/hub/")
    assert not hub.servers.starts


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if entry.access is Access.ADMIN], ids=named)
async def test_students_are_no_admins(entry: Entry, browser: Browser) -> None:
    response = await browser.client.request(entry.methods[0], address(entry), data={"_xsrf": browser.xsrf})
    assert response.status_code == 403
    assert "teachers and admins" in response.text


@pytest.mark.parametrize("entry", ENTRIES, ids=named)
async def test_every_answer_carries_the_headers(entry: Entry, desk: Browser, hub: FakeHub) -> None:
    hub.servers.ready(hub.accounts.users["teacher"])
    response = await desk.client.request(entry.methods[0], address(entry, "teacher"), headers=NAVIGATION)
    policy = response.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "default-src 'none'" in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "same-origin"
    assert response.headers["cross-origin-opener-policy"] == "same-origin"
    assert response.headers["x-jupyterhub-version"] == "6.1.1"
    if "static" not in entry.path and "logo" not in entry.path:
        assert response.headers["cache-control"] == "no-store"
    assert not re.search(r"<style|<script(?![^>]*src=)|\sstyle=|\son\w+=|javascript:", response.text)
    for cookie in response.headers.get_list("set-cookie"):
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert "Path=/;" not in cookie or cookie.startswith("jupyterhub-session-id=")     # it opens nothing


@pytest.mark.parametrize("entry", ENTRIES, ids=named)
async def test_every_page_is_usable_by_everybody(entry: Entry, desk: Browser, hub: FakeHub) -> None:
    """Language, title, one main heading, and a label for each field: the least a screen reader needs."""
    if "GET" not in entry.methods:
        return
    text = (await desk.get(address(entry, "teacher"))).text
    if not text.startswith("<!doctype"):
        return
    assert '<html lang="en">' in text
    assert re.search(r"<title>\S", text)
    assert text.count("<h1>") == 1
    for field in re.findall(r"<input[^>]*\bid=\"(\w+)\"", text):
        assert f'for="{field}"' in text
    for image in re.findall(r"<img[^>]*>", text):
        assert "alt=" in image


def test_all_values_of_a_cookie_are_read() -> None:
    assert cookies.parse(["a=1; b=2;a=3 ", "a=4; =x; c"]) == {"a": ["1", "3", "4"], "b": ["2"], "": ["x"]}


@pytest.mark.parametrize("order", ["{own}; {tossed}", "{tossed}; {own}"])
async def test_of_two_session_cookies_the_one_that_verifies_counts(
    order: str, hub: FakeHub, stranger: Browser, alice: User,
) -> None:
    token = hub.sessions.token_of(hub.sessions.open(alice))
    header = order.format(own=f"{cookies.SESSION}={token}", tossed=f"{cookies.SESSION}=forged.by.page")
    response = await stranger.get("/hub/home", NAVIGATION | {"Cookie": header})
    assert response.status_code == 200
    assert "Hello, alice" in response.text


async def test_where_two_people_are_signed_in_nobody_is(hub: FakeHub, stranger: Browser, alice: User) -> None:
    tokens = [hub.sessions.token_of(hub.sessions.open(user)) for user in (alice, hub.accounts.add("mallory"))]
    header = "; ".join(f"{cookies.SESSION}-{number}={token}" for number, token in enumerate(tokens))
    response = await stranger.get("/hub/home", NAVIGATION | {"Cookie": header})
    assert response.headers["location"].startswith("/hub/login")


def test_a_sessions_cookie_has_a_name_of_its_own() -> None:
    names = {cookies.session_name(b"k" * 32, session_id) for session_id in ("one", "two")}
    assert len(names) == 2
    assert cookies.session_names({name: [""] for name in (*names, "_xsrf", "jupyterhub-hub-loginx")}) == list(names)


async def test_tossed_xsrf_cookie_does_not_lock_the_owner_out(browser: Browser, hub: FakeHub) -> None:
    token = browser.xsrf
    browser.client.cookies.set("_xsrf", "tossed", "box.test", "/")
    headers = {"Origin": ORIGIN}
    response = await browser.client.post("/hub/stop/alice", data={"_xsrf": token}, headers=headers)
    assert response.status_code == 303


@pytest.mark.parametrize("secret", ["", "wrong", "proxy-secreT"])
async def test_forwarded_headers_count_only_from_our_proxy(secret: str, hub: FakeHub, stranger: Browser) -> None:
    hub.accounts.add("alice")
    await stranger.get("/hub/login")
    forwarded = {"X-Forwarded-For": "198.51.100.66", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.test"}
    headers = {"X-Appliance-Proxy": secret, **forwarded}
    data = {"username": "alice", "password": "alice-password", "_xsrf": stranger.xsrf}
    response = await stranger.client.post("/hub/login", data=data, headers=headers)
    assert response.status_code == 302
    assert hub.accounts.requests[-1].address == "192.0.2.9"
    assert hub.accounts.origins == [ORIGIN]
    assert "Secure" not in response.headers["set-cookie"]


async def test_behind_tls_every_cookie_is_secure(hub: FakeHub, stranger: Browser) -> None:
    hub.accounts.add("alice")
    headers = {"X-Appliance-Proxy": hub.proxy_secret, "X-Forwarded-Proto": "https", "X-Forwarded-For": "invented, 198.51.100.6"}
    page = await stranger.client.get("/hub/login", headers=headers)
    token = re.search(r'name="_xsrf" value="([^"]+)"', page.text)
    assert token
    response = await stranger.client.post(
        "/hub/login", data={"username": "alice", "password": "alice-password", "_xsrf": token[1]},
        headers=headers | {"Origin": "https://box.test", "Cookie": f"_xsrf={token[1]}"})
    assert response.status_code == 302
    assert hub.accounts.origins == ["https://box.test"]
    assert hub.accounts.requests[-1].address == "198.51.100.6"
    assert "x-appliance-proxy" not in hub.accounts.requests[-1].headers
    assert all("Secure" in cookie for cookie in response.headers.get_list("set-cookie"))


async def test_tls_that_ends_before_our_proxy_is_told_by_the_public_url(hub: FakeHub, stranger: Browser) -> None:
    hub.public_url = "https://box.test"
    response = await stranger.get("/hub/login")
    assert "Secure" in response.headers["set-cookie"]


def test_no_template_switches_escaping_off() -> None:
    templates = list((Path(table.__file__).parent / "templates").iterdir())
    assert len(templates) > 8
    for template in templates:
        assert not re.search(r"\|\s*safe|autoescape|Markup", template.read_text())


async def test_body_larger_than_a_form_is_refused(browser: Browser, hub: FakeHub) -> None:
    response = await browser.post("/hub/change-password", old="x" * 70000)
    assert response.status_code == 413
    assert "larger than this page accepts" in response.text

    async def endless():  # type: ignore[no-untyped-def]
        for _ in range(100):
            yield b"x" * 1024
    response = await browser.client.post(
        "/hub/change-password", content=endless(), headers=NAVIGATION | {
            "Content-Type": "application/x-www-form-urlencoded", "Origin": ORIGIN})
    assert response.status_code == 413


async def test_form_with_a_file_is_refused(browser: Browser) -> None:
    response = await browser.client.post(
        "/hub/change-password", files={"old": b"x"}, headers=NAVIGATION | {"Origin": ORIGIN})
    assert response.status_code == 400
