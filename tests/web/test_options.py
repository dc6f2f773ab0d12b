"""Choosing what a server is started with, and several servers of one person."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hub.conftest import World
from hub.conftest import world as world

from appliance.domain.capability import cookie_name
from appliance.domain.group_limits import parse_limits
from appliance.domain.offers import ImageChoice, NamedServers, Person
from appliance.domain.server import Phase, Server
from appliance.store import groups

from .real_hub import NAVIGATION, Classroom, Visitor, classroom

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

PYTHON = ImageChoice("python", "py:1", "Python <3>", "For & with maths")
R, GONE = ImageChoice("R", "r:1", "R"), ImageChoice("gone", "gone:1", "Gone")
QUERY = "repo=https%3A%2F%2Fgit.test%2Fa%2F%2Fb&urlpath=lab%2Ftree%2Fa%2520b&x=a+b&y"


@pytest.fixture
def several(world: World) -> World:
    world.choices = (PYTHON, R, GONE)
    world.engine.images = {"py:1", "r:1"}
    return world


@pytest.fixture
async def room(several: World) -> AsyncIterator[Classroom]:
    async with classroom(several) as room:
        yield room


def action_of(page: str) -> str:
    return html.unescape(re.findall(r'<form class="card" method="post" action="([^"]+)"', page)[0])


async def server_of(room: Classroom, name: str = "") -> Server:
    server = await room.mini.servers.view("alice", name)
    assert server is not None
    return server


# -- the form -----------------------------------------------------------------------------------------------------------
async def test_there_is_no_form_where_there_is_nothing_to_choose(world: World) -> None:
    async with classroom(world) as room:
        alice = await room.person("alice")
        assert (await alice.get("/hub/spawn")).headers["location"] == "/hub/spawn-pending/alice"


async def test_images_are_shown_with_names_and_descriptions_and_the_missing_one_cannot_be_chosen(room: Classroom) -> None:
    alice = await room.person("alice")
    page = (await alice.get("/hub/spawn")).text
    assert "Python &lt;3&gt;" in page
    assert "For &amp; with maths" in page
    assert re.search(r'value="python" checked>', page)
    assert re.search(r'value="gone" disabled>', page)
    assert "Not installed on this box" in page
    assert not room.mini.world.engine.calls


async def test_what_is_chosen_is_started_and_chosen_again_the_next_time(room: Classroom) -> None:
    alice = await room.person("alice")
    page = (await alice.get("/hub/spawn?next=/user/alice/tree")).text
    response = await alice.post(action_of(page), {"_form": "1", "image": "R"})
    assert response.status_code == 303
    assert response.headers["location"] == "/hub/spawn-pending/alice?next=/user/alice/tree"
    server = await server_of(room)
    assert (server.image, server.user_options) == ("r:1", {"image": "R"})
    await room.mini.until(server.id, Phase.READY)
    assert "<p class=\"hint\">R</p>" in (await alice.get("/hub/home")).text
    await room.stop(server)
    assert re.search(r'value="R" checked>', (await alice.get("/hub/spawn")).text)


@pytest.mark.parametrize("fields", [{"image": "gone"}, {"image": "evil:latest"}, {"image": "' OR 1=1"}, {"image": "x" * 5000},
                                    {"image": "\0"}])
async def test_what_is_not_offered_is_refused_with_the_form(room: Classroom, fields: dict[str, str]) -> None:
    alice = await room.person("alice")
    response = await alice.post("/hub/spawn", {"_form": "1", **fields})
    assert response.status_code in (400, 403, 500)      # 500 is an image that is missing, as ever
    assert 'role="alert"' in response.text
    assert "Traceback" not in response.text
    assert not room.mini.world.engine.calls


async def test_a_button_that_starts_leads_to_the_form(room: Classroom) -> None:
    alice = await room.person("alice")
    response = await alice.post("/hub/spawn/alice?next=/user/alice/tree")
    assert response.status_code == 303
    assert response.headers["location"] == "/hub/spawn/alice?next=/user/alice/tree"
    assert "What do you want to work with?" in (await alice.get(response.headers["location"])).text


async def test_the_form_needs_its_xsrf_token(room: Classroom) -> None:
    alice = await room.person("alice")
    assert (await alice.post("/hub/spawn", {"_form": "1", "image": "R"}, xsrf="forged")).status_code == 403
    assert not room.mini.world.engine.calls


async def test_a_deep_link_is_kept_through_login_form_and_pending_page(room: Classroom) -> None:
    alice = room.visitor()
    path = f"/hub/user-redirect/git-pull?{QUERY}"
    login = (await alice.get(path)).headers["location"]
    assert (await alice.sign_in("alice", login)).headers["location"] == path
    form = (await alice.get(path)).headers["location"]
    assert form.startswith("/hub/spawn/alice?next=")
    page = await alice.get(form)
    assert page.status_code == 200, page.headers
    response = await alice.post(action_of(page.text), {"_form": "1", "image": "R"})
    pending = response.headers["location"]
    await room.mini.until((await server_of(room)).id, Phase.READY)
    enter = (await alice.get(pending)).headers["location"]
    assert (await alice.get(enter)).headers["location"] == f"/user/alice/git-pull?{QUERY}"


# -- the configuration's own fields -------------------------------------------------------------------------------------
async def test_own_fields_stand_in_our_form_and_become_options(world: World) -> None:
    form = '<label for="days">Days</label><input id="days" name="days"><input type="checkbox" name="gpu">'
    async with classroom(world, options_form=form) as room:
        alice = await room.person("alice")
        page = (await alice.get("/hub/spawn")).text
        assert form in page
        assert 'name="_xsrf"' in page
        await alice.post("/hub/spawn", {"_form": "1", "days": "3", "gpu": "on", "many": ["a", "b"]})
        assert (await server_of(room)).user_options == {"days": "3", "gpu": True, "many": ["a", "b"]}


async def test_functions_of_the_configuration_make_the_form_and_read_it(several: World) -> None:
    def form(person: Person) -> str:
        return f"<p>Hello {person.user.name}: {html.escape(str(person.user_options.get('note', 'none')))}</p>"

    def read(fields: dict[str, list[str]]) -> dict[str, Any]:
        return {"note": fields["note"][0], "image": "R" if fields.get("r") else "python"}

    several.choices = (PYTHON, R)
    several.group_limits = {}
    async with classroom(several, options_form=form, options_from_form=read) as room:
        alice = await room.person("alice")
        assert "<p>Hello alice: none</p>" in (await alice.get("/hub/spawn")).text
        await alice.post("/hub/spawn", {"_form": "1", "note": "<b>", "image": "R"})
        server = await server_of(room)
        assert server.user_options == {"note": "<b>", "image": "R"}
        await room.mini.until(server.id, Phase.READY)
        await room.stop(server)
        assert "<p>Hello alice: &lt;b&gt;</p>" in (await alice.get("/hub/spawn")).text


async def test_a_function_that_returns_nothing_asks_nothing(world: World) -> None:
    async with classroom(world, options_form=lambda person: "") as room:
        alice = await room.person("alice")
        assert (await alice.get("/hub/spawn")).headers["location"] == "/hub/spawn-pending/alice"


async def test_a_broken_function_is_a_page_for_the_teacher(world: World) -> None:
    async with classroom(world, options_form=lambda person: person.no_such_thing) as room:
        alice, teacher = await room.person("alice"), await room.person("teacher", admin=True)
        page = await alice.get("/hub/spawn")
        assert page.status_code == 500
        assert "no_such_thing" not in page.text
        assert "options_form" in (await teacher.get("/hub/spawn")).text


@pytest.mark.parametrize("said", [{"__class__": "x"}, {"a" * 200: "x"}, {"big": "x" * 20_000}])
async def test_odd_fields_are_refused(world: World, said: dict[str, str]) -> None:
    async with classroom(world, options_form="<input name=a>") as room:
        alice = await room.person("alice")
        assert (await alice.post("/hub/spawn", {"_form": "1", **said})).status_code == 400
        assert not world.engine.calls


# -- profiles -----------------------------------------------------------------------------------------------------------
PROFILES = [{"display_name": "Plain", "description": "As ever"},
            {"display_name": "Statistics", "slug": "r", "image": "R", "mem_limit": "2G", "cpu_limit": 1, "groups": ["7b"]},
            {"display_name": "Other", "slug": "other"}]


async def test_a_link_names_a_profile_and_a_page(several: World) -> None:
    async with classroom(several, profile_list=PROFILES) as room:
        alice = await room.person("alice")
        page = await alice.get("/hub/spawn?profile=r&next=/user/alice/lab/tree/x")
        assert page.status_code == 400
        assert "not offered" in page.text
        assert "Statistics" not in page.text
        user = await room.mini.user()
        await room.mini.db.transact(lambda t: groups.set_of_user(t, user.id, ["7b"]))
        assert "2.0 GB of memory · 1 processor core" in (await alice.get("/hub/spawn")).text
        response = await alice.get("/hub/spawn?profile=r&next=/user/alice/lab/tree/x")
        assert response.headers["location"] == "/hub/spawn-pending/alice?next=/user/alice/lab/tree/x"
        assert (await server_of(room)).image == "r:1"


async def test_one_profile_is_no_choice(several: World) -> None:
    several.group_limits = {"7b": parse_limits({"profiles": ["r"]})}
    async with classroom(several, profile_list=PROFILES) as room:
        user, alice = await room.mini.user(), await room.person("alice")
        await room.mini.db.transact(lambda t: groups.set_of_user(t, user.id, ["7b"]))
        assert (await alice.get("/hub/spawn")).headers["location"] == "/hub/spawn-pending/alice"
        assert (await server_of(room)).image == "r:1"


# -- named servers ------------------------------------------------------------------------------------------------------
async def test_a_new_server_by_its_name_from_the_home_page(world: World) -> None:
    async with classroom(world) as room:
        alice = await room.person("alice")
        assert "More servers" in (await alice.get("/hub/home")).text
        response = await alice.post("/hub/new-server", {"name": " My Lab "})
        assert response.headers["location"] == "/hub/spawn/alice/my-lab?display_name=My+Lab"
        assert (await alice.get(response.headers["location"])).headers["location"] == "/hub/spawn-pending/alice/my-lab"
        server = await room.mini.until((await server_of(room, "my-lab")).id, Phase.READY)
        page = (await alice.get("/hub/home")).text
        assert "<b>My Lab</b>" in page
        assert 'href="/hub/spawn/alice/my-lab"' in page
        assert 'href="/hub/delete-server/alice/my-lab"' in page
        response = await alice.get("/hub/spawn/alice/my-lab")
        assert response.headers["location"] == "/user/alice/my-lab/lab"
        assert f"{cookie_name(server.id)}=" in response.headers["set-cookie"]
        assert "Path=/user/alice/my-lab/;" in response.headers["set-cookie"]


async def test_the_title_that_was_typed_heads_the_page_that_asks_what_to_start(room: Classroom) -> None:
    alice = await room.person("alice")
    response = await alice.post("/hub/new-server", {"name": "Mein Projekt Ü"})
    page = html.unescape((await alice.get(response.headers["location"])).text)
    assert "<h1>Start “Mein Projekt Ü”</h1>" in page
    assert (await alice.get("/hub/spawn/alice/lab2?display_name=" + "x" * 200)).status_code == 400


@pytest.mark.parametrize("name", ["", " ", "<b>", "lab", "a/b", "..", "x" * 70, "\u0430lice2", "a\u0000b"])
async def test_a_name_that_cannot_be_is_told_where_it_was_typed(world: World, name: str) -> None:
    async with classroom(world) as room:
        alice = await room.person("alice")
        page = await alice.post("/hub/new-server", {"name": name})
        assert page.status_code == 400
        assert 'role="alert"' in page.text
        assert 'value="<b>' not in page.text


async def test_a_link_from_elsewhere_makes_no_server_without_a_click(world: World) -> None:
    async with classroom(world) as room:
        alice = await room.person("alice")
        page = await alice.get("/hub/spawn/alice/lab2", NAVIGATION | {"Sec-Fetch-Site": "cross-site"})
        assert page.status_code == 200
        assert not (await server_of(room, "lab2")).id
        assert (await alice.post(action_of(page.text), {"_form": "1"})).status_code == 303
        assert (await server_of(room, "lab2")).id


async def test_where_named_servers_are_not_enabled_there_are_none(world: World) -> None:
    world.named = NamedServers(allowed=False)
    async with classroom(world) as room:
        alice = await room.person("alice")
        assert "More servers" not in (await alice.get("/hub/home")).text
        assert (await alice.get("/hub/spawn/alice/lab2")).status_code == 404
        assert (await alice.post("/hub/spawn/alice/lab2", {"_form": "1"})).status_code == 404


async def test_a_server_is_deleted_only_after_a_question(world: World) -> None:
    async with classroom(world) as room:
        alice, bob = await room.person("alice"), await room.person("bob")
        server = await room.mini.servers.create(await room.mini.user(), "lab2", actor="alice")
        page = await alice.get("/hub/delete-server/alice/lab2")
        assert "Delete “lab2”?" in page.text
        assert await room.mini.servers.by_id(server.id)
        assert (await bob.get("/hub/delete-server/alice/lab2")).status_code == 403
        assert (await bob.post("/hub/delete-server/alice/lab2")).status_code == 403
        assert (await alice.post("/hub/delete-server/alice/lab2", xsrf="forged")).status_code == 403
        assert await room.mini.servers.by_id(server.id)
        assert (await alice.post("/hub/delete-server/alice/lab2")).headers["location"] == "/hub/home"
        assert await room.mini.servers.by_id(server.id) is None
        assert (await alice.get("/hub/delete-server/alice/lab2")).status_code == 404


async def test_the_limit_shows_on_the_home_page(world: World) -> None:
    world.named = NamedServers(True, 1)
    async with classroom(world) as room:
        alice = await room.person("alice")
        assert 'action="/hub/new-server"' in (await alice.get("/hub/home")).text
        await room.mini.servers.create(await room.mini.user(), "lab2", actor="alice")
        page = (await alice.get("/hub/home")).text
        assert 'action="/hub/new-server"' not in page
        assert "delete one first" in page
        refused = await alice.get("/hub/spawn/alice/lab3")
        assert refused.status_code == 400
        assert "may have" in refused.text


async def test_links_lead_to_the_default_named_server(world: World) -> None:
    world.named = NamedServers(True, 0, "main")
    async with classroom(world) as room:
        alice = await room.person("alice")
        path = f"/hub/user-redirect/git-pull?{QUERY}"
        spawn = (await alice.get(path)).headers["location"]
        assert spawn.startswith("/hub/spawn/alice/main?next=")
        pending = (await alice.get(spawn)).headers["location"]
        await room.mini.until((await server_of(room, "main")).id, Phase.READY)
        enter = (await alice.get(pending)).headers["location"]
        assert (await alice.get(enter)).headers["location"] == f"/user/alice/main/git-pull?{QUERY}"
        assert (await alice.get("/hub/spawn")).headers["location"] == "/user/alice/main/lab"


# -- below /user/ -------------------------------------------------------------------------------------------------------
async def enter(room: Classroom, visitor: Visitor, name: str = "") -> Server:
    """Start a server and get its cookie."""
    server = await room.mini.servers.start(await room.mini.user(), name, actor="alice")
    server = await room.mini.until(server.id, Phase.READY)
    response = await visitor.get(f"/hub/spawn/alice/{name}" if name else "/hub/spawn/alice")
    assert cookie_name(server.id) in visitor.client.cookies
    assert response.headers["location"].startswith(f"/user/alice/{name}/" if name else "/user/alice/")
    return server


async def test_a_stopped_named_server_says_so_while_the_default_one_runs(world: World) -> None:
    async with classroom(world) as room:
        alice = await room.person("alice")
        await enter(room, alice)
        await room.mini.servers.create(await room.mini.user(), "lab2", actor="alice")
        for _ in range(3):      # the default server's cookie comes along: no way round in circles
            response = await alice.get("/user/alice/lab2/lab")
            assert response.headers["location"] == "/hub/enter?next=/user/alice/lab2/lab"
            page = await alice.get(response.headers["location"])
            assert page.status_code == 200
            assert "Your server “lab2” is not running" in page.text
        script = await alice.get("/user/alice/lab2/api/contents", {"Accept": "*/*", "Sec-Fetch-Mode": "cors"})
        assert script.status_code == 424


async def test_a_running_named_server_is_entered_although_only_the_default_one_s_cookie_came(world: World) -> None:
    async with classroom(world) as room:
        alice = await room.person("alice")
        await enter(room, alice)
        second = await room.mini.servers.start(await room.mini.user(), "lab2", actor="alice")
        await room.mini.until(second.id, Phase.READY)
        script = await alice.get("/user/alice/lab2/api/contents", {"Accept": "*/*", "Sec-Fetch-Mode": "cors"})
        assert script.status_code == 403
        assert (await alice.get("/user/alice/lab2")).headers["location"] == "/hub/enter?next=/user/alice/lab2"
        response = await alice.get("/user/alice/lab2/lab?x=1")
        response = await alice.get(response.headers["location"])
        assert response.headers["location"] == "/user/alice/lab2/lab?x=1"
        assert "Path=/user/alice/lab2/;" in response.headers["set-cookie"]


async def test_a_path_that_is_no_server_s_stays_the_default_one_s(world: World) -> None:
    async with classroom(world) as room:
        alice = await room.person("alice")
        await enter(room, alice)
        response = await alice.get("/user/alice/nothing/lab")    # which the proxy leads to the default server
        assert response.status_code == 307
        assert response.headers["location"] == "/user/alice/nothing/lab"
