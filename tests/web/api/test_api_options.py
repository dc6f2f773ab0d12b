"""What programs may choose for servers, and the limits of groups, over the REST API."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.domain.offers import ImageChoice
from appliance.domain.server import Phase
from appliance.testing import FakeSpawner

from .conftest import Client, House

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

NAMED = pytest.mark.parametrize("house", [{"allow_named_servers": True, "named_server_limit_per_user": 2}], indirect=True)
GB = 1 << 30


@pytest.fixture
async def alice(house: House) -> Client:
    return await house.client("alice")


@pytest.fixture
async def admin(house: House) -> Client:
    return await house.client("teacher", admin=True)


@pytest.fixture
def spawner(house: House) -> FakeSpawner:
    spawner = house.box.spawner
    assert isinstance(spawner, FakeSpawner)
    spawner.choices = (ImageChoice("python", "py:1", "Python"), ImageChoice("R", "r:1", "R"))
    spawner.engine.images = {"py:1", "r:1"}
    return spawner


@NAMED
async def test_no_more_named_servers_than_the_limit(alice: Client) -> None:
    await alice.put("users/alice/servers/one", {}, 201)
    await alice.post("users/alice/servers/two", status=202)
    for call in (alice.put, alice.post):
        refused = await call("users/alice/servers/three", {}, 400)
        assert "as many as" in refused["message"]
    await alice.delete("users/alice/servers/one", {"remove": True})
    await alice.put("users/alice/servers/three", {}, 201)


@NAMED
@pytest.mark.parametrize("name", ["lab", "api", "oauth_callback"])
async def test_no_server_hides_a_page_of_the_default_one(name: str, alice: Client) -> None:
    assert "page of every server" in (await alice.put(f"users/alice/servers/{name}", {}, 400))["message"]
    await alice.post(f"users/alice/servers/{name}", status=400)
    await alice.put("users/alice/servers/fine", {}, 201)
    await alice.patch("users/alice/servers/fine", {"name": name}, 400)


@NAMED
async def test_a_name_that_cannot_be_is_told_to_whoever_makes_a_server(alice: Client) -> None:
    for call in (alice.post, alice.put):
        refused = await call("users/alice/servers/My%20Thing", {}, 400)
        assert refused["message"].startswith("A name cannot contain a blank; use letters")
    for method in ("GET", "PATCH", "DELETE"):
        answer = await alice(method, "users/alice/servers/My%20Thing", json={"name": "x"} if method == "PATCH" else None)
        assert answer.status_code == 404


@pytest.mark.parametrize("said", [
    {"image": "evil:latest"}, {"image": "py:1 "}, {"image": 5}, {"image": ["R"]}, {"profile": "none"}, {"__bytes__": "x"},
    {"a": {"__date__": 1}}, {"a\u0000": 1}, {"a": "\u0000"}, {"big": "x" * 20_000}, {"x" * 200: 1}])
async def test_options_that_cannot_be_start_nothing_and_break_no_listing(
        said: dict[str, Any], house: House, spawner: FakeSpawner, alice: Client, admin: Client) -> None:
    for body in (said, {"user_options": said}):
        answer = await alice("POST", "users/alice/server", json=body)
        assert answer.status_code in (400, 403), answer.text
    assert not spawner.engine.calls
    assert {user["name"] for user in await admin.get("users")} == {"alice", "teacher"}


async def test_the_choice_is_told_and_kept(house: House, spawner: FakeSpawner, alice: Client) -> None:
    await alice.post("users/alice/server", {"image": "R", "note": ["ä", 1, None]}, 202)
    await house.until("alice", Phase.READY)
    assert (await alice.get("users/alice/server"))["user_options"] == {"image": "R", "note": ["ä", 1, None]}
    assert [spec.image for spec in spawner.engine.specs.values()] == ["r:1"]


async def test_a_group_s_limits_hold_from_the_next_start(
        house: House, spawner: FakeSpawner, alice: Client, admin: Client) -> None:
    await admin.post("groups/7b")
    await admin.post("groups/7b/users", {"users": ["alice"]}, 200)
    said = {"mem_limit": "1G", "cpu_limit": 1.5, "image": "R", "colour": {"of": "the door"}}
    assert (await admin.put("groups/7b/properties", said))["properties"] == said
    await alice.post("users/alice/server", status=202)
    await house.until("alice", Phase.READY)
    (spec,) = spawner.engine.specs.values()
    assert (spec.mem_limit_bytes, spec.cpu_limit, spec.image) == (GB, 1.5, "r:1")


@pytest.mark.parametrize("said", [
    {"mem_limit": "lots"}, {"mem_limit": 5}, {"mem_limit": []}, {"cpu_limit": "two"}, {"cpu_limit": -1}, {"image": 5},
    {"allowed_images": "R"}, {"allowed_images": {"R": 5}}, {"profiles": "a"}, {"max_named_servers": -1},
    {"max_named_servers": True}, {"max_named_servers": 10 ** 9}])
async def test_a_wrong_value_of_a_limit_is_refused_and_nothing_is_changed(said: dict[str, Any], admin: Client) -> None:
    await admin.post("groups/7b")
    await admin.put("groups/7b/properties", {"mem_limit": "1G"})
    await admin.put("groups/7b/properties", {"colour": "red", **said}, 400)
    assert (await admin.get("groups/7b"))["properties"] == {"mem_limit": "1G"}


async def test_who_may_not_change_groups_changes_no_limits(alice: Client, admin: Client) -> None:
    await admin.post("groups/7b")
    await admin.post("groups/7b/users", {"users": ["alice"]}, 200)
    assert (await alice("PUT", "groups/7b/properties", json={"mem_limit": "64G"})).status_code in (403, 404)


async def test_properties_that_would_do_nothing_are_refused(admin: Client, spawner: FakeSpawner) -> None:
    await admin.post("groups/7b")
    spawner.profile_list = [{"display_name": "Lessons"}]
    refused = await admin.put("groups/7b/properties", {"profiles": ["lesson"]}, 400)
    assert "no profile of the configuration is; the nearest is “lessons”" in refused["message"]
    for said in ({"image": "py:2"}, {"allowed_images": ["py:2"]}, {"allowed_images": {"Python": "py:2"}}):
        refused = await admin.put("groups/7b/properties", said, 400)
        assert "names no image “py:2”" in refused["message"]
        assert "the nearest is “py:1”" in refused["message"]
    assert (await admin.get("groups/7b"))["properties"] == {}
    fine = {"image": "py:1", "allowed_images": {"Statistics": "R"}, "profiles": ["lessons"], "room": "12"}
    assert (await admin.put("groups/7b/properties", fine))["properties"] == fine


async def test_a_profile_s_nearest_is_named(alice: Client, spawner: FakeSpawner) -> None:
    spawner.profile_list = [{"display_name": "Lessons"}, {"display_name": "Exam"}]
    refused = await alice.post("users/alice/server", {"profile": "lesson"}, 400)
    assert "That profile is not offered to you; the nearest is “lessons”." in refused["message"]
