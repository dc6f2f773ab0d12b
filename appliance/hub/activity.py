"""Who was active when: what single-user servers and services report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from appliance.domain.requester import Requester
from appliance.domain.user import User
from appliance.errors import BadInput
from appliance.store import activity as store
from appliance.store.database import Database

AHEAD = timedelta(minutes=59)     # clocks differ, and some programs write local time


@dataclass
class Activity:
    db: Database

    async def report(self, requester: Requester, user: User, body: Mapping[str, Any]) -> None:
        """Take {"last_activity": TIME, "servers": {NAME: {"last_activity": TIME}}}; what is older than what is known changes
        nothing. Raises BadInput, and then nothing is kept."""
        said, servers = body.get("last_activity"), body.get("servers") or {}
        if not said and not servers:
            raise BadInput("Name at least one of “last_activity” and “servers”.")
        at = read_time(said) if said else None
        of_servers = {name: read_time(each.get("last_activity")) for name, each in servers.items()}
        await self.db.transact(lambda t: store.report(t, user.id, at, of_servers))


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
