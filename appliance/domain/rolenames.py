"""Which names in roles belong to nobody: a slip of the pen gives a right to no one, and nobody notices."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from appliance.domain.nearest import nearest
from appliance.domain.roles import Role, Roles

USER, GROUP, SERVICE = "user", "group", "service"


def unknown_names(roles: Roles, there: Mapping[str, Collection[str]]) -> list[str]:
    """Return a sentence about each name that is not there. there: the names of users, groups and services by these words."""
    found = []
    for role in roles.by_name.values():
        for kind, name, how in dict.fromkeys(_named(role)):
            if name not in there[kind]:
                later = "" if kind == SERVICE else " so far"
                found.append(f"The role “{role.name}” {how} the {kind} “{name}”, which there is not{later}"
                             f"{nearest(name, there[kind])}. Correct c.JupyterHub.load_roles if that is a slip.")
    return found


def _named(role: Role) -> Iterator[tuple[str, str, str]]:
    for kind, names in ((SERVICE, role.services), (USER, role.users), (GROUP, role.groups)):
        for name in sorted(names):
            yield kind, name, "is for"
    for scope in role.scopes:
        kind, _, value = scope.partition("!")[2].partition("=")
        if kind == "server":
            kind, value = USER, value.partition("/")[0]
        if value and kind in (USER, GROUP, SERVICE):
            yield kind, value, "speaks of"
