"""What a database of the original JupyterHub would change here: by names that are good here, and what cannot come."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from appliance.domain.group_limits import check_properties
from appliance.domain.names import (
    validate_display_name,
    validate_groupname,
    validate_new_username,
    validate_servername,
)
from appliance.domain.scopes import SCOPES, Scope, check
from appliance.domain.share import scope_names
from appliance.domain.user_options import check_user_options
from appliance.errors import BadInput
from appliance.jupyterhubfile import OldHub, OldServer, OldToken

MOST_PROPERTIES_BYTES = 64 * 1024
_T = TypeVar("_T", str, int)


@dataclass(frozen=True)
class Here:
    """What there is already. shares: scopes by owner, server, user or "", group or ""."""

    admins: Mapping[str, bool]                           # of every account, by name
    shown_names: Mapping[str, str]
    archived: frozenset[str]
    groups: Mapping[str, Mapping[str, Any]]              # properties, by name
    members: frozenset[tuple[str, str]]                  # user, group
    servers: frozenset[tuple[str, str]]                  # user, server
    shares: Mapping[tuple[str, str, str, str], frozenset[str]]
    hashes: frozenset[str]                               # of API tokens


@dataclass(frozen=True)
class NewUser:
    name: str
    admin: bool
    display_name: str
    was: str                     # as the other Hub had it


@dataclass(frozen=True)
class NewServer:
    user: str
    name: str
    display_name: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class NewShare:
    """user, group: one of the two is "". names: of scopes."""

    owner: str
    server: str
    user: str
    group: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class NewToken:
    user: str
    token: OldToken


@dataclass(frozen=True)
class Problem:
    """Something that does not come, and what to do about it."""

    what: str
    action: str


@dataclass(frozen=True)
class Plan:
    users: tuple[NewUser, ...] = ()
    new_admins: tuple[str, ...] = ()                     # have an account here
    shown_names: tuple[tuple[str, str], ...] = ()        # user, display name, where there is none here
    groups: tuple[str, ...] = ()
    properties: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    members: tuple[tuple[str, str], ...] = ()            # user, group
    servers: tuple[NewServer, ...] = ()
    shares: tuple[NewShare, ...] = ()
    tokens: tuple[NewToken, ...] = ()
    problems: tuple[Problem, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)     # of accounts: the other Hub's and ours

    @property
    def changed(self) -> bool:
        return bool(self.users or self.new_admins or self.shown_names or self.groups or self.properties or self.members
                    or self.servers or self.shares or self.tokens)


def plan(old: OldHub, here: Here, known: Mapping[str, Scope] = SCOPES, *, with_tokens: bool = True) -> Plan:
    return _Planning(old, here, known).plan(with_tokens)


class _Planning:
    def __init__(self, old: OldHub, here: Here, known: Mapping[str, Scope]) -> None:
        self.old, self.here, self.known = old, here, known
        self.problems: dict[Problem, None] = {}

    def plan(self, with_tokens: bool) -> Plan:
        old, here = self.old, self.here
        by_id = {user.id: user for user in old.users}
        self.users = self._names({user.id: user.name for user in old.users}, validate_new_username, "account",
                                 "Rename it in the other Hub, or add one with: appliance user add NAME")
        self.groups = self._names({group.id: group.name for group in old.groups}, validate_groupname, "group",
                                  "Rename it in the other Hub.")
        there = [(by_id[user_id], name) for user_id, name in self.users.items()]
        users = tuple(NewUser(name, user.admin, self._shown(user.display_name, name), user.name)
                      for user, name in there if name not in here.admins)
        shown = tuple((name, said) for user, name in there if name in here.admins and not here.shown_names.get(name)
                      and (said := self._shown(user.display_name, name)))
        members = {(self.users[member], self.groups[group.id]) for group in old.groups if group.id in self.groups
                   for member in group.member_ids if member in self.users}
        self.servers = {server.id: server for server in old.servers}
        self.place = {server.id: (self.users[server.user_id], name) for server in old.servers
                      if server.user_id in self.users and (name := self._server_name(server)) is not None}
        self._refuse_twins()
        shares = self._shares()
        return Plan(
            users=users, new_admins=tuple(name for user, name in there if user.admin and here.admins.get(name) is False),
            shown_names=shown, groups=tuple(sorted(name for name in self.groups.values() if name not in here.groups)),
            properties=self._properties(), members=tuple(sorted(members - here.members)), servers=self._servers(shares),
            shares=tuple(share for share in shares if share.names), tokens=self._tokens() if with_tokens else (),
            problems=tuple(self.problems), names={by_id[user_id].name: name for user_id, name in self.users.items()})

    # -- names ---------------------------------------------------------------------------------------------------------
    def _names(self, said: Mapping[_T, str], validate: Callable[[str], str], what: str, action: str) -> dict[_T, str]:
        """Return the names that are good here, by id; of those that would become one name none comes."""
        found: dict[_T, str] = {}
        for key, name in said.items():
            try:
                found[key] = validate(name)
            except BadInput as error:
                self._problem(f"The {what} {_shown(name)}: {error.sentence}", action)
        taken: dict[str, list[_T]] = {}
        for key, name in found.items():
            taken.setdefault(name, []).append(key)
        for name, keys in taken.items():
            if len(keys) > 1:
                both = " and ".join(_shown(said[key]) for key in keys)
                self._problem(f"The {what}s {both} would both be “{name}” here, so none of them comes.",
                              f"Rename all but one of them in the other Hub. {action}" if what == "account" else action)
                for key in keys:
                    del found[key]
        return found

    def _server_name(self, server: OldServer) -> str | None:
        try:
            return validate_servername(server.name)
        except BadInput as error:
            self._problem(f"The server {_shown(server.name)} of {self.users[server.user_id]}: {error.sentence}",
                          "Its owner makes one of another name; no file is in a server's name.")
            return None

    def _refuse_twins(self) -> None:
        for place, times in Counter(self.place.values()).items():
            if times > 1:
                self._problem(f"Two servers of {place[0]} would both be “{place[1]}” here, so neither comes.",
                              "Their owner makes them anew.")
                self.place = {key: value for key, value in self.place.items() if value != place}

    def _shown(self, said: str, name: str) -> str:
        try:
            shown = validate_display_name(said)
        except BadInput:
            return ""
        return shown if shown != name else ""

    # -- groups, servers, shares, tokens -------------------------------------------------------------------------------
    def _properties(self) -> tuple[tuple[str, Mapping[str, Any]], ...]:
        found = []
        for group in self.old.groups:
            name, said = self.groups.get(group.id), dict(group.properties)
            if name is None or not said or self.here.groups.get(name) == said:
                continue
            if self.here.groups.get(name):
                self._problem(f"The group {name} has other properties here, which stay.",
                              f"Theirs are {json.dumps(said)[:200]}; change them with the REST API if they are the right ones.")
                continue
            try:
                check_properties(said)
                if len(json.dumps(said, allow_nan=False)) > MOST_PROPERTIES_BYTES:
                    raise BadInput("They are too large.")
            except (BadInput, ValueError) as error:
                self._problem(f"The properties of the group {name} mean something else here: {error}",
                              "Set them anew with the REST API: PUT /hub/api/groups/NAME/properties.")
                continue
            found.append((name, said))
        return tuple(found)

    def _servers(self, shares: Collection[NewShare]) -> tuple[NewServer, ...]:
        """Return the named servers, and of default ones those that are shared or of which something was chosen."""
        shared = {(share.owner, share.server) for share in shares if share.names}
        found = []
        for server_id, (user, name) in self.place.items():
            server = self.servers[server_id]
            if (user, name) in self.here.servers or not (name or server.user_options or (user, name) in shared):
                continue
            if user in self.here.archived:
                self._problem(f"The servers of {user} do not come, because that account is archived here.",
                              f"Bring it back with: appliance user unarchive {user}")
                continue
            options = dict(server.user_options)
            try:
                options = check_user_options(options)
            except BadInput as error:
                self._problem(f"What {user} chose for the server “{name}”: {error.sentence}",
                              "It is chosen anew at the next start.")
                options = {}
            found.append(NewServer(user, name, self._shown(server.display_name, name), options))
        return tuple(found)

    def _shares(self) -> tuple[NewShare, ...]:
        """Return every share of the file; one that is here already has no names left."""
        found = []
        for share in self.old.shares:
            place = self.place.get(share.server_id)
            user = self.users.get(share.user_id, "") if share.user_id is not None else ""
            group = self.groups.get(share.group_id, "") if share.group_id is not None else ""
            if place is None or not (user or group) or user == place[0] or place[0] in self.here.archived:
                continue
            names: set[str] = set()
            for scope in share.scopes:
                try:
                    names.update(scope_names([scope.partition("!")[0]], *place, self.known))
                except BadInput as error:
                    self._problem(f"A share of the server {'/'.join(place)} with {user or group}: {error.sentence}",
                                  "The rest of the share comes.")
            names -= self.here.shares.get((*place, user, group), frozenset())
            found.append(NewShare(*place, user, group, tuple(sorted(names))))
        return tuple(found)

    def _tokens(self) -> tuple[NewToken, ...]:
        same = {user.name for user in self.old.users if self.users.get(user.id) == user.name}
        found = []
        for token in self.old.tokens:
            name = self.users.get(token.user_id)
            if name is None or name in self.here.archived or f"{token.salt}:{token.digest}" in self.here.hashes:
                continue
            try:
                for scope in token.scopes:
                    self._check_scope(scope, same)
            except BadInput as error:
                self._problem(f"A token of {name} ({_shown(token.note)}): {error.sentence}",
                              f"Make a new one: appliance token {name}")
                continue
            found.append(NewToken(name, token))
        return tuple(found)

    def _check_scope(self, scope: str, same: Collection[str]) -> None:
        """Raises BadInput for a scope that would mean somebody else here."""
        said = check(scope, self.known).partition("!")[2]
        kind, _, value = said.partition("=")
        if (kind in ("user", "server") and value and value.partition("/")[0] not in same) or (
                kind == "group" and value not in self.groups.values()):
            raise BadInput(f"“{scope}” speaks of somebody who is not here under that name.")

    def _problem(self, what: str, action: str) -> None:
        self.problems[Problem(what, action)] = None     # once each


def _shown(text: str) -> str:
    """Return a name from a file as it may stand on a terminal."""
    return f"“{''.join(char if char.isprintable() else '?' for char in text[:80])}”"
