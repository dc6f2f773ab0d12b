"""A DockerSpawner of the tests' own: its namespace and subnet are nobody else's, and its end leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors

from appliance.spawners.docker import DockerSpawner
from appliance.spawners.docker_container import NAMESPACE, PROBE, container_name
from appliance.spawners.docker_firewall import remove_table

IMAGE = "appliance/base:latest"


def make_spawner(namespace: str, subnet: str, state_dir: Path, **traits: Any) -> DockerSpawner:
    traits = {"image": IMAGE, "mem_limit": "256M", "pids_limit": 64, "stop_timeout": 5, **traits}
    spawner = DockerSpawner(namespace=namespace, subnet=subnet, **traits)
    spawner.state_dir = state_dir
    return spawner


async def prepare_once(spawner: DockerSpawner) -> None:
    await spawner.prepare()
    await spawner.close()


@contextlib.contextmanager
def client() -> Iterator[docker.APIClient]:
    made = docker.APIClient(version="auto")
    try:
        yield made
    finally:
        made.close()


def clear(namespace: str, *, network: bool = True) -> None:
    """Remove every container of `namespace`, and its network and rules."""
    with client() as engine:
        for label in (NAMESPACE, PROBE):
            for row in engine.containers(all=True, filters={"label": f"{label}={namespace}"}):
                with contextlib.suppress(docker.errors.APIError):
                    engine.remove_container(row["Id"], force=True)
        if network:
            with contextlib.suppress(docker.errors.NotFound):
                engine.remove_network(namespace)
            remove_table(f"appliance_{namespace.replace('-', '_')}")


def inside(namespace: str, server_id: str, *command: str, stdin: str = "") -> str:
    """Return what `command` prints in a server's container, run as its user."""
    done = subprocess.run(["docker", "exec", "-i", container_name(namespace, server_id), *command],
                          input=stdin, capture_output=True, text=True, timeout=30, check=False)
    return (done.stdout + done.stderr).strip()


_REACH = """
import errno, json, socket, sys
found = {}
for host, port in json.loads(sys.argv[1]):
    with socket.socket() as s:
        s.settimeout(0.4)
        try:
            s.connect((host, port)); found[f"{host}:{port}"] = "open"
        except ConnectionRefusedError:
            found[f"{host}:{port}"] = "refused"
        except OSError:
            found[f"{host}:{port}"] = "no"
print(json.dumps(found))
"""


def reach(namespace: str, server_id: str, *targets: tuple[str, int]) -> dict[str, str]:
    """Return "open", "refused" or "no" for each target, as a container finds it."""
    said: dict[str, str] = json.loads(inside(namespace, server_id, "python3", "-c", _REACH, json.dumps(targets)))
    return said
