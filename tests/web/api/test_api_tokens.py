"""Tokens over the REST API."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.store import tokens as token_store
from appliance.store import users as user_store

from .conftest import Client, House

pytestmark = [pytest.mark.unit, pytest.mark.anyio]
MINE = "users/alice/tokens"


async def test_make_list_read_revoke(house: House, alice: Client) -> None:
    made = await alice.post(MINE, {"note": "my script", "expires_in": 3600, "scopes": ["read:users!user"]})
    assert (made["user"], made["note"], made["kind"]) == ("alice", "my script", "api_token")
    assert made["scopes"] == ["read:users!user"]
    assert made["expires_at"].endswith("Z")
    listed = (await alice.get(MINE))["api_tokens"]
    assert made["id"] in [token["id"] for token in listed]
    assert all("token" not in token for token in listed)
    assert (await alice.get(f"{MINE}/{made['id']}")) == {key: value for key, value in made.items() if key != "token"}
    script = Client(house.app, made["token"])
    assert (await script.get("users/alice"))["name"] == "alice"
    await script.get(MINE, 403)
    await alice.delete(f"{MINE}/{made['id']}")
    await script.get("users/alice", 403)
    for gone in (made["id"], "a999999", "x1", "a", "a-1", "a1e3", "a" + "9" * 40, "%00"):
        await alice.get(f"{MINE}/{gone}", 404)
        await alice.delete(f"{MINE}/{gone}", status=404)


async def test_without_a_body_it_may_what_its_owner_may(house: House, alice: Client) -> None:
    made = await alice.post(MINE)
    assert (made["scopes"], made["expires_at"], made["note"]) == (["inherit"], None, "Requested via api")
    assert (await Client(house.app, made["token"]).get("user"))["name"] == "alice"


async def test_lifetimes_that_cannot_be(alice: Client) -> None:
    """GHSA-pvm9: 0 is not “no end”."""
    for expires_in in (0, -1, -3600, True, False, "3600", 1.5, 10**9, 10**18, [60], {}):
        await alice.post(MINE, {"expires_in": expires_in}, 400)


@pytest.mark.parametrize("house", [{"token_expires_in_max_seconds": 3600}], indirect=True)
async def test_longest_life_holds_however_it_is_asked_for(alice: Client) -> None:
    """GHSA-pvm9."""
    for expires_in in (3601, 365 * 86_400, 0, -1):
        await alice.post(MINE, {"expires_in": expires_in}, 400)
    for body in (None, {}, {"expires_in": None}, {"expires_in": 3600}):
        assert (await alice.post(MINE, body))["expires_at"]


BODIES_OF_NONE: tuple[Any, ...] = (
    {"scopes": "all"}, {"scopes": [1]}, {"scopes": ["everything"]}, {"scopes": ["read:users!"]}, {"scopes": ["read:users!=x"]},
    {"scopes": ["read:users!group"]}, {"scopes": ["x" * 5000]}, {"scopes": ["self"] * 501}, {"note": 1}, {"note": "x" * 201},
    {"expires": 5}, {"expires_in": 60, "scope": ["self"]},
    {"roles": "admin"}, {"roles": ["nobody"]}, {"roles": ["user"], "scopes": ["self"]}, {"roles": [None]}, [])


async def test_bodies_that_make_no_token(alice: Client) -> None:
    before = (await alice.get(MINE))["api_tokens"]
    for body in BODIES_OF_NONE:
        await alice.post(MINE, body, 400)
    assert (await alice.get(MINE))["api_tokens"] == before


async def test_a_key_that_is_none_is_told_with_the_nearest(alice: Client) -> None:
    refused = await alice.post(MINE, {"expires": 5}, 400)
    assert refused["message"] == "The body has nothing called “expires”; the nearest is “expires_in”."
    assert "there are “auth”, “expires_in”" in (await alice.post(MINE, {"zzz": 5}, 400))["message"]


async def test_what_was_asked_for_is_named_and_not_all_that_it_brings(alice: Client) -> None:
    refused = await alice.post(MINE, {"scopes": ["read:users!user", "admin:users", "servers!user=bob"]}, 403)
    assert refused["message"] == "A token cannot have what alice does not hold: admin:users, servers!user=bob."


async def test_no_token_is_told_with_where_to_get_one(house: House, stranger: Client) -> None:
    for headers in ({}, {"Authorization": "0123"}, {"Authorization": "Basic eDp5"}):
        said = (await stranger.get("users", 403, headers=headers))["message"]
        assert said == ("There is no token in this request. Send the header “Authorization: token …”; make one on "
                        "/hub/token.")
    browser = {"Cookie": "jupyterhub-hub-login=ended"}
    assert (await stranger.get("users", 403, headers=browser))["message"] == "Please sign in first."


async def test_nobody_hands_out_what_they_do_not_hold(house: House, alice: Client) -> None:
    await house.user("bob")
    before = (await alice.get(MINE))["api_tokens"]
    for body in ({"scopes": ["admin:users"]}, {"scopes": ["read:users"]}, {"scopes": ["servers!user=bob"]},
                 {"roles": ["admin"]}, {"scopes": ["self", "shutdown"]}):
        await alice.post(MINE, body, 403)
    assert (await alice.get(MINE))["api_tokens"] == before


async def test_a_narrow_token_makes_no_wider_one(house: House) -> None:
    narrow = await house.client("alice", "tokens!user", "read:users:name!user")
    await narrow.post(MINE, None, 403)
    await narrow.post(MINE, {"scopes": ["inherit"]}, 403)
    await narrow.post(MINE, {"scopes": ["servers!user"]}, 403)
    assert (await narrow.post(MINE, {"scopes": ["read:users:name!user"]}))["token"]


async def test_admins_make_tokens_for_others(house: House, admin: Client) -> None:
    await house.user("bob")
    made = await admin.post("users/bob/tokens", {"scopes": ["self"]})
    assert (made["user"], made["note"]) == ("bob", "Requested via api by user teacher")
    assert (await Client(house.app, made["token"]).get("user"))["name"] == "bob"
    await admin.post("users/nobody/tokens", status=404)


async def test_who_may_not_make_tokens_for_somebody_is_told_403(house: House, alice: Client) -> None:
    await house.user("bob")
    assert await alice.post("users/bob/tokens", status=403) == await alice.post("users/nobody/tokens", status=403)
    await alice.get("users/bob/tokens", 404)


async def test_token_of_oauth_takes_the_others_of_its_client_along(house: House, alice: Client) -> None:
    user = await house.user("alice")
    session, _ = await house.hub.sessions.begin(user, origin="", address="", user_agent="")
    made = [await house.db.transact(lambda t, client=client: token_store.add(  # type: ignore[misc]
        t, user_id=user.id, scopes=["self"], note="", expires_in_s=60, client_id=client, session_id=session.id, actor="hub"))
        for client in ("jupyterhub-user-alice", "jupyterhub-user-alice", "service-culler")]
    listed = {token["id"]: token for token in (await alice.get(MINE))["api_tokens"]}
    assert listed[made[0][1].api_id]["oauth_client"] == "jupyterhub-user-alice"
    await alice.delete(f"{MINE}/{made[0][1].api_id}")
    left = {token["id"] for token in (await alice.get(MINE))["api_tokens"]}
    assert made[1][1].api_id not in left
    assert made[2][1].api_id in left


# -- what clients asked before -----------------------------------------------------------------------------------------
async def test_old_addresses(house: House, alice: Client, stranger: Client) -> None:
    model = await alice.get(f"authorizations/token/{alice.token}")
    assert (model["name"], model["kind"]) == ("alice", "user")
    await alice.get("authorizations/token/" + "0" * 64, 404)
    await stranger.get(f"authorizations/token/{alice.token}", 403)
    for client in (alice, stranger):
        assert "/users/NAME/tokens" in (await client.post("authorizations/token", {"auth": {}}, 404))["message"]


async def test_whose_cookie_it_is(house: House, alice: Client, admin: Client) -> None:
    session, value = await house.hub.sessions.begin(await house.user("alice"), origin="", address="", user_agent="")
    for client in (alice, admin):
        assert (await client.get(f"authorizations/cookie/jupyterhub-hub-login/{value}"))["name"] == "alice"
    bob = await house.client("bob")
    await bob.get(f"authorizations/cookie/jupyterhub-hub-login/{value}", 404)
    await alice.get(f"authorizations/cookie/_xsrf/{value}", 404)
    await alice.get("authorizations/cookie/jupyterhub-hub-login/nonsense", 404)
    await house.hub.sessions.sign_out(session)
    await alice.get(f"authorizations/cookie/jupyterhub-hub-login/{value}", 404)


def auth(username: object, password: object, **more: object) -> dict[str, object]:
    return {"auth": {"username": username, "password": password}, **more}


async def test_name_and_password_in_the_body_stand_for_a_token(house: House, stranger: Client) -> None:
    await house.user("alice")
    made = await stranger.post(MINE, auth("Alice", "please", note="first", scopes=["read:users!user"]))
    assert (made["user"], made["note"], made["scopes"]) == ("alice", "first", ["read:users!user"])
    assert (await Client(house.app, made["token"]).get("user"))["name"] == "alice"


async def test_wrong_password_makes_no_token_and_is_counted(house: House, stranger: Client) -> None:
    await house.user("alice")
    bodies = (auth("alice", "wrong"), auth("alice", ""), auth("", "please"), auth("x" * 5000, "please"),
              auth("alice\n", "please"), {"auth": None}, {}, None)
    for body in bodies:
        refused = await stranger.post(MINE, body, 403)
        assert "please" not in refused["message"]
    for body in (auth("a\x00", "please"), auth(1, "please"),
                  auth("alice", ["please"]), {"auth": "alice"}, {"auth": {"username": "alice"}}):
        await stranger.post(MINE, body, 400)
    assert await house.hub.tokens.list(await house.user("alice")) == []
    statuses = [(await stranger("POST", MINE, json=auth("alice", "wrong"))).status_code for _ in range(30)]
    assert 429 in statuses


async def test_a_password_of_one_makes_no_token_for_another(house: House, stranger: Client) -> None:
    for name in ("alice", "bob"):
        await house.user(name)
    await stranger.post("users/bob/tokens", auth("alice", "please"), 403)
    await stranger.post("users/alice/tokens", auth("alice", "please", scopes=["admin:users"]), 403)


async def test_a_token_that_came_along_counts_and_not_the_password_beside_it(house: House, stranger: Client) -> None:
    await house.user("teacher", admin=True)
    bob = await house.client("bob")
    await bob.post(MINE, auth("teacher", "please"), 403)
    await Client(house.app, "x" * 64).post(MINE, auth("teacher", "please"), 403)


async def test_first_password_has_to_be_changed_before_it_makes_a_token(house: House, stranger: Client) -> None:
    class Fresh(type(house.box.authenticator)):    # type: ignore[misc]
        async def authenticate(self, request: object, data: dict[str, str]) -> dict[str, object]:
            return {"name": data["username"]}

    await house.user("alice")
    house.hub.accounts._authenticator = Fresh()
    await house.db.transact(lambda t: user_store.set_password(t, "alice", "hash", must_change=True))
    refused = await stranger.post(MINE, auth("alice", "please"), 403)
    assert "password of your own" in refused["message"]
