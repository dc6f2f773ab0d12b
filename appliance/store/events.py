"""The append-only event log."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session as Transaction

from appliance.domain.eventschemas import record
from appliance.domain.user import Event
from appliance.store.rows import EventRow

RECORDS = "records"     # in a transaction's info: where its events are collected for the log


def append(t: Transaction, kind: str, *, actor: str = "hub", user_name: str = "", server_id: str = "", server_name: str = "",
           start_no: int = 0, data: Mapping[str, Any] | None = None) -> None:
    """Add one event in the caller's transaction, so that a change and its event are one.

    kind: one of SCHEMAS. server_name is for the log alone: the table has the id, which outlives names.
    """
    at, data = datetime.now(UTC), dict(data or {})
    t.add(EventRow(at=at, kind=kind, actor=actor, user_name=user_name, server_id=server_id, start_no=start_no, data=data))
    records = t.info.get(RECORDS)
    if records is not None:
        server = {"servername": server_name, "server_id": server_id, "start_no": start_no} if server_id else {}
        user = {"username": user_name} if user_name else {}
        records.append(record(kind, at, {**data, "actor": actor, **user, **server}))


def of_server(t: Transaction, server_id: str, *, limit: int = 100) -> list[Event]:
    """Return the newest events of a server, oldest first."""
    rows = t.scalars(select(EventRow).where(EventRow.server_id == server_id).order_by(EventRow.id.desc()).limit(limit))
    return [to_event(row) for row in rows][::-1]


def newest(t: Transaction, *, limit: int = 100) -> list[Event]:
    """Return the newest events, oldest first."""
    return [to_event(row) for row in t.scalars(select(EventRow).order_by(EventRow.id.desc()).limit(limit))][::-1]


def to_event(row: EventRow) -> Event:
    return Event(row.id, row.at, row.kind, row.actor, row.user_name, row.server_id, row.start_no, row.data)
