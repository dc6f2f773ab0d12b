"""Groups and who is in them. A group is there as long as it has been named once; names are validated by the caller."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from sqlalchemy import delete, select
from sqlalchemy.orm import Session as Transaction

from appliance.domain.user import Group
from appliance.store import events
from appliance.store.rows import GroupRow, UserGroupRow, UserRow


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
    query = select(UserGroupRow.user_id, GroupRow.name).join(GroupRow, GroupRow.id == UserGroupRow.group_id)
    if user_ids is not None:
        query = query.where(UserGroupRow.user_id.in_(user_ids))
    found: dict[int, list[str]] = {}
    for user_id, name in t.execute(query.order_by(GroupRow.name)):
        found.setdefault(user_id, []).append(name)
    return {user_id: tuple(names) for user_id, names in found.items()}


def to_group(row: GroupRow, members: Iterable[str]) -> Group:
    return Group(row.id, row.name, tuple(members), row.properties if isinstance(row.properties, dict) else {})


def find_id(t: Transaction, name: str) -> int | None:
    return t.scalar(select(GroupRow.id).where(GroupRow.name == name))


def ids_of_user(t: Transaction, user_id: int) -> list[int]:
    return list(t.scalars(select(UserGroupRow.group_id).where(UserGroupRow.user_id == user_id)))


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
