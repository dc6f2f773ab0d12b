"""Sharing servers: who may give whom which right, and codes that give it to whoever shows them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from appliance.domain.names import validate_groupname, validate_servername, validate_username
from appliance.domain.scopes import SCOPES, Owner, Rights, Scope, expand
from appliance.domain.server import Server
from appliance.domain.share import ACCESS, Share, ShareCode, for_server, scope_names
from appliance.domain.user import User
from appliance.errors import BadInput, BadName, NotFound, Refused
from appliance.store import groups, servers, users
from appliance.store import shares as store
from appliance.store.database import Database, Transaction


@dataclass(frozen=True)
class Place:
    """A server as an address names it."""

    owner: str
    server: str


@dataclass(frozen=True)
class With:
    """Whom something is shared with: a user or a group, exactly one of the two."""

    user: str = ""
    group: str = ""


def scopes_of(t: Transaction, user_id: int, group_ids: Sequence[int], known: Mapping[str, Scope] = SCOPES) -> list[str]:
    """Return the scopes that shares give a user, by themselves and by these groups, with the servers' present names."""
    return store.scopes_of(t, user_id, group_ids, known)


class Shares:
    """after_revoked: is called with the id of a server that somebody may no longer open. known: the scopes there are."""

    def __init__(self, db: Database, after_revoked: Callable[[str], Awaitable[None]],
                 known: Mapping[str, Scope] = SCOPES) -> None:
        self._db, self._after_revoked, self._known = db, after_revoked, known

    # -- what there is -------------------------------------------------------------------------------------------------
    async def with_user(self, name: str, *, offset: int, limit: int) -> tuple[list[Share], int]:
        """Return some of what is shared with a user, by themselves or by a group, and how much there is."""
        def work(t: Transaction) -> tuple[list[Share], int]:
            user = _user(t, name)
            return store.page(t, user_id=user.id, group_ids=groups.ids_of_user(t, user.id), offset=offset, limit=limit)

        return await self._db.read(work)

    async def with_group(self, name: str, *, offset: int, limit: int) -> tuple[list[Share], int]:
        return await self._db.read(lambda t: store.page(t, group_ids=[_group(t, name)], offset=offset, limit=limit))

    async def of_owner(self, owner: str, *, offset: int, limit: int) -> tuple[list[Share], int]:
        return await self._db.read(lambda t: store.page(t, owner_id=_user(t, owner).id, offset=offset, limit=limit))

    async def of_server(self, place: Place, *, offset: int, limit: int) -> tuple[list[Share], int]:
        return await self._db.read(lambda t: store.page(t, server_id=_server(t, place).id, offset=offset, limit=limit))

    async def find(self, place: Place, to: With) -> Share:
        """Raises NotFound."""
        return await self._db.read(lambda t: _held(t, place, to))

    async def opens(self, server: Server, user: User) -> bool:
        """Say whether the server is shared with this user so that they may open it."""
        return f"{ACCESS}!server={server.user_name}/{server.name}" in await self._expanded(user)

    async def holds(self, code: ShareCode, user: User) -> bool:
        """Say whether shares give this user all of what the code would."""
        return await self._expanded(user) >= set(code.scopes)

    async def _expanded(self, user: User) -> frozenset[str]:
        scopes = await self._db.read(
            lambda t: store.scopes_of(t, user.id, groups.ids_of_user(t, user.id), self._known))
        return expand(scopes, Owner(user=user.name), self._known)

    # -- giving and taking ---------------------------------------------------------------------------------------------
    async def grant(self, place: Place, to: With, scopes: Sequence[str], *, by: Rights, actor: str) -> Share:
        """Raises BadScope, BadName, BadInput for nobody to share with, NotFound, Refused for what `by` does not hold."""
        place = _normalized(place)
        to = With(validate_username(to.user) if to.user else "", validate_groupname(to.group) if to.group else "")
        names = scope_names(scopes, place.owner, place.server, self._known)

        def work(t: Transaction) -> Share:
            server = _server(t, place)
            self._refuse_missing(t, server, names, by)
            self._refuse_unseen(t, to, by)
            try:
                ids = _ids(t, to)
            except NotFound as error:
                raise BadInput(error.sentence, action="Check the spelling.") from None
            if ids.get("user_id") == server.user_id:
                raise BadInput("A server is its owner's already.", action="Name somebody else.")
            return store.grant(t, server.id, names, actor=actor, **ids)

        return await self._db.transact(work)

    async def revoke(self, place: Place, to: With, scopes: Sequence[str] | None, *, actor: str) -> Share | None:
        """Take scopes away, all for None, and return what is left; nobody by that name has nothing left."""
        place = _normalized(place)
        names = scope_names(scopes, place.owner, place.server, self._known) if scopes else None

        def work(t: Transaction) -> tuple[str, Share | None, bool]:
            server = _server(t, place)
            try:
                ids = _ids(t, to)
            except NotFound:
                return server.id, None, False
            before = store.find(t, server.id, **ids)
            after = store.revoke(t, server.id, names, actor=actor, **ids)
            return server.id, after, _opens(before) and not _opens(after)

        server_id, left, closed = await self._db.transact(work)
        if closed:
            await self._after_revoked(server_id)
        return left

    async def leave(self, place: Place, to: With, *, actor: str) -> None:
        """Give up a share. Raises NotFound."""
        def work(t: Transaction) -> tuple[str, bool]:
            share = _held(t, place, to)
            store.revoke(t, share.server.id, None, actor=actor, **_ids(t, to))
            return share.server.id, _opens(share)

        server_id, closed = await self._db.transact(work)
        if closed:
            await self._after_revoked(server_id)

    async def revoke_all(self, place: Place, *, actor: str) -> None:
        def work(t: Transaction) -> tuple[str, int]:
            server = _server(t, place)
            return server.id, store.revoke_all(t, server.id, actor=actor)

        server_id, count = await self._db.transact(work)
        if count:
            await self._after_revoked(server_id)

    # -- codes ---------------------------------------------------------------------------------------------------------
    async def codes_of_owner(self, owner: str, *, offset: int, limit: int) -> tuple[list[ShareCode], int]:
        return await self._db.read(lambda t: store.page_codes(t, owner_id=_user(t, owner).id, offset=offset, limit=limit))

    async def codes_of_server(self, place: Place, *, offset: int, limit: int) -> tuple[list[ShareCode], int]:
        return await self._db.read(lambda t: store.page_codes(
            t, server_id=_server(t, place).id, offset=offset, limit=limit))

    async def add_code(self, place: Place, scopes: Sequence[str], *, expires_in_s: int, by: Rights, actor: str
                       ) -> tuple[ShareCode, str]:
        """Return a new code's record and the code itself. Raises as `grant` does."""
        place = _normalized(place)
        names = scope_names(scopes, place.owner, place.server, self._known)

        def work(t: Transaction) -> tuple[ShareCode, str]:
            server = _server(t, place)
            self._refuse_missing(t, server, names, by)
            return store.add_code(t, server.id, names, expires_in_s=expires_in_s, actor=actor)

        return await self._db.transact(work)

    async def delete_codes(self, place: Place, *, code: str = "", code_id: int | None = None, actor: str) -> None:
        """Delete the code that is named, or all. Raises NotFound where one is named that the server has not."""
        def work(t: Transaction) -> None:
            count = store.delete_codes(t, _server(t, place).id, code=code, code_id=code_id, actor=actor)
            if not count and (code or code_id is not None):
                raise NotFound("There is no such share code.")

        await self._db.transact(work)

    async def look_at_code(self, code: str, user: User) -> ShareCode:
        """Return what a code would give this user; nothing changes. Raises NotFound, BadInput for one's own."""
        found = await self._db.read(lambda t: store.find_code(t, code))
        if found is None:
            raise NotFound(store.UNKNOWN_CODE, action=store.ASK_ANEW)
        if found.server.user_id == user.id:
            raise BadInput(store.OWN_CODE, action=store.SEND_ON)
        return found

    async def accept_code(self, code: str, user: User) -> Share:
        """Raises as `look_at_code` does."""
        return await self._db.transact(lambda t: store.exchange(t, code, user.id, actor=user.name))

    # -- what is refused -----------------------------------------------------------------------------------------------
    def _refuse_missing(self, t: Transaction, server: Server, names: Sequence[str], by: Rights) -> None:
        """Nobody shares what they do not hold."""
        owners_groups = groups.of_users(t, [server.user_id]).get(server.user_id, ())
        scopes = for_server(names, server.user_name, server.name, self._known)
        if missing := by.missing(scopes, lambda name: owners_groups if name == server.user_name else ()):
            raise Refused(f"You may not share what you do not hold: {', '.join(missing)}.")

    @staticmethod
    def _refuse_unseen(t: Transaction, to: With, by: Rights) -> None:
        """Whoever may not read a name does not learn by sharing whether there is one."""
        if to.group:
            if not by.reach("read:groups:name").group(to.group):
                raise Refused("To share with a group, you need the scope read:groups:name.")
            return
        reach = by.reach("read:users:name")
        if not reach.user(to.user):
            user = users.find(t, to.user)
            if user is None or not reach.user(to.user, groups.of_users(t, [user.id]).get(user.id, ())):
                raise Refused("To share with somebody, you need the scope read:users:name.")


def _held(t: Transaction, place: Place, to: With) -> Share:
    """Raises NotFound, in the same words whether there is such a server or not: that is not the holder's to know."""
    try:
        share = store.find(t, _server(t, place).id, **_ids(t, to))
    except NotFound:
        share = None
    if share is None:
        raise NotFound("There is no such share.")
    return share


def _opens(share: Share | None) -> bool:
    return share is not None and any(scope.startswith((f"{ACCESS}!", "shares!")) for scope in share.scopes)


def _normalized(place: Place) -> Place:
    try:
        return Place(validate_username(place.owner), validate_servername(place.server))
    except BadName:
        raise NotFound("There is no such server.") from None


def _user(t: Transaction, name: str) -> User:
    try:
        user = users.find(t, validate_username(name))
    except BadName:
        user = None
    if user is None:
        raise NotFound("There is no such user.")
    return user


def _group(t: Transaction, name: str) -> int:
    try:
        found = groups.find_id(t, validate_groupname(name))
    except BadName:
        found = None
    if found is None:
        raise NotFound("There is no such group.")
    return found


def _server(t: Transaction, place: Place) -> Server:
    place = _normalized(place)
    user = users.find(t, place.owner)
    server = servers.find(t, user.id, place.server) if user is not None else None
    if server is None:
        raise NotFound("There is no such server.")
    return server


def _ids(t: Transaction, to: With) -> dict[str, int]:
    return {"group_id": _group(t, to.group)} if to.group else {"user_id": _user(t, to.user).id}
