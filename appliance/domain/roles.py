"""Roles: names for sets of scopes. Who has which is a function of the configuration, of the admin flag and of groups; the
database holds nothing of it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from appliance.domain.names import validate_groupname, validate_username
from appliance.domain.nearest import nearest
from appliance.domain.scopes import INHERIT, SCOPES, SELF, Scope, check
from appliance.errors import ApplianceError, BadOption

USER, ADMIN, SERVER, TOKEN = "user", "admin", "server", "token"
_NAME = re.compile(r"[a-z][a-z0-9\-_~.]{1,253}[a-z0-9]")
_KEYS = ("name", "description", "scopes", "users", "services", "groups")


@dataclass(frozen=True)
class Role:
    name: str
    description: str = ""
    scopes: tuple[str, ...] = ()
    users: frozenset[str] = frozenset()
    services: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()


ADMIN_SCOPES = (
    "admin-ui", "admin:users", "admin:servers", "admin:services", "tokens", "admin:groups", "list:services", "read:services",
    "read:hub", "proxy", "shutdown", "access:services", "access:servers", "read:roles", "read:metrics", "shares",
)
_DEFAULT = {role.name: role for role in (
    Role(USER, "What everybody with an account may do", (SELF,)),
    Role(ADMIN, "May do everything", ADMIN_SCOPES),
    Role(SERVER, "What a running server may do", ("users:activity!user", "access:servers!server")),
    Role(TOKEN, "What a token may do of which nothing else is said", (INHERIT,)),
)}


@dataclass(frozen=True)
class Roles:
    """by_name: every role there is. scopes: every scope there is, those of one's own included."""

    by_name: Mapping[str, Role] = field(default_factory=lambda: dict(_DEFAULT))
    scopes: Mapping[str, Scope] = field(default_factory=lambda: SCOPES)

    @cached_property
    def named(self) -> frozenset[str]:
        """The users whom some role names."""
        return frozenset[str]().union(*(role.users for role in self.by_name.values()))

    def of_user(self, name: str, groups: Collection[str], *, admin: bool) -> tuple[str, ...]:
        """Return the names of a user's roles, those of the user's groups included."""
        return tuple(sorted(role.name for role in self.by_name.values() if (
            role.name == USER or (admin and role.name == ADMIN) or name in role.users or not role.groups.isdisjoint(groups))))

    def of_service(self, name: str, *, admin: bool) -> tuple[str, ...]:
        return tuple(sorted(role.name for role in self.by_name.values()
                            if (admin and role.name == ADMIN) or name in role.services))

    def of_group(self, name: str) -> tuple[str, ...]:
        return tuple(sorted(role.name for role in self.by_name.values() if name in role.groups))

    def scopes_of(self, names: Iterable[str]) -> list[str]:
        """Return the scopes of roles, as they are written."""
        return [scope for name in names for scope in self.by_name[name].scopes]


def parse(said: Collection[Any], known: Mapping[str, Scope] = SCOPES) -> Roles:
    """Return the roles of `c.JupyterHub.load_roles`. Raises BadOption, whose sentence names the role."""
    found = dict(_DEFAULT)
    seen: set[str] = set()
    for number, each in enumerate(said, 1):
        name = each.get("name") if isinstance(each, Mapping) else None
        try:
            role = _role(each, known)
            if role.name in seen:
                raise BadOption("There are two roles with this name.")
        except ApplianceError as error:
            who = f"“{_shown(name)}”" if isinstance(name, str) and name else f"number {number}"
            raise BadOption(f"role {who}: {error.sentence}") from error
        seen.add(role.name)
        found[role.name] = role
    return Roles(found, known)


def _role(said: object, known: Mapping[str, Scope]) -> Role:
    if not isinstance(said, Mapping):
        raise BadOption("A role is described by a dictionary like {'name': 'grader', 'scopes': […], 'users': […]}.")
    for key in said:
        if key not in _KEYS:
            rest = nearest(key, _KEYS) or f"; there is {', '.join(_KEYS)}"
            raise BadOption(f"There is no “{_shown(key)}” in a role{rest}.")
    name = said.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadOption("A role's name begins with a lower-case letter, ends with one or a digit, and has at least three "
                        "characters, of lower-case letters, digits, '-', '_', '~' and '.'.")
    role = _DEFAULT.get(name, Role(name))
    description = said.get("description", role.description)
    if not isinstance(description, str):
        raise BadOption("“description” has to be text in quotes.")
    scopes = tuple(check(scope, known) for scope in _texts("scopes", said["scopes"])) if "scopes" in said else role.scopes
    if name == ADMIN and set(scopes) != set(ADMIN_SCOPES):
        raise BadOption("What the role admin may do cannot be changed; make a role of another name.")
    if INHERIT in scopes and name != TOKEN:
        raise BadOption(f"“{INHERIT}” is for tokens, not for roles.")
    if name == TOKEN and any(said.get(who) for who in ("users", "services", "groups")):
        raise BadOption("The role token is not given to anybody.")
    return replace(
        role, description=description, scopes=scopes,
        users=frozenset(map(validate_username, _texts("users", said.get("users", ())))),
        services=frozenset(_texts("services", said.get("services", ()))),
        groups=frozenset(map(validate_groupname, _texts("groups", said.get("groups", ())))))


def _texts(what: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple, set, frozenset)) or not all(isinstance(text, str) for text in value):
        raise BadOption(f"“{what}” is a list like ['one', 'two'].")
    return tuple(value)


def _shown(text: object) -> str:
    words = str(text)
    return words[:60] if words.isprintable() else "?"
