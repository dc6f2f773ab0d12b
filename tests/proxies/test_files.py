"""What is written for Traefik: nothing but validated text reaches a rule, and `traefik/` shows what is really written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from proxy_box import Box

from appliance.domain.names import validate_username
from appliance.domain.route import ServiceRoute
from appliance.errors import BadName
from appliance.proxies.traefik_files import Edge, dump, fixed_config, literal, server_file, service_file, static_config
from appliance.testing.proxies import HUB, cookie_of, make_route

SHOWN = Path(__file__).parents[2] / "traefik"
EDGE = Edge(
    folder=Path("/var/lib/appliance/traefik"), base_url="/", hub_url="http://127.0.0.1:8081", hub_secret="HUB-SECRET",
    bind_ip="", bind_port=443, api_port=8099, api_password="API-PASSWORD",
    tls=True, certificate="/var/lib/appliance/traefik/tls/box-0123456789ab.crt",
    key="/var/lib/appliance/traefik/tls/box-0123456789ab.key", hsts_seconds=1209600, redirect=True, plain_help=True,
    challenge_url="http://127.0.0.1:8098", holding_url="http://127.0.0.1:8083")
ROUTE = make_route(
    "http://10.77.0.7:8888", origins=("https://box.school",), server_id="k3f9k3f9",
    capabilities=("session1.1.owner.MAC-MAC",), injected_token="SERVERS-TOKEN")


def routers(text: str) -> dict[str, Any]:
    return {name.split("-")[0]: router for name, router in json.loads(text)["http"]["routers"].items()}


@pytest.mark.unit
@pytest.mark.parametrize(("name", "written"), [
    ("static.yml", static_config(EDGE)), ("fixed.yml", fixed_config(EDGE)),
    ("server.yml", json.loads(server_file(EDGE, ROUTE).text)),
    ("service.yml", json.loads(service_file(EDGE, ServiceRoute("grades", "/services/grades/", "http://127.0.0.1:9999"))[1])),
])
def test_the_commented_files_are_what_is_written(name: str, written: dict[str, Any]) -> None:
    lines = (SHOWN / name).read_text().splitlines()
    assert json.loads("\n".join(line for line in lines if not line.lstrip().startswith("#"))) == written


@pytest.mark.unit
def test_every_byte_in_a_name_is_refused_or_plain_text() -> None:
    refused, plain = set(), routers(server_file(EDGE, ROUTE).text)["cookie"]["rule"]
    for byte in range(256):
        for char in {chr(byte), bytes([byte]).decode("utf-8", "surrogateescape"), "\u2028", "\u202e", "\ufeff", "\u200b"}:
            prefix = f"/user/a{char}b/"
            try:
                rule = routers(server_file(EDGE, replace(ROUTE, prefix=prefix)).text)["cookie"]["rule"]
            except BadName:
                refused.add(char)
                continue
            assert rule == plain.replace("/user/alice/", prefix)
    assert refused >= {*"`\"'\\{}<>|^%?# \n\r\t\0\x7f", "\udcff", "\u2028", "\u202e"}
    assert not refused & set("abz019._-@é")


@pytest.mark.unit
def test_every_valid_name_can_stand_in_a_rule() -> None:
    for code in range(0x3000):
        try:
            name = validate_username(f"a{chr(code)}") if chr(code).isascii() else validate_username(chr(code))
        except BadName:
            continue
        assert literal(name) == name


@pytest.mark.unit
@pytest.mark.parametrize("changes", [
    {"server_id": "k3f9`"}, {"server_id": "../../etc"}, {"server_id": ""}, {"server_id": "K3F9"},
    {"capabilities": ("a`) || PathPrefix(`/",)}, {"capabilities": ("",)}, {"capabilities": ("a b",)},
    {"origins": ("http://x`y",)}, {"origins": ("null",)}, {"origins": ("",)}, {"origins": (".*",)},
    {"url": "http://10.77.0.7:8888/path"}, {"url": "file:///etc/passwd"}, {"url": "http://a@b"}, {"url": ""},
    {"injected_token": "a\r\nX-Evil: 1"}, {"injected_token": ""}, {"injected_token": "{{ env }}"},
    {"prefix": "/user/alice"}, {"prefix": "user/alice/"}, {"prefix": "/"}, {"prefix": ""}, {"prefix": "/user/{{.}}/"},
])
def test_a_route_with_anything_else_in_it_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadName):
        server_file(EDGE, replace(ROUTE, **changes))


@pytest.mark.unit
def test_a_template_is_refused() -> None:
    with pytest.raises(BadName):
        dump({"a": "{{ env `HOME` }}"})


@pytest.mark.unit
def test_priorities_are_explicit_and_the_longer_prefix_comes_first() -> None:
    default = routers(server_file(EDGE, ROUTE).text)
    named = routers(server_file(EDGE, replace(ROUTE, prefix="/user/alice/l/")).text)
    assert set(default) == {"cookie", "token"}
    assert set(named) == {"cookie", "token", "else"}
    order = [named["cookie"], named["token"], named["else"], default["cookie"], default["token"]]
    assert [router["priority"] for router in order] == sorted((router["priority"] for router in order), reverse=True)
    assert len({router["priority"] for router in order}) == 5


@pytest.mark.unit
def test_named_servers_that_do_not_run_take_one_router_together() -> None:
    default = routers(server_file(EDGE, replace(ROUTE, below=("/user/alice/a1/", "/user/alice/b2/"))).text)
    named = routers(server_file(EDGE, replace(ROUTE, prefix="/user/alice/a1/")).text)
    assert set(default) == {"cookie", "token", "below"}
    assert default["cookie"]["priority"] < default["below"]["priority"] < named["else"]["priority"]


@pytest.mark.unit
@pytest.mark.parametrize("below", [
    "/user/bob/a/", "/user/alice/a", "/user/alice/", "/user/alice/`a`/", "/hub/", "/user/alice/{{/"])
def test_a_path_that_is_not_below_the_server_is_refused(below: str) -> None:
    with pytest.raises(BadName):
        server_file(EDGE, replace(ROUTE, below=(below,)))


@pytest.mark.unit
def test_without_a_capability_only_api_tokens_enter() -> None:
    file = server_file(EDGE, replace(ROUTE, capabilities=()))
    assert set(routers(file.text)) == {"token"}
    assert file.router.startswith("token-")


@pytest.mark.unit
def test_every_change_of_a_route_has_a_name_of_its_own() -> None:
    versions = [server_file(EDGE, ROUTE), server_file(EDGE, ROUTE, 1), server_file(EDGE, replace(ROUTE, start_no=2)),
                server_file(EDGE, replace(ROUTE, url="http://10.77.0.8:8888"))]
    assert len({version.router for version in versions}) == 4
    assert server_file(EDGE, ROUTE) == server_file(EDGE, ROUTE)
    # another port or certificate touches no server's file
    assert server_file(replace(EDGE, bind_port=1, redirect=False), ROUTE) == server_file(EDGE, ROUTE)


@pytest.mark.engine
@pytest.mark.anyio
async def test_whatever_byte_may_stand_in_a_rule_opens_its_own_path_only(box: Box) -> None:
    routes = {}
    for byte in range(128):
        try:
            literal(f"a{chr(byte)}b")
        except BadName:
            continue
        if chr(byte) != "/":
            routes[chr(byte)] = make_route(
                box.one.url, server_id=f"server{byte}", prefix=f"/user/a{chr(byte)}b/", capabilities=(f"c.{byte}",))
    await box.serve(*routes.values())
    assert len(routes) > 70
    for char, route in routes.items():
        cookie = f"Cookie: {cookie_of(route)}"
        assert (await box.ask(f"/user/a{char}b/x", cookie)).served_by == "one", char
        for path in ("/hub/login", "/", "/user/ab/", "/user/axb/" if char != "x" else "/user/ayb/"):
            assert (await box.ask(path, cookie)).served_by == HUB, char
