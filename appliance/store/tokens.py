"""API tokens, of users and of services: only a salted hash is kept, found by an indexed prefix."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, delete, or_, select
from sqlalchemy.orm import Session as Transaction

from appliance.domain.user import ApiToken
from appliance.errors import BadOption, NotFound
from appliance.store import events
from appliance.store.hashes import PREFIX_LENGTH, hashed, matches
from appliance.store.rows import ApiTokenRow, OAuthCodeRow, SessionRow, UserRow
from appliance.store.users import can_enter, to_user

LONGEST_S = 10 * 365 * 86_400
MAX_NOTE = 200
IMPORTED_PREFIX_LENGTH = 4


def to_token(row: ApiTokenRow) -> ApiToken:
    return ApiToken(row.id, to_user(row.user) if row.user is not None else None, row.note, row.created_at, row.expires_at,
                    row.last_used_at, row.service_name or "", tuple(row.scopes), row.client_id, row.session_id)


def check_lifetime(expires_in_s: int | None, longest_s: int = LONGEST_S) -> int | None:
    """Return the lifetime if there is such a one; None is no end. Raises BadOption."""
    if expires_in_s is None:
        return None
    if isinstance(expires_in_s, bool) or not isinstance(expires_in_s, int) or not 0 < expires_in_s <= longest_s:
        most = "ten years" if longest_s == LONGEST_S else f"{longest_s} seconds"
        raise BadOption(f"A token lives for at least one second and at most {most}; leave the time out for "
                        f"{'no end' if longest_s == LONGEST_S else 'the longest'}.")
    return expires_in_s


def add(t: Transaction, *, user_id: int | None = None, service_name: str = "", scopes: Sequence[str] = ("inherit",),
        note: str = "", expires_in_s: int | None = None, client_id: str = "", session_id: str = "", actor: str = "hub"
        ) -> tuple[str, ApiToken]:
    """Return a new token, 64 hex characters, and its record; the token is not kept and cannot be shown again.

    user_id or service_name: whose it is. session_id: it ends with that session. Raises NotFound, BadOption.
    """
    if (user_id is None) == (not service_name):
        raise ValueError("a token is a user's or a service's")
    user = t.get(UserRow, user_id) if user_id is not None else None
    if user_id is not None and (user is None or not can_enter(user)):
        raise NotFound("There is no such user.")
    check_lifetime(expires_in_s)
    now, secret = datetime.now(UTC), secrets.token_hex(32)
    row = ApiTokenRow(
        user_id=user_id, service_name=service_name or None, prefix=secret[:PREFIX_LENGTH], hashed=hashed(secret),
        note=note[:MAX_NOTE], scopes=list(scopes), client_id=client_id, session_id=session_id, created_at=now,
        expires_at=now + timedelta(seconds=expires_in_s) if expires_in_s is not None else None)
    row.user = user
    t.add(row)
    t.flush()
    data = {"note": row.note, "id": row.id, "scopes": row.scopes[:50]} | ({"service": service_name} if service_name else {})
    events.append(t, "token.created", actor=actor, user_name=user.name if user else "", data=data)
    return secret, to_token(row)


def find(t: Transaction, secret: str) -> ApiToken | None:
    """Return the record of a token that is good: not expired, its user not archived, its session alive."""
    if not (16 <= len(secret) <= 128 and secret.isascii() and secret.isprintable()):
        return None
    for row in t.scalars(select(ApiTokenRow).where(ApiTokenRow.prefix.in_(_prefixes(secret)), _living())):
        if matches(row.hashed, secret) and (row.user is None or can_enter(row.user)):
            return to_token(row)
    return None


def get(t: Transaction, token_id: int) -> ApiToken | None:
    """Return the record of a token that has not expired."""
    row = t.scalar(select(ApiTokenRow).where(ApiTokenRow.id == token_id, _living()))
    return to_token(row) if row is not None else None


def of_user(t: Transaction, user_id: int) -> list[ApiToken]:
    return [to_token(row) for row in t.scalars(
        select(ApiTokenRow).where(ApiTokenRow.user_id == user_id, _living()).order_by(ApiTokenRow.id))]


def of_service(t: Transaction, name: str) -> list[ApiToken]:
    return [to_token(row) for row in t.scalars(
        select(ApiTokenRow).where(ApiTokenRow.service_name == name, _living()).order_by(ApiTokenRow.id))]


def touch(t: Transaction, token_id: int) -> None:
    row = t.get(ApiTokenRow, token_id)
    if row is not None:
        row.last_used_at = datetime.now(UTC)


def revoke(t: Transaction, token_ids: Collection[int], *, actor: str = "hub") -> int:
    """Return how many of them there were."""
    return _end(t, ApiTokenRow.id.in_(token_ids), actor)


def end_of_user(t: Transaction, user_id: int) -> int:
    return _end(t, ApiTokenRow.user_id == user_id)


def end_of_service(t: Transaction, name: str) -> int:
    return _end(t, ApiTokenRow.service_name == name)


def end_of_client(t: Transaction, client_id: str) -> int:
    """End what an OAuth client was given, codes included."""
    t.execute(delete(OAuthCodeRow).where(OAuthCodeRow.client_id == client_id))
    return _end(t, ApiTokenRow.client_id == client_id)


def end_expired(t: Transaction) -> int:
    """Take away what is good for nothing any more; tokens whose session has ended, too."""
    now = datetime.now(UTC)
    t.execute(delete(OAuthCodeRow).where(OAuthCodeRow.expires_at <= now))
    return _end(t, ~_living())


def _prefixes(secret: str) -> tuple[str, str]:
    """Return what a token may be found by: tokens of an original JupyterHub are kept with four letters."""
    return secret[:PREFIX_LENGTH], secret[:IMPORTED_PREFIX_LENGTH]


def _living() -> ColumnElement[bool]:
    now = datetime.now(UTC)
    sessions = select(SessionRow.id).where(SessionRow.expires_at > now)
    return (or_(ApiTokenRow.expires_at.is_(None), ApiTokenRow.expires_at > now)
            & or_(ApiTokenRow.session_id == "", ApiTokenRow.session_id.in_(sessions)))


def _end(t: Transaction, which: ColumnElement[bool], actor: str = "") -> int:
    rows = t.scalars(select(ApiTokenRow).where(which)).all()
    for row in rows:
        t.delete(row)
        if actor:
            events.append(t, "token.revoked", actor=actor, user_name=row.user.name if row.user else "",
                          data={"id": row.id, "note": row.note})
    t.flush()
    return len(rows)
