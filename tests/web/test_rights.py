"""What a page asks of its visitor: scopes, not only the admin flag."""

from __future__ import annotations

import httpx
import pytest
from starlette.responses import Response
from starlette.types import ASGIApp

from appliance.domain.roles import parse
from appliance.domain.user import User
from appliance.web.app import _app
from appliance.web.routing import Access, Entry, route
from appliance.web.visit import Visit

from .browser import Browser
from .fakes import FakeHub

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


def script(app: ASGIApp, token: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://box.test",
                             headers={"Authorization": f"token {token}"})


def token_of(hub: FakeHub, user: User, *scopes: str) -> str:
    token = f"token-{len(hub.accounts.tokens):032}"
    hub.accounts.tokens[token] = user.name
    if scopes:
        hub.permissions.scopes[token] = scopes
    return token


async def test_an_address_names_the_scope_that_is_missing(hub: FakeHub, alice: User, teacher: User) -> None:
    async def handler(visit: Visit) -> Response:
        return Response("in")

    entries = (Entry("hub/api/x", handler, scopes=("list:groups", "read:hub")), Entry("hub/api/y", handler, Access.SIGNED_IN))
    app = _app(hub, [route(entry, hub) for entry in entries])  # type: ignore[arg-type]
    async with script(app, token_of(hub, alice)) as pupil, script(app, token_of(hub, teacher)) as desk:
        refused = await pupil.get("/hub/api/x")
        assert refused.status_code == 403
        assert refused.json() == {"status": 403, "message": "This needs the scope list:groups or read:hub, which is not held."}
        assert (await pupil.get("/hub/api/y")).status_code == 200
        assert (await desk.get("/hub/api/x")).status_code == 200
    async with script(app, token_of(hub, teacher, "read:hub")) as narrow:
        assert (await narrow.get("/hub/api/x")).status_code == 200
    async with script(app, token_of(hub, teacher, "list:users")) as narrow:
        assert (await narrow.get("/hub/api/x")).status_code == 403


async def test_the_dashboard_is_for_whoever_has_the_scopes(hub: FakeHub, browser: Browser, bob: User) -> None:
    hub.accounts.groups["alice"] = ("teachers",)
    assert (await browser.get("/hub/admin")).status_code == 403
    hub.permissions.roles = parse([{"name": "helper", "scopes": ["admin-ui"], "groups": ["teachers"]}])
    assert (await browser.get("/hub/admin")).status_code == 403         # would list everybody
    hub.permissions.roles = parse([{"name": "helper", "scopes": ["admin-ui", "list:users"], "groups": ["teachers"]}])
    page = await browser.get("/hub/admin")
    assert page.status_code == 200
    assert "bob" in page.text
    for what in ("start", "stop"):
        assert (await browser.post(f"/hub/admin/{what}", user="bob")).status_code == 403
    assert hub.servers.starts == hub.servers.stops == []
    hub.permissions.roles = parse([
        {"name": "helper", "scopes": ["admin-ui", "list:users", "servers"], "groups": ["teachers"]}])
    assert (await browser.post("/hub/admin/start", user="bob")).status_code == 303
    assert hub.servers.starts == [("bob", "", "alice")]


async def test_metrics_ask_for_their_scope(hub: FakeHub, app: ASGIApp, alice: User, teacher: User) -> None:
    for user, scopes, status in ((teacher, (), 200), (teacher, ("read:metrics",), 200), (teacher, ("list:users",), 403),
                                 (alice, (), 403)):
        async with script(app, token_of(hub, user, *scopes)) as client:
            assert (await client.get("/hub/metrics")).status_code == status


async def test_a_token_enters_with_the_right_to_and_through_a_share(
    hub: FakeHub, app: ASGIApp, alice: User, bob: User, teacher: User,
) -> None:
    server = hub.servers.ready(alice)
    path, secret = f"/hub/api/internal/authorize/{server.id}", {"X-Appliance-Proxy": hub.proxy_secret}

    async def status(token: str) -> int:
        async with script(app, token) as client:
            return (await client.get(path, headers=secret)).status_code

    assert await status(token_of(hub, alice, "access:servers!server=alice/")) == 200
    assert await status(token_of(hub, alice, "servers!user")) == 403
    assert await status(token_of(hub, teacher)) == 403
    assert await status(token_of(hub, teacher, "access:servers!server=alice/")) == 403
    assert await status(token_of(hub, bob)) == 403
