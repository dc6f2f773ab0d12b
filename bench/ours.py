#!/usr/bin/env python3
"""The Hub of this repository, in a fresh working folder, on ports, a network and a namespace of its own.

    with Ours() as hub:
        ...  hub.url, hub.students(3), hub.kill(), hub.start()

At the end `appliance stop --servers` ends what runs and the folder goes. Alone it runs until Ctrl-C.
"""
from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

import docker
import docker.errors
from common import Bare, Child, Client, free_port, run_until_interrupted, sign_in, status_of, wait_for, xsrf_of

IMAGE = "appliance/notebook:latest"
NAMESPACE = "appliance-bench"
REPOSITORY = Path(__file__).resolve().parent.parent

CONFIG = """\
c = get_config()
c.JupyterHub.ip = "127.0.0.1"
c.JupyterHub.port = {port}
c.JupyterHub.hub_port = {hub_port}
c.JupyterHub.authenticator_class = "local"
c.DockerSpawner.image = "{image}"
c.DockerSpawner.namespace = "{namespace}"
c.DockerSpawner.network_name = "{namespace}"
c.DockerSpawner.subnet = "10.214.16.0/22"
"""


class Ours:
    """extra_config: more lines for jupyterhub_config.py."""

    name = "this repository"
    image = IMAGE

    def __init__(self, extra_config: str = "") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"{NAMESPACE}-"))
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._engine = docker.APIClient(version="auto")
        self._child: Child | None = None
        self.admin_password = secrets.token_urlsafe()
        self._token = ""
        self._students: list[tuple[str, str]] = []
        (self.folder / "homes").mkdir()
        # A copy of the program: a Hub that is started again is the same one, whatever is edited meanwhile.
        shutil.copytree(REPOSITORY / "appliance", self.folder / "program/appliance")
        (self.folder / "jupyterhub_config.py").write_text(CONFIG.format(
            port=self.port, hub_port=free_port(), image=IMAGE, namespace=NAMESPACE) + extra_config)

    def __enter__(self) -> Ours:
        try:
            self.start()
            self.appliance("user", "ensure-admin")
            self._token = self.appliance("token", "admin").split()[-1]
        except BaseException:
            with contextlib.suppress(Exception):     # the first error is the one to see
                self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if any(error):
            print(f"The Hub's log ends with:\n{self.log[-4000:]}", file=sys.stderr)
        try:
            self.appliance("stop", "--servers")
        except RuntimeError as failure:
            print(failure, file=sys.stderr)
            self._end_the_rest()
        finally:
            if self._child is not None:
                self._child.end()
            with contextlib.suppress(docker.errors.APIError):
                self._engine.remove_network(NAMESPACE)
            shutil.rmtree(self.folder, ignore_errors=True)

    def _end_the_rest(self) -> None:
        with contextlib.suppress(ValueError, ProcessLookupError):   # no such file, no such process
            os.kill(self.proxy_pid, signal.SIGTERM)
        for container in self._containers():
            self._engine.remove_container(container["Id"], force=True)

    def start(self) -> float:
        """Start the Hub, or start it again; return the seconds until its login page answers."""
        self._child = Child(self._command(), self.folder, "hub.log", env=self._environment())
        return wait_for("the Hub", lambda: status_of(f"{self.url}/hub/login") == 200, alive=self._child)

    def kill(self) -> None:
        """End the Hub as `kill -9` does; Traefik and the servers go on."""
        assert self._child is not None
        self._child.kill()

    @property
    def hub_pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    @property
    def proxy_pid(self) -> int:
        file, = self.folder.glob("state/**/traefik.pid")
        return int(json.loads(file.read_text())["pid"])

    @property
    def log(self) -> str:
        file = self.folder / "hub.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def appliance(self, *words: str, said: str | None = None) -> str:
        """Run a command of the `appliance` program; return what it prints. said: a line for its standard input."""
        done = subprocess.run(self._command(*words), cwd=self.folder, env=self._environment(), text=True,
                              input=f"{said or ''}\n", capture_output=True)
        if done.returncode:
            raise RuntimeError(f"appliance {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    def students(self, count: int) -> list[tuple[str, str]]:
        """Return names and passwords of accounts that may sign in; an own password is chosen already."""
        while len(self._students) < count:
            name, given, chosen = f"student{len(self._students) + 1:02}", secrets.token_urlsafe(), secrets.token_urlsafe()
            self.appliance("user", "add", name, "--password-stdin", said=given)
            client = Client(self.url)
            page = client.follow(sign_in(client, name, given))
            changed = client.post(page.url, {"old": given, "new": chosen, "again": chosen, "_xsrf": xsrf_of(page.text)})
            if changed.location is None:
                raise RuntimeError(f"{name} could not choose a password: {changed.status} {page.url}")
            self._students.append((name, chosen))
        return self._students[:count]

    def container_of(self, name: str) -> str:
        """Return the id of the student's container."""
        return str(self._containers(name)[0]["Id"])

    def bare_like(self, container: str) -> Bare:
        return Bare.like(container)

    def stop_server(self, name: str) -> None:
        """Stop a student's server and wait until its container is gone and the next start is a cold one."""
        self._api("DELETE", f"users/{quote(name)}/server")
        wait_for(f"the end of {name}'s container", lambda: not self._containers(name), pause_s=0.2)
        wait_for(f"the end of {name}'s server", lambda: not self._api("GET", f"users/{quote(name)}")["pending"], pause_s=0.2)

    def _api(self, method: str, path: str) -> dict[str, object]:
        answer = Client(self.url).request(method, f"/hub/api/{path}", headers={"Authorization": f"token {self._token}"})
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {answer.text}")
        return dict(json.loads(answer.body or b"{}"))

    def _containers(self, name: str = "") -> list[dict[str, object]]:
        labels = [f"org.appliance.namespace={NAMESPACE}", *([f"org.appliance.user={name}"] if name else [])]
        return list(self._engine.containers(all=True, filters={"label": labels}))

    @staticmethod
    def _command(*words: str) -> list[str]:
        return [sys.executable, "-m", "appliance.cli", *words]

    def _environment(self) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": str(self.folder / "program"), "PYTHONUNBUFFERED": "1",
                             "APPLIANCE_ADMIN_PASSWORD": self.admin_password}


if __name__ == "__main__":
    run_until_interrupted(Ours())
