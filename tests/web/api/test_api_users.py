"""Users over the REST API."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from sqlalchemy import select, text

from appliance.domain.names import SMOKE_USER
from appliance.domain.server import Phase
from appliance.store import groups, sessions, users
from appliance.store.rows import EventRow

from .conftest import WRAPPED, Client, House

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


async def names(client: Client, query: str = "") -> list[str]:
    return [user["name"] for user in await client.get(f"users{query}")]


# -- who am I ----------------------------------------------------------------------------------------------------------
async def test_whoami(house: House, alice: Client) -> None:
    model = await alice.get("user")
    assert (model["kind"], model["name"], model["admin"]) == ("user", "alice", False)
    assert (model["groups"], model["roles"], model["server"], model["servers"]) == ([], ["user"], None, {})
    assert model["created"].endswith("Z")
    assert "access:servers!user=alice" in model["scopes"]
    assert not {scope for scope in model["scopes"] if "!user=alice" not in scope}
    assert model["session_id"] is None
    assert (await alice.get(f"users/alice/tokens/{model['token_id']}"))["id"] == model["token_id"]


async def test_whoami_of_a_narrow_token(house: House) -> None:
    narrow = await house.client("alice", "access:servers!user=alice")
    model = await narrow.get("user")
    assert (model["kind"], model["name"], model["groups"]) == ("user", "alice", [])
    assert "servers" not in model
    assert "last_activity" not in model


async def test_running_server_is_in_the_model(house: House, alice: Client) -> None:
    await alice.post("users/alice/server", status=202)
    assert (await alice.get("user"))["pending"] == "spawn"
    await house.until("alice", Phase.READY)
    model = await alice.get("users/alice")
    assert (model["server"], model["pending"]) == ("/user/alice/", None)
    server = model["servers"][""]
    assert server | {"started": 0, "last_activity": 0, "display_name": ""} == {
        "name": "", "display_name": "", "full_name": "alice/", "ready": True, "pending": None, "stopped": False,
        "url": "/user/alice/", "progress_url": "/hub/api/users/alice/server/progress", "full_url": None,
        "full_progress_url": None, "user_options": {}, "started": 0, "last_activity": 0}


@pytest.mark.parametrize("house", [{"public_url": "https://box.school"}], indirect=True)
async def test_full_addresses_where_the_public_one_is_known(house: House, alice: Client) -> None:
    await alice.post("users/alice/server", status=202)
    server = (await alice.get("users/alice/server"))
    assert server["full_url"] == "https://box.school/user/alice/"
    assert server["full_progress_url"] == "https://box.school/hub/api/users/alice/server/progress"


# -- lists -------------------------------------------------------------------------------------------------------------
@pytest.fixture
async def class_of_five(house: House) -> None:
    for name in ("dora", "alice", "carl", "bob", "emil"):
        await house.user(name)
    await house.db.transact(lambda t: [groups.set_of_user(t, users.find(t, name).id, ["7b"])  # type: ignore[union-attr]
                                       for name in ("alice", "bob")] and None)


@pytest.mark.usefixtures("class_of_five")
async def test_list(admin: Client) -> None:
    assert await names(admin) == ["dora", "alice", "carl", "bob", "emil", "teacher"]
    assert await names(admin, "?sort=name") == ["alice", "bob", "carl", "dora", "emil", "teacher"]
    assert await names(admin, "?sort=-name") == ["teacher", "emil", "dora", "carl", "bob", "alice"]
    assert (await names(admin, "?sort=-id"))[0] == "teacher"
    assert await names(admin, "?name_filter=O") == ["dora", "bob"]
    assert await names(admin, "?name_filter=%25") == []
    assert await names(admin, "?name_filter=%00") == await names(admin)
    assert await names(admin, "?what=is&this=") == await names(admin)


@pytest.mark.usefixtures("class_of_five")
async def test_sorted_by_activity(admin: Client) -> None:
    for day, name in enumerate(("emil", "carl", "bob"), 1):
        await admin.post(f"users/{name}/activity", {"last_activity": f"2020-01-0{day}T00:00:00Z"}, 200)
    assert [name for name in await names(admin, "?sort=-last_activity") if name != "teacher"] == [
        "bob", "carl", "emil", "alice", "dora"]
    assert [name for name in await names(admin, "?sort=last_activity") if name != "teacher"] == [
        "dora", "alice", "emil", "carl", "bob"]


async def test_queries_that_cannot_be(admin: Client) -> None:
    for query in ("state=asleep", "sort=uid", "sort=--name", "sort=-", "limit=x", "offset=-1", "limit=-1", "limit=1e3",
                  "limit=", "offset=", "sort=",
                  "limit=" + "9" * 30, "offset=%C2%B2", "limit=1.0"):
        await admin.get(f"users?{query}", 400)


@pytest.mark.usefixtures("class_of_five")
async def test_by_state(house: House, admin: Client) -> None:
    await admin.post("users/alice/server", status=202)
    await house.until("alice", Phase.READY)
    assert await names(admin, "?state=ready") == ["alice"]
    assert await names(admin, "?state=active") == ["alice"]
    assert "alice" not in await names(admin, "?state=inactive")
    assert len(await names(admin, "?state=inactive")) == 5
    await admin.delete("users/alice/server", status=202)
    await house.until("alice", Phase.STOPPED)
    assert await names(admin, "?state=active") == []
    [listed] = await admin.get("users?name_filter=alice")
    assert listed["servers"] == {}
    for query in ("include_stopped_servers", "include_stopped_servers=1", "include_stopped_servers=true"):
        [listed] = await admin.get(f"users?name_filter=alice&{query}")
        assert listed["servers"][""]["stopped"] is True
        assert (await admin.get(f"users/alice?{query}"))["servers"][""]["ready"] is False
    assert (await admin.get("users/alice?include_stopped_servers=0"))["servers"] == {}


@pytest.mark.usefixtures("class_of_five")
async def test_pages(admin: Client) -> None:
    first = await admin.get("users?limit=4&sort=name&what=a%20b", headers=WRAPPED)
    assert [user["name"] for user in first["items"]] == ["alice", "bob", "carl", "dora"]
    page = first["_pagination"]
    assert (page["offset"], page["limit"], page["total"]) == (0, 4, 6)
    assert page["next"]["url"] == "http://box.test/hub/api/users?sort=name&what=a+b&offset=4&limit=4"
    second = await admin.get(page["next"]["url"], headers=WRAPPED)
    assert [user["name"] for user in second["items"]] == ["emil", "teacher"]
    assert second["_pagination"]["next"] is None
    assert await admin.get("users?offset=999999999") == []
    assert len(await admin.get("users?limit=0")) == 1           # as JupyterHub
    assert (await admin.get("users?limit=999999999", headers=WRAPPED))["_pagination"]["limit"] == 200


@pytest.mark.parametrize("house", [{"api_page_max_limit": 3, "api_page_default_limit": 2}], indirect=True)
@pytest.mark.usefixtures("class_of_five")
async def test_limits_of_pages_are_configured(admin: Client) -> None:
    assert len(await admin.get("users")) == 3
    assert len(await admin.get("users?limit=100")) == 3
    assert len((await admin.get("users", headers=WRAPPED))["items"]) == 2
    many = {"Accept": "application/json, Application/JupyterHub-Pagination+JSON; q=0.5"}
    assert len((await admin.get("users?limit=3", headers=many))["items"]) == 3


async def test_every_page_of_a_walk_and_of_a_jump_is_the_one_asked_for(house: House, admin: Client) -> None:
    await admin.post("users", {"usernames": [f"walker-{number:03}" for number in range(60)]}, status=201)
    everybody = await names(admin)
    assert len(everybody) > 60
    for limit in (1, 3, 7, 60):
        walked: list[str] = []
        for offset in range(0, len(everybody), limit):
            page = await names(admin, f"?limit={limit}&offset={offset}")
            assert len(page) <= limit
            walked += page
        assert walked == everybody, limit
    for offset in (5, 20, 41, len(everybody), 1000):        # not where a page begins, and past the end
        assert await names(admin, f"?limit=7&offset={offset}") == everybody[offset:offset + 7]
    await admin.delete("users/walker-010")
    assert "walker-010" not in await names(admin, "?limit=5&offset=10")


async def test_next_page_is_where_the_caller_can_reach_it(house: House, admin: Client) -> None:
    """A culler calls past the proxy, a browser through it."""
    await house.user("alice")
    direct = await admin.get("http://10.77.0.1:8081/hub/api/users?limit=1", headers=WRAPPED)
    assert direct["_pagination"]["next"]["url"].startswith("http://10.77.0.1:8081/hub/api/users?")
    proxied = {"X-Appliance-Proxy": house.hub.proxy_secret, "X-Forwarded-Proto": "https", "X-Forwarded-Host": "box.school"}
    through = await admin.get("users?limit=1", headers=WRAPPED | proxied)
    assert through["_pagination"]["next"]["url"].startswith("https://box.school/hub/api/users?")


@pytest.mark.usefixtures("class_of_five")
async def test_filtered_scopes_list_only_whom_they_reach(house: House) -> None:
    some = await house.client("teacher", "list:users!group=7b", "list:users!user=emil", admin=True)
    assert await names(some) == ["alice", "bob", "emil"]
    listed = await some.get("users?limit=1", headers=WRAPPED)
    assert listed["_pagination"]["total"] == 3
    assert set(listed["items"][0]) == {"kind", "name", "admin", "user_info"}
    others = await house.client("teacher", "list:users!server=alice/", admin=True)
    await others.get("users", 403)


@pytest.mark.usefixtures("class_of_five")
async def test_shown_is_what_the_scopes_let_one_see(house: House) -> None:
    activity = await house.client("teacher", "read:users:activity!group=7b", "read:users:groups!user=alice", admin=True)
    assert set(await activity.get("users/bob")) == {"kind", "name", "last_activity"}
    assert set(await activity.get("users/alice")) == {"kind", "name", "last_activity", "groups"}
    await activity.get("users/carl", 404)
    everything = await (await house.client("teacher")).get("users/alice")
    assert set(everything) == {"kind", "name", "admin", "roles", "groups", "server", "pending", "created", "last_activity",
                               "servers", "auth_state", "user_info"}
    assert everything["auth_state"] is None
    assert everything["groups"] == ["7b"]


async def test_culler_sees_activity_and_servers(house: House) -> None:
    """The idle culler's scopes."""
    await house.user("alice")
    culler = await house.client("teacher", "list:users", "read:users:activity", "read:servers", "delete:servers", admin=True)
    await (await house.client("alice")).post("users/alice/server", status=202)
    await house.until("alice", Phase.READY)
    [model] = await culler.get("users?state=ready")
    assert set(model) == {"kind", "name", "admin", "user_info", "last_activity", "servers"}
    assert {"name", "url", "last_activity", "pending", "ready", "started"} <= set(model["servers"][""])
    await culler.delete("users/alice/server", status=202)


async def test_the_box_s_own_account_is_not_listed(house: House, admin: Client) -> None:
    await house.user(SMOKE_USER)
    await house.user("old")
    await house.db.transact(lambda t: users.archive(t, "old"))
    assert await names(admin) == ["teacher"]


# -- adding ------------------------------------------------------------------------------------------------------------
async def test_add_users(admin: Client) -> None:
    added = await admin.post("users", {"usernames": ["Bob", "alice", "josé", "bob"]})
    assert [user["name"] for user in added] == ["bob", "alice", "josé"]
    assert added[0]["admin"] is False
    again = await admin.post("users", {"usernames": ["bob", "carl"], "admin": True})
    assert [(user["name"], user["admin"], user["roles"]) for user in again] == [("carl", True, ["admin", "user"])]
    await admin.post("users", {"usernames": ["bob"]}, 409)
    await admin.post("users", {"usernames": ["bob", "carl"]}, 409)
    assert (await admin.post("users/dora"))["name"] == "dora"
    assert (await admin.post("users/emil", {"admin": True}))["admin"] is True
    await admin.post("users/dora", status=409)


BAD_NAMES = ["", " ", ".", "..", "a/b", "a b", "x" * 65, "x" * 900, "-x", "`a`", "<script>", "a\x00", "a\nb",
             "\u0440\u0430ypal", "😀", "\ud800", "a\u202eb", "ALICE\u0301!", "$(id)", "alice!", "{name}", "../../etc",
             SMOKE_USER]


async def test_names_that_cannot_be(admin: Client) -> None:
    """GHSA-93gc, GHSA-x7xh: one bad name and nobody is added; a rename is checked no less."""
    for name in BAD_NAMES:
        for method, path, body in (("POST", "users", {"usernames": ["fine", name]}),
                                   ("PATCH", "users/teacher", {"name": name})):
            response = await admin(method, path, content=json.dumps(body).encode())
            assert response.status_code == 400, (name, response.text)
            assert response.json()["message"]
    assert await names(admin) == ["teacher"]


async def test_names_that_cannot_be_stay_short_in_the_answer(admin: Client) -> None:
    message = (await admin.post("users", {"usernames": ["!" * 900] * 50}, 400))["message"]
    assert len(message) < 700


async def test_bodies_that_add_nobody(admin: Client) -> None:
    for body in ({}, {"usernames": []}, {"usernames": "alice"}, {"usernames": [1]}, {"usernames": [["a"]]},
                 {"usernames": ["a"], "admin": "yes"}, {"usernames": ["a"], "admin": None},
                 {"usernames": ["a"], "shoe_size": 43}, {"usernames": None}, {"users": ["a"]}):
        await admin.post("users", body, 400)
    assert await names(admin) == ["teacher"]


async def test_unknown_fields_are_named(admin: Client) -> None:
    message = (await admin.post("users", {"usernames": ["a"], "shoe_size": 43}, 400))["message"]
    assert "shoe_size" in message
    assert "usernames" in message


async def test_a_thousand_at_once(house: House, admin: Client) -> None:
    """In one short transaction; others are answered meanwhile."""
    many = [f"pupil{number:04}" for number in range(1000)]
    answered: list[float] = []

    async def look_on() -> None:
        while True:
            began = time.monotonic()
            await admin.get("")
            answered.append(time.monotonic() - began)
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look_on)
        await anyio.sleep(0.01)
        seen, began = len(answered), time.monotonic()
        added = await admin.post("users", {"usernames": many})
        took = time.monotonic() - began
        meanwhile = answered[seen:]
        tasks.cancel_scope.cancel()
    assert [user["name"] for user in added] == many
    assert len(meanwhile) >= 3, took
    assert sorted(meanwhile)[len(meanwhile) // 2] < 0.1, (took, meanwhile)
    uids = {user.uid for user in await house.db.read(users.list_all)}
    assert len(uids) == 1001
    told = await house.db.read(lambda t: t.scalars(select(EventRow.user_name).where(EventRow.kind == "user.added")).all())
    assert set(many) <= set(told)
    assert (await admin.post("users/one-more"))["name"] == "one-more"
    assert len({user.uid for user in await house.db.read(users.list_all)}) == 1002


# -- changing ----------------------------------------------------------------------------------------------------------
async def test_rename(house: House, admin: Client, alice: Client) -> None:
    await admin.post("groups/7b", {"users": ["alice"]})
    user = await house.user("alice")
    home = await house.box.homes.ensure(user.uid, "alice")
    (home / "work.txt").write_text("mine")
    await alice.post("users/alice/server", status=202)
    await house.until("alice", Phase.READY)
    message = (await admin.patch("users/alice", {"name": "alicia"}, 400))["message"]
    assert "Stop it" in message
    await admin.delete("users/alice/server", status=202)
    await house.until("alice", Phase.STOPPED)
    server = (await house.hub.servers.view("alice"))
    assert server
    model = await admin.patch("users/alice", {"name": "Alicia"})
    assert (model["name"], model["groups"], model["auth_state"]) == ("alicia", ["7b"], None)
    assert (await alice.get("user"))["name"] == "alicia"              # the token stays hers
    renamed = await house.user("alicia")
    assert (renamed.id, renamed.uid) == (user.id, user.uid)
    assert (await house.box.homes.ensure(user.uid, "alicia") / "work.txt").read_text() == "mine"
    assert (await house.hub.servers.view("alicia")).id == server.id  # type: ignore[union-attr]
    await alice.get("users/alice", 404)
    await alice.post("users/alicia/server", status=202)
    await house.until("alicia", Phase.READY)
    assert (await admin.post("users/alice"))["name"] == "alice"       # the name is free again


async def test_rename_to_a_name_that_is_taken(house: House, admin: Client) -> None:
    await house.user("bob")
    await house.user("alice")
    await admin.patch("users/alice", {"name": "bob"}, 400)
    assert (await admin.patch("users/alice", {"name": "Alice"}))["name"] == "alice"
    await admin.patch("users/nobody", {"name": "bob"}, 404)


async def test_rename_that_cannot_reach_the_home_changes_nothing(house: House, admin: Client) -> None:
    await house.user("alice")
    house.box.homes.unavailable = True  # type: ignore[attr-defined]
    await admin.patch("users/alice", {"name": "alicia"}, 503)
    await admin.get("users/alice")
    await admin.get("users/alicia", 404)


async def test_make_an_admin_and_none(house: House, admin: Client) -> None:
    await house.user("alice")
    assert (await admin.patch("users/alice", {"admin": True}))["roles"] == ["admin", "user"]
    alice = await house.client("alice")
    await alice.get("users")
    await admin.patch("users/alice", {"admin": False})
    await alice.get("users", 403)
    await admin.patch("users/alice", {}, 200)
    await admin.patch("users/alice", {"admin": 1}, 400)
    await admin.patch("users/alice", {"groups": []}, 400)
    await admin.patch("users/alice", None, 400)


async def test_delete(house: House, admin: Client, alice: Client) -> None:
    user = await house.user("alice")
    home = await house.box.homes.ensure(user.uid, "alice")
    session = await house.db.transact(lambda t: sessions.add(
        t, "s", user.id, origin="", address="", user_agent="", lifetime_s=99))
    await alice.post("users/alice/server", status=202)
    await house.until("alice", Phase.READY)
    await admin.delete("users/alice")
    await admin.get("users/alice", 404)
    await alice.get("user", 403)
    assert await house.db.read(lambda t: sessions.find(t, session.id)) is None
    with anyio.fail_after(15):
        while house.box.spawner.engine.servers:  # type: ignore[attr-defined]
            await anyio.sleep(0.02)
    assert home.exists()
    assert (await admin.post("users/alice"))["name"] == "alice"
    assert (await house.user("alice")).uid != user.uid               # a new alice gets nothing of the old one
    await admin.delete("users/nobody", status=404)


async def test_nobody_deletes_themselves(admin: Client) -> None:
    message = (await admin.delete("users/teacher", status=400))["message"]
    assert "themselves" in message
    assert await names(admin) == ["teacher"]


# -- activity ----------------------------------------------------------------------------------------------------------
async def test_activity_keeps_the_newest(house: House, alice: Client) -> None:
    await alice.post("users/alice/server", status=202)
    body = {"servers": {"": {"last_activity": "2030-01-01T00:00:00Z"}}, "last_activity": "2020-02-02T10:00:00+01:00"}
    await alice.post("users/alice/activity", body, 400)                # that server's time is far ahead
    assert (await alice.get("users/alice"))["last_activity"] is None   # and nothing of it was kept
    soon = (datetime.now(UTC) + timedelta(minutes=50)).replace(tzinfo=None).isoformat()
    body["servers"][""]["last_activity"] = soon    # type: ignore[index]
    await alice.post("users/alice/activity", body, 200)
    for older in ("2020-01-01T00:00:00Z", "2020-02-02T08:59:59Z"):
        await alice.post("users/alice/activity", {
            "last_activity": older, "servers": {"": {"last_activity": older, "more": 1}}, "more": 2}, 200)
    model = await alice.get("users/alice")
    assert model["last_activity"] == "2020-02-02T09:00:00Z"
    assert model["servers"][""]["last_activity"] == f"{soon}Z"


@pytest.mark.parametrize("body", [
    {}, {"last_activity": ""}, {"last_activity": "soon"}, {"last_activity": 5}, {"servers": {}}, {"servers": []},
    {"last_activity": "2999-01-01T00:00:00Z"}, {"last_activity": "0001-01-01T00:00:00+14:00"}, {"last_activity": "x" * 99},
    {"servers": {"lab": {"last_activity": "2020-01-01T00:00:00Z"}}}, {"servers": {"": {}}}, {"servers": {"": "2020-01-01"}},
    {"servers": {"": {"last_activity": None}}}, {"servers": {"\x1b[2J": {"last_activity": "2020-01-01T00:00:00Z"}}}])
async def test_activity_that_cannot_be(body: dict[str, Any], alice: Client) -> None:
    await alice.post("users/alice/activity", body, 400)
    assert (await alice.get("users/alice"))["last_activity"] is None


# -- one bad row -------------------------------------------------------------------------------------------------------
async def test_one_bad_row_does_not_break_a_list(house: House, admin: Client, alice: Client) -> None:
    """GHSA-hx46."""
    await alice.post("users/alice/server", status=202)
    await house.until("alice", Phase.READY)
    for broken in ('{"name": 1, "state": {}, "ready": "no"}', "[1, 2]", '"text"', "null", "17"):
        await house.db.transact(lambda t, broken=broken: t.execute(  # type: ignore[misc]
            text("UPDATE servers SET user_options = :it"), {"it": broken}) and None)
        [listed] = await admin.get("users?state=active")
        assert listed["servers"][""]["user_options"] in ({}, {"name": 1, "state": {}, "ready": "no"})
        assert (listed["servers"][""]["name"], listed["servers"][""]["ready"]) == ("", True)
