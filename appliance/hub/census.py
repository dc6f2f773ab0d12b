"""Counts what there is, for whoever watches the box. The cost does not grow with what has happened so far."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta

import anyio
import anyio.to_thread

from appliance.domain.server import Phase
from appliance.errors import ApplianceError, DatabaseDown
from appliance.hub.metrics import State
from appliance.hub.reconciler import Reconciler
from appliance.ports import Homes, Spawner
from appliance.store import servers, users
from appliance.store.database import Database

ACTIVE_EVERY_S = 60.0      # who was active is asked no more often than this
SLOW_S = 2.0               # neither the engine nor a disk that hangs may hold a scrape up
PERIODS = {"24h": timedelta(days=1), "7d": timedelta(days=7), "30d": timedelta(days=30)}


class Census:
    def __init__(self, db: Database, reconciler: Reconciler, spawner: Spawner, homes: Homes) -> None:
        self._db, self._reconciler, self._spawner, self._homes = db, reconciler, spawner, homes
        self._active: Mapping[str, int] = {}
        self._active_at = -ACTIVE_EVERY_S

    async def take(self) -> State:
        """Never raises for a part that does not answer: what it would say is left out, and the problem is named."""
        problems = [self._reconciler.problem.code] if self._reconciler.problem is not None else []
        phases: Mapping[Phase, int] = {}
        counted: tuple[int | None, int | None] = (None, None)
        try:
            phases, counted = await self._db.read(lambda t: (servers.count_phases(t), users.count_people(t)))
            if anyio.current_time() - self._active_at >= ACTIVE_EVERY_S:
                self._active = await self._db.read(lambda t: users.count_active(t, PERIODS))
                self._active_at = anyio.current_time()
        except DatabaseDown as error:
            problems.append(error.code)
        memory, limit = await self._memory()
        size, available = await self._space()
        return State(phases, *counted, self._active, self._reconciler.queue_length(), tuple(dict.fromkeys(problems)),
                     memory, limit, size, available)

    async def _memory(self) -> tuple[int | None, int | None]:
        try:
            with anyio.move_on_after(SLOW_S):
                usage = await self._spawner.shared_usage()
                return (usage.memory_bytes, usage.memory_limit_bytes) if usage else (None, None)
        except ApplianceError:
            pass
        return None, None

    async def _space(self) -> tuple[int | None, int | None]:
        try:
            with anyio.move_on_after(SLOW_S):
                found = await anyio.to_thread.run_sync(os.statvfs, self._homes.root, abandon_on_cancel=True)
                return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
        except OSError:
            pass
        return None, None
