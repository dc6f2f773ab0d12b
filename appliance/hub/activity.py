"""Who was active when: what single-user servers, services and the Hub itself have seen. The newest wins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio

from appliance.domain.requester import Requester
from appliance.domain.user import User
from appliance.errors import BadInput
from appliance.store import activity as store
from appliance.store.database import Database

AHEAD = timedelta(minutes=59)     # clocks differ, and some programs write local time
APART_S = 1.0                     # between two transactions, however many report


@dataclass
class _Batch:
    servers: dict[str, datetime] = field(default_factory=dict)      # by id
    users: dict[int, datetime] = field(default_factory=dict)
    writing: anyio.Lock = field(default_factory=anyio.Lock)
    written: bool = False


class Activity:
    """Reports that come at the same time are written in one transaction, and each is answered when it is on the disk."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self._batch, self._not_before = _Batch(), 0.0

    async def report(self, requester: Requester, user: User, body: Mapping[str, Any]) -> None:
        """Take {"last_activity": TIME, "servers": {NAME: {"last_activity": TIME}}}; what is older than what is known changes
        nothing. Raises BadInput, and then nothing is kept."""
        said, servers = body.get("last_activity"), body.get("servers") or {}
        if not said and not servers:
            raise BadInput("Name at least one of “last_activity” and “servers”.")
        at = read_time(said) if said else None
        by_name = {name: read_time(each.get("last_activity")) for name, each in servers.items()}
        ids = await self.db.read(lambda t: store.ids(t, user.id, by_name)) if by_name else {}
        await self.keep({ids[name]: when for name, when in by_name.items()}, {user.id: at} if at else {})

    async def keep(self, servers: Mapping[str, datetime], users: Mapping[int, datetime]) -> None:
        """Return when these times are written, by id. What is newer already stays. Raises DatabaseDown."""
        batch = self._batch
        _merge(batch.servers, servers)
        _merge(batch.users, users)
        async with batch.writing:   # whoever comes first writes for all who came meanwhile
            if batch.written:
                return
            await anyio.sleep(max(0.0, self._not_before - anyio.current_time()))
            if self._batch is batch:
                self._batch = _Batch()
            self._not_before = anyio.current_time() + APART_S
            await self.db.transact(lambda t: store.keep(t, batch.servers, batch.users))
            batch.written = True


def _merge(times: dict[Any, datetime], more: Mapping[Any, datetime]) -> None:
    for key, at in more.items():
        times[key] = max(at, times.get(key, at))


def read_time(text: object) -> datetime:
    """Return an aware time of "2026-11-23T12:00:00Z"; without a zone, it is UTC. Raises BadInput."""
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
        at = at and (at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC))
    except (ValueError, OverflowError):
        at = None
    if at is None:
        raise BadInput("A time is written like 2026-11-23T12:00:00Z.")
    if at > datetime.now(UTC) + AHEAD:
        raise BadInput("That time is more than 59 minutes ahead; set the clock right.")
    return at
