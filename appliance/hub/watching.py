"""Notices which servers are in use, without a word from them: the proxy's counters, and what Jupyter says of itself.

A request of somebody counts, the Hub's own do not: the Hub asks servers past the proxy, in words that Jupyter does not take
for activity.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import anyio
import anyio.to_thread

from appliance.domain.server import Server
from appliance.domain.urls import Urls
from appliance.errors import ApplianceError
from appliance.hub.activity import Activity, read_time
from appliance.hub.probe import Probe
from appliance.ports import Proxy, Spawner
from appliance.store import activity as store
from appliance.store.database import Database

LOOK_EVERY_S = 30.0
ASK_TIMEOUT_S = 5.0
AT_ONCE = 8                       # servers that are asked at the same time
UNTRACKED = "no_track_activity=1"     # Jupyter's own word for a request that is nobody's work

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Counted:
    """Counters as they were at the last look. They outlive the Hub, as the proxy does."""

    since: str
    requests: Mapping[str, int]

    def grew(self, now: Counted) -> set[str]:
        """Return the servers that got requests since. One that was started anew is counted from nothing again."""
        before = self.requests if self.since == now.since else {}
        return {server_id for server_id, count in now.requests.items() if count and count != before.get(server_id, 0)}


class Watching:
    """token: what opens a server's app. file: where the counters of the last look are kept."""

    def __init__(self, db: Database, proxy: Proxy, spawner: Spawner, urls: Urls, probe: Probe, activity: Activity,
                 token: Callable[[Server], str | None], file: Path) -> None:
        self._db, self._proxy, self._spawner, self._urls, self._probe = db, proxy, spawner, urls, probe
        self._activity, self._token, self._file = activity, token, file
        self._silent: set[tuple[str, int]] = set()       # starts of apps that are no Jupyter
        self._last: Counted | None = None

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        self._last = await anyio.to_thread.run_sync(_load, self._file)
        while True:
            try:
                await self.look()
            except ApplianceError as error:
                logger.warning("It cannot be seen now who is active: %s", error.sentence)
            await anyio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Write down who was active since the last look. Raises DatabaseDown."""
        now = datetime.now(UTC)
        servers = await self._db.read(store.ready)
        said = await self._proxy.request_counts()
        counted = Counted(*said) if said is not None else None
        busy = self._last.grew(counted) if counted is not None and self._last is not None else set()
        times = {server.id: now for server in servers if server.id in busy}
        await self._ask([server for server in servers if server.id not in times], times, now)
        await self._activity.keep(times, _of_users(servers, times))
        self._silent &= {(server.id, server.start_no) for server in servers}
        if counted is not None and counted != self._last:   # written after what was noticed: seen twice is better than never
            self._last = counted
            await anyio.to_thread.run_sync(_save, self._file, counted)

    async def _ask(self, servers: list[Server], times: dict[str, datetime], now: datetime) -> None:
        limiter = anyio.CapacityLimiter(AT_ONCE)

        async def ask(server: Server) -> None:
            async with limiter:
                at = await self._app(server, now)
            if at is not None:
                times[server.id] = min(at, now)     # nothing in a container is trusted, its clock neither

        async with anyio.create_task_group() as tasks:
            for server in servers:
                if (server.id, server.start_no) not in self._silent:
                    tasks.start_soon(ask, server)

    async def _app(self, server: Server, now: datetime) -> datetime | None:
        """Return when Jupyter was last used as it says itself: now, while a kernel works. None: never, or not known."""
        prefix = "/" if self._spawner.options(server.image).strip_prefix else self._urls.server(server.user_name, server.name)
        url, token = f"{server.url}{prefix}api/", self._token(server)
        answered, said = await self._probe.json(f"{url}status?{UNTRACKED}", token=token, timeout_s=ASK_TIMEOUT_S)
        if not isinstance(said, dict) or not {"started", "last_activity", "kernels"} <= said.keys():
            if answered:
                self._silent.add((server.id, server.start_no))
            return None
        if said["kernels"]:
            _, kernels = await self._probe.json(f"{url}kernels?{UNTRACKED}", token=token, timeout_s=ASK_TIMEOUT_S)
            if isinstance(kernels, list) and any(
                    isinstance(kernel, dict) and kernel.get("execution_state") == "busy" for kernel in kernels):
                return now
        try:
            at, started = read_time(said["last_activity"]), read_time(said["started"])
        except ApplianceError:
            return None
        return at if at > started else None         # that it was started is no use of it


def _of_users(servers: list[Server], times: Mapping[str, datetime]) -> dict[int, datetime]:
    found: dict[int, datetime] = {}
    for server in servers:
        if server.id in times:
            found[server.user_id] = max(times[server.id], found.get(server.user_id, times[server.id]))
    return found


def _load(file: Path) -> Counted | None:
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        return Counted(str(said["since"]), {str(key): int(count) for key, count in said["requests"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _save(file: Path, counted: Counted) -> None:
    fresh = file.with_name(f".{file.name}.new")
    try:
        fresh.write_text(json.dumps({"since": counted.since, "requests": dict(counted.requests)}), encoding="utf-8")
        os.replace(fresh, file)
    except OSError as error:   # what happens while no Hub runs is then not noticed, and nothing else
        logger.warning("%s cannot be written: %s", file, error.strerror or error)
