"""Finds a driver's class by what the configuration calls it: a short name, an import path, or the class itself."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from appliance.errors import Misconfigured
from appliance.ports import Authenticator, Homes, Proxy, Spawner


@dataclass(frozen=True)
class Kind:
    """One sort of driver. builtin: short name → import path; known before any entry point, so it works uninstalled."""

    option: str
    noun: str
    base: type[Any]
    group: str
    builtin: dict[str, str]
    page: str
    # how configurations written for JupyterHub call what we have too
    aliases: dict[str, str]

    def names(self) -> list[str]:
        return sorted({*self.builtin, *(point.name for point in entry_points(group=self.group))})


AUTHENTICATOR = Kind(
    "authenticator_class", "an Authenticator", Authenticator, "jupyterhub.authenticators",
    {"local": "appliance.authenticators.local:AccountsAuthenticator",
     "pam": "appliance.authenticators.pam:PAMAuthenticator"},
    "Writing an Authenticator",
    {"default": "pam", "jupyterhub.auth.PAMAuthenticator": "pam"},
)
SPAWNER = Kind(
    "spawner_class", "a Spawner", Spawner, "jupyterhub.spawners",
    {"docker": "appliance.spawners.docker:DockerSpawner",
     "localprocess": "appliance.spawners.local:LocalProcessSpawner"},
    "Writing a Spawner",
    {"dockerspawner.DockerSpawner": "docker", "jupyterhub.spawner.LocalProcessSpawner": "localprocess"},
)
PROXY = Kind(
    "proxy_class", "a Proxy", Proxy, "jupyterhub.proxies",
    {"traefik": "appliance.proxies.traefik:TraefikProxy"}, "How it works", {"default": "traefik"},
)
HOMES = Kind(
    "homes_class", "a Homes driver", Homes, "appliance.homes",
    {"directory": "appliance.homes.directory:DirectoryHomes", "btrfs": "appliance.homes.btrfs:BtrfsHomes"},
    "How it works", {},
)
# packages with Authenticators that are written for JupyterHub, installed or not
_OLD_AUTHENTICATORS = frozenset({
    "oauthenticator", "jupyterhub", "nativeauthenticator", "ldapauthenticator", "firstuseauthenticator", "ltiauthenticator",
    "dummyauthenticator", "tmpauthenticator", "jhub_remote_user_authenticator", "hashauthenticator",
})
KINDS = (AUTHENTICATOR, SPAWNER, PROXY, HOMES)


def find(kind: Kind, named: str | type) -> type[Any]:
    """Return the class that `named` means. Raises Misconfigured, whose sentence names the option."""
    option = f"c.JupyterHub.{kind.option}"
    found = _import(kind, named, option) if isinstance(named, str) else named
    if not (isinstance(found, type) and issubclass(found, kind.base)):
        said = f"'{named}'" if isinstance(named, str) else getattr(found, "__name__", repr(found))
        raise Misconfigured(
            f"{option}: {said} is not {kind.noun} for this program, because it is no subclass of "
            f"appliance.{kind.base.__name__}; see “{kind.page}” in the documentation.")
    return found


def _import(kind: Kind, named: str, option: str) -> Any:
    name = kind.aliases.get(named, named)
    path = kind.builtin.get(name.lower())
    if path is None:
        points = {point.name.lower(): point.value for point in entry_points(group=kind.group)}
        path = points.get(name.lower(), name)
    module_name, _, attribute = path.partition(":") if ":" in path else path.rpartition(".")
    if not module_name or not attribute:
        raise Misconfigured(
            f"{option}: there is nothing called '{named}'. There is: {', '.join(kind.names())}; "
            "or name a class by its import path, like mymodule.MyClass.")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except AttributeError:
        raise Misconfigured(f"{option}: the module '{module_name}' has no class '{attribute}'.") from None
    except Exception as error:  # whatever the module of an admin or a plugin raises while it is imported
        if kind is AUTHENTICATOR and module_name.split(".")[0] in _OLD_AUTHENTICATORS:
            raise Misconfigured(
                f"{option}: '{named}' is an Authenticator for JupyterHub, and those cannot be used here, because they are "
                f"given what this program has not. Write a short one: see “{kind.page}” in the documentation. There is: "
                f"{', '.join(kind.names())}.") from error
        reason = str(error) or type(error).__name__
        if isinstance(error, ModuleNotFoundError) and module_name.split(".")[0] == error.name:
            reason = f"there is no module '{error.name}' in this program's Python"
        others = [each for each in kind.names() if each != name.lower()]
        raise Misconfigured(
            f"{option}: '{named}' cannot be imported: {reason}. There is also: {', '.join(others)}.") from error
