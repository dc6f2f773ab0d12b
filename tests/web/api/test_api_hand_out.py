"""Nobody hands out what they do not hold: not by a group, not by a name, not by a service that others sign in to."""

from __future__ import annotations

from typing import Any

import pytest
from traitlets.config import Config

from appliance.domain.server import Phase
from appliance.errors import ApplianceError
from appliance.log import redact

from .conftest import Client, House

pytestmark = [pytest.mark.unit, pytest.mark.anyio]
ROLES: dict[str, Any] = {"load_roles": [
    {"name": "keepers", "scopes": ["groups", "admin:groups", "admin:users", "list:users"], "users": ["keeper"]},
    {"name": "bosses", "scopes": ["admin:servers", "tokens"], "users": ["boss"], "groups": ["staff"]},
    {"name": "readers", "scopes": ["list:users"], "users": ["reader"], "groups": ["library"]},
]}
roles = pytest.mark.parametrize("house", [ROLES], indirect=True)


@roles
async def test_nobody_gets_into_a_group_whose_roles_are_more_than_theirs(house: House, admin: Client) -> None:
    keeper = await house.client("keeper")
    await admin.post("groups/lab")
    for path, body in (("groups/staff", {"users": ["keeper"]}), ("groups/%20staff%20", {"users": ["keeper"]}),
                       ("groups", {"groups": ["new", "staff"], "users": ["keeper"]})):
        await keeper.post(path, body, 403)
    await admin.get("groups/new", 404)
    await admin.post("groups/staff")
    await keeper.post("groups/staff/users", {"users": ["keeper"]}, 403)
    assert "bosses" not in (await keeper.get("user"))["roles"]
    # what they hold themselves, and what gives nothing, they give
    await keeper.post("groups/library", {"users": ["keeper"]})
    await keeper.post("groups/lab/users", {"users": ["keeper"]}, 200)
    await keeper.post("groups/staff/users", {"users": []}, 200)
    await admin.post("groups/staff/users", {"users": ["keeper"]}, 200)


@roles
async def test_nobody_is_renamed_into_a_role_that_is_more_than_theirs(house: House, admin: Client) -> None:
    keeper = await house.client("keeper")
    await house.user("carol")
    for name in ("boss", "BOSS"):
        await keeper.patch("users/keeper", {"name": name}, 403)
        await keeper.patch("users/carol", {"name": name}, 403)
    await keeper.patch("users/carol", {"name": "reader"})
    await admin.patch("users/reader", {"name": "boss"})


async def test_nobody_is_renamed_into_an_admin_of_the_configuration(house: House, admin: Client) -> None:
    house.box.authenticator.update_config(Config({"Doors": {"admin_users": {"head"}}}))
    helper = await house.client("teacher", "admin:users", admin=True)
    await house.user("carol")
    await helper.patch("users/carol", {"name": "Head"}, 403)
    await helper.patch("users/carol", {"name": "caroline"})
    await admin.patch("users/caroline", {"name": "head"})


@pytest.mark.parametrize("scope", ["inherit", "self", "tokens!user", "servers!user", "read:users!user"])
async def test_no_service_takes_from_its_visitors_what_its_maker_does_not_hold(
    house: House, admin: Client, scope: str,
) -> None:
    maker = await house.client("teacher", "admin:services", admin=True)
    body = {"oauth_redirect_uri": "https://elsewhere.example/cb", "oauth_no_confirm": True,
            "oauth_client_allowed_scopes": [scope]}
    await maker.post("services/trap", body, 400)
    await maker.post("services/fine", {**body, "oauth_client_allowed_scopes": ["read:users:name!user"]})
    await admin.post("services/trap", body)


@pytest.mark.parametrize("host", [
    "[::ffff:169.254.169.254]", "2852039166", "0xa9fea9fe", "169.254.43518", "0251.0376.0251.0376", "169.254.169.254."])
async def test_other_spellings_of_an_address_that_no_service_has(admin: Client, host: str) -> None:
    await admin.post("services/new", {"url": f"http://{host}:80"}, 400)


async def test_what_is_not_shared_does_not_tell_whether_it_is_there(house: House) -> None:
    bob, alice = await house.user("bob"), await house.client("alice")
    await house.hub.servers.start(bob, actor="bob")
    for method in ("GET", "DELETE"):
        there = await alice(method, "users/alice/shared/bob/")
        assert there.status_code == 404
        for path in ("bob/lab", "nobody/", "nobody/lab"):
            missing = await alice(method, f"users/alice/shared/{path}")
            assert (missing.status_code, missing.json()) == (there.status_code, there.json())


async def test_nobody_asks_by_a_sign_in_whether_anothers_server_runs(house: House) -> None:
    bob = await house.user("bob")
    alice = await house.requester(await house.client("alice"))

    async def said(client_id: str) -> str:
        with pytest.raises(ApplianceError) as caught:
            await house.hub.oauth.ask({"client_id": [client_id], "response_type": ["code"]}, alice)
        return f"{type(caught.value).__name__} {caught.value.sentence}".replace("nobody", "bob")

    before = await said("jupyterhub-user-bob")
    await house.hub.servers.start(bob, actor="bob")
    await house.until("bob", Phase.READY)
    assert await said("jupyterhub-user-bob") == before == await said("jupyterhub-user-nobody")


async def test_one_owner_has_a_thousand_tokens_and_no_more(
    house: House, alice: Client, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("appliance.hub.tokens.MOST_TOKENS", 4)
    made = [await alice.post("users/alice/tokens", {"note": "n"}) for _ in range(3)]
    await alice.post("users/alice/tokens", {"note": "n"}, 400)
    await alice.delete(f"users/alice/tokens/{made[0]['id']}")
    await alice.post("users/alice/tokens", {"note": "n"})


def test_a_token_in_an_address_of_old_clients_is_not_logged() -> None:
    secret = "0123456789abcdef" * 4
    for path in (f"authorizations/token/{secret}", f"authorizations/cookie/appliance-session/{secret}"):
        for text in (f"GET /hub/api/{path} 200", f'{{"RequestPath":"/hub/api/{path}","x":1}}'):
            assert secret not in redact(text)
            assert redact(text).endswith(text[-3:])
