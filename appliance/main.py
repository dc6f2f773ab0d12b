"""Composition root: builds drivers, store, Hub and web from the settings, and runs them."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import anyio
import uvicorn
from anyio.abc import TaskGroup

from appliance import __version__, config, log
from appliance.config import Settings
from appliance.cookiesecret import load_cookie_secret
from appliance.domain.capability import derive_key
from appliance.domain.rolenames import unknown_names
from appliance.domain.urls import Urls
from appliance.errors import ApplianceError, EngineDown, Misconfigured
from appliance.hub.accounts import Accounts, StoredPasswords
from appliance.hub.activity import Activity
from appliance.hub.census import Census
from appliance.hub.changes import Changes
from appliance.hub.control import Control
from appliance.hub.directory import Directory
from appliance.hub.hub import Hub
from appliance.hub.lifecycle import Lifecycle
from appliance.hub.lock import HubLock
from appliance.hub.metrics import Metrics, MetricsAccess
from appliance.hub.oauth import OAuth
from appliance.hub.offers import Offers, Standing
from appliance.hub.permissions import Permissions
from appliance.hub.probe import Probe
from appliance.hub.reboot import Marker
from appliance.hub.rebuild import put_users_back
from appliance.hub.reconciler import Reconciler
from appliance.hub.routes import Routes
from appliance.hub.servers import Servers
from appliance.hub.services import Services
from appliance.hub.servicespecs import ServiceWorld
from appliance.hub.sessions import Sessions
from appliance.hub.shares import Shares
from appliance.hub.specs import Specs
from appliance.hub.throttle import Throttle
from appliance.hub.tokens import Tokens
from appliance.hub.watching import Watching
from appliance.jwt import SessionTokens
from appliance.ports import Authenticator, Homes, KeptContainer, Proxy, Spawner
from appliance.spawners.docker_control import DockerContainer
from appliance.spawners.service_processes import ServiceProcesses
from appliance.store import groups, users
from appliance.store.database import Database
from appliance.store.eventlog import EventLog
from appliance.store.servers import want_all_stopped
from appliance.web.app import create_api_app, create_app

logger = logging.getLogger(__name__)


class Box:
    """Everything that one Hub consists of. on_step: see Lifecycle."""

    def __init__(self, settings: Settings, *, on_step: Callable[[str], None] = lambda step: None) -> None:
        self.settings = settings
        secret = load_cookie_secret(settings.cookie_secret_file)
        self.db = open_database(settings)
        urls = Urls(settings.base_url)
        proxy_secret = derive_key(secret, "proxy").hex()
        self.authenticator = make_authenticator(settings, self.db)
        self.spawner = make_spawner(settings)
        self.homes: Homes = settings.make(settings.homes_class, root=settings.homes_dir)
        self.proxy = make_proxy(settings, proxy_secret)

        # a running server knows its own token, so that one must outlive a change of the cookie secret
        token_key = load_cookie_secret(settings.state_dir / "server_tokens_secret", variable="")
        capability_key = derive_key(secret, "capability")
        changes = Changes(self.db)
        routes = Routes(urls, self.spawner, capability_key, token_key, settings.public_origin)
        try:
            offers = Offers(self.spawner, self._standing, settings.named_servers, settings.group_limits)
        except Misconfigured as error:
            raise Misconfigured(f"{settings.group_limits_at}{error.sentence}") from error
        specs = Specs(urls, self.spawner, settings.hub_port, token_key, settings.public_origin, offers)
        self._probe = Probe()
        lifecycle = Lifecycle(self.db, self.spawner, self.proxy, self.homes, self.authenticator, routes, specs, changes,
                              self._probe, on_step, metrics := Metrics(__version__))
        self.homes.in_use = self._home_in_use
        self._lifecycle = lifecycle
        self.reconciler = Reconciler(
            lifecycle, limit=settings.concurrent_spawn_limit or sys.maxsize, active_limit=settings.active_server_limit,
            marker=Marker(settings.run_dir, settings.state_dir / "run"))
        servers = Servers(self.db, self.spawner, self.proxy, self.reconciler, routes, specs, changes, capability_key)
        sessions = Sessions(
            self.db, SessionTokens(derive_key(secret, "session"), settings.cookie_max_age),
            cookie_max_age_s=int(settings.cookie_max_age.total_seconds()), after_end=servers.end_rights)
        accounts = Accounts(self.db, self.authenticator, sessions, Throttle(), derive_key(secret, "device"))
        permissions = Permissions(self.db, settings.roles, token_key)
        self.services = permissions.services = Services(ServiceWorld(
            self.db, urls, self.proxy, self.spawner, self.homes, permissions, ServiceProcesses(), token_key,
            near_url(settings), settings.hub_port, settings.public_origin, lambda: self.reconciler.prepared), settings.services)
        metrics.services = self.services.count
        after_sign_in = settings.default_url or ("spawn" if settings.redirect_to_server else "home")
        self.hub = Hub(urls, __version__, settings.public_origin, after_sign_in, proxy_secret, secret, accounts, sessions,
                       servers, changes, self.reconciler, metrics,
                       Census(self.db, self.reconciler, self.spawner, self.homes),
                       MetricsAccess(settings.authenticate_prometheus, settings.metrics_token_file),
                       permissions, Tokens(self.db, permissions, settings.token_expires_in_max_seconds),
                       Directory(self.db, self.homes, self.reconciler.wake, settings.api_page_default_limit,
                                 settings.api_page_max_limit, offers.check_properties), activity := Activity(self.db),
                       Control(self.db, self.proxy, self.reconciler.set_all_routes, self.reconciler.wake,
                               lambda: signal.raise_signal(signal.SIGTERM), versions(settings)),
                       OAuth(self.db, specs, self.services.all, token_key, permissions.by_token,
                             expires_in_s=settings.oauth_token_expires_in, known=settings.roles.scopes),
                       Shares(self.db, servers.end_rights, settings.roles.scopes), self.services,
                       settings.authority_file, self.proxy.trouble)
        self.watching = Watching(self.db, self.proxy, self.spawner, urls, self._probe, activity, routes.token,
                                 settings.state_dir / "requests_seen.json")

    async def _home_in_use(self, uid: int) -> bool:
        return await self._lifecycle.home_in_use(uid) or await self.services.home_in_use(uid)

    async def _standing(self, user_id: int) -> Standing:
        return await self.db.read(lambda t: groups.standing(t, user_id))

    def warnings(self) -> list[str]:
        """Return what is wrong with two drivers together, a sentence or two each."""
        if getattr(self.homes, "quota", None) and getattr(self.spawner, "seccomp_profile", None) == "":
            return ["Students who know how can store more than their quota, in Btrfs subvolumes of their own; see "
                    "c.DockerSpawner.seccomp_profile."]
        return []

    async def unknown_names(self) -> list[str]:
        """Return a sentence about each name in roles that belongs to nobody."""
        people, there = await self.db.read(lambda t: (users.list_all(t), groups.list_all(t)))
        return unknown_names(self.settings.roles, {
            "user": {user.name for user in people}, "group": {group.name for group in there},
            "service": {service.name for service in self.services.all()}})

    async def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Run until cancelled. `started` is called when browsers are let in. Raises Misconfigured, ProxyDown."""
        await open_store(self.db, self.homes)
        await self.services.load()
        for warning in await self.unknown_names():
            logger.warning("%s", warning)
        await self.hub.oauth.tidy()
        hub_socket = _listen(self.settings.hub_ip, self.settings.hub_port)
        try:
            async with anyio.create_task_group() as tasks, _serving(tasks, create_app(self.hub), hub_socket):
                await self.proxy.start()
                tasks.start_soon(self.proxy.run)
                tasks.start_soon(self.reconciler.run)
                tasks.start_soon(self.services.run)
                tasks.start_soon(self._serve_api_to_servers)
                tasks.start_soon(self.hub.metrics.watch_event_loop)
                tasks.start_soon(self.watching.run)
                started()
                await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await self.spawner.close()
                await self.proxy.close()
                await self._probe.close()
            self.db.close()

    async def _serve_api_to_servers(self) -> None:
        """Serve /hub/api on the address that servers see the host by; it is there once the spawner is prepared."""
        host = self.spawner.hub_host()
        if host == self.settings.hub_ip or self.settings.hub_ip in ("", "0.0.0.0", "::"):
            return
        while True:
            try:
                sock = _listen(host, self.settings.hub_port)
            except Misconfigured:
                await anyio.sleep(0.5)
                continue
            async with anyio.create_task_group() as tasks, _serving(tasks, create_api_app(self.hub), sock):
                await anyio.sleep_forever()


def open_database(settings: Settings) -> Database:
    """Return the database, which tells the event log what happens. Nothing is opened yet."""
    file = settings.event_log_file
    return Database(settings.db_url, EventLog(file, settings.event_log_max_bytes) if file is not None else None)


async def open_store(db: Database, homes: Homes) -> None:
    """Make the database ready; into a new one go the owners of the homes there are, before anybody else gets a uid."""
    if db.ensure_current():
        homes.root.mkdir(mode=0o711, parents=True, exist_ok=True)
        found = await homes.list()
        await db.transact(lambda t: put_users_back(t, found))


def near_url(settings: Settings) -> str:
    """Return how processes of this machine reach the Hub past the proxy."""
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.hub_ip, settings.hub_ip)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.hub_port}"


def shown_url(settings: Settings) -> str:
    """Return the address to type, as far as the box can know it."""
    if settings.public_origin:
        return settings.public_origin + settings.base_url
    scheme = "http" if settings.tls == "off" else "https"
    if settings.ip not in ("", "0.0.0.0", "::"):
        host = settings.ip
    else:
        host = next(iter(settings.tls_names), "") or own_address() or "127.0.0.1"
    host = f"[{host}]" if ":" in host else host
    port = "" if settings.port == {"http": 80, "https": 443}[scheme] else f":{settings.port}"
    return f"{scheme}://{host}{port}{settings.base_url}"


def versions(settings: Settings) -> Mapping[str, object]:
    """Return what /hub/api/info tells."""
    def driver(cls: type) -> dict[str, str]:
        package = sys.modules.get(cls.__module__.partition(".")[0])
        return {"class": f"{cls.__module__}.{cls.__qualname__}", "version": str(getattr(package, "__version__", "unknown"))}

    return {"version": __version__, "python": sys.version, "sys_executable": sys.executable,
            "spawner": driver(settings.spawner_class), "authenticator": driver(settings.authenticator_class)}


def make_authenticator(settings: Settings, db: Database) -> Authenticator:
    return settings.make(settings.authenticator_class, passwords=StoredPasswords(db))


def make_spawner(settings: Settings) -> Spawner:
    ports = (settings.port, *((80,) if settings.tls != "off" else ()))
    images = tuple(choice for limits in settings.group_limits.values() for choice in limits.named_images())
    return settings.make(settings.spawner_class, state_dir=settings.state_dir, hub_api_port=settings.hub_port,
                         public_ports=ports, more_images=images)


def make_proxy(settings: Settings, hub_secret: str) -> Proxy:
    def control(name: str) -> KeptContainer:
        return DockerContainer(name, getattr(make_spawner(settings), "docker_host", ""))

    return settings.make(
        settings.proxy_class, state_dir=settings.state_dir, base_url=settings.base_url,
        hub_url=f"http://{settings.hub_ip or '127.0.0.1'}:{settings.hub_port}", hub_secret=hub_secret,
        bind_ip=settings.ip, bind_port=settings.port, tls=settings.tls, tls_names=settings.tls_names,
        public_host=settings.public_host, ssl_key=settings.ssl_key, ssl_cert=settings.ssl_cert,
        control=control)


# ------------------------------------------------------------------------------------------------------ the commands --
def run_hub(settings: Settings, *, on_step: Callable[[str], None] = lambda step: None) -> int:
    """Run the Hub in the foreground until SIGINT or SIGTERM; ends no server and no connection. Returns the status."""
    log.setup(settings.log_level)
    _give_memory_back()
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    began_at = time.monotonic()
    with HubLock(settings.state_dir / "hub.json") as lock:
        if lock.other is not None:
            print(f"The Hub already runs here ({lock.other.where}), at {lock.other.url}")
            return 0
        box = Box(settings, on_step=on_step)
        for warning in [*config.warnings(settings), *box.warnings()]:
            logger.warning(warning)

        def started() -> None:
            box.hub.metrics.hub_started(time.monotonic() - began_at)
            lock.write(shown_url(settings))
            gc.freeze()  # what is there by now stays: not looked through again, which held everybody up for 0.1 s each time
            print(f"The Hub is ready after {time.monotonic() - began_at:.1f} s: {shown_url(settings)}", flush=True)

        anyio.run(_run_until_signal, box, started, backend_options={"use_uvloop": True})
    command = sys.argv[0] if sys.argv[0].endswith(("appliance", "jupyterhub")) else "appliance"
    print("The Hub has ended. Nobody was interrupted: servers and Traefik go on, and the next Hub adopts them.", flush=True)
    print(box.proxy.kept_by() or
          f"To end Traefik too: {command} stop      To end the servers as well: {command} stop --servers", flush=True)
    return 0


def prepare(settings: Settings) -> int:
    """Make the folders and write what the proxy reads, for one that somebody else starts. Returns the status."""
    log.setup(settings.log_level)
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    secret = load_cookie_secret(settings.cookie_secret_file)
    proxy = make_proxy(settings, derive_key(secret, "proxy").hex())
    anyio.run(proxy.prepare)
    print(f"Everything is ready in {settings.state_dir}.")
    return 0


async def _run_until_signal(box: Box, started: Callable[[], None]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(box.run, started)
                async for _ in signals:
                    tasks.cancel_scope.cancel()
                    break
        except BaseExceptionGroup as group:
            error = _first(group)
            if error is None:
                raise
            raise error from None


def stop(settings: Settings, *, servers: bool) -> int:
    """End a Hub that runs here and Traefik; with `servers` also every server. Returns the status."""
    log.setup(settings.log_level)
    lock_file = settings.state_dir / "hub.json"
    with HubLock(lock_file) as lock:
        other = lock.other
    if kept_by := make_proxy(settings, "").kept_by():
        # whoever keeps Traefik keeps the Hub too: it would be started again at once
        print(f"The Hub {f'runs ({other.where})' if other else 'does not run'}. {kept_by}")
        anyio.run(_stop_servers, settings, servers)
        return 0
    if other is not None and not other.is_near:
        raise Misconfigured(f"The Hub runs elsewhere ({other.where}).", action="End it there: docker compose stop hub")
    if other is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(other.pid, signal.SIGTERM)
        print(f"Ending the Hub (process {other.pid}) …", flush=True)
    with HubLock(lock_file, wait_s=15) as lock:
        if lock.other is not None:
            raise Misconfigured(f"The Hub (process {lock.other.pid}) did not end.", action="End it by hand, then try again.")
        anyio.run(_stop_rest, settings, servers)
    return 0


async def _stop_rest(settings: Settings, servers: bool) -> None:
    proxy = make_proxy(settings, "")
    await proxy.stop()
    print("Traefik has ended." if servers else "Traefik has ended. Servers go on and are there again with the next Hub.")
    await _stop_servers(settings, servers)


async def _stop_servers(settings: Settings, servers: bool) -> None:
    if not servers:
        return
    spawner = make_spawner(settings)
    db = open_database(settings)
    try:
        try:
            found = await spawner.list()
        except EngineDown as error:
            raise EngineDown("The servers could not be ended, because the container engine does not answer.",
                             action="Start the engine, or check DOCKER_HOST; then try again.",
                             evidence=error.evidence) from error
        if db.revision() is not None:
            await db.transact(lambda t: want_all_stopped(t, actor="appliance stop"))
        limiter = anyio.CapacityLimiter(16)

        async def end(server_id: str) -> None:
            async with limiter:
                await spawner.stop(server_id)

        async with anyio.create_task_group() as tasks:
            for server in found:
                tasks.start_soon(end, server.server_id)
        if (runner := spawner.service_runner()) is not None:
            await runner.clear(())
        print(f"{len(found)} server{'' if len(found) == 1 else 's'} ended. Files stay where they are.")
    finally:
        await spawner.close()
        db.close()


def upgrade_db(settings: Settings) -> str:
    db = Database(settings.db_url)
    try:
        return f"The database {db.shown_url} has schema {db.upgrade()}."
    finally:
        db.close()


# ------------------------------------------------------------------------------------------------------ small things --
class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals are ours


@contextlib.asynccontextmanager
async def _serving(tasks: TaskGroup, app: Any, sock: socket.socket) -> AsyncIterator[None]:
    """Serve `app` on a listening socket while the body runs."""
    server = _Server(uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, proxy_headers=False, lifespan="off", ws="none",
        timeout_graceful_shutdown=1,
        timeout_keep_alive=120))  # longer than Traefik keeps a connection, so that it never writes into a closed one
    ended = anyio.Event()

    async def serve() -> None:
        with anyio.CancelScope(shield=True):
            try:
                await server.serve(sockets=[sock])
            finally:
                ended.set()

    tasks.start_soon(serve)
    try:
        yield
    finally:
        server.should_exit = True
        with anyio.CancelScope(shield=True):
            await ended.wait()


def _listen(host: str, port: int) -> socket.socket:
    """Raises Misconfigured."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(2048)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise Misconfigured(f"The Hub cannot listen on {host}, port {port}: {error.strerror}.",
                            action="Choose another c.JupyterHub.hub_port, or end what uses this one.") from error
    return sock


def _give_memory_back() -> None:
    """Keep glibc from hoarding: passwords' hashes take 19 MB each, and each thread would keep an arena of its own.

    Measured: 79 MB kept after forty hashes in four threads, else 1; after load on all pages 93 MB in all, with two arenas 87.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD, fixed, instead of growing with what is freed
        libc.mallopt(-8, 2)        # M_ARENA_MAX


def own_address() -> str:
    """Return the address this machine reaches others from, "" if there is none; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
            return str(sock.getsockname()[0])
        except OSError:
            return ""


def _first(group: BaseExceptionGroup[BaseException]) -> ApplianceError | None:
    """Return the error that has a sentence, where all of a group is one."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, ApplianceError) else None
