"""Checks of the Docker Engine that is there already, if one is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from appliance.box.checks import Check, fail, ok, warn
from appliance.box.machine import Machine
from appliance.box.plan import Plan
from appliance.box.shell import read_json

_OLDEST = (20, 10)
_DAEMON_JSON = "/etc/docker/daemon.json"


def check_engine(machine: Machine, plan: Plan) -> Iterator[Check]:
    info = machine.docker_info
    if info is None:
        source = "the vendor's repository" if plan.docker_package == "vendor" else "the distribution's package"
        yield ok("docker", f"Docker is not installed; it will be, from {source}.")
        return
    if machine.run("dpkg-query", "--show", "--showformat=${Status}", "podman-docker").stdout.startswith("install ok"):
        yield fail("docker", "The command docker of this machine is Podman's, not Docker's.",
                   "Remove it: apt remove podman-docker. Podman itself may stay.")
        return
    if isinstance(info, str):
        yield warn("docker", f"Docker is installed but does not answer: {info.rstrip('.')}.",
                   "The playbook starts it; if that fails look at: journalctl -u docker")
        return
    reason = unsuitable(info)
    if reason:
        yield fail("docker", reason[0], reason[1])
        return
    version = str(info.get("ServerVersion", ""))
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < _OLDEST:
        yield fail("docker", f"Docker Engine {version} is too old; the box needs 20.10.",
                   "Upgrade it with the package manager it came from.")
        return
    yield ok("docker", f"Docker Engine {version} is there and can keep students apart.")
    if not info.get("LiveRestoreEnabled") and (info.get("Swarm") or {}).get("LocalNodeState") == "active":
        yield warn("docker-swarm", "This engine is part of a swarm, where live-restore does not work: a restart of Docker ends "
                   "every running server.", "Leave the swarm if nobody needs it: docker swarm leave")


def unsuitable(info: dict[str, Any]) -> tuple[str, str] | None:
    """Return (sentence, remedy) for an engine that cannot keep students apart, as the Hub itself judges it."""
    security = " ".join(info.get("SecurityOptions") or [])
    normal = "Install Docker Engine as a service of the system, with its default settings."
    if "name=rootless" in security:
        return ("This Docker Engine runs rootless; the box cannot keep students apart with it.", normal)
    if "name=userns" in security:
        return ("This Docker Engine remaps users (userns-remap); homes would belong to the wrong users.",
                "Remove “userns-remap” from /etc/docker/daemon.json and restart Docker, or use another machine.")
    if "docker desktop" in str(info.get("OperatingSystem", "")).lower():
        return ("This is Docker Desktop, which runs in a virtual machine of its own.", normal)
    if info.get("OSType", "linux") != "linux":
        return ("This Docker Engine does not run Linux containers.", normal)
    if str(info.get("DockerRootDir", "")).startswith("/var/snap/"):
        return ("This Docker Engine is a snap, which cannot see the box's folders.",
                "Remove it (snap remove docker) and let the playbook install Docker.")
    return None


def check_other_containers(machine: Machine) -> Iterator[Check]:
    if machine.engine is None:
        return
    rows = machine.run("docker", "ps", "--all", "--format", '{{.Names}}\t{{.Label "org.appliance.namespace"}}\t'
                       '{{.Label "com.docker.compose.project"}}').stdout.splitlines()
    name = machine.paths.name
    others = [row.split("\t")[0] for row in rows
              if name not in [*row.split("\t"), "", ""][1:3] and not row.startswith(f"{name}-")]
    if others:
        yield ok("docker-others", f"Docker already has {len(others)} other container{'s' * (len(others) > 1)} "
                 f"({', '.join(others[:4])}{' …' if len(others) > 4 else ''}). They are left alone, and Docker is not "
                 "restarted.")
    else:
        yield ok("docker-others", "Docker has no other containers.")


def check_daemon_json(machine: Machine) -> Iterator[Check]:
    """A file that is not ours is not overwritten; what is then missing is said."""
    text = machine.read(_DAEMON_JSON)
    if not text.strip():
        if machine.engine is not None:
            yield from check_live_restore(machine)
        else:
            yield ok("docker-settings", "Docker has no settings of its own yet; the playbook writes them.")
        return
    try:
        settings = json.loads(text)
    except ValueError as error:
        yield fail("docker-settings", f"{_DAEMON_JSON} is not JSON ({error}); Docker will not start again.", "Correct it.")
        return
    installed = read_json(machine.paths.installed_file)
    if _DAEMON_JSON in (installed.get("files") or []):
        yield ok("docker-settings", f"{_DAEMON_JSON} is the box's own.")
        return
    missing = []
    if settings.get("live-restore") is not True:
        missing.append('"live-restore": true (without it a restart of Docker ends every running server)')
    driver = settings.get("log-driver", "json-file")
    if driver == "json-file" and "max-size" not in (settings.get("log-opts") or {}):
        missing.append('"log-driver": "local" (without it logs grow until the disk is full)')
    if missing:
        yield warn("docker-settings",
                   f"{_DAEMON_JSON} is somebody else's and is not changed. It lacks {' and '.join(missing)}.",
                   f"Add that to {_DAEMON_JSON} and run: systemctl reload docker")
    else:
        yield ok("docker-settings", f"{_DAEMON_JSON} is somebody else's and has what the box needs; it is not changed.")


def check_live_restore(machine: Machine) -> Iterator[Check]:
    if machine.engine is None:
        return
    if machine.engine.get("LiveRestoreEnabled"):
        yield ok("live-restore", "A restart of Docker leaves running servers alone (live-restore).")
    else:
        yield warn("live-restore", "A restart of Docker, by an update for example, ends every running server: live-restore is "
                   "off.",
                   f'Put "live-restore": true into {_DAEMON_JSON} and run: systemctl reload docker')
