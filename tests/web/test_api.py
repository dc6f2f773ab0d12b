"""The REST API, in JupyterHub's shapes."""

from __future__ import annotations

import json

import anyio
import httpx
import pytest
from starlette.types import ASGIApp

from appliance.domain.server import Phase, Wanted
from appliance.domain.user import User
from appliance.errors import ImageMissing, ImageNotAllowed, OutOfMemory
from appliance.web import events
from appliance.web.app import create_api_app

from .browser import Browser
from .fakes import FakeHub

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


def script(hub: FakeHub, app: ASGIApp, token: str = "", scheme: str = "token") -> httpx.AsyncClient:
    headers = {"Authorization": f"{scheme} {token}"} if token else {}
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://box.test", headers=headers)


@pytest.fixture
def api(hub: FakeHub, app: ASGIApp, alice: User) -> httpx.AsyncClient:
    """A script with alice's API token."""
    hub.accounts.tokens["alices-token"] = "alice"
    return script(hub, app, "alices-token")


@pytest.fixture
def admin_api(hub: FakeHub, app: ASGIApp, teacher: User) -> httpx.AsyncClient:
    hub.accounts.tokens["teachers-token"] = "teacher"
    return script(hub, app, "teachers-token", "Bearer")


async def test_invalid_token_is_not_made_good_by_a_session(browser: Browser) -> None:
    assert (await browser.get("/hub/api/user", {"Authorization": "token wrong"})).status_code == 403
    assert (await browser.get("/hub/api/user")).status_code == 200


async def test_browser_starts_by_session_with_the_header(hub: FakeHub, browser: Browser) -> None:
    path = "/hub/api/users/alice/server"
    for refused in (await browser.client.post(path), await browser.client.post(path, headers={
            "X-XSRFToken": browser.xsrf, "Origin": "http://evil.test"})):
        assert refused.status_code == 403
    assert not hub.servers.starts
    assert (await browser.client.post(path, headers={"X-XSRFToken": browser.xsrf})).status_code == 202
    assert (await browser.client.delete(f"{path}?_xsrf={browser.xsrf}")).status_code == 204


async def test_refused_image_is_json(hub: FakeHub, api: httpx.AsyncClient) -> None:
    hub.servers.error = ImageNotAllowed()
    response = await api.post("/hub/api/users/alice/server", json={"image": "evil"})
    assert response.status_code == 403
    assert response.json() == {"status": 403, "message": ImageNotAllowed.sentence}


async def test_an_admin_s_program_is_told_what_is_missing_and_nobody_else_s(
        hub: FakeHub, api: httpx.AsyncClient, admin_api: httpx.AsyncClient) -> None:
    hub.servers.error = ImageMissing(evidence="No such image: lessons:2")
    said = (await admin_api.post("/hub/api/users/alice/server")).json()
    assert said == {"status": 500, "message": ImageMissing.sentence, "action": ImageMissing.action,
                    "evidence": "No such image: lessons:2"}
    response = await api.post("/hub/api/users/alice/server")
    assert response.json() == {"status": 500, "message": ImageMissing.sentence}


async def test_first_password_comes_before_the_api(hub: FakeHub, app: ASGIApp) -> None:
    browser = Browser(hub, app)
    await browser.sign_in(hub.accounts.add("new", must_change_password=True))
    assert (await browser.get("/hub/api/user")).status_code == 403


# -- progress ----------------------------------------------------------------------------------------------------------
def read(response: httpx.Response) -> list[dict[str, object]]:
    return [json.loads(line.removeprefix("data: ")) for line in response.text.splitlines() if line]


async def test_progress_tells_each_step_until_ready(hub: FakeHub, browser: Browser, alice: User) -> None:
    await browser.get("/hub/spawn")

    async def boot() -> None:
        for phase in (Phase.BOOTING, Phase.READY):
            await anyio.sleep(0.05)
            hub.servers.put(alice, phase=phase)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(boot)
        response = await browser.get("/hub/api/users/alice/server/progress")
    assert response.headers["content-type"] == "text/event-stream"
    told = read(response)
    assert [event["message"] for event in told] == [
        "Making your container.", "Your notebook is starting.", "Your server is ready. Opening the door."]
    assert [event["ready"] for event in told] == [False, False, True]
    assert told[-1]["url"] == "/user/alice/"
    assert [event["progress"] for event in told] == sorted(event["progress"] for event in told)  # type: ignore
    assert not hub.events.followers


async def test_progress_tells_a_failure_and_ends(hub: FakeHub, browser: Browser, alice: User) -> None:
    hub.servers.fail(alice, OutOfMemory(evidence="log"))
    told = read(await browser.get("/hub/api/users/alice/server/progress"))
    assert told == [{"progress": 100, "failed": True, "message": OutOfMemory.sentence}]


async def test_progress_of_what_never_ran_ends(browser: Browser) -> None:
    assert read(await browser.get("/hub/api/users/alice/server/progress"))[0]["failed"] is True


async def test_progress_of_a_stop_ends_when_it_has_stopped(hub: FakeHub, browser: Browser, alice: User) -> None:
    """Else the home page would be told at once that it is over, load again, be told again…"""
    hub.servers.put(alice, phase=Phase.STOPPING, wanted=Wanted.STOPPED)

    async def end() -> None:
        await anyio.sleep(0.05)
        hub.servers.put(alice, phase=Phase.STOPPED)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(end)
        told = read(await browser.get("/hub/api/users/alice/server/progress"))
    assert [event.get("failed", False) for event in told] == [False, True]
    assert told[0]["message"] == "Your server is being stopped."


async def test_progress_moves_while_nothing_happens(
    hub: FakeHub, browser: Browser, alice: User, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "TICK_S", 0.01)
    server = hub.servers.put(alice, phase=Phase.QUEUED, wanted=Wanted.RUNNING)
    hub.servers.positions[server.id] = 3

    async def move_up() -> None:
        await anyio.sleep(0.05)
        hub.servers.positions[server.id] = 1
        await anyio.sleep(0.05)
        hub.servers.ready(alice)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(move_up)
        messages = [event["message"] for event in read(await browser.get("/hub/api/users/alice/server/progress"))]
    assert "Waiting for a place: you are number 3 in line." in messages
    assert "Waiting for a place: you are next." in messages


async def test_browser_that_has_gone_is_followed_no_longer(hub: FakeHub, alice: User) -> None:
    server = hub.servers.put(alice, phase=Phase.STARTING, wanted=Wanted.RUNNING)
    stream = events.ProgressStream(hub, server)  # type: ignore[arg-type]

    async def receive() -> dict[str, str]:
        await anyio.sleep(0.05)
        return {"type": "http.disconnect"}

    async def send(message: object) -> None: ...

    with anyio.fail_after(2):
        await stream({"type": "http"}, receive, send)  # type: ignore[arg-type]
    assert not hub.events.followers


# -- the proxy's question, and the containers' listener ----------------------------------------------------------------
async def test_proxy_learns_whether_a_token_opens_a_server(
    hub: FakeHub, api: httpx.AsyncClient, admin_api: httpx.AsyncClient, alice: User, stranger: Browser,
    browser: Browser,
) -> None:
    server = hub.servers.ready(alice)
    path, secret = f"/hub/api/internal/authorize/{server.id}", {"X-Appliance-Proxy": hub.proxy_secret}
    for method in ("GET", "POST", "DELETE"):
        response = await api.request(method, path, headers=secret)
        assert response.status_code == 200
        assert response.headers["authorization"] == "token injected"
    assert (await api.get(path)).status_code == 404                                  # not by our proxy
    assert (await admin_api.get(path, headers=secret)).status_code == 403            # an admin's token opens no other's
    assert (await stranger.get(path, secret)).status_code == 403
    assert (await browser.get(path, secret)).status_code == 403                      # a session is no token
    hub.servers.put(alice, phase=Phase.STOPPED)
    assert (await api.get(path, headers=secret)).status_code == 403
    assert (await api.get("/hub/api/internal/authorize/" + "x" * 200, headers=secret)).status_code == 403


async def test_image_without_a_bearer_scheme_gets_no_token(
    hub: FakeHub, api: httpx.AsyncClient, alice: User, monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = hub.servers.ready(alice)
    monkeypatch.setattr(hub.servers, "injected_authorization", lambda server: None)
    response = await api.get(
        f"/hub/api/internal/authorize/{server.id}", headers={"X-Appliance-Proxy": hub.proxy_secret})
    assert response.status_code == 200
    assert "authorization" not in response.headers


async def test_containers_reach_the_api_alone(hub: FakeHub, alice: User) -> None:
    hub.accounts.tokens["alices-token"] = "alice"
    inner = create_api_app(hub)  # type: ignore[arg-type]
    api = script(hub, inner, "alices-token")
    assert (await api.get("/hub/api")).status_code == 200
    assert (await api.get("/hub/api/user")).json()["name"] == "alice"
    secret = {"X-Appliance-Proxy": hub.proxy_secret}
    server = hub.servers.ready(alice)
    for path in ("/", "/hub/login", "/hub/home", "/hub/admin", "/user/alice/lab", "/hub/health", "/robots.txt",
                 f"/hub/api/internal/authorize/{server.id}", "/hub/error/502?url=x"):
        assert (await api.get(path, headers=secret)).status_code == 404
    # no cookie counts there
    token = hub.sessions.token_of(hub.sessions.open(alice))
    response = await script(hub, inner).get("/hub/api/user", headers={"Cookie": f"jupyterhub-hub-login={token}"})
    assert response.status_code == 403
