"""The services there are, how they are looked after, and who may make one. Real database, real processes."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from appliance.domain.requester import SERVICE, USER, Requester
from appliance.domain.roles import ADMIN_SCOPES, Role, Roles
from appliance.domain.route import ServiceRoute
from appliance.domain.scopes import Owner, Rights, expand
from appliance.domain.service import ServicePhase, ServiceState, parse_all
from appliance.domain.urls import Urls
from appliance.errors import BadInput, BadOption, BadScope, DiskFull, EngineDown, Exists, Misconfigured, NotFound, NotHere
from appliance.hub import servicekeeper
from appliance.hub.permissions import Permissions
from appliance.hub.services import Services
from appliance.hub.servicespecs import ServiceWorld
from appliance.ports import ServiceRunner, ServiceSpec, ServiceStart
from appliance.spawners.service_processes import ServiceProcesses
from appliance.store import tokens, users
from appliance.testing import FakeSpawner
from appliance.testing.proxies import TinyServer

from .conftest import KEY, World

pytestmark = [pytest.mark.unit, pytest.mark.anyio]
TOKEN = "given-0123456789abcdef"


class Book:
    """Services on a World's database."""

    def __init__(self, world: World, *said: dict[str, Any], roles: Roles | None = None, **changes: Any) -> None:
        self.world, self.db = world, world.db
        self.permissions = Permissions(world.db, roles or Roles(), KEY)
        box = ServiceWorld(
            db=world.db, urls=Urls(), proxy=world.proxy, spawner=changes.pop("spawner", None) or FakeSpawner(world.engine),
            homes=world.homes, permissions=self.permissions, processes=ServiceProcesses(), token_key=KEY,
            hub_url="http://127.0.0.1:8081", hub_port=8081, **changes)
        self.services = self.permissions.services = Services(box, parse_all(said))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Services]:
        await self.services.load()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.services.run)
            yield self.services
            tasks.cancel_scope.cancel()

    async def until(self, name: str, check: Callable[[ServiceState], object]) -> ServiceState:
        with anyio.fail_after(15):
            while not check(self.services.state(name)):
                await anyio.sleep(0.02)
        return self.services.state(name)

    async def routes(self, **wanted: str) -> None:
        with anyio.fail_after(5):
            while {name: route.url for name, route in self.world.proxy.services.items()} != wanted:
                await anyio.sleep(0.02)


def python(program: str) -> list[str]:
    return [sys.executable, "-u", "-c", textwrap.dedent(program)]


def somebody(*scopes: str) -> Requester:
    return Requester(USER, "grace", Rights(expand(scopes, Owner(user="grace"))))


ADMIN = somebody(*ADMIN_SCOPES)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servicekeeper, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(servicekeeper, "LOOK_S", 0.1)
    monkeypatch.setattr(servicekeeper, "LOOK_RARELY_S", 0.1)


# -- which there are, and who they are -----------------------------------------------------------------------------
async def test_tokens_tell_services_apart(world: World) -> None:
    services = Book(world, {"name": "given", "api_token": TOKEN, "admin": True}, {"name": "derived", "command": ["true"]},
                    {"name": "silent"}).services
    derived = services._specs.token(services.get("derived"))  # type: ignore[arg-type]
    assert (services.of_token(TOKEN), services.of_token(derived), services.of_token(""), services.of_token(TOKEN + "x")) == (
        "given", "derived", None, None)
    assert (services.is_admin("given"), services.is_admin("derived"), services.is_admin("nobody")) == (True, False, None)
    again = Book(world, {"name": "derived", "command": ["true"]}).services
    assert again.of_token(derived) == "derived"      # also after a restart


async def test_a_service_asks_in_its_own_name(world: World) -> None:
    role = Role("culls", scopes=("list:users",), services=frozenset({"culler"}))
    book = Book(world, {"name": "culler", "api_token": TOKEN}, roles=Roles({**Roles().by_name, "culls": role}))
    found = await book.permissions.by_token(TOKEN)
    assert found is not None
    assert (found.kind, found.name, found.roles) == (SERVICE, "culler", ("culls",))
    assert found.rights.has("list:users")
    assert not found.rights.has("servers")


async def test_what_a_process_is_told(world: World) -> None:
    book = Book(world, {"name": "grades", "url": "http://127.0.0.1:9999", "command": ["x"], "user": "grader",
                        "environment": {"MORE": "yes"}, "oauth_client_allowed_scopes": ["read:users!user"]},
                {"name": "culler", "command": ["x"]}, public_origin="https://box.school")
    specs = book.services._specs
    told = specs.environment(book.services.get("grades"))  # type: ignore[arg-type]
    assert json.loads(told.pop("JUPYTERHUB_OAUTH_ACCESS_SCOPES")) == ["access:services", "access:services!service=grades"]
    token = told.pop("JUPYTERHUB_API_TOKEN")
    assert book.services.of_token(token) == "grades"
    assert told == {
        "JUPYTERHUB_SERVICE_NAME": "grades", "JUPYTERHUB_USER": "grader", "JUPYTERHUB_SERVER_NAME": "",
        "JPY_API_TOKEN": token, "JUPYTERHUB_API_URL": "http://127.0.0.1:8081/hub/api", "JUPYTERHUB_BASE_URL": "/",
        "JUPYTERHUB_CLIENT_ID": "service-grades", "JUPYTERHUB_SERVICE_PREFIX": "/services/grades/",
        "JUPYTERHUB_SERVICE_URL": "http://127.0.0.1:9999",
        "JUPYTERHUB_OAUTH_CALLBACK_URL": "/services/grades/oauth_callback",
        "JUPYTERHUB_OAUTH_SCOPES": '["access:services", "access:services!service=grades"]',
        "JUPYTERHUB_OAUTH_CLIENT_ALLOWED_SCOPES": '["read:users!user"]', "JUPYTERHUB_HOST": "",
        "JUPYTERHUB_PUBLIC_URL": "https://box.school/services/grades/",
        "JUPYTERHUB_PUBLIC_HUB_URL": "https://box.school/hub/", "JUPYTERHUB_COOKIE_HOST_PREFIX_ENABLED": "0", "MORE": "yes"}
    without = specs.environment(book.services.get("culler"))  # type: ignore[arg-type]
    assert "JUPYTERHUB_SERVICE_PREFIX" not in without
    assert "JUPYTERHUB_ACTIVITY_URL" not in without


async def test_who_may_open_which(world: World) -> None:
    services = Book(world, {"name": "a", "url": "http://127.0.0.1:1"}, {"name": "b", "url": "http://127.0.0.1:2"},
                    {"name": "c", "url": "http://127.0.0.1:3", "display": False}, {"name": "d"}).services

    def seen(*scopes: str) -> list[str]:
        return [service.name for service in services.visible_to(Rights(expand(scopes, Owner())))]

    assert seen() == []
    assert seen("access:services!service=b") == ["b"]
    assert seen("access:services") == ["a", "b"]


# -- looking after them --------------------------------------------------------------------------------------------
async def test_an_external_service_gets_its_way_and_is_watched(world: World) -> None:
    async with TinyServer("grades") as server:
        book = Book(world, {"name": "grades", "url": server.url}, {"name": "client"})
        async with book.running() as services:
            await book.routes(grades=server.url)
            await book.until("grades", lambda state: state.phase is ServicePhase.RUNNING)
            assert server.seen[-1].target == "/services/grades/"
            assert services.state("client").phase is ServicePhase.CLIENT
            await server.__aexit__(None, None, None)
            state = await book.until("grades", lambda state: state.phase is ServicePhase.AWAY)
            assert state.said == f"It does not answer at {server.url}."
            await book.routes(grades=server.url)     # the Hub's page says so there
            async with TinyServer("back", port=server.port):
                await book.until("grades", lambda state: state.phase is ServicePhase.RUNNING)


async def test_a_managed_service_runs_and_ends_with_the_hub(world: World) -> None:
    book = Book(world, {"name": "culler", "command": python("""
        import os, time
        print("my token is", os.environ["JUPYTERHUB_API_TOKEN"])
        print("token=abcdefgh12345678")
        time.sleep(600)
    """)})
    async with book.running():
        state = await book.until("culler", lambda state: len(state.lines) == 2)
        assert (state.phase, state.restarts) == (ServicePhase.RUNNING, 0)
        assert state.lines == ("my token is [redacted]", "token=[redacted]")
        os.kill(state.pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(state.pid, 0)


async def test_what_it_prints_is_in_the_log_under_its_name(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    book = Book(world, {"name": "culler", "command": python("print('culled 3'); import time; time.sleep(600)")})
    async with book.running():
        await book.until("culler", lambda state: state.lines)
    assert "culler: culled 3" in caplog.messages


async def test_one_that_prints_without_end_does_not_fill_the_log(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(servicekeeper, "LOG_LINES", 20)
    monkeypatch.setattr(servicekeeper, "LOG_PERIOD_S", 0.3)
    book = Book(world, {"name": "loud", "command": python("while True: print('x')")})
    async with book.running():
        with anyio.fail_after(10):
            while "more lines were left out" not in caplog.text:
                await anyio.sleep(0.05)
    # in so many periods
    assert caplog.messages.count("loud: x") <= 20 * (1 + sum("left out" in message for message in caplog.messages))


async def test_one_that_ends_is_started_again(world: World) -> None:
    book = Book(world, {"name": "culler", "command": python("import time; time.sleep(600)")})
    async with book.running():
        state = await book.until("culler", lambda state: state.phase is ServicePhase.RUNNING)
        os.kill(state.pid, signal.SIGKILL)
        again = await book.until("culler", lambda state: state.restarts == 1 and state.phase is ServicePhase.RUNNING)
        assert again.pid != state.pid


async def test_one_that_crashes_at_once_is_tried_ever_more_rarely(world: World, caplog: pytest.LogCaptureFixture) -> None:
    book = Book(world, {"name": "broken", "command": python("import sys; print('no database'); sys.exit(4)")})
    async with book.running() as services:
        state = await book.until("broken", lambda state: state.restarts >= servicekeeper.FAILED_AFTER)
        assert (state.phase, state.said, state.pid) == (ServicePhase.FAILED, "It ended with status 4.", 0)
        assert state.lines[-1] == "no database"
        assert [concern.sentence for concern in services.concerns()] == [
            "The service broken does not run. It ended with status 4."]
        assert services.count()["failed"] == 1
    assert "The service broken has ended. It ended with status 4." in caplog.text


async def test_one_that_crashes_for_ever_is_told_of_ever_more_rarely(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(servicekeeper, "LONGEST_PAUSE_S", 0.02)
    book = Book(world, {"name": "broken", "command": python("print('no database'); raise SystemExit(4)")})
    async with book.running():
        await book.until("broken", lambda state: state.restarts >= 8)
    told = [message for message in caplog.messages if message.startswith("The service broken has ended.")]
    assert [message.partition("in 0 s.")[2] for message in told][:5] == [
        "", *(f" It has ended {ends} times in a row." for ends in (2, 3, 4, 8))]
    assert caplog.messages.count("broken: no database") == servicekeeper.FAILED_AFTER


async def test_one_that_runs_in_the_end_is_heard_again(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(servicekeeper, "STABLE_S", 0.5)
    program = python(f"""
        import pathlib, sys, time
        if not pathlib.Path({str(tmp_path / 'mended')!r}).exists():
            sys.exit(4)
        while True:
            print("works")
            time.sleep(0.05)
        """)
    book = Book(world, {"name": "late", "command": program})
    async with book.running():
        await book.until("late", lambda state: state.restarts >= servicekeeper.FAILED_AFTER)
        (tmp_path / "mended").touch()
        with anyio.fail_after(15):
            while "late: works" not in caplog.messages:
                await anyio.sleep(0.02)
    assert "The service late runs again." in caplog.messages


async def test_the_pauses_double_up_to_a_minute(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(servicekeeper, "FIRST_PAUSE_S", 1.0)
    monkeypatch.setattr(servicekeeper.anyio, "sleep", lambda seconds: note(seconds))
    sleep = anyio.lowlevel.checkpoint

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        await sleep()

    book = Book(world, {"name": "broken", "command": ["/no/such/program"]})
    async with book.running():
        await book.until("broken", lambda state: state.restarts >= 8)
    assert [pause for pause in pauses if pause >= 1][:8] == [1, 2, 4, 8, 16, 32, 60, 60]


async def test_one_that_cannot_be_started_says_why(world: World) -> None:
    book = Book(world, {"name": "broken", "command": ["/no/such/program"]})
    async with book.running():
        state = await book.until("broken", lambda state: state.said)
        assert "there is no program “/no/such/program”" in state.said


async def test_one_that_never_answers_is_away_after_its_time(world: World) -> None:
    async with TinyServer("free") as server:
        pass
    book = Book(world, {"name": "mute", "url": server.url, "command": python("import time; time.sleep(600)"), "timeout": 1})
    async with book.running():
        state = await book.until("mute", lambda state: state.phase is ServicePhase.AWAY)
        assert state.pid
        assert state.said == f"It does not answer at {server.url}."


class FakeContainers:
    """A ServiceRunner without an engine."""

    def __init__(self) -> None:
        self.specs: list[ServiceSpec] = []
        self.kept: list[list[str]] = []
        self.end = anyio.Event()
        self.away = False

    async def clear(self, keep: Collection[str]) -> None:
        self.kept.append(sorted(keep))

    async def stop(self, name: str) -> None:
        pass

    async def uids(self) -> set[int]:
        return {spec.uid for spec in self.specs}

    async def run(self, spec: ServiceSpec, started: Callable[[ServiceStart], Awaitable[None]],
                  line: Callable[[str], None]) -> str:
        if self.away:
            raise EngineDown()
        self.specs.append(spec)
        await started(ServiceStart(url=f"http://10.9.9.{len(self.specs)}:8888"))
        await self.end.wait()
        self.end = anyio.Event()
        if self.away:
            raise EngineDown()
        return "with status 1"


class ContainerSpawner(FakeSpawner):
    containers: Any = None

    def service_runner(self) -> ServiceRunner | None:
        return self.containers  # type: ignore[no-any-return]


COURSE = {"name": "course101", "user": "grader", "container": {"image": "appliance/notebook"}}


async def test_a_container_waits_for_the_engine_and_gets_its_way_and_a_home(world: World) -> None:
    spawner = ContainerSpawner(world.engine)
    spawner.containers = containers = FakeContainers()
    engine_is_up: list[bool] = []
    await world.proxy.set_services([ServiceRoute("course101", "/services/course101/", "http://10.9.9.9:8888"),
                                    ServiceRoute("other", "/services/other/", "http://10.9.9.8:8888")])     # an earlier Hub's
    book = Book(world, COURSE, spawner=spawner, may_start_containers=lambda: bool(engine_is_up))
    async with book.running():
        await book.until("course101", lambda state: state.phase is ServicePhase.WAITING)
        assert world.proxy.services["course101"].url == "http://10.9.9.9:8888"     # it may still serve
        engine_is_up.append(True)
        await book.routes(course101="http://10.9.9.1:8888")
        user = await world.db.read(lambda t: users.find(t, "grader"))
        spec = containers.specs[0]
        assert user is not None
        assert await book.services.home_in_use(user.uid)
        assert not await book.services.home_in_use(user.uid + 1)
        assert (spec.uid, spec.home) == (user.uid, await world.homes.ensure(user.uid, "grader"))
        assert spec.environment["JUPYTERHUB_USER"] == "grader"
        assert spec.environment["JUPYTERHUB_SERVICE_URL"] == "http://0.0.0.0:8888"
        with anyio.fail_after(5):
            while containers.kept != [["course101"]]:
                await anyio.sleep(0.02)
        containers.end.set()
        await book.routes(course101="http://10.9.9.2:8888")     # there was none in between
    assert await world.db.read(lambda t: users.get_password(t, "grader")) is None


async def test_while_the_engine_is_away_the_way_to_a_container_stays(world: World) -> None:
    spawner = ContainerSpawner(world.engine)
    spawner.containers = containers = FakeContainers()
    book = Book(world, COURSE, spawner=spawner)
    async with book.running() as services:
        await book.routes(course101="http://10.9.9.1:8888")
        containers.away = True
        containers.end.set()
        state = await book.until("course101", lambda state: state.phase is ServicePhase.WAITING)
        assert (state.said, state.restarts) == (EngineDown.sentence, 0)
        assert set(world.proxy.services) == {"course101"}
        assert services.concerns() == []
        containers.away = False
        await book.routes(course101=f"http://10.9.9.{len(containers.specs) + 1}:8888")


async def test_a_container_needs_docker(world: World) -> None:
    with pytest.raises(Misconfigured, match="“course101” is to be a container, which needs DockerSpawner"):
        Book(world, COURSE)


# -- at run time ---------------------------------------------------------------------------------------------------
async def test_a_service_made_by_the_api_is_there_at_once_and_after_a_restart(world: World) -> None:
    said = {"url": "http://127.0.0.1:9999/", "api_token": TOKEN, "info": {"a": 1}, "oauth_no_confirm": True}
    book = Book(world)
    async with book.running() as services:
        made = await services.add("made", said, ADMIN)
        assert (made.from_config, made.kind, made.url) == (False, "external", "http://127.0.0.1:9999")
        await book.routes(made="http://127.0.0.1:9999")
        found = await book.permissions.by_token(TOKEN)
        assert found is not None
        assert (found.kind, found.name) == (SERVICE, "made")
    later = Book(world)
    async with later.running() as services:
        assert services.get("made") == replace(made, api_token="")
        assert await later.permissions.by_token(TOKEN) is not None
    assert TOKEN not in (world.path / "appliance.sqlite").read_bytes().decode("latin-1")


async def test_a_full_disk_ends_neither_the_hub_nor_a_service(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def full(*said: object) -> None:
        raise DiskFull()

    world.proxy.set_services = full  # type: ignore[method-assign]
    async with Book(world).running() as services:
        await services.add("made", {"url": "http://127.0.0.1:9999"}, ADMIN)
        assert services.get("made") is not None
    assert "The ways to services could not be written" in caplog.text


async def test_a_service_taken_away_leaves_nothing(world: World) -> None:
    book = Book(world)
    async with book.running() as services:
        await services.add("made", {"url": "http://127.0.0.1:9999", "api_token": TOKEN}, ADMIN)
        user = await world.db.transact(lambda t: users.add(t, "ada"))
        secret, _ = await world.db.transact(lambda t: tokens.add(t, user_id=user.id, client_id="service-made"))
        await services.remove("made", ADMIN)
        await book.routes()
        assert services.get("made") is None
        assert await book.permissions.by_token(TOKEN) is None
        assert await book.permissions.by_token(secret) is None      # what it knew of a visitor
        with pytest.raises(NotFound):
            await services.remove("made", ADMIN)
        await services.add("made", {}, ADMIN)
        assert await book.permissions.by_token(TOKEN) is None       # another one of that name is another one


async def test_what_cannot_be_made(world: World) -> None:
    spawner = FakeSpawner(world.engine)
    server_address = next(iter(spawner.addresses()))
    book = Book(world, {"name": "Culler", "api_token": TOKEN, "oauth_client_id": "service-x"}, spawner=spawner)
    async with book.running() as services:
        await services.add("made", {}, ADMIN)
        for name, said, error in (
                ("culler", {}, Exists), ("made", {}, Exists), ("..", {}, BadInput), ("new", {"command": ["x"]}, BadOption),
                ("new", {"api_token": TOKEN}, BadOption), ("new", {"oauth_client_id": "service-x"}, BadOption),
                ("new", {"url": "http://169.254.169.254"}, BadOption),
                ("new", {"url": f"http://{server_address}:8888"}, BadOption),
                ("new", {"nonsense": 1}, BadOption), ("new", {"container": {"image": "x"}, "user": "ada"}, BadOption)):
            with pytest.raises(error):
                await services.add(name, said, ADMIN)
        with pytest.raises(NotHere):
            await services.remove("Culler", ADMIN)
        assert [service.name for service in services.all()] == ["Culler", "made"]


async def test_nobody_makes_a_service_that_may_more_than_they(world: World) -> None:
    role = Role("culls", scopes=("delete:servers",), services=frozenset({"culler"}))
    book = Book(world, roles=Roles({**Roles().by_name, "culls": role}))
    maker = somebody("admin:services", "read:users")
    async with book.running() as services:
        for name, said in (("a", {"admin": True}), ("culler", {}),
                           ("b", {"url": "http://x", "oauth_client_allowed_scopes": ["delete:users"]})):
            with pytest.raises(BadScope, match="would hold what you do not"):
                await services.add(name, said, maker)
        await services.add("c", {"url": "http://x", "oauth_client_allowed_scopes": ["read:users!user", "read:users"]}, maker)
        await services.add("culler", {"admin": True}, ADMIN)
        assert services.is_admin("culler")


async def test_two_at_once_make_one(world: World) -> None:
    book = Book(world)
    refused: list[Exception] = []
    async with book.running() as services:
        async def make() -> None:
            try:
                await services.add("made", {}, ADMIN)
            except Exists as error:
                refused.append(error)

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(make)
        assert len(refused) == 4


async def test_a_name_in_both_places_is_refused_at_start(world: World) -> None:
    async with Book(world).running() as services:
        await services.add("culler", {}, ADMIN)
    with pytest.raises(Misconfigured, match="so has the database"):
        await Book(world, {"name": "culler"}).services.load()


async def test_one_bad_row_keeps_no_other_from_working(world: World, caplog: pytest.LogCaptureFixture) -> None:
    from sqlalchemy import update

    from appliance.store.rows import ServiceRow

    async with Book(world).running() as services:
        await services.add("bad", {}, ADMIN)
        await services.add("good", {}, ADMIN)
    await world.db.transact(lambda t: t.execute(update(ServiceRow).where(ServiceRow.name == "bad").values(data={"users": []})))
    async with Book(world).running() as services:
        assert [service.name for service in services.all()] == ["good"]
    assert "The service bad, which was made through the REST API, cannot be used" in caplog.text
