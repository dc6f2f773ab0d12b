"""Whose a token is and what it may, with a real database: roles, groups, shares, and every way a token can end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest

from appliance.domain.capability import derive_key, injected_token, server_token
from appliance.domain.requester import Requester
from appliance.domain.roles import ADMIN_SCOPES, Roles, parse
from appliance.domain.scopes import Owner, Rights, define, expand
from appliance.domain.server import Phase
from appliance.domain.user import Session, User
from appliance.errors import ApplianceError, BadInput, BadOption, BadScope, Refused
from appliance.hub import permissions
from appliance.hub.permissions import Permissions
from appliance.hub.tokens import Tokens
from appliance.store import groups, servers, sessions, shares, tokens, users
from appliance.store.database import Database

from .conftest import KEY, MiniHub, World

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

CUSTOM = define({"custom:grades": {"description": "change grades"}})
ROLES = parse([
    {"name": "grader", "scopes": ["read:users!group=7a", "custom:grades!group=7a"], "groups": ["teachers"]},
    {"name": "culling", "scopes": ["list:users", "read:servers", "delete:servers"], "services": ["culler"]},
    {"name": "desk", "scopes": ["tokens", "list:users", "admin:users"], "users": ["desk"]},
], CUSTOM)


class Book:
    def __init__(self) -> None:
        self.admins = {"culler": False, "backup": True}
        self.secrets = {"c" * 32: "culler"}

    def is_admin(self, name: str) -> bool | None:
        return self.admins.get(name)

    def of_token(self, token: str) -> str | None:
        return self.secrets.get(token)


@dataclass
class Office:
    hub: MiniHub
    permissions: Permissions
    tokens: Tokens
    book: Book

    async def user(self, name: str, *, admin: bool = False, groups_: Sequence[str] = ()) -> User:
        user = await self.hub.user(name)

        def work(t: Any) -> None:
            users.set_admin(t, user.id, admin)
            groups.set_of_user(t, user.id, groups_)

        await self.hub.db.transact(work)
        found = await self.hub.db.read(lambda t: users.get(t, user.id))
        assert found is not None
        return found

    async def session(self, user: User) -> tuple[Session, Requester]:
        session = await self.hub.db.transact(lambda t: sessions.add(
            t, f"session-{user.name}", user.id, origin="", address="", user_agent="", lifetime_s=3600))
        return session, await self.permissions.by_session(session)

    async def token(self, owner: User | str, *scopes: str, **more: Any) -> tuple[str, Requester]:
        """Return a token that the box itself makes, and who it is."""
        secret, _ = await self.tokens.create(owner, scopes=scopes or None, by=None, **more)
        found = await self.permissions.by_token(secret)
        assert found is not None
        return secret, found


@pytest.fixture
async def office(world: World) -> AsyncIterator[Office]:
    async with world.hub() as hub:
        book = Book()
        permissions = Permissions(hub.db, ROLES, KEY, book)
        yield Office(hub, permissions, Tokens(hub.db, permissions), book)


def reaches(rights: Rights, scope: str) -> frozenset[str]:
    return rights.reach(scope).users


# -- roles and groups --------------------------------------------------------------------------------------------------
async def test_a_student_may_do_what_is_their_own_and_nothing_else(office: Office) -> None:
    ada = await office.user("ada")
    _, found = await office.session(ada)
    assert (found.kind, found.name, found.roles, found.groups) == ("user", "ada", ("user",), ())
    assert found.user is not None
    assert found.user.id == ada.id
    assert found.session_id == "session-ada"
    assert not found.is_token
    assert found.inherits
    for scope in ("servers", "tokens", "access:servers", "read:users", "users:activity"):
        assert reaches(found.rights, scope) == {"ada"}
        assert not found.rights.has(scope)
    for scope in ("list:users", "admin:users", "admin-ui", "read:hub", "shutdown", "read:metrics", "shares", "groups"):
        assert not found.rights.reach(scope)


async def test_an_admin_may_do_everything_and_nobody_becomes_one_by_half(office: Office) -> None:
    root = await office.user("root", admin=True)
    _, found = await office.session(root)
    assert found.roles == ("admin", "user")
    assert all(found.rights.has(scope) for scope in ADMIN_SCOPES)
    assert office.permissions.missing_of_admin(found.rights) == []
    # admin:users alone makes nobody an admin
    desk = await office.permissions.of_user(await office.user("desk"))
    assert desk.has("admin:users")
    assert "admin:servers" in office.permissions.missing_of_admin(desk)
    # neither does an admin's token that may less
    _, narrow = await office.token(root, "admin:users", "admin:servers")
    assert "shutdown" in office.permissions.missing_of_admin(narrow.rights)


async def test_roles_come_with_groups_and_go_with_them(office: Office) -> None:
    teacher = await office.user("miss", groups_=["teachers"])
    secret, found = await office.token(teacher)
    assert found.roles == ("grader", "user")
    assert found.groups == ("teachers",)
    assert found.rights.holds("read:users!user=ada", lambda user: ["7a"])
    assert found.rights.holds("custom:grades!group=7a")
    await office.user("miss")
    again = await office.permissions.by_token(secret)
    assert again is not None
    assert again.roles == ("user",)
    assert not again.rights.reach("custom:grades")


async def test_with_the_admin_flag_goes_what_its_tokens_could(office: Office) -> None:
    root = await office.user("root", admin=True)
    secret, found = await office.token(root)
    narrow, _ = await office.token(root, "list:users", "shutdown")
    assert found.rights.has("shutdown")
    await office.user("root")
    for one in (secret, narrow):
        again = await office.permissions.by_token(one)
        assert again is not None
        assert not again.rights.reach("shutdown")
        assert not again.rights.reach("list:users")


# -- tokens ------------------------------------------------------------------------------------------------------------
async def test_a_token_may_what_it_says_as_far_as_its_owner_may(office: Office) -> None:
    ada = await office.user("ada")
    _, found = await office.token(ada, "read:users!user", "start:servers!server=ada/lab")
    assert found.is_token
    assert not found.inherits
    assert reaches(found.rights, "read:users") == {"ada"}
    assert found.rights.reach("start:servers").servers == {"ada/lab"}
    assert not found.rights.reach("tokens")
    assert not found.rights.reach("access:servers")
    _, nothing = await office.token(ada, "(no_scope)")
    assert nothing.rights.expanded == {"read:users:name!user=ada", "read:users:groups!user=ada"}


async def test_a_scope_that_is_gone_from_the_configuration_is_gone_from_tokens(office: Office) -> None:
    teacher = await office.user("miss", groups_=["teachers"])
    secret, found = await office.token(teacher, "custom:grades!group=7a", "read:users!user")
    assert found.rights.reach("custom:grades")
    later = Permissions(office.hub.db, Roles(), KEY, office.book)
    again = await later.by_token(secret)
    assert again is not None
    assert not again.rights.reach("custom:grades")
    assert reaches(again.rights, "read:users") == {"miss"}


@pytest.mark.parametrize("token", ["", "x", "x" * 15, "x" * 64, "x" * 501, "ä" * 64, "v1.1." + "x" * 43, "a" * 43, "\x00" * 43])
async def test_what_is_no_token_is_nobodys(office: Office, token: str) -> None:
    assert await office.permissions.by_token(token) is None


async def test_a_revoked_token_is_nobodys_at_the_very_next_request(office: Office) -> None:
    ada = await office.user("ada")
    secret, found = await office.token(ada)
    for record in await office.tokens.list(ada):
        await office.tokens.revoke(record, actor="ada")
    assert found is not None
    assert await office.permissions.by_token(secret) is None


async def test_what_another_process_revoked_or_took_away_is_gone_at_the_very_next_request(office: Office) -> None:
    root = await office.user("root", admin=True)
    secret, found = await office.token(root)
    session, _ = await office.session(root)
    for _ in range(2):
        assert (await office.permissions.by_token(secret)) is not None
        assert (await office.permissions.by_session(session)).rights.has("shutdown")
    other = Database(office.hub.db.url)
    try:
        other.run(lambda t: users.set_admin(t, root.id, False))
        again = await office.permissions.by_token(secret)
        assert again is not None
        assert not again.rights.reach("shutdown")
        other.run(lambda t: tokens.revoke(t, [found.token_id or 0]))
        assert await office.permissions.by_token(secret) is None
    finally:
        other.close()


async def test_an_expired_token_is_refused_also_right_after_it_was_used(
    office: Office, monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(seconds=61)

    secret, _ = await office.token(await office.user("ada"), expires_in_s=60)
    assert await office.permissions.by_token(secret) is not None
    monkeypatch.setattr(permissions, "datetime", Later)
    assert await office.permissions.by_token(secret) is None


@pytest.mark.parametrize("end", [users.archive, users.delete])
async def test_with_an_account_every_token_of_it_ends(office: Office, end: Any) -> None:
    ada = await office.user("ada")
    server = await office.hub.start("ada")
    secrets = [(await office.token(ada))[0], server_token(KEY, server.id, 1), injected_token(KEY, server.id, 1)]
    assert all([await office.permissions.by_token(secret) for secret in secrets])
    await office.hub.db.transact(lambda t: end(t, "ada"))
    assert not any([await office.permissions.by_token(secret) for secret in secrets])


async def test_the_last_use_is_written_now_and_then(office: Office) -> None:
    ada = await office.user("ada")
    secret, _ = await office.token(ada)
    first = (await office.tokens.list(ada))[0].last_used_at
    assert first is not None
    await office.permissions.by_token(secret)
    assert (await office.tokens.list(ada))[0].last_used_at == first


# -- a running server's own two tokens ---------------------------------------------------------------------------------
async def test_a_server_speaks_for_itself_and_may_hardly_anything(office: Office) -> None:
    ada = await office.user("ada", admin=True)
    server = await office.hub.start("ada")
    found = await office.permissions.by_token(server_token(KEY, server.id, server.start_no))
    assert found is not None
    assert (found.kind, found.name, found.user, found.server_id) == ("server", "ada", ada, server.id)
    assert found.rights.expanded == {
        "users:activity!user=ada", "read:users:activity!user=ada", "access:servers!server=ada/",
        "read:users:name!user=ada", "read:users:groups!user=ada"}
    assert found.is_token
    assert not found.inherits


async def test_what_the_edge_adds_says_who_it_is_and_opens_that_server(office: Office) -> None:
    await office.user("ada")
    server = await office.hub.start("ada")
    found = await office.permissions.by_token(injected_token(KEY, server.id, server.start_no))
    assert found is not None
    assert found.kind == "server"
    assert found.name == "ada"
    assert found.rights.expanded == {
        "access:servers!server=ada/", "read:users:name!user=ada", "read:users:groups!user=ada"}


async def test_a_servers_tokens_end_with_its_start(office: Office) -> None:
    ada = await office.user("ada")
    server = await office.hub.start("ada")
    old = [server_token(KEY, server.id, 1), injected_token(KEY, server.id, 1)]
    await office.hub.servers.stop(ada, actor="ada")
    await office.hub.until(server.id, Phase.STOPPED)
    assert not any([await office.permissions.by_token(token) for token in old])
    assert (await office.hub.start("ada")).start_no == 2
    assert not any([await office.permissions.by_token(token) for token in old])
    assert await office.permissions.by_token(server_token(KEY, server.id, 2)) is not None
    assert await office.permissions.by_token(server_token(KEY, server.id, 3)) is None
    assert await office.permissions.by_token(server_token(derive_key(KEY, "other"), server.id, 2)) is None


async def test_neither_makes_a_token(office: Office) -> None:
    ada = await office.user("ada")
    server = await office.hub.start("ada")
    for token in (server_token(KEY, server.id, 1), injected_token(KEY, server.id, 1)):
        found = await office.permissions.by_token(token)
        for scopes in (None, ["self"], ["read:users!user"], ["inherit"]):
            with pytest.raises(Refused):
                await office.tokens.create(ada, scopes=scopes, by=found)
    assert await office.tokens.list(ada) == []


# -- services ----------------------------------------------------------------------------------------------------------
async def test_a_service_may_what_its_roles_say(office: Office) -> None:
    found = await office.permissions.by_token("c" * 32)
    assert found is not None
    assert (found.kind, found.name, found.service_name, found.user) == ("service", "culler", "culler", None)
    assert found.rights.has("delete:servers")
    assert not found.rights.reach("start:servers")
    assert found.rights.holds("read:services:name!service=culler")
    assert office.permissions.of_service("backup").has("admin:users")
    assert office.permissions.of_service("nobody") == Rights()


async def test_a_token_of_a_service_ends_with_the_service(office: Office) -> None:
    secret, found = await office.token("culler", "list:users")
    assert found.kind == "service"
    assert found.rights.has("list:users")
    assert not found.rights.reach("delete:servers")
    del office.book.admins["culler"]
    assert await office.permissions.by_token(secret) is None


async def test_a_user_and_a_service_of_one_name_are_two(office: Office) -> None:
    culler = await office.user("culler")
    assert (await office.permissions.of_user(culler)).reach("delete:servers").users == {"culler"}
    secret, _ = await office.tokens.create(culler, by=None)
    found = await office.permissions.by_token(secret)
    assert found is not None
    assert found.kind == "user"
    assert not found.rights.has("delete:servers")
    assert await office.tokens.list("culler") == []
    record = (await office.tokens.list(culler))[0]
    assert await office.tokens.get("culler", record.api_id) is None
    assert await office.tokens.get(culler, record.api_id) == record


# -- who enters a server with a token ----------------------------------------------------------------------------------
async def test_a_script_enters_its_own_server_with_the_right_to(office: Office) -> None:
    ada, bob = await office.user("ada"), await office.user("bob", admin=True)
    server = await office.hub.start("ada")
    enter = office.permissions.may_enter
    assert await enter((await office.token(ada))[1], server)
    assert await enter((await office.token(ada, "access:servers!server=ada/"))[1], server)
    assert not await enter((await office.token(ada, "read:servers!user"))[1], server)
    assert not await enter((await office.token(ada, "access:servers!server=ada/lab"))[1], server)
    assert not await enter((await office.session(ada))[1], server)          # a browser has its own way
    # all servers are of one origin: not even an admin, by whatever scope
    assert not await enter((await office.token(bob))[1], server)
    assert not await enter((await office.token(bob, "access:servers!server=ada/"))[1], server)


async def test_a_share_opens_a_server_to_a_script_until_it_is_taken_back(office: Office) -> None:
    await office.user("ada")
    bob, cy = await office.user("bob", groups_=["7b"]), await office.user("cy")
    server = await office.hub.start("ada")
    secret, found = await office.token(bob)
    assert not await office.permissions.may_enter(found, server)
    group_id = (await office.hub.db.read(lambda t: groups.ids_of_user(t, bob.id)))[0]
    await office.hub.db.transact(lambda t: shares.grant(t, server.id, ["access:servers"], group_id=group_id, actor="ada"))
    found = await office.permissions.by_token(secret)
    assert found is not None
    assert found.rights.reach("access:servers").servers == {"ada/"}
    assert await office.permissions.may_enter(found, server)
    assert not await office.permissions.may_enter((await office.token(cy))[1], server)
    assert not await office.permissions.may_enter((await office.token(bob, "access:servers!user"))[1], server)
    await office.hub.db.transact(lambda t: shares.revoke(t, server.id, None, group_id=group_id, actor="ada"))
    assert not await office.permissions.may_enter(found, server)            # also with what was looked up before


# -- making tokens -----------------------------------------------------------------------------------------------------
async def test_nobody_hands_out_what_they_do_not_hold(office: Office) -> None:
    ada, bob = await office.user("ada"), await office.user("bob")
    root, desk = await office.user("root", admin=True), await office.user("desk")
    _, adas = await office.session(ada)
    _, desks = await office.session(desk)
    _, roots = await office.session(root)

    async def refused(owner: User | str, by: Requester, *scopes: str) -> None:
        with pytest.raises(Refused) as error:
            await office.tokens.create(owner, scopes=scopes or None, by=by)
        assert error.value.sentence.endswith(".")
        assert await office.tokens.list(owner) == []

    await refused(ada, adas, "list:users")             # neither the owner nor who asks
    await refused(ada, roots, "list:users")            # who asks, but not the owner
    await refused(bob, adas)                           # somebody else's
    await refused(bob, adas, "read:users:name!user=bob")
    await refused(bob, desks)                          # may make tokens, but does not hold bob's servers
    await refused(root, desks)
    await refused(root, desks, "shutdown")
    await refused("backup", adas, "list:users")
    for by in (adas, roots):
        secret, record = await office.tokens.create(ada, by=by, note="mine")
        assert record.scopes == ("inherit",)
        assert await office.permissions.by_token(secret) is not None
    secret, record = await office.tokens.create(bob, by=desks, scopes=["read:users!user"])
    assert record.scopes == ("read:users!user",)


async def test_a_narrow_token_makes_no_wider_one(office: Office) -> None:
    ada = await office.user("ada", admin=True)
    _, narrow = await office.token(ada, "tokens!user", "read:users!user")
    for scopes in (None, ["inherit"], ["self"], ["servers!user"], ["read:users"], ["shutdown"]):
        with pytest.raises(Refused):
            await office.tokens.create(ada, scopes=scopes, by=narrow)
    _, record = await office.tokens.create(ada, scopes=["read:users!user", "(no_scope)"], by=narrow)
    assert record.scopes == ("read:users!user", "(no_scope)")
    # one that holds all that its owner holds now does not get what the owner may be given later
    _, all_of_it = await office.token(await office.user("bob"), "self")
    bob = all_of_it.user
    assert bob is not None
    with pytest.raises(Refused, match="everything"):
        await office.tokens.create(bob, by=all_of_it)


async def test_a_token_without_the_right_to_make_tokens_makes_none(office: Office) -> None:
    ada = await office.user("ada")
    _, found = await office.token(ada, "read:users!user")
    with pytest.raises(Refused, match="tokens"):
        await office.tokens.create(ada, scopes=["read:users!user"], by=found)


@pytest.mark.parametrize("expires_in_s", [0, -1, True, 10**10, 1.5, "60"])
async def test_a_lifetime_that_is_none_is_refused(office: Office, expires_in_s: Any) -> None:
    ada = await office.user("ada")
    with pytest.raises(BadOption):
        await office.tokens.create(ada, expires_in_s=expires_in_s, by=None)


async def test_the_longest_life_holds_for_every_way_to_say_none(office: Office) -> None:
    ada = await office.user("ada")
    capped = Tokens(office.hub.db, office.permissions, longest_s=3600)
    for said in (None, 1, 3600):
        _, record = await capped.create(ada, expires_in_s=said, by=None)
        assert record.expires_at is not None
        assert 0 < (record.expires_at - record.created_at).total_seconds() <= 3600
    for said in (0, -1, 3601, 365 * 86_400, False):
        with pytest.raises(BadOption):
            await capped.create(ada, expires_in_s=said, by=None)


@pytest.mark.parametrize(("said", "error"), [
    ({"scopes": ["read:everything"]}, BadScope), ({"scopes": ["users!"]}, BadScope), ({"scopes": [3]}, BadScope),
    ({"scopes": [f"read:users!user=u{n}" for n in range(600)]}, BadScope), ({"note": "x" * 201}, BadInput),
    ({"note": 3}, BadInput)])
async def test_what_cannot_be_a_token_is_refused(office: Office, said: dict[str, Any], error: type[ApplianceError]) -> None:
    ada = await office.user("ada")
    with pytest.raises(error):
        await office.tokens.create(ada, by=None, **said)
    assert await office.tokens.list(ada) == []


async def test_a_tokens_id_is_read_strictly(office: Office) -> None:
    ada, bob = await office.user("ada"), await office.user("bob")
    _, record = await office.tokens.create(ada, by=None)
    for said in ("", "a", str(record.id), f"b{record.id}", f"a{record.id} ", "a-1", "a٣", "a" + "9" * 30, "a1e3"):
        assert await office.tokens.get(ada, said) is None
    assert await office.tokens.get(bob, record.api_id) is None
    assert await office.tokens.get(ada, record.api_id) == record


async def test_what_oauth_gave_means_that_server(office: Office) -> None:
    ada = await office.user("ada")
    secret, _ = await office.hub.db.transact(lambda t: tokens.add(
        t, user_id=ada.id, scopes=["access:servers!server"], client_id="jupyterhub-user-ada-lab"))
    found = await office.permissions.by_token(secret)
    assert found is not None
    assert found.client_id == "jupyterhub-user-ada-lab"
    assert found.rights.reach("access:servers").servers == {"ada/lab"}


async def test_missing_looks_at_groups(office: Office) -> None:
    await office.user("ada", groups_=["7a"])
    teacher = await office.permissions.of_user(await office.user("miss", groups_=["teachers"]))
    wanted = expand(["read:users:name!user=ada", "read:users:name!user=bob"], Owner())
    assert await office.permissions.missing(teacher, wanted) == ["read:users:name!user=bob"]
    assert await office.hub.db.read(lambda t: servers.up(t)) == []
