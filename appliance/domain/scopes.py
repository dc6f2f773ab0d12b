"""Scopes: what a user, a service or a token may do, in JupyterHub's words.

A scope is a name from `SCOPES`, alone ("read:users": everybody's) or with a filter ("read:users!user=alice",
"!group=7b", "!server=alice/lab2", "!service=culler"). "!user", "!server" and "!service" without a value mean the owner's own,
"self" is everything that a user may do with what is theirs, "inherit" everything that a token's owner may.

`expand` resolves all of that; what it returns ("expanded") holds every scope by name, subscopes included, so that a
question is one look into a set. `Rights` asks the questions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

from appliance.errors import BadScope

INHERIT = "inherit"
SELF = "self"
NO_SCOPE = "(no_scope)"


@dataclass(frozen=True)
class Scope:
    """description: for the page that asks, continues “may …”."""

    description: str
    subscopes: tuple[str, ...] = ()


_BUILTIN: dict[str, Scope] = {
    NO_SCOPE: Scope("know who you are"),
    SELF: Scope("do everything you may do with what is yours"),
    INHERIT: Scope("do everything you may do"),
    "admin-ui": Scope("open the dashboard for teachers and admins"),
    "admin:users": Scope("add, change and delete users", ("admin:auth_state", "users", "read:roles:users", "delete:users")),
    "admin:auth_state": Scope("read what the sign-in remembers of users"),
    "users": Scope("read and change users", ("read:users", "list:users", "users:activity")),
    "delete:users": Scope("delete users"),
    "list:users": Scope("list users", ("read:users:name",)),
    "read:users": Scope("read about users", ("read:users:name", "read:users:groups", "read:users:activity")),
    "read:users:name": Scope("read users' names"),
    "read:users:groups": Scope("read which groups users are in"),
    "read:users:activity": Scope("read when users were last active"),
    "read:roles": Scope("read who has which role", ("read:roles:users", "read:roles:services", "read:roles:groups")),
    "read:roles:users": Scope("read the roles of users"),
    "read:roles:services": Scope("read the roles of services"),
    "read:roles:groups": Scope("read the roles of groups"),
    "users:activity": Scope("report that users are active", ("read:users:activity",)),
    "admin:servers": Scope("start, stop, make and delete servers and read their state", ("admin:server_state", "servers")),
    "admin:server_state": Scope("read the inner state of servers"),
    "servers": Scope("start and stop servers", ("read:servers", "start:servers", "delete:servers")),
    "read:servers": Scope("read about servers", ("read:users:name",)),
    "start:servers": Scope("start and change servers"),
    "delete:servers": Scope("stop and delete servers"),
    "tokens": Scope("make, read and revoke tokens", ("read:tokens",)),
    "read:tokens": Scope("read which tokens there are"),
    "admin:groups": Scope("make, change and delete groups", ("groups", "read:roles:groups", "delete:groups")),
    "groups": Scope("change groups and who is in them", ("read:groups", "list:groups")),
    "list:groups": Scope("list groups", ("read:groups:name",)),
    "read:groups": Scope("read about groups", ("read:groups:name",)),
    "read:groups:name": Scope("read groups' names"),
    "delete:groups": Scope("delete groups"),
    "admin:services": Scope("add, change and delete services", ("list:services", "read:services", "read:roles:services")),
    "list:services": Scope("list services", ("read:services:name",)),
    "read:services": Scope("read about services", ("read:services:name",)),
    "read:services:name": Scope("read services' names"),
    "read:hub": Scope("read about the Hub itself"),
    "access:servers": Scope("open servers"),
    "access:services": Scope("open services"),
    "users:shares": Scope("read and give up what is shared with users", ("read:users:shares",)),
    "read:users:shares": Scope("read what is shared with users"),
    "groups:shares": Scope("read and give up what is shared with groups", ("read:groups:shares",)),
    "read:groups:shares": Scope("read what is shared with groups"),
    "read:shares": Scope("read with whom servers are shared"),
    "shares": Scope("share servers", ("access:servers", "read:shares", "users:shares", "groups:shares")),
    "proxy": Scope("read the proxy's routes and have them written anew"),
    "shutdown": Scope("shut the Hub down"),
    "read:metrics": Scope("read the metrics"),
}
SCOPES: Mapping[str, Scope] = MappingProxyType(_BUILTIN)
OF_ONES_OWN = ("read:users", "users:activity", "servers", "tokens", "access:servers", "read:shares", "users:shares")
# what every client of OAuth learns of its visitors, whether it asks for it or not
IDENTIFY = (NO_SCOPE, "read:users:name!user", "read:users:groups!user")
_FILTERS = ("user", "group", "server", "service")
_VALUE = re.compile(r"[^\s!,\x00-\x1f\x7f][^!\x00-\x1f\x7f]{0,255}")
CUSTOM = re.compile(r"custom:[a-z0-9][a-z0-9_:*-]*[a-z0-9_*]")


@dataclass(frozen=True)
class Owner:
    """Whom the bare filters mean. server: "alice/" or "alice/lab2" where the token is a server's."""

    user: str = ""
    service: str = ""
    server: str = ""


def check(scope: str, known: Mapping[str, Scope] = SCOPES) -> str:
    """Return `scope` if it is one. Raises BadScope."""
    name, mark, said = scope.partition("!")
    if name not in known:
        raise BadScope(f"There is no scope “{_shown(name)}”.")
    if not mark:
        return scope
    kind, equals, value = said.partition("=")
    if kind not in _FILTERS or (not equals and kind == "group") or (equals and not _VALUE.fullmatch(value)):
        raise BadScope(f"“!{_shown(said)}” is no filter of a scope; use !user=NAME, !group=NAME, !server=NAME/SERVER or "
                       "!service=NAME.")
    if name in (INHERIT, SELF, NO_SCOPE):
        raise BadScope(f"“{name}” takes no filter.")
    return scope


def expand(scopes: Iterable[str], owner: Owner, known: Mapping[str, Scope] = SCOPES) -> frozenset[str]:
    """Return every scope that these hold, each by name; "inherit" and what nobody owns fall away. Raises BadScope."""
    found: set[str] = set()
    for scope in scopes:
        name, _, said = check(scope, known).partition("!")
        if name == SELF:
            if owner.user:
                for own in OF_ONES_OWN:
                    _add(found, own, f"user={owner.user}", known)
        elif name not in (INHERIT, NO_SCOPE):
            filtered = _resolve(said, owner)
            if filtered is not None:
                _add(found, name, filtered, known)
    return frozenset(found)


def _add(found: set[str], name: str, said: str, known: Mapping[str, Scope]) -> None:
    # a filter by server says nothing about a user: servers' subscopes that read the user are left out
    if not (said.startswith("server=") and name.startswith("read:users")):
        found.add(f"{name}!{said}" if said else name)
    for sub in known[name].subscopes:
        _add(found, sub, said, known)


def _resolve(said: str, owner: Owner) -> str | None:
    """Return a filter with its value, "" for none, None where the bare one means nothing."""
    if not said or "=" in said:
        return said
    value = {"user": owner.user, "service": owner.service, "server": owner.server}[said]
    return f"{said}={value}" if value else None


@dataclass(frozen=True)
class Reach:
    """Whom one scope reaches: everybody, or these."""

    everything: bool = False
    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    servers: frozenset[str] = frozenset()     # "alice/lab2"
    services: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return self.everything or bool(self.users or self.groups or self.servers or self.services)

    def user(self, name: str, groups: Collection[str] = ()) -> bool:
        """groups: the user's."""
        return self.everything or name in self.users or (bool(self.groups) and not self.groups.isdisjoint(groups))

    def server(self, user: str, server: str, groups: Collection[str] = ()) -> bool:
        """groups: its owner's."""
        return self.user(user, groups) or f"{user}/{server}" in self.servers

    def any_server_of(self, user: str, groups: Collection[str] = ()) -> bool:
        return self.user(user, groups) or any(server.partition("/")[0] == user for server in self.servers)

    def group(self, name: str) -> bool:
        return self.everything or name in self.groups

    def service(self, name: str) -> bool:
        return self.everything or name in self.services


_NOTHING = Reach()
_EVERYTHING = Reach(everything=True)


@dataclass(frozen=True)
class Rights:
    """What somebody may do. expanded: as `expand` returns it."""

    expanded: frozenset[str] = field(default_factory=frozenset)

    @cached_property
    def _reaches(self) -> dict[str, Reach]:
        found: dict[str, dict[str, set[str]]] = {}
        everything: set[str] = set()
        for scope in self.expanded:
            name, mark, said = scope.partition("!")
            if not mark:
                everything.add(name)
                continue
            kind, _, value = said.partition("=")
            found.setdefault(name, {}).setdefault(kind, set()).add(value)
        reaches = {name: Reach(users=frozenset(kinds.get("user", ())), groups=frozenset(kinds.get("group", ())),
                               servers=frozenset(kinds.get("server", ())), services=frozenset(kinds.get("service", ())))
                   for name, kinds in found.items()}
        return reaches | dict.fromkeys(everything, _EVERYTHING)

    def reach(self, name: str) -> Reach:
        """Return whom this scope reaches; a false one reaches nobody."""
        return self._reaches.get(name, _NOTHING)

    def has(self, name: str) -> bool:
        """Say whether the scope is held for everybody, without a filter."""
        return self.reach(name).everything

    def holds(self, scope: str, groups_of: Callable[[str], Collection[str]] = lambda user: ()) -> bool:
        """Say whether one expanded scope is held, perhaps by a wider one. groups_of: a user's groups."""
        if scope in self.expanded:
            return True
        name, mark, said = scope.partition("!")
        reach = self.reach(name)
        if reach.everything or not mark:
            return reach.everything
        kind, _, value = said.partition("=")
        if kind == "user":
            return reach.user(value, groups_of(value) if reach.groups else ())
        if kind == "server":
            user, _, server = value.partition("/")
            return reach.server(user, server, groups_of(user) if reach.groups else ())
        return reach.group(value) if kind == "group" else reach.service(value)

    def missing(self, expanded: Iterable[str], groups_of: Callable[[str], Collection[str]] = lambda user: ()) -> list[str]:
        """Return those of the expanded scopes that are not held, sorted: nobody hands out what they do not hold."""
        return sorted(scope for scope in expanded if not self.holds(scope, groups_of))

    def narrowed(self, expanded: Iterable[str],
                 groups_of: Callable[[str], Collection[str]] = lambda user: ()) -> Rights:
        """Return what both these rights and `expanded` hold: a token does not do more than its owner may by now."""
        wanted = Rights(frozenset(expanded))
        return Rights(frozenset(scope for scope in wanted.expanded if self.holds(scope, groups_of))
                      | frozenset(scope for scope in self.expanded if wanted.holds(scope, groups_of)))

    def with_more(self, expanded: Iterable[str]) -> Rights:
        return Rights(self.expanded | frozenset(expanded))


def identify(owner: Owner) -> frozenset[str]:
    """Return what every token may: say whose it is."""
    if owner.user:
        return frozenset(f"read:users:{what}!user={owner.user}" for what in ("name", "groups"))
    return frozenset({f"read:services:name!service={owner.service}"}) if owner.service else frozenset()


def define(custom: Mapping[str, Mapping[str, object]]) -> Mapping[str, Scope]:
    """Return the scopes with those that `c.JupyterHub.custom_scopes` adds. Raises BadScope."""
    more: dict[str, Scope] = {}
    for name, said in custom.items():
        if not CUSTOM.fullmatch(name):
            raise BadScope(f"The name of a scope of one's own begins with “custom:”, lower case: “{_shown(name)}” does not.")
        unknown = sorted(set(said) - {"description", "subscopes"})
        description, subscopes = said.get("description"), said.get("subscopes", ())
        if unknown or not isinstance(description, str) or not description or not isinstance(subscopes, (list, tuple, set)):
            raise BadScope(f"The scope {name} needs a “description” and may have “subscopes”, and nothing else.")
        more[name] = Scope(description, tuple(map(str, subscopes)))
    known = {**SCOPES, **more}
    for name, scope in more.items():
        for sub in scope.subscopes:
            if sub not in more or sub == name:
                raise BadScope(f"A subscope of {name} has to be another scope of one's own, not “{_shown(sub)}”.")
    _refuse_circles(more)
    return MappingProxyType(known)


def _refuse_circles(more: Mapping[str, Scope]) -> None:
    def walk(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise BadScope(f"The scope {name} is a subscope of itself.")
        for sub in more[name].subscopes:
            walk(sub, (*above, name))

    for name in more:
        walk(name, ())


def _shown(text: str) -> str:
    return text[:60] if text.isprintable() else "?"
