"""Groups and who is in them. A group is there as long as it has been named once; names are validated by the caller."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session as Transaction

from appliance.domain.user import Group
from appliance.errors import BadInput, Exists, NotFound
from appliance.store import events
from appliance.store.database import among
from appliance.store.rows import GroupRow, ShareRow, UserGroupRow, UserRow

_T = TypeVar("_T")
_TOLD = 50     # names in one event
_IN, _GROUP = UserGroupRow.__table__, GroupRow.__table__     # plain tables: each mapped row costs more
_OF_USERS = select(_IN.c.user_id, _GROUP.c.name).join_from(_IN, _GROUP).order_by(_GROUP.c.name)


def list_all(t: Transaction) -> list[Group]:
    """Return every group with the names of its members; archived ones are in it, deleted ones are not."""
    members: dict[int, list[str]] = {}
    rows = t.execute(select(UserGroupRow.group_id, UserRow.name).join(UserRow, UserRow.id == UserGroupRow.user_id)
                     .where(UserRow.deleted_at.is_(None)).order_by(UserRow.name))
    for group_id, name in rows:
        members.setdefault(group_id, []).append(name)
    groups = t.scalars(select(GroupRow).order_by(GroupRow.name))
    return [to_group(row, members.get(row.id, ())) for row in groups]


def of_users(t: Transaction, user_ids: Collection[int] | None = None) -> dict[int, tuple[str, ...]]:
    """Return the names of groups by user, for these users or for all; a user without any is left out."""
    query = _OF_USERS
    if user_ids:
        query = query.where(among(_IN.c.user_id, user_ids))
    elif user_ids is not None:
        return {}
    wanted = None if user_ids is None else set(user_ids)
    found: dict[int, list[str]] = {}
    for user_id, name in t.execute(query):
        if wanted is None or user_id in wanted:
            found.setdefault(user_id, []).append(name)
    return {user_id: tuple(names) for user_id, names in found.items()}


def to_group(row: GroupRow, members: Iterable[str]) -> Group:
    return Group(row.id, row.name, tuple(members), row.properties if isinstance(row.properties, dict) else {})


def find_id(t: Transaction, name: str) -> int | None:
    return t.scalar(select(GroupRow.id).where(GroupRow.name == name))


def get_id(t: Transaction, name: str) -> int:
    """Raises NotFound."""
    found = find_id(t, name)
    if found is None:
        raise NotFound(f"There is no group {name}.")
    return found


def ids_of_user(t: Transaction, user_id: int) -> list[int]:
    return list(t.scalars(select(UserGroupRow.group_id).where(UserGroupRow.user_id == user_id)))


def standing(t: Transaction, user_id: int) -> tuple[bool, dict[str, Mapping[str, object]]]:
    """Return whether a user is an admin, and the properties of each group of theirs."""
    query = select(UserRow.admin, GroupRow.name, GroupRow.properties).select_from(UserRow).where(UserRow.id == user_id)
    rows = t.execute(query.outerjoin(UserGroupRow, UserGroupRow.user_id == UserRow.id)
                     .outerjoin(GroupRow, GroupRow.id == UserGroupRow.group_id)).all()
    groups: dict[str, Mapping[str, object]] = {
        name: said if isinstance(said, dict) else {} for _, name, said in rows if name is not None}
    return bool(rows and rows[0].admin), groups


def set_of_user(t: Transaction, user_id: int, names: Iterable[str], *, actor: str = "hub") -> None:
    """Make these the user's groups; one that is not there yet is made."""
    wanted = set(names)
    have = set(of_users(t, [user_id]).get(user_id, ()))
    if wanted == have:
        return
    ids = {name: group_id for group_id, name in t.execute(select(GroupRow.id, GroupRow.name))}
    for name in sorted(wanted - ids.keys()):
        row = GroupRow(name=name)
        t.add(row)
        t.flush()
        ids[name] = row.id
    t.execute(delete(UserGroupRow).where(UserGroupRow.user_id == user_id, UserGroupRow.group_id.in_(
        [ids[name] for name in have - wanted])))
    t.add_all(UserGroupRow(user_id=user_id, group_id=ids[name]) for name in sorted(wanted - have))
    events.append(t, "user.groups", actor=actor, user_name=t.get_one(UserRow, user_id).name, data={"groups": sorted(wanted)})
    t.flush()


# -- one by one, for the REST API --------------------------------------------------------------------------------------
def find(t: Transaction, name: str) -> Group | None:
    row = t.scalar(select(GroupRow).where(GroupRow.name == name))
    return _with_members(t, [row])[0] if row else None


def page(t: Transaction, *, names: Collection[str] | None, offset: int, limit: int | None) -> tuple[list[Group], int]:
    """Return some groups, oldest first, and how many there are in all. names: None for every group."""
    query = select(GroupRow)
    if names is not None:
        query = query.where(GroupRow.name.in_(names))
    total = t.scalar(select(func.count()).select_from(query.subquery())) or 0
    rows = t.scalars(query.order_by(GroupRow.id).offset(offset).limit(limit)).all()
    return _with_members(t, rows), total


def add(t: Transaction, name: str, members: Iterable[str] = (), *, actor: str) -> Group:
    """Add a group of a validated name. Raises Exists, BadInput for a member who is not there."""
    if find_id(t, name) is not None:
        raise Exists(f"There is already a group {name}.")
    row = GroupRow(name=name, properties={})
    t.add(row)
    try:
        t.flush()
    except IntegrityError as error:  # two at once on PostgreSQL
        raise Exists(f"There is already a group {name}.") from error
    events.append(t, "group.added", actor=actor, data={"group": name})
    return change_members(t, row.id, add=members, actor=actor)


def change_members(t: Transaction, group_id: int, *, add: Iterable[str] = (), remove: Iterable[str] = (),
                   actor: str) -> Group:
    """Raises NotFound for a group that is gone, BadInput for a user who is not there."""
    row = _locked(t, group_id)
    into, out = _ids(t, add), _ids(t, remove)
    there = set(t.scalars(select(UserGroupRow.user_id).where(UserGroupRow.group_id == group_id)))
    new, gone = {name: id_ for name, id_ in into.items() if id_ not in there}, \
        {name: id_ for name, id_ in out.items() if id_ in there}
    t.add_all(UserGroupRow(user_id=id_, group_id=group_id) for id_ in new.values())
    for ids in _few(list(gone.values())):
        t.execute(delete(UserGroupRow).where(UserGroupRow.group_id == group_id, UserGroupRow.user_id.in_(ids)))
    if new or gone:
        events.append(t, "group.members", actor=actor, data={
            "group": row.name, "added": sorted(new)[:_TOLD], "removed": sorted(gone)[:_TOLD]})
    t.flush()
    return _with_members(t, [row])[0]


def set_properties(t: Transaction, group_id: int, properties: Mapping[str, Any], *, actor: str) -> Group:
    row = _locked(t, group_id)
    row.properties = dict(properties)
    events.append(t, "group.properties", actor=actor, data={"group": row.name})
    t.flush()
    return _with_members(t, [row])[0]


def delete_group(t: Transaction, group_id: int, *, actor: str) -> None:
    """Members stay who they are; what was shared with the group is no longer."""
    row = _locked(t, group_id)
    t.execute(delete(UserGroupRow).where(UserGroupRow.group_id == group_id))
    t.execute(delete(ShareRow).where(ShareRow.group_id == group_id))
    events.append(t, "group.deleted", actor=actor, data={"group": row.name})
    t.delete(row)
    t.flush()


def _locked(t: Transaction, group_id: int) -> GroupRow:
    row = t.get(GroupRow, group_id, with_for_update=True)
    if row is None:
        raise NotFound("There is no such group.")
    return row


def _ids(t: Transaction, names: Iterable[str]) -> dict[str, int]:
    """Return users' ids by name. Raises BadInput for one who is not there."""
    wanted, found = list(names), dict[str, int]()
    for some in _few(wanted):
        found.update((name, id_) for name, id_ in t.execute(select(UserRow.name, UserRow.id).where(
            UserRow.name.in_(some), UserRow.deleted_at.is_(None))))
    missing = [name for name in wanted if name not in found]
    if missing:
        raise BadInput(f"There is no user {missing[0]}." if len(missing) == 1
                       else f"There are no users {', '.join(missing[:5])}{' and others' if len(missing) > 5 else ''}.")
    return found


def _with_members(t: Transaction, rows: Sequence[GroupRow]) -> list[Group]:
    members: dict[int, list[str]] = {}
    for some in _few(rows):
        for group_id, name in t.execute(
                select(UserGroupRow.group_id, UserRow.name).join(UserRow, UserRow.id == UserGroupRow.user_id)
                .where(UserRow.deleted_at.is_(None), UserGroupRow.group_id.in_([row.id for row in some]))
                .order_by(UserRow.name)):
            members.setdefault(group_id, []).append(name)
    return [to_group(row, members.get(row.id, ())) for row in rows]


def _few(many: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """A database takes only so many parameters in one question."""
    return (many[start:start + 500] for start in range(0, len(many), 500))
