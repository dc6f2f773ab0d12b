"""Sessions: the server's side of a login, so that it can be listed and ended."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session as Transaction

from appliance.domain.user import Session
from appliance.store import events
from appliance.store.rows import SessionRow, UserRow
from appliance.store.users import can_enter, to_user


def to_session(row: SessionRow) -> Session:
    return Session(row.id, to_user(row.user), row.origin, row.created_at, row.expires_at, row.last_seen_at,
                   row.address, row.user_agent)


def add(t: Transaction, session_id: str, user_id: int, *, origin: str, address: str, user_agent: str,
        lifetime_s: int) -> Session:
    now = datetime.now(UTC)
    user = t.get_one(UserRow, user_id)
    row = SessionRow(id=session_id, user_id=user_id, origin=origin, created_at=now, last_seen_at=now,
                     expires_at=now + timedelta(seconds=lifetime_s), address=address[:64], user_agent=user_agent[:200])
    row.user = user
    user.last_activity_at = now
    t.add(row)
    events.append(t, "session.begun", actor=user.name, user_name=user.name, data={"address": row.address})
    t.flush()
    return to_session(row)


def find(t: Transaction, session_id: str) -> Session | None:
    """Return a session that lives."""
    row = t.get(SessionRow, session_id)
    if row is None or row.expires_at <= datetime.now(UTC) or not can_enter(row.user):
        return None
    return to_session(row)


def of_user(t: Transaction, user_id: int) -> list[Session]:
    rows = t.scalars(select(SessionRow).where(SessionRow.user_id == user_id, SessionRow.expires_at > datetime.now(UTC))
                     .order_by(SessionRow.created_at))
    return [to_session(row) for row in rows if can_enter(row.user)]


def touch(t: Transaction, session_id: str) -> None:
    row = t.get(SessionRow, session_id)
    if row is not None:
        row.last_seen_at = row.user.last_activity_at = datetime.now(UTC)


def end(t: Transaction, session_ids: Sequence[str], *, actor: str) -> None:
    for row in t.scalars(select(SessionRow).where(SessionRow.id.in_(session_ids))):
        events.append(t, "session.ended", actor=actor, user_name=row.user.name)
        t.delete(row)


def end_expired(t: Transaction) -> set[int]:
    """Return the ids of the users whose sessions ended."""
    rows = list(t.scalars(select(SessionRow).where(SessionRow.expires_at <= datetime.now(UTC))))
    for row in rows:
        t.delete(row)
    return {row.user_id for row in rows}
