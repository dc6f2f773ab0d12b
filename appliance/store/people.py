"""Users as the REST API lists them: with their groups and servers, many at once, in few questions to the database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from sqlalchemy import ColumnElement, Table, exists, func, insert, or_, select
from sqlalchemy.orm import Session as Transaction

from appliance.domain.names import SMOKE_USER
from appliance.domain.person import Person, Wanted
from appliance.domain.server import Phase, Server
from appliance.domain.user import User
from appliance.errors import BadInput, Exists, NotFound
from appliance.store import events, groups
from appliance.store.rows import CounterRow, EventRow, GroupRow, ServerRow, UserGroupRow, UserRow
from appliance.store.servers import of_users as servers_of
from appliance.store.users import next_uid, to_user

_T = UserRow.__table__.c      # plain columns: of the mapped ones each row costs more
_USER = (_T.id, _T.name, _T.uid, _T.admin, _T.created_at, _T.last_activity_at, _T.must_change_password, _T.display_name,
         _T.archived_at)
_SORTS: Mapping[str, Any] = {"id": _T.id, "name": _T.name, "last_activity": _T.last_activity_at}
_NEVER_EMPTY = ("id", "name")
# made once: to put a question together takes longer than to ask it
_PEOPLE: tuple[ColumnElement[bool], ...] = (
    _T.deleted_at.is_(None), _T.archived_at.is_(None), _T.name != SMOKE_USER)
_PAGE, _COUNT = select(*_USER).where(*_PEOPLE), select(func.count()).select_from(UserRow.__table__).where(*_PEOPLE)


def _order(sort: str, descending: bool) -> tuple[Any, ...]:
    column = _SORTS[sort]
    order = (column.desc(), _T.id.desc()) if descending else (column.asc(), _T.id)
    if sort in _NEVER_EMPTY:
        return order
    # who was never seen comes first, or last: databases do not agree on it by themselves
    return (column.is_(None) if descending else column.is_not(None), *order)


_ORDERS = {(sort, descending): _order(sort, descending) for sort in _SORTS for descending in (False, True)}
_AT_ONCE = 500        # parameters of one question


def find(t: Transaction, name: str) -> Person | None:
    """Return a user with all servers."""
    row = t.scalar(select(UserRow).where(UserRow.name == name, UserRow.deleted_at.is_(None)))
    if row is None:
        return None
    return Person(to_user(row), groups.of_users(t, [row.id]).get(row.id, ()), tuple(servers_of(t, [row.id])))


def get(t: Transaction, user_id: int) -> Person | None:
    name = t.scalar(select(UserRow.name).where(UserRow.id == user_id))
    return find(t, name) if name is not None else None


def count(t: Transaction, wanted: Wanted) -> int:
    """Return how many users there are in all pages; archived ones and the box's own account are none of them."""
    return t.scalar(_COUNT.where(*_conditions(wanted))) or 0


def page(t: Transaction, wanted: Wanted) -> list[Person]:
    """Return some users; archived ones and the box's own account are none of them."""
    rows = t.execute(_PAGE.where(*_conditions(wanted)).order_by(*_ORDERS[wanted.sort, wanted.descending])
                     .offset(wanted.offset).limit(wanted.limit))
    users = [User(id_, name, uid, admin, created, last, must, False, shown, archived is not None)
             for id_, name, uid, admin, created, last, must, shown, archived in rows]
    return _with_rest(t, users, stopped=wanted.stopped)


def add_many(t: Transaction, names: Sequence[str], *, admin: bool, actor: str) -> list[Person]:
    """Add users of validated names, all at once; who is there already is left alone. Raises Exists where all are."""
    names = list(dict.fromkeys(names))
    uid = next_uid(t)       # first: two at once wait for each other here, and the second sees whom the first has added
    there: set[str] = set()
    for start in range(0, len(names), _AT_ONCE):
        there.update(t.scalars(select(UserRow.name).where(
            UserRow.name.in_(names[start:start + _AT_ONCE]), UserRow.deleted_at.is_(None))))
    new = [name for name in names if name not in there]
    if not new:
        raise Exists(f"There is already a user {names[0]}." if len(names) == 1
                     else f"{'Both' if len(names) == 2 else f'All {len(names)}'} of these users are there already.")
    t.get_one(CounterRow, "uid").value = uid + len(new)
    t.flush()
    now = datetime.now(UTC)
    # into the tables and not by the classes: a third of the time, in which nobody else can write
    t.execute(insert(cast(Table, UserRow.__table__)), [
        {"name": name, "uid": uid + place, "admin": admin, "created_at": now, "must_change_password": False,
         "display_name": ""} for place, name in enumerate(new)])
    t.execute(insert(cast(Table, EventRow.__table__)), [
        {"at": now, "kind": "user.added", "actor": actor, "user_name": name, "server_id": "", "start_no": 0,
         "data": {"admin": admin}} for name in new])
    ids = t.execute(select(UserRow.id, UserRow.name, UserRow.uid).where(
        UserRow.uid.between(uid, uid + len(new) - 1)).order_by(UserRow.uid))
    return [Person(User(id_, name, its_uid, admin, now, None)) for id_, name, its_uid in ids]


def rename(t: Transaction, user_id: int, name: str, *, actor: str) -> User:
    """Give a user another validated name; uid, home, sessions, tokens, groups and shares stay. Raises Exists, BadInput."""
    row = t.get(UserRow, user_id)
    if row is None or row.deleted_at is not None:
        raise NotFound("There is no such user.")
    if t.scalar(select(UserRow.id).where(UserRow.name == name, UserRow.deleted_at.is_(None))) is not None:
        raise Exists(f"There is already a user {name}.")
    if t.scalar(select(ServerRow.id).where(ServerRow.user_id == user_id, ServerRow.phase.not_in(Phase.down())).limit(1)):
        raise BadInput(f"A server of {row.name} runs, and its address holds the name. Stop it, then rename {row.name}.",
                       action="Stop the user's servers first.")
    events.append(t, "user.renamed", actor=actor, user_name=name, data={"from": row.name, "to": name})
    row.name = name
    t.flush()
    return to_user(row)


def set_admin(t: Transaction, user_id: int, admin: bool, *, actor: str) -> None:
    row = t.get_one(UserRow, user_id)
    if row.admin != admin:
        row.admin = admin
        events.append(t, "user.admin", actor=actor, user_name=row.name, data={"admin": admin})


def _with_rest(t: Transaction, users: Sequence[User], *, stopped: bool) -> list[Person]:
    ids = [user.id for user in users]
    if not ids:
        return []
    of_groups = groups.of_users(t, ids)
    servers: dict[int, list[Server]] = {}
    for server in servers_of(t, ids, up=not stopped):
        servers.setdefault(server.user_id, []).append(server)
    return [Person(user, of_groups.get(user.id, ()), tuple(servers.get(user.id, ()))) for user in users]


def _conditions(wanted: Wanted) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted.state:
        phases = ServerRow.phase == Phase.READY if wanted.state == "ready" else ServerRow.phase.not_in(Phase.down())
        some = exists().where(ServerRow.user_id == UserRow.id, phases)
        found.append(~some if wanted.state == "inactive" else some)
    if wanted.name_filter:
        found.append(UserRow.name.contains(wanted.name_filter, autoescape=True))
    if wanted.names is not None or wanted.of_groups is not None:
        members = select(UserGroupRow.user_id).join(GroupRow, GroupRow.id == UserGroupRow.group_id).where(
            GroupRow.name.in_(wanted.of_groups or ()))
        found.append(or_(UserRow.name.in_(wanted.names or ()), UserRow.id.in_(members)))
    return found
