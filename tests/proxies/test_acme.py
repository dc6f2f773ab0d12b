"""Certificates from a real ACME authority, tried first, and nobody who works notices."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import docker
import docker.errors
import httpx
import pytest
from acme_server import MISSING, Authority, Names, authority, names
from cryptography import x509
from cryptography.x509.oid import NameOID
from proxy_box import free_port, make_proxy
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from appliance.proxies import acme
from appliance.proxies.acme import Acme, AcmeSettings, explain
from appliance.proxies.traefik import TraefikProxy
from appliance.spawners.docker_control import DockerContainer
from appliance.testing.proxies import Reply, Request, TinyServer, cookie_of, make_route

REPOSITORY = Path(__file__).parents[2]
NAMES = ("box.school", "www.box.school")
engine = pytest.mark.engine


@dataclass
class World:
    folder: Path
    hub: TinyServer
    staging: Authority
    real: Authority
    names: Names
    http_port: int
    proxies: list[TraefikProxy]

    def proxy(self, **options: Any) -> TraefikProxy:
        """Return a proxy that wants a certificate from the two authorities."""
        proxy = make_proxy(self.folder, self.proxies[-1].bind_port if self.proxies else free_port(), self.hub.url)
        # each has a root of its own, as Let's Encrypt's staging has: one file for both
        both = self.folder / "both.crt"
        both.write_text(self.staging.ca_file.read_text() + self.real.ca_file.read_text())
        proxy.tls, proxy.tls_names, proxy.http_port = "letsencrypt", NAMES, self.http_port
        given = {"acme_server": self.real.url, "acme_staging_server": self.staging.url, "acme_ca_file": str(both)} | options
        for name, value in given.items():
            setattr(proxy, name, value)
        self.proxies.append(proxy)
        return proxy

    @property
    def status(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.folder / "traefik" / "acme-status.json").read_text()))
        except (OSError, ValueError):
            return {}


@pytest.fixture
async def world(tmp_path: Path, anyio_backend: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    if MISSING:
        pytest.fail(f"{' and '.join(MISSING)} of Debian's package pebble are missing: ./bootstrap test engine installs it.")
    monkeypatch.setattr(acme, "TRIAL_PAUSES_S", (0.5,))
    http_port = free_port()
    async with (TinyServer("hub") as hub, names(tmp_path) as dns,
                authority(tmp_path / "staging", http_port, dns=dns.port) as staging,
                authority(tmp_path / "real", http_port, dns=dns.port) as real):
        made = World(tmp_path, hub, staging, real, dns, http_port, [])
        yield made
        for proxy in made.proxies:
            await proxy.stop()


@asynccontextmanager
async def supervised(proxy: TraefikProxy) -> AsyncIterator[None]:
    await proxy.start()
    task = asyncio.create_task(proxy.run())
    try:
        yield
    finally:
        assert not task.done(), task
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def shown(port: int, name: str = NAMES[0]) -> x509.Certificate:
    context = ssl._create_unverified_context()
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return x509.load_der_x509_certificate(found)


async def issuer(port: int) -> str:
    found = (await shown(port)).issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value)


async def shows_the_authoritys(proxy: TraefikProxy) -> None:
    async with asyncio.timeout(10):
        while not (await issuer(proxy.bind_port)).startswith("Pebble"):
            await asyncio.sleep(0.05)


async def until(what: Callable[[], bool], patience_s: float = 60) -> None:
    async with asyncio.timeout(patience_s):  # on a busy machine
        while not what():
            await asyncio.sleep(0.05)


@engine
@pytest.mark.anyio
async def test_a_trial_first_then_the_certificate_and_no_connection_ends(world: World) -> None:
    proxy = world.proxy()
    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with supervised(proxy), serve(echo, "127.0.0.1", 0) as server:
        assert (await issuer(proxy.bind_port)).startswith("Classroom box")  # until there is a better one
        route = make_route(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await proxy.set_routes({route.server_id: route})
        await proxy.wait_live(route.server_id)
        assert proxy._process.running is not None
        pid = proxy._process.running.pid
        context = ssl._create_unverified_context()
        async with connect(f"wss://127.0.0.1:{proxy.bind_port}/user/alice/ws", ssl=context, compression=None,
                           additional_headers={"Cookie": cookie_of(route)}) as websocket:
            await until(lambda: world.status.get("stage") == "valid")
            assert (world.staging.issued(), world.real.issued()) == (1, 1)
            await shows_the_authoritys(proxy)
            await websocket.send("still here")
            assert await websocket.recv() == "still here"
        # of the two the real one, whoever asks and however often Traefik reads its files again
        root = json.dumps(await intermediate(world.real))
        for number in range(10):
            await proxy.set_routes({route.server_id: route} if number % 2 else {})
            assert json.dumps(await issuer(proxy.bind_port)) == root
        assert proxy._process.running.pid == pid, "nothing was restarted"
        found = await shown(proxy.bind_port)
        assert set(found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
            x509.DNSName)) == set(NAMES)
        assert world.status["expires_at"] == found.not_valid_after_utc.isoformat()
        assert world.status["error"] == ""
        assert proxy.trouble() is None
        for file in (world.folder / "tls" / "obtained.key", world.folder / "traefik" / "acme" / "production.json"):
            assert file.stat().st_mode & 0o777 == 0o600
        await until(lambda: not helpers(world))
        assert "challenge" not in (world.folder / "traefik" / "routes" / "_fixed.yml").read_text().replace("acme-challenge", "")


async def intermediate(server: Authority) -> str:
    """Return the name of what an authority of this run signs with, out of the certificate it gave."""
    key = "production" if server.folder.name == "real" else "staging"
    storage = json.loads((server.folder.parent / "traefik" / "acme" / f"{key}.json").read_text())[key]
    found = x509.load_pem_x509_certificate(base64.b64decode(storage["Certificates"][0]["certificate"]))
    return str(found.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def helpers(world: World) -> list[int]:
    found = []
    for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
        with suppress(OSError):
            if str(world.folder / "traefik" / "acme").encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


@engine
@pytest.mark.anyio
async def test_the_next_hub_asks_for_nothing_and_a_near_end_is_renewed_without_a_trial(
    world: World, monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with supervised(world.proxy()):
        await until(lambda: world.status.get("stage") == "valid")
        await shows_the_authoritys(world.proxies[-1])
    first = await shown(world.proxies[-1].bind_port)
    account = json.loads((world.folder / "traefik" / "acme" / "production.json").read_text())["production"]["Account"]
    async with supervised(world.proxy()):
        await asyncio.sleep(1)
        assert world.status["stage"] == "valid"
        assert await shown(world.proxies[-1].bind_port) == first
    assert world.real.issued() == 1
    # more than a third of its life is left, as if that were too little
    monkeypatch.setattr(acme, "DUE_PART", 1.1)
    proxy = world.proxy()
    monkeypatch.setattr(acme, "_LOOK_S", 0.02)
    async with supervised(proxy):
        await until(lambda: world.real.issued() >= 2)
        monkeypatch.setattr(acme, "DUE_PART", 1 / 3)
        async with asyncio.timeout(10):
            while await shown(proxy.bind_port) == first:
                await asyncio.sleep(0.05)
    kept = json.loads((world.folder / "traefik" / "acme" / "production.json").read_text())["production"]["Account"]
    assert kept["Registration"]["uri"] == account["Registration"]["uri"], "one account for ever: authorities count new ones"


@engine
@pytest.mark.anyio
async def test_a_trial_that_fails_says_what_to_do_and_the_real_authority_is_not_asked(
    world: World, caplog: pytest.LogCaptureFixture,
) -> None:
    proxy = world.proxy()
    proxy.http_port = free_port()     # where the authority does not look
    async with supervised(proxy):
        await until(lambda: bool(world.status.get("error")))
        status = world.status
        assert status["stage"] == "staging"
        assert "The authority cannot reach" in status["error"]
        assert "port 80" in status["error"]
        assert "connection refused" in status["evidence"]
        assert datetime.fromisoformat(status["retry_at"]) > datetime.now(UTC) - timedelta(minutes=1)
        trouble = proxy.trouble()
        assert trouble is not None
        assert trouble.code == "certificate"
        assert "port 80" in trouble.sentence
        assert "The authority said" in caplog.text
        await until(lambda: world.staging.log.count("There are now") >= 2 or caplog.text.count("The authority said") >= 2)
    assert world.real.issued() == 0
    assert (await issuer(proxy.bind_port)).startswith("Classroom box"), "and the box is reached meanwhile"


@engine
@pytest.mark.anyio
async def test_names_proved_by_dns(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """lego's provider httpreq tells a small server what to put into the DNS; ours puts it into the test's."""
    async with dns_provider(world.names) as url:
        monkeypatch.setenv("HTTPREQ_ENDPOINT", url)
        monkeypatch.setenv("HTTPREQ_POLLING_INTERVAL", "1")
        monkeypatch.setenv("LEGO_DISABLE_CNAME_SUPPORT", "true")
        # whether the record is seen is asked of the real DNS, which has no box.school
        monkeypatch.setattr(acme, "DNS_OPTIONS", {"propagation": {"disableChecks": True, "delayBeforeChecks": "0s"}})
        proxy = world.proxy(acme_challenge="dns", acme_dns_provider="httpreq")
        proxy.tls_names = ("*.box.school", "box.school")
        proxy.http_port = free_port()
        async with supervised(proxy):
            await until(lambda: world.status.get("stage") == "valid" or bool(world.status.get("error")))
            assert world.status["error"] == ""
            await shows_the_authoritys(proxy)


@asynccontextmanager
async def dns_provider(known: Names) -> AsyncIterator[str]:
    def answer(request: Request) -> Reply | None:
        said = json.loads(request.body)
        path = "/set-txt" if request.target.endswith("/present") else "/clear-txt"
        httpx.post(f"{known.management}{path}", json={"host": said["fqdn"], "value": said["value"]}).raise_for_status()
        return Reply(200)

    async with TinyServer("dns", answer) as server:
        yield server.url


@engine
@pytest.mark.anyio
async def test_beside_a_kept_container_the_helper_is_one_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the other's environment, which holds the DNS provider's variables, and leaves nothing behind."""
    built = await asyncio.create_subprocess_exec(sys.executable, str(REPOSITORY / "images" / "build"), "traefik")
    assert await built.wait() == 0
    name, proxy = f"appliance-test-{secrets.token_hex(4)}", world.proxy()
    proxy.should_start, proxy.container_name, proxy.control = False, name, DockerContainer
    await proxy.prepare()
    folder, client = world.folder / "traefik", docker.DockerClient.from_env(timeout=60)
    seen: list[Any] = []
    look = Acme._failure

    def look_at_helper(this: Acme, stage: str) -> str:
        with suppress(docker.errors.NotFound):
            seen.append(client.containers.get(f"{name}-acme").attrs)
        return look(this, stage)

    monkeypatch.setattr(Acme, "_failure", look_at_helper)
    container = client.containers.create(
        "appliance/traefik:latest", [f"--configfile={folder}/static.yml"], name=name, network_mode="host",
        user="65532:65532", read_only=True, cap_drop=["ALL"], cap_add=["NET_BIND_SERVICE"], stop_signal="SIGTERM",
        restart_policy={"Name": "always"}, environment={"CF_DNS_API_TOKEN": "for-lego"}, labels={"com.docker.compose.x": "y"},
        volumes=[f"{folder}:{folder}:ro", f"{folder}/logs:{folder}/logs", f"{folder}/acme:{folder}/acme"])
    try:
        container.start()
        async with supervised(proxy):
            await until(lambda: world.status.get("stage") == "valid" or bool(world.status.get("error")))
            assert world.status["error"] == "", world.status
            await shows_the_authoritys(proxy)
        container.reload()
        assert container.attrs["RestartCount"] == 0
        assert "CF_DNS_API_TOKEN=for-lego" in seen[0]["Config"]["Env"]
        assert "com.docker.compose.x" not in seen[0]["Config"]["Labels"]
        assert seen[0]["HostConfig"]["ReadonlyRootfs"]
        assert seen[0]["HostConfig"]["RestartPolicy"]["Name"] == "no"
        with pytest.raises(docker.errors.NotFound):
            client.containers.get(f"{name}-acme")
        storage = folder / "acme" / "production.json"
        assert (storage.stat().st_mode & 0o777, storage.stat().st_uid) == (0o600, 65532)
    finally:
        await proxy.close()
        for left in client.containers.list(all=True, filters={"name": name}):
            left.remove(force=True)
        client.close()


@engine
@pytest.mark.anyio
async def test_a_dns_provider_nobody_knows_is_named(world: World) -> None:
    proxy = world.proxy(acme_challenge="dns", acme_dns_provider="nonsense")
    async with supervised(proxy):
        await until(lambda: bool(world.status.get("error")))
    assert "There is no DNS provider called nonsense." in world.status["error"]


SETTINGS = AcmeSettings(NAMES, "", "http", "cloudflare", acme.PRODUCTION, acme.STAGING, "")


@pytest.mark.unit
@pytest.mark.parametrize(("said", "sentence"), [
    ("urn:ietf:params:acme:error:rateLimited :: too many certificates for www.box.school", "had too many requests for www.box"),
    ("urn:ietf:params:acme:error:dns :: DNS problem: NXDOMAIN looking up A for www.box.school", "not known to the DNS"),
    ("urn:ietf:params:acme:error:connection :: 192.0.2.7: Fetching http://box.school/: Timeout", "cannot reach box.school"),
    ("urn:ietf:params:acme:error:unauthorized :: Invalid response from http://box.school: 404", "Something else answers"),
    ("cloudflare: some credentials information are missing: CLOUDFLARE_EMAIL", "cloudflare wants variables"),
    ("urn:ietf:params:acme:error:caa :: CAA record for box.school prevents issuance", "forbids this authority"),
    ("Get \"https://acme\": tls: x509: certificate signed by unknown authority", "not trusted here"),
    ("dial tcp: lookup acme-v02.api.letsencrypt.org: no such host: unable to communicate", "cannot be reached"),
    ("something new", "No certificate could be had for box.school, www.box.school"),
])
def test_the_authoritys_words_become_a_sentence(said: str, sentence: str) -> None:
    error = explain(said, SETTINGS)
    assert sentence in error.sentence
    assert error.evidence == said
    assert error.action
