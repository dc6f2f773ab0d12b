from __future__ import annotations

import pytest

from appliance.domain.server import Phase
from appliance.errors import LoginRefused, LoginThrottled, NotYours
from appliance.ports import LoginRequest
from appliance.store import sessions as store
from appliance.store import users
from hub.conftest import KEY, World

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


async def test_signing_out_takes_the_right_away_and_cuts_connections(world: World) -> None:
    async with world.hub() as hub:
        session, other = await hub.session(), await hub.session()
        server = await hub.start()
        mine = await hub.servers.enter(session, server)
        await hub.sessions.sign_out(session)
        route = world.proxy.live[server.id]
        assert mine not in route.capabilities
        assert route.capabilities == (await hub.servers.enter(other, server),)
        assert world.proxy.closed == [server.url]
        assert await hub.servers.check_capability(server.id, mine) is None
        await hub.sessions.sign_out_everywhere(other.user)
        assert world.proxy.live[server.id].capabilities == ()


async def test_an_expired_session_loses_its_capability(world: World) -> None:
    async with world.hub() as hub:
        session = await hub.session()
        server = await hub.start()
        await hub.servers.enter(session, server)
        await world.db.transact(lambda t: _age(t, session.id))
        await hub.eventually(lambda: world.proxy.live[server.id].capabilities == ())
        assert server.url in world.proxy.closed


def _age(t: store.Transaction, session_id: str) -> None:
    from datetime import UTC, datetime

    from appliance.store.rows import SessionRow

    t.get_one(SessionRow, session_id).expires_at = datetime.now(UTC)


async def test_nobody_enters_anothers_server(world: World) -> None:
    async with world.hub() as hub:
        server = await hub.start("alice")
        mallory = await hub.session("mallory")
        with pytest.raises(NotYours):
            await hub.servers.enter(mallory, server)
        assert len(world.proxy.live[server.id].capabilities) == 0


async def test_of_several_cookies_only_one_that_verifies_counts(world: World) -> None:
    async with world.hub() as hub:
        signed_in = await hub.accounts.sign_in(
            LoginRequest("192.0.2.1"), {"username": "alice", "password": "please"}, origin="", device=None)
        found = await hub.sessions.find(["tossed", "a.b.c", signed_in.token])
        assert found is not None
        assert found.id == signed_in.session.id
        await hub.sessions.revoke(found.user, found.id)
        assert await hub.sessions.find([signed_in.token]) is None


async def test_cookies_of_two_people_are_nobodys(world: World) -> None:
    async with world.hub() as hub:
        tokens = []
        for name in ("alice", "mallory", "alice"):
            signed_in = await hub.accounts.sign_in(
                LoginRequest("192.0.2.1"), {"username": name, "password": "please"}, origin="", device=None)
            tokens.append(signed_in.token)
        assert await hub.sessions.find(tokens) is None
        assert (await hub.sessions.find([tokens[0], tokens[2]])) is not None


async def test_nobody_ends_the_session_of_another(world: World) -> None:
    async with world.hub() as hub:
        alice, mallory = await hub.session("alice"), await hub.session("mallory")
        await hub.sessions.revoke(mallory.user, alice.id)
        assert [s.id for s in await hub.sessions.list(alice.user)] == [alice.id]


async def test_guessing_is_slowed_and_a_known_browser_still_gets_in(world: World) -> None:
    async with world.hub() as hub:
        right = {"username": "alice", "password": "please"}
        known = await hub.accounts.sign_in(LoginRequest("192.0.2.1"), right, origin="", device=None)
        with pytest.raises(LoginThrottled):
            for _ in range(20):
                try:
                    await hub.accounts.sign_in(
                        LoginRequest("192.0.2.66"), {"username": "alice", "password": "x"}, origin="", device=None)
                except LoginRefused as refusal:
                    assert "name and password" in refusal.sentence
        await hub.accounts.sign_in(LoginRequest("192.0.2.66"), right, origin="", device=known.device)


async def test_the_same_words_whichever_half_was_wrong(world: World) -> None:
    async with world.hub() as hub:
        await hub.user("alice")
        sentences = set()
        for name in ("alice", "nobody", "..", "x" * 300):
            with pytest.raises(LoginRefused) as refusal:
                await hub.accounts.sign_in(
                    LoginRequest("192.0.2.1"), {"username": name, "password": "x"}, origin="", device=None)
            sentences.add(refusal.value.sentence)
        assert len(sentences) == 1
        assert KEY.decode() not in sentences.pop()


async def test_an_archived_account_cannot_sign_in_and_its_server_ends(world: World) -> None:
    async with world.hub() as hub:
        server = await hub.start("alice")
        session = await hub.session("alice")
        await world.db.transact(lambda t: users.archive(t, "alice"))   # as the command line does, beside the Hub
        await hub.until(server.id, Phase.STOPPED)
        assert await hub.sessions.list(session.user) == []
        with pytest.raises(LoginRefused, match="archived"):
            await hub.session("alice")
        await world.db.transact(lambda t: users.unarchive(t, "alice"))
        await hub.session("alice")
        await hub.start("alice")
