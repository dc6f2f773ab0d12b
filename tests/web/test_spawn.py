"""From a click to one's own server: progress, entering, failing, and starting again."""

from __future__ import annotations

import html

import anyio
import pytest

from appliance.domain import capability
from appliance.domain.server import Phase, Wanted
from appliance.domain.user import User
from appliance.errors import EngineDown, ImageMissing, NoAddress, OutOfMemory
from appliance.web import cookies

from .browser import NAVIGATION, Browser
from .fakes import KEY, FakeHub

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

DEEP = "/user/alice/lab/tree/a%20b.ipynb?reset&x=%2F%3F#"


async def test_student_gets_from_spawn_to_lab(hub: FakeHub, browser: Browser, alice: User) -> None:
    page, way = await browser.follow("/hub/spawn")
    assert way == ["/hub/spawn", "/hub/spawn-pending/alice"]
    assert "Making your container" in page.text
    assert '<noscript><meta http-equiv="refresh"' in page.text
    assert 'aria-current="step">Making your container' in page.text
    server = hub.servers.ready(alice)
    assert (await browser.get(way[-1])).headers["location"] == "/hub/enter?next=/user/alice/"
    response = await browser.get("/hub/enter?next=/user/alice/")
    assert response.headers["location"] == "/user/alice/lab"
    cookie = next(c for c in response.headers.get_list("set-cookie") if c.startswith("appliance-server"))
    assert "Path=/user/alice/" in cookie
    value = browser.client.cookies[capability.cookie_name(server.id)]
    said = capability.verify(KEY, server.id, value)
    assert said
    assert said.start_no == 1


async def test_running_server_is_entered_at_once(hub: FakeHub, browser: Browser, alice: User) -> None:
    hub.servers.ready(alice)
    assert (await browser.get("/hub/spawn")).headers["location"] == "/user/alice/lab"
    assert (await browser.get("/hub/spawn?next=/user/alice/tree")).headers["location"] == "/user/alice/tree"
    assert (await browser.get("/hub/spawn?next=/user/bob/tree")).headers["location"] == "/user/alice/lab"
    assert not hub.servers.starts


async def test_a_start_that_is_under_way_is_not_asked_for_twice(hub: FakeHub, browser: Browser) -> None:
    await browser.get("/hub/spawn")
    await browser.get("/hub/spawn")
    await browser.post("/hub/spawn")
    assert len(hub.servers.starts) == 1


async def test_deep_link_is_kept_all_the_way(hub: FakeHub, browser: Browser, alice: User) -> None:
    deep = DEEP.removesuffix("#")
    page, way = await browser.follow(deep)
    assert page.status_code == 200
    assert len(way) == 2
    assert "Your server is not running" in page.text
    assert "lab/tree/a b.ipynb</span>" in page.text
    action = html.unescape(page.text.split('<form class="card" method="post" action="')[1].split('"')[0])
    response = await browser.post(action)
    assert response.status_code == 303
    pending = response.headers["location"]
    assert (await browser.get(pending)).status_code == 200
    hub.servers.ready(alice)
    enter = (await browser.get(pending)).headers["location"]
    assert (await browser.get(enter)).headers["location"] == deep


async def test_stranger_is_asked_to_sign_in_and_keeps_the_deep_link(
    hub: FakeHub, stranger: Browser, alice: User,
) -> None:
    deep = DEEP.removesuffix("#")
    _, way = await stranger.follow(deep)
    assert way[-1].startswith("/hub/login?next=/user/alice/")
    response = await stranger.client.post(way[-1], data={
        "_xsrf": stranger.xsrf, "username": "alice", "password": "alice-password"})
    assert response.headers["location"] == deep
    _, way = await stranger.follow(deep)
    assert way[-1].startswith("/hub/spawn-pending/alice?next=")


@pytest.mark.parametrize("path", ["/hub/spawn/bob", "/hub/spawn-pending/bob", "/hub/enter?next=/user/bob/lab"])
@pytest.mark.parametrize("admin", [False, True])
async def test_nobody_opens_anothers_server(
    path: str, admin: bool, hub: FakeHub, browser: Browser, desk: Browser, bob: User,
) -> None:
    hub.servers.ready(bob)
    response = await (desk if admin else browser).get(path)
    assert response.status_code == 403
    assert "somebody else" in response.text
    said = html.unescape(response.text)
    if admin and path == "/hub/spawn/bob":
        assert "Start it for its owner on the page People." in said
    else:
        assert "also not with a share, and admins neither; a script gets in with a token" in said or admin
    assert "appliance-server" not in str(response.headers)


@pytest.mark.parametrize("path", ["/hub/spawn/{}", "/hub/stop/{}", "/hub/spawn-pending/{}", "/hub/spawn/alice/{}"])
@pytest.mark.parametrize("name", [
    "%2e%2e", "%00", "a%0ab", "x" * 300, "a%20b", "%D0%B0lice", "<script>", "a%60b", "nobody", "%C3%A9%CC%81", "-a"])
async def test_odd_names_are_no_servers(path: str, name: str, hub: FakeHub, browser: Browser) -> None:
    address = path.format(name)
    response = await (browser.post(address) if "stop" in path else browser.get(address))
    assert response.status_code in (403, 404)
    assert "x" * 100 not in response.text
    assert "<script>" not in response.text
    assert not hub.servers.starts
    assert not hub.servers.stops


async def test_upper_case_is_the_same_name(hub: FakeHub, browser: Browser, alice: User) -> None:
    hub.servers.ready(alice)
    assert (await browser.get("/hub/spawn/ALICE")).headers["location"] == "/user/alice/lab"


@pytest.mark.parametrize("error", [EngineDown(), NoAddress(), ImageMissing()], ids=lambda error: error.code)
async def test_refused_start_is_a_page_with_a_sentence(
    error: EngineDown, hub: FakeHub, browser: Browser, desk: Browser,
) -> None:
    hub.servers.error = error
    page = await browser.get("/hub/spawn")
    assert page.status_code >= 500
    assert error.sentence in html.unescape(page.text)
    assert error.action not in html.unescape(page.text)      # that is for who runs the box
    assert error.action in html.unescape((await desk.get("/hub/spawn")).text)


@pytest.mark.parametrize("path", ["/hub/home", "/hub/spawn-pending/alice", "/hub/enter?next=/user/alice/lab"])
async def test_failure_is_told_with_a_way_on(path: str, hub: FakeHub, browser: Browser, alice: User) -> None:
    hub.servers.fail(alice, OutOfMemory(evidence="secret of the log <b>"))
    page = await browser.get(path)
    assert page.status_code == 200
    assert OutOfMemory.sentence in page.text
    assert "Try again" in page.text
    assert "secret of the log" not in page.text


async def test_admin_sees_the_evidence_of_a_failure(hub: FakeHub, desk: Browser, teacher: User) -> None:
    hub.servers.fail(teacher, OutOfMemory(evidence="Killed <b>process</b>"))
    page = await desk.get("/hub/spawn-pending/teacher")
    assert "Killed &lt;b&gt;process" in page.text


async def test_failed_server_starts_again_by_the_button(hub: FakeHub, browser: Browser, alice: User) -> None:
    hub.servers.fail(alice, OutOfMemory())
    response = await browser.post("/hub/spawn")
    assert response.headers["location"] == "/hub/spawn-pending/alice"
    assert hub.servers.starts == [("alice", "", "alice")]


async def test_stop_during_a_start(hub: FakeHub, browser: Browser, alice: User) -> None:
    await browser.get("/hub/spawn")
    assert (await browser.post("/hub/stop/alice")).headers["location"] == "/hub/home"
    page = await browser.get("/hub/spawn-pending/alice")
    assert "Your server is not running" in page.text
    assert "Start my server" in page.text


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("wanted", list(Wanted))
async def test_no_state_leads_round_in_circles(
    phase: Phase, wanted: Wanted, hub: FakeHub, browser: Browser, alice: User,
) -> None:
    hub.servers.put(alice, phase=phase, wanted=wanted, start_no=1)
    for path in ("/", "/hub/home", "/hub/spawn-pending/alice", "/user/alice/lab"):
        browser.client.cookies.delete("appliance-entered") if "appliance-entered" in browser.client.cookies else None
        page, way = await browser.follow(path)
        assert page.status_code in (200, 503), way
        assert page.status_code == 200 or phase is Phase.READY     # no proxy here: every address is the Hub's


async def test_browser_that_keeps_no_key_is_told(hub: FakeHub, browser: Browser, alice: User) -> None:
    server = hub.servers.ready(alice)
    path = "/hub/enter?next=/user/alice/lab"
    for _ in range(3):
        assert (await browser.get(path)).headers["location"] == "/user/alice/lab"
        browser.client.cookies.delete(capability.cookie_name(server.id))
    response = await browser.get(path)
    assert response.status_code == 503
    assert "allow cookies" in response.text


@pytest.mark.parametrize("phase", [Phase.QUEUED, Phase.STARTING, Phase.BOOTING])
async def test_progress_page_says_where_it_is(phase: Phase, hub: FakeHub, browser: Browser, alice: User) -> None:
    server = hub.servers.put(alice, phase=phase, wanted=Wanted.RUNNING)
    hub.servers.positions[server.id] = 4
    page = await browser.get("/hub/spawn-pending/alice")
    assert page.text.count('class="now"') == 1
    assert ("you are number 4 in line" in page.text) == (phase is Phase.QUEUED)
    assert 'data-progress="/hub/api/users/alice/server/progress"' in page.text


async def test_user_redirect_keeps_its_query(hub: FakeHub, browser: Browser, stranger: Browser, alice: User) -> None:
    query = "repo=https%3A%2F%2Fgit.test%2Fa%2F%2Fb&urlpath=lab%2Ftree%2Fa%2520b&x=a+b&y"
    path = f"/hub/user-redirect/git-pull?{query}"
    login = (await stranger.get(path)).headers["location"]
    response = await browser.get(login)     # signed in by now, in another tab
    assert response.headers["location"] == path
    _, way = await browser.follow(path)     # which starts the server
    assert way[-1].startswith("/hub/spawn-pending/alice?next=")
    assert hub.servers.starts == [("alice", "", "alice")]
    hub.servers.ready(alice)
    enter = (await browser.get(way[-1])).headers["location"]
    assert (await browser.get(enter)).headers["location"] == f"/user/alice/git-pull?{query}"
    assert (await browser.get(path)).headers["location"] == f"/user/alice/git-pull?{query}"
    assert (await browser.get("/hub/user-redirect/")).headers["location"] == "/user/alice/"
    assert (await browser.get("/hub/user-redirect")).headers["location"] == "/user/alice/"


async def test_home_shows_what_the_server_uses(hub: FakeHub, browser: Browser, alice: User) -> None:
    assert "It has never run" in (await browser.get("/hub/home")).text
    hub.servers.ready(alice)
    page = await browser.get("/hub/home")
    assert "320 MB of 1.0 GB" in page.text
    assert "Running" in page.text
    hub.servers.usage = lambda server_id: anyio.sleep(5)  # type: ignore[assignment,method-assign]
    assert "Running" in (await browser.get("/hub/home")).text


async def test_trouble_is_told_on_the_home_page(hub: FakeHub, browser: Browser) -> None:
    hub.trouble = [EngineDown(evidence="connect: no such file")]
    page = await browser.get("/hub/home")
    assert EngineDown.sentence in html.unescape(page.text)
    assert "no such file" not in page.text


async def test_prefix_is_on_every_address() -> None:
    from appliance.web.app import create_app
    hub = FakeHub("/class/a/")
    alice = hub.accounts.add("alice")
    browser = Browser(hub, create_app(hub))  # type: ignore[arg-type]
    await browser.sign_in(alice)
    assert (await browser.get("/")).headers["location"] == "/class/a/hub/"
    for path in ("home", "spawn-pending/alice", "nothing", "enter"):
        page = await browser.get(f"/class/a/hub/{path}")
        links = [part.split('"')[0] for part in page.text.replace("action=", "href=").split('href="')[1:]]
        assert links
        assert all(link.startswith(("/class/a/hub/", "#")) for link in links), links
    assert (await browser.get("/class/a/hub/spawn")).headers["location"] == "/class/a/hub/spawn-pending/alice"
    hub.servers.ready(alice)
    response = await browser.get("/class/a/hub/enter?next=/class/a/user/alice/x")
    assert response.headers["location"] == "/class/a/user/alice/x"
    assert "Path=/class/a/user/alice/" in str(response.headers.get_list("set-cookie"))
    assert (await browser.get("/user/alice/")).status_code == 404
    assert (await browser.get("/hub/home")).status_code == 404


async def test_visit_from_another_site_may_open_ones_own_server(hub: FakeHub, browser: Browser, alice: User) -> None:
    response = await browser.get("/hub/spawn", NAVIGATION | {"Sec-Fetch-Site": "cross-site"})
    assert response.headers["location"] == "/hub/spawn-pending/alice"
    assert cookies.SESSION not in str(response.headers.get_list("set-cookie"))
