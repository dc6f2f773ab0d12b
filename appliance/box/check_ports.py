"""Checks of ports: who listens on those of the box, and which web servers would."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from appliance.box.checks import Check, fail, ok, warn
from appliance.box.machine import Machine
from appliance.box.plan import Plan

_LISTEN = "0A"  # of /proc/net/tcp
_WEB_SERVERS = ("apache2", "nginx", "caddy", "lighttpd", "haproxy", "jupyterhub", "traefik")


def check_ports(machine: Machine, plan: Plan) -> Iterator[Check]:
    wanted = {"port-http": (plan.http_port, "web pages"), "port-hub": (plan.hub_port, "the Hub itself")}
    wanted["port-holding"] = (plan.holding_port, "the page for a Hub that is away")
    if plan.tls != "off":
        wanted["port-https"] = (plan.https_port, "encrypted web pages")
    numbers = [port for port, _ in wanted.values()]
    if len(set(numbers)) < len(numbers):
        yield fail("ports", f"Two of the box's ports are the same: {', '.join(map(str, numbers))}.",
                   "Give each a number of its own.")
    listening = _listening(machine)
    for code, (port, what) in wanted.items():
        inodes = listening.get(port)
        if not inodes:
            yield ok(code, f"Port {port} ({what}) is free.")
            continue
        pid, name = _process_with(machine, inodes)
        owner = _container_of(machine, pid)
        if owner is not None and owner in {str(each.get("Id")) for each in machine.own_containers.values()}:
            yield ok(code, f"Port {port} ({what}) is this box's own.")
        elif owner is not None and machine.engine is None:  # live-restore: containers outlive an engine that is down
            yield warn(code, f"Port {port} ({what}) is used by a container, and Docker does not say by which one.",
                       "Start Docker (systemctl start docker) and look again; this box's own is fine.")
        elif name == "docker-proxy" or owner is not None:
            container = _publisher(machine, port, owner)
            yield fail(code, f"Port {port} ({what}) is used by the container {container or 'of somebody else'}.",
                       f"Stop it (docker stop {container or 'NAME'}), or choose another port for the box.")
        else:
            who = f"the program {name} (process {pid})" if name else "a program that could not be named"
            stop = f"systemctl disable --now {name}" if name in _WEB_SERVERS else f"stop it, for example: kill {pid or 'PID'}"
            yield fail(code, f"Port {port} ({what}) is used by {who}.",
                       f"If nobody needs it, {stop}; or choose another port for the box.")


def _listening(machine: Machine) -> dict[int, set[str]]:
    """The sockets' inodes by the TCP port they listen on."""
    found: dict[int, set[str]] = {}
    for file in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in machine.read(file).splitlines()[1:]:
            words = line.split()
            if len(words) > 9 and words[3] == _LISTEN:
                found.setdefault(int(words[1].rpartition(":")[2], 16), set()).add(words[9])
    return found


def _process_with(machine: Machine, inodes: set[str]) -> tuple[str, str]:
    """Return (pid, name) of a process that holds one of the sockets; empty where none can be seen."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in sorted(machine.paths.at("/proc").glob("[0-9]*")):
        try:
            links = [os.readlink(each) for each in (process / "fd").iterdir()]
        except OSError:
            continue
        if wanted & set(links):
            return process.name, machine.read(f"/proc/{process.name}/comm").strip()
    return "", ""


def _container_of(machine: Machine, pid: str) -> str | None:
    """Return the id of the container a process runs in."""
    match = re.search(r"[0-9a-f]{64}", machine.read(f"/proc/{pid}/cgroup")) if pid else None
    return match[0] if match else None


def _publisher(machine: Machine, port: int, container_id: str | None) -> str:
    rows = machine.run("docker", "ps", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.Ports}}").stdout
    for row in rows.splitlines():
        found, _, rest = row.partition(" ")
        name, _, ports = rest.partition(" ")
        if found == container_id or f":{port}->" in ports:
            return name
    return ""


def check_web_servers(machine: Machine) -> Iterator[Check]:
    """One that does not run now but would at the next boot takes the port then."""
    state = {}
    for name in _WEB_SERVERS:
        if machine.run("systemctl", "is-enabled", f"{name}.service").stdout.strip() == "enabled":
            state[name] = machine.run("systemctl", "is-active", f"{name}.service").stdout.strip()
    if machine.exists("/opt/tljh"):
        yield warn("web-servers", "The Littlest JupyterHub is installed here. Both want the ports of web pages.",
                   "Copy its homes away and remove it, or use another machine.")
    elif state:
        names = ", ".join(state)
        yield warn("web-servers", f"Other web servers start at boot on this machine: {names}. If one wants the box's ports, "
                   "whoever is first after a reboot gets them.",
                   "If nobody needs them: systemctl disable --now " + " ".join(state))
    else:
        yield ok("web-servers", "No other web server starts at boot.")
