"""Users and their passwords' hashes. Functions run inside a transaction of `Database`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete as sql_delete
from sqlalchemy import func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session as Transaction

from appliance.domain.names import SMOKE_USER
from appliance.domain.server import Phase, Wanted
from appliance.domain.user import User
from appliance.errors import Exists, NotFound
from appliance.store import events
from appliance.store.rows import ApiTokenRow, CounterRow, ServerRow, SessionRow, ShareCodeRow, ShareRow, UserRow

FIRST_UID = 100_000  # above every system's own accounts


def to_user(row: UserRow) -> User:
    return User(row.id, row.name, row.uid, row.admin, row.created_at, row.last_activity_at,
                row.must_change_password, row.deleted_at is not None, row.display_name, row.archived_at is not None)


def can_enter(row: UserRow) -> bool:
    """Say whether a session or token of this user still opens anything."""
    return row.deleted_at is None and row.archived_at is None


def find(t: Transaction, name: str) -> User | None:
    row = _live(t, name)
    return to_user(row) if row else None


def get(t: Transaction, user_id: int) -> User | None:
    row = t.get(UserRow, user_id)
    return to_user(row) if row else None


def list_all(t: Transaction) -> list[User]:
    return [to_user(row) for row in t.scalars(select(UserRow).where(UserRow.deleted_at.is_(None)).order_by(UserRow.name))]


def page(t: Transaction, *, search: str = "", up: bool = False, archived: bool = False, offset: int = 0,
         limit: int = 100) -> tuple[list[User], int]:
    """Return some people by name and how many there are in all; the box's own account is none.

    up: only those with a server that is not stopped. archived: these alone, who else are left out.
    """
    query = select(UserRow).where(UserRow.deleted_at.is_(None), UserRow.name != SMOKE_USER,
                                  UserRow.archived_at.is_not(None) if archived else UserRow.archived_at.is_(None))
    if search:
        query = query.where(or_(UserRow.name.contains(search, autoescape=True),
                                func.lower(UserRow.display_name).contains(search, autoescape=True)))
    if up:
        query = query.where(UserRow.id.in_(select(ServerRow.user_id).where(ServerRow.phase.not_in(Phase.down()))))
    total = t.scalar(select(func.count()).select_from(query.subquery())) or 0
    rows = t.scalars(query.order_by(UserRow.name).offset(offset).limit(limit))
    return [to_user(row) for row in rows], total


def count(t: Transaction) -> int:
    return t.scalar(select(func.count()).select_from(UserRow)) or 0


def count_people(t: Transaction) -> tuple[int, int]:
    """Return how many accounts people can use, and how many are archived."""
    people = (UserRow.deleted_at.is_(None), UserRow.name != SMOKE_USER)
    every = t.scalar(select(func.count()).select_from(UserRow).where(*people)) or 0
    archived = t.scalar(select(func.count()).select_from(UserRow).where(*people, UserRow.archived_at.is_not(None))) or 0
    return every - archived, archived


def count_active(t: Transaction, periods: Mapping[str, timedelta]) -> dict[str, int]:
    """Return how many people were seen within each period."""
    now = datetime.now(UTC)
    return {name: t.scalar(select(func.count()).select_from(UserRow).where(
        UserRow.deleted_at.is_(None), UserRow.name != SMOKE_USER, UserRow.last_activity_at > now - period)) or 0
        for name, period in periods.items()}


def uid_taken(t: Transaction, uid: int) -> bool:
    return t.scalar(select(UserRow.id).where(UserRow.uid == uid)) is not None


def add(t: Transaction, name: str, *, admin: bool = False, actor: str = "hub", uid: int | None = None) -> User:
    """Add a user of a validated name. uid: given only when rebuilding from homes. Raises Exists."""
    there = _live(t, name)
    if there is not None:
        raise Exists(f"There is already a user {name}{', archived' if there.archived_at else ''}.")
    row = UserRow(name=name, uid=next_uid(t) if uid is None else uid, admin=admin, created_at=datetime.now(UTC),
                  must_change_password=False, display_name="")
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


def set_display_name(t: Transaction, user_id: int, display_name: str) -> None:
    t.get_one(UserRow, user_id).display_name = display_name


def archive(t: Transaction, name: str, *, actor: str = "hub") -> bool:
    """Put an account away: its sessions end, its servers are wanted stopped, it cannot sign in; all else stays.

    Return whether it was not yet. Raises NotFound.
    """
    row = _named(t, name)
    if row.archived_at is not None:
        return False
    row.archived_at = datetime.now(UTC)
    _end_presence(t, row)
    events.append(t, "user.archived", actor=actor, user_name=name)
    t.flush()
    return True


def unarchive(t: Transaction, name: str, *, actor: str = "hub") -> bool:
    """Return whether it was archived. Raises NotFound."""
    row = _named(t, name)
    if row.archived_at is None:
        return False
    row.archived_at = None
    events.append(t, "user.unarchived", actor=actor, user_name=name)
    return True


def delete(t: Transaction, name: str, *, actor: str = "hub") -> User:
    """Take an account away: sessions and tokens end, servers are wanted stopped. Home and uid stay. Raises NotFound."""
    row = _named(t, name)
    row.deleted_at = datetime.now(UTC)
    row.password_hash = row.roster_hash = None
    _end_presence(t, row)
    for token in t.scalars(select(ApiTokenRow).where(ApiTokenRow.user_id == row.id)):
        t.delete(token)
    own = select(ServerRow.id).where(ServerRow.user_id == row.id)
    t.execute(sql_delete(ShareRow).where(or_(ShareRow.user_id == row.id, ShareRow.server_id.in_(own))))
    t.execute(sql_delete(ShareCodeRow).where(ShareCodeRow.server_id.in_(own)))
    events.append(t, "user.deleted", actor=actor, user_name=name)
    t.flush()
    return to_user(row)


def _end_presence(t: Transaction, row: UserRow) -> None:
    for session in t.scalars(select(SessionRow).where(SessionRow.user_id == row.id)):
        t.delete(session)
    for server in t.scalars(select(ServerRow).where(ServerRow.user_id == row.id)):
        server.wanted = Wanted.STOPPED
        if server.phase == Phase.QUEUED:
            server.phase = Phase.STOPPED


def get_password(t: Transaction, name: str) -> tuple[str, bool] | None:
    """None also for an archived account, which has one but cannot sign in."""
    row = _live(t, name)
    return (row.password_hash, row.must_change_password) if row and row.password_hash and can_enter(row) else None


def set_password(t: Transaction, name: str, hashed: str | None, *, must_change: bool, actor: str = "hub",
                 by_roster: bool = False) -> None:
    """hashed: None takes the password away. by_roster: remember it as the last one that a roster gave. Raises NotFound."""
    row = _named(t, name)
    row.password_hash, row.must_change_password = hashed, must_change
    if by_roster:
        row.roster_hash = hashed
    events.append(t, "user.password", actor=actor, user_name=name)


def roster_hashes(t: Transaction) -> dict[str, str]:
    """Return what a roster's password is compared with, by name: the last one a roster gave, else the present one."""
    rows = t.execute(select(UserRow.name, UserRow.roster_hash, UserRow.password_hash).where(UserRow.deleted_at.is_(None)))
    return {name: hashed for name, given, present in rows if (hashed := given or present)}


def next_uid(t: Transaction) -> int:
    row = t.get(CounterRow, "uid", with_for_update=True)
    if row is None:
        row = CounterRow(name="uid", value=FIRST_UID)
        t.add(row)
    uid = row.value
    row.value = uid + 1
    t.flush()
    return uid


def _live(t: Transaction, name: str) -> UserRow | None:
    return t.scalar(select(UserRow).where(UserRow.name == name, UserRow.deleted_at.is_(None)))


def _named(t: Transaction, name: str) -> UserRow:
    row = _live(t, name)
    if row is None:
        raise NotFound(f"There is no user {name}.")
    return row


def reserve_uid(t: Transaction, uid: int) -> None:
    """Give this uid to nobody: it is somebody's already."""
    row = t.get(CounterRow, "uid", with_for_update=True)
    if row is None:
        t.add(CounterRow(name="uid", value=max(uid + 1, FIRST_UID)))
        t.flush()
    else:
        row.value = max(row.value, uid + 1)
