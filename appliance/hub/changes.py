"""Who waits for news of a server is woken here; what the news is, they read from the store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator

import anyio

from appliance.domain.server import Server
from appliance.store import servers as store
from appliance.store.database import Database


class Changes:
    """Level-triggered: a waiter that misses a wake-up still sees the newest state at its next one."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._waiters: dict[str, set[anyio.Event]] = defaultdict(set)

    def notify(self, server_id: str) -> None:
        for waiter in self._waiters.pop(server_id, ()):
            waiter.set()

    async def follow(self, server_id: str, *, at_least_every_s: float = 5.0) -> AsyncIterator[Server]:
        """Yield the server now and after each change, and now and then without one. Ends when the server is gone."""
        while True:
            waiter = anyio.Event()
            self._waiters[server_id].add(waiter)
            try:
                server = await self._db.read(lambda t: store.get(t, server_id))
                if server is None:
                    return
                yield server
                with anyio.move_on_after(at_least_every_s):
                    await waiter.wait()
            finally:
                self._waiters[server_id].discard(waiter)
                if not self._waiters[server_id]:
                    del self._waiters[server_id]
