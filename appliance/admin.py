"""What an admin does from a terminal, in the store itself; a running Hub sees it within a second."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from appliance.config import Settings
from appliance.domain.names import SMOKE_USER, validate_new_username, validate_username
from appliance.domain.scopes import INHERIT
from appliance.domain.user import User
from appliance.errors import ApplianceError, BadInput, NotFound
from appliance.hub.permissions import Permissions
from appliance.hub.tokens import Tokens
from appliance.importer import Importing
from appliance.jupyterhubfile import OldHub
from appliance.main import make_authenticator, make_spawner, open_database, open_store
from appliance.ports import Homes
from appliance.roster import Applying
from appliance.rosterfile import Person
from appliance.store import groups, users
from appliance.store.database import Transaction


class Admin:
    """Use it with `with`. Names are validated here. Raises BadName, Exists, NotFound, BadInput, Misconfigured."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._db = open_database(settings)
        self._homes: Homes = settings.make(settings.homes_class, root=settings.homes_dir)
        self._authenticator = make_authenticator(settings, self._db)

    def __enter__(self) -> Admin:
        anyio.run(open_store, self._db, self._homes)
        return self

    def __exit__(self, *error: object) -> None:
        self._db.close()

    @property
    def manages_passwords(self) -> bool:
        return self._authenticator.manages_passwords

    def add_user(self, name: str, *, admin: bool, password: str | None, must_change: bool = True) -> User:
        """password: None where the Authenticator keeps them elsewhere."""
        user = self._db.run(lambda t: users.add(t, validate_new_username(name), admin=admin, actor="appliance"))
        if password is not None:
            try:
                self.set_password(user.name, password, must_change=must_change)
            except ApplianceError:  # a password that is too weak must not leave half an account
                self._db.run(lambda t: users.delete(t, user.name, actor="appliance"))
                raise
        return user

    def list_users(self) -> list[User]:
        """Return everybody, archived ones included, but the box's own account."""
        return [user for user in self._db.run(users.list_all, write=False) if user.name != SMOKE_USER]

    def groups(self) -> dict[int, tuple[str, ...]]:
        """Return the names of groups by the id of the user who is in them."""
        return self._db.run(lambda t: groups.of_users(t), write=False)

    def archive_user(self, name: str) -> bool:
        """Return whether it was not archived yet."""
        self._refuse_last_admin(name)
        return self._db.run(lambda t: users.archive(t, validate_username(name), actor="appliance"))

    def unarchive_user(self, name: str) -> bool:
        """Return whether it was archived."""
        return self._db.run(lambda t: users.unarchive(t, validate_username(name), actor="appliance"))

    def roster(self, people: Sequence[Person], *, archive_missing: bool = False, yes: bool = False) -> Applying:
        return Applying(self._db, self._authenticator, people, archive_missing=archive_missing, yes=yes)

    def importing(self, old: OldHub, *, with_tokens: bool = True) -> Importing:
        return Importing(self._db, old, addresses=make_spawner(self.settings).addresses(), known=self.settings.roles.scopes,
                         with_tokens=with_tokens)

    def make_admin(self, name: str) -> None:
        def work(t: Transaction) -> None:
            user = users.find(t, validate_username(name))
            if user is None:
                raise NotFound(f"There is no user {name}.")
            users.set_admin(t, user.id, True)

        self._db.run(work)

    def has_admin(self) -> bool:
        return any(user.admin and not user.archived for user in self.list_users())

    def set_password(self, name: str, password: str, *, must_change: bool) -> None:
        async def work() -> None:
            await self._authenticator.set_password(validate_username(name), password, must_change=must_change)

        anyio.run(work)

    def delete_user(self, name: str) -> None:
        self._refuse_last_admin(name)
        self._db.run(lambda t: users.delete(t, validate_username(name), actor="appliance"))

    def _refuse_last_admin(self, name: str) -> None:
        admins = [user.name for user in self.list_users() if user.admin and not user.archived]
        if admins == [validate_username(name)]:
            raise BadInput(f"{admins[0]} is the only admin.", action="Add another one first: appliance user add NAME --admin")

    def create_token(self, name: str, note: str = "", expires_in_s: int | None = None,
                     scopes: Sequence[str] = (INHERIT,)) -> str:
        """scopes: as they are written. Raises BadScope too, and Refused for what the account does not hold."""
        found = self._db.run(lambda t: users.find(t, validate_username(name)), write=False)
        if found is None:
            raise NotFound(f"There is no user {name}.")
        user: User = found
        # its own lifetime was checked by the command; the longest one of the configuration is for people
        given = Tokens(self._db, Permissions(self._db, self.settings.roles, b""))

        async def work() -> str:
            secret, _ = await given.create(
                user, note=note, expires_in_s=expires_in_s, scopes=scopes, by=None, actor="appliance")
            return secret

        return anyio.run(work)
