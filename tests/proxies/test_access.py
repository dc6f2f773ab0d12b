"""What the real Traefik lets through, and what a server and the Hub then see. Requests are sent byte by byte."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from urllib.parse import parse_qs

import pytest
from proxy_box import HUB_SECRET, Answer, Box

from appliance.domain.route import Route
from appliance.testing.proxies import Reply, Request, cookie_of, make_route

pytestmark = [pytest.mark.engine, pytest.mark.anyio]

TOKEN = "injected-secret-1"


@pytest.fixture
async def route(box: Box) -> Route:
    """Alice's server is `one`, bob's is `two`; both serve."""
    box.one.answer = box.two.answer = lambda request: None
    route = make_route(box.one.url)
    await box.serve(route, bob(box))
    return route


def bob(box: Box) -> Route:
    return make_route(box.two.url, server_id="bobsserver", prefix="/user/bob/", capabilities=("bob.1.owner.MAC",))


def seen(answer: Answer) -> dict[str, str]:
    """Return the headers the server saw, by lower-case name; doubled ones joined."""
    headers: dict[str, str] = {}
    for key, value in json.loads(answer.body)["headers"]:
        headers[key.lower()] = f"{headers[key.lower()]}, {value}" if key.lower() in headers else value
    return headers


async def test_the_cookie_is_found_wherever_it_stands(box: Box, route: Route) -> None:
    ours = cookie_of(route)
    for cookies in (
        ours, f"a=b; {ours}", f"a=b;{ours}", f"{ours};a=b", f"{ours} ; a=b", f"a=b;   {ours}; c=d", f"_xsrf=1; {ours}; x=",
        f"appliance-server-k3f9k3f9=tossed; {ours}", f"{ours}; appliance-server-k3f9k3f9=tossed",
    ):
        assert (await box.ask("/user/alice/lab", f"Cookie: {cookies}")).served_by == "one", cookies


async def test_nothing_like_the_cookie_opens(box: Box, route: Route) -> None:
    ours, value = cookie_of(route), route.capabilities[0]
    for cookies in (
        "", f"x{ours}", f"{ours}x", ours[:-1], f"{ours}.", ours.replace(".", "x"), f'a="{ours}"', f"a={ours}",
        f"appliance-server-bobsserver={value}", f"appliance-server-k3f9k3f9={bob(box).capabilities[0]}",
        ours.upper(), f"appliance-server-k3f9k3f9={value},", "appliance-server-k3f9k3f9=", cookie_of(bob(box)),
    ):
        assert (await box.ask("/user/alice/lab", f"Cookie: {cookies}")).served_by == "hub", cookies


@pytest.mark.parametrize(("target", "reached", "as_seen"), [
    ("/user/alice/", "one", "/user/alice/"),
    ("/user/alice/lab?a=1&b=%2F;c", "one", "/user/alice/lab?a=1&b=%2F%3Bc"),
    ("/user/alice", "hub", "/user/alice"),
    ("/user/alicebob/", "hub", "/user/alicebob/"),
    ("/user/alice;x/", "hub", "/user/alice;x/"),
    ("/user/alice%2F", "hub", "/user/alice%2F"),
    ("/user%2Falice/", "hub", "/user%2Falice/"),
    ("/user/%61lice/", "one", "/user/alice/"),
    ("/user/ALICE/", "hub", "/user/ALICE/"),
    # out of her own prefix: what is left of the path is judged
    ("/user/alice/../bob/", "hub", "/user/bob/"),
    ("/user/alice/%2e%2e/bob/", "hub", "/user/bob/"),
    ("/user/alice/.%2E/bob/", "hub", "/user/bob/"),
    ("/user/alice/./lab", "one", "/user/alice/lab"),
    ("/user/bob/../alice/", "one", "/user/alice/"),
    ("//user//alice//lab", "one", "/user/alice/lab"),
    # inside her own server nothing is decoded: it gets what was sent
    ("/user/alice/..%2Fbob/", "one", "/user/alice/..%2Fbob/"),
    ("/user/alice/a%2Fb%3F%23%25%3B", "one", "/user/alice/a%2Fb%3F%23%25%3B"),
    ("/user/alice/%252e%252e/bob/", "one", "/user/alice/%252e%252e/bob/"),
    ("/user/alice/..;/bob/", "one", "/user/alice/..;/bob/"),
    ("/user/alice/..%5Cbob/", "one", "/user/alice/..%5Cbob/"),
])
async def test_paths(box: Box, route: Route, target: str, reached: str, as_seen: str) -> None:
    answer = await box.ask(target, f"Cookie: {cookie_of(route)}")
    assert (answer.served_by, json.loads(answer.body)["target"]) == (reached, as_seen)


async def test_an_encoded_null_byte_reaches_nobody(box: Box, route: Route) -> None:
    assert (await box.ask("/user/alice/a%00b", f"Cookie: {cookie_of(route)}")).status == 400


async def test_names_with_letters_and_at_signs(box: Box) -> None:
    route = make_route(box.one.url, prefix="/user/josé@school.org/")
    await box.serve(route)
    cookie = f"Cookie: {cookie_of(route)}"
    for target, reached in (
        ("/user/jos%C3%A9@school.org/x", "one"), ("/user/jos%c3%a9@school.org/x", "one"),
        ("/user/jos%C3%A9%40school.org/x", "hub"), ("/user/jose@school.org/x", "hub"),
    ):
        assert (await box.ask(target, cookie)).served_by == reached, target


async def test_a_foreign_origin_reaches_only_the_hub(box: Box, route: Route) -> None:
    cookie = f"Cookie: {cookie_of(route)}"
    for origin in ("http://evil.example", "null", "http://box.school:80001", "https://box.school:8000",
                   "http://boxxschool:8000", "http://box.school:8000, http://evil.example"):
        assert (await box.ask("/user/alice/", cookie, f"Origin: {origin}", method="POST")).served_by == "hub", origin
        token = await box.ask("/user/alice/", "Authorization: token good", f"Origin: {origin}")
        assert token.served_by == "hub", origin


async def test_the_servers_own_token_is_added_and_nothing_of_the_clients_is_believed(box: Box, route: Route) -> None:
    answer = await box.ask(
        "/user/alice/", f"Cookie: {cookie_of(route)}", "Authorization: token users-api-token",
        "authorization: Bearer users-other-token", "X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil.example", "X-Forwarded-Prefix: /evil", "X-Real-Ip: 6.6.6.6", "Forwarded: for=6.6.6.6",
        "X-Appliance-Proxy: guessed", "X_Appliance_Proxy: guessed", "X-Forwarded_Host: evil.example")
    headers = seen(answer)
    assert headers["authorization"] == f"token {TOKEN}"
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["x-forwarded-proto"] == "http"
    assert headers["x-forwarded-host"] == headers["host"] == "box.school:8000"
    assert not {"forwarded", "x-appliance-proxy", "x_appliance_proxy", "x-forwarded_host"} & set(headers)
    assert "6.6.6.6" not in str(headers)
    assert "evil" not in str(headers)
    assert "users-" not in str(headers)


async def test_the_hub_believes_only_the_proxy(box: Box, route: Route) -> None:
    answer = await box.ask("/hub/login", "X-Appliance-Proxy: guessed", "X_Appliance_Proxy: guessed",
                           "X-Forwarded-For: 6.6.6.6", "Forwarded: for=6.6.6.6")
    headers = seen(answer)
    assert headers["x-appliance-proxy"] == HUB_SECRET
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert "6.6.6.6" not in str(headers)


@pytest.mark.parametrize("named", ["Authorization", "X-Appliance-Proxy", "X-Forwarded-For, X-Forwarded-Host", "Cookie"])
async def test_a_connection_header_takes_nothing_of_ours_away(box: Box, route: Route, named: str) -> None:
    answer = await box.ask("/user/alice/", f"Cookie: {cookie_of(route)}", f"Connection: {named}")
    if answer.served_by == "one":
        assert seen(answer)["authorization"] == f"token {TOKEN}"
        assert seen(answer)["x-forwarded-for"] == "127.0.0.1"
    assert seen(await box.ask("/hub/", f"Connection: {named}"))["x-appliance-proxy"] == HUB_SECRET


async def test_an_image_with_a_bearer_scheme_of_its_own_keeps_it(box: Box) -> None:
    route = make_route(box.one.url, injected_token=None)
    await box.serve(route)
    answer = await box.ask("/user/alice/", f"Cookie: {cookie_of(route)}", "Authorization: Bearer the-apps-own")
    assert seen(answer)["authorization"] == "Bearer the-apps-own"


async def test_an_app_that_lives_at_the_root(box: Box) -> None:
    route = make_route(box.one.url, prefix="/user/josé/", strip_prefix=True)
    await box.serve(route)
    for target, stripped in (("/user/jos%C3%A9/", "/"), ("/user/jos%C3%A9/a%2Fb?x=1", "/a%2Fb?x=1")):
        answer = await box.ask(target, f"Cookie: {cookie_of(route)}")
        assert json.loads(answer.body)["target"] == stripped


async def test_what_a_container_may_not_say_is_removed(box: Box, route: Route) -> None:
    forbidden = {
        "Service-Worker-Allowed": "/", "Clear-Site-Data": '"*"', "Strict-Transport-Security": "max-age=1", "NEL": "{}",
        "Report-To": "{}", "Reporting-Endpoints": 'x="/"', "Alt-Svc": 'h3=":1"', "service-worker-allowed": "/hub/",
    }
    box.one.answer = lambda request: Reply(200, {**forbidden, "X-Frame-Options": "DENY"})
    answer = await box.ask("/user/alice/", f"Cookie: {cookie_of(route)}")
    assert answer.status == 200
    assert answer.get("X-Frame-Options") == "DENY"
    for name in forbidden:
        assert not answer.get(name), name


async def test_cookies_of_a_container_pass_whatever_their_path(box: Box, route: Route) -> None:
    """Traefik cannot judge them one by one and Jupyter needs its own: of the session's cookies the Hub takes only one
    that verifies."""
    box.one.answer = lambda request: Reply(200, {"Set-Cookie": "appliance-session=tossed; Path=/hub/"})
    answer = await box.ask("/user/alice/", f"Cookie: {cookie_of(route)}")
    assert answer.get("Set-Cookie") == "appliance-session=tossed; Path=/hub/"


async def test_a_script_with_an_api_token_enters_by_the_hubs_word(box: Box, route: Route) -> None:
    box.hub.seen.clear()
    answer = await box.ask("/user/alice/api?x=1", "Authorization: token good", "X-Forwarded-Uri: /evil", "Cookie: a=b")
    assert answer.served_by == "one"
    assert seen(answer)["authorization"] == f"token {TOKEN}"
    assert "x-appliance-proxy" not in seen(answer)
    asked, = box.hub.seen
    assert asked.target == "/hub/api/internal/authorize/k3f9k3f9"
    assert asked.get("X-Forwarded-Uri") == "/user/alice/api?x=1"
    assert asked.get("X-Forwarded-Method") == "GET"
    assert asked.get("X-Forwarded-For") == "127.0.0.1"


async def test_a_wrong_or_foreign_api_token_is_refused_by_the_hub(box: Box, route: Route) -> None:
    box.one.seen.clear(), box.two.seen.clear()
    assert (await box.ask("/user/alice/api", "Authorization: token bad")).status == 403
    # the address names bob's server, for which this token is none
    assert (await box.ask("/user/bob/api", "Authorization: token good")).served_by == "hub"
    assert (await box.ask("/user/alice/api?token=good")).served_by == "hub"
    assert (await box.ask("/user/alice/api", "Authorization: Basic Z29vZA==")).served_by == "hub"
    assert not box.one.seen
    assert not box.two.seen


@pytest.mark.parametrize("token", ["good", "silent"])
async def test_an_api_token_never_reaches_a_container(box: Box, token: str) -> None:
    await box.serve(make_route(box.one.url, injected_token=None, capabilities=()))
    answer = await box.ask("/user/alice/api", f"Authorization: token {token}")
    assert answer.served_by == "one"
    assert seen(answer).get("authorization") == ("token by-the-hub" if token == "good" else None)


async def test_who_is_not_let_in_to_a_named_server_does_not_land_in_the_default_one(box: Box, route: Route) -> None:
    named = make_route(box.two.url, server_id="secondone", prefix="/user/alice/lab2/", start_no=2,
                       capabilities=("new.2.owner.MAC",))
    await box.serve(route, named)
    for cookies in (cookie_of(route), f"{cookie_of(route)}; appliance-server-secondone=old.1.owner.MAC"):
        assert (await box.ask("/user/alice/lab2/", f"Cookie: {cookies}")).served_by == "hub"


async def test_the_path_of_a_named_server_that_does_not_run_is_the_hub_s(box: Box, route: Route) -> None:
    await box.serve(replace(route, below=("/user/alice/josé/", "/user/alice/lab2/")))
    cookie = f"Cookie: {cookie_of(route)}"
    for path in ("lab2/", "lab2", "lab2/lab/tree?x=1", "jos%C3%A9/api"):
        assert (await box.ask(f"/user/alice/{path}", cookie)).served_by == "hub"
        assert (await box.ask(f"/user/alice/{path}", cookie, "Authorization: token good")).served_by == "hub"
    for path in ("", "lab2b/", "lab2b", "lab", "lab/lab2/"):
        assert (await box.ask(f"/user/alice/{path}", cookie)).served_by == "one"
    # and while it runs, it answers there
    named = make_route(box.two.url, server_id="secondone", prefix="/user/alice/lab2/", capabilities=("new.2.owner.MAC",))
    await box.serve(replace(route, below=("/user/alice/lab2/",)), named)
    both = f"{cookie}; appliance-server-secondone=new.2.owner.MAC"
    assert (await box.ask("/user/alice/lab2/x", both)).served_by == "two"
    assert (await box.ask("/user/alice/x", both)).served_by == "one"


async def test_a_long_answer_is_compressed_once(box: Box, route: Route) -> None:
    cookie, text = f"Cookie: {cookie_of(route)}", b"a long line of text, " * 500
    accept = "Accept-Encoding: gzip, deflate"
    box.one.answer = lambda request: Reply(200, {"Content-Type": "text/css"}, text)
    assert (await box.ask("/user/alice/x.css", cookie, accept)).get("Content-Encoding") == "gzip"
    assert (await box.ask("/user/alice/x.css", cookie)).body == text
    box.one.answer = lambda request: Reply(200, {"Content-Type": "text/css", "Content-Encoding": "gzip"}, text)
    assert (await box.ask("/user/alice/x.css", cookie, accept)).body == text
    box.one.answer = lambda request: Reply(200, {"Content-Type": "image/png"}, text)
    assert (await box.ask("/user/alice/x.png", cookie, accept)).body == text
    box.one.answer = lambda request: Reply(
        206, {"Content-Type": "text/plain", "Content-Range": f"bytes 0-{len(text) - 1}/99999"}, text)
    assert (await box.ask("/user/alice/x.txt", cookie, accept, "Range: bytes=0-")).body == text


async def test_a_dead_server_shows_the_hubs_page_within_a_second(box: Box) -> None:
    """The page learns which server and the whole address; its host is what the client said, and an app that lives at the
    root has its prefix stripped by then."""
    # 127.0.0.1:1 refuses; 192.0.2.1 is an address nobody has, where packets vanish or the way there is refused
    for url in ("http://127.0.0.1:1", "http://192.0.2.1:8888"):
        for strip in (False, True):
            route = make_route(url, strip_prefix=strip)
            await box.serve(route)
            box.hub.seen.clear()
            async with asyncio.timeout(1):
                answer = await box.ask("/user/alice/lab/tree/a%20b?x=1&y=2", f"Cookie: {cookie_of(route)}", method="POST")
            assert answer.status in (502, 504)
            assert answer.served_by == "hub"
            asked, = box.hub.seen
            page, _, query = asked.target.partition("?")
            assert page == f"/hub/error/{answer.status}"
            asked_for = "http://box.school:8000" + ("" if strip else "/user/alice") + "/lab/tree/a%20b?x=1&y=2"
            assert parse_qs(query) == {"server": ["k3f9k3f9"], "url": [asked_for]}
            assert asked.method == "GET"


async def test_an_apps_own_errors_stay_its_own(box: Box, route: Route) -> None:
    for status in (403, 404, 500, 503):
        box.one.answer = lambda request, status=status: Reply(status)
        answer = await box.ask("/user/alice/", f"Cookie: {cookie_of(route)}")
        assert (answer.status, answer.served_by) == (status, "one")


async def test_a_hub_that_is_down_stops_nobody_who_works(box: Box, route: Route) -> None:
    def gone(request: Request) -> Reply:
        raise ConnectionError

    box.hub.answer, kept = gone, box.hub.answer
    try:
        assert (await box.ask("/user/alice/", f"Cookie: {cookie_of(route)}")).served_by == "one"
        assert (await box.ask("/user/alice/", "Authorization: token good")).status in (500, 502)
    finally:
        box.hub.answer = kept


async def test_the_log_of_requests_holds_no_secret(box: Box, route: Route) -> None:
    await box.ask("/user/alice/logged?secret=in-the-query", f"Cookie: {cookie_of(route)}",
                  "Referer: http://box/?secret=in-the-query", "Authorization: token users-api-token")
    await box.ask("/user/alice/logged?token=in-the-query", "Authorization: token good")
    await box.ask("/hub/api/authorizations/token/in-the-path")
    await box.ask("/hub/logged?code=in-the-query")
    log = box.folder / "access.log"
    for _ in range(100):
        text = log.read_text()
        if text.count("/logged") == 3:
            break
        await asyncio.sleep(0.02)
    assert text.count("/logged") == 3
    text += (box.folder / "traefik.log").read_text() + (box.folder / "output.log").read_text()
    password = json.loads((box.folder / "api.json").read_text())["password"]
    for secret in ("in-the-query", "in-the-path", route.capabilities[0], TOKEN, "users-api-token", "token good", HUB_SECRET,
                   password):
        assert secret not in text, secret
