"""When users and servers were last active: the newest report wins."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session as Transaction

from appliance.errors import BadInput
from appliance.store.rows import ServerRow, UserRow


def report(t: Transaction, user_id: int, at: datetime | None, servers: Mapping[str, datetime]) -> None:
    """Raises BadInput for a server that the user does not have."""
    user = t.get(UserRow, user_id)
    if user is None:
        return
    rows = {row.name: row for row in t.scalars(select(ServerRow).where(ServerRow.user_id == user_id))} if servers else {}
    for name, when in servers.items():
        row = rows.get(name)
        if row is None:
            shown = name[:60] if name.isprintable() else "?"
            raise BadInput(f"{user.name} has no server “{shown}”." if name else f"{user.name} has no default server yet.")
        row.last_activity_at = max(row.last_activity_at or when, when)
    if at is not None:
        user.last_activity_at = max(user.last_activity_at or at, at)
