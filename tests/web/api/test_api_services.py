"""Services over the REST API."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.testing import FakeProxy

from .conftest import Client, House

pytestmark = [pytest.mark.unit, pytest.mark.anyio]
TOKEN = "culler-token-0123456789"
CONFIGURED: dict[str, Any] = {
    "services": [
        {"name": "culler", "api_token": TOKEN, "command": ["culler", "--timeout=60"], "info": {"about": 1}, "display": False},
        {"name": "course101", "url": "http://127.0.0.1:9999"},
    ],
    "load_roles": [{"name": "culls", "scopes": ["list:users"], "services": ["culler"]}],
}
configured = pytest.mark.parametrize("house", [CONFIGURED], indirect=True)


@configured
async def test_an_admin_sees_all_of_every_service(admin: Client) -> None:
    found = await admin.get("services")
    assert found["culler"] == {
        "kind": "service", "name": "culler", "admin": False, "roles": ["culls"], "url": "", "prefix": "",
        "command": ["culler", "--timeout=60"], "pid": 0, "info": {"about": 1}, "display": False, "state": "starting",
        "message": "", "restarts": 0, "last_lines": []}
    assert found["course101"]["prefix"] == "/services/course101/"
    assert found["course101"] == await admin.get("services/course101")
    assert TOKEN not in str(found)


@configured
async def test_others_see_what_their_scopes_say(house: House) -> None:
    names = await house.client("teacher", "list:services", admin=True)
    assert await names.get("services") == {
        name: {"kind": "service", "name": name, "admin": False} for name in ("culler", "course101")}
    one = await house.client("teacher", "read:services!service=course101", admin=True)
    assert (await one.get("services/course101"))["url"] == "http://127.0.0.1:9999"
    assert "last_lines" not in await one.get("services/course101")
    await one.get("services/culler", 404)
    await one.get("services", 403)
    roles = await house.client("teacher", "read:roles:services", admin=True)
    assert set(await roles.get("services/culler")) == {"kind", "name", "admin", "roles"}
    some = await house.client("teacher", "list:services!service=culler", admin=True)
    assert set(await some.get("services")) == {"culler"}


@configured
async def test_who_holds_nothing_sees_nothing(alice: Client, stranger: Client) -> None:
    for client in (alice, stranger):
        await client.get("services", 403)
        await client.get("services/culler", 403)
        await client.post("services/new", {}, 403)
        await client.delete("services/culler", status=403)


@configured
async def test_a_service_asks_who_it_is(house: House) -> None:
    service = Client(house.app, TOKEN)
    found = await service.get("user")
    assert (found["kind"], found["name"]) == ("service", "culler")
    await service.get("users")
    await service.get("services", 403)


@configured
async def test_a_service_is_made_and_taken_away(house: House, admin: Client) -> None:
    made = await admin.post("services/grades", {
        "url": "http://127.0.0.1:9998/", "api_token": "grades-token-0123456789", "info": {"a": [1]}, "display": True})
    assert (made["name"], made["url"], made["prefix"], made["info"]) == (
        "grades", "http://127.0.0.1:9998", "/services/grades/", {"a": [1]})
    assert await admin.get("services/grades") == made
    service = Client(house.app, "grades-token-0123456789")
    assert (await service.get("user"))["name"] == "grades"
    await admin.post("services/grades", {}, 409)
    assert await admin.delete("services/grades", status=200) is None
    await admin.get("services/grades", 404)
    await admin.delete("services/grades", status=404)
    await service.get("user", 403)


@configured
async def test_what_is_of_the_configuration_stays(house: House, admin: Client) -> None:
    await admin.delete("services/culler", status=405)
    await admin.post("services/culler", {}, 409)
    await admin.post("services/CULLER", {}, 409)
    assert "culler" in await admin.get("services")


@pytest.mark.parametrize("body", [
    None, [], "text", {"command": ["rm"]}, {"container": {"image": "x"}, "user": "ada"}, {"api_token": "short"}, {"url": "x"},
    {"url": 5}, {"url": "http://169.254.169.254/"}, {"admin": "yes"}, {"unknown": 1}, {"oauth_client_id": "mine"},
    {"oauth_client_allowed_scopes": ["nonsense"]}, {"oauth_client_allowed_scopes": "users"}, {"timeout": -1},
    {"info": []}, {"name": 5}, {"oauth_redirect_uri": "//evil"}, {"user": "root"}, {"environment": {"A": "b"}}])
async def test_what_cannot_be_made_is_refused(admin: Client, body: Any) -> None:
    await admin.post("services/new", body, 400)
    assert await admin.get("services") == {}


@pytest.mark.parametrize("name", ["..%2f", "a%20b", "-a", "hub", "%C3%A9", "x" * 65, "a%60b", "%00"])
async def test_names_that_cannot_be(admin: Client, name: str) -> None:
    response = await admin("POST", f"services/{name}", json={})
    assert response.status_code in (400, 404), response.text
    assert await admin.get("services") == {}


async def test_nobody_makes_a_service_that_may_more_than_they(house: House, admin: Client) -> None:
    maker = await house.client("teacher", "admin:services", admin=True)
    await maker.post("services/a", {"admin": True}, 400)
    await maker.post("services/a", {"url": "http://127.0.0.1:1", "oauth_client_allowed_scopes": ["users"]}, 400)
    await maker.post("services/a", {"url": "http://127.0.0.1:1"})
    await admin.post("services/b", {"admin": True})
    assert (await admin.get("services/b"))["admin"] is True
    one = await house.client("teacher", "admin:services!service=a", admin=True)
    await one.delete("services/b", status=404)
    await one.delete("services/a", status=200)


async def test_a_body_of_20_mb_is_refused(admin: Client) -> None:
    await admin.post("services/new", {"info": {"x": "y" * 20_000_000}}, 413)


@configured
async def test_the_way_to_it_is_there_when_the_answer_is(house: House, admin: Client) -> None:
    import anyio

    proxy = house.box.proxy
    assert isinstance(proxy, FakeProxy)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(house.box.services.run)
        with anyio.fail_after(5):
            while "course101" not in proxy.services:
                await anyio.sleep(0.02)
        await admin.post("services/grades", {"url": "http://127.0.0.1:9998"})
        assert proxy.services["grades"].url == "http://127.0.0.1:9998"
        await admin.delete("services/grades", status=200)
        assert set(proxy.services) == {"course101"}
        tasks.cancel_scope.cancel()
