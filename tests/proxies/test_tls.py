"""How the real Traefik speaks TLS: its floor, its ciphers, HTTP/2, what becomes of HTTP, and what browsers are told."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import ssl
import subprocess
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from proxy_box import Answer, ask, free_port, make_proxy
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from appliance.errors import Misconfigured
from appliance.proxies.certificates import ensure_leaf
from appliance.proxies.traefik import TraefikProxy
from appliance.testing.proxies import Reply, TinyServer, cookie_of, make_route

pytestmark = [pytest.mark.engine, pytest.mark.anyio]


@asynccontextmanager
async def started(folder: Path, hub: TinyServer, **options: object) -> AsyncIterator[TraefikProxy]:
    proxy = make_proxy(folder, free_port(), hub.url)
    proxy.http_port = free_port()
    for name, value in options.items():
        setattr(proxy, name, value)
    try:
        await proxy.start()
        yield proxy
    finally:
        await proxy.stop()


@pytest.fixture(scope="module")
async def hub(anyio_backend: str) -> AsyncIterator[TinyServer]:
    async with TinyServer("hub") as made:
        yield made


@pytest.fixture(scope="module")
async def proxy(hub: TinyServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TraefikProxy]:
    """A box with an authority of its own."""
    async with started(tmp_path_factory.mktemp("tls"), hub, tls="selfsigned", tls_names=("box.school",)) as made:
        yield made


def root(proxy: TraefikProxy) -> Path:
    return proxy.state_dir / "tls" / "ca.crt"


def trusting(proxy: TraefikProxy) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(root(proxy)))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def handshake(port: int, context: ssl.SSLContext, name: str = "box.school") -> ssl.SSLSocket:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        return context.wrap_socket(plain, server_hostname=name)


async def get(proxy: TraefikProxy, target: str, *headers: str) -> Answer:
    """Ask over HTTPS, as somebody who trusts the box."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", proxy.bind_port, ssl=trusting(proxy), server_hostname="box.school")
    lines = [f"GET {target} HTTP/1.1", "Host: box.school", "Connection: close", *headers]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
    head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
    writer.close()
    status, *fields = head.decode().split("\r\n")
    return Answer(int(status.split(" ")[1]),
                  [(key, value.strip()) for key, value in (line.split(":", 1) for line in fields)], body)


@pytest.mark.parametrize("name", ["box.school", "localhost", "127.0.0.1"])
async def test_who_trusts_the_root_is_served_under_every_name(proxy: TraefikProxy, name: str) -> None:
    with handshake(proxy.bind_port, trusting(proxy), name) as spoken:
        assert spoken.version() == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(proxy.bind_port, ssl.create_default_context(), name)


@pytest.mark.parametrize(("version", "spoken"), [
    (ssl.TLSVersion.TLSv1, False), (ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True),
    (ssl.TLSVersion.TLSv1_3, True),
])
async def test_nothing_older_than_1_2_is_spoken(proxy: TraefikProxy, version: ssl.TLSVersion, spoken: bool) -> None:
    context = trusting(proxy)
    context.set_ciphers("ALL:@SECLEVEL=0")   # else this side would refuse already
    with warnings.catch_warnings(action="ignore"):
        context.minimum_version = context.maximum_version = version
    if spoken:
        handshake(proxy.bind_port, context).close()
        return
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        handshake(proxy.bind_port, context)


async def test_of_1_2_only_ciphers_with_forward_secrecy_and_authentication(proxy: TraefikProxy) -> None:
    taken, context = set(), trusting(proxy)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    for cipher in {found["name"] for found in context.get_ciphers() if found["protocol"] != "TLSv1.3"} | {
            "AES128-SHA", "AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384", "DES-CBC3-SHA"}:
        try:
            context.set_ciphers(f"{cipher}:@SECLEVEL=0")
            with handshake(proxy.bind_port, context) as spoken:
                taken.add((spoken.cipher() or ("",))[0])
        except ssl.SSLError:
            continue
    assert taken == {
        "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"}


async def test_http_2_is_offered(proxy: TraefikProxy) -> None:
    for offered, chosen in ((["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1")):
        context = trusting(proxy)
        context.set_alpn_protocols(offered)
        with handshake(proxy.bind_port, context) as spoken:
            assert spoken.selected_alpn_protocol() == chosen


async def test_http_leads_to_https_on_both_ports(proxy: TraefikProxy) -> None:
    for port in (proxy.bind_port, proxy.http_port):
        answer = await ask(port, "/hub/login?next=x", "Cookie: appliance-session=x")
        assert answer.status in (302, 307), port
        assert answer.get("Location") == f"https://box.school:{proxy.bind_port}/hub/login?next=x"


async def test_how_to_trust_the_box_is_told_over_http_and_nothing_else(proxy: TraefikProxy) -> None:
    for target, served in (
        ("/hub/help", True), ("/hub/help/ca.crt", True), ("/hub/static/x/style.css", True), ("/hub/logo", True),
        ("/hub/help/", False), ("/hub/helpers", False), ("/hub/login", False), ("/hub/api", False), ("/user/alice/", False),
        ("/hub/static/../login", False), ("/hub/help/../login", False),
    ):
        answer = await ask(proxy.http_port, target)
        assert (answer.status == 200) is served, target
    assert (await ask(proxy.http_port, "/hub/help", method="POST")).status in (302, 307)
    assert (await ask(proxy.bind_port, "/hub/help")).status in (302, 307), "one port is enough"


async def test_a_websocket_over_tls_and_a_big_upload(proxy: TraefikProxy) -> None:
    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with serve(echo, "127.0.0.1", 0, max_size=None) as server:
        route = make_route(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await proxy.set_routes({route.server_id: route})
        await proxy.wait_live(route.server_id)
        async with connect(f"wss://localhost:{proxy.bind_port}/user/alice/ws", ssl=trusting(proxy), max_size=None,
                           additional_headers={"Cookie": cookie_of(route)}) as websocket:
            await websocket.send("hello")
            assert await websocket.recv() == "hello"
    digests = []

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        digest = hashlib.sha256()
        while length:
            piece = await reader.read(min(length, 1 << 20))
            length -= len(piece)
            digest.update(piece)
        digests.append(digest.hexdigest())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(swallow, "127.0.0.1", 0, limit=1 << 20) as server:
        route = make_route(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await proxy.set_routes({route.server_id: route})
        await proxy.wait_live(route.server_id)
        block, whole = os.urandom(1 << 20), hashlib.sha256()
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", proxy.bind_port, ssl=trusting(proxy), server_hostname="box.school")
        writer.write(f"PUT /user/alice/files/big HTTP/1.1\r\nHost: box.school\r\nCookie: {cookie_of(route)}\r\n"
                     f"Content-Length: {200 << 20}\r\nConnection: close\r\n\r\n".encode())
        for _ in range(200):
            writer.write(block)
            whole.update(block)
            await writer.drain()
        assert (await reader.readline()).split()[1] == b"200"
        writer.close()
    assert digests == [whole.hexdigest()]
    await proxy.set_routes({})


async def test_hsts_is_the_boxs_word_whatever_a_container_says(tmp_path: Path, hub: TinyServer) -> None:
    pair, _ = ensure_leaf(tmp_path / "tls", ("box.school",))
    given = {"ssl_cert": str(pair.certificate), "ssl_key": str(pair.key)}
    async with TinyServer("one") as one:
        one.answer = lambda request: Reply(200, {"Strict-Transport-Security": "max-age=99; includeSubDomains; preload"})
        route = make_route(one.url)
        for options, said in (
            (given, "max-age=1209600"), (given | {"hsts_seconds": 60}, "max-age=60"), (given | {"hsts_seconds": 0}, ""),
            ({"tls": "selfsigned"}, ""), ({"tls": "selfsigned", "hsts_seconds": 60}, "max-age=60"),
        ):
            async with started(tmp_path, hub, tls_names=("box.school",), **options) as proxy:
                await proxy.set_routes({route.server_id: route})
                await proxy.wait_live(route.server_id)
                for target, headers in (("/hub/login", []), ("/user/alice/", [f"Cookie: {cookie_of(route)}"])):
                    answer = await get(proxy, target, *headers)
                    assert answer.status == 200
                    assert answer.get("Strict-Transport-Security") == said, (target, options)
                assert not (await ask(proxy.http_port, "/hub/login")).get("Strict-Transport-Security")


async def test_a_new_name_is_in_the_certificate_without_anybody_being_interrupted(tmp_path: Path, hub: TinyServer) -> None:
    async with started(tmp_path, hub, tls="selfsigned", tls_names=("box.school",)) as first:
        before = root(first).read_bytes()
        later = make_proxy(tmp_path, first.bind_port, hub.url)
        later.http_port, later.tls, later.tls_names = first.http_port, "selfsigned", ("box.school", "10.11.12.13")
        assert first._process.running is not None
        await later.start()
        assert later._process.running is not None
        assert later._process.running.pid == first._process.running.pid
        for _ in range(100):
            try:
                handshake(later.bind_port, trusting(later), "10.11.12.13").close()
                break
            except ssl.SSLCertVerificationError:
                await asyncio.sleep(0.05)
        else:
            raise AssertionError("the new name is not served")
        assert root(later).read_bytes() == before, "whoever trusts the box need not do it again"


async def test_from_made_here_to_files_nobody_is_interrupted(tmp_path: Path, hub: TinyServer) -> None:
    async with started(tmp_path, hub, tls="selfsigned", tls_names=("box.school",)) as first:
        pair, _ = ensure_leaf(tmp_path / "other", ("box.school",))
        later = make_proxy(tmp_path, first.bind_port, hub.url)
        later.http_port, later.tls = first.http_port, "files"
        later.ssl_cert, later.ssl_key = str(pair.certificate), str(pair.key)
        await later.start()
        assert first._process.running is not None
        assert later._process.running is not None
        assert later._process.running.pid == first._process.running.pid
        context = ssl.create_default_context(cafile=str(tmp_path / "other" / "ca.crt"))
        await asyncio.sleep(0.3)
        handshake(later.bind_port, context).close()


async def test_without_port_80_letsencrypt_says_what_to_do(tmp_path: Path, hub: TinyServer) -> None:
    proxy = make_proxy(tmp_path, free_port(), hub.url)
    proxy.tls, proxy.tls_names, proxy.http_port = "letsencrypt", ("box.school",), hub.port
    with pytest.raises(Misconfigured, match="already listens on") as raised:
        await proxy.start()
    assert "'dns'" in raised.value.action


async def test_a_scanner_finds_the_chain_whole(proxy: TraefikProxy) -> None:
    process = await asyncio.create_subprocess_exec(
        "openssl", "s_client", "-connect", f"127.0.0.1:{proxy.bind_port}", "-servername", "box.school", "-CAfile",
        str(root(proxy)), "-verify_return_error", "-x509_strict", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT)
    printed, _ = await process.communicate()
    assert b"Verify return code: 0 (ok)" in printed
