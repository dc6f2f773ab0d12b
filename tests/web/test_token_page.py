"""The page of one's own API tokens, over HTTP and on a real database."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from hub.conftest import World
from hub.conftest import world as world
from sqlalchemy import update

from appliance.domain.user import ApiToken
from appliance.store import tokens
from appliance.store.rows import ApiTokenRow

from .real_hub import GRADER_TOKEN, NAVIGATION, Classroom, Client, Visitor, classroom

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


@pytest.fixture
async def room(world: World) -> AsyncIterator[Classroom]:
    async with classroom(world) as room:
        yield room


def secret_of(page: httpx.Response) -> str:
    found = re.search(r'<code class="secret">([0-9a-f]{64})</code>', page.text)
    assert found, page.text
    return found[1]


async def kept(room: Classroom, name: str = "alice") -> list[ApiToken]:
    user = await room.mini.user(name)
    return await room.mini.db.read(lambda t: tokens.of_user(t, user.id))


async def make(visitor: Visitor, **fields: object) -> httpx.Response:
    return await visitor.post("/hub/token", {"note": "backup", "expires": "86400", "limit": "all"} | fields)


async def test_a_token_is_shown_once_and_works(room: Classroom) -> None:
    alice = await room.person("alice")
    page = await make(alice, note="  my <script> ")
    assert page.status_code == 201
    assert page.headers["cache-control"] == "no-store"
    secret = secret_of(page)
    assert (await room.who(secret)).json()["name"] == "alice"
    later = (await alice.get("/hub/token")).text
    assert secret not in later
    assert "my &lt;script&gt;" in later
    [token] = await kept(room)
    assert token.note == "my <script>"
    assert token.scopes == ("inherit",)
    assert token.expires_at is not None
    assert timedelta(hours=23) < token.expires_at - datetime.now(UTC) <= timedelta(days=1)


async def test_the_last_use_is_there_to_see(room: Classroom) -> None:
    alice = await room.person("alice")
    secret = secret_of(await make(alice))
    assert "never used" in (await alice.get("/hub/token")).text
    await room.who(secret)
    page = (await alice.get("/hub/token")).text
    assert "never used" not in page
    assert "last used" in page


async def test_a_token_may_be_limited_to_what_is_ticked_and_written(room: Classroom) -> None:
    alice = await room.person("alice")
    offered = (await alice.get("/hub/token")).text
    assert 'value="read:users!user"' in offered
    assert "read about users (only you)" in offered
    assert "admin:users" not in offered           # what she does not hold is not offered
    page = await make(alice, limit="some", scope=["read:users!user", "servers!user"], expires="never",
                      more="read:shares!user, access:servers!user")
    who = (await room.who(secret_of(page))).json()
    assert "read:users!user=alice" in who["scopes"]
    assert not [scope for scope in who["scopes"] if scope.startswith("tokens")]
    [token] = await kept(room)
    assert set(token.scopes) == {"read:users!user", "servers!user", "read:shares!user", "access:servers!user"}
    assert token.expires_at is None


@pytest.mark.parametrize("fields", [{"scope": ["read:users!user"]}, {"more": "read:users!user"}])
async def test_whoever_names_something_gets_no_more_wherever_the_button_stands(
        room: Classroom, fields: dict[str, object]) -> None:
    alice = await room.person("alice")
    page = await make(alice, limit="all", **fields)
    [token] = await kept(room)
    assert token.scopes == ("read:users!user",)
    made = page.text.partition('id="made"')[2].partition("</section>")[0]
    assert "It may read about users (only you), and ends <time" in made
    assert "everything you may do, and does not end by itself" in (await make(alice, expires="never")).text


async def test_what_a_token_says_and_its_owner_does_not_hold_is_not_listed(room: Classroom) -> None:
    alice = await room.person("alice")
    user = await room.mini.user("alice")
    await room.mini.db.transact(lambda t: tokens.add(
        t, user_id=user.id, scopes=["shutdown", "admin:users", "read:users!user"], actor="old"))
    listed = (await alice.get("/hub/token")).text.partition('id="yours"')[2]
    assert "read about users (only you)" in listed
    assert "shut the Hub down" not in listed
    assert "add, change and delete users, as far as you may yourself" in listed


async def test_the_way_to_the_page_and_on_to_what_programs_can_ask_for(room: Classroom) -> None:
    alice = await room.person("alice")
    home = (await alice.get("/hub/home")).text
    assert re.search(r'<nav.*<a href="/hub/token">Token</a>.*</nav>', home, re.DOTALL)
    page = (await alice.get("/hub/token")).text
    assert '<a href="/hub/token" aria-current="page">Token</a>' in page
    assert 'href="/hub/api/docs"' in page


async def test_many_scopes_stand_by_what_they_are_about_below_the_free_text(room: Classroom) -> None:
    teacher = await room.person("teacher", admin=True)
    page = (await teacher.get("/hub/token")).text.partition("<summary>More</summary>")[2]
    parts = re.split(r"<h3[^>]*>(.*?)</h3>", page)
    assert 'name="more"' in parts[0]
    found = {subject: re.findall(r'name="scope" value="([^"]*)"', text)
             for subject, text in zip(parts[1::2], parts[2::2], strict=True)}
    assert list(found) == ["Users", "Servers", "Groups", "Services", "Shares", "Tokens", "The Hub"]
    assert {"admin:users", "users", "read:users:name", "read:roles:users", "admin:auth_state"} <= set(found["Users"])
    assert {"users:shares", "groups:shares", "shares"} <= set(found["Shares"])
    assert {"admin:server_state", "access:servers"} <= set(found["Servers"])
    assert {"proxy", "shutdown", "read:hub", "read:metrics", "admin-ui", "read:roles"} == set(found["The Hub"])
    assert "with read:users, list:users, users:activity" in page


async def test_an_admin_is_offered_what_an_admin_may(room: Classroom) -> None:
    teacher = await room.person("teacher", admin=True)
    page = (await teacher.get("/hub/token")).text
    assert 'value="admin:users"' in page
    assert 'value="shutdown"' in page
    assert 'value="inherit"' not in page


@pytest.mark.parametrize(("fields", "status", "words"), [
    ({"limit": "some"}, 400, "Nothing is ticked"),
    ({"limit": "some", "scope": ["admin:users"]}, 403, "A token cannot have what alice does not hold"),
    ({"limit": "some", "more": "read:users"}, 403, "A token cannot have what alice does not hold"),
    ({"limit": "some", "more": "read:users!user=bob"}, 403, "A token cannot have what alice does not hold"),
    ({"limit": "some", "more": "nonsense"}, 400, "There is no scope"),
    ({"limit": "some", "more": "<b>!x"}, 400, "There is no scope"),
    ({"limit": "some", "more": "read:users!group"}, 400, "is no filter of a scope"),
    ({"expires": "0"}, 400, "none of the times"), ({"expires": "-1"}, 400, "none of the times"),
    ({"expires": ""}, 400, "none of the times"), ({"expires": "1e9"}, 400, "none of the times"),
    ({"expires": "99999999999999999999"}, 400, "none of the times"),
    ({"note": "x" * 500}, 400, "A token&#39;s note has at most 200 characters"),
])
async def test_what_cannot_be_is_said_on_the_page_and_the_form_keeps_what_was_typed(
        room: Classroom, fields: dict[str, object], status: int, words: str) -> None:
    alice = await room.person("alice")
    page = await make(alice, **fields)
    assert page.status_code == status
    assert words in page.text
    assert "<b>!x" not in page.text
    assert 'value="backup"' in page.text or "note" in fields
    if fields.get("more"):
        assert re.search(r'value="some" checked', page.text)
    assert await kept(room) == []


async def test_a_longest_life_is_held(room: Classroom) -> None:
    room.hub.tokens.longest_s = 86_400
    alice = await room.person("alice")
    page = (await alice.get("/hub/token")).text
    assert "until you end it" not in page
    assert "30 days" not in page
    assert (await make(alice, expires=str(30 * 86_400))).status_code == 400
    secret_of(await make(alice, expires="never"))
    [token] = await kept(room)
    assert token.expires_at is not None
    assert token.expires_at <= datetime.now(UTC) + timedelta(days=1)


async def test_one_s_own_tokens_end_with_a_click_and_nobody_else_s(room: Classroom) -> None:
    alice, bob = await room.person("alice"), await room.person("bob")
    mine, other = secret_of(await make(alice)), secret_of(await make(alice))
    his = secret_of(await make(bob))
    [token, _] = await kept(room)
    [bobs] = await kept(room, "bob")
    for ended in (bobs.api_id, "", "a0", "a" * 2000, "a-1", "inherit"):
        assert (await alice.post("/hub/token/revoke", {"token": ended})).headers["Location"] == "/hub/token"
    assert [(await room.who(secret)).status_code for secret in (mine, other, his)] == [200, 200, 200]
    await alice.post("/hub/token/revoke", {"token": token.api_id})
    assert [(await room.who(secret)).status_code for secret in (mine, other, his)] == [403, 200, 200]


async def test_what_a_service_was_given_is_listed_and_can_be_taken_back(room: Classroom) -> None:
    alice = await room.person("alice")
    client = Client(client_id="service-grader", redirect_uri="/services/grader/oauth_callback")
    secrets = []
    for _ in range(2):
        code = client.code(await alice.post(client.url(), {"answer": "yes", "scope": "read:users!user"}))
        secrets.append((await room.exchange(**client.form(code, GRADER_TOKEN))).json()["access_token"])
    page = (await alice.get("/hub/token")).text
    assert page.count("the service grader</b>") == 1
    assert "open services (only the service grader)" in page
    await alice.post("/hub/token/revoke", {"token": "service-grader"})
    assert [(await room.who(secret)).status_code for secret in secrets] == [403, 403]


async def test_only_the_page_itself_changes_anything(room: Classroom) -> None:
    alice = await room.person("alice")
    mine = secret_of(await make(alice))
    for path in ("/hub/token", "/hub/token/revoke"):
        fields = {"token": (await kept(room))[0].api_id, "limit": "all", "expires": "86400"}
        refused = [
            await alice.post(path, fields, xsrf=""), await alice.post(path, fields, origin="http://evil.test"),
            await alice.client.post(path, data=fields, headers=NAVIGATION | {"Sec-Fetch-Mode": "no-cors",
                                                                           "Sec-Fetch-Site": "cross-site"}),
            await alice.client.post(path, data=fields, headers={"Authorization": f"token {mine}"})]
        assert [response.status_code for response in refused] == [403] * 4
    assert len(await kept(room)) == 1
    stranger = room.visitor()
    assert (await stranger.get("/hub/token")).headers["Location"] == "/hub/login?next=/hub/token"
    # a token is no way to the page: it could make one that lives longer than itself
    response = await stranger.client.get("/hub/token", headers=NAVIGATION | {"Authorization": f"token {mine}"})
    assert response.is_redirect


@pytest.mark.parametrize("mode", ["cors", "same-origin", "no-cors", "websocket", ""])
async def test_a_script_of_a_server_s_page_gets_no_form_that_works(room: Classroom, mode: str) -> None:
    """With one origin for everybody, a notebook's page may fetch the Hub's; it gets them without what makes a form count."""
    alice = await room.person("alice")
    right = alice.client.cookies["_xsrf"]
    for path in ("/hub/token", "/hub/home", Client(client_id="service-grader").url(redirect_uri="")):
        fetched = await alice.get(path, {"Accept": "*/*", "Sec-Fetch-Mode": mode, "Sec-Fetch-Site": "same-origin"})
        assert fetched.status_code == 200
        assert right not in fetched.text
        assert "_xsrf=" not in fetched.headers.get("set-cookie", "")
        assert not re.findall(r'name="_xsrf" value="[^"]', fetched.text)
    assert right in (await alice.get("/hub/token")).text


async def test_expired_tokens_are_not_listed(room: Classroom) -> None:
    alice = await room.person("alice")
    await make(alice, note="old one")
    await room.mini.db.transact(lambda t: t.execute(update(ApiTokenRow).values(expires_at=datetime.now(UTC))))
    assert "old one" not in (await alice.get("/hub/token")).text
