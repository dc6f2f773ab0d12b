"""Makes what is the same as what is wanted.

The store says what is wanted, the spawner what is. A click, an event of the engine or a timer only wakes the
reconciler; what has to be done it reads anew each time. So it may be killed between any two lines: the next Hub's
reconciler goes on from whatever it finds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime

import anyio
from anyio.abc import TaskGroup

from appliance.domain.server import Phase, Server, Wanted
from appliance.errors import (
    AppAnswersErrors,
    ApplianceError,
    AppNeverListened,
    BoxFull,
    DatabaseDown,
    EngineDown,
    SpawnError,
    StartTimeout,
    StopTimeout,
    Unavailable,
)
from appliance.hub.changes import Changes
from appliance.hub.failures import to_failure, why_ended
from appliance.hub.probe import Probe
from appliance.hub.rebuild import adopt_unknown
from appliance.hub.routes import Routes
from appliance.hub.specs import Specs
from appliance.ports import ActualServer, ActualState, Authenticator, Homes, Proxy, Spawner
from appliance.store import servers as store
from appliance.store import sessions
from appliance.store.database import Database

log = logging.getLogger(__name__)

PROBE_PAUSE_S = 0.02      # readiness is noticed at once
SWEEP_PAUSE_S = 1.0
SWEEPS_PER_LIST = 5       # the engine is asked for everything every so many sweeps
RETRY_PAUSE_S = 2.0
STOP_MARGIN_S = 20        # beyond the spawner's own stop_timeout


class Reconciler:
    """limit: how many servers may be on their way up at once; the others queue, first come first served.

    on_step is told the name of each step done, for tests that end the Hub there.
    """

    def __init__(self, db: Database, spawner: Spawner, proxy: Proxy, homes: Homes, authenticator: Authenticator,
                 routes: Routes, specs: Specs, changes: Changes, *, limit: int, active_limit: int = 0,
                 on_step: Callable[[str], None] = lambda step: None) -> None:
        self._db, self._spawner, self._proxy, self._homes = db, spawner, proxy, homes
        self._authenticator, self._routes, self._specs, self._changes = authenticator, routes, specs, changes
        self._limit, self._active_limit, self._on_step = limit, active_limit, on_step
        self._probe = Probe()
        self._tasks: TaskGroup | None = None
        self._working: dict[str, anyio.Event] = {}   # server id → set when there is news for its worker
        self._again: set[str] = set()
        self._active: set[str] = set()
        self._queue: list[str] = []
        self._prepare_again = anyio.Event()
        self.prepared = False
        self.problem: ApplianceError | None = None   # why no server can be started now

    # -- from outside ------------------------------------------------------------------------------------------------
    def wake(self, server_id: str) -> None:
        """Look at a server soon. Never waits."""
        news = self._working.get(server_id)
        if news is not None:
            self._again.add(server_id)
            news.set()
        elif self._tasks is not None:
            self._working[server_id] = anyio.Event()
            self._tasks.start_soon(self._work, server_id)

    def queue_position(self, server_id: str) -> int | None:
        """Return 1 for the next one to be started, None for one that does not wait."""
        return self._queue.index(server_id) + 1 if server_id in self._queue else None

    async def refresh_route(self, server_id: str) -> None:
        """Bring one server's route to what the store wants, and return when the proxy serves it."""
        route = await self._db.read(lambda t: self._routes.wanted(t, server_id))
        if route is None:
            await self._proxy.remove(server_id)
        else:
            await self._proxy.add(route)
        await self._proxy.wait_live(server_id)

    async def run(self) -> None:
        """Run until cancelled; servers and routes stay as they are."""
        # routes need only the store, so they are right before the engine is even asked
        await self._proxy.set_routes(await self._db.read(self._routes.all_wanted))
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self._keep_prepared)
                tasks.start_soon(self._watch)
                tasks.start_soon(self._sweep)
        finally:
            self._tasks = None
            with anyio.CancelScope(shield=True):
                await self._probe.close()

    # -- what wakes it -----------------------------------------------------------------------------------------------
    async def _keep_prepared(self) -> None:
        first = True
        while True:
            self._prepare_again = anyio.Event()
            try:
                await self._homes.check()
                await self._spawner.prepare()
                if first:
                    await adopt_unknown(self._db, self._spawner, self._homes)
                    await self._proxy.set_routes(await self._db.read(self._routes.all_wanted))
                    first = False
                if self.problem is not None:
                    log.info("Servers can be started again.")
                self.prepared, self.problem = True, None
                await self._compare_all()
                await self._prepare_again.wait()
            except ApplianceError as error:
                if type(self.problem) is not type(error):
                    log.error("No server can be started: %s %s %s", error.sentence, error.action, error.evidence)
                self.prepared, self.problem = False, error
                await self._wake_unsettled()
            except Exception:
                log.exception("Preparing the spawner failed")
                self.prepared, self.problem = False, SpawnError("The box could not make itself ready to start servers.")
            if not self.prepared:
                await anyio.sleep(RETRY_PAUSE_S)

    async def _watch(self) -> None:
        while True:
            try:
                async for server_id in self._spawner.watch():
                    if server_id:
                        self.wake(server_id)
                    else:  # the engine was away: its network and rules may be gone
                        self._prepare_again.set()
            except Exception:
                log.exception("Watching the engine failed")
            await anyio.sleep(RETRY_PAUSE_S)

    async def _sweep(self) -> None:
        for count in range(1, 1 << 62):
            await anyio.sleep(SWEEP_PAUSE_S)
            try:
                await self._wake_unsettled()
                if count % SWEEPS_PER_LIST == 0:
                    await self._end_expired_sessions()
                    if self.prepared:
                        await self._compare_all()
            except EngineDown:
                self._prepare_again.set()
            except ApplianceError as error:
                log.error("%s %s", error.sentence, error.evidence)
            except Exception:
                log.exception("A sweep failed")

    async def _wake_unsettled(self) -> None:
        for server in await self._db.read(store.unsettled):
            self.wake(server.id)

    async def _compare_all(self) -> None:
        """Wake every server of which store and engine say different things, and whatever has no row."""
        actual = {server.server_id: server for server in await self._spawner.list()}
        rows = {server.id: server for server in await self._db.read(store.list_all)}
        for server_id in actual.keys() | rows.keys():
            row, found = rows.get(server_id), actual.get(server_id)
            runs = found is not None and found.state in (ActualState.RUNNING, ActualState.PAUSED)
            if row is None or row.phase.pending or (runs if row.phase is not Phase.READY else not runs) or (
                    found is not None and not runs):
                self.wake(server_id)

    async def _end_expired_sessions(self) -> None:
        for user_id in await self._db.transact(sessions.end_expired):
            for server in await self._db.read(lambda t, user_id=user_id: store.of_user(t, user_id)):
                if server.ready:
                    await self.refresh_route(server.id)
                    await self._proxy.close_connections(server.url)

    # -- one server --------------------------------------------------------------------------------------------------
    async def _work(self, server_id: str) -> None:
        try:
            while True:
                self._again.discard(server_id)
                self._working[server_id] = anyio.Event()
                await self._reconcile(server_id)
                if server_id not in self._again:
                    break
        except DatabaseDown as error:
            log.error("%s %s", error.sentence, error.evidence)
        except EngineDown:
            self._prepare_again.set()
        except Exception:
            log.exception("Reconciling server %s failed; it is tried again", server_id)
        finally:
            self._working.pop(server_id, None)
            self._changes.notify(server_id)
            if server_id in self._again:
                self._again.discard(server_id)
                self.wake(server_id)

    async def _reconcile(self, server_id: str) -> None:
        server = await self._get(server_id)
        if server is None or server.phase not in (Phase.STARTING, Phase.BOOTING):
            self._release(server_id)
        if server is None:
            log.warning("Ending server %s: it is nobody's.", server_id)
            await self._proxy.remove(server_id)
            await self._spawner.stop(server_id)
        elif server.wanted is Wanted.STOPPED or server.user_deleted:
            if server_id in self._queue:
                self._queue.remove(server_id)
            await self._bring_down(server)
        elif server.phase is Phase.READY:
            await self._check(server)
        else:
            try:
                await self._bring_up(server)
            except TimeoutError:
                await self._fail(server, StartTimeout())
            except (DatabaseDown, anyio.get_cancelled_exc_class()):
                raise
            except ApplianceError as error:
                await self._fail(server, error)
            except Exception as error:
                log.exception("Starting server %s failed", server_id)
                await self._fail(server, SpawnError(evidence=repr(error)))

    async def _bring_up(self, server: Server) -> None:
        if server.phase is Phase.STOPPING:          # a start that was clicked while it stopped
            await self._end(server)
        if server.phase in (Phase.STOPPING, Phase.STOPPED, Phase.FAILED):
            queued = await self._db.transact(lambda t: store.queue(t, server.id))
            if queued is None:
                return
            server = queued
        if server.phase is Phase.QUEUED:
            if server.deadline_at is not None and datetime.now(UTC) > server.deadline_at:
                raise StartTimeout("Your server waited too long for a free place. Please try again.")
            if self.problem is not None:
                raise self.problem
            if not self.prepared or not await self._admit(server):
                return
            entered = await self._enter(server, Phase.STARTING, deadline_s=self._spawner.start_timeout)
            if entered is None:
                return
            server = entered
        self._active.add(server.id)                 # also one that an earlier Hub began
        if self.problem is not None:
            raise self.problem
        if not self.prepared:
            return
        token = self._routes.token(server)
        if server.phase is Phase.STARTING:
            started = await self._start(server, token)
            if started is None:
                return
            server = started
        if await self._answers(server, token):
            await self.refresh_route(server.id)
            self._step("route-live")
            await self._enter(server, Phase.READY)
            self._release(server.id)

    async def _start(self, server: Server, token: str | None) -> Server | None:
        with anyio.fail_after(self._left(server)):
            await self._spawner.check_image(server.image)
            home = await self._homes.ensure(server.uid, server.user_name)
            self._step("home")
            extra: dict[str, str] = {}
            await self._authenticator.pre_spawn_start(server.user_name, extra)
            spec = self._specs.of(server, home, token, extra)
            handle = await self._spawner.start(spec)
        self._step("created")
        booting = await self._enter(server, Phase.BOOTING, deadline_s=self._spawner.http_timeout, url=handle.url,
                                    spec_hash=self._spawner.spec_hash(spec))
        if booting is not None:
            # written now, live long before the app answers
            route = await self._db.read(lambda t: self._routes.wanted(t, server.id))
            if route is not None:
                await self._proxy.add(route)
            self._step("route")
        return booting

    async def _answers(self, server: Server, token: str | None) -> bool:
        """Wait until the app answers; False if the server is no longer to be started. Raises why it never will."""
        url = self._specs.probe_url(server)
        status: int | None = None
        news = True
        while True:
            left = self._left(server)
            if left <= 0:
                logs = await self._spawner.logs(server.id)
                raise (AppNeverListened(evidence=logs) if status is None else
                       AppAnswersErrors(evidence=f"GET {url} answers {status}.\n{logs}"))
            if news:  # a click, or the engine has something to say
                current = await self._get(server.id)
                if current is None or current.wanted is Wanted.STOPPED or current.start_no != server.start_no:
                    self._again.add(server.id)
                    return False
                actual = await self._spawner.inspect(server.id)
                if actual is None or actual.state is ActualState.EXITED:
                    raise await self._why_ended(server, actual)
            if await self._probe.listens(server.url):
                status = await self._probe.status(url, token=token, timeout_s=min(left, 10))
                if status is not None and status < 500:
                    return True
            news = await self._pause(server.id)

    async def _check(self, server: Server) -> None:
        """A server that was ready: does it still run?"""
        actual = await self._spawner.inspect(server.id)
        if actual is None or actual.state not in (ActualState.RUNNING, ActualState.PAUSED) or (
                actual.start_no != server.start_no):
            await self._fail(server, await self._why_ended(server, actual))

    async def _bring_down(self, server: Server) -> None:
        if server.phase in (Phase.STOPPED, Phase.FAILED):
            await self._proxy.remove(server.id)
            await self._spawner.stop(server.id)
        else:
            if server.phase is not Phase.STOPPING:
                deadline_s = self._spawner.stop_timeout + STOP_MARGIN_S
                entered = await self._enter(server, Phase.STOPPING, deadline_s=deadline_s)
                if entered is None:
                    return
                server = entered
            try:
                await self._end(server)
            except TimeoutError:
                await self._fail(server, StopTimeout())
                return
            except Unavailable as error:
                if self._left(server) > 0:
                    raise
                await self._fail(server, error)
                return
            await self._enter(server, Phase.STOPPED)
        self._release(server.id)
        if server.user_deleted:
            await self._db.transact(lambda t: store.delete(t, server.id))

    async def _end(self, server: Server) -> None:
        await self._proxy.remove(server.id)
        self._step("route-removed")
        with anyio.fail_after(max(self._left(server), 1)):
            await self._spawner.stop(server.id)
        self._step("container-removed")

    async def _fail(self, server: Server, error: ApplianceError) -> None:
        log.warning("Server %s of %s: %s (%s)", server.id, server.user_name, error.sentence, error.code)
        await self._db.transact(lambda t: store.fail(t, server.id, to_failure(error), start_no=server.start_no))
        self._step("failed")
        self._release(server.id)
        self._changes.notify(server.id)
        await self._proxy.remove(server.id)
        try:  # its cause has been read, so what is left of the container can go; if not now, a sweep does it
            await self._spawner.stop(server.id)
        except Unavailable:
            self._prepare_again.set()

    async def _why_ended(self, server: Server, actual: ActualServer | None) -> ApplianceError:
        logs = await self._spawner.logs(server.id) if actual is not None else ""
        return why_ended(actual, logs, mem_limit_bytes=self._spawner.mem_limit)

    # -- small things ------------------------------------------------------------------------------------------------
    async def _get(self, server_id: str) -> Server | None:
        return await self._db.read(lambda t: store.get(t, server_id))

    async def _enter(self, server: Server, phase: Phase, *, deadline_s: float | None = None, url: str | None = None,
                     spec_hash: str | None = None) -> Server | None:
        entered = await self._db.transact(lambda t: store.enter_phase(
            t, server.id, phase, start_no=server.start_no, deadline_s=deadline_s, url=url, spec_hash=spec_hash))
        self._changes.notify(server.id)
        self._step(str(phase))
        return entered

    async def _admit(self, server: Server) -> bool:
        """Give a place to a server that waits, in the order of the queue."""
        if self._active_limit:
            up = [s for s in await self._db.read(store.list_all)
                  if s.phase in (Phase.STARTING, Phase.BOOTING, Phase.READY)]
            if len(up) >= self._active_limit:
                raise BoxFull()
        if server.id not in self._queue:
            self._queue.append(server.id)
        if self._queue.index(server.id) >= self._limit - len(self._active):
            self._changes.notify(server.id)
            return False
        self._queue.remove(server.id)
        self._active.add(server.id)
        return True

    def _release(self, server_id: str) -> None:
        if server_id not in self._active:
            return
        self._active.discard(server_id)
        for waiting in self._queue[:max(0, self._limit - len(self._active))]:
            self.wake(waiting)

    async def _pause(self, server_id: str) -> bool:
        """Wait a moment; True if there is news for this server."""
        news = self._working[server_id]
        with anyio.move_on_after(PROBE_PAUSE_S * max(1, len(self._active) / 2)):
            await news.wait()
        if not news.is_set():
            return False
        self._working[server_id] = anyio.Event()
        self._again.discard(server_id)
        return True

    @staticmethod
    def _left(server: Server) -> float:
        if server.deadline_at is None:
            return 60.0
        return (server.deadline_at - datetime.now(UTC)).total_seconds()

    def _step(self, name: str) -> None:
        self._on_step(name)
