"""What a server is started with: everything the Hub decides about one start."""

from __future__ import annotations

from pathlib import Path

from appliance.domain.server import Server
from appliance.domain.urls import Urls
from appliance.ports import ServerSpec, Spawner


class Specs:
    """api_port: of the Hub's listener for servers, on the address `spawner.hub_host()`."""

    def __init__(self, urls: Urls, spawner: Spawner, api_port: int) -> None:
        self._urls, self._spawner, self._api_port = urls, spawner, api_port

    def of(self, server: Server, home: Path, token: str | None, extra: dict[str, str]) -> ServerSpec:
        """token: the secret the edge injects; the image's app accepts requests that carry it and no others."""
        options = self._spawner.options(server.image)
        prefix = self._urls.server(server.user_name, server.name)
        environment = {
            "JUPYTERHUB_USER": server.user_name,
            "JUPYTERHUB_SERVER_NAME": server.name,
            "JUPYTERHUB_BASE_URL": self._urls.base,
            "JUPYTERHUB_SERVICE_PREFIX": prefix,
            "JUPYTERHUB_SERVICE_URL": f"http://0.0.0.0:{options.port}{prefix}",
            "JUPYTERHUB_API_URL": f"http://{self._spawner.hub_host()}:{self._api_port}{self._urls.base}hub/api",
            **({"JUPYTER_TOKEN": token} if token else {}),
            **extra,
        }
        return ServerSpec(
            server_id=server.id, start_no=server.start_no, user_name=server.user_name, server_name=server.name,
            uid=server.uid, home=home, prefix=prefix, address=server.address, image=server.image, environment=environment)

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
        return prefix + self._spawner.options(server.image).default_url.lstrip("/")
