"""The Hub as OAuth provider, as clients and browsers meet it: over HTTP, on a real database."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import anyio
import httpx
import pytest
from hub.conftest import KEY, World
from hub.conftest import world as world
from sqlalchemy import update

from appliance.domain.capability import injected_token
from appliance.domain.server import Phase
from appliance.store import tokens
from appliance.store.rows import ApiTokenRow, OAuthCodeRow, SessionRow

from .real_hub import GRADER_TOKEN, NAVIGATION, Classroom, Client, Visitor, classroom

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

GRADER = {"client_id": "service-grader", "redirect_uri": "/services/grader/oauth_callback"}
BOARD = {"client_id": "service-board", "redirect_uri": "/services/board/oauth_callback"}


@pytest.fixture
async def room(world: World) -> AsyncIterator[Classroom]:
    async with classroom(world) as room:
        yield room


async def signed_in(room: Classroom, visitor: Visitor, client: Client, secret: str) -> str:
    """Go the whole way once; return the token."""
    code = client.code(await visitor.get(client.url()))
    response = await room.exchange(**client.form(code, secret))
    assert response.status_code == 200, response.text
    return str(response.json()["access_token"])


# -- the way of jupyterhub-singleuser ----------------------------------------------------------------------------------
@pytest.mark.parametrize("pkce", [True, False], ids=["as version 6", "as version 5"])
async def test_singleuser_learns_who_its_owner_is_without_a_question(room: Classroom, pkce: bool) -> None:
    server, alice = await room.server("alice"), await room.person("alice")
    client = Client(server, pkce=pkce)
    code = client.code(await alice.get(client.url()))
    response = await room.exchange(**client.form(code, room.secret(server)))
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    given = response.json()
    assert given["token_type"] == "Bearer"
    assert given["expires_in"] == 14 * 86_400
    assert given["scope"] == "access:servers!server=alice/"
    assert set(given) == {"access_token", "token_type", "expires_in", "scope"}
    who = await room.who(given["access_token"])
    assert who.status_code == 200
    assert who.json()["name"] == "alice"
    assert "access:servers!server=alice/" in who.json()["scopes"]
    assert who.json()["session_id"] == alice.client.cookies["jupyterhub-session-id"]


async def test_who_is_not_signed_in_does_so_on_the_way(room: Classroom) -> None:
    client, visitor = Client(await room.server("alice")), room.visitor()
    away = await visitor.get(client.url())
    assert away.headers["Location"] == f"/hub/login?next={quote(client.url(), safe='/')}"
    back = await visitor.sign_in("alice", away.headers["Location"])
    assert back.headers["Location"] == client.url()
    assert client.code(await visitor.get(back.headers["Location"]))


async def test_a_named_server_and_a_user_with_a_dash_are_two_clients(room: Classroom) -> None:
    mini = room.mini
    dashed = await room.server("a-b")
    named = await mini.until((await mini.servers.start(await mini.user("a"), "b", actor="a")).id, Phase.READY)
    one, other = Client(dashed), Client(named)
    other.redirect_uri = "/user/a/b/oauth_callback"
    assert one.client_id != other.client_id
    person = await room.person("a")
    assert await signed_in(room, person, other, room.secret(named))
    refused = await person.get(one.url())
    assert refused.status_code == 403
    code = other.code(await person.get(other.url()))
    assert (await room.exchange(**other.form(code, room.secret(dashed)))).status_code == 401


async def test_the_secret_may_come_in_any_way_that_oauth_and_jupyterhub_know(room: Classroom) -> None:
    server, alice = await room.server("alice"), await room.person("alice")
    client, secret = Client(server), room.secret(server)
    for auth, headers in ((None, {"Authorization": f"token {secret}"}), ((client.client_id, secret), {})):
        form = client.form(client.code(await alice.get(client.url())), "") | {"grant_type": "authorization_code"}
        del form["client_secret"]
        response = await room.public.post("/hub/api/oauth2/token", data=form, headers=headers,
                                          **({"auth": auth} if auth else {}))  # type: ignore[arg-type]
        assert response.status_code == 200, response.text


# -- codes -------------------------------------------------------------------------------------------------------------
async def test_a_code_is_good_once_and_a_second_use_ends_what_the_first_gave(room: Classroom) -> None:
    server, alice = await room.server("alice"), await room.person("alice")
    client, secret = Client(server), room.secret(server)
    code = client.code(await alice.get(client.url()))
    token = (await room.exchange(**client.form(code, secret))).json()["access_token"]
    other = await signed_in(room, alice, client, secret)
    again = await room.exchange(**client.form(code, secret))
    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
    assert (await room.who(token)).status_code == 403
    assert (await room.who(other)).status_code == 200
    assert (await room.exchange(**client.form(code, secret))).status_code == 400


async def test_of_many_at_once_one_gets_the_token_and_the_others_end_it(room: Classroom) -> None:
    server, alice = await room.server("alice"), await room.person("alice")
    client, secret = Client(server), room.secret(server)
    code = client.code(await alice.get(client.url()))
    answers: list[httpx.Response] = []

    async def exchange() -> None:
        answers.append(await room.exchange(**client.form(code, secret)))

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(exchange)
    good = [answer for answer in answers if answer.status_code == 200]
    assert len(good) == 1
    assert {answer.status_code for answer in answers if answer not in good} == {400}
    assert (await room.who(good[0].json()["access_token"])).status_code == 403


async def test_a_code_lives_five_minutes(room: Classroom) -> None:
    server, alice = await room.server("alice"), await room.person("alice")
    client = Client(server)
    code = client.code(await alice.get(client.url()))
    [end] = await room.mini.db.read(lambda t: list(t.scalars(OAuthCodeRow.__table__.select().with_only_columns(
        OAuthCodeRow.expires_at))))
    assert 290 < (end - datetime.now(UTC)).total_seconds() <= 300
    await room.mini.db.transact(lambda t: t.execute(update(OAuthCodeRow).values(expires_at=datetime.now(UTC))))
    response = await room.exchange(**client.form(code, room.secret(server)))
    assert (response.status_code, response.json()["error"]) == (400, "invalid_grant")


async def test_a_code_is_one_client_s(room: Classroom) -> None:
    mine, his = await room.server("alice"), await room.server("bob")
    alice = await room.person("alice")
    client = Client(mine)
    code = client.code(await alice.get(client.url()))
    thief = Client(his)
    thief.verifier = client.verifier
    response = await room.exchange(**thief.form(code, room.secret(his)))
    assert (response.status_code, response.json()["error"]) == (400, "invalid_grant")
    response = await room.exchange(**client.form(code, room.secret(mine), redirect_uri=thief.redirect_uri))
    assert response.status_code == 400
    assert "access_token" not in response.json()
    assert (await room.exchange(**client.form(code, room.secret(mine)))).status_code == 200   # nobody else used it up


async def test_codes_and_tokens_are_kept_as_hashes(room: Classroom) -> None:
    server, alice = await room.server("alice"), await room.person("alice")
    client = Client(server)
    code = client.code(await alice.get(client.url()))
    token = (await room.exchange(**client.form(code, room.secret(server)))).json()["access_token"]
    kept = b"".join(file.read_bytes() for file in room.mini.world.path.glob("appliance.sqlite*"))
    assert b"oauth_codes" in kept
    for secret in (code, token, client.verifier, room.secret(server)):
        assert secret.encode() not in kept


# -- PKCE --------------------------------------------------------------------------------------------------------------
async def test_a_challenge_needs_its_verifier(room: Classroom) -> None:
    server, alice = await room.server("alice"), await room.person("alice")
    client, secret = Client(server), room.secret(server)
    for verifier in ("", "x" * 43, client.verifier + "x", "ü" * 43):
        code = client.code(await alice.get(client.url()))
        response = await room.exchange(**client.form(code, secret, code_verifier=verifier))
        assert response.status_code == 400, verifier
        assert "access_token" not in response.text
    old = Client(server, pkce=False)
    code = old.code(await alice.get(old.url()))
    response = await room.exchange(**old.form(code, secret, code_verifier="x" * 43))
    assert (response.status_code, response.json()["error"]) == (400, "invalid_grant")


@pytest.mark.parametrize("changes", [
    {"code_challenge_method": "plain"}, {"code_challenge_method": ""}, {"code_challenge_method": "s256"},
    {"code_challenge": "x"}, {"code_challenge": "ü" * 43}, {"code_challenge": "x" * 3000}])
async def test_a_weak_or_odd_challenge_is_refused(room: Classroom, changes: dict[str, str]) -> None:
    client, alice = Client(await room.server("alice")), await room.person("alice")
    answer = client.answer(await alice.get(client.url(**changes)))
    assert answer["error"] == "invalid_request"
    assert answer["state"] == client.state
    assert "code" not in answer


# -- where a browser is sent -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("almost", [
    "/user/alice/oauth_callback/", "/user/alice/oauth_callback?x=1", "/user/alice//oauth_callback", "/user/alice/oauth_callbac",
    "/user/alice/OAUTH_CALLBACK", "/user/alice/../alice/oauth_callback", "/user/bob/oauth_callback", "/user/alice/lab",
    "//evil.test/user/alice/oauth_callback", "http://evil.test/user/alice/oauth_callback", "javascript:alert(1)",
    "https://hub.invalid/user/alice/oauth_callback", "http://box.test/user/alice/oauth_callback", "/user/alice/oauth_callback#",
    "\\user\\alice\\oauth_callback", "/user/%61lice/oauth_callback", " /user/alice/oauth_callback",
    "/user/alice/oauth_callback\n", "/user/alice/oauth_callback\x00", "x" * 5000])
async def test_a_redirect_that_almost_matches_leads_nowhere(room: Classroom, almost: str) -> None:
    client, alice = Client(await room.server("alice")), await room.person("alice")
    response = await alice.get(client.url(redirect_uri=almost))
    assert response.status_code == 400
    assert "location" not in response.headers
    assert "evil" not in response.text
    post = await alice.post(client.url(redirect_uri=almost), {"answer": "yes"})
    assert post.status_code == 400
    assert "location" not in post.headers


@pytest.mark.parametrize("client_id", [
    "", "jupyterhub-user-bob", "jupyterhub-user-nobody", "service-nobody", "service-", "x" * 3000, "jupyterhub-user-alice'",
    "\x00", "jupyterhub-user-%ff"])
async def test_an_unknown_client_gets_a_page_and_no_redirect(room: Classroom, client_id: str) -> None:
    client, alice = Client(await room.server("alice")), await room.person("alice")
    response = await alice.get(client.url(client_id=client_id))
    # another's server may be up or not, which is not told: it is refused as if it were
    assert response.status_code == (403 if client_id in ("jupyterhub-user-bob", "jupyterhub-user-nobody") else 400)
    assert "location" not in response.headers
    assert "text/html" in response.headers["content-type"]


@pytest.mark.parametrize(("changes", "error"), [
    ({"response_type": ""}, "invalid_request"), ({"response_type": "token"}, "unsupported_response_type"),
    ({"response_type": "none"}, "unauthorized_client"), ({"response_type": "code token"}, "unauthorized_client"),
    ({"scope": "admin:users"}, "invalid_scope"), ({"scope": "read:users!user nonsense"}, "invalid_scope")])
async def test_what_cannot_be_is_told_to_the_client(room: Classroom, changes: dict[str, str], error: str) -> None:
    client, alice = Client(await room.server("alice")), await room.person("alice")
    answer = client.answer(await alice.get(client.url(**changes)))
    assert answer["error"] == error
    assert answer["state"] == client.state


async def test_a_client_cannot_choose_another_way_for_its_code(room: Classroom) -> None:
    client, alice = Client(await room.server("alice")), await room.person("alice")
    response = await alice.get(client.url() + "&response_mode=fragment&user=bob&client=x&scopes=admin%3Ausers")
    assert "#" not in response.headers["Location"]
    assert client.code(response)
    for name in ("client_id", "redirect_uri", "state", "code_challenge", "response_type"):
        twice = await alice.get(client.url() + f"&{name}=x")
        assert twice.status_code == 400
        assert "location" not in twice.headers


async def test_an_absolute_address_is_met_exactly_and_its_own_query_is_kept(room: Classroom) -> None:
    alice = await room.person("alice")
    away = Client(client_id="service-away", redirect_uri="https://other.school/back?x=1")
    page = await alice.get(away.url())
    assert page.status_code == 200
    assert "https://other.school" in page.text
    assert "form-action 'self' https://other.school;" in page.headers["content-security-policy"]
    response = await alice.post(away.url(), {"answer": "yes"})
    assert response.headers["Location"].startswith("https://other.school/back?x=1&")
    assert away.code(response)
    no = away.answer(await alice.post(away.url(), {"answer": "no"}))
    assert (no["x"], no["error"], no["state"]) == ("1", "access_denied", away.state)


# -- who may -----------------------------------------------------------------------------------------------------------
async def test_nobody_is_signed_in_to_a_server_that_is_not_theirs(room: Classroom) -> None:
    server, bob = await room.server("alice"), await room.person("bob")
    client = Client(server)
    for response in (await bob.get(client.url()), await bob.post(client.url(), {"answer": "yes"})):
        assert response.status_code == 403
        assert "location" not in response.headers
        assert "You may not open alice&#39;s server." in response.text


async def test_an_admin_is_asked_before_somebody_else_s_server_learns_the_name(room: Classroom) -> None:
    server, teacher = await room.server("alice"), await room.person("teacher", admin=True)
    client = Client(server)
    page = await teacher.get(client.url())
    assert page.status_code == 200
    assert "May alice&#39;s server know who you are?" in page.text
    code = client.code(await teacher.post(client.url(), {"answer": "yes"}))
    token = (await room.exchange(**client.form(code, room.secret(server)))).json()["access_token"]
    who = (await room.who(token)).json()
    assert who["name"] == "teacher"
    # what alice's server holds of the teacher opens that server and says a name, and no more
    assert not [scope for scope in who["scopes"] if scope.startswith(("admin", "servers", "tokens", "users"))]
    assert (await room.public.get("/hub/api/users", headers={"Authorization": f"token {token}"})).status_code == 403


async def test_a_token_does_not_sign_in(room: Classroom) -> None:
    server = await room.server("alice")
    user = await room.mini.user("alice")
    secret, _ = await room.hub.tokens.create(user, by=None)
    visitor, client = room.visitor(), Client(server)
    for token in (secret, room.secret(server), injected_token(KEY, server.id, server.start_no)):
        response = await visitor.get(client.url(), headers=NAVIGATION | {"Authorization": f"token {token}"})
        assert response.headers["Location"].startswith("/hub/login")
    # and the listener for servers has no such page at all
    assert (await room.public.get(client.url(), headers={"Authorization": f"token {secret}"})).status_code == 404


@pytest.mark.parametrize("wrong", ["injected", "other server", "other start", "user's token", "nothing", "x" * 4000, "ü"])
async def test_only_its_own_secret_proves_a_client(room: Classroom, wrong: str) -> None:
    server, alice = await room.server("alice"), await room.person("alice")
    client = Client(server)
    code = client.code(await alice.get(client.url()))
    secret = {
        "injected": injected_token(KEY, server.id, server.start_no),
        "other server": room.secret(await room.server("bob")),
        "other start": room.secret(server).replace(f".{server.start_no}.", f".{server.start_no + 1}."),
        "user's token": (await room.hub.tokens.create(await room.mini.user("alice"), by=None))[0],
        "nothing": "",
    }.get(wrong, wrong)
    response = await room.exchange(**client.form(code, secret))
    assert (response.status_code, response.json()["error"]) == (401, "invalid_client")
    assert (await room.exchange(**client.form(code, room.secret(server)))).status_code == 200


# -- services ----------------------------------------------------------------------------------------------------------
async def test_a_service_asks_and_gets_what_was_ticked_and_is_held(room: Classroom) -> None:
    alice, client = await room.person("alice"), Client(**GRADER)
    page = await alice.get(client.url())
    assert page.status_code == 200
    assert "May the service grader know who you are?" in page.text
    assert "read about users (only you)" in page.text
    assert "start and stop servers (only you)" in page.text
    assert "add, change and delete users" not in page.text      # she may not, so nobody asks her
    ticked = {"answer": "yes", "scope": ["read:users!user", "admin:users", "shutdown"]}
    code = client.code(await alice.post(client.url(), ticked))
    response = await room.exchange(**client.form(code, GRADER_TOKEN))
    assert response.json()["scope"] == "access:services!service=grader read:users!user"
    who = (await room.who(response.json()["access_token"])).json()
    assert who["name"] == "alice"
    assert "read:users!user=alice" in who["scopes"]
    assert not [scope for scope in who["scopes"] if scope.startswith(("servers", "admin", "shutdown"))]


async def test_who_agreed_once_is_not_asked_again_until_it_is_taken_back(room: Classroom) -> None:
    alice, client = await room.person("alice"), Client(**GRADER)
    everything = {"answer": "yes", "scope": ["read:users!user", "servers!user"]}
    code = client.code(await alice.post(client.url(), everything))
    await room.exchange(**client.form(code, GRADER_TOKEN))
    assert client.code(await alice.get(client.url()))
    assert "grader" in (await alice.get("/hub/token")).text
    await alice.post("/hub/token/revoke", {"token": "service-grader"})
    assert (await alice.get(client.url())).status_code == 200


async def test_who_ticked_less_is_asked_again(room: Classroom) -> None:
    alice, client = await room.person("alice"), Client(**GRADER)
    code = client.code(await alice.post(client.url(), {"answer": "yes"}))
    assert (await room.exchange(**client.form(code, GRADER_TOKEN))).json()["scope"] == "access:services!service=grader"
    assert (await alice.get(client.url())).status_code == 200


async def test_a_trusted_service_asks_nobody(room: Classroom) -> None:
    alice, client = await room.person("alice"), Client(**BOARD)
    assert await signed_in(room, alice, client, "board-secret-" + "x" * 30)


async def test_a_service_s_visitors_need_the_right_to_open_it(world: World) -> None:
    async with classroom(world, roles=[]) as room:
        alice, client = await room.person("alice"), Client(**BOARD)
        response = await alice.get(client.url())
        assert response.status_code == 403
        assert "You may not open the service board." in response.text
        teacher = await room.person("teacher", admin=True)
        assert client.code(await teacher.get(client.url()))


async def test_what_a_service_was_given_ends_with_it(room: Classroom, world: World) -> None:
    token = await signed_in(room, await room.person("alice"), Client(**BOARD), "board-secret-" + "x" * 30)
    assert (await room.who(token)).status_code == 200
    await room.hub.oauth.tidy()     # as the Hub does when it begins: nothing happens to those who are there
    assert (await room.who(token)).status_code == 200
    room.hub.oauth._services = lambda: ()
    await room.hub.oauth.tidy()
    assert (await room.who(token)).status_code == 403


# -- the question is a form like others --------------------------------------------------------------------------------
async def test_nobody_else_answers_the_question(room: Classroom) -> None:
    alice, client = await room.person("alice"), Client(**GRADER)
    yes = {"answer": "yes"}
    for response in (
            await alice.post(client.url(), yes, xsrf=""), await alice.post(client.url(), yes, xsrf="tossed.cookie"),
            await alice.post(client.url(), yes, origin="http://evil.test"), await alice.post(client.url(), yes, origin="null"),
            # CVE-2026-40864: a form that a page of another site sends without a preflight
            await alice.client.post(client.url(), data=yes, headers=NAVIGATION | {"Sec-Fetch-Site": "cross-site",
                                                                                 "Sec-Fetch-Mode": "no-cors"}),
            await alice.client.post(client.url(), data=yes, headers={"Sec-Fetch-Site": "same-origin"})):
        assert response.status_code == 403
        assert "location" not in response.headers
    stranger = room.visitor()
    await stranger.get("/hub/login")
    assert (await stranger.post(client.url(), yes)).status_code == 403
    assert (await alice.post(client.url(), {"answer": "maybe"})).headers["Location"].find("code=") == -1


async def test_an_xsrf_token_of_another_session_does_not_count(room: Classroom) -> None:
    """CVE-2024-28233: a page beside the Hub tosses its own cookie at it."""
    alice, bob, client = await room.person("alice"), await room.person("bob"), Client(**GRADER)
    tossed = bob.client.cookies["_xsrf"]
    alice.client.cookies.set("_xsrf", tossed, "box.test", "/")
    assert (await alice.post(client.url(), {"answer": "yes"}, xsrf=tossed)).status_code == 403


# -- when it ends ------------------------------------------------------------------------------------------------------
async def test_signing_out_ends_the_tokens_of_that_sign_in_only(room: Classroom) -> None:
    """CVE-2021-41247: signed out in one tab, the server's own cookie went on to work."""
    server, secret_of = await room.server("alice"), room.secret
    here, there = await room.person("alice"), await room.person("alice")
    one = await signed_in(room, here, Client(server), secret_of(server))
    other = await signed_in(room, there, Client(server), secret_of(server))
    pending = Client(server)
    code = pending.code(await here.get(pending.url()))
    signed_out = await here.post("/hub/logout")
    assert "jupyterhub-session-id" not in here.client.cookies
    assert signed_out.is_redirect
    assert (await room.who(one)).status_code == 403
    assert (await room.who(other)).status_code == 200
    assert (await room.exchange(**pending.form(code, secret_of(server)))).status_code == 400


async def test_a_server_s_sign_out_link_ends_the_session(room: Classroom) -> None:
    server, alice = await room.server("alice"), await room.person("alice")
    token = await signed_in(room, alice, Client(server), room.secret(server))
    # jupyterhub-singleuser answers /user/alice/logout with this redirect
    response = await alice.get("/hub/logout")
    assert response.headers["Location"].startswith("/hub/login")
    assert (await room.who(token)).status_code == 403


async def test_a_stop_ends_all_that_the_server_was_given(room: Classroom) -> None:
    server, alice = await room.server("alice"), await room.person("alice")
    client, secret = Client(server), room.secret(server)
    token = await signed_in(room, alice, client, secret)
    code = client.code(await alice.get(client.url()))
    await room.stop(server)
    assert (await room.who(token)).status_code == 403
    assert (await room.who(secret)).status_code == 403
    assert (await room.exchange(**client.form(code, secret))).status_code == 401
    assert (await alice.get(client.url())).status_code == 400
    assert await room.mini.db.read(lambda t: t.query(ApiTokenRow).count() + t.query(OAuthCodeRow).count()) == 0
    again = await room.server("alice")
    assert (await room.who(token)).status_code == 403
    assert (await room.who(secret)).status_code == 403
    assert (await room.exchange(**client.form(code, room.secret(again)))).status_code == 400
    assert await signed_in(room, alice, client, room.secret(again))


async def test_a_container_that_died_ends_it_too(room: Classroom) -> None:
    server, alice = await room.server("alice"), await room.person("alice")
    token = await signed_in(room, alice, Client(server), room.secret(server))
    room.mini.world.engine.end(server.id, 1)
    await room.mini.until(server.id, Phase.FAILED)
    assert (await room.who(token)).status_code == 403
    assert (await room.who(room.secret(server))).status_code == 403


async def test_an_expired_session_or_token_opens_nothing(room: Classroom) -> None:
    server, alice = await room.server("alice"), await room.person("alice")
    one = await signed_in(room, alice, Client(server), room.secret(server))
    past = datetime.now(UTC) - timedelta(seconds=1)
    await room.mini.db.transact(lambda t: t.execute(update(ApiTokenRow).values(expires_at=past)))
    assert (await room.who(one)).status_code == 403
    other = await signed_in(room, alice, Client(server), room.secret(server))
    await room.mini.db.transact(lambda t: t.execute(update(SessionRow).values(expires_at=past)))
    assert (await room.who(other)).status_code == 403


async def test_a_revoked_session_takes_its_tokens_along(room: Classroom) -> None:
    server, alice = await room.server("alice"), await room.person("alice")
    token = await signed_in(room, alice, Client(server), room.secret(server))
    await room.mini.sessions.sign_out_everywhere(await room.mini.user("alice"))
    assert (await room.who(token)).status_code == 403
    assert await room.mini.db.read(lambda t: tokens.of_user(t, server.user_id)) == []


# -- the cookie for servers --------------------------------------------------------------------------------------------
async def test_servers_see_which_sign_in_it_is_and_can_do_nothing_with_it(room: Classroom) -> None:
    visitor = room.visitor()
    response = await visitor.sign_in("alice")
    [cookie] = [line for line in response.headers.get_list("set-cookie") if line.startswith("jupyterhub-session-id=")]
    assert "Path=/;" in cookie
    assert "SameSite=lax" in cookie
    assert "HttpOnly" in cookie
    stranger = room.visitor()
    stranger.client.cookies.set("jupyterhub-session-id", visitor.client.cookies["jupyterhub-session-id"], "box.test", "/")
    assert (await stranger.get("/hub/home")).headers["Location"].startswith("/hub/login")


async def test_a_browser_that_lost_the_cookie_gets_it_on_the_way(room: Classroom) -> None:
    server, alice = await room.server("alice"), await room.person("alice")
    right = alice.client.cookies["jupyterhub-session-id"]
    alice.client.cookies.delete("jupyterhub-session-id")
    alice.client.cookies.set("jupyterhub-session-id", "tossed", "box.test", "/")
    response = await alice.get(Client(server).url())
    assert f"jupyterhub-session-id={right};" in response.headers["set-cookie"]


# -- bad input ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("content", "kind"), [
    (b"", "application/x-www-form-urlencoded"), (b"\xff\xfe=%ff&code=%ff", "application/x-www-form-urlencoded"),
    (b"grant_type=authorization_code", "application/x-www-form-urlencoded"),
    (b"grant_type=password&username=alice&password=please", "application/x-www-form-urlencoded"),
    (b"grant_type=refresh_token&refresh_token=x", "application/x-www-form-urlencoded"),
    (b"grant_type=client_credentials", "application/x-www-form-urlencoded"),
    (b"&".join(b"a=%d" % i for i in range(500)), "application/x-www-form-urlencoded"),
    (b"grant_type=authorization_code&code=x&code=y&client_id=service-grader", "application/x-www-form-urlencoded"),
    (b"grant_type=authorization_code&client_id=a&client_id=b&code=x", "application/x-www-form-urlencoded"),
    (b"extra_credentials=x&user=1&client=2&scopes=3&request=4&code=5&grant_type=authorization_code",
     "application/x-www-form-urlencoded"),
    (json.dumps({"grant_type": "authorization_code"}).encode(), "application/json"),
    (b"--x", "multipart/form-data; boundary=x"), (b"%", "application/x-www-form-urlencoded"),
    (b"\x00" * 5000, "application/x-www-form-urlencoded"),
])
async def test_what_is_no_request_for_a_token_is_told_so_in_json(room: Classroom, content: bytes, kind: str) -> None:
    for headers in ({}, {"Authorization": "Basic !!!"}, {"Authorization": "Basic " + "eA=="}, {"Authorization": "token x"}):
        response = await room.public.post("/hub/api/oauth2/token", content=content, headers={"Content-Type": kind} | headers)
        assert response.status_code in (400, 401), response.text
        assert response.json()["error"] in ("unsupported_grant_type", "invalid_request", "invalid_client")


async def test_a_huge_request_is_not_read(room: Classroom) -> None:
    response = await room.public.post("/hub/api/oauth2/token", content=b"x" * 20_000_000)
    assert response.status_code == 413


async def test_only_post_gets_a_token(room: Classroom) -> None:
    assert (await room.public.get("/hub/api/oauth2/token?grant_type=authorization_code&code=x")).status_code in (404, 405)
    response = await room.public.post("/hub/api/oauth2/token?client_id=x&code=y", data={})
    assert response.status_code in (400, 401)
