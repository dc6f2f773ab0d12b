"""Traefik and its folder stay as wanted, whoever ends, breaks or replaces what; who works does not notice."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from proxy_box import Box, ask, free_port, make_proxy
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from appliance.domain.route import Route
from appliance.errors import BadName, DiskFull, Misconfigured, ProxyDown
from appliance.testing.proxies import Reply, cookie_of, make_route

pytestmark = [pytest.mark.engine, pytest.mark.anyio]


@asynccontextmanager
async def supervised(box: Box) -> AsyncIterator[None]:
    """Run the Hub's supervision meanwhile."""
    task = asyncio.create_task(box.proxy.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def student(box: Box) -> AsyncIterator[tuple[ClientConnection, Route]]:
    """Let alice work over a websocket that says back what she says."""
    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with serve(echo, "127.0.0.1", 0) as server:
        route = make_route(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await box.serve(route)
        address = f"ws://127.0.0.1:{box.proxy.bind_port}/user/alice/api/kernels"
        async with connect(address, additional_headers={"Cookie": cookie_of(route)}) as websocket:
            await says(websocket, "hello")
            yield websocket, route
    await box.serve()


async def says(websocket: ClientConnection, text: str) -> None:
    async with asyncio.timeout(2):
        await websocket.send(text)
        assert await websocket.recv() == text


async def within(limit_s: float, true: Callable[[], bool]) -> None:
    for _ in range(int(limit_s / 0.01)):
        if true():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


async def served_within(box: Box, route: Route, limit_s: float) -> None:
    """Wait until alice's requests reach her server."""
    async with asyncio.timeout(limit_s):
        while True:
            with suppress(OSError, ValueError, IndexError):
                if (await box.ask("/user/alice/", f"Cookie: {cookie_of(route)}")).served_by == "one":
                    return
            await asyncio.sleep(0.02)


def pid(box: Box) -> int:
    return int(json.loads((box.folder / "traefik.pid").read_text())["pid"])


# -- the folder --------------------------------------------------------------------------------------------------------
async def test_files_are_private_and_unchanged_ones_are_not_touched(box: Box) -> None:
    route = make_route(box.one.url)
    await box.serve(route)
    files = [*box.folder.glob("*.*"), *(box.folder / "routes").iterdir()]
    assert len(files) >= 8
    assert [path for path in files if stat.S_IMODE(path.stat().st_mode) & 0o077] == []
    assert stat.S_IMODE(box.folder.stat().st_mode) == 0o700
    before = {path: path.stat().st_ctime_ns for path in (box.folder / "routes").iterdir()}
    await box.proxy.set_routes({route.server_id: route})
    await box.proxy.add(route)
    assert before == {path: path.stat().st_ctime_ns for path in (box.folder / "routes").iterdir()}


async def test_a_new_route_is_live_soon(box: Box) -> None:
    took_s = []
    for number in range(8):
        route = make_route(box.one.url, server_id=f"server{number}", prefix=f"/user/user{number}/")
        started_at = time.monotonic()
        await box.proxy.add(route)
        await box.proxy.wait_live(route.server_id)
        took_s.append(time.monotonic() - started_at)
        assert (await box.ask(f"/user/user{number}/", f"Cookie: {cookie_of(route)}")).served_by == "one"
    assert sorted(took_s)[len(took_s) // 2] < 0.2, took_s


async def test_the_same_route_removed_and_added_is_told_apart(box: Box) -> None:
    route = make_route(box.one.url)
    cookie = f"Cookie: {cookie_of(route)}"
    for _ in range(8):
        await box.proxy.add(route)
        await box.proxy.wait_live(route.server_id)
        assert {(await box.ask("/user/alice/", cookie)).served_by for _ in range(5)} == {"one"}
        await box.proxy.remove(route.server_id)
        await box.proxy.add(route)
        await box.proxy.remove(route.server_id)
        await box.proxy.wait_live(route.server_id)
        assert {(await box.ask("/user/alice/", cookie)).served_by for _ in range(5)} == {"hub"}


async def test_foreign_broken_and_changed_files_are_put_right(box: Box) -> None:
    routes = box.folder / "routes"
    async with supervised(box), student(box) as (websocket, working):
        (routes / "broken.yml").write_text("http: [not what it should be")
        (routes / "evil.yml").write_text('{"http": {"routers": {"x": {"rule": "PathPrefix(`/`)", "service": "hub"}}}}')
        (routes / "deep").mkdir()
        (routes / "deep" / "also.yml").write_text("nonsense: [")
        (routes / f"{working.server_id}.yml").write_text("{")
        (routes / "_fixed.yml").unlink()
        (routes / "_fixed.yml").symlink_to("/etc/hostname")
        other = make_route(box.one.url, server_id="another1")
        await box.proxy.add(other)
        await box.proxy.wait_live(other.server_id, 2)
        await within(2, lambda: {path.name for path in routes.iterdir()} == {
            "-marker.yml", "_fixed.yml", f"{working.server_id}.yml", "another1.yml"})
        assert {path.name for path in (box.folder / "refused").iterdir()} >= {"broken.yml", "evil.yml", "deep"}
        await box.proxy.wait_live(working.server_id, 2)
        await says(websocket, "still here")


async def test_the_folder_deleted_while_a_student_works(own_box: Box) -> None:
    """Routes are back within a second, no websocket drops; later changes arrive although the folder is another one."""
    box = own_box
    async with student(box) as (websocket, _):
        mine = make_route(box.one.url, server_id="another1")
        async with supervised(box):
            await box.proxy.add(mine)
            await box.proxy.wait_live(mine.server_id)
            for _ in range(2):
                shutil.rmtree(box.folder / "routes")
                await asyncio.sleep(0.05)
                started_at = time.monotonic()
                await within(1, (box.folder / "routes" / "another1.yml").exists)
                await served_within(box, mine, 1)
                assert time.monotonic() - started_at < 1
                await says(websocket, "still here")
            changed = make_route(box.two.url, server_id="another1", capabilities=("new.2.owner.MAC",))
            await box.proxy.add(changed)
            await box.proxy.wait_live(changed.server_id, 2)
            assert (await box.ask("/user/alice/", f"Cookie: {cookie_of(changed)}")).served_by == "two"
        # the next Hub knows too that Traefik no longer watches this folder
        later = box.another_hub()
        await later.start()
        await later.set_routes({mine.server_id: mine})
        await later.wait_live(mine.server_id, 2)
        assert (await box.ask("/user/alice/", f"Cookie: {cookie_of(mine)}")).served_by == "one"
        await says(websocket, "still here")


async def test_a_right_ends_even_if_its_file_is_gone_already(own_box: Box) -> None:
    box, ending, staying = own_box, make_route(own_box.one.url), make_route(own_box.two.url, server_id="another1")
    await box.serve(ending, staying)
    shutil.rmtree(box.folder / "routes")  # Traefik goes on with what it has read last
    await box.proxy.remove(ending.server_id)
    await box.proxy.wait_live(ending.server_id)
    assert (await box.ask("/user/alice/", f"Cookie: {cookie_of(ending)}")).served_by == "hub"
    assert (await box.ask("/user/alice/", f"Cookie: {cookie_of(staying)}")).served_by == "two"


async def test_a_route_that_cannot_be_shuts_nobody_else_out(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    bad, good = make_route(box.one.url, server_id="bad", prefix="/user/a`b/"), make_route(box.one.url)
    with pytest.raises(BadName):
        await box.proxy.add(bad)
    await box.proxy.set_routes({"bad": bad, good.server_id: good})
    await box.proxy.wait_live(good.server_id)
    assert (await box.ask("/user/alice/", f"Cookie: {cookie_of(good)}")).served_by == "one"
    assert "has no route" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
async def test_a_route_that_did_not_fit_on_the_disk_is_written_when_there_is_room(tmp_path: Path, box: Box) -> None:
    assert await run("mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(tmp_path)) == 0
    proxy = make_proxy(tmp_path, free_port(), box.hub.url)
    small = Box(proxy, box.hub, box.one, box.two)
    try:
        await proxy.start()
        with suppress(OSError):
            (tmp_path / "filler").write_bytes(b"x" * 1_000_000)
        route = make_route(box.one.url)
        with pytest.raises(DiskFull):
            await proxy.add(route)
        assert (await small.ask("/hub/login")).served_by == "hub"
        async with supervised(small):
            (tmp_path / "filler").unlink()
            await served_within(small, route, 2)
    finally:
        await proxy.stop()
        assert await run("umount", str(tmp_path)) == 0


async def test_the_log_of_requests_is_bounded(box: Box) -> None:
    log = box.folder / "access.log"
    os.truncate(log, 30_000_000)
    async with supervised(box):
        await within(5, lambda: log.exists() and log.stat().st_size < 1_000_000)
        await box.ask("/after/the/rotation")
        await within(2, lambda: "/after/the/rotation" in log.read_text())
    (box.folder / "access.log.1").unlink()


# -- the process -------------------------------------------------------------------------------------------------------
async def test_traefik_killed_is_started_again_with_its_routes(own_box: Box) -> None:
    box = own_box
    route = make_route(box.one.url)
    await box.serve(route)
    async with supervised(box):
        before = pid(box)
        os.kill(before, signal.SIGKILL)
        await asyncio.sleep(0.01)
        await served_within(box, route, 3)
        assert pid(box) != before
        await box.proxy.wait_live(route.server_id)


async def test_the_next_hub_adopts_traefik_and_nobody_notices(own_box: Box) -> None:
    box = own_box
    async with student(box) as (websocket, route):
        before = pid(box)
        later = box.another_hub()
        await later.start()
        assert pid(box) == before
        # the earlier Hub's routes serve until this one says what it wants
        assert (await box.ask("/user/alice/", f"Cookie: {cookie_of(route)}")).status != 200
        await says(websocket, "still here")
        await later.set_routes({route.server_id: route})
        await later.wait_live(route.server_id)
        async with supervised(box):
            await says(websocket, "still here")
            await later.set_routes({})
            await later.wait_live(route.server_id)
            assert (await box.ask("/user/alice/", f"Cookie: {cookie_of(route)}")).served_by == "hub"
            os.kill(before, signal.SIGKILL)
            await within(3, lambda: pid(box) != before)


async def test_traefik_outlives_a_hub_that_is_killed(tmp_path: Path) -> None:
    port, program = free_port(), """
import asyncio, pathlib, sys
from proxy_box import make_proxy
async def hub():
    await make_proxy(pathlib.Path(sys.argv[1]), int(sys.argv[2]), "http://127.0.0.1:1").start()
    print("ready", flush=True)
    await asyncio.sleep(60)
asyncio.run(hub())
"""
    hub = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(tmp_path), str(port), stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])})
    proxy = make_proxy(tmp_path, port, "http://127.0.0.1:1")
    try:
        assert hub.stdout is not None
        assert await hub.stdout.readline() == b"ready\n"
        hub.kill()
        await hub.wait()
        assert (await ask(port, "/hub/login")).status == 502
        before = json.loads((tmp_path / "traefik" / "traefik.pid").read_text())["pid"]
        await proxy.start()
        assert json.loads((tmp_path / "traefik" / "traefik.pid").read_text())["pid"] == before
    finally:
        if hub.returncode is None:
            hub.kill()
            await hub.wait()
        await proxy.stop()
    assert not (tmp_path / "traefik" / "traefik.pid").exists()
    with pytest.raises(OSError, match="111"):
        await ask(port, "/")


async def test_a_changed_port_replaces_traefik_and_says_so(own_box: Box, caplog: pytest.LogCaptureFixture) -> None:
    box, before = own_box, pid(own_box)
    with caplog.at_level(logging.WARNING):
        await box.another_hub(bind_port=free_port()).start()
    assert "interrupted" in caplog.text
    assert pid(box) != before
    assert (await box.ask("/hub/login")).served_by == "hub"


async def test_a_stale_pid_file_leads_to_no_other_process(own_box: Box) -> None:
    box = own_box
    await box.proxy.stop()
    innocent = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        for start_time in (0, 1):
            (box.folder / "traefik.pid").write_text(json.dumps(
                {"pid": innocent.pid, "start_time": start_time, "config_hash": "", "redirect": False,
                 "watched": ""}))
            later = box.another_hub()
            await later.start()
            await later.stop()
        assert innocent.returncode is None
    finally:
        innocent.kill()
        await innocent.wait()


@pytest.mark.parametrize("text", [None, "{broken"])
async def test_a_traefik_that_nobody_wrote_down_is_adopted(own_box: Box, text: str | None) -> None:
    """A Hub was killed after it started Traefik and before it wrote the pid."""
    before = pid(own_box)
    (own_box.folder / "traefik.pid").unlink()
    if text:
        (own_box.folder / "traefik.pid").write_text(text)
    async with student(own_box) as (websocket, route):
        later = own_box.another_hub()
        await later.start()
        assert later._process.running is not None
        assert later._process.running.pid == before
        await later.set_routes({route.server_id: replace(route, start_no=2)})
        await later.wait_live(route.server_id)
        await says(websocket, "still here")


async def test_a_damaged_state_is_made_anew(own_box: Box) -> None:
    box = own_box
    await box.proxy.stop()
    for name in ("traefik.pid", "api.json", "static.yml", "routes/_fixed.yml", "routes/x.yml"):
        (box.folder / name).write_text("{broken")
    await box.another_hub().start()
    assert (await box.ask("/hub/login")).served_by == "hub"


async def test_a_taken_port_is_named(tmp_path: Path, box: Box) -> None:
    proxy = make_proxy(tmp_path, box.two.port, box.hub.url)
    with pytest.raises(Misconfigured, match=rf"already listens on 127\.0\.0\.1:{box.two.port} \(.*pid={os.getpid()}"):
        await proxy.start()
    assert not (tmp_path / "traefik" / "traefik.pid").exists()


async def test_without_traefik_there_is_a_sentence(tmp_path: Path) -> None:
    proxy = make_proxy(tmp_path, free_port(), "http://127.0.0.1:1")
    proxy.traefik_executable = "/nowhere/traefik"
    with pytest.raises(Misconfigured, match="There is no Traefik at /nowhere/traefik"):
        await proxy.start()


async def test_a_traefik_that_ends_at_once_is_evidence(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho cannot do that >&2\nexit 3\n")
    broken.chmod(0o700)
    proxy = make_proxy(tmp_path, free_port(), "http://127.0.0.1:1")
    proxy.traefik_executable = str(broken)
    with pytest.raises(ProxyDown) as raised:
        await proxy.start()
    assert "cannot do that" in raised.value.evidence


async def test_the_api_asks_for_its_password(box: Box) -> None:
    access = json.loads((box.folder / "api.json").read_text())
    for target in ("/api/rawdata", "/api/http/routers", "/metrics", "/api/version"):
        assert (await ask(access["port"], target)).status == 401
        assert (await ask(access["port"], target, "Authorization: Basic aHViOmh1Yg==")).status == 401
        assert (await box.ask(target)).served_by == "hub"
    assert (await ask(access["port"], "/dashboard/")).status == 404


# -- connections -------------------------------------------------------------------------------------------------------
@pytest.mark.skipif(shutil.which("ss") is None, reason="needs iproute2")
async def test_closing_connections_ends_a_websocket_at_once(box: Box) -> None:
    async with student(box) as (websocket, route):
        await box.proxy.remove(route.server_id)
        await box.proxy.wait_live(route.server_id)
        await says(websocket, "still here")  # an open websocket outlives its capability
        started_at = time.monotonic()
        await box.proxy.close_connections(route.url)
        with pytest.raises(ConnectionClosed):
            async with asyncio.timeout(1):
                await websocket.recv()
        assert time.monotonic() - started_at < 1


async def test_a_stream_arrives_piece_by_piece(box: Box) -> None:
    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        for number in range(3):
            writer.write(f"data: {number}\n\n".encode())
            await writer.drain()
            await heard.wait()
            heard.clear()
        writer.close()

    heard = asyncio.Event()
    async with await asyncio.start_server(stream, "127.0.0.1", 0) as server:
        route = make_route(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await box.serve(route)
        reader, writer = await asyncio.open_connection("127.0.0.1", box.proxy.bind_port)
        writer.write(f"GET /user/alice/events HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip, br, zstd\r\n"
                     f"Cookie: {cookie_of(route)}\r\n\r\n".encode())
        async with asyncio.timeout(5):
            for number in range(3):
                await reader.readuntil(f"data: {number}\n\n".encode())
                heard.set()
        writer.close()


async def test_a_server_that_hangs_is_left_to_answer(box: Box) -> None:
    """There is no limit to how long an answer takes: a cell may compute for an hour behind a request."""
    route = make_route(box.one.url)
    await box.serve(route)
    box.one.answer = lambda request: Reply(200, body=b"late") if time.sleep(0.8) is None else None
    answer = await box.ask("/user/alice/", f"Cookie: {cookie_of(route)}")
    box.one.answer = lambda request: None
    assert answer.body == b"late"


async def run(*command: str) -> int:
    return await (await asyncio.create_subprocess_exec(*command)).wait()


# -- HTTPS -------------------------------------------------------------------------------------------------------------
async def test_https_with_a_certificate_that_is_replaced(tmp_path: Path, box: Box) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    await make_certificate(certificate, key, "first.school")
    proxy = make_proxy(tmp_path, free_port(), box.hub.url)
    proxy.ssl_cert, proxy.ssl_key = str(certificate), str(key)
    try:
        await proxy.start()
        assert "first.school" in await subject(proxy.bind_port)
        if json.loads((tmp_path / "traefik" / "traefik.pid").read_text())["redirect"]:
            answer = await ask(80, "/hub/login?next=x")
            assert answer.status in (302, 307)
            assert answer.get("Location") == f"https://box.school:{proxy.bind_port}/hub/login?next=x"
        supervision = asyncio.create_task(proxy.run())
        await asyncio.sleep(0.5)
        await make_certificate(certificate, key, "second.school")
        served = ""
        for _ in range(60):
            if "second.school" in (served := await subject(proxy.bind_port)):
                break
            await asyncio.sleep(0.1)
        assert "second.school" in served
        supervision.cancel()
    finally:
        await proxy.stop()
    key.write_text("not a key")
    with pytest.raises(Misconfigured, match="certificate"):
        await proxy.start()


async def make_certificate(certificate: Path, key: Path, name: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
        "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(certificate), stderr=subprocess.DEVNULL)
    assert await process.wait() == 0


async def subject(port: int) -> str:
    """Return the certificate that is served, and prove that HTTPS reaches the Hub."""
    process = await asyncio.create_subprocess_exec(
        "curl", "-skv", f"https://127.0.0.1:{port}/hub/login", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    printed, _ = await process.communicate()
    assert b"X-Forwarded-Proto" in printed
    assert b"https" in printed
    return printed.decode()
