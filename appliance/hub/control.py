"""The Hub as a whole: what it is made of, which ways it keeps open, and its end."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import anyio

from appliance.domain.server import Phase, Server
from appliance.errors import ApplianceError
from appliance.ports import Proxy
from appliance.store import servers as store
from appliance.store.database import Database

log = logging.getLogger(__name__)
SERVERS_S = 60.0


@dataclass
class Control:
    """end: makes this process end as a signal would. sync: writes every route anew. wake: told of servers that changed."""

    db: Database
    proxy: Proxy
    sync: Callable[[], Awaitable[None]]
    wake: Callable[[str], None]
    end: Callable[[], None]
    info: Mapping[str, Any]      # versions and drivers

    async def routed(self) -> list[Server]:
        """Return the servers that browsers are led to."""
        found = await self.db.read(store.up)
        return [server for server in found if server.url and server.phase in (Phase.BOOTING, Phase.READY)]

    async def shut_down(self, *, servers: bool, proxy: bool, actor: str) -> None:
        """End the Hub; before that, if asked to, every server and the proxy. Without, nobody is interrupted."""
        log.info("%s shuts the Hub down%s%s.", actor, ", with servers" if servers else "", ", with the proxy" if proxy else "")
        try:
            if servers:
                await self._stop_servers(actor)
            if proxy:
                await self.proxy.stop()
        except ApplianceError as error:
            log.warning("%s", error.sentence)
        finally:
            self.end()

    async def _stop_servers(self, actor: str) -> None:
        def want(t: Any) -> list[Server]:
            store.want_all_stopped(t, actor=actor)
            return store.up(t)

        for server in await self.db.transact(want):
            self.wake(server.id)
        with anyio.move_on_after(SERVERS_S):
            while await self.db.read(store.up):  # noqa: ASYNC110 (the store tells of one server at a time)
                await anyio.sleep(0.2)
