"""Services in containers, with the real engine: kept apart like students' servers, and never taken for one."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from docker_box import IMAGE, clear, client, make_spawner, prepare_once, reach

from appliance.domain.service import ServiceContainer
from appliance.errors import ImageMissing, ServiceFailed
from appliance.ports import ServerSpec, ServiceSpec, ServiceStart
from appliance.spawners.docker import DockerSpawner
from appliance.spawners.docker_container import SERVER, SERVICE

pytestmark = [pytest.mark.engine, pytest.mark.anyio]
NAME = "servicetest"
SUBNET = "10.219.7.0/24"
UID = 23456
APP = """
import http.server, json, os, sys
class Say(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps([os.environ.get("JUPYTERHUB_SERVICE_NAME"), os.getuid(), os.getcwd(), self.path]).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words): pass
print("listening", flush=True)
http.server.HTTPServer(("0.0.0.0", 9000), Say).serve_forever()
"""


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    clear(NAME)
    state_dir = tmp_path_factory.mktemp("state")
    anyio.run(prepare_once, make_spawner(NAME, SUBNET, state_dir))
    yield state_dir
    clear(NAME)


@pytest.fixture
async def spawner(box: Path) -> AsyncIterator[DockerSpawner]:
    made = make_spawner(NAME, SUBNET, box)
    yield made
    await made.close()
    clear(NAME, network=False)


@pytest.fixture
def spec(tmp_path: Path) -> ServiceSpec:
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, UID, UID)
    os.chmod(tmp_path, 0o755)
    return ServiceSpec(
        "Course-1.a", "/services/Course-1.a/", {"JUPYTERHUB_SERVICE_NAME": "Course-1.a", "SECRET": "s3cret"},
        ("python3", "-u", "-c", APP), user="grader", uid=UID, home=home,
        container=ServiceContainer(IMAGE, 9000, 64 << 20, 0.5, {str(tmp_path): "/exchange"}))


class Life:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.urls: list[str] = []
        self.ended = ""
        self.error: Exception | None = None

    async def run(self, spawner: DockerSpawner, spec: ServiceSpec) -> None:
        async def started(start: ServiceStart) -> None:
            self.urls.append(start.url)

        try:
            self.ended = await runner(spawner).run(spec, started, self.lines.append)
        except ServiceFailed as error:
            self.error = error

    @property
    def url(self) -> str:
        return self.urls[-1]


def runner(spawner: DockerSpawner) -> Any:
    if not hasattr(spawner, "_test_runner"):
        spawner._test_runner = spawner.service_runner()  # type: ignore[attr-defined]
    return spawner._test_runner  # type: ignore[attr-defined]


@asynccontextmanager
async def running(spawner: DockerSpawner, spec: ServiceSpec, *, answers: bool = True) -> AsyncIterator[Life]:
    life = Life()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(life.run, spawner, spec)
        await until(lambda: bool(life.urls) or bool(life.ended) or life.error is not None)
        if answers:
            await says(life.url)
        yield life
        tasks.cancel_scope.cancel()


async def until(check: Callable[[], bool], timeout_s: float = 20) -> None:
    with anyio.fail_after(timeout_s):
        while not check():
            await anyio.sleep(0.02)


async def says(url: str) -> list[Any]:
    async with httpx.AsyncClient(timeout=2) as web:
        with anyio.fail_after(20):
            while True:
                try:
                    return list((await web.get(f"{url}/x")).json())
                except httpx.TransportError:
                    await anyio.sleep(0.05)


def inspect(name: str = "Course-1.a") -> dict[str, Any]:
    with client() as engine:
        return dict(engine.inspect_container(f"{NAME}-service-{name}"))


async def test_it_runs_as_its_account_in_its_home_within_its_limits(
    spawner: DockerSpawner, spec: ServiceSpec, tmp_path: Path,
) -> None:
    async with running(spawner, spec) as life:
        assert await says(life.url) == ["Course-1.a", UID, "/home/grader", "/x"]
        await until(lambda: "listening" in life.lines)
        found = inspect()
        host = found["HostConfig"]
        assert (host["Memory"], host["NanoCpus"], host["NetworkMode"]) == (64 << 20, 500_000_000, NAME)
        assert (host["CapDrop"], host["Privileged"], "no-new-privileges" in host["SecurityOpt"]) == (["ALL"], False, True)
        assert {mount["Destination"]: mount["Source"] for mount in found["Mounts"]}["/exchange"] == str(tmp_path)
        assert "s3cret" not in json.dumps(found["Config"]["Labels"])
        assert await runner(spawner).uids() == {UID}
    await runner(spawner).stop(spec.name)
    assert await runner(spawner).uids() == set()


async def test_it_is_kept_apart_from_students_and_they_from_it(
    spawner: DockerSpawner, spec: ServiceSpec, tmp_path: Path,
) -> None:
    student = ServerSpec("k3f9k3f9", 1, "ada", "", UID + 1, tmp_path, "/user/ada/", "10.219.7.10", IMAGE, {})
    spawner.cmd = ["python3", "-u", "-c", APP]
    async with running(spawner, spec) as life:
        await spawner.start(student)
        address = life.url.split("//")[1].split(":")[0]
        assert set(reach(NAME, "k3f9k3f9", (address, 9000)).values()) == {"no"}
        assert set(reach(NAME, "service-Course-1.a", ("10.219.7.10", 9000)).values()) == {"no"}


async def test_no_reconciler_takes_it_for_a_server(spawner: DockerSpawner, spec: ServiceSpec) -> None:
    heard: list[str] = []

    async def watch() -> None:
        async for server_id in spawner.watch():
            heard.append(server_id)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        await until(lambda: bool(heard))
        async with running(spawner, spec):
            assert await spawner.list() == []
        await runner(spawner).stop(spec.name)
        await anyio.sleep(0.5)
        tasks.cancel_scope.cancel()
    assert heard == [""]     # the beginning, and no word of a service
    with client() as engine:
        assert engine.containers(all=True, filters={"label": f"{SERVICE}={spec.name}"}) == []


async def test_the_next_hub_takes_it_over_and_nobody_notices(spawner: DockerSpawner, spec: ServiceSpec, box: Path) -> None:
    async with running(spawner, spec) as life:
        before = inspect()["Id"]
    assert inspect()["State"]["Running"]
    later = make_spawner(NAME, SUBNET, box)
    await later.service_runner().clear([spec.name])
    async with running(later, spec) as again:
        assert (inspect()["Id"], again.url) == (before, life.url)
    await later.close()


@pytest.mark.parametrize("change", [{"environment": {"SECRET": "another"}}, {"command": ("python3", "-c", APP + "\n")}])
async def test_one_that_is_wanted_otherwise_is_replaced_at_its_address(
    spawner: DockerSpawner, spec: ServiceSpec, change: dict[str, Any],
) -> None:
    async with running(spawner, spec) as life:
        before = inspect()["Id"]
    async with running(spawner, replace(spec, **change)) as again:
        assert inspect()["Id"] != before
        assert again.url == life.url


async def test_two_have_two_addresses_that_no_server_gets(spawner: DockerSpawner, spec: ServiceSpec) -> None:
    async with running(spawner, spec) as one, running(spawner, replace(spec, name="other")) as other:
        assert one.url != other.url
        for life in (one, other):
            assert life.url.split("//")[1].split(":")[0] not in set(spawner.addresses())


async def test_what_nobody_wants_any_more_is_ended(spawner: DockerSpawner, spec: ServiceSpec) -> None:
    async with running(spawner, spec), running(spawner, replace(spec, name="kept")):
        pass
    await spawner.service_runner().clear(["kept"])
    with client() as engine:
        rows = engine.containers(all=True, filters={"label": SERVICE})
        assert [row["Labels"][SERVICE] for row in rows if row["Names"][0].startswith(f"/{NAME}-")] == ["kept"]
        assert all(SERVER not in row["Labels"] for row in rows)


@pytest.mark.parametrize(("program", "how"), [
    ("print('oh no'); raise SystemExit(3)", "with status 3"),
    ("x = []\nwhile True: x.append(' ' * (1 << 20))", "because it used all the memory it may have")])
async def test_how_it_ended_is_said(spawner: DockerSpawner, spec: ServiceSpec, program: str, how: str) -> None:
    life = Life()
    with anyio.fail_after(30):
        await life.run(spawner, replace(spec, command=("python3", "-u", "-c", program)))
    assert life.ended == how
    if "oh no" in program:
        assert life.lines == ["oh no"]


async def test_one_that_somebody_removes_is_noticed(spawner: DockerSpawner, spec: ServiceSpec) -> None:
    async with running(spawner, spec) as life:
        with client() as engine:
            engine.remove_container(f"{NAME}-service-{spec.name}", force=True)
        await until(lambda: bool(life.ended))
    assert "removed" in life.ended or "status 137" in life.ended


async def test_an_image_that_is_missing_says_so(spawner: DockerSpawner, spec: ServiceSpec) -> None:
    with pytest.raises(ImageMissing):
        await Life().run(spawner, replace(spec, container=ServiceContainer("no/such/image:ever")))


async def test_root_is_refused(spawner: DockerSpawner, spec: ServiceSpec) -> None:
    life = Life()
    await life.run(spawner, replace(spec, uid=0))
    assert "cannot run as root" in str(life.error)
