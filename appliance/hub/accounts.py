"""Accounts: signing in, passwords, API tokens."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import anyio

from appliance.domain.names import normalize_username
from appliance.domain.user import Session, User
from appliance.errors import Archived, BadInput, LoginRefused, NotFound
from appliance.hub.sessions import Sessions
from appliance.hub.throttle import Throttle
from appliance.ports import Authenticator, Identity, LoginRequest
from appliance.store import events, groups
from appliance.store import users as store
from appliance.store.database import Database, Transaction

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SignedIn:
    session: Session
    token: str      # JWT for the session's cookie
    device: str     # value of the cookie that marks a browser which has signed in to this account


class StoredPasswords:
    """The store's side of `ports.PasswordStore`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def get_password(self, name: str) -> tuple[str, bool] | None:
        return await self._db.read(lambda t: store.get_password(t, name))

    async def set_password(self, name: str, hashed: str, *, must_change: bool) -> None:
        await self._db.transact(lambda t: store.set_password(t, name, hashed, must_change=must_change))


class Accounts:
    """device_key: 32 bytes, signs the mark of a known browser."""

    def __init__(self, db: Database, authenticator: Authenticator, sessions: Sessions, throttle: Throttle,
                 device_key: bytes) -> None:
        self._db, self._authenticator, self._sessions = db, authenticator, sessions
        self._throttle, self._device_key = throttle, device_key

    @property
    def manages_passwords(self) -> bool:
        return self._authenticator.manages_passwords

    def makes_admin(self, name: str) -> bool:
        """Say whether somebody of this name will be an admin from the next sign-in on."""
        return self._authenticator.names_admin(name)

    async def sign_in(self, request: LoginRequest, data: Mapping[str, str], *, origin: str,
                      device: str | None) -> SignedIn:
        """Check name and password and begin a session. Raises LoginRefused, LoginThrottled."""
        user = await self.identify(request, data, device=device)
        session, token = await self._sessions.begin(user, origin=origin, address=request.address,
                                                    user_agent=request.user_agent)
        return SignedIn(session, token, self._device_mark(_said(data)))

    async def identify(self, request: LoginRequest, data: Mapping[str, str], *, device: str | None = None) -> User:
        """Check name and password and return whose they are. Raises LoginRefused, LoginThrottled."""
        said = _said(data)
        known = device is not None and hmac.compare_digest(device.encode(), self._device_mark(said).encode())
        wait_s = self._throttle.check(said, request.address, known)
        if wait_s:
            await anyio.sleep(wait_s)
        try:
            identity = await self._authenticator.get_authenticated_user(request, data)
        except LoginRefused:
            self._throttle.failed(said, request.address, known)
            name = said if said.isprintable() else "?"
            log.warning("Sign-in as %s from %s was refused.", name, request.address)
            await self._db.transact(lambda t: events.append(
                t, "sign-in.refused", user_name=name, data={"address": request.address[:64]}))
            raise
        self._throttle.succeeded(said, request.address, known)
        user = await self._db.transact(lambda t: _ensure_user(t, identity))
        log.info("%s signed in from %s.", said, request.address)
        return user

    async def change_password(self, user: User, old: str, new: str) -> None:
        """Change one's own password. Raises LoginRefused where `old` is wrong, BadInput where `new` is too weak."""
        self._throttle.check(user.name, "password page", True)
        try:
            await self._authenticator.get_authenticated_user(LoginRequest(), {"username": user.name, "password": old})
        except LoginRefused as error:
            self._throttle.failed(user.name, "password page", True)
            raise LoginRefused("That is not your present password.") from error
        self._throttle.succeeded(user.name, "password page", True)
        if new == old:
            raise BadInput("That is your present password; choose another one.")
        await self._authenticator.set_password(user.name, new, must_change=False)

    async def find_user(self, name: str) -> User | None:
        return await self._db.read(lambda t: store.find(t, name))

    async def page(self, *, search: str = "", up: bool = False, archived: bool = False, offset: int = 0,
                   limit: int = 100) -> tuple[list[User], int]:
        """Return some users by name and how many there are in all. up: only those with a server that is not stopped.
        archived: these alone, who else are left out."""
        return await self._db.read(lambda t: store.page(
            t, search=search, up=up, archived=archived, offset=offset, limit=limit))

    async def groups_of(self, users: Sequence[User]) -> Mapping[int, tuple[str, ...]]:
        """Return the names of the groups of each of these users who is in one, by the user's id."""
        return await self._db.read(lambda t: groups.of_users(t, [user.id for user in users]))

    def _device_mark(self, name: str) -> str:
        return hmac.new(self._device_key, name.encode(), hashlib.sha256).hexdigest()


def _said(data: Mapping[str, str]) -> str:
    """Return the name that somebody gave, as far as a name can be."""
    return normalize_username(data.get("username", "")[:256])[:64]


def _ensure_user(t: Transaction, identity: Identity) -> User:
    user = store.find(t, identity.name) or store.add(t, identity.name, actor=identity.name)
    if user.archived:   # where passwords are kept elsewhere
        raise LoginRefused(Archived.sentence)
    if identity.admin is not None:
        store.set_admin(t, user.id, identity.admin)
    refreshed = store.get(t, user.id)
    if refreshed is None:
        raise NotFound()
    return refreshed
