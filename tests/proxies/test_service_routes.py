"""Ways to services: what is written for them, and what a real Traefik does with it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from proxy_box import Box

from appliance.domain.route import ServiceRoute
from appliance.errors import BadName
from appliance.proxies.traefik_files import Edge, server_file, service_file
from appliance.testing.proxies import Reply, TinyServer, cookie_of, make_route

EDGE = Edge(Path("/x"), "/", "http://127.0.0.1:8081", "secret", "", 8000, 8099, "password")


# -- the files -----------------------------------------------------------------------------------------------------
@pytest.mark.unit
@pytest.mark.parametrize(("name", "prefix", "url"), [
    ("a`b", "/services/a`b/", "http://127.0.0.1:1"), ("a{{", "/services/a{{/", "http://127.0.0.1:1"),
    ("../x", "/services/../x/", "http://127.0.0.1:1"), ("", "/services//", "http://127.0.0.1:1"),
    ("a\n", "/services/a\n/", "http://127.0.0.1:1"), ("a/b", "/services/a/b/", "http://127.0.0.1:1"),
    ("x" * 65, "/services/" + "x" * 65 + "/", "http://127.0.0.1:1"),
    ("a", "/services/b/", "http://127.0.0.1:1"), ("a", "services/a/", "http://127.0.0.1:1"), ("a", "/", "http://127.0.0.1:1"),
    ("a", "/services/a/", "ftp://127.0.0.1"), ("a", "/services/a/", "http://127.0.0.1:1/path"),
    ("a", "/services/a/", "http://a`b"), ("a", "/services/a/", ""),
])
def test_what_cannot_stand_in_a_rule_gets_no_file(name: str, prefix: str, url: str) -> None:
    with pytest.raises(BadName):
        service_file(EDGE, ServiceRoute(name, prefix, url))


@pytest.mark.unit
def test_nothing_of_a_service_has_the_name_of_something_of_a_server() -> None:
    server = server_file(EDGE, make_route("http://127.0.0.1:1", server_id="service"))
    file, text = service_file(EDGE, ServiceRoute("service", "/services/service/", "http://127.0.0.1:1"))
    assert file != server.name
    one, other = json.loads(text)["http"], json.loads(server.text)["http"]
    for kind in ("routers", "middlewares", "services"):
        assert not one[kind].keys() & other[kind].keys()


# -- the real Traefik ----------------------------------------------------------------------------------------------
def rude(request: object) -> Reply:
    return Reply(200, {"Service-Worker-Allowed": "/", "Clear-Site-Data": '"*"', "Strict-Transport-Security": "max-age=1",
                       "X-Own": "stays"}, b"hello")


@pytest.fixture
async def services(box: Box) -> AsyncIterator[Box]:
    """"grades" is led to the server "one", "Math-1.a" to "two"."""
    await box.proxy.set_services([
        ServiceRoute("grades", "/services/grades/", box.one.url), ServiceRoute("Math-1.a", "/services/Math-1.a/", box.two.url)])
    await served_by(box, "/services/Math-1.a/", "two")
    yield box
    await box.proxy.set_services([])
    await served_by(box, "/services/grades/", "hub")


async def served_by(box: Box, path: str, name: str) -> None:
    with anyio.fail_after(5):
        while (await box.ask(path)).served_by != name:
            await anyio.sleep(0.02)


@pytest.mark.engine
@pytest.mark.anyio
async def test_a_service_gets_the_whole_path_and_nothing_that_the_hub_would_believe(services: Box) -> None:
    answer = await services.ask(
        "/services/grades/a%20b?x=1", "X-Appliance-Proxy: guessed", "Forwarded: for=1.2.3.4", "Cookie: service-grades=mine",
        "Authorization: token of-a-user", "Origin: https://elsewhere.example")
    assert answer.served_by == "one"
    seen = services.one.seen[-1]
    assert seen.target == "/services/grades/a%20b?x=1"
    assert seen.get("Cookie") == "service-grades=mine"
    assert seen.get("Authorization") == "token of-a-user"     # the service asks the Hub whose it is
    assert (seen.get("X-Appliance-Proxy"), seen.get("Forwarded")) == ("", "")
    assert seen.get("X-Forwarded-Host") == "box.school:8000"


@pytest.mark.engine
@pytest.mark.anyio
async def test_a_service_may_not_say_what_a_container_may_not(services: Box) -> None:
    async with TinyServer("rude", rude) as server:
        await services.proxy.set_services([ServiceRoute("rude", "/services/rude/", server.url)])
        await served_by(services, "/services/rude/", "rude")
        answer = await services.ask("/services/rude/")
    assert answer.get("X-Own") == "stays"
    for name in ("Service-Worker-Allowed", "Clear-Site-Data", "Strict-Transport-Security"):
        assert answer.get(name) == ""


@pytest.mark.engine
@pytest.mark.anyio
async def test_instead_of_a_dead_service_the_hub_explains(services: Box) -> None:
    async with TinyServer("gone") as server:
        url = server.url
    await services.proxy.set_services([ServiceRoute("gone", "/services/gone/", url)])
    await served_by(services, "/services/gone/x", "hub")
    with anyio.fail_after(5):  # at first the catch-all, then the page for a service that does not answer
        while not services.hub.seen[-1].target.startswith("/hub/error/"):
            await services.ask("/services/gone/x?y=1")
            await anyio.sleep(0.02)
    assert services.hub.seen[-1].target.startswith("/hub/error/service/gone/502?url=")


@pytest.mark.engine
@pytest.mark.anyio
async def test_a_service_that_went_has_no_way_any_more(services: Box) -> None:
    await services.proxy.set_services([ServiceRoute("grades", "/services/grades/", services.one.url)])
    await served_by(services, "/services/Math-1.a/", "hub")
    assert (await services.ask("/services/grades/")).served_by == "one"
    assert not (services.folder / "routes" / "service-Math-1.a.yml").exists()


@pytest.mark.engine
@pytest.mark.anyio
async def test_the_next_hub_takes_no_way_before_it_knows_what_is_wanted(own_box: Box) -> None:
    box, route = own_box, make_route(own_box.two.url)
    await box.proxy.set_services([ServiceRoute("grades", "/services/grades/", box.one.url)])
    await box.serve(route)
    later = box.another_hub()
    await later.start()

    async def both() -> None:
        assert (await box.ask("/services/grades/")).served_by == "one"
        assert (await box.ask("/user/alice/", f"Cookie: {cookie_of(route)}")).served_by == "two"

    await both()
    await later.set_services([ServiceRoute("grades", "/services/grades/", box.one.url)])
    await anyio.sleep(0.3)
    await both()
    await later.set_routes({route.server_id: route})
    await later.wait_live(route.server_id)
    await both()
