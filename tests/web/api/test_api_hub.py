"""The Hub itself over the REST API."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import pytest

from appliance.domain.roles import parse as parse_roles
from appliance.domain.server import Phase
from appliance.web.app import create_api_app

from .conftest import WRAPPED, Client, House

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


async def test_info(house: House, admin: Client, alice: Client) -> None:
    found = await admin.get("info")
    assert found["version"] == "6.1.1"
    assert found["spawner"]["class"].endswith("conftest.ListeningSpawner")
    assert set(found) == {"version", "python", "sys_executable", "spawner", "authenticator"}
    await alice.get("info", 403)


async def test_shutdown_leaves_servers_and_proxy(house: House, admin: Client, alice: Client) -> None:
    await alice.post("users/alice/server", status=202)
    await house.until("alice", Phase.READY)
    await alice.post("shutdown", status=403)
    for body in ({"servers": "yes"}, {"proxy": 1}, {"servers": None}, []):
        await admin.post("shutdown", body, 400)
    assert house.ends == 0
    assert (await admin.post("shutdown", {"servers": False}, 202))["message"]
    assert house.ends == 1
    assert len(house.box.spawner.engine.servers) == 1  # type: ignore[attr-defined]


async def test_shutdown_with_servers_and_proxy(house: House, admin: Client, alice: Client) -> None:
    await alice.post("users/alice/server", status=202)
    await house.until("alice", Phase.READY)
    await admin.post("shutdown", {"servers": True, "proxy": True}, 202)
    assert house.ends == 1
    assert not house.box.spawner.engine.servers  # type: ignore[attr-defined]


async def test_routes(house: House, admin: Client, alice: Client) -> None:
    await alice.post("users/alice/server", status=202)
    await house.until("alice", Phase.READY)
    routes: dict[str, Any] = await admin.get("proxy")
    assert set(routes) == {"/", "/user/alice/"}
    assert routes["/user/alice/"]["target"].startswith("http://127.0.0.1:")
    assert routes["/user/alice/"]["data"]["user"] == "alice"
    page = await admin.get("proxy?limit=1", headers=WRAPPED)
    assert set(page["items"]) == {"/"}
    assert page["_pagination"]["total"] == 2
    assert set((await admin.get(page["_pagination"]["next"]["url"], headers=WRAPPED))["items"]) == {"/user/alice/"}
    await alice.get("proxy", 403)


CULLER = {"name": "culler", "api_token": "culler-token-0123456789", "url": "http://127.0.0.1:9", "admin": True}


@pytest.mark.parametrize("house", [{"services": [CULLER]}], indirect=True)
async def test_a_service_asks_who_it_is(house: House, admin: Client) -> None:
    culler = Client(house.app, CULLER["api_token"])  # type: ignore[arg-type]
    model = await culler.get("user")
    assert (model["kind"], model["name"], model["admin"], model["token_id"]) == ("service", "culler", True, None)
    assert "delete:servers" in model["scopes"]
    assert (await admin.get(f"authorizations/token/{culler.token}"))["name"] == "culler"
    await house.user("alice")
    await culler.post("users/alice/server", status=202)
    await house.until("alice", Phase.READY)
    assert [user["name"] for user in await culler.get("users?state=ready")] == ["alice"]
    await culler.delete("users/alice/server", status=202)
    made = await culler.post("users/alice/tokens", {"scopes": ["self"]})
    assert made["note"] == "Requested via api by service culler"


async def test_routes_hold_no_secret(house: House, admin: Client, alice: Client) -> None:
    await alice.post("users/alice/server", status=202)
    await house.until("alice", Phase.READY)
    server = await house.hub.servers.view("alice")
    assert server
    injected = house.hub.servers.injected_authorization(server) or "token x"
    assert injected.removeprefix("token ") not in (await admin("GET", "proxy")).text


async def test_sync_writes_the_routes_anew(house: House, admin: Client, alice: Client) -> None:
    await alice.post("users/alice/server", status=202)
    await house.until("alice", Phase.READY)
    server = await house.hub.servers.view("alice")
    assert server
    await house.box.proxy.remove(server.id)
    response = await admin("POST", "proxy")
    assert (response.status_code, response.content) == (200, b"")
    with anyio.fail_after(5):
        await house.box.proxy.wait_live(server.id)
    assert server.id in house.box.proxy.live  # type: ignore[attr-defined]


async def test_there_is_no_other_proxy(admin: Client) -> None:
    for body in ({"api_url": "http://evil.test", "auth_token": "x"}, None, {}):
        assert "its own proxy" in (await admin.patch("proxy", body, 400))["message"]


async def test_containers_reach_the_api_by_token_alone(house: House, alice: Client) -> None:
    inner = create_api_app(house.hub)
    assert (await Client(inner, alice.token).get("user"))["name"] == "alice"
    await Client(inner).get("")
    await Client(inner).get("openapi.json")
    session, value = await house.hub.sessions.begin(await house.user("alice"), origin="", address="", user_agent="")
    headers = {"Cookie": f"jupyterhub-hub-login={value}", "X-Appliance-Proxy": house.hub.proxy_secret}
    await Client(inner).get("user", 403, headers=headers)
    for path in ("/", "/hub/login", "/hub/home", "/hub/admin", "/hub/token", "/hub/api/docs", "/user/alice/lab", "/hub/health",
                 f"/hub/api/internal/authorize/{session.id}"):
        assert (await Client(inner, alice.token)("GET", path)).status_code == 404, path


async def test_names_in_roles_that_belong_to_nobody_are_told(house: House) -> None:
    await house.user("ada")
    roles = parse_roles([{"name": "grader", "users": ["ada", "adda"], "services": ["cullr"], "groups": ["7b"]}])
    house.box.settings = replace(house.box.settings, roles=roles)
    found = await house.box.unknown_names()
    assert [sentence.partition(",")[0] for sentence in found] == [
        "The role “grader” is for the service “cullr”", "The role “grader” is for the user “adda”",
        "The role “grader” is for the group “7b”"]
