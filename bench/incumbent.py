#!/usr/bin/env python3
"""The incumbent to compare with: JupyterHub, DockerSpawner and configurable-http-proxy as their documentation has them.

    with Incumbent() as hub:
        ...  hub.url, hub.students(3)

The first start installs it into a folder of its own (about a minute), the next ones find it there. Everything that was
started is ended at the end, by its process id, and the containers are removed. Alone it runs until Ctrl-C.
"""
from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

import docker
import docker.errors
from common import Bare, Child, Client, free_port, run_until_interrupted, status_of, wait_for

IMAGE = "appliance/bench-plain:latest"
NETWORK = "appliance-bench-incumbent"
PYTHON_PACKAGES = ("jupyterhub==6.1.1", "dockerspawner==14.0.0")
NODE_PACKAGE = "configurable-http-proxy@5.3.0"

CONFIG = """\
c.JupyterHub.bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.hub_ip = "{gateway}"
c.JupyterHub.hub_port = {hub_port}
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{api_port}"
c.ConfigurableHTTPProxy.command = [{proxy!r}]
c.JupyterHub.db_url = "sqlite:///jupyterhub.sqlite"
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.spawner_class = "dockerspawner.DockerSpawner"
c.DockerSpawner.image = "{image}"
c.DockerSpawner.cmd = "jupyterhub-singleuser"
c.DockerSpawner.remove = True
c.DockerSpawner.network_name = "{network}"
c.DockerSpawner.use_internal_ip = True
c.DockerSpawner.prefix = "{network}"
c.JupyterHub.services = [{{"name": "bench", "api_token": "{token}"}}]
c.JupyterHub.load_roles = [{{"name": "bench", "scopes": ["admin:users", "admin:servers"], "services": ["bench"]}}]
"""


class Incumbent:
    """JupyterHub with defaults. timeouts_s: for `start_timeout` and `http_timeout`, None leaves them."""

    name = "JupyterHub"
    image = IMAGE
    network = NETWORK

    def __init__(self, folder: Path | None = None, *, timeouts_s: int | None = None) -> None:
        self.folder = folder or Path(tempfile.gettempdir()) / NETWORK
        self.timeouts_s = timeouts_s
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._token = secrets.token_hex(16)
        self._engine = docker.APIClient(version="auto")
        self._child: Child | None = None

    def install(self) -> None:
        """Idempotent."""
        self.folder.mkdir(parents=True, exist_ok=True)
        done = self.folder / "installed"
        wanted = "\n".join((*PYTHON_PACKAGES, NODE_PACKAGE))
        if done.exists() and done.read_text() == wanted:
            return
        print(f"installing {', '.join((*PYTHON_PACKAGES, NODE_PACKAGE))} …", file=sys.stderr, flush=True)
        for command in (
            [sys.executable, "-m", "venv", "venv"],
            ["venv/bin/pip", "install", "--quiet", *PYTHON_PACKAGES],
            ["npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", ".", NODE_PACKAGE],
        ):
            subprocess.run(command, cwd=self.folder, check=True, stdout=sys.stderr)
        done.write_text(wanted)

    def __enter__(self) -> Incumbent:
        self.install()
        self._remove_containers()
        for name in ("jupyterhub.sqlite", "hub.log"):
            (self.folder / name).unlink(missing_ok=True)
        with contextlib.suppress(docker.errors.NotFound):
            self._engine.remove_network(NETWORK)
        self._engine.create_network(NETWORK, driver="bridge")
        gateway = self._engine.inspect_network(NETWORK)["IPAM"]["Config"][0]["Gateway"]
        config = CONFIG.format(
            port=self.port, hub_port=free_port(gateway), api_port=free_port(), gateway=gateway,
            proxy=str(self.folder / "node_modules/.bin/configurable-http-proxy"), image=IMAGE, network=NETWORK,
            token=self._token)
        if self.timeouts_s is not None:
            config += f"c.Spawner.start_timeout = c.Spawner.http_timeout = {self.timeouts_s}\n"
        (self.folder / "jupyterhub_config.py").write_text(config)
        try:
            self.start()
        except BaseException:
            with contextlib.suppress(Exception):     # the first error is the one to see
                self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._child is not None:
            self._child.end()       # JupyterHub ends its proxy itself
        self._remove_containers()
        self._engine.remove_network(NETWORK)

    def start(self) -> float:
        """Start the Hub and return the seconds until its login page answers."""
        path = os.pathsep.join((str(self.folder / "venv/bin"), os.environ["PATH"]))
        self._child = Child([self.folder / "venv/bin/jupyterhub"], self.folder, "hub.log", env=os.environ | {"PATH": path})
        return wait_for("JupyterHub", lambda: status_of(f"{self.url}/hub/login") == 200, alive=self._child)

    @property
    def hub_pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def students(self, count: int) -> list[tuple[str, str]]:
        """Return names and passwords of accounts that may sign in."""
        return [(f"student{number:02}", "any") for number in range(1, count + 1)]

    def container_of(self, name: str) -> str:
        """Return the id of the student's container."""
        return str(self._containers(name)[0]["Id"])

    def bare_like(self, container: str) -> Bare:
        """Return JupyterLab of the same image: `jupyterhub-singleuser` does not run without its Hub."""
        return Bare.plain(IMAGE, "student", NETWORK)

    def stop_server(self, name: str) -> None:
        """Stop a student's server and wait until its container is gone."""
        self._api("DELETE", f"users/{quote(name)}/server")
        wait_for(f"the end of {name}'s container", lambda: not self._containers(name), pause_s=0.2)
        # The Hub forgets the server a moment after its container is gone.
        wait_for(f"the end of {name}'s server", lambda: not self._api("GET", f"users/{quote(name)}")["servers"], pause_s=0.2)

    def _api(self, method: str, path: str) -> dict[str, object]:
        answer = Client(self.url).request(method, f"/hub/api/{path}", headers={"Authorization": f"token {self._token}"})
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {answer.text}")
        return dict(json.loads(answer.body or b"{}"))

    def _containers(self, name: str = "") -> list[dict[str, object]]:
        wanted = f"^/{NETWORK}-{name}{'$' if name else ''}"
        return list(self._engine.containers(all=True, filters={"name": wanted}))

    def _remove_containers(self) -> None:
        for container in self._containers():
            self._engine.remove_container(container["Id"], force=True)


if __name__ == "__main__":
    run_until_interrupted(Incumbent())
