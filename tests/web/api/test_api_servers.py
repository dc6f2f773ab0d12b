"""Users' servers over the REST API."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from appliance.domain.server import Phase

from .conftest import Client, House

pytestmark = [pytest.mark.unit, pytest.mark.anyio]
NAMED = pytest.mark.parametrize("house", [{"allow_named_servers": True, "named_server_limit_per_user": 2}], indirect=True)
MINE, LAB = "users/alice/server", "users/alice/servers/physics"


async def test_start_and_stop(house: House, alice: Client) -> None:
    await alice.get(MINE, 404)
    response = await alice("POST", MINE)
    assert (response.status_code, response.content) == (202, b"")
    assert (await alice("POST", MINE)).status_code in (202, 400)      # while it starts, or once it runs
    await house.until("alice", Phase.READY)
    assert "already running" in (await alice.post(MINE, status=400))["message"]
    model = await alice.get(MINE)
    assert (model["ready"], model["stopped"], model["pending"]) == (True, False, None)
    assert model["started"].endswith("Z")
    response = await alice("DELETE", MINE)
    assert (response.status_code, response.content) == (202, b"")
    await house.until("alice", Phase.STOPPED)
    await alice.delete(MINE)
    assert (await alice.get(MINE))["stopped"] is True
    assert (await alice.get(MINE))["started"] is None


async def test_asked_twice_at_once_starts_once(house: House, alice: Client) -> None:
    found: list[int] = []

    async def start() -> None:
        found.append((await alice("POST", MINE)).status_code)

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(start)
    assert set(found) <= {201, 202, 400}
    await house.until("alice", Phase.READY)
    server = await house.hub.servers.view("alice")
    assert server
    assert server.start_no == 1


async def test_stopping_what_never_ran(alice: Client) -> None:
    await alice.delete(MINE)
    await alice.delete(LAB, status=404)
    await alice.delete(MINE, {"remove": True}, 400)
    await alice.delete(MINE, {}, 204)


@pytest.mark.parametrize("body", [[], "x", {"user_options": []}, {"user_options": "x"}, {"display_name": 1},
                                  {"user_options": {"image": 1}}, {"image": 1}])
async def test_bodies_that_start_nothing(body: Any, house: House, alice: Client) -> None:
    await alice.post(MINE, body, 400)
    assert not house.box.spawner.engine.servers  # type: ignore[attr-defined]


async def test_admins_start_for_others_and_students_do_not(house: House, admin: Client, alice: Client) -> None:
    await house.user("bob")
    await alice.post("users/bob/server", status=404)
    await admin.post("users/bob/server", status=202)
    await house.until("bob", Phase.READY)
    await alice.delete("users/bob/server", status=404)
    await alice.get("users/bob/server", 404)
    assert (await admin.get("users/bob/server"))["state"]["phase"] == "ready"
    await admin.post("users/nobody/server", status=404)


async def test_state_is_for_admins(house: House, admin: Client, alice: Client) -> None:
    await alice.post(MINE, status=202)
    assert "state" not in await alice.get(MINE)
    assert (await admin.get(MINE))["state"]["server_id"]


async def test_scope_of_one_server(house: House) -> None:
    await house.user("alice")
    one = await house.client("alice", "servers!server=alice/", "read:servers!server=alice/")
    await one.post(MINE, status=202)
    await one.get(MINE)
    await one.post(LAB, status=404)
    await one.get(f"{LAB}/progress", 404)


# -- named ones --------------------------------------------------------------------------------------------------------
async def test_named_servers_are_off_unless_switched_on(alice: Client) -> None:
    await alice.post(LAB, status=400)
    await alice.put(LAB, status=400)


@NAMED
async def test_named_server(house: House, alice: Client) -> None:
    model = await alice.put(LAB, {"display_name": "My lab", "user_options": {}}, 201)
    assert (model["name"], model["display_name"], model["stopped"]) == ("physics", "My lab", True)
    assert model["full_name"] == "alice/physics"
    assert model["url"] == "/user/alice/physics/"
    await alice.put(LAB, status=409)
    await alice.put(MINE, status=409)
    await alice.post(LAB, status=202)
    await house.until("alice", Phase.READY, "physics")
    await alice.patch(LAB, {"display_name": "Other"}, 400)            # not while it runs
    assert set((await alice.get("users/alice"))["servers"]) == {"physics"}
    await alice.delete(LAB, {"remove": True}, 202)
    with anyio.fail_after(15):
        while (await alice("GET", LAB)).status_code != 404:
            await anyio.sleep(0.02)
    assert (await alice.get("users/alice?include_stopped_servers"))["servers"] == {}


@NAMED
async def test_named_server_is_changed_while_it_is_stopped(alice: Client) -> None:
    await alice.put(LAB, status=201)
    assert (await alice.patch(LAB, {"display_name": "Other"}))["display_name"] == "Other"
    assert (await alice.patch(LAB, {"name": "maths"}))["name"] == "maths"
    await alice.get(LAB, 404)
    maths = "users/alice/servers/maths"
    for body in ({}, None, {"shoe": 1}, {"name": 1}, {"user_options": 3}, {"name": "../x"}, {"display_name": 3}, []):
        await alice.patch(maths, body, 400)
    await alice.put(LAB, status=201)
    await alice.patch(maths, {"name": "physics"}, 409)
    await alice.patch("users/alice/servers/none", {"name": "x"}, 404)
    await alice.put("users/alice/servers/one-too-many", status=400)
    await alice.delete(maths, {"remove": True})
    await alice.get(maths, 404)


@NAMED
@pytest.mark.parametrize("name", ["%2E%2E", "a%2Fb", "-x", "%60a%60", "x" * 65, "%F0%9F%92%A9", "a%00", "%3Cscript%3E"])
async def test_names_no_server_can_have(name: str, house: House, alice: Client) -> None:
    """GHSA-x7xh, GHSA-93gc: a name is checked on every way it comes in."""
    for method in ("PUT", "POST", "PATCH", "DELETE", "GET"):
        response = await alice(method, f"users/alice/servers/{name}", json={"display_name": "x"} if method != "GET" else None)
        assert response.status_code in (400, 403, 404, 405), (method, response.text)
    assert (await alice.get("users/alice?include_stopped_servers"))["servers"] == {}


# -- progress ----------------------------------------------------------------------------------------------------------
async def test_progress(house: House, alice: Client) -> None:
    await alice.post(MINE, status=202)
    assert (await alice("HEAD", f"{MINE}/progress")).headers["content-type"] == "text/event-stream"
    response = await alice("GET", f"{MINE}/progress")
    assert response.headers["content-type"] == "text/event-stream"
    told = [json.loads(line.removeprefix("data: ")) for line in response.text.splitlines() if line]
    assert told[-1]["ready"] is True
    assert told[-1]["url"] == "/user/alice/"
    await alice.get("users/alice/servers/lab/progress", 404)
    narrow = await house.client("alice", "read:users:activity!user=alice")
    await narrow.get(f"{MINE}/progress", 403)
