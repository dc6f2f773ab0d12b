"""What became of options of JupyterHub that are not here under their own name, for a warning that says what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

# whose nearest one here is not spelled like them
_RENAMED = {
    "Authenticator.whitelist": "Authenticator.allowed_users",
    "Authenticator.blacklist": "Authenticator.blocked_users",
    "JupyterHub.cookie_secret": "JupyterHub.cookie_secret_file",
    "JupyterHub.hub_bind_url": "JupyterHub.hub_ip",
    "JupyterHub.init_spawners_timeout": "JupyterHub.concurrent_spawn_limit",
    "JupyterHub.service_tokens": "JupyterHub.services",
    "JupyterHub.api_tokens": "JupyterHub.services",
    "DockerSpawner.container_image": "DockerSpawner.image",
    "DockerSpawner.image_whitelist": "DockerSpawner.allowed_images",
}
_NOT_NEEDED = "it is not needed, because servers reach the Hub at the gateway of their network"
_GONE = {
    "JupyterHub.load_groups": "groups are in the database; put people into them with a roster or with the REST API",
    "JupyterHub.admin_access": "nobody opens another's server in a browser, admins neither",
    "JupyterHub.hub_connect_ip": _NOT_NEEDED,
    "JupyterHub.hub_connect_port": _NOT_NEEDED,
    "JupyterHub.hub_connect_url": _NOT_NEEDED,
    "DockerSpawner.hub_ip_connect": _NOT_NEEDED,
    "JupyterHub.cleanup_servers": "it is always off, because the end of the Hub ends no server",
    "JupyterHub.cleanup_proxy": "it is always off, because browsers stay connected while the Hub is away",
    "JupyterHub.subdomain_host": "an address of its own for each user is not in this version",
    "JupyterHub.template_paths": "templates of one's own are not in this version",
    "JupyterHub.template_vars": "templates of one's own are not in this version",
    "DockerSpawner.remove": "it is always on; why a server failed is read before its container goes",
    "DockerSpawner.remove_containers": "it is always on; why a server failed is read before its container goes",
    "DockerSpawner.pull_policy": "images are never pulled at a start; pull them once with docker pull",
    "DockerSpawner.use_internal_ip": "it is always on",
}
_PROXY = "there is one proxy, Traefik, which needs no settings to begin with"
_GONE_CLASSES = {"ConfigurableHTTPProxy": _PROXY, "TraefikFileProviderProxy": _PROXY}


def what_became(section: str, name: str | None) -> str:
    """Return the end of a sentence about c.section.name, like "; the nearest is c.X.y.", "" if nothing is known of it."""
    option = f"{section}.{name}"
    if option in _RENAMED:
        return f"; the nearest is c.{_RENAMED[option]}."
    said = _GONE.get(option) or _GONE_CLASSES.get(section, "")
    return f": {said}." if said else ""


def gone_class(section: str) -> bool:
    """Say whether it is a class of JupyterHub's whose options all mean nothing here."""
    return section in _GONE_CLASSES


def nearest_of(said: str, own: Iterable[str], others: Iterable[str]) -> str:
    """Return which name may be meant, "" for none: of another class only the very same one, as a likeness between
    options of different things says nothing."""
    return next(iter(get_close_matches(said, list(own), 1)), "") or (said if said in others else "")
