"""Groups over the REST API."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import WRAPPED, Client, House

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


@pytest.fixture(autouse=True)
async def pupils(house: House) -> None:
    for name in ("alice", "bob", "carl"):
        await house.user(name)


async def test_as_nbgrader_does(admin: Client) -> None:
    """Every answer is JSON, a DELETE has a body, and adding somebody again is no error."""
    assert await admin.get("groups") == []
    made = await admin.post("groups/nbgrader-course101")
    assert made == {"kind": "group", "name": "nbgrader-course101", "users": [], "properties": {}, "roles": []}
    for _ in range(2):
        assert (await admin.post("groups/nbgrader-course101/users", {"users": ["alice", "Bob"]}, 200))["users"] == [
            "alice", "bob"]
    assert [group["name"] for group in await admin.get("groups")] == ["nbgrader-course101"]
    assert (await admin.get("users/alice"))["groups"] == ["nbgrader-course101"]
    for _ in range(2):
        assert (await admin.delete("groups/nbgrader-course101/users", {"users": ["bob"]}, 200))["users"] == ["alice"]
    await admin.post("groups/nbgrader-course101", status=409)


async def test_list_without_a_word_about_pages_is_whole(admin: Client) -> None:
    made = await admin.post("groups", {"groups": [f"g{number}" for number in range(250)], "users": ["alice"]})
    assert len(made) == 250
    assert len(await admin.get("groups")) == 250
    assert len(await admin.get("groups?limit=5")) == 5
    page = await admin.get("groups?offset=2", headers=WRAPPED)
    assert len(page["items"]) == 50
    assert page["_pagination"]["next"]["offset"] == 52
    assert [group["name"] for group in page["items"]][:2] == ["g2", "g3"]
    assert len((await admin.get("users/alice"))["groups"]) == 250


async def test_many_are_all_made_or_none(admin: Client) -> None:
    await admin.post("groups/there")
    await admin.post("groups", {"groups": ["new", "there"]}, 409)
    await admin.post("groups", {"groups": ["new", "bad/name"]}, 400)
    await admin.post("groups", {"groups": ["new"], "users": ["nobody"]}, 400)
    assert [group["name"] for group in await admin.get("groups")] == ["there"]


async def test_names_no_group_can_have(admin: Client) -> None:
    for name in ("a%2Fb", "%00", "%20", "x" * 65, "a%0Ab%08", "%60", "%3Cb%3E", "a%2Cb", "a!b"):
        assert (await admin("POST", f"groups/{name}")).status_code in (400, 404)
    assert await admin.get("groups") == []


BAD_MEMBERS: tuple[Any, ...] = (None, {}, {"users": "alice"}, {"users": [1]}, {"users": ["nobody"]}, {"users": ["../x"]},
                                  {"users": ["alice", "nobody"]}, {"users": ["alice"], "more": 1}, [], {"users": None})


async def test_members_that_cannot_be(admin: Client) -> None:
    await admin.post("groups/7b", {"users": ["carl"]})
    for method in ("POST", "DELETE"):
        for body in BAD_MEMBERS:
            response = await admin(method, "groups/7b/users", json=body)
            assert response.status_code == 400, response.text
    assert (await admin.get("groups/7b"))["users"] == ["carl"]


async def test_properties(admin: Client) -> None:
    await admin.post("groups/7b")
    assert (await admin.put("groups/7b/properties", {"room": "117", "more": {"deep": [1, None]}}))["properties"] == {
        "room": "117", "more": {"deep": [1, None]}}
    assert (await admin.get("groups/7b"))["properties"]["room"] == "117"
    assert (await admin.put("groups/7b/properties", {}))["properties"] == {}
    for body in ([], "x", 1, None):
        await admin.put("groups/7b/properties", body, 400)
    await admin.put("groups/none/properties", {}, 404)


async def test_delete(house: House, admin: Client) -> None:
    await admin.post("groups/7b", {"users": ["alice"]})
    await admin.delete("groups/7b")
    assert (await admin.get("users/alice"))["groups"] == []
    for method in ("GET", "DELETE"):
        assert (await admin(method, "groups/7b")).status_code == 404
    await admin.post("groups/7b/users", {"users": ["alice"]}, 404)
    assert (await admin.post("groups/7b"))["users"] == []


async def test_what_filters_let_one_see_and_do(house: House, admin: Client) -> None:
    await admin.post("groups", {"groups": ["7a", "7b"], "users": ["alice"]})
    one = await house.client("teacher", "groups!group=7a", "list:groups!group=7a")
    assert await one.get("groups") == [{"kind": "group", "name": "7a", "users": ["alice"], "properties": {}}]
    await one.post("groups/7a/users", {"users": ["bob"]}, 200)
    await one.post("groups/7b/users", {"users": ["bob"]}, 404)
    await one.post("groups/none/users", {"users": ["bob"]}, 404)
    await one.delete("groups/7a", status=403)
    names = await house.client("teacher", "list:groups")
    assert await names.get("groups") == [{"kind": "group", "name": "7a"}, {"kind": "group", "name": "7b"}]
    await names.get("groups/7a")
    others = await house.client("teacher", "list:groups!user=alice")
    await others.get("groups", 403)


async def test_being_in_a_group_counts_at_once(house: House, admin: Client) -> None:
    await admin.post("groups/7a")
    watcher = await house.client("teacher", "read:users!group=7a")
    await watcher.get("users/alice", 404)
    await admin.post("groups/7a/users", {"users": ["alice"]}, 200)
    await watcher.get("users/alice")
    await admin.delete("groups/7a/users", {"users": ["alice"]}, 200)
    await watcher.get("users/alice", 404)
