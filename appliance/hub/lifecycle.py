"""The steps by which one server comes up and goes down. Each may be the last one before the Hub is killed."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import anyio

from appliance.domain.route import Route
from appliance.domain.server import Phase, Server, Wanted
from appliance.errors import (
    AddressChanged,
    AppAnswersErrors,
    ApplianceError,
    AppNeverListened,
    ProxyDown,
    StopTimeout,
    Unavailable,
)
from appliance.hub.changes import Changes
from appliance.hub.failures import to_failure, why_ended
from appliance.hub.metrics import Metrics
from appliance.hub.probe import Probe
from appliance.hub.routes import Routes
from appliance.hub.specs import Specs
from appliance.log import redact
from appliance.ports import ActualServer, ActualState, Authenticator, Homes, Proxy, Spawner
from appliance.store import servers as store
from appliance.store.database import Database, Transaction

log = logging.getLogger(__name__)

STOP_MARGIN_S = 20        # beyond the spawner's own stop_timeout
ROUTE_GONE_S = 1.0        # a proxy that is well has forgotten a route by then


@dataclass(frozen=True)
class Lifecycle:
    """on_step is told the name of each step done, for tests that end the Hub there."""

    db: Database
    spawner: Spawner
    proxy: Proxy
    homes: Homes
    authenticator: Authenticator
    routes: Routes
    specs: Specs
    changes: Changes
    probe: Probe
    on_step: Callable[[str], None] = lambda step: None
    metrics: Metrics = field(default_factory=Metrics)

    # -- up ----------------------------------------------------------------------------------------------------------
    async def start(self, server: Server) -> Server | None:
        """From STARTING to BOOTING: home, container, route. None if it was meanwhile wanted otherwise."""
        with anyio.fail_after(max(left_s(server), 0)):
            chosen = await self.specs.offers.start_with(server)
            if chosen.image != server.image:    # it was meanwhile taken from who chose it, or another is the default
                await self.db.transact(lambda t: store.set_image(t, server.id, chosen.image))
                server = replace(server, image=chosen.image)
            await self.spawner.check_image(server.image)
            home = await self.homes.ensure(server.uid, server.user_name)
            self.on_step("home")
            extra: dict[str, str] = {}
            await self.authenticator.pre_spawn_start(server.user_name, extra)
            spec = self.specs.of(server, home, self.routes.token(server), extra, chosen)
            handle = await self.spawner.start(spec)
        self.on_step("created")
        booting = await self.enter(server, Phase.BOOTING, deadline_s=self.spawner.http_timeout, url=handle.url,
                                   spec_hash=self.spawner.spec_hash(spec))
        # written now, the route is live long before the app answers
        route = await self.db.read(lambda t: self.routes.wanted(t, server.id))
        if route is not None:
            await self.proxy.add(route)
        self.on_step("route")
        return booting

    async def answers(self, server: Server, pause: Callable[[], Awaitable[bool]]) -> bool:
        """Wait in BOOTING until the app answers; False if it is no longer to. Raises why it never will.

        pause: waits a moment, True if there is news of this server.
        """
        url, token = self.specs.probe_url(server), self.routes.token(server)
        status: int | None = None
        news = True
        while left_s(server) > 0:
            if news:  # a click, or the engine has something to say
                current = await self.get(server.id)
                if current is None or current.wanted is Wanted.STOPPED or current.start_no != server.start_no:
                    return False
                actual = await self.spawner.inspect(server.id)
                if actual is None or actual.state is ActualState.EXITED:
                    raise await self.why_ended(server, actual)
            if await self.probe.listens(server.url):
                status = await self.probe.status(url, token=token, timeout_s=min(max(left_s(server), 0.1), 10))
                if status is not None and status < 500:
                    return True
            news = await pause()
        logs = await self.spawner.logs(server.id)
        if status is None:
            raise AppNeverListened(evidence=logs)
        raise AppAnswersErrors(evidence=f"GET {url} answers {status}.\n{logs}")

    async def let_in(self, server: Server) -> None:
        """From BOOTING to READY, once the proxy serves the route."""
        await self.refresh_route(server.id)
        self.on_step("route-live")
        if await self.enter(server, Phase.READY) is not None:
            self.metrics.spawned(server, ok=True)

    async def check(self, server: Server) -> None:
        """A server that is READY: does it still run?"""
        actual = await self.spawner.inspect(server.id)
        if actual is None or actual.start_no != server.start_no or (
                actual.state not in (ActualState.RUNNING, ActualState.PAUSED)):
            await self.fail(server, await self.why_ended(server, actual))
        elif actual.prefix and actual.prefix != self.specs.prefix(server):
            await self.fail(server, AddressChanged())

    # -- down --------------------------------------------------------------------------------------------------------
    async def bring_down(self, server: Server) -> None:
        """Make it STOPPED, or clean up after a FAILED one. Raises EngineDown until its deadline."""
        if server.phase in (Phase.STOPPED, Phase.FAILED):
            await self.proxy.remove(server.id)
            await self.spawner.stop(server.id)
        elif server.phase is not Phase.STOPPING:
            stopping = await self.enter(server, Phase.STOPPING, deadline_s=self.spawner.stop_timeout + STOP_MARGIN_S)
            if stopping is not None:
                await self.bring_down(stopping)
            return
        else:
            try:
                await self.end(server)
            except TimeoutError:
                await self.fail(server, StopTimeout())
                return
            except Unavailable as error:
                if left_s(server) > 0:
                    raise
                await self.fail(server, error)
                return
            await self.enter(server, Phase.STOPPED)
            self.metrics.stopped(server, ok=True)
        if server.user_deleted:
            await self.db.transact(lambda t: store.delete(t, server.id))
        elif server.delete_when_stopped:
            await self.db.transact(lambda t: store.delete_stopped(t, server.id))
            await self.refresh_default_route(server.user_id)

    async def end(self, server: Server) -> None:
        """Route first, then container: who still comes is told, and meets no dead address. Raises TimeoutError at the
        deadline."""
        await self.proxy.remove(server.id)
        with suppress(ProxyDown), self.metrics.route_change(removes=True):  # while the proxy is away nobody comes
            await self.proxy.wait_live(server.id, ROUTE_GONE_S)
        self.on_step("route-removed")
        with anyio.fail_after(max(left_s(server), 1)):
            await self.spawner.stop(server.id)
        self.on_step("container-removed")

    async def fail(self, server: Server, error: ApplianceError) -> None:
        """Settle as FAILED and say why; then remove what is left. Raises EngineDown (a sweep removes it later)."""
        evidence = redact(error.evidence).strip()
        log.warning("%s's server %s failed (%s): %s%s", server.user_name, server.id, error.code, error.action,
                    f" {evidence[-600:]}" if evidence else "")
        await self.db.transact(lambda t: store.fail(t, server.id, to_failure(error), start_no=server.start_no))
        self.metrics.failed(server, error.code)
        self.on_step("failed")
        self.changes.notify(server.id)
        await self.proxy.remove(server.id)
        await self.spawner.stop(server.id)  # its cause has been read

    async def why_ended(self, server: Server, actual: ActualServer | None) -> ApplianceError:
        logs = await self.spawner.logs(server.id) if actual is not None else ""
        return why_ended(actual, logs, mem_limit_bytes=(actual and actual.mem_limit_bytes) or self.spawner.mem_limit)

    async def home_in_use(self, uid: int) -> bool:
        """Say whether anything may use a uid's home besides the one server of it that is being started: another one on its
        way, which may have been given the home already, or any container that still runs."""
        if await self.db.read(lambda t: sum(server.uid == uid for server in store.up(t))) > 1:
            return True
        return any(actual.uid == uid and actual.state in (ActualState.RUNNING, ActualState.PAUSED)
                   for actual in await self.spawner.list())

    # -- both --------------------------------------------------------------------------------------------------------
    async def get(self, server_id: str) -> Server | None:
        return await self.db.read(lambda t: store.get(t, server_id))

    async def enter(self, server: Server, phase: Phase, *, deadline_s: float | None = None, url: str | None = None,
                    spec_hash: str | None = None) -> Server | None:
        """Write a phase; None if this start is over."""
        entered = await self.db.transact(lambda t: store.enter_phase(
            t, server.id, phase, start_no=server.start_no, deadline_s=deadline_s, url=url, spec_hash=spec_hash))
        if entered is not None and phase in (Phase.READY, Phase.STOPPED):
            log.info("%s's server %s is %s.", server.user_name, server.id, phase)
        self.changes.notify(server.id)
        self.on_step(str(phase))
        return entered

    async def refresh_route(self, server_id: str) -> None:
        """Bring one server's route to what the store wants, and return when the proxy serves it."""
        route = await self.db.read(lambda t: self.routes.wanted(t, server_id))
        with self.metrics.route_change(removes=route is None):
            if route is None:
                await self.proxy.remove(server_id)
            else:
                await self.proxy.add(route)
            await self.proxy.wait_live(server_id)

    async def refresh_default_route(self, user_id: int) -> None:
        """Write the route of a user's default server, which names the paths below it that are other servers'."""
        def wanted(t: Transaction) -> Route | None:
            default = store.find(t, user_id)
            return self.routes.wanted(t, default.id) if default else None

        route = await self.db.read(wanted)
        if route is not None:
            await self.proxy.add(route)


def left_s(server: Server) -> float:
    """Return the seconds until the server's deadline."""
    if server.deadline_at is None:
        return 60.0
    return (server.deadline_at - datetime.now(UTC)).total_seconds()
