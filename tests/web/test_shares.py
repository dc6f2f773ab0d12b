"""Sharing servers through the REST API and by links, over HTTP and on a real database."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hub.conftest import World
from hub.conftest import world as world
from sqlalchemy import update

from appliance.domain.server import Server
from appliance.store import groups, servers, tokens
from appliance.store.rows import ShareCodeRow, UserRow

from .real_hub import Classroom, Visitor, classroom

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

ROLES = [{"name": "user", "scopes": ["self", "shares!user", "read:users:name", "read:groups:name"]},
         {"name": "shy", "scopes": ["shares"], "users": ["shy"]}]
ALICES = "access:servers!server=alice/"


@dataclass
class School:
    """alice with a default server that runs and a named one, bob, and carol in 7b."""

    room: Classroom
    server: Server

    async def token(self, name: str, *scopes: str) -> str:
        user = await self.room.mini.user(name)
        secret, _ = await self.room.mini.db.transact(
            lambda t: tokens.add(t, user_id=user.id, scopes=scopes or ("inherit",)))
        return secret

    async def ask(self, method: str, path: str, body: object = None, *, by: str = "alice", scopes: tuple[str, ...] = (),
                  headers: dict[str, str] | None = None) -> httpx.Response:
        token = await self.token(by, *scopes)
        return await self.room.public.request(
            method, f"/hub/api{path}", json=body, headers={"Authorization": f"token {token}"} | (headers or {}))

    async def rights(self, name: str) -> set[str]:
        user = await self.room.mini.user(name)
        found = await self.room.hub.permissions.of_user(user)
        return {scope for scope in found.expanded if "alice" in scope}

    async def code(self, **wish: Any) -> str:
        response = await self.ask("POST", "/share-codes/alice/", wish or None)
        assert response.status_code == 200, response.text
        return str(response.json()["code"])


@pytest.fixture
async def school(world: World) -> AsyncIterator[School]:
    async with classroom(world, services=(), roles=ROLES) as room:
        server = await room.server("alice")
        alice, carol = await room.mini.user("alice"), await room.mini.user("carol")
        await room.mini.user("bob")
        await room.mini.db.transact(lambda t: servers.create(t, alice.id, "lab", addresses=(), actor="test"))
        await room.mini.db.transact(lambda t: groups.set_of_user(t, carol.id, ["7b"]))
        yield School(room, server)


# -- giving and taking -------------------------------------------------------------------------------------------------
async def test_a_share_is_given_listed_and_taken(school: School) -> None:
    response = await school.ask("POST", "/shares/alice/", {"user": "bob"})
    assert response.status_code == 200
    share = response.json()
    assert re.fullmatch(r"20\d\d-.*Z", share.pop("created_at"))
    assert share == {
        "server": {"user": {"name": "alice"}, "name": "", "url": "/user/alice/", "full_url": None, "ready": True},
        "scopes": [ALICES], "user": {"name": "bob"}, "group": None, "kind": "user"}
    assert await school.rights("bob") == {ALICES}
    more = await school.ask("POST", "/shares/alice/", {"user": "bob", "scopes": ["read:servers!server=alice/"]})
    assert more.json()["scopes"] == [ALICES, "read:servers!server=alice/"]
    for path, by in (("/shares/alice", "alice"), ("/shares/alice/", "alice"), ("/users/bob/shared", "bob")):
        found = (await school.ask("GET", path, by=by)).json()
        assert [item["user"]["name"] for item in found["items"]] == ["bob"]
        assert found["_pagination"] == {"offset": 0, "limit": 200, "total": 1, "next": None}
    assert (await school.ask("GET", "/shares/alice/lab")).json()["items"] == []
    less = await school.ask("PATCH", "/shares/alice/", {"user": "bob", "scopes": [ALICES]})
    assert less.json()["scopes"] == ["read:servers!server=alice/"]
    for _ in range(2):     # taking what nobody has is no error
        gone = await school.ask("PATCH", "/shares/alice/", {"user": "bob"})
        assert (gone.status_code, gone.json()) == (200, {})
    assert await school.rights("bob") == set()


async def test_a_share_with_a_group_is_its_members(school: School) -> None:
    response = await school.ask("POST", "/shares/alice/lab", {"group": "7b"})
    assert response.status_code == 200
    assert (response.json()["kind"], response.json()["group"], response.json()["user"]) == ("group", {"name": "7b"}, None)
    assert await school.rights("carol") == {"access:servers!server=alice/lab"}
    assert await school.rights("bob") == set()
    found = (await school.ask("GET", "/users/carol/shared", by="carol")).json()["items"]
    assert [item["group"] for item in found] == [{"name": "7b"}]
    carol = await school.room.mini.user("carol")
    await school.room.mini.db.transact(lambda t: groups.set_of_user(t, carol.id, []))
    assert await school.rights("carol") == set()
    assert (await school.ask("DELETE", "/shares/alice/lab")).status_code == 204
    assert (await school.ask("GET", "/shares/alice")).json()["items"] == []


async def test_a_guest_leaves_a_share(school: School) -> None:
    await school.ask("POST", "/shares/alice/", {"user": "bob"})
    path = "/users/bob/shared/alice/"
    assert (await school.ask("GET", path, by="bob")).json()["scopes"] == [ALICES]
    assert (await school.ask("DELETE", path, by="bob")).status_code == 204
    assert (await school.ask("GET", path, by="bob")).status_code == 404
    assert (await school.ask("DELETE", path, by="bob")).status_code == 404
    assert await school.rights("bob") == set()


@pytest.mark.parametrize(("body", "status"), [
    ({}, 400), (None, 400), ([], 400), ("bob", 400), ({"user": "bob", "group": "7b"}, 400), ({"user": "nobody"}, 400),
    ({"group": "nobody"}, 400), ({"user": ""}, 400), ({"user": "../bob"}, 400), ({"user": 7}, 400), ({"user": "x" * 300}, 400),
    ({"user": "alice"}, 400), ({"user": "bob", "more": 1}, 400), ({"user": "bob", "expires_in": 60}, 400),
    ({"user": "bob", "scopes": "access:servers"}, 400), ({"user": "bob", "scopes": ["nonsense"]}, 400),
    ({"user": "bob", "scopes": ["access:servers!server=bob/"]}, 400),
    ({"user": "bob", "scopes": ["access:servers!user=alice"]}, 400),
    ({"user": "bob", "scopes": ["tokens"]}, 400), ({"user": "bob", "scopes": ["inherit"]}, 400),
    ({"user": "bob", "scopes": ["admin:servers"]}, 403), ({"user": "bob", "scopes": []}, 200), ({"user": " BOB "}, 200),
])
async def test_what_cannot_be_shared(school: School, body: object, status: int) -> None:
    response = await school.ask("POST", "/shares/alice/", body)
    assert response.status_code == status, response.text
    assert await school.rights("bob") == ({ALICES} if status == 200 else set())


@pytest.mark.parametrize(("method", "path", "by", "scopes", "status"), [
    ("POST", "/shares/alice/", "bob", (), 404),                                       # his own shares only
    ("POST", "/shares/alice/", "alice", ("read:shares!user=alice",), 403),
    ("POST", "/shares/alice/", "alice", ("shares!server=alice/lab", "read:users:name"), 404),
    ("POST", "/shares/alice/", "alice", ("shares!server=alice/",), 403),              # may not see whom to share with
    ("POST", "/shares/alice/", "shy", (), 200),
    ("POST", "/shares/alice/nosuch", "alice", (), 404), ("POST", "/shares/nobody/", "shy", (), 404),
    ("POST", "/shares/alice", "alice", (), 405), ("DELETE", "/share-codes/alice", "alice", (), 405),
    ("PATCH", "/shares/alice/", "alice", ("read:shares!user=alice",), 403), ("DELETE", "/shares/alice/", "bob", (), 404),
    ("GET", "/shares/alice", "bob", (), 404), ("GET", "/users/alice/shared", "bob", (), 404),
    ("GET", "/users/bob/shared/alice/", "bob", ("read:users!user=bob",), 403),
    ("DELETE", "/users/bob/shared/alice/", "bob", ("read:users:shares!user=bob",), 403),
    ("GET", "/groups/7b/shared", "bob", (), 404), ("GET", "/groups/7b/shared", "bob", ("read:users!user=bob",), 403),
    ("GET", "/users/bob/shared/al%2Fice/", "bob", (), 404),
    ("GET", "/users/bob/shared/alice/..%2F", "bob", (), 404),
])
async def test_who_may_not(school: School, method: str, path: str, by: str, scopes: tuple[str, ...], status: int) -> None:
    body = {"user": "bob"} if method in ("POST", "PATCH") else None
    response = await school.ask(method, path, body, by=by, scopes=scopes)
    assert response.status_code == status, response.text


async def test_a_guest_may_share_on_only_what_they_were_given(school: School) -> None:
    await school.ask("POST", "/shares/alice/", {"user": "bob", "scopes": ["shares"]})
    assert (await school.ask("POST", "/shares/alice/", {"user": "carol"}, by="bob")).status_code == 200
    beyond = await school.ask("POST", "/shares/alice/", {"user": "carol", "scopes": ["delete:servers"]}, by="bob")
    assert beyond.status_code == 403
    assert (await school.ask("POST", "/shares/alice/lab", {"user": "carol"}, by="bob")).status_code == 404


async def test_a_renamed_owner_keeps_shares_and_the_name_gives_nothing(school: School) -> None:
    """GHSA-mj6q."""
    await school.ask("POST", "/shares/alice/", {"user": "bob"})
    token = await school.token("bob")
    renamed = update(UserRow).where(UserRow.name == "alice").values(name="alicia")
    await school.room.mini.db.transact(lambda t: t.execute(renamed))
    impostor = await school.room.server("alice")
    requester = await school.room.hub.permissions.by_token(token)
    assert requester is not None
    real = await school.room.mini.servers.by_id(school.server.id)
    assert real is not None
    assert await school.room.hub.permissions.may_enter(requester, real)
    assert not await school.room.hub.permissions.may_enter(requester, impostor)


async def test_pages(school: School) -> None:
    for name in ("bob", "carol"):
        await school.ask("POST", "/shares/alice/", {"user": name})
    first = (await school.ask("GET", "/shares/alice/?limit=1")).json()
    assert len(first["items"]) == 1
    following = first["_pagination"]["next"]
    assert following == {"offset": 1, "limit": 1, "url": "http://10.77.0.1:8081/hub/api/shares/alice/?offset=1&limit=1"}
    second = (await school.ask("GET", following["url"].removeprefix("http://10.77.0.1:8081/hub/api"))).json()
    assert [item["user"]["name"] for item in second["items"]] == ["carol"]
    assert second["_pagination"]["next"] is None


# -- a script goes in, and out again -----------------------------------------------------------------------------------
async def test_a_script_enters_by_a_share_and_no_longer_when_it_is_taken(school: School) -> None:
    token = await school.token("bob", ALICES)

    async def enters() -> bool:
        requester = await school.room.hub.permissions.by_token(token)
        assert requester is not None
        return await school.room.hub.permissions.may_enter(requester, school.server)

    assert not await enters()
    await school.ask("POST", "/shares/alice/", {"user": "bob"})
    assert await enters()
    school.room.mini.world.proxy.closed.clear()
    await school.ask("PATCH", "/shares/alice/", {"user": "bob"})
    assert not await enters()
    assert school.room.mini.world.proxy.closed == [school.server.url]     # a websocket that was open is not any more


# -- codes -------------------------------------------------------------------------------------------------------------
async def test_a_code_is_shown_once_listed_and_deleted(school: School) -> None:
    made = (await school.ask("POST", "/share-codes/alice/", {"expires_in": 3600})).json()
    assert made["accept_url"] == f"/hub/accept-share?code={made['code']}"
    assert (made["full_accept_url"], made["exchange_count"], made["last_exchanged_at"]) == (None, 0, None)
    assert made["scopes"] == [ALICES]
    await school.code()
    for path in ("/share-codes/alice", "/share-codes/alice/"):
        listed = await school.ask("GET", path)
        assert made["code"] not in listed.text
        assert [item["id"] for item in listed.json()["items"]] == ["sc_1", "sc_2"]
    assert (await school.ask("DELETE", "/share-codes/alice/?id=sc_1")).status_code == 204
    for query in ("?id=sc_1", "?id=sc_99", "?id=1", "?id=sc_x", f"?code={made['code']}", "?code=nonsense"):
        assert (await school.ask("DELETE", f"/share-codes/alice/{query}")).status_code == 404
    assert len((await school.ask("GET", "/share-codes/alice")).json()["items"]) == 1
    assert (await school.ask("DELETE", "/share-codes/alice/")).status_code == 204
    assert (await school.ask("GET", "/share-codes/alice")).json()["items"] == []


@pytest.mark.parametrize("expires_in", [0, -1, 59, 365 * 86_400 + 1, 10**12, True, None, "3600", 1e300, [], {}])
async def test_a_code_lives_for_a_minute_to_a_year(school: School, expires_in: object) -> None:
    """GHSA-pvm9: nothing is no lifetime."""
    response = await school.ask("POST", "/share-codes/alice/", {"expires_in": expires_in})
    assert response.status_code == 400
    assert "expires_in" in response.json()["message"]


@pytest.mark.parametrize(("body", "status"), [
    ({"scopes": ["admin:servers"]}, 403), ({"scopes": ["users"]}, 400), ({"scopes": ["access:servers!server=bob/"]}, 400),
    ({"user": "bob"}, 400), ({"scopes": None}, 200), ({}, 200), (None, 200), ({"expires_in": 60}, 200),
])
async def test_what_a_code_can_give(school: School, body: object, status: int) -> None:
    assert (await school.ask("POST", "/share-codes/alice/", body)).status_code == status


# -- the page ----------------------------------------------------------------------------------------------------------
def _next_in(page: str) -> list[str]:
    return [html.unescape(found) for found in re.findall(r'name="next" value="([^"]*)"', page)]


async def _accept(visitor: Visitor, code: str, **fields: str) -> httpx.Response:
    return await visitor.post("/hub/accept-share", {"code": code, **fields})


async def test_a_link_says_whose_and_what_and_a_click_accepts(school: School) -> None:
    code, bob = await school.code(), await school.room.person("bob")
    page = await bob.get(f"/hub/accept-share?code={code}")
    assert page.status_code == 200
    for words in ("alice shares a server with you", "/user/alice/", "run programs in it", "nobody opens another", "Accept"):
        assert words in html.unescape(page.text), words
    assert await school.rights("bob") == set()
    answer = await _accept(bob, code)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/hub/accept-share?code={code}")
    assert await school.rights("bob") == {ALICES}
    after = html.unescape((await bob.get(answer.headers["location"])).text)
    assert "You have accepted." in after
    assert "nobody opens another's server in a browser here" in after
    entered = await bob.get(f"/hub/enter?next={quote('/user/alice/tree')}")
    assert entered.status_code == 403
    assert "This server is shared with you, but nobody opens another's server" in html.unescape(entered.text)
    counted = (await school.ask("GET", "/share-codes/alice")).json()["items"][0]
    assert counted["exchange_count"] == 1


async def test_who_has_no_share_is_told_no_more_than_before(school: School) -> None:
    bob = await school.room.person("bob")
    page = html.unescape((await bob.get(f"/hub/enter?next={quote('/user/alice/')}")).text)
    assert "somebody else's server" in page
    assert "shared with you" not in page


async def test_nobody_accepts_without_the_form(school: School) -> None:
    code, bob, stranger = await school.code(), await school.room.person("bob"), school.room.visitor()
    assert (await bob.post("/hub/accept-share", {"code": code}, xsrf="wrong")).status_code == 403
    assert (await bob.post("/hub/accept-share", {"code": code}, origin="https://evil.example")).status_code == 403
    led = await stranger.get(f"/hub/accept-share?code={code}&next=/hub/home")
    assert led.headers["location"].startswith("/hub/login?next=/hub/accept-share")
    assert await school.rights("bob") == set()


async def test_ones_own_code_and_codes_that_are_none(school: School) -> None:
    code, alice, bob = await school.code(), await school.room.person("alice"), await school.room.person("bob")
    for response in (await alice.get(f"/hub/accept-share?code={code}"), await _accept(alice, code)):
        assert response.status_code == 400
        assert "That server is yours already." in response.text
    await school.room.mini.db.transact(lambda t: t.execute(update(ShareCodeRow).values(expires_at=school.server.phase_at)))
    for said in (code, "", "x", "é" * 50, "x" * 43, "x" * 5000):
        for response in (await bob.get(f"/hub/accept-share?code={quote(said)}"), await _accept(bob, said)):
            assert response.status_code == 404, said
            assert "not known, or it has expired" in response.text
    assert await school.rights("bob") == set()


@pytest.mark.parametrize(("said", "kept"), [
    ("/hub/home", "/hub/home"), ("/user/bob/lab?x=1&y=%22", "/user/bob/lab?x=1&y=%22"), ("", None),
    ("//evil.example", "/hub/home"), ("https://evil.example/", "/hub/home"), ("/\\evil.example", "/hub/home"),
    ("javascript:alert(1)", "/hub/home"), ('/hub/"><script>alert(1)</script>', '/hub/"><script>alert(1)</script>'),
    ("/%2F/evil.example", "/hub/home"), ("/hub/x\r\ny: z", "/hub/home"),
])
async def test_next_is_followed_inside_the_box_and_never_becomes_markup(school: School, said: str, kept: str | None) -> None:
    """GHSA-c4gm."""
    code, bob = await school.code(), await school.room.person("bob")
    page = await bob.get(f"/hub/accept-share?code={code}&next={quote(said)}")
    assert page.status_code == 200
    assert "<script>alert" not in page.text
    assert _next_in(page.text) == ([kept] if kept else [])
    answer = await _accept(bob, code, next=said)
    assert answer.status_code == 303
    location = answer.headers["location"]
    assert location == f"/hub/accept-share?code={code}" if kept is None else location.startswith(kept.split('"')[0])


async def test_a_page_full_of_marks_stays_text(school: School) -> None:
    alice = await school.room.mini.user("alice")
    await school.room.mini.db.transact(
        lambda t: t.execute(update(UserRow).where(UserRow.id == alice.id).values(display_name="<b>Ali</b>")))
    code, bob = await school.code(), await school.room.person("bob")
    assert "<b>Ali" not in (await bob.get(f"/hub/accept-share?code={code}")).text
