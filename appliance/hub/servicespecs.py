"""What a service that the Hub runs is started with, and its token."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from appliance.domain.capability import service_token
from appliance.domain.names import validate_username
from appliance.domain.service import ServiceDefinition
from appliance.domain.urls import Urls
from appliance.domain.user import User
from appliance.errors import ServiceFailed
from appliance.hub.permissions import Permissions
from appliance.ports import Homes, Proxy, ServiceRunner, ServiceSpec, Spawner
from appliance.store import users
from appliance.store.database import Database


@dataclass(frozen=True)
class ServiceWorld:
    """What services need of the box. hub_url: as processes of this machine see the Hub, "http://127.0.0.1:8081"."""

    db: Database
    urls: Urls
    proxy: Proxy
    spawner: Spawner
    homes: Homes
    permissions: Permissions
    processes: ServiceRunner
    token_key: bytes
    hub_url: str
    hub_port: int
    public_origin: str = ""
    may_start_containers: Callable[[], bool] = lambda: True


class ServiceSpecs:
    def __init__(self, world: ServiceWorld) -> None:
        self._world = world

    def token(self, service: ServiceDefinition) -> str:
        """Return the API token of one of the configuration: as given there, else derived; "" where it has none to know."""
        if not service.from_config:
            return ""
        return service.api_token or (service_token(self._world.token_key, service.name) if service.managed else "")

    async def of(self, service: ServiceDefinition) -> ServiceSpec:
        """Raises ServiceFailed, HomesUnavailable, DatabaseDown."""
        environment, uid, home = self.environment(service), 0, Path("/")
        if service.container is not None:
            user = await self._account(service.user)
            uid, home = user.uid, await self._world.homes.ensure(user.uid, user.name)
        return ServiceSpec(
            name=service.name, prefix=self._world.urls.service(service.name), environment=environment, command=service.command,
            cwd=service.cwd, user=service.user, container=service.container, uid=uid, home=home)

    async def _account(self, name: str) -> User:
        """Return the account in whose home a container works; it is made if there is none, without a password."""
        name = validate_username(name)
        user = await self._world.db.transact(lambda t: users.find(t, name) or users.add(t, name))
        if user.archived:
            raise ServiceFailed(f"The account {name} is archived, so no service can work in its home.",
                                action=f"Bring it back with “appliance user unarchive {name}”.")
        return user

    def environment(self, service: ServiceDefinition) -> dict[str, str]:
        """Return what a service that the Hub runs is told, as JupyterHub tells it."""
        world, urls, origin = self._world, self._world.urls, self._world.public_origin
        prefix = urls.service(service.name) if service.has_address else ""
        token, container = self.token(service), service.container
        hub_url = f"http://{world.spawner.hub_host()}:{world.hub_port}" if container else world.hub_url
        access = json.dumps(["access:services", f"access:services!service={service.name}"])
        told = {
            "JUPYTERHUB_SERVICE_NAME": service.name,
            "JUPYTERHUB_USER": service.user,
            "JUPYTERHUB_SERVER_NAME": "",
            "JUPYTERHUB_API_TOKEN": token,
            "JPY_API_TOKEN": token,
            "JUPYTERHUB_API_URL": f"{hub_url}{urls.base}hub/api",
            "JUPYTERHUB_BASE_URL": urls.base,
            "JUPYTERHUB_CLIENT_ID": service.oauth_client_id,
            "JUPYTERHUB_OAUTH_CALLBACK_URL": service.oauth_redirect_uri or (f"{prefix}oauth_callback" if prefix else ""),
            "JUPYTERHUB_OAUTH_ACCESS_SCOPES": access,
            "JUPYTERHUB_OAUTH_SCOPES": access,
            "JUPYTERHUB_OAUTH_CLIENT_ALLOWED_SCOPES": json.dumps(service.oauth_client_allowed_scopes),
            "JUPYTERHUB_HOST": "",
            "JUPYTERHUB_PUBLIC_URL": origin + prefix if origin and prefix else "",
            "JUPYTERHUB_PUBLIC_HUB_URL": origin + urls.hub if origin else "",
            "JUPYTERHUB_COOKIE_HOST_PREFIX_ENABLED": "0",
        }
        if prefix:
            told |= {"JUPYTERHUB_SERVICE_PREFIX": prefix,
                     "JUPYTERHUB_SERVICE_URL": f"http://0.0.0.0:{container.port}" if container else service.url}
        return told | dict(service.environment)
