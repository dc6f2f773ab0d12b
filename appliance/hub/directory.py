"""Who there is: users and groups as the REST API lists and changes them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import anyio.to_thread

from appliance.domain.group_limits import check_properties
from appliance.domain.names import validate_groupname, validate_new_username, validate_username
from appliance.domain.person import Person, Wanted
from appliance.domain.user import Group, User
from appliance.errors import ApplianceError, BadInput, BadName
from appliance.ports import Homes
from appliance.store import groups, people, users
from appliance.store import servers as server_store
from appliance.store.database import Database

MOST_NAMES = 10_000
PAGES_AT_ONCE = 5
_SHOWN_NAMES = 5


@dataclass
class Directory:
    """wake: told the id of each server that a change concerns. check_properties: raises BadOption for a group's."""

    db: Database
    homes: Homes
    wake: Callable[[str], None]
    page_default_limit: int = 50
    page_max_limit: int = 200
    check_properties: Callable[[Mapping[str, Any]], object] = check_properties

    # -- users ---------------------------------------------------------------------------------------------------------
    async def person(self, name: str) -> Person | None:
        """Return the user of a validated name, with groups and all servers."""
        return await self.db.recall(("person", name), lambda t: people.find(t, name),
                                    lambda found: 60.0 if found is not None else 0.0)

    async def person_by_id(self, user_id: int) -> Person | None:
        return await self.db.read(lambda t: people.get(t, user_id))

    async def users(self, wanted: Wanted) -> tuple[Sequence[Person], int]:
        """Return some users and how many there are in all."""
        # of many pages the first question is the same: to count them all
        total = await self.db.recall(("people", replace(wanted, offset=0, limit=0)), lambda t: people.count(t, wanted))
        block = _block(wanted)
        found = await self.db.recall(("page", block), lambda t: tuple(people.page(t, block)), weight=lambda page: 1 + len(page))
        begin = wanted.offset - block.offset
        return found[begin:begin + wanted.limit], total

    async def add_users(self, names: Sequence[str], *, admin: bool, actor: str) -> list[Person]:
        """Add users and return those that were not there yet: all of them or, if one name cannot be, none.

        Raises BadName, Exists where all are there already.
        """
        valid = await anyio.to_thread.run_sync(_validated, names)
        return await self.db.transact(lambda t: people.add_many(t, valid, admin=admin, actor=actor))

    async def change_user(self, user: User, *, name: str | None = None, admin: bool | None = None, actor: str) -> None:
        """Rename a user, or make one an admin or none. Raises BadName, Exists, BadInput while a server of theirs runs."""
        renamed = validate_new_username(name) if name is not None else user.name

        def work(t: Any) -> None:
            if renamed != user.name:
                people.rename(t, user.id, renamed, actor=actor)
            if admin is not None:
                people.set_admin(t, user.id, admin, actor=actor)

        await self.db.transact(work)
        if renamed == user.name:
            return
        try:
            await self.homes.rename(user.uid, renamed)
        except ApplianceError:    # a home that is another's by its name would never open again
            await self.db.transact(lambda t: people.rename(t, user.id, user.name, actor=actor))
            raise

    async def delete_user(self, user: User, *, actor: str) -> None:
        """End a user's sessions, tokens and servers; the home stays, and the name is free again."""
        await self.db.transact(lambda t: users.delete(t, user.name, actor=actor))
        for server in await self.db.read(lambda t: server_store.of_users(t, [user.id])):
            self.wake(server.id)

    # -- groups --------------------------------------------------------------------------------------------------------
    async def group(self, name: str) -> Group | None:
        return await self.db.read(lambda t: groups.find(t, name))

    async def groups(self, *, names: Collection[str] | None = None, offset: int = 0,
                     limit: int | None = None) -> tuple[list[Group], int]:
        """Return some groups, oldest first, and how many there are in all. names: None for every group."""
        return await self.db.read(lambda t: groups.page(t, names=names, offset=offset, limit=limit))

    async def add_groups(self, names: Sequence[str], members: Sequence[str] = (), *, actor: str) -> list[Group]:
        """Add groups, each with these users in it: all of them or none. Raises BadName, Exists, BadInput."""
        valid = list(dict.fromkeys(validate_groupname(name) for name in names))
        who = _usernames(members)
        return await self.db.transact(lambda t: [groups.add(t, name, who, actor=actor) for name in valid])

    async def delete_group(self, group: Group, *, actor: str) -> None:
        await self.db.transact(lambda t: groups.delete_group(t, group.id, actor=actor))

    async def add_members(self, group: Group, members: Sequence[str], *, actor: str) -> Group:
        """Raises BadInput for one who is not there; one who is in the group already is no error."""
        who = _usernames(members)
        return await self.db.transact(lambda t: groups.change_members(t, group.id, add=who, actor=actor))

    async def remove_members(self, group: Group, members: Sequence[str], *, actor: str) -> Group:
        who = _usernames(members)
        return await self.db.transact(lambda t: groups.change_members(t, group.id, remove=who, actor=actor))

    async def set_properties(self, group: Group, properties: Mapping[str, Any], *, actor: str) -> Group:
        """Raises BadOption for a wrong value of a key that limits members' servers; all others are anybody's."""
        self.check_properties(properties)
        return await self.db.transact(lambda t: groups.set_properties(t, group.id, properties, actor=actor))


def _block(wanted: Wanted) -> Wanted:
    """Return what is read for a page. Who asks for the second one walks on, so what follows is read with it."""
    page, rest = divmod(wanted.offset, wanted.limit)
    if page == 0 or rest:
        return wanted
    return replace(wanted, offset=wanted.limit * (page - (page - 1) % PAGES_AT_ONCE), limit=wanted.limit * PAGES_AT_ONCE)


def _validated(names: Sequence[str]) -> list[str]:
    if len(names) > MOST_NAMES:
        raise BadInput(f"At most {MOST_NAMES} users can be added at once.")
    valid, bad, why = [], [], ""
    for name in names:
        try:
            valid.append(validate_new_username(name))
        except BadName as error:
            bad.append(name)
            why = why or error.sentence
    if bad:
        shown = ", ".join(f"“{name[:40]}”" if name[:40].isprintable() else "“?”" for name in bad[:_SHOWN_NAMES])
        more = f" and {len(bad) - _SHOWN_NAMES} more" if len(bad) > _SHOWN_NAMES else ""
        raise BadName(f"Nobody was added, because of {shown}{more}: {why}")
    return valid


def _usernames(names: Sequence[str]) -> list[str]:
    """Raises BadInput: a name that cannot be is nobody's."""
    if len(names) > MOST_NAMES:
        raise BadInput(f"At most {MOST_NAMES} users can be named at once.")
    try:
        return list(dict.fromkeys(validate_username(name) for name in names))
    except BadName as error:
        raise BadInput(f"There is no such user: {error.sentence}") from error
