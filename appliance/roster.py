"""A list of people made true: what it would change, and the change, in one transaction."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import anyio

from appliance.authenticators.local import AccountsAuthenticator, generate_password
from appliance.domain.names import SMOKE_USER
from appliance.domain.user import User
from appliance.errors import BadInput
from appliance.ports import Authenticator, LoginRequest
from appliance.rosterfile import Person, Problem
from appliance.store import groups, users
from appliance.store.database import Database, Transaction

ACTOR = "roster"


@dataclass(frozen=True)
class Change:
    """What becomes of one account. before: "" where it is new."""

    name: str
    what: str                  # "added", "display name", "groups", "admin", "password", "unarchived", "archived"
    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class Card:
    """What one person is told, on the sheet and nowhere else."""

    name: str
    display_name: str
    groups: tuple[str, ...]
    password: str = field(repr=False)


@dataclass(frozen=True)
class Plan:
    changes: tuple[Change, ...]
    unchanged: int
    missing: tuple[str, ...]             # have an account, are not on the list, and stay
    missing_admins: tuple[str, ...]      # the same, and are never archived for that
    passwords: Mapping[str, str] = field(repr=False)      # to be set, by name
    generated: frozenset[str]            # names of those that nobody has seen yet
    cards: tuple[Card, ...] = field(repr=False)
    must_change: Mapping[str, bool]

    @property
    def changed(self) -> bool:
        return bool(self.changes)

    def names(self, what: str) -> list[str]:
        return [change.name for change in self.changes if change.what == what]

    def updated(self) -> dict[str, list[Change]]:
        """Return the changes of accounts that were there and stay, by name."""
        added, found = set(self.names("added")), dict[str, list[Change]]()
        for change in self.changes:
            if change.name not in added and change.what != "archived":
                found.setdefault(change.name, []).append(change)
        return found


class WrongRoster(BadInput):
    """Nothing was written; `problems` says everything that is wrong."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [f"line {problem.line}: {problem.sentence}" if problem.line else problem.sentence for problem in problems]
        shown = "\n  ".join(lines[:100] + ([f"… and {len(lines) - 100} more."] if len(lines) > 100 else []))
        super().__init__(f"Nothing was changed, because of {len(lines)} mistake{'' if len(lines) == 1 else 's'}:\n  {shown}",
                         action="Correct the list, then try again.")


class _Hashes:
    """A PasswordStore that writes nothing: it gives the hashes to compare with and collects new ones."""

    def __init__(self, known: Mapping[str, str]) -> None:
        self._known = known
        self.made: dict[str, str] = {}

    async def get_password(self, name: str) -> tuple[str, bool] | None:
        return (self._known[name], False) if name in self._known else None

    async def set_password(self, name: str, hashed: str, *, must_change: bool) -> None:
        self.made[name] = hashed


class Applying:
    """One list against one store. archive_missing: accounts that are not on the list are archived; admins' never are.

    yes: also what looks like a mistake: an empty list that would archive everybody, the last admin's rights.
    """

    def __init__(self, db: Database, authenticator: Authenticator, people: Sequence[Person], *,
                 archive_missing: bool = False, yes: bool = False) -> None:
        self._db, self._authenticator, self._people = db, authenticator, people
        self._archive_missing, self._yes = archive_missing, yes

    def plan(self) -> Plan:
        """Compare; nothing is written. Raises WrongRoster, BadInput."""
        rows, known_groups, hashes = self._db.run(
            lambda t: (users.list_all(t), groups.of_users(t), users.roster_hashes(t)), write=False)
        there = {user.name: user for user in rows if user.name != SMOKE_USER}
        listed = {person.name: person for person in self._people}
        missing = [user for name, user in there.items() if name not in listed and not user.archived]
        archived = [user.name for user in missing if not user.admin] if self._archive_missing else []
        if archived and not self._people and not self._yes:
            raise BadInput(f"The list is empty, so all {len(archived)} accounts would be archived. Nothing was changed.",
                           action="If that is meant, add --yes.")
        self._refuse_no_admin(there, listed)
        new_passwords, generated = self._passwords(there, hashes)
        changes: list[Change] = []
        unchanged = 0
        for person in self._people:
            user = there.get(person.name)
            own = list(_changes(person, user, known_groups.get(user.id, ()) if user else (), person.name in new_passwords))
            unchanged += not own
            changes += own
        changes += [Change(name, "archived") for name in archived]
        cards = [Card(person.name, _display_name(person, there), _groups(person, there, known_groups),
                      new_passwords[person.name]) for person in self._people if person.name in new_passwords]
        return Plan(
            tuple(changes), unchanged, tuple(user.name for user in missing if not user.admin and user.name not in archived),
            tuple(user.name for user in missing if user.admin), new_passwords, generated,
            tuple(sorted(cards, key=lambda card: (card.groups, card.display_name.casefold() or card.name, card.name))),
            {person.name: person.must_change_password for person in self._people})

    def hash(self, plan: Plan) -> dict[str, str]:
        """Return the hashes of the passwords to be set: 30 ms of a core each. Raises WrongRoster for weak ones."""
        store = _Hashes({})
        problems: list[Problem] = []
        lines = {person.name: person.line for person in self._people}

        async def one(name: str) -> None:
            try:
                await self._authenticator.set_password(name, plan.passwords[name], must_change=True)
            except BadInput as error:
                problems.append(Problem(lines[name], f"{name}: {error.sentence}"))

        self._for_each(store, list(plan.passwords), one)
        if problems:
            raise WrongRoster(sorted(problems, key=lambda problem: problem.line))
        return store.made

    def apply(self, plan: Plan, hashes: Mapping[str, str]) -> None:
        """Make the plan true, all of it or nothing."""
        people = {person.name: person for person in self._people}
        added = set(plan.names("added"))
        touched = dict.fromkeys(change.name for change in plan.changes if change.what != "archived")

        def work(t: Transaction) -> None:
            for name in touched:
                self._write(t, people[name], new=name in added)
                if name in hashes:
                    users.set_password(t, name, hashes[name], must_change=plan.must_change[name], actor=ACTOR, by_roster=True)
            for name in plan.names("archived"):
                users.archive(t, name, actor=ACTOR)

        self._db.run(work)

    @staticmethod
    def _write(t: Transaction, person: Person, *, new: bool) -> None:
        user = users.add(t, person.name, admin=bool(person.admin), actor=ACTOR) if new else users.find(t, person.name)
        if user is None:
            raise BadInput(f"{person.name} was deleted meanwhile; nothing was changed.", action="Try again.")
        if user.archived:
            users.unarchive(t, person.name, actor=ACTOR)
        if person.display_name is not None:
            users.set_display_name(t, user.id, person.display_name)
        if person.groups is not None:
            groups.set_of_user(t, user.id, person.groups, actor=ACTOR)
        if person.admin is not None:
            users.set_admin(t, user.id, person.admin)

    def _refuse_no_admin(self, there: Mapping[str, User], listed: Mapping[str, Person]) -> None:
        admins = [user for user in there.values() if user.admin and not user.archived]
        left = [user for user in admins if user.name not in listed or listed[user.name].admin is not False]
        if admins and not left and not any(person.admin for person in self._people) and not self._yes:
            raise BadInput("The list takes the rights of the last admin away. Nothing was changed.",
                           action="Name another admin in it; if that is meant, add --yes.")

    def _passwords(self, there: Mapping[str, User], hashes: Mapping[str, str]) -> tuple[dict[str, str], frozenset[str]]:
        """Return the passwords to be set by name, and the names of those that were generated.

        One that the list gave before is not set again, even if its owner has chosen another one meanwhile.
        """
        given = [person for person in self._people if person.password is not None]
        if not self._authenticator.manages_passwords:
            if given:
                raise WrongRoster([Problem(person.line, f"{person.name}: passwords of these accounts are kept elsewhere, "
                                                        "so none can be given here.") for person in given])
            return {}, frozenset()
        same: set[str] = set()
        said = {person.name: person.password or "" for person in given if person.name in hashes}

        async def compare(name: str) -> None:
            if await self._authenticator.authenticate(LoginRequest(), {"username": name, "password": said[name]}) is not None:
                same.add(name)

        self._for_each(_Hashes(hashes), list(said), compare)
        wanted = {person.name: person.password or "" for person in given if person.name not in same}
        generated = {person.name: generate_password() for person in self._people
                     if person.name not in there and person.password is None}
        order = {**wanted, **generated}
        return {person.name: order[person.name] for person in self._people if person.name in order}, frozenset(generated)

    def _for_each(self, store: _Hashes, names: Sequence[str], work: Callable[[str], Awaitable[object]]) -> None:
        """Run async `work` for each name on all cores, the authenticator's passwords being `store`."""
        if not names:
            return
        before = self._authenticator.passwords
        if isinstance(self._authenticator, AccountsAuthenticator):
            self._authenticator.hash_in(min(4, max(2, len(os.sched_getaffinity(0)))))  # 19 MB each

        async def run() -> None:
            places = anyio.CapacityLimiter(64)

            async def one(name: str) -> None:
                async with places:
                    await work(name)

            async with anyio.create_task_group() as tasks:
                for name in names:
                    tasks.start_soon(one, name)

        self._authenticator.passwords = store
        try:
            anyio.run(run)
        finally:
            self._authenticator.passwords = before


def _changes(person: Person, user: User | None, now: tuple[str, ...], password: bool) -> list[Change]:
    if user is None:
        return [Change(person.name, "added", "", person.display_name or "")]
    found = [Change(person.name, "unarchived")] if user.archived else []
    if person.display_name is not None and person.display_name != user.display_name:
        found.append(Change(person.name, "display name", user.display_name, person.display_name))
    if person.groups is not None and person.groups != now:
        found.append(Change(person.name, "groups", ", ".join(now), ", ".join(person.groups)))
    if person.admin is not None and person.admin != user.admin:
        found.append(Change(person.name, "admin", "yes" if user.admin else "no", "yes" if person.admin else "no"))
    if password:
        found.append(Change(person.name, "password"))
    return found


def _display_name(person: Person, there: Mapping[str, User]) -> str:
    user = there.get(person.name)
    return person.display_name if person.display_name is not None else user.display_name if user else ""


def _groups(person: Person, there: Mapping[str, User], known: Mapping[int, tuple[str, ...]]) -> tuple[str, ...]:
    user = there.get(person.name)
    return person.groups if person.groups is not None else known.get(user.id, ()) if user else ()
