"""What a server is started with: everything the Hub decides about one start."""

from __future__ import annotations

import json
from pathlib import Path

from appliance.domain.capability import server_token
from appliance.domain.names import quote_name
from appliance.domain.oauth import server_access_scopes, server_client_id
from appliance.domain.offers import StartWith
from appliance.domain.server import Server
from appliance.domain.urls import Urls
from appliance.hub.offers import Offers, Standing
from appliance.ports import ImageOptions, ServerSpec, Spawner


class Specs:
    """api_port: of the Hub's listener for servers, on the address `spawner.hub_host()`. token_key: of servers' own tokens.
    public_origin: "https://box.school", "" if that is not configured. offers: without, everybody gets the spawner's own."""

    def __init__(self, urls: Urls, spawner: Spawner, api_port: int, token_key: bytes, public_origin: str = "",
                 offers: Offers | None = None) -> None:
        self._urls, self._spawner, self._api_port = urls, spawner, api_port
        self.offers = offers or Offers(spawner, _in_no_group)
        self._token_key, self._public_origin = token_key, public_origin

    def of(self, server: Server, home: Path, token: str | None, extra: dict[str, str],
           start: StartWith | None = None) -> ServerSpec:
        """token: the secret the edge injects; the image's app accepts requests that carry it and no others.
        start: what this start differs in from others."""
        options, start = self._spawner.options(server.image), start or StartWith()
        prefix = self._urls.server(server.user_name, server.name)
        environment = {**start.environment, **self._environment(server, options), **self._limits(start),
                       **({"JUPYTER_TOKEN": token} if token else {}), **extra}
        return ServerSpec(
            server_id=server.id, start_no=server.start_no, user_name=server.user_name, server_name=server.name,
            uid=server.uid, home=home, prefix=prefix, address=server.address, image=server.image, environment=environment,
            mem_limit_bytes=start.mem_limit_bytes, cpu_limit=start.cpu_limit, user_options=server.user_options)

    def _limits(self, start: StartWith) -> dict[str, str]:
        """Return the limits in the variables in which jupyter-resource-usage and others look for them."""
        memory = start.mem_limit_bytes or self._spawner.mem_limit
        said = {"MEM_LIMIT": memory, "CPU_LIMIT": start.cpu_limit or self._spawner.cpu_limit}
        return {name: str(value) for name, value in said.items() if value}

    def _environment(self, server: Server, options: ImageOptions) -> dict[str, str]:
        """Return what an unmodified jupyterhub-singleuser asks for, whatever the image runs."""
        prefix, api_token = self.prefix(server), self.api_token(server)
        api = f"http://{self._spawner.hub_host()}:{self._api_port}{self._urls.base}hub/api"
        access = json.dumps(server_access_scopes(server.user_name, server.name))
        origin = self._public_origin
        return {
            "JUPYTERHUB_USER": server.user_name,
            "JUPYTERHUB_SERVER_NAME": server.name,
            "JUPYTERHUB_BASE_URL": self._urls.base,
            "JUPYTERHUB_SERVICE_PREFIX": prefix,
            "JUPYTERHUB_SERVICE_URL": f"http://0.0.0.0:{options.port}{prefix}",
            "JUPYTERHUB_DEFAULT_URL": self.offers.default_url(server) or options.default_url,
            "JUPYTERHUB_API_URL": api,
            "JUPYTERHUB_ACTIVITY_URL": f"{api}/users/{quote_name(server.user_name)}/activity",
            "JUPYTERHUB_API_TOKEN": api_token,
            "JPY_API_TOKEN": api_token,
            "JUPYTERHUB_CLIENT_ID": server_client_id(server.user_name, server.name),
            "JUPYTERHUB_OAUTH_CALLBACK_URL": self.callback(server),
            "JUPYTERHUB_OAUTH_ACCESS_SCOPES": access,
            "JUPYTERHUB_OAUTH_SCOPES": access,
            "JUPYTERHUB_OAUTH_CLIENT_ALLOWED_SCOPES": json.dumps(self.oauth_client_allowed_scopes),
            "JUPYTERHUB_HOST": "",
            "JUPYTERHUB_PUBLIC_URL": origin and origin + prefix,
            "JUPYTERHUB_PUBLIC_HUB_URL": origin and origin + self._urls.hub,
            "JUPYTERHUB_COOKIE_HOST_PREFIX_ENABLED": "0",
        }

    def api_token(self, server: Server) -> str:
        """Return the token that this start of a server speaks to the Hub with."""
        return server_token(self._token_key, server.id, server.start_no)

    @property
    def oauth_client_allowed_scopes(self) -> tuple[str, ...]:
        return tuple(self._spawner.oauth_client_allowed_scopes)

    def service_prefix(self, name: str) -> str:
        return f"{self._urls.base}services/{name}/"

    def callback(self, server: Server) -> str:
        """Return the path that the Hub sends a browser back to, "/user/alice/oauth_callback"."""
        return f"{self.prefix(server)}oauth_callback"

    def prefix(self, server: Server) -> str:
        return self._urls.server(server.user_name, server.name)

    def probe_url(self, server: Server) -> str:
        """Return the address that is asked until the app in the server answers."""
        options = self._spawner.options(server.image)
        prefix = "/" if options.strip_prefix else self._urls.server(server.user_name, server.name)
        return f"{server.url}{prefix}{options.ready_path.lstrip('/')}"

    def landing(self, server: Server) -> str:
        """Return the path where the server's owner lands, "/user/alice/lab"."""
        prefix = self._urls.server(server.user_name, server.name)
        default_url = self.offers.default_url(server) or self._spawner.options(server.image).default_url
        return prefix + default_url.lstrip("/")


async def _in_no_group(user_id: int) -> Standing:
    return False, {}
