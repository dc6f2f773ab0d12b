"""Traefik in a container that somebody else keeps: the same contract, and a Hub that waits, adopts, signals and restarts."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest
from proxy_box import Box, TraefikContract, answer_as_hub, ask, free_port, make_proxy
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from appliance.errors import Misconfigured, ProxyDown
from appliance.proxies.traefik import TraefikProxy
from appliance.spawners.docker_control import DockerContainer
from appliance.testing.proxies import TinyServer, cookie_of, make_route

pytestmark = [pytest.mark.engine, pytest.mark.anyio]
USER = 65532
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    built = subprocess.run([sys.executable, REPOSITORY / "images" / "build", "traefik"], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    client = docker.DockerClient.from_env(timeout=60)
    yield client
    client.close()


@dataclass
class KeptBox(Box):
    """The container is made as compose.yaml makes it."""

    engine: docker.DockerClient = None
    name: str = ""

    def create(self) -> Any:
        folder = str(self.folder)
        return self.engine.containers.create(
            "appliance/traefik:latest", [f"--configfile={folder}/static.yml"], name=self.name, network_mode="host",
            user=f"{USER}:{USER}", read_only=True, cap_drop=["ALL"], cap_add=["NET_BIND_SERVICE"], stop_signal="SIGTERM",
            restart_policy={"Name": "always"}, volumes=[
                f"{folder}:{folder}:ro", f"{folder}/logs:{folder}/logs", f"{folder}/acme:{folder}/acme"])

    @property
    def container(self) -> Any:
        return self.engine.containers.get(self.name)

    @property
    def host_pid(self) -> int:
        return int(self.container.attrs["State"]["Pid"])

    def another_hub(self, **changes: object) -> TraefikProxy:
        proxy = super().another_hub(**changes)
        keep(proxy, self.name)
        return proxy


def keep(proxy: TraefikProxy, name: str) -> None:
    proxy.should_start, proxy.container_name, proxy.user_id = False, name, USER
    proxy.control = DockerContainer


@asynccontextmanager
async def kept_box(state_dir: Path, engine: docker.DockerClient, *, started: bool = True) -> AsyncIterator[KeptBox]:
    async with TinyServer("hub", answer_as_hub) as hub, TinyServer("one") as one, TinyServer("two") as two:
        box = KeptBox(make_proxy(state_dir, free_port(), hub.url), hub, one, two, [], engine,
                      f"appliance-test-{secrets.token_hex(4)}")
        keep(box.proxy, box.name)
        await box.proxy.prepare()
        try:
            if started:
                box.create().start()
                await box.proxy.start()
            yield box
        finally:
            for proxy in (box.proxy, *box.older):
                await proxy.close()
            with suppress(docker.errors.NotFound):
                box.container.remove(force=True)


@pytest.fixture(scope="module")
async def box(
    tmp_path_factory: pytest.TempPathFactory, anyio_backend: str, engine: docker.DockerClient,
) -> AsyncIterator[KeptBox]:
    async with kept_box(tmp_path_factory.mktemp("kept"), engine) as made:
        yield made


@pytest.fixture
async def own_box(tmp_path: Path, engine: docker.DockerClient) -> AsyncIterator[KeptBox]:
    async with kept_box(tmp_path, engine) as made:
        yield made


@asynccontextmanager
async def supervised(proxy: TraefikProxy) -> AsyncIterator[None]:
    task = asyncio.create_task(proxy.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def seconds_until_served(box: Box, cookie: str, limit_s: float = 15.0) -> float:
    began = time.monotonic()
    async with asyncio.timeout(limit_s):
        while True:
            with suppress(OSError, ValueError, IndexError):
                if (await box.ask("/user/alice/", f"Cookie: {cookie}")).served_by == "one":
                    return time.monotonic() - began
            await asyncio.sleep(0.02)


class TestTraefikInAContainer(TraefikContract):
    """As a container that Compose keeps."""


# -- files -------------------------------------------------------------------------------------------------------------
async def test_traefiks_user_reads_what_it_needs_and_writes_only_logs_and_certificates(box: KeptBox) -> None:
    await box.serve(make_route(box.one.url))
    seen = {}
    for path in (box.folder, *box.folder.rglob("*")):
        status = path.stat()
        seen[str(path.relative_to(box.folder))] = (status.st_uid, status.st_gid, oct(status.st_mode & 0o7777))
    for name in (".", "routes"):
        assert seen[name] == (0, USER, "0o750"), name
    for name in ("logs", "acme"):
        assert seen[name] == (USER, USER, "0o750"), name
    files = [name for name in seen if name.endswith(".yml")]
    assert len(files) == 4
    assert {seen[name] for name in files} == {(0, USER, "0o640")}
    for name in ("api.json", "run.json", "routes.id"):
        assert seen[name] == (0, 0, "0o600"), name


async def test_files_of_a_traefik_that_was_a_process_become_readable(tmp_path: Path, engine: docker.DockerClient) -> None:
    async with TinyServer("hub") as hub, TinyServer("one") as one:
        before = make_proxy(tmp_path, free_port(), hub.url)
        route = make_route(one.url)
        await before.set_routes({route.server_id: route})
        async with kept_box(tmp_path, engine) as box:
            assert await seconds_until_served(box, cookie_of(route)) < 5


# -- the container's life ----------------------------------------------------------------------------------------------
async def test_without_a_container_the_hub_waits_and_says_so(
    tmp_path: Path, engine: docker.DockerClient, caplog: pytest.LogCaptureFixture,
) -> None:
    async with kept_box(tmp_path, engine, started=False) as box:
        await box.proxy.start()
        assert f"There is no container {box.name}" in caplog.text
        route = make_route(box.one.url)
        async with supervised(box.proxy):
            await box.proxy.set_routes({route.server_id: route})
            with pytest.raises(ProxyDown):
                await box.proxy.wait_live(route.server_id, 0.5)
            await asyncio.sleep(3)
            assert caplog.text.count("There is no container") == 1
            box.create().start()
            await box.proxy.wait_live(route.server_id)
            assert await seconds_until_served(box, cookie_of(route)) < 1


async def test_a_killed_traefik_comes_back_with_its_routes_even_after_a_signal(own_box: KeptBox) -> None:
    box = own_box
    route = make_route(box.one.url)
    await box.serve(route)
    await DockerContainer(box.name).signal(signal.SIGHUP)  # an old engine takes that for the wish to stop it
    before = box.host_pid
    async with supervised(box.proxy):
        os.kill(before, signal.SIGKILL)
        took_s = await seconds_until_served(box, cookie_of(route))
        print(f"Traefik's container was back after {took_s:.1f} s.")
        assert took_s < 5
        await box.proxy.wait_live(route.server_id)
    assert box.host_pid != before


async def test_the_next_hub_adopts_the_container_and_nobody_notices(own_box: KeptBox) -> None:
    box = own_box

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with serve(echo, "127.0.0.1", 0) as server:
        route = make_route(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await box.serve(route)
        before = box.host_pid
        address = f"ws://127.0.0.1:{box.proxy.bind_port}/user/alice/api/kernels"
        async with connect(address, additional_headers={"Cookie": cookie_of(route)}) as websocket:
            later = box.another_hub()
            await later.prepare()
            await later.start()
            async with supervised(later):
                await later.set_routes({route.server_id: route})
                await later.wait_live(route.server_id)
                await asyncio.sleep(3)
                async with asyncio.timeout(2):
                    await websocket.send("still here")
                    assert await websocket.recv() == "still here"
        assert box.host_pid == before


async def test_another_static_file_restarts_it_once(own_box: KeptBox, caplog: pytest.LogCaptureFixture) -> None:
    box = own_box
    old, new = box.proxy.bind_port, free_port()
    began = box.container.attrs["State"]["StartedAt"]
    later = box.another_hub(bind_port=new)
    await later.prepare()
    await later.start()
    assert "interrupted" in caplog.text
    assert (await ask(new, "/hub/login")).served_by == "hub"
    with pytest.raises(OSError, match="111"):
        await ask(old, "/")
    restarted = box.container.attrs["State"]["StartedAt"]
    assert restarted != began
    async with supervised(later):
        await asyncio.sleep(3)
    assert box.container.attrs["State"]["StartedAt"] == restarted
    assert box.container.attrs["RestartCount"] == 0


async def test_a_static_file_changed_while_no_hub_was_there_is_noticed(own_box: KeptBox) -> None:
    """`prepare` wrote another one, and Traefik was started before that by the engine."""
    box = own_box
    (box.folder / "run.json").unlink()
    os.utime(box.folder / "static.yml")
    began = box.container.attrs["State"]["StartedAt"]
    later = box.another_hub()
    await later.start()
    assert box.container.attrs["State"]["StartedAt"] != began
    assert (await box.ask("/hub/login")).served_by == "hub"


async def test_a_folder_made_anew_is_watched_again(own_box: KeptBox) -> None:
    box = own_box
    route = make_route(box.one.url)
    async with supervised(box.proxy):
        shutil.rmtree(box.folder / "routes")
        await asyncio.sleep(0.5)
        await box.serve(route)
        assert await seconds_until_served(box, cookie_of(route)) < 1


async def test_a_taken_port_of_the_api_is_given_up(tmp_path: Path, engine: docker.DockerClient) -> None:
    async with kept_box(tmp_path, engine, started=False) as box, TinyServer("squatter") as squatter:
        port = int(squatter.url.rpartition(":")[2])
        access = json.loads((box.folder / "api.json").read_text())
        (box.folder / "api.json").write_text(json.dumps(access | {"port": port}))
        later = box.another_hub()
        await later.prepare()
        box.create().start()
        await later.start()
        async with supervised(later):
            await later.set_routes({})
            await later.wait_live("", 15)
        assert json.loads((box.folder / "api.json").read_text())["port"] != port


async def test_a_taken_public_port_is_said(
    tmp_path: Path, engine: docker.DockerClient, caplog: pytest.LogCaptureFixture,
) -> None:
    async with kept_box(tmp_path, engine, started=False) as box:
        later = box.another_hub(bind_port=box.two.port)
        await later.prepare()
        box.create().start()
        async with asyncio.timeout(30):
            await later.start()
            async with supervised(later):
                while f"already listens on port {box.two.port}" not in caplog.text:
                    await asyncio.sleep(0.1)


async def test_an_engine_that_is_away_is_no_reason_to_crash(own_box: KeptBox, caplog: pytest.LogCaptureFixture) -> None:
    later = own_box.another_hub()
    later.control = lambda name: DockerContainer(name, "unix:///nowhere/docker.sock")
    with caplog.at_level(logging.ERROR):
        await later.start()
        async with supervised(later):
            route = make_route(own_box.one.url)
            await later.set_routes({route.server_id: route})
            await later.wait_live(route.server_id)


async def test_without_a_way_to_the_engine_there_is_a_sentence(tmp_path: Path) -> None:
    proxy = make_proxy(tmp_path, free_port(), "http://127.0.0.1:1")
    proxy.should_start = False
    with pytest.raises(Misconfigured, match="should_start"):
        await proxy.prepare()
