"""What the proxy did not route under /user/: never 200, never a loop, never a word to a stranger."""

from __future__ import annotations

from urllib.parse import quote, unquote

import anyio
import httpx
import pytest

from appliance.domain.capability import Capability, cookie_name
from appliance.domain.server import Phase, Server, Wanted
from appliance.domain.user import Session, User
from appliance.errors import OutOfMemory

from .browser import NAVIGATION, ORIGIN, SCRIPT, Browser
from .fakes import KEY, FakeHub

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


def give(browser: Browser, session: Session, server: Server, start_no: int | None = None, path: str = "") -> None:
    """Put a capability into the browser."""
    value = Capability(session.id, server.id, start_no or server.start_no).value(KEY)
    prefix = path or browser.hub.urls.server(server.user_name, server.name)
    browser.client.cookies.set(cookie_name(server.id), value, "box.test", prefix)


@pytest.fixture
def session(hub: FakeHub, alice: User) -> Session:
    return hub.sessions.open(alice)


# -- without a capability ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", ["/user/alice/", "/user/alice/lab", "/user/nobody/x?y=%2F&z=a+b", "/user/alice/a%20b"])
async def test_navigation_goes_by_the_hub(path: str, stranger: Browser, alice: User) -> None:
    response = await stranger.get(path)
    assert response.status_code == 302
    location = httpx.URL(response.headers["location"])
    assert location.path == "/hub/enter"
    assert location.params["next"] == path
    assert not response.headers.get_list("set-cookie")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_scripts_are_refused(method: str, stranger: Browser, alice: User) -> None:
    response = await stranger.client.request(method, "/user/alice/api/contents", headers=SCRIPT)
    assert response.status_code == 403
    assert response.json() == {"status": 403, "message": "Please sign in first."}
    assert not response.headers.get_list("set-cookie")


async def test_forms_are_refused_too(stranger: Browser, alice: User) -> None:
    response = await stranger.client.post("/user/alice/x", headers=NAVIGATION)
    assert response.status_code == 403


@pytest.mark.parametrize("origin", ["https://evil.test", "null", "http://box.test:81", ""])
async def test_foreign_origin_is_refused_and_never_redirected(
    origin: str, hub: FakeHub, stranger: Browser, session: Session, alice: User,
) -> None:
    give(stranger, session, hub.servers.ready(alice))
    for headers in (NAVIGATION, SCRIPT):
        response = await stranger.get("/user/alice/lab", headers | {"Origin": origin})
        assert response.status_code == 403
        assert "Another site" in response.text
        assert not response.headers.get_list("set-cookie")


@pytest.mark.parametrize(("sent", "canonical"), [
    ("/user/alice", "/user/alice/"), ("/user/alice?x=1", "/user/alice/?x=1"), ("/user/ALICE/a?b", "/user/alice/a?b"),
    ("/user/%61lice/%61?%61", "/user/alice/%61?%61"), ("/user/a%40b.c/x", "/user/a@b.c/x"),
    ("/user/jos%c3%a9/", "/user/jos%C3%A9/"), ("/user/jose%CC%81/", "/user/jos%C3%A9/"),
    ("/user/%EF%BD%81lice/", "/user/alice/"), ("/user/a%2Db/", "/user/a-b/")])
async def test_other_spellings_lead_to_the_canonical_one(sent: str, canonical: str, stranger: Browser) -> None:
    response = await stranger.get(sent)
    assert response.status_code == 301
    assert response.headers["location"] == canonical
    assert (await stranger.get(canonical)).status_code == 302
    assert (await stranger.client.post(sent, headers=SCRIPT)).status_code == 308


@pytest.mark.parametrize("path", [
    "/user/", "/user//alice/", "/user/../hub/home", "/user/%2e%2e/hub", "/user/./alice", "/user/alice/../bob/",
    "/user/alice/%2e%2e/bob", "/user/alice//x", "/user/alice/\\x", "/user/alice/%5cx", "/user/alice%2fx/",
    "/user/alice/a%2Fb", "/user/a%00b/", "/user/a%0ab/", "/user/alice/%0a", "/user/%ff/", "/user/" + "x" * 300 + "/",
    "/user/a`b/", "/user/a%60b/", "/user/a b/", "/user/%3Cscript%3E/", "/user/alice;x/", "/user/%D0%B0lice/",
    "/user/-alice/", "/user/.alice/", "/user/%E2%80%AEecila/", "/user", "/user/alice/%2E/x", "/user/alice/..;/x",
    "/user/alice/%2e.%3Bx/y", "/user/alice/x/.."])
async def test_tricks_with_paths_lead_nowhere(path: str, app: object, alice: User) -> None:
    """Spoken to the application directly: an HTTP client would tidy these up."""
    status, headers, body = await raw(app, path)
    assert status in (400, 404)
    assert b"x" * 100 not in body
    assert b"<script>" not in body
    assert "set-cookie" not in headers


async def raw(app: object, path: str, **more: object) -> tuple[int, dict[str, str], bytes]:
    path, _, query = path.partition("?")
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": unquote(path), "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
        "headers": [(b"host", b"box.test"), (b"accept", b"text/html")], "client": ("192.0.2.9", 1),
        "server": ("box.test", 80), **more,
    }
    sent: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    await app(scope, receive, send)  # type: ignore[operator]
    headers = {key.decode(): value.decode() for key, value in sent[0].get("headers", [])}  # type: ignore[attr-defined]
    return sent[0].get("status", 0), headers, b"".join(m.get("body", b"") for m in sent)  # type: ignore


async def test_bytes_that_are_no_address(app: object) -> None:
    status, _, _ = await raw(app, "/user/alice/lab", raw_path=b"/user/alice/\xff")
    assert status == 400


# -- with one ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_open_tab_recovers_after_a_restart(
    method: str, hub: FakeHub, stranger: Browser, session: Session, alice: User,
) -> None:
    hub.servers.ready(alice)
    give(stranger, session, hub.servers.ready(alice), start_no=1)
    response = await stranger.client.request(method, "/user/alice/api/x?y=%2F", headers=SCRIPT)
    assert response.status_code == 307
    assert response.headers["location"] == "/user/alice/api/x?y=%2F"
    cookie = response.headers.get_list("set-cookie")[0]
    assert ".2.owner." in cookie
    assert "Path=/user/alice/" in cookie


async def test_current_capability_is_retried_once_then_gets_a_page(
    hub: FakeHub, stranger: Browser, session: Session, alice: User,
) -> None:
    give(stranger, session, hub.servers.ready(alice))
    page, way = await stranger.follow("/user/alice/lab?x=1")
    assert way == ["/user/alice/lab?x=1"] * 2
    assert page.status_code == 503
    assert page.headers["retry-after"]
    assert "Try again" in page.text
    # later it may be tried once more
    assert (await stranger.get("/user/alice/lab?x=1")).status_code == 307


async def test_several_requests_of_a_tab_are_each_retried(
    hub: FakeHub, stranger: Browser, session: Session, alice: User,
) -> None:
    give(stranger, session, hub.servers.ready(alice))
    for path in ("/user/alice/api/a", "/user/alice/api/b", "/user/alice/api/c"):
        assert (await stranger.get(path, SCRIPT)).status_code == 307


@pytest.mark.parametrize(("phase", "wanted", "status"), [
    (Phase.STOPPED, Wanted.STOPPED, 424), (Phase.FAILED, Wanted.RUNNING, 424), (Phase.STOPPING, Wanted.STOPPED, 424),
    (Phase.QUEUED, Wanted.RUNNING, 503), (Phase.STARTING, Wanted.RUNNING, 503), (Phase.BOOTING, Wanted.RUNNING, 503),
    (Phase.STOPPING, Wanted.RUNNING, 503)])
async def test_tab_of_a_server_that_is_not_ready(
    phase: Phase, wanted: Wanted, status: int, hub: FakeHub, stranger: Browser, session: Session, alice: User,
) -> None:
    server = hub.servers.put(alice, phase=phase, wanted=wanted, start_no=1)
    give(stranger, session, server)
    response = await stranger.get("/user/alice/api/status", SCRIPT)
    assert response.status_code == status
    assert response.json()["message"]
    assert ("retry-after" in response.headers) == (status == 503)
    response = await stranger.get("/user/alice/lab")
    assert response.headers["location"] == "/hub/enter?next=/user/alice/lab"


@pytest.mark.parametrize("change", ["signed out", "forged", "another server's", "too long", "empty"])
async def test_capability_that_does_not_hold_is_none(
    change: str, hub: FakeHub, stranger: Browser, session: Session, alice: User, bob: User,
) -> None:
    server, bobs = hub.servers.ready(alice), hub.servers.ready(bob)
    give(stranger, session, server)
    if change == "signed out":
        await hub.sessions.sign_out(session)
    elif change == "another server's":
        stranger.client.cookies.clear()
        give(stranger, session, bobs, path="/user/")
    else:
        value = {"forged": f"{session.id}.1.owner.{'A' * 43}", "too long": "x" * 5000, "empty": ""}[change]
        stranger.client.cookies.set(cookie_name(server.id), value, "box.test", "/user/alice/")
    assert (await stranger.get("/user/alice/api", SCRIPT)).status_code == 403
    assert (await stranger.get("/user/alice/lab")).headers["location"].startswith("/hub/enter")


async def test_of_two_capabilities_the_one_that_holds_counts(
    hub: FakeHub, stranger: Browser, session: Session, alice: User,
) -> None:
    server = hub.servers.ready(alice)
    good = Capability(session.id, server.id, 1).value(KEY)
    name = cookie_name(server.id)
    for header in (f"{name}=tossed; {name}={good}", f"{name}={good}; {name}=tossed"):
        assert (await stranger.get("/user/alice/lab", NAVIGATION | {"Cookie": header})).status_code == 307


async def test_named_servers_capability_is_its_own(
    hub: FakeHub, stranger: Browser, session: Session, alice: User,
) -> None:
    hub.servers.ready(alice)
    second = hub.servers.ready(alice, "two")
    give(stranger, session, second, path="/user/alice/")
    assert (await stranger.get("/user/alice/two/lab")).status_code == 307
    assert (await stranger.get("/user/alice/lab")).status_code == 302
    assert (await stranger.get("/user/alice/twofold")).status_code == 302


async def test_nothing_under_user_is_ever_200(hub: FakeHub, browser: Browser, session: Session, alice: User) -> None:
    for phase in Phase:
        for wanted in Wanted:
            server = hub.servers.put(alice, phase=phase, wanted=wanted, start_no=1)
            for headers in (NAVIGATION, SCRIPT, {"Upgrade": "websocket", "Connection": "Upgrade"}):
                for method in ("GET", "HEAD", "OPTIONS", "POST", "DELETE", "TRACE", "X"):
                    for path in ("/user/alice/lab", "/user/alice/hub/static/0/style.css", "/user/alice/robots.txt"):
                        response = await browser.client.request(method, path, headers=headers)
                        assert response.status_code >= 300
            give(browser, session, server)


async def test_very_long_address_goes_to_the_servers_own_page(stranger: Browser, alice: User) -> None:
    response = await stranger.get("/user/alice/" + "x" * 6000)
    assert response.headers["location"] == "/hub/enter"


# -- websockets --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("extensions", [{}, {"websocket.http.response": {}}], ids=["close", "answer"])
async def test_websocket_is_never_accepted(
    extensions: dict[str, object], app: object, hub: FakeHub, session: Session, alice: User,
) -> None:
    server = hub.servers.put(alice, phase=Phase.STOPPED, start_no=1)
    cookie = f"{cookie_name(server.id)}={Capability(session.id, server.id, 1).value(KEY)}"
    headers = [(b"host", b"box.test"), (b"origin", ORIGIN.encode()), (b"cookie", cookie.encode()),
               (b"upgrade", b"websocket")]
    status, _, body = await raw(
        app, "/user/alice/api/kernels/x/channels", type="websocket", scheme="ws", headers=headers, extensions=extensions)
    if extensions:
        assert status == 424
        assert b"not running" in body
    else:
        assert status == 0
    headers[1] = (b"origin", b"https://evil.test")
    status, _, _ = await raw(app, "/user/alice/x", type="websocket", headers=headers, extensions=extensions)
    assert status in (403, 0)


# -- the proxy's error page -------------------------------------------------------------------------------------------
def dead(server: Server, url: str, status: int = 502) -> str:
    """What Traefik asks for when the server's address does not answer."""
    return f"/hub/error/{status}?server={server.id}&url={quote(url, safe='')}"


async def test_dead_server_says_why_and_keeps_the_deep_link(
    hub: FakeHub, stranger: Browser, session: Session, alice: User,
) -> None:
    server = hub.servers.ready(alice)
    give(stranger, session, server, path="/")

    async def learn() -> None:
        await anyio.sleep(0.1)
        hub.servers.fail(alice, OutOfMemory(evidence="log line"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(learn)
        page = await stranger.get(dead(server, "http://box.test/user/alice/lab?x=1"))
    assert page.status_code == 502
    assert OutOfMemory.sentence in page.text
    assert "log line" not in page.text
    assert 'href="/hub/spawn?next=/user/alice/lab%3Fx%3D1"' in page.text
    assert not page.headers.get_list("set-cookie")      # the Hub's own stay as they are
    answer = await stranger.get(dead(server, "http://box.test/user/alice/api"), SCRIPT)
    assert answer.json() == {"status": 502, "message": OutOfMemory.sentence}


async def test_busy_server_is_told_from_a_dead_one(
    hub: FakeHub, stranger: Browser, session: Session, alice: User,
) -> None:
    server = hub.servers.ready(alice)
    give(stranger, session, server, path="/")
    page = await stranger.get(dead(server, "http://box.test/user/alice/lab", 504))
    assert page.status_code == 504
    assert "may be very busy" in page.text
    assert 'href="/user/alice/lab"' in page.text


@pytest.mark.parametrize(("url", "target"), [
    ("http://box.test/second.html?a=b", "/user/alice/second.html%3Fa%3Db"), ("/", "/user/alice/"), ("", "/user/alice/"),
    ("https://evil.test/user/alice/x", "/user/alice/x"), ("https://evil.test//evil.test", "/user/alice/"),
    ("http://[", "/user/alice/"), ("http://box.test/user/bob/x", "/user/alice/user/bob/x"),
    ("javascript:alert(1)", "/user/alice/alert%281%29"), ("/" + "x" * 9000, "/user/alice/")])
async def test_start_button_leads_to_that_server_whatever_the_address(
    url: str, target: str, hub: FakeHub, stranger: Browser, session: Session, alice: User,
) -> None:
    """Of an image that knows nothing of its prefix, Traefik tells the path without it."""
    server = hub.servers.fail(alice, OutOfMemory())
    give(stranger, session, server, start_no=1, path="/")
    page = await stranger.get(dead(server, url))
    assert f'href="/hub/spawn?next={target}"' in page.text
    assert "evil" not in page.text


@pytest.mark.parametrize("url", ["", "/user/alice/lab", "https://evil.test/", "//evil.test/x", "http://[", "\"><script>"])
@pytest.mark.parametrize("other", [False, True])
async def test_error_page_tells_strangers_nothing(
    url: str, other: bool, hub: FakeHub, stranger: Browser, alice: User, bob: User,
) -> None:
    server = hub.servers.fail(alice, OutOfMemory())
    if other:
        give(stranger, hub.sessions.open(bob), hub.servers.ready(bob), path="/")
    page = await stranger.get(dead(server, url))
    assert page.status_code == 502
    assert OutOfMemory.sentence not in page.text
    assert "evil" not in page.text
    assert "<script>" not in page.text
    assert (await stranger.get("/hub/error/502")).status_code == 502


@pytest.mark.parametrize("status", ["200", "302", "404", "501", "0", "9" * 5000, "x", "-1", "%D9%A5%D9%A0%D9%A2"])
async def test_error_page_is_for_dead_servers_only(status: str, stranger: Browser) -> None:
    assert (await stranger.get(f"/hub/error/{status}")).status_code == 404
