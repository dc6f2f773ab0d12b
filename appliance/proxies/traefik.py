"""TraefikProxy: the Hub writes route files, one Traefik reads them and outlives the Hub.

The Hub is not on the data path: Traefik decides each request by the files alone. Here is what is wanted, and the loop
that keeps Traefik's process and its folder in that state.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import re
import secrets
import signal
import ssl
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from traitlets import Bool, Enum, Integer, Unicode

from appliance.domain.hosts import is_address
from appliance.domain.route import Route, ServiceRoute
from appliance.errors import ApplianceError, BadName, DiskFull, Misconfigured, ProxyDown
from appliance.ports import Proxy
from appliance.proxies import acme
from appliance.proxies.acme import Acme, AcmeSettings
from appliance.proxies.acme_helper import in_container, in_process
from appliance.proxies.certificates import Pair
from appliance.proxies.machine import (
    free_port,
    run_program,
    who_listens,
    why_not_bind,
    write_private,
)
from appliance.proxies.route_folder import RouteFolder
from appliance.proxies.served import ServedCertificate
from appliance.proxies.traefik_api import api_access, ask_api, read_counts
from appliance.proxies.traefik_container import TraefikContainer
from appliance.proxies.traefik_files import (
    SERVICE_FILE,
    Edge,
    ServerFile,
    dump,
    fixed_config,
    marker_config,
    server_file,
    service_file,
    service_file_name,
    static_config,
)
from appliance.proxies.traefik_process import TraefikProcess, find_traefik

FIXED_FILE = "_fixed.yml"
MARKER_FILE = "-marker.yml"   # read first, in order of name: once it is new, what was removed before it is gone
CHECK_S = 0.2                 # between two looks at the process and the folder
FOLLOW_S = 0.3                # a write that is not live by then is followed by SIGHUP
UNREAD_S = 1.0                # one that has read what is there answers by then
MEET_S = 20.0                 # a Hub that starts waits so long for a container that is about to answer
DEAF_S = 15.0                 # an API that is silent for so long belongs to a Traefik that hangs
ACCESS_LOG_BYTES = 20_000_000
# Two weeks protect a class that meets weekly, and lock it out no longer should its certificate lapse.
HSTS_SECONDS = 14 * 24 * 3600


class TraefikProxy(Proxy):
    """Starts, adopts and supervises one Traefik; see `traefik/` for what it reads.

    With should_start off Traefik is a container that Docker Compose keeps: the Hub writes what it reads, and signals or
    restarts it through the engine. While it is away the Hub waits.
    """

    should_start = Bool(
        True, help="Start Traefik as a process of this machine; off: it is a container that somebody else keeps, as "
                   "compose.yaml does.").tag(config=True)
    container_name = Unicode(
        "appliance-traefik", help="Name of that container; with should_start off.").tag(config=True)
    user_id = Integer(
        65532, min=1, help="User and group that Traefik runs as in that container: the group may read the routes.",
    ).tag(config=True)

    holding_url = Unicode(
        "", help="Who answers for the Hub while it is away, like “http://127.0.0.1:8083”, as images/holding does. Empty: "
                 "nobody; browsers are shown “Bad Gateway”.").tag(config=True)

    traefik_executable = Unicode(
        "", help="Traefik's program. Empty: the one installed with the Hub, else the one in PATH.").tag(config=True)

    http_port = Integer(
        80, min=1, max=65535, help="Port that leads from HTTP to HTTPS, and where Let's Encrypt asks.").tag(config=True)
    hsts_seconds = Integer(
        None, min=0, allow_none=True,
        help="How long a browser that came by HTTPS takes nothing else (HSTS). Unset: two weeks with a certificate from files "
             "or Let's Encrypt, else 0, which says nothing.").tag(config=True)
    acme_email = Unicode("", help="Where the certificate authority may write to; may be empty.").tag(config=True)
    acme_challenge = Enum(
        ("http", "dns"), "http", help="How the box's names are proved: by answering on port 80, or by a DNS record.",
    ).tag(config=True)
    acme_dns_provider = Unicode(
        "", help="Who serves the names' DNS, as https://go-acme.github.io/lego/dns/ calls it; its variables are in "
                 "Traefik's environment.").tag(config=True)
    acme_server = Unicode(
        acme.PRODUCTION, help="Directory of the certificate authority, if it is another than Let's Encrypt.").tag(config=True)
    acme_staging_server = Unicode(
        acme.STAGING, help="Directory for the trial that comes first. Empty, or unset with another acme_server: no trial.",
    ).tag(config=True)
    acme_ca_file = Unicode(
        "", help="Certificates to trust when the authority is asked, beside the system's: of a network's proxy, or your "
                 "own authority.").tag(config=True)

    _edge: Edge | None = None
    _served: ServedCertificate | None = None
    _acme: Acme | None = None
    _files: dict[str, ServerFile]
    _services: dict[str, str]     # files of services, name → text
    _earlier: dict[str, str]      # of servers, from an earlier Hub: they stay until it is said what is wanted
    _generations: dict[str, int]
    _marker: str
    _process: TraefikProcess
    _folder: RouteFolder
    _container: TraefikContainer | None = None

    async def prepare(self) -> None:
        edge = self._ensure_edge()
        with _disk_errors():
            if self._container is not None:
                self._container.ensure_folders()
                self._container.write_static(dump(static_config(edge)))
            self._folder.repair(quiet=True)

    def kept_by(self) -> str:
        return "" if self.should_start else (
            f"Traefik is the container {self.container_name}, which Docker Compose keeps. To end it: "
            "docker compose stop traefik")

    async def start(self) -> None:
        edge = self._ensure_edge()
        with _disk_errors():
            if self._served is not None:
                edge = self._change(**self._shown(self._served.ensure()))
            self._folder.repair(quiet=True)
        if self._container is not None:
            await self._meet(self._container)
        elif not await self._adopt(edge):
            await self._spawn()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._supervise())
            if self._acme is not None:
                tasks.create_task(self._acme.run())

    async def _supervise(self) -> None:
        heard_at, asked_at, delay_s, spawned_at = monotonic(), 0.0, 0.0, 0.0
        while True:
            await asyncio.sleep(CHECK_S)
            now = monotonic()
            try:
                if self._folder.repair():
                    await self._signal(signal.SIGHUP)
            except OSError as error:
                self.log.error("The folder of routes cannot be kept right: %s", error)
            if self._container is None and not self._process.is_alive():
                if now < spawned_at + delay_s:
                    continue
                self.log.error("Traefik has ended and is started again.")
                # at once the first time, then ever slower if it does not stay
                delay_s = min(10.0, max(0.5, 2 * delay_s)) if now < spawned_at + 30 else 0.0
                spawned_at = heard_at = now
                try:
                    await self._spawn()
                except (ApplianceError, OSError) as error:
                    self.log.error("Traefik could not be started: %s", error)
                continue
            if now < asked_at + 2:
                continue
            asked_at = now
            if await self._is_well():
                heard_at = monotonic()
            elif self._container is not None:
                await self._look_why(self._container, is_deaf=monotonic() > heard_at + DEAF_S)
            elif monotonic() > heard_at + DEAF_S:
                self.log.error("Traefik has not answered for %d seconds and is ended.", DEAF_S)
                await self._process.stop(grace_s=0.5)
            await self._rotate_access_log()
            if self._served is not None and (pair := self._served.look()) is not None:
                self._change(**self._shown(pair))

    async def set_routes(self, routes: Mapping[str, Route]) -> None:
        edge = self._ensure_edge()
        wanted: dict[str, ServerFile] = {}
        for route in routes.values():
            try:
                wanted[route.server_id] = self._file(edge, route)
            except BadName as error:  # never got so far before; it must not shut out everybody else
                self.log.error("Server %r has no route: %s", route.server_id, error)
        self._files, self._earlier = wanted, {}
        await self._write_all(edge)

    async def set_services(self, routes: Collection[ServiceRoute], keep: Collection[str] = ()) -> None:
        edge = self._ensure_edge()
        self._services = {file: self._services[file] for name in keep if (file := service_file_name(name)) in self._services}
        for route in routes:
            try:
                self._services |= [service_file(edge, route)]
            except BadName as error:  # as with a server's
                self.log.error("Service %r has no route: %s", route.name, error)
        await self._write_all(edge)

    async def _write_all(self, edge: Edge) -> None:
        """Make the folder hold what is wanted now, and nothing else."""
        files = {file.name: file.text for file in self._files.values()}
        with _disk_errors():
            if self._folder.put_all(self._fixed(edge) | self._earlier | self._services | files):
                self._mark()
        await self._follow()

    async def add(self, route: Route) -> None:
        file = self._files[route.server_id] = self._file(self._ensure_edge(), route)
        with _disk_errors():
            self._folder.put(file.name, file.text)
        await self._follow()

    async def remove(self, server_id: str) -> None:
        self._ensure_edge()
        self._files.pop(server_id, None)
        self._earlier.pop(f"{server_id}.yml", None)
        with _disk_errors():
            if self._folder.drop(f"{server_id}.yml"):
                self._mark()
        await self._follow()

    async def wait_live(self, server_id: str, timeout_s: float = 10.0) -> None:
        started_at, follow_s = monotonic(), FOLLOW_S
        while True:
            live, said = await self._is_live(server_id)
            elapsed_s = monotonic() - started_at
            if live:
                return
            if elapsed_s > timeout_s:
                raise ProxyDown(evidence=said)
            if elapsed_s > follow_s:
                follow_s *= 3
                await self._signal(signal.SIGHUP)
            await asyncio.sleep(min(0.025, 0.005 + elapsed_s / 4))

    async def close_connections(self, url: str) -> None:
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        which = ["dst", str(host), "dport", "=", f":{parts.port or 80}"]
        await run_program("ss", "-K", *which)
        status, still_open = await run_program("ss", "-Htn", "state", "established", *which)
        if status != 0 or still_open.strip():
            self.log.error("Open connections to a server could not be closed: %s",
                           still_open.strip() or "the program ss (iproute2) is missing or not permitted")

    async def close(self) -> None:
        if self._container is not None:
            await self._container.close()

    async def stop(self) -> None:
        if not self.should_start:
            return
        process = self._process if self._edge is not None else TraefikProcess(self._state_folder())
        if process.running is None:
            process.adopt()
        await process.stop()

    def _state_folder(self) -> Path:
        return Path(self.state_dir).absolute() / "traefik"

    # -- what is wanted ------------------------------------------------------------------------------------------------
    def _ensure_edge(self) -> Edge:
        """Return what the files depend on; at the first call also take over what an earlier Hub left in the folder."""
        if self._edge is not None:
            return self._edge
        folder = self._state_folder()
        with _disk_errors():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.should_start:
                folder.chmod(0o700)
            port, password = api_access(folder / "api.json")
        edge = self._edge = Edge(
            folder=folder, base_url=self.base_url, hub_url=self.hub_url, hub_secret=self.hub_secret,
            bind_ip=self.bind_ip, bind_port=self.bind_port, api_port=port, api_password=password,
            separate=not self.should_start, holding_url=self.holding_url, **self._tls(folder))
        self._files, self._generations, self._marker = {}, {}, "marker"
        self._process = TraefikProcess(folder)
        if edge.tls and self.should_start and (running := self._process.adopt()) is not None:
            edge = self._edge = replace(edge, redirect=running.redirect)  # what leads to HTTPS is never away
        if not self.should_start:
            if self.control is None:
                raise Misconfigured("c.TraefikProxy.should_start is off, but nobody can reach the container engine.")
            self._container = TraefikContainer(
                folder, self.control(self.container_name), self.user_id, self.log, lambda path: self._ask(path, 1.0))
            with _disk_errors():
                self._container.ensure_folders()
        self._folder = RouteFolder(edge.routes, self.log, None if self.should_start else self.user_id)
        # Routes of an earlier Hub stay until set_routes and set_services say otherwise: somebody may be working.
        earlier = _earlier_routes(edge.routes)
        self._services = {name: text for name, text in earlier.items() if name.startswith(SERVICE_FILE)}
        self._earlier = {name: text for name, text in earlier.items() if name not in self._services}
        with _disk_errors():
            self._folder.put_all(earlier | self._fixed(edge))
        return edge

    # -- TLS -----------------------------------------------------------------------------------------------------------
    def refusal(self, tls: str, names: tuple[str, ...]) -> tuple[str, str] | None:
        if tls != "letsencrypt":
            said = [name for name in self.trait_names() if name.startswith("acme_") and name in self._trait_values
                    and getattr(self, name) != self.traits()[name].default_value]
            return (said[0], f"has no effect, because c.JupyterHub.tls is {tls!r}") if said else None
        if self.acme_challenge == "dns" and not self.acme_dns_provider:
            return "acme_challenge", "is 'dns', which needs c.TraefikProxy.acme_dns_provider"
        if self.acme_challenge == "http" and self.acme_dns_provider:
            return "acme_dns_provider", "has no effect, because c.TraefikProxy.acme_challenge is 'http'"
        wild = [name for name in names if name.startswith("*.")]
        if wild and self.acme_challenge == "http":
            return "acme_challenge", f"must be 'dns' for a name like {wild[0]}"
        unfit = [name for name in names if is_address(name) or "." not in name]
        if unfit:
            return "acme_server", f"certifies public DNS names only, not {unfit[0]}; see c.JupyterHub.tls_names"
        if self.acme_email and not re.fullmatch(r"[^@\s]+@[^@\s]+", self.acme_email):
            return "acme_email", f"must be an address for mail, not {self.acme_email!r}"
        for option in ("acme_server", "acme_staging_server"):
            value = getattr(self, option)
            if (value or option == "acme_server") and not re.fullmatch(r"https://[^/\s]+\S*", value):
                return option, f"must be like {acme.PRODUCTION}, not {value!r}"
        if self.acme_ca_file:
            try:
                ssl.create_default_context(cafile=self.acme_ca_file)
            except OSError as error:
                return "acme_ca_file", f"cannot be used: {self.acme_ca_file}: {error.strerror or error}"
        return None

    def trouble(self) -> ApplianceError | None:
        return self._acme.trouble() if self._acme is not None else None

    @property
    def _mode(self) -> str:
        return self.tls or ("files" if self.ssl_cert or self.ssl_key else "off")

    def _tls(self, folder: Path) -> dict[str, Any]:
        """Return what the edge is told of TLS. Raises Misconfigured."""
        if self._mode == "off":
            return {}
        if self.bind_port == self.http_port and self._mode == "letsencrypt" and self.acme_challenge == "http":
            raise Misconfigured("c.TraefikProxy.http_port, where Let's Encrypt asks, must differ from c.JupyterHub.port.")
        private = Path(self.state_dir).absolute() / "tls"
        obtained = Pair(private / "obtained.crt", private / "obtained.key") if self._mode == "letsencrypt" else None
        if self._mode == "files" and not (self.ssl_cert and self.ssl_key):
            raise Misconfigured("HTTPS needs both --ssl-cert and --ssl-key.")
        given = Pair(Path(self.ssl_cert).absolute(), Path(self.ssl_key).absolute()) if self._mode == "files" else None
        reader = None if self.should_start else self.user_id
        self._served = ServedCertificate(
            made=private, copies=folder / "tls", given=given, obtained=obtained, names=self.tls_names,
            public_host=self.public_host, reader=reader, log=self.log)
        if obtained is not None:
            self._acme = self._make_acme(folder, obtained, reader)
        with _disk_errors():
            shown = self._shown(self._served.ensure())
        return {"tls": True, "plain_port": self.http_port, "plain_help": self._mode == "selfsigned",
                "redirect": not self.should_start and self.bind_port != self.http_port, **shown}

    def _shown(self, pair: Pair) -> dict[str, Any]:
        """Return what the edge is told of a certificate. HSTS only with one that browsers trust, unless it is asked for."""
        trusted = self._mode == "files" or (self._acme is not None and not self._acme.is_missing())
        hsts = self.hsts_seconds if self.hsts_seconds is not None else HSTS_SECONDS
        return {"certificate": str(pair.certificate), "key": str(pair.key),
                "hsts_seconds": hsts if trusted or (self._mode == "selfsigned" and self.hsts_seconds) else 0}

    def _make_acme(self, folder: Path, obtained: Pair, reader: int | None) -> Acme:
        own = self.acme_server != acme.PRODUCTION
        staging = "" if own and self.acme_staging_server == acme.STAGING else self.acme_staging_server
        settings = AcmeSettings(self.tls_names, self.acme_email, self.acme_challenge, self.acme_dns_provider,
                                self.acme_server, staging, self.acme_ca_file)

        async def start(static: Path) -> acme.Helper:
            if self._container is None or self.control is None:
                return await in_process(find_traefik(self.traefik_executable), static)
            return await in_container(self.control(self.container_name), static)

        return Acme(settings, folder=folder / "acme", status_file=folder / "acme-status.json", obtained=obtained,
                    reader=reader, start=start, offer=self._offer_challenge, log=self.log)

    async def _offer_challenge(self, url: str) -> None:
        """Let an authority that asks on port 80 reach who answers it; "": nobody does any more."""
        if self._ensure_edge().challenge_url == url:
            return
        self._change(challenge_url=url)
        deadline = monotonic() + 5
        while url and monotonic() < deadline:
            if (await self._ask("/api/http/routers/challenge@file"))[0] == 200:
                return
            await asyncio.sleep(0.05)

    def _change(self, **changes: Any) -> Edge:
        """Tell Traefik of another certificate, redirect or challenge: a change of the fixed file, nobody is interrupted."""
        edge = self._edge = replace(self._ensure_edge(), **changes)
        try:
            self._folder.put(FIXED_FILE, dump(fixed_config(edge)))
        except OSError as error:
            self.log.error("Traefik cannot be told of a change: %s", error)
        return edge

    def _fixed(self, edge: Edge) -> dict[str, str]:
        return {FIXED_FILE: dump(fixed_config(edge)), MARKER_FILE: dump(marker_config(self._marker))}

    def _file(self, edge: Edge, route: Route) -> ServerFile:
        """Return the file of a route; a version that was away in between is a new one: Traefik may still show the old.
        """
        known = self._files.get(route.server_id)
        if known is not None and known.route == route:
            return known
        generation = self._generations.get(route.server_id, -1) + 1
        file = server_file(edge, route, generation)
        self._generations[route.server_id] = generation
        return file

    def _mark(self) -> None:
        """Write a marker after something was removed."""
        self._marker = f"marker-{secrets.token_hex(6)}"
        self._folder.put(MARKER_FILE, dump(marker_config(self._marker)))

    async def _follow(self) -> None:
        """Tell Traefik of a change if the folder is not the one that it watches."""
        running = self._process.running if self._container is None else self._container.running
        if running is not None and running.watched != self._folder.identity:
            await self._signal(signal.SIGHUP)

    async def _signal(self, number: signal.Signals) -> None:
        if self._container is None:
            self._process.signal(number)
        else:
            await self._container.signal(number)

    async def _is_well(self) -> bool:
        """Say whether Traefik answers, and runs with the static configuration that is wanted."""
        if self._container is None:
            return (await self._ask("/api/version", timeout_s=1.0))[0] == 200
        try:
            return await self._container.settle(dump(static_config(self._ensure_edge())), self._folder.identity)
        except OSError as error:
            self.log.error("What Traefik reads cannot be written: %s", error)
            return False

    # -- the container -------------------------------------------------------------------------------------------------
    async def _meet(self, container: TraefikContainer) -> None:
        """Adopt the container that runs, or wait a moment for one that is about to; else run() waits for it."""
        began, helped = monotonic(), False
        deadline = began + MEET_S
        while not await self._is_well():
            state = await container.state()
            # of the very first start: where port 80 is free it goes on with nothing to read, and never looks again
            unread = state == "running" and container.is_new and monotonic() > began + UNREAD_S
            if (state == "restarting" or unread) and not helped:
                helped = True  # until now it had nothing to read; the engine would try again ever later
                await container.restart()
                continue
            if monotonic() > deadline or state != "running":
                await self._look_why(container, is_deaf=False)
                return
            await asyncio.sleep(0.1)

    async def _look_why(self, container: TraefikContainer, *, is_deaf: bool) -> None:
        """Say what keeps a silent Traefik from answering, and undo what can be undone."""
        edge = self._ensure_edge()
        if await container.state() == "running":
            if is_deaf:
                self.log.error("Traefik has not answered for %d seconds and is restarted.", DEAF_S)
                await container.restart()
            return
        taken = await who_listens(edge.api_port)
        if taken and await container.state() == "restarting":
            # it cannot be Traefik's own: nothing of it ran before or after
            edge = self._edge = Edge(**{**vars(edge), "api_port": free_port()})
            self.log.warning("%s Traefik's API moves to port %d.", taken, edge.api_port)
            with _disk_errors():
                write_private(edge.folder / "api.json", json.dumps({"port": edge.api_port, "password": edge.api_password}))
                container.write_static(dump(static_config(edge)))
            await container.restart()
            return
        await container.say_why_silent(await who_listens(edge.bind_port))

    # -- the process ---------------------------------------------------------------------------------------------------
    async def _adopt(self, edge: Edge) -> bool:
        running = self._process.adopt()
        if running is None:
            return False
        edge = self._change(redirect=running.redirect)
        if running.config_hash != _hash(edge):
            self.log.warning("The configuration has changed: Traefik is restarted, open connections are interrupted.")
        elif await self._answers(3.0):
            self.log.info("Adopted the Traefik that runs as process %d.", running.pid)
            return True
        else:
            self.log.warning("The Traefik that runs as process %d does not answer and is replaced.", running.pid)
        await self._process.stop()
        return False

    async def _spawn(self) -> None:
        edge = self._ensure_edge()
        executable = find_traefik(self.traefik_executable)
        reason = await why_not_bind(edge.bind_ip, edge.bind_port)
        if reason:
            raise Misconfigured(reason, action="Choose another port with --port, or end what uses this one.")
        port = edge.api_port if not await why_not_bind("127.0.0.1", edge.api_port) else free_port()
        redirect = False
        if edge.tls and edge.bind_port != edge.plain_port:
            reason = await why_not_bind(edge.bind_ip, edge.plain_port)
            redirect = not reason
            if reason and self._mode == "letsencrypt" and self.acme_challenge == "http":
                raise Misconfigured(
                    f"{reason} Let's Encrypt proves the box's names there.",
                    action="Free that port, or set c.TraefikProxy.acme_challenge to 'dns'.")
            if reason:
                self.log.info("No redirect from http to https: %s", reason)
        edge = self._change(api_port=port, redirect=redirect)
        with _disk_errors():
            write_private(edge.folder / "api.json", json.dumps({"port": port, "password": edge.api_password}))
            write_private(edge.folder / "static.yml", dump(static_config(edge)))
            self._folder.repair()
            self._process.spawn(executable, _hash(edge), redirect, self._folder.identity)
        if not await self._answers(20.0):
            evidence = self._process.last_output()
            await self._process.stop()
            raise ProxyDown("The box's front door could not be started.", evidence=evidence)

    async def _answers(self, timeout_s: float) -> bool:
        """Say whether Traefik serves the fixed file within the time, or has ended before."""
        deadline = monotonic() + timeout_s
        while self._process.is_alive() and monotonic() < deadline:
            status, _ = await self._ask("/api/http/routers/hub@file")
            if status == 200:
                return True
            await asyncio.sleep(0.02)
        return False

    async def _is_live(self, server_id: str) -> tuple[bool, str]:
        file = self._files.get(server_id)
        if file is None:
            status, body = await self._ask(f"/api/http/middlewares/{self._marker}@file")
            return status == 200, body
        status, body = await self._ask(f"/api/http/routers/{file.router}@file")
        return status == 200 and json.loads(body).get("status") != "disabled", body

    async def _ask(self, path: str, timeout_s: float = 2.0) -> tuple[int, str]:
        edge = self._ensure_edge()
        return await ask_api(edge.api_port, edge.api_password, path, timeout_s)

    async def request_counts(self) -> tuple[str, Mapping[str, int]] | None:
        status, said = await self._ask("/metrics", 5.0)
        return await asyncio.to_thread(read_counts, said) if status == 200 else None

    async def _rotate_access_log(self) -> None:
        path = self._ensure_edge().logs / "access.log"
        with suppress(OSError):
            if path.stat().st_size > ACCESS_LOG_BYTES:
                path.replace(path.with_suffix(".log.1"))
                await self._signal(signal.SIGUSR1)  # opens its log files anew


def _hash(edge: Edge) -> str:
    return hashlib.sha256(dump(static_config(edge)).encode()).hexdigest()


def _earlier_routes(folder: Path) -> dict[str, str]:
    """Return the route files in the folder that are whole; the rest would stop Traefik's updates."""
    files = {}
    with suppress(OSError):
        for path in folder.glob("*.yml"):
            with suppress(OSError, ValueError):
                text = path.read_text()
                if not path.is_symlink() and "http" in json.loads(text):
                    files[path.name] = text
    return files


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(evidence=str(error)) from error
        raise ProxyDown("The box's front door could not be told about a change.", evidence=str(error)) from error
