"""Makes what is the same as what is wanted.

The store says what is wanted, the spawner what is. A click, an event of the engine or a timer only wakes the
reconciler; what has to be done it reads anew each time. So it may be killed between any two lines: the next Hub's
reconciler goes on from whatever it finds.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from appliance.domain.server import Phase, Server, Wanted
from appliance.errors import ApplianceError, BoxFull, DatabaseDown, EngineDown, SpawnError, StartTimeout
from appliance.hub.admission import Admission
from appliance.hub.lifecycle import Lifecycle, left_s
from appliance.hub.reboot import Marker
from appliance.hub.rebuild import adopt_unknown
from appliance.ports import ActualServer, ActualState
from appliance.store import events, sessions
from appliance.store import servers as store

log = logging.getLogger(__name__)

PROBE_PAUSE_S = 0.02      # readiness is noticed at once
SWEEP_PAUSE_S = 1.0
SWEEPS_PER_LIST = 5       # the engine is asked for everything every so many sweeps
RETRY_PAUSE_S = 2.0


class Reconciler:
    """limit: how many servers may be on their way up at once. active_limit: how many may run at all; 0 is no limit.
    marker: tells whether the machine was restarted; None: it was not."""

    def __init__(self, lifecycle: Lifecycle, *, limit: int, active_limit: int = 0, marker: Marker | None = None) -> None:
        self._life = lifecycle
        self._db, self._spawner = lifecycle.db, lifecycle.spawner
        self._active_limit = active_limit
        self._admission = Admission(limit)
        self._tasks: TaskGroup | None = None
        self._working: dict[str, anyio.Event] = {}   # server id → set when there is news for its worker
        self._prepare_again = anyio.Event()
        self._prepared = False
        self._marker = marker
        self._settled = False                        # whether it is known who ended only because machine or engine did
        self._engine_seen_at: datetime | None = None
        self.problem: ApplianceError | None = None   # why no server can be started now

    # -- from outside ------------------------------------------------------------------------------------------------
    def wake(self, server_id: str) -> None:
        """Look at a server soon. Never waits."""
        if server_id in self._working:
            self._working[server_id].set()
        elif self._tasks is not None:
            self._working[server_id] = anyio.Event()
            self._tasks.start_soon(self._work, server_id)

    @property
    def ready(self) -> bool:
        """See Hub.ready."""
        return self._prepared or self.problem is not None

    @property
    def prepared(self) -> bool:
        """Containers can be started: they are proven to be kept apart."""
        return self._prepared and self.problem is None

    def queue_position(self, server_id: str) -> int | None:
        """Return 1 for the next one to be started, None for one that does not wait."""
        return self._admission.position(server_id)

    def queue_length(self) -> int:
        return self._admission.waiting()

    async def refresh_route(self, server_id: str) -> None:
        await self._life.refresh_route(server_id)

    async def refresh_default_route(self, user_id: int) -> None:
        """Let the way to a user's default server know which paths below it are other servers'."""
        await self._life.refresh_default_route(user_id)

    async def run(self) -> None:
        """Run until cancelled; servers and routes stay as they are."""
        # routes need only the store, so they are right before the engine is even asked
        await self.set_all_routes()
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self._keep_prepared)
                tasks.start_soon(self._watch)
                tasks.start_soon(self._sweep)
        finally:
            self._tasks = None

    # -- what wakes it -----------------------------------------------------------------------------------------------
    async def _keep_prepared(self) -> None:
        first = True
        while True:
            self._prepare_again = anyio.Event()
            try:
                await self._life.homes.check()
                await self._spawner.prepare()
                if first:
                    await adopt_unknown(self._db, self._spawner, self._life.homes)
                if self.problem is not None:
                    log.info("Servers can be started again.")
                self.problem = None  # before anything is queued, which it would fail
                await self._restart_ended(first=first)
                if first:
                    await self.set_all_routes()
                    for server in await self._db.read(store.up):
                        self.wake(server.id)
                    first = False
                self._prepared = True
                await self._compare_all()
                await self._wake_unsettled()
                await self._prepare_again.wait()
                continue
            except ApplianceError as error:
                if type(self.problem) is not type(error):
                    log.error("No server can be started: %s %s %s", error.sentence, error.action, error.evidence)
                self._prepared, self.problem = False, error
            except Exception:
                log.exception("Preparing the spawner failed")
                self._prepared, self.problem = False, SpawnError("The box could not make itself ready to start servers.")
            await anyio.sleep(RETRY_PAUSE_S)

    async def _watch(self) -> None:
        connected = False
        while True:
            try:
                async for server_id in self._spawner.watch():
                    if server_id:
                        self.wake(server_id)
                    elif connected:  # the engine was away: its network and rules may be gone
                        self._engine_went()
                    connected = True
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
                    if self._prepared:
                        await self._compare_all()
            except EngineDown:
                self._engine_went()
            except ApplianceError as error:
                log.error("%s %s", error.sentence, error.evidence)
            except Exception:
                log.exception("A sweep failed")

    def _engine_went(self) -> None:
        self._settled = False
        self._prepare_again.set()

    async def _restart_ended(self, *, first: bool) -> None:
        """Queue every server anew that ended with the machine, or with an engine that was away, and not by itself.

        Killed at any line, the next Hub does the rest: the marker comes after the rows.
        """
        why, marker = "", self._marker if first else None
        if marker is not None and await anyio.to_thread.run_sync(marker.missing):
            why = "restarted after the machine was"
        elif self._engine_seen_at is not None:
            why = "restarted after the container engine was"
        if why:
            actual = {server.server_id: server for server in await self._spawner.list()}
            since = None if marker is not None else self._engine_seen_at
            ended = [server.id for server in await self._db.read(store.up) if _ended_with(server, actual.get(server.id), since)]
            if ended:
                restarted = await self._db.transact(lambda t: store.restart(t, ended, why=why))
                self._enlist(restarted, why)
                await self.set_all_routes()
        if marker is not None:
            await anyio.to_thread.run_sync(marker.write)
        self._settled, self._engine_seen_at = True, datetime.now(UTC)

    def _enlist(self, servers: Sequence[Server], why: str) -> None:
        log.warning("%d server%s %s: of %s.", len(servers), " is" if len(servers) == 1 else "s are", why,
                    ", ".join(server.user_name for server in servers))
        for server in servers:
            self._admission.enlist(server.id)  # in this order, whoever of them asks first
            self._life.changes.notify(server.id)

    async def set_all_routes(self) -> None:
        await self._life.proxy.set_routes(await self._db.read(self._life.routes.all_wanted))

    async def _wake_unsettled(self) -> None:
        for server in await self._db.read(store.unsettled):
            if server.id not in self._working:
                self.wake(server.id)

    async def _compare_all(self) -> None:
        """Wake every server of which store and engine say different things, and whatever should not be there."""
        actual = {server.server_id: server for server in await self._spawner.list()}
        rows = {server.id: server for server in await self._db.read(store.up)}
        for server_id in actual.keys() | rows.keys():
            row, found = rows.get(server_id), actual.get(server_id)
            runs = found is not None and found.state in (ActualState.RUNNING, ActualState.PAUSED)
            if row is None or not (row.phase.pending or runs):
                self.wake(server_id)
        if self._settled:
            self._engine_seen_at = datetime.now(UTC)

    async def _end_expired_sessions(self) -> None:
        ended = await self._db.transact(sessions.end_expired)
        if ended:
            for server in await self._db.read(store.up):
                if server.ready and server.user_id in ended:
                    await self._life.refresh_route(server.id)
                    await self._life.proxy.close_connections(server.url)

    # -- one server --------------------------------------------------------------------------------------------------
    async def _work(self, server_id: str) -> None:
        again = True
        try:
            while again:
                self._working[server_id] = anyio.Event()
                await self._reconcile(server_id)
                again = self._working[server_id].is_set()
        except DatabaseDown as error:
            log.error("%s %s", error.sentence, error.evidence)
        except EngineDown:
            self._engine_went()
        except ApplianceError as error:
            log.error("Server %s: %s %s; it is tried again", server_id, error.sentence, error.evidence)
        except Exception:
            log.exception("Reconciling server %s failed; it is tried again", server_id)
        finally:
            del self._working[server_id]
            self._life.changes.notify(server_id)

    async def _reconcile(self, server_id: str) -> None:
        server = await self._life.get(server_id)
        if server is None:
            last = await self._db.read(lambda t: events.of_server(t, server_id, limit=1))
            if last:    # of one that was never here, or that a database brought back from a copy does not know, there is none
                log.info("Server %s of %s is deleted: what is left of it is ended.", server_id, last[0].user_name)
            else:
                log.warning("Ending server %s: it is nobody's.", server_id)
            self._leave(server_id)
            await self._life.proxy.remove(server_id)
            await self._spawner.stop(server_id)
        elif server.wanted is Wanted.STOPPED or server.user_deleted:
            self._leave(server_id)
            await self._life.bring_down(server)
        elif server.phase is Phase.READY:
            if self._settled:  # else it may be one that is to be started anew
                await self._life.check(server)
        else:
            try:
                await self._bring_up(server)
            except DatabaseDown:
                raise
            except TimeoutError:
                await self._fail(server, StartTimeout())
            except ApplianceError as error:
                await self._fail(server, error)
            except Exception as error:
                log.exception("Starting server %s failed", server_id)
                await self._fail(server, SpawnError(evidence=repr(error)))

    async def _bring_up(self, server: Server) -> None:
        if server.phase is Phase.STOPPING:          # a start that was clicked while it stopped
            await self._life.end(server)
        if server.phase in (Phase.STOPPING, Phase.STOPPED, Phase.FAILED):
            queued = await self._db.transact(lambda t: store.queue(t, server.id))
            if queued is None:
                return
            server = queued
        if self.problem is not None:
            raise self.problem
        if server.phase is Phase.QUEUED:
            if left_s(server) <= 0:
                raise StartTimeout("Your server waited too long for a free place. Please try again.")
            if not self._prepared:
                return
            await self._refuse_if_full()
            if not self._admission.admit(server.id):
                self._life.changes.notify(server.id)
                return
        elif not self._prepared:
            return
        else:
            self._admission.enter(server.id)
        await self._bring_up_admitted(server)

    async def _bring_up_admitted(self, server: Server) -> None:
        start: Server | None = server
        if server.phase is Phase.QUEUED:
            start = await self._life.enter(server, Phase.STARTING, deadline_s=self._spawner.start_timeout)
        if start is not None and start.phase is Phase.STARTING:
            start = await self._life.start(start)
        if start is not None and await self._life.answers(start, lambda: self._pause(server.id)):
            await self._life.let_in(start)
            self._leave(server.id)
        else:  # another start, or none, is wanted by now
            self._leave(server.id)
            self._working[server.id].set()

    async def _fail(self, server: Server, error: ApplianceError) -> None:
        self._leave(server.id)
        await self._life.fail(server, error)

    async def _refuse_if_full(self) -> None:
        if self._active_limit:
            up = [other for other in await self._db.read(store.up)
                  if other.phase in (Phase.STARTING, Phase.BOOTING, Phase.READY)]
            if len(up) >= self._active_limit:
                raise BoxFull()

    def _leave(self, server_id: str) -> None:
        for waiting in self._admission.leave(server_id):
            self.wake(waiting)

    async def _pause(self, server_id: str) -> bool:
        """Wait a moment; True if there is news of this server."""
        news = self._working[server_id]
        with anyio.move_on_after(PROBE_PAUSE_S * max(1, len(self._admission) / 2)):
            await news.wait()
            self._working[server_id] = anyio.Event()
            return True
        return False


def _ended_with(server: Server, actual: ActualServer | None, since: datetime | None) -> bool:
    """Say whether a server that is wanted ended with the machine (since: None), or while the engine was away since then."""
    if server.wanted is not Wanted.RUNNING or server.user_deleted:
        return False
    if actual is not None and actual.state in (ActualState.RUNNING, ActualState.PAUSED):
        return False
    if since is None:
        return server.phase in (Phase.STARTING, Phase.BOOTING, Phase.READY)
    return (server.phase is Phase.READY and actual is not None and actual.start_no == server.start_no
            and actual.ended_at is not None and actual.ended_at >= since and not actual.oom_killed)
