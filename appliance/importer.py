"""Brings the people of an original JupyterHub here: looks first, then writes all of it or nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from appliance.domain.names import SMOKE_USER
from appliance.domain.scopes import SCOPES, Scope
from appliance.errors import BadInput, NotFound
from appliance.importplan import Here, NewShare, Plan, plan
from appliance.jupyterhubfile import OldHub
from appliance.rosterfile import Person
from appliance.store import groups, imports, people, servers, shares, users
from appliance.store.database import Database, Transaction

ACTOR = "import-jupyterhub"


class Importing:
    """addresses: every one that a server may get. known: the scopes there are here."""

    def __init__(self, db: Database, old: OldHub, *, addresses: Iterable[str] = (), known: Mapping[str, Scope] = SCOPES,
                 with_tokens: bool = True) -> None:
        self._db, self._old, self._known, self._with_tokens = db, old, known, with_tokens
        self._addresses = tuple(addresses)

    def plan(self) -> Plan:
        """Compare; nothing is written."""
        return self._db.run(self._plan, write=False)

    def apply(self, said: Plan, hashes: Mapping[str, str]) -> None:
        """Make the plan true, all of it or nothing. hashes: of the passwords of new accounts, by name. Raises BadInput."""
        def work(t: Transaction) -> None:
            if self._plan(t) != said:
                raise BadInput("Something was changed here meanwhile, so nothing was written.", action="Try again.")
            self._write(t, said, hashes)

        self._db.run(work)

    def _plan(self, t: Transaction) -> Plan:
        return plan(self._old, look(t), self._known, with_tokens=self._with_tokens)

    def _write(self, t: Transaction, said: Plan, hashes: Mapping[str, str]) -> None:
        for admin in (False, True):
            if names := [new.name for new in said.users if new.admin is admin]:
                people.add_many(t, names, admin=admin, actor=ACTOR)
        ids = {user.name: user.id for user in users.list_all(t)}
        for name, hashed in hashes.items():
            users.set_password(t, name, hashed, must_change=True, actor=ACTOR, by_roster=True)
        for name in said.new_admins:
            users.set_admin(t, ids[name], True)
        shown = [(new.name, new.display_name) for new in said.users if new.display_name]
        for name, display_name in (*shown, *said.shown_names):
            users.set_display_name(t, ids[name], display_name)
        self._write_groups(t, said)
        for server in said.servers:
            servers.create(t, ids[server.user], server.name, addresses=self._addresses, actor=ACTOR,
                           display_name=server.display_name, options=server.options)
        for share in said.shares:
            self._write_share(t, share, ids)
        for each in said.tokens:
            token = each.token
            imports.add_token(t, ids[each.user], prefix=token.prefix, salt=token.salt, digest=token.digest,
                              note=token.note[:200], scopes=token.scopes, created_at=token.created_at,
                              expires_at=token.expires_at, last_used_at=token.last_used_at)

    @staticmethod
    def _write_groups(t: Transaction, said: Plan) -> None:
        joining: dict[str, list[str]] = {}
        for name, group in said.members:
            joining.setdefault(group, []).append(name)
        for group in said.groups:
            groups.add(t, group, actor=ACTOR)
        for group, names in joining.items():
            groups.change_members(t, groups.get_id(t, group), add=names, actor=ACTOR)
        for group, properties in said.properties:
            groups.set_properties(t, groups.get_id(t, group), properties, actor=ACTOR)

    @staticmethod
    def _write_share(t: Transaction, share: NewShare, ids: Mapping[str, int]) -> None:
        server = servers.find(t, ids[share.owner], share.server)
        if server is None:
            raise NotFound(f"The server {share.owner}/{share.server} is gone; nothing was written.")
        to = {"group_id": groups.get_id(t, share.group)} if share.group else {"user_id": ids[share.user]}
        shares.grant(t, server.id, share.names, actor=ACTOR, **to)


def look(t: Transaction) -> Here:
    """Return what there is, deleted accounts left out."""
    people = [user for user in users.list_all(t) if user.name != SMOKE_USER]
    names = {user.id: user.name for user in people}
    members = frozenset((names[user_id], group) for user_id, found in groups.of_users(t).items() if user_id in names
                        for group in found)
    owned = [server for server in servers.list_all(t) if server.user_id in names]
    given = shares.list_all(t)
    return Here(
        admins={user.name: user.admin for user in people}, shown_names={user.name: user.display_name for user in people},
        archived=frozenset(user.name for user in people if user.archived), groups=imports.properties(t), members=members,
        servers=frozenset((names[server.user_id], server.name) for server in owned),
        shares={(share.server.user_name, share.server.name, share.user_name or "", share.group_name or ""):
                frozenset(scope.partition("!")[0] for scope in share.scopes) for share in given},
        hashes=frozenset(imports.hashes(t)))


def people_of(said: Plan) -> list[Person]:
    """Return the new accounts as a roster has them, for passwords and the sheet."""
    joined: dict[str, list[str]] = {}
    for name, group in said.members:
        joined.setdefault(name, []).append(group)
    return [Person(0, new.name, new.display_name or None, tuple(joined.get(new.name, ())), None, new.admin)
            for new in said.users]
