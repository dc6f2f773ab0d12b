"""Users, their passwords' hashes and their API tokens. Functions run inside a transaction of `Database`."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session as Transaction

from appliance.domain.server import Phase, Wanted
from appliance.domain.user import ApiToken, User
from appliance.errors import BadOption, Exists, NotFound
from appliance.store import events
from appliance.store.rows import ApiTokenRow, CounterRow, ServerRow, SessionRow, UserRow

FIRST_UID = 100_000  # above every system's own accounts
TOKEN_PREFIX_LENGTH = 8


def to_user(row: UserRow) -> User:
    return User(row.id, row.name, row.uid, row.admin, row.created_at, row.last_activity_at,
                row.must_change_password, row.deleted_at is not None)


def find(t: Transaction, name: str) -> User | None:
    row = _live(t, name)
    return to_user(row) if row else None


def get(t: Transaction, user_id: int) -> User | None:
    row = t.get(UserRow, user_id)
    return to_user(row) if row else None


def list_all(t: Transaction) -> list[User]:
    return [to_user(row) for row in t.scalars(select(UserRow).where(UserRow.deleted_at.is_(None)).order_by(UserRow.name))]


def page(t: Transaction, *, search: str = "", up: bool = False, offset: int = 0, limit: int = 100) -> tuple[list[User], int]:
    """Return some users by name and how many there are in all. up: only those with a server that is not stopped."""
    query = select(UserRow).where(UserRow.deleted_at.is_(None))
    if search:
        query = query.where(UserRow.name.contains(search, autoescape=True))
    if up:
        query = query.where(UserRow.id.in_(select(ServerRow.user_id).where(ServerRow.phase.not_in(Phase.down()))))
    total = t.scalar(select(func.count()).select_from(query.subquery())) or 0
    rows = t.scalars(query.order_by(UserRow.name).offset(offset).limit(limit))
    return [to_user(row) for row in rows], total


def count(t: Transaction) -> int:
    return t.scalar(select(func.count()).select_from(UserRow)) or 0


def uid_taken(t: Transaction, uid: int) -> bool:
    return t.scalar(select(UserRow.id).where(UserRow.uid == uid)) is not None


def add(t: Transaction, name: str, *, admin: bool = False, actor: str = "hub", uid: int | None = None) -> User:
    """Add a user of a validated name. uid: given only when rebuilding from homes. Raises Exists."""
    if _live(t, name) is not None:
        raise Exists(f"There is already a user {name}.")
    row = UserRow(name=name, uid=next_uid(t) if uid is None else uid, admin=admin, created_at=datetime.now(UTC),
                  must_change_password=False)
    t.add(row)
    try:
        t.flush()
    except IntegrityError as error:  # two at once on PostgreSQL
        raise Exists(f"There is already a user {name}.") from error
    if uid is not None:
        reserve_uid(t, uid)
    events.append(t, "user.added", actor=actor, user_name=name, data={"admin": admin})
    return to_user(row)


def set_admin(t: Transaction, user_id: int, admin: bool) -> None:
    row = t.get_one(UserRow, user_id)
    if row.admin != admin:
        row.admin = admin
        events.append(t, "user.admin", user_name=row.name, data={"admin": admin})


def delete(t: Transaction, name: str, *, actor: str = "hub") -> User:
    """Take an account away: sessions and tokens end, servers are wanted stopped. Home and uid stay. Raises NotFound."""
    row = _live(t, name)
    if row is None:
        raise NotFound(f"There is no user {name}.")
    row.deleted_at = datetime.now(UTC)
    row.password_hash = None
    for session in t.scalars(select(SessionRow).where(SessionRow.user_id == row.id)):
        t.delete(session)
    for token in t.scalars(select(ApiTokenRow).where(ApiTokenRow.user_id == row.id)):
        t.delete(token)
    for server in t.scalars(select(ServerRow).where(ServerRow.user_id == row.id)):
        server.wanted = Wanted.STOPPED
        if server.phase == Phase.QUEUED:
            server.phase = Phase.STOPPED
    events.append(t, "user.deleted", actor=actor, user_name=name)
    t.flush()
    return to_user(row)


def get_password(t: Transaction, name: str) -> tuple[str, bool] | None:
    row = _live(t, name)
    return (row.password_hash, row.must_change_password) if row and row.password_hash else None


def set_password(t: Transaction, name: str, hashed: str, *, must_change: bool, actor: str = "hub") -> None:
    row = _live(t, name)
    if row is None:
        raise NotFound(f"There is no user {name}.")
    row.password_hash, row.must_change_password = hashed, must_change
    events.append(t, "user.password", actor=actor, user_name=name)


def next_uid(t: Transaction) -> int:
    row = t.get(CounterRow, "uid", with_for_update=True)
    if row is None:
        row = CounterRow(name="uid", value=FIRST_UID)
        t.add(row)
    uid = row.value
    row.value = uid + 1
    t.flush()
    return uid


# -- API tokens: only a salted hash is kept, found by an indexed prefix ------------------------------------------------
def create_token(t: Transaction, name: str, note: str, expires_in_s: int | None) -> str:
    """Return a new token, 64 hex characters; it is not kept and cannot be shown again. Raises NotFound, BadOption."""
    row = _live(t, name)
    if row is None:
        raise NotFound(f"There is no user {name}.")
    if expires_in_s is not None and not 0 < expires_in_s <= 10 * 365 * 86_400:
        raise BadOption("A token lives for at least one second and at most ten years; leave the time out for no end.")
    now = datetime.now(UTC)
    token = secrets.token_hex(32)
    t.add(ApiTokenRow(user_id=row.id, prefix=token[:TOKEN_PREFIX_LENGTH], hashed=_hash_token(token), note=note[:200],
                      created_at=now, expires_at=now + timedelta(seconds=expires_in_s) if expires_in_s else None))
    events.append(t, "token.created", user_name=name, data={"note": note[:200]})
    return token


def find_by_token(t: Transaction, token: str) -> ApiToken | None:
    """Return the token's record with its user, None if it is unknown or has expired."""
    if not 16 <= len(token) <= 128:
        return None
    now = datetime.now(UTC)
    rows = t.scalars(select(ApiTokenRow).where(ApiTokenRow.prefix == token[:TOKEN_PREFIX_LENGTH]))
    for row in rows:
        salt = row.hashed.partition(":")[0]
        if not hmac.compare_digest(row.hashed, _hash_token(token, salt)):
            continue
        if row.user.deleted_at is None and (row.expires_at is None or row.expires_at > now):
            return ApiToken(row.id, to_user(row.user), row.note, row.created_at, row.expires_at, row.last_used_at)
    return None


def touch_token(t: Transaction, token_id: int) -> None:
    row = t.get(ApiTokenRow, token_id)
    if row is not None:
        row.last_used_at = datetime.now(UTC)


def _hash_token(token: str, salt: str = "") -> str:
    salt = salt or secrets.token_hex(8)
    return f"{salt}:{hashlib.sha512((salt + token).encode()).hexdigest()}"


def _live(t: Transaction, name: str) -> UserRow | None:
    return t.scalar(select(UserRow).where(UserRow.name == name, UserRow.deleted_at.is_(None)))


def reserve_uid(t: Transaction, uid: int) -> None:
    """Give this uid to nobody: it is somebody's already."""
    row = t.get(CounterRow, "uid", with_for_update=True)
    if row is None:
        t.add(CounterRow(name="uid", value=max(uid + 1, FIRST_UID)))
        t.flush()
    else:
        row.value = max(row.value, uid + 1)
