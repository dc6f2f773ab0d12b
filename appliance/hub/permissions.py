"""Who somebody is and what they may: from roles, groups and shares, for a session and for every kind of token."""

from __future__ import annotations

import functools
import hashlib
import hmac
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol

from appliance.domain import roles as role_names
from appliance.domain.capability import injected_token, read_server_token
from appliance.domain.oauth import read_server_client_id
from appliance.domain.requester import SERVER, SERVICE, USER, Requester
from appliance.domain.roles import ADMIN_SCOPES, Roles
from appliance.domain.scopes import INHERIT, Owner, Rights, expand, identify
from appliance.domain.server import Phase, Server
from appliance.domain.user import ApiToken, Session, User
from appliance.hub.sessions import TOUCH_EVERY_S
from appliance.store import groups, servers, shares, tokens, users
from appliance.store.database import Database, Transaction

_UP = (Phase.STARTING, Phase.BOOTING, Phase.READY)


class ServiceBook(Protocol):
    """Which services there are, those of the configuration and those made through the REST API."""

    def is_admin(self, name: str) -> bool | None:
        """None: there is no service of that name."""

    def of_token(self, token: str) -> str | None:
        """Return the service whose api_token, of the configuration or derived, this is. Compares in constant time."""


class NoServices:
    def is_admin(self, name: str) -> bool | None:
        return None

    def of_token(self, token: str) -> str | None:
        return None


@dataclass
class Permissions:
    """token_key: 32 bytes, of the tokens of running servers. services: set when they are there."""

    db: Database
    roles: Roles
    token_key: bytes
    services: ServiceBook = field(default_factory=NoServices)
    _of_services: dict[tuple[str, bool], Requester] = field(default_factory=dict, init=False, repr=False)

    # -- what somebody may ---------------------------------------------------------------------------------------------
    async def of_user(self, user: User) -> Rights:
        return await self.db.read(lambda t: self._of_user(t, user)[0])

    def of_service(self, name: str) -> Rights:
        """Return what a service may by its roles; nothing if there is none of that name."""
        if self.services.is_admin(name) is None:
            return Rights()
        return Rights(expand(self.roles.scopes_of(self.roles_of_service(name)), Owner(service=name), self.roles.scopes))

    def roles_of_user(self, user: User, groups: Collection[str]) -> tuple[str, ...]:
        return self.roles.of_user(user.name, groups, admin=user.admin)

    def roles_of_service(self, name: str) -> tuple[str, ...]:
        return self.roles.of_service(name, admin=bool(self.services.is_admin(name)))

    def roles_of_group(self, name: str) -> tuple[str, ...]:
        return self.roles.of_group(name)

    def missing_of_admin(self, rights: Rights) -> list[str]:
        """Return what an admin may and these rights do not hold: whoever lacks any of it makes nobody an admin, and changes
        no admin."""
        return rights.missing(expand(ADMIN_SCOPES, Owner(), self.roles.scopes))

    async def missing_of_roles(self, rights: Rights, names: Collection[str]) -> list[str]:
        """Return what these roles give whoever gets them, beyond what is their own, and these rights do not hold."""
        return await self.missing(rights, expand(self.roles.scopes_of(names), Owner(), self.roles.scopes))

    async def missing(self, rights: Rights, expanded: Collection[str]) -> list[str]:
        """Return those of the expanded scopes that are not held, also not by way of groups."""
        if rights.expanded.issuperset(expanded):
            return []
        return await self.db.read(lambda t: rights.missing(expanded, _groups_of(t)))

    # -- who it is -----------------------------------------------------------------------------------------------------
    async def by_session(self, session: Session) -> Requester:
        return await self.db.recall(("requester", session), lambda t: self._user(t, session.user, session_id=session.id))

    async def by_password(self, user: User) -> Requester:
        """Return what somebody may who has just said their password, without a session."""
        return await self.db.read(lambda t: self._user(t, user))

    async def by_token(self, token: str) -> Requester | None:
        """Return whose token this is, None if it is unknown, has expired or ended with what it belonged to."""
        if not 16 <= len(token) <= 500:
            return None
        service = self.services.of_token(token)
        if service is not None:
            return self._service(service)
        key = "token", hashlib.sha256(token.encode()).digest()
        found, record = await self.db.recall(key, lambda t: self._by_token(t, token), _keep_s)
        now = datetime.now(UTC)
        if record is not None and record.expires_at is not None and record.expires_at <= now:
            return None
        if record is not None and (record.last_used_at is None
                                   or (now - record.last_used_at).total_seconds() > TOUCH_EVERY_S):
            await self.db.transact(lambda t: tokens.touch(t, record.id))
        return found

    async def may_enter(self, requester: Requester, server: Server) -> bool:
        """Say whether a script with this requester's token gets in to a server: its own, or one that is shared with it.

        Nobody else's, not even for an admin, whatever the scopes say: all servers are of one origin.
        """
        if requester.kind != USER or requester.user is None or not requester.is_token:
            return False
        user = requester.user

        def work(t: Transaction) -> bool:
            wanted = f"access:servers!server={server.user_name}/{server.name}"
            if not requester.rights.holds(wanted, _groups_of(t)):
                return False
            return server.user_id == user.id or wanted in _shared(t, user.id, self.roles)

        return await self.db.read(work)

    # -- inside a transaction ------------------------------------------------------------------------------------------
    def _by_token(self, t: Transaction, token: str) -> tuple[Requester | None, ApiToken | None]:
        said = read_server_token(self.token_key, token)
        if said is not None:
            server = servers.get(t, said[0])
            return (self._server(t, server, role=True) if server and server.start_no == said[1] else None), None
        record = tokens.find(t, token)
        if record is not None:
            return self._of_record(t, record), record
        if len(token) == len(injected_token(self.token_key, "", 0)):
            for server in servers.up(t):
                if hmac.compare_digest(injected_token(self.token_key, server.id, server.start_no).encode(), token.encode()):
                    return self._server(t, server, role=False), None
        return None, None

    def _of_record(self, t: Transaction, record: ApiToken) -> Requester | None:
        owner = Owner(user=record.user.name if record.user else "", service=record.service_name)
        found = self._user(t, record.user) if record.user else self._service(record.service_name)
        if found is None:
            return None
        found = replace(found, scopes=record.scopes, token_id=record.id, session_id=record.session_id,
                        client_id=record.client_id)
        if INHERIT in record.scopes:
            return found
        if client := read_server_client_id(record.client_id):
            owner = replace(owner, server="/".join(client))
        return self._narrowed(t, found, record.scopes, owner)

    def _server(self, t: Transaction, server: Server, *, role: bool) -> Requester | None:
        """role: the server itself asks, which has the role of that name; else its owner's browser, through the edge."""
        user = users.get(t, server.user_id)
        if server.phase not in _UP or user is None or user.deleted or user.archived:
            return None
        scopes = tuple(self.roles.scopes_of([role_names.SERVER])) if role else ("access:servers!server",)
        found = replace(self._user(t, user), kind=SERVER, scopes=scopes, server_id=server.id, start_no=server.start_no)
        return self._narrowed(t, found, scopes, Owner(user=user.name, server=f"{user.name}/{server.name}"))

    def _user(self, t: Transaction, user: User, *, session_id: str = "") -> Requester:
        rights, roles, own = self._of_user(t, user)
        return Requester(USER, user.name, rights, user, roles=roles, groups=own, session_id=session_id)

    def _service(self, name: str) -> Requester | None:
        admin = self.services.is_admin(name)
        if admin is None:
            return None
        # a function of the configuration and the flag, so it is made once
        found = self._of_services.get((name, admin))
        if found is None:
            rights = self.of_service(name).with_more(identify(Owner(service=name)))
            found = Requester(SERVICE, name, rights, service_name=name, roles=self.roles_of_service(name))
            self._of_services[name, admin] = found
        return found

    def _of_user(self, t: Transaction, user: User) -> tuple[Rights, tuple[str, ...], tuple[str, ...]]:
        """Return a user's rights, roles and groups."""
        own, owner = groups.of_users(t, [user.id]).get(user.id, ()), Owner(user=user.name)
        roles = self.roles_of_user(user, own)
        expanded = expand(self.roles.scopes_of(roles), owner, self.roles.scopes)
        return Rights(expanded | identify(owner) | _shared(t, user.id, self.roles)), roles, own

    def _narrowed(self, t: Transaction, found: Requester, scopes: Collection[str], owner: Owner) -> Requester:
        # a scope of one's own may be gone from the configuration since the token was made
        known = [scope for scope in scopes if scope.partition("!")[0] in self.roles.scopes]
        rights = found.rights.narrowed(expand(known, owner, self.roles.scopes), _groups_of(t))
        return replace(found, rights=rights.with_more(identify(Owner(user=owner.user) if found.user else owner)))


def _keep_s(found: tuple[Requester | None, ApiToken | None]) -> float:
    """What depends on more than the database, or on a session's end, is looked up each time; so is what is nobody's."""
    requester, _ = found
    return 60.0 if requester is not None and requester.kind != SERVICE and not requester.session_id else 0.0


def _shared(t: Transaction, user_id: int, roles: Roles) -> frozenset[str]:
    """Return what shares give, by name and with all subscopes."""
    return expand(shares.scopes_of(t, user_id, groups.ids_of_user(t, user_id), roles.scopes), Owner(), roles.scopes)


def _groups_of(t: Transaction) -> Callable[[str], Collection[str]]:
    """Return a function from a user's name to the user's groups, which asks once each."""

    @functools.cache
    def of(name: str) -> tuple[str, ...]:
        user = users.find(t, name)
        return groups.of_users(t, [user.id]).get(user.id, ()) if user else ()

    return of
