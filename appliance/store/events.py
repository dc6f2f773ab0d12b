"""The append-only event log."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session as Transaction

from appliance.domain.user import Event
from appliance.store.rows import EventRow


def append(t: Transaction, kind: str, *, actor: str = "hub", user_name: str = "", server_id: str = "", start_no: int = 0,
           data: Mapping[str, Any] | None = None) -> None:
    """Add one event in the caller's transaction, so that a change and its event are one."""
    t.add(EventRow(at=datetime.now(UTC), kind=kind, actor=actor, user_name=user_name, server_id=server_id,
                   start_no=start_no, data=dict(data or {})))


def of_server(t: Transaction, server_id: str, *, limit: int = 100) -> list[Event]:
    """Return the newest events of a server, oldest first."""
    rows = t.scalars(select(EventRow).where(EventRow.server_id == server_id).order_by(EventRow.id.desc()).limit(limit))
    return [to_event(row) for row in rows][::-1]


def newest(t: Transaction, *, limit: int = 100) -> list[Event]:
    """Return the newest events, oldest first."""
    return [to_event(row) for row in t.scalars(select(EventRow).order_by(EventRow.id.desc()).limit(limit))][::-1]


def to_event(row: EventRow) -> Event:
    return Event(row.id, row.at, row.kind, row.actor, row.user_name, row.server_id, row.start_no, row.data)
