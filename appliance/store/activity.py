"""When users and servers were last active: the newest report wins."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Table, bindparam, or_, select, update
from sqlalchemy.orm import Session as Transaction

from appliance.domain.server import Phase, Server
from appliance.errors import BadInput
from appliance.store.rows import ServerRow, UserRow, Utc
from appliance.store.servers import to_server


def ids(t: Transaction, user_id: int, names: Collection[str]) -> dict[str, str]:
    """Return the ids of a user's servers by name. Raises BadInput for one that the user does not have."""
    rows = t.execute(select(ServerRow.name, ServerRow.id).where(ServerRow.user_id == user_id))
    found: dict[str, str] = {row.name: row.id for row in rows}
    for name in names:
        if name not in found:
            shown = name[:60] if name.isprintable() else "?"
            raise BadInput(f"There is no server “{shown}”." if name else "There is no default server yet.")
    return {name: found[name] for name in names}


def keep(t: Transaction, servers: Mapping[str, datetime], users: Mapping[int, datetime]) -> None:
    """Write times by id, where they are newer than what is there."""
    for row, times in ((ServerRow, servers), (UserRow, users)):
        if times:
            _keep(t, row, times)


def _keep(t: Transaction, row: type[ServerRow] | type[UserRow], times: Mapping[Any, datetime]) -> None:
    table, newer = cast(Table, row.__table__), bindparam("new", type_=Utc())
    at = table.c.last_activity_at
    t.execute(      # of the table and not of the class: one statement, sent with all times
        update(table).where(table.c.id == bindparam("of"), or_(at.is_(None), at < newer))
        .values(last_activity_at=newer),
        [{"of": key, "new": when} for key, when in times.items()])


def ready(t: Transaction) -> list[Server]:
    """Return the servers that let somebody in."""
    rows = t.scalars(select(ServerRow).where(ServerRow.phase == Phase.READY))
    return [to_server(row) for row in rows if row.user.deleted_at is None]
