"""Named servers, what somebody may choose for them, and what their groups change."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import anyio
import pytest
from sqlalchemy import update

from appliance.domain.group_limits import parse_limits
from appliance.domain.offers import ImageChoice, NamedServers, Person
from appliance.domain.server import Phase, Server, Wanted
from appliance.errors import (
    BadInput,
    BadName,
    BadOption,
    Exists,
    ImageNotAllowed,
    Misconfigured,
    NotFound,
    TooManyServers,
)
from appliance.store import groups, servers
from appliance.store.rows import GroupRow
from hub.conftest import MiniHub, World

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

GB = 1 << 30
PYTHON, R, BIG = (ImageChoice("python", "py:1", "Python"), ImageChoice("R", "r:1", "R"), ImageChoice("big", "big:1", "Big"))
PROFILES: list[dict[str, Any]] = [
    {"display_name": "Plain"}, {"display_name": "Statistics", "slug": "r", "image": "R", "mem_limit": "2G", "cpu_limit": 2,
                                "environment": {"COURSE": "7"}, "default_url": "/rstudio", "groups": ["7b"]}]


@pytest.fixture
def choices(world: World) -> World:
    world.choices = (PYTHON, R)
    world.engine.images = {"py:1", "r:1", "big:1"}
    return world


async def join(hub: MiniHub, *names: str, **properties: dict[str, Any]) -> None:
    """Put alice into groups, which get these properties."""
    user = await hub.user()
    await hub.db.transact(lambda t: groups.set_of_user(t, user.id, names))
    for name, said in properties.items():
        await hub.db.transact(lambda t, name=name, said=said: t.execute(
            update(GroupRow).where(GroupRow.name == name).values(properties=said)))


async def start(hub: MiniHub, name: str = "", **said: Any) -> Server:
    server = await hub.servers.start(await hub.user(), name, actor="alice", **said)
    return await hub.until(server.id, Phase.READY)


# -- named servers ------------------------------------------------------------------------------------------------------
async def test_two_servers_run_beside_each_other_with_one_home(world: World) -> None:
    async with world.hub() as hub:
        default, second = await start(hub), await start(hub, "Lab2", display_name=" My  Lab ")
        assert (second.name, second.display_name) == ("lab2", "My Lab")
        assert default.address != second.address
        specs = world.engine.specs
        assert specs[default.id].home == specs[second.id].home
        assert specs[second.id].prefix == "/user/alice/lab2/"
        assert [server.name for server in await hub.servers.of_user(await hub.user())] == ["", "lab2"]


async def test_a_path_of_a_named_server_is_never_the_default_one_s(world: World) -> None:
    async with world.hub() as hub:
        alice, default = await hub.user(), await start(hub)
        assert world.proxy.wanted[default.id].below == ()
        await hub.servers.create(alice, "lab2", actor="alice")
        assert world.proxy.wanted[default.id].below == ("/user/alice/lab2/",)
        await start(hub, "lab3")
        assert world.proxy.wanted[default.id].below == ("/user/alice/lab2/", "/user/alice/lab3/")
        await hub.servers.update(alice, "lab2", new_name="lab4", actor="alice")
        assert await hub.servers.delete(alice, "lab3", actor="alice") is not None
        await hub.eventually(lambda: world.proxy.wanted[default.id].below == ("/user/alice/lab4/",))
    async with world.hub() as hub:      # and the next Hub knows them
        await hub.eventually(lambda: default.id in world.proxy.wanted)
        assert world.proxy.wanted[default.id].below == ("/user/alice/lab4/",)


async def test_without_named_servers_there_is_the_default_one_alone(world: World) -> None:
    world.named = NamedServers(allowed=False)
    async with world.hub() as hub:
        for call in (hub.servers.start, hub.servers.create):
            with pytest.raises(BadInput, match="not enabled"):
                await call(await hub.user(), "lab2", actor="alice")
        await start(hub)


async def test_nobody_has_more_servers_than_the_limit_of_whatever_kind(world: World) -> None:
    asked: list[Person] = []

    def limit(person: Person) -> int:
        asked.append(person)
        return 0 if person.current_user.admin else 1

    world.named = NamedServers(True, limit)
    async with world.hub() as hub:
        alice = await hub.user()
        await start(hub)
        await hub.servers.create(alice, "lab2", actor="alice")
        for call in (hub.servers.create, hub.servers.start):
            with pytest.raises(TooManyServers):
                await call(alice, "lab3", actor="alice")
        await start(hub, "lab2")        # which is there already
        assert asked[0].name == "alice"
        await join(hub, "7b", **{"7b": {"max_named_servers": 2}})       # a group's word goes before
        await hub.servers.create(alice, "lab3", actor="alice")
        with pytest.raises(TooManyServers):
            await hub.servers.create(alice, "lab4", actor="alice")


async def test_many_at_once_do_not_slip_past_the_limit(world: World) -> None:
    world.named = NamedServers(True, 3)
    refused: list[TooManyServers] = []
    async with world.hub() as hub:
        alice = await hub.user()

        async def create(number: int) -> None:
            try:
                await hub.servers.create(alice, f"lab{number}", actor="alice")
            except TooManyServers as error:
                refused.append(error)

        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(create, number)
        assert len(refused) == 7
        assert len(await hub.servers.of_user(alice)) == 1 + 3


async def test_a_broken_function_of_the_configuration_is_told_and_breaks_nothing(world: World) -> None:
    world.named = NamedServers(True, lambda person: person.no_such_thing)  # type: ignore[attr-defined]
    async with world.hub() as hub:
        with pytest.raises(Misconfigured) as caught:
            await hub.servers.create(await hub.user(), "lab2", actor="alice")
        assert "named_server_limit_per_user" in caught.value.action
        await start(hub)


async def test_made_changed_and_deleted_while_it_does_not_run(world: World) -> None:
    async with world.hub() as hub:
        alice = await hub.user()
        made = await hub.servers.create(alice, "lab2", options={"a": 1}, display_name="Two", actor="alice")
        assert (made.phase, made.user_options, made.display_name) == (Phase.STOPPED, {"a": 1}, "Two")
        with pytest.raises(Exists):
            await hub.servers.create(alice, "lab2", actor="alice")
        changed = await hub.servers.update(
            alice, "lab2", new_name="lab3", display_name="Three", options={"b": 2}, actor="alice")
        assert (changed.id, changed.name, changed.display_name, changed.user_options) == (made.id, "lab3", "Three", {"b": 2})
        await start(hub, "lab3")
        assert world.engine.specs[made.id].user_options == {"b": 2}
        with pytest.raises(BadInput, match="runs"):
            await hub.servers.update(alice, "lab3", display_name="Four", actor="alice")
        for name, error in (("lab", BadName), ("a b", BadName), ("", BadName)):
            with pytest.raises(error):
                await hub.servers.update(alice, "lab3", new_name=name, actor="alice")
        for call in (hub.servers.update, hub.servers.delete):
            with pytest.raises(NotFound):
                await call(alice, "nobodys", actor="alice")
        with pytest.raises(BadInput):
            await hub.servers.delete(alice, "", actor="alice")


async def test_a_running_server_is_stopped_and_then_deleted(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world.engine.stop_takes_s = 0.2
    async with world.hub() as hub:
        alice, server = await hub.user(), await start(hub, "lab2")
        going = await hub.servers.delete(alice, "lab2", actor="alice")
        assert going is not None
        assert going.wanted is Wanted.STOPPED
        await hub.gone(server.id)
        hub.reconciler.wake(server.id)      # as the engine's word that its container is gone does
        with anyio.fail_after(5):
            while f"Server {server.id} of alice is deleted" not in caplog.text:
                await anyio.sleep(0.01)
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
        again = await hub.servers.create(alice, "lab2", actor="alice")
        assert again.id != server.id


async def test_a_deletion_survives_the_hub(world: World) -> None:
    world.engine.stop_takes_s = 5
    async with world.hub() as hub:
        server = await start(hub, "lab2")
        await hub.servers.delete(await hub.user(), "lab2", actor="alice")
    world.engine.stop_takes_s = 0
    async with world.hub() as hub:
        await hub.gone(server.id)


async def test_a_start_takes_a_deletion_back(world: World) -> None:
    world.engine.stop_takes_s = 0.3
    async with world.hub() as hub:
        server = await start(hub, "lab2")
        await hub.servers.delete(await hub.user(), "lab2", actor="alice")
        await hub.until(server.id, Phase.STOPPING)
        await hub.servers.start(await hub.user(), "lab2", actor="alice")
        await hub.until(server.id, Phase.READY)
        again = await hub.servers.by_id(server.id)
        assert again is not None
        assert not again.delete_when_stopped


# -- what is chosen -----------------------------------------------------------------------------------------------------
async def test_the_last_choice_is_remembered(choices: World) -> None:
    async with choices.hub() as hub:
        server = await start(hub, options={"image": "R"})
        assert (server.image, server.user_options) == ("r:1", {"image": "R"})
        assert choices.engine.specs[server.id].image == "r:1"
        await hub.servers.stop(await hub.user(), actor="alice")
        await hub.until(server.id, Phase.STOPPED)
        assert (await start(hub)).image == "r:1"
        await hub.servers.stop(await hub.user(), actor="alice")
        await hub.until(server.id, Phase.STOPPED)
        assert (await start(hub, options={})).image == ""


@pytest.mark.parametrize("image", ["big:1", "docker.io/evil:latest", "py:1 ", "../x"])
async def test_an_image_that_is_not_offered_is_refused_however_it_is_asked_for(choices: World, image: str) -> None:
    async with choices.hub() as hub:
        for said in ({"image": image}, {"options": {"image": image}}):
            with pytest.raises(ImageNotAllowed):
                await start(hub, **said)
        for options in ({"image": 5}, {"image": ["r:1"]}, {"profile": "r"}, {"profile": {}}):
            with pytest.raises(BadOption):
                await start(hub, options=options)
        assert not choices.engine.calls


async def test_a_group_s_limits_and_image_reach_the_start(choices: World) -> None:
    choices.group_limits = {"7b": parse_limits({"mem_limit": "1G", "cpu_limit": 1, "image": "R"})}
    async with choices.hub() as hub:
        await join(hub, "7b", "chess", chess={"mem_limit": "3G", "colour": "red", "cpu_limit": "broken"})
        server = await start(hub)
        spec = choices.engine.specs[server.id]
        assert (spec.mem_limit_bytes, spec.cpu_limit, spec.image) == (3 * GB, 1.0, "r:1")
        assert spec.environment["MEM_LIMIT"] == str(3 * GB)
        assert spec.environment["CPU_LIMIT"] == "1.0"
        usage = await hub.servers.usage(server.id)
        assert usage is not None
        assert usage.memory_limit_bytes == 3 * GB
        assert hub.spawner.spec_hash(spec) != hub.spawner.spec_hash(replace(spec, mem_limit_bytes=None))


async def test_images_of_a_group_are_all_that_its_members_are_offered(choices: World) -> None:
    choices.group_limits = {"7b": parse_limits({"allowed_images": ["big:1"]})}
    async with choices.hub() as hub:
        await join(hub, "7b")
        server = await start(hub)
        assert server.image == "big:1"
        await hub.servers.stop(await hub.user(), actor="alice")
        await hub.until(server.id, Phase.STOPPED)
        with pytest.raises(ImageNotAllowed):
            await start(hub, options={"image": "R"})
        await join(hub)
        with pytest.raises(ImageNotAllowed):
            await start(hub, options={"image": "big:1"})


async def test_properties_choose_among_the_configuration_s_images_and_add_none(choices: World) -> None:
    async with choices.hub() as hub:
        await join(hub, "7b", **{"7b": {"allowed_images": ["evil:latest", "R"], "image": "evil:latest"}})
        assert (await start(hub)).image == "r:1"
        await hub.servers.stop(await hub.user(), actor="alice")
        await join(hub, "7b", **{"7b": {"allowed_images": ["evil:latest"]}})
        with pytest.raises(ImageNotAllowed):
            await start(hub, "lab2")


async def test_what_was_chosen_and_is_not_offered_any_more_is_left_out(choices: World) -> None:
    async with choices.hub() as hub:
        server = await start(hub, options={"image": "R"})
        await hub.servers.stop(await hub.user(), actor="alice")
        await hub.until(server.id, Phase.STOPPED)
    choices.choices = (PYTHON,)
    async with choices.hub() as hub:
        assert (await start(hub)).image == ""


async def test_a_restart_goes_by_what_holds_now(choices: World) -> None:
    async with choices.hub() as hub:
        server = await start(hub, options={"image": "R"})
        await join(hub, "7b", **{"7b": {"allowed_images": ["python"]}})
        await hub.db.transact(lambda t: servers.restart(t, [server.id], why="restarted after the machine was"))
        hub.reconciler.wake(server.id)
        again = await hub.until(server.id, Phase.READY)
        assert (again.start_no, again.image) == (2, "")
        assert choices.engine.specs[server.id].image == ""


async def test_what_runs_in_a_lost_database_s_servers_is_known_again(choices: World) -> None:
    async with choices.hub() as hub:
        first, second = await start(hub), await start(hub, "lab2", options={"image": "R"})
    for server in (first, second):
        await choices.db.transact(lambda t, server_id=server.id: servers.delete(t, server_id))
    async with choices.hub() as hub:
        await hub.eventually(lambda: hub.reconciler.ready)
        again = await hub.until(second.id, Phase.READY)
        assert (again.image, again.user_options) == ("r:1", {"image": "r:1"})
        assert (await hub.until(first.id, Phase.READY)).image == ""


# -- profiles -----------------------------------------------------------------------------------------------------------
async def test_a_profile_is_for_its_groups_alone(choices: World) -> None:
    choices.traits["profile_list"] = PROFILES
    async with choices.hub() as hub:
        with pytest.raises(BadOption, match="not offered"):
            await start(hub, options={"profile": "r"})
        await join(hub, "7b", **{"7b": {"mem_limit": "1G"}})
        server = await start(hub, options={"profile": "r"})
        spec = choices.engine.specs[server.id]
        assert (spec.image, spec.mem_limit_bytes, spec.cpu_limit) == ("r:1", 2 * GB, 2.0)
        assert spec.environment["COURSE"] == "7"
        assert hub.servers.landing(server) == "/user/alice/rstudio"
        assert hub.offers.label(server) == "Statistics"
        for options in ({"profile": "r", "image": "python"}, {"profile": "plain", "image": "big:1"}, {"image": "evil"}):
            with pytest.raises(BadOption, match=r"^Here people choose a profile, not an image: plain, r\.$"):
                await start(hub, "lab2", options=options)


async def test_the_default_profile_holds_for_whoever_chooses_none(choices: World) -> None:
    choices.traits["profile_list"] = [PROFILES[0], {**PROFILES[1], "default": True}]
    async with choices.hub() as hub:
        await join(hub, "7b")
        server = await start(hub, options={"note": "hello"})
        assert server.user_options == {"note": "hello", "profile": "r"}
        assert server.image == "r:1"


async def test_a_group_s_profiles_are_all_that_it_is_offered(choices: World) -> None:
    choices.traits["profile_list"] = PROFILES
    choices.group_limits = {"7b": parse_limits({"profiles": ["r"]})}
    async with choices.hub() as hub:
        await join(hub, "7b")
        offer = await hub.offers.of(await hub.user())
        assert [profile.slug for profile in offer.profiles] == ["r"]
        with pytest.raises(BadOption):
            await start(hub, options={"profile": "plain"})


async def test_profiles_of_a_group_that_nobody_defined_are_refused_at_once(choices: World) -> None:
    choices.group_limits = {"7b": parse_limits({"profiles": ["nobodys"]})}
    with pytest.raises(Misconfigured, match="nobodys"):
        async with choices.hub():
            pass


async def test_a_profile_cannot_change_what_the_hub_says(choices: World) -> None:
    choices.traits["profile_list"] = [{"display_name": "A", "environment": {"JUPYTERHUB_USER": "bob", "JUPYTER_TOKEN": "x"}}]
    async with choices.hub() as hub:
        environment = choices.engine.specs[(await start(hub)).id].environment
        assert environment["JUPYTERHUB_USER"] == "alice"
        assert environment["JUPYTER_TOKEN"] != "x"


# -- functions of the configuration -------------------------------------------------------------------------------------
async def test_options_become_limits_by_a_function_of_the_configuration(choices: World) -> None:
    def apply(person: Person, options: dict[str, object]) -> dict[str, object] | None:
        return {"mem_limit": "4G", "environment": {"FOR": person.name}} if options.get("size") == "large" else None

    choices.traits["apply_user_options"] = apply
    async with choices.hub() as hub:
        server = await start(hub, options={"size": "large"})
        spec = choices.engine.specs[server.id]
        assert (spec.mem_limit_bytes, spec.environment["FOR"]) == (4 * GB, "alice")
        second = choices.engine.specs[(await start(hub, "lab2", options={"size": ["large"]})).id]
        assert second.mem_limit_bytes is None


async def in_its_own_time(person: Person, options: dict[str, object]) -> None:
    return None


@pytest.mark.parametrize("broken", [
    in_its_own_time, lambda person, options: options["no"], lambda person, options: {"privileged": True},
    lambda person, options: 5])
async def test_a_broken_one_fails_the_start_and_says_where(choices: World, broken: Any) -> None:
    choices.traits["apply_user_options"] = broken
    async with choices.hub() as hub:
        with pytest.raises(Misconfigured) as caught:
            await start(hub, options={"size": "large"})
        assert "apply_user_options" in caught.value.action


async def test_a_deleted_server_takes_its_shares_along_and_no_other(world: World) -> None:
    async with world.hub() as hub:
        first, second = await start(hub, "lab2"), await start(hub, "lab3")
        await hub.servers.delete(await hub.user(), "lab2", actor="alice")
        await hub.gone(first.id)
        assert await hub.servers.by_id(second.id) is not None
