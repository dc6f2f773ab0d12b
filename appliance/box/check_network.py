"""Checks of names, ports, networks and firewalls, and of where packages come from."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from appliance.box.checks import Check, fail, ok, warn
from appliance.box.machine import Machine
from appliance.box.plan import Plan
from appliance.box.shell import read_json

_LISTEN = "0A"  # of /proc/net/tcp
_WEB_SERVERS = ("apache2", "nginx", "caddy", "lighttpd", "haproxy", "jupyterhub", "traefik")
_HOST_NAME = re.compile(r"(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*",
                        re.IGNORECASE)
_BRIDGE = "br-appliance"


# ------------------------------------------------------------------------------------------------------------- ports --
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


# ------------------------------------------------------------------------------------------------------------- names --
def own_addresses(machine: Machine) -> list[str]:
    """Return the machine's addresses, without loopback, link-local ones and those of container bridges."""
    found = []
    for link in machine.json_of("ip", "-j", "addr") or []:
        name = str(link.get("ifname", ""))
        if name == "lo" or name.startswith(("docker", "br-", "veth", "virbr")):
            continue
        found += [str(each["local"]) for each in link.get("addr_info", []) if each.get("scope") == "global"]
    return found


def check_name(machine: Machine, plan: Plan) -> Iterator[Check]:
    name, encrypt = plan.name, plan.tls == "letsencrypt"
    mine = own_addresses(machine)
    shown = ", ".join(mine) or "none"
    if not name:
        if encrypt:
            yield fail("dns", "Let's Encrypt needs a host name, and the box has none.",
                       "Set appliance_name to a name like box.school.example that leads to this machine.")
        else:
            yield ok("dns", f"The box has no host name; it is reached at its address ({shown}).")
        return
    if _is_address(name):
        if encrypt:
            yield fail("dns", f"Let's Encrypt gives no certificate for the address {name}.",
                       "Set appliance_name to a host name.")
        elif name in mine:
            yield ok("dns", f"The box is reached at its address {name}.")
        else:
            yield warn("dns", f"{name} is not an address of this machine (it has {shown}).", "Correct appliance_name.")
        return
    if not _HOST_NAME.fullmatch(name):
        yield fail("dns", f"“{name}” is not a host name.", "Use letters, digits, dots and '-', like box.school.example.")
        return
    if encrypt and ("." not in name or name.endswith((".local", ".lan", ".internal", ".localhost", ".test"))):
        yield fail("dns", f"Let's Encrypt gives no certificate for “{name}”, which is no name of the internet.",
                   "Use a name of a domain the school owns, or traefik_tls: selfsigned.")
        return
    # what /etc/hosts says of this machine's own name is no answer of a name server
    found = [address for address in machine.resolve(name)
             if not ipaddress.ip_address(address.partition("%")[0]).is_loopback]
    yield _judge_name(plan, found, mine)


def _judge_name(plan: Plan, found: list[str], mine: list[str]) -> Check:
    name, shown = plan.name, ", ".join(mine) or "none"
    must = plan.tls == "letsencrypt" and plan.acme_challenge == "http"
    judge = fail if must else warn
    record = f"Enter an A record “{name}” with this machine's address ({shown}) in the school's DNS"
    if not found:
        return judge("dns", f"The name {name} leads nowhere: no name server knows an address of it.", f"{record}.")
    if set(found) & set(mine):
        other = sorted(set(found) - set(mine))
        if other and must:
            return warn("dns", f"The name {name} leads to this machine, but to {', '.join(other)} as well. Let's Encrypt "
                        "and half of the browsers may ask there.", f"Remove the records with {', '.join(other)}.")
        return ok("dns", f"The name {name} leads to this machine ({', '.join(sorted(set(found) & set(mine)))}).")
    public = any(ipaddress.ip_address(each).is_global for each in found)
    if public and all(ipaddress.ip_address(each).is_private for each in mine):
        return warn("dns", f"The name {name} leads to {', '.join(found)}, and this machine has only private addresses "
                    f"({shown}). That is right if a router in front forwards to it.",
                    f"Let the router forward port {plan.http_port} and {plan.https_port} to this machine."
                    + (" Let's Encrypt asks at port 80 from the internet." if must else ""))
    return judge("dns", f"The name {name} leads to {', '.join(found)}, which is not this machine (it has {shown}).",
                 f"{record}, and wait until the old answer has run out.")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True


def check_ipv6(machine: Machine) -> Iterator[Check]:
    six = [address for address in own_addresses(machine) if ":" in address]
    if six:
        yield ok("ipv6", f"This machine has IPv6 ({', '.join(six)}). The box answers there too; students' servers use IPv4.")
    else:
        yield ok("ipv6", "This machine has no IPv6 address. That is fine: the box does without.")


# ---------------------------------------------------------------------------------------------------------- networks --
def check_subnet(machine: Machine, plan: Plan) -> Iterator[Check]:
    try:
        wanted = ipaddress.IPv4Network(plan.subnet)
    except ValueError:
        yield fail("subnet", f"appliance_subnet “{plan.subnet}” is not a network like 10.77.0.0/16.",
                   "Correct appliance_subnet.")
        return
    if not 8 <= wanted.prefixlen <= 27:
        yield fail("subnet", f"appliance_subnet {wanted} has the wrong size.", "Use a size from /8 to /27, like 10.77.0.0/16.")
        return
    if not wanted.is_private:
        yield fail("subnet", f"appliance_subnet {wanted} is made of addresses of the internet, which students could then "
                   "not reach.", "Use a part of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16.")
        return
    collisions = [*_colliding_routes(machine, wanted), *_colliding_networks(machine, wanted, plan)]
    for resolver in _resolvers(machine):
        if resolver in wanted:
            collisions.append(f"the name server {resolver}")
    if collisions:
        yield fail("subnet", f"The students' network {wanted} collides with {', '.join(dict.fromkeys(collisions))}. What is "
                   "there could not be reached from this machine any more.",
                   f"Set appliance_subnet to a network that is free here and on the campus, for example "
                   f"{_free(machine, plan)}.")
    else:
        yield ok("subnet", f"The students' network {wanted} collides with no route of this machine and no Docker network.")
    yield from _pools(machine, wanted)


def _routes(machine: Machine) -> list[tuple[ipaddress.IPv4Network, str]]:
    """(network, device) of every route to somewhere, of all tables, so that a campus's policy routes count too."""
    rows = machine.json_of("ip", "-j", "-4", "route", "show", "table", "all")
    found = []
    for row in rows if isinstance(rows, list) else []:
        if row.get("type", "unicast") not in ("unicast", "blackhole", "unreachable") or row.get("dst") == "default":
            continue
        try:
            found.append((ipaddress.IPv4Network(row["dst"], strict=False), str(row.get("dev", row.get("type", "")))))
        except (ValueError, KeyError):
            continue
    if rows is None:  # a machine without iproute2; its main table only
        for line in machine.read("/proc/net/route").splitlines()[1:]:
            words = line.split()
            if len(words) > 7 and words[1] != "00000000":
                net, mask = (bytes.fromhex(words[column])[::-1] for column in (1, 7))
                found.append((ipaddress.IPv4Network((net, str(ipaddress.IPv4Address(mask)))), words[0]))
    return [(net, device) for net, device in found if net.prefixlen > 0]


def _colliding_routes(machine: Machine, wanted: ipaddress.IPv4Network) -> list[str]:
    """A campus that routes all of 10.0.0.0/8 collides as well: who knows which part of it is somebody's."""
    bridges = _docker_bridges(machine)
    return [f"the route to {net} ({device})" for net, device in _routes(machine)
            if net.overlaps(wanted) and device != _BRIDGE and device not in bridges]


def _networks(machine: Machine) -> list[dict[str, Any]]:
    if machine.engine is None:
        return []
    ids = machine.run("docker", "network", "ls", "--quiet").stdout.split()
    found = machine.json_of("docker", "network", "inspect", *ids) if ids else []
    return [each for each in found or [] if isinstance(each, dict)]


def _docker_bridges(machine: Machine) -> set[str]:
    """Interfaces of Docker's networks, whose collisions are told by their names instead."""
    found = {"docker0"}
    for network in _networks(machine):
        options = network.get("Options") or {}
        found.add(str(options.get("com.docker.network.bridge.name") or f"br-{str(network.get('Id'))[:12]}"))
    return found


def _colliding_networks(machine: Machine, wanted: ipaddress.IPv4Network, plan: Plan) -> list[str]:
    found = []
    for network in _networks(machine):
        if (network.get("Labels") or {}).get("org.appliance.namespace") == machine.paths.name:
            continue
        for config in (network.get("IPAM") or {}).get("Config") or []:
            try:
                other = ipaddress.ip_network(config.get("Subnet", ""), strict=False)
            except ValueError:
                continue
            if isinstance(other, ipaddress.IPv4Network) and other.overlaps(wanted):
                found.append(f"the Docker network “{network.get('Name')}” ({other})")
    return found


def _pools(machine: Machine, wanted: ipaddress.IPv4Network) -> Iterator[Check]:
    pools = read_json(machine.paths.at("/etc/docker/daemon.json")).get("default-address-pools") or []
    for pool in pools if isinstance(pools, list) else []:
        try:
            base = ipaddress.IPv4Network(str(pool.get("base")), strict=False)
        except (ValueError, AttributeError):
            continue
        if base.overlaps(wanted):
            yield fail("address-pools", f"Docker may give parts of {base} to other networks (default-address-pools in "
                       f"/etc/docker/daemon.json), which collides with the students' network {wanted}.",
                       "Set appliance_subnet to a network outside of it, or change the pool.")
            return
    yield ok("address-pools", "Docker's pools of addresses leave the students' network alone.")


def _resolvers(machine: Machine) -> list[ipaddress.IPv4Address]:
    found = []
    for file in ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"):
        for line in machine.read(file).splitlines():
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver":
                try:
                    found.append(ipaddress.IPv4Address(words[1]))
                except ValueError:
                    continue
    return found


def _free(machine: Machine, plan: Plan) -> str:
    taken = [net for net, _ in _routes(machine) if net.prefixlen > 8]
    for network in _networks(machine):
        for config in (network.get("IPAM") or {}).get("Config") or []:
            try:
                taken.append(ipaddress.IPv4Network(config.get("Subnet", ""), strict=False))
            except ValueError:
                continue
    for second in (77, 177, 213, 99, 199, 45, 145):
        candidate = ipaddress.IPv4Network(f"10.{second}.0.0/16")
        if not any(candidate.overlaps(net) for net in taken) and not any(each in candidate for each in _resolvers(machine)):
            return str(candidate)
    return "172.29.0.0/16"


# --------------------------------------------------------------------------------------------------------- firewalls --
def check_firewall(machine: Machine, plan: Plan) -> Iterator[Check]:
    known = []
    if "Status: active" in machine.run("ufw", "status").stdout:
        known.append("ufw")
    if machine.run("firewall-cmd", "--state").stdout.strip() == "running":
        known.append("firewalld")
    if known:
        yield ok("firewall", f"{' and '.join(known)} is active. It stays as it is; the box's ports are opened in it, and the "
                 "box's own table stands beside it.")
        return
    closed = _closed_input_chains(machine)
    if closed:
        yield warn("firewall", f"Rules that somebody made drop what comes in ({', '.join(closed)}).",
                   f"Let TCP ports {plan.http_port}"
                   + (f" and {plan.https_port}" if plan.tls != "off" else "")
                   + " pass there too; the box does not change other people's rules.")
    else:
        yield ok("firewall", "No other firewall closes this machine's ports.")


def _closed_input_chains(machine: Machine) -> list[str]:
    """Base chains on the way in that drop what they do not know, other than ours."""
    done = machine.run("nft", "-j", "list", "ruleset")
    if done.ok:
        try:
            entries = json.loads(done.stdout or "{}").get("nftables", [])
        except ValueError:
            entries = []
        chains = [entry["chain"] for entry in entries if isinstance(entry, dict) and "chain" in entry]
        return [f"table {chain['family']} {chain['table']}, chain {chain['name']}" for chain in chains
                if chain.get("hook") == "input" and chain.get("policy") == "drop"
                and not str(chain["table"]).startswith("appliance")]
    rules = machine.run("iptables", "-S", "INPUT").stdout
    return ["iptables, chain INPUT"] if "-P INPUT DROP" in rules or "-P INPUT REJECT" in rules else []


# ---------------------------------------------------------------------------------------------------------- packages --
def check_authorities(machine: Machine) -> Iterator[Check]:
    folder = machine.paths.at("/usr/local/share/ca-certificates")
    extra = sorted(path.name for path in folder.rglob("*.crt")) if folder.is_dir() else []
    proxies = sorted({f"{key}={_without_password(value)}" for key, value in os.environ.items()
                      if key.lower() in ("http_proxy", "https_proxy") and value})
    words = []
    if extra:
        words.append(f"This machine trusts {len(extra)} certificate authorities of its own ({', '.join(extra[:3])}"
                     f"{' …' if len(extra) > 3 else ''}), as behind a proxy that reads TLS; images that are built here "
                     "trust them too.")
    if proxies:
        words.append(f"A proxy is set ({', '.join(proxies)}).")
    yield ok("authorities", " ".join(words) or "This machine has no certificate authority of its own and no proxy.")


def _without_password(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)


def check_packages(machine: Machine, plan: Plan) -> Iterator[Check]:
    broken = machine.run("dpkg", "--audit").stdout.strip()
    if broken:
        yield fail("dpkg", "An installation of packages was interrupted on this machine.",
                   "Run: dpkg --configure -a && apt-get -f install")
    if plan.offline:
        yield ok("packages", "Packages come from the offline bundle; no network is needed.")
        return
    said = machine.run("apt-get", "--print-uris", "update").stdout
    uris = list(dict.fromkeys(re.findall(r"'([a-z+]+:[^']*InRelease)'", said)))
    if not uris:
        yield fail("packages", "apt knows no source of packages.",
                   "Enter the distribution's sources in /etc/apt/sources.list.d, or install from an offline bundle.")
        return
    dead, proxies = [], _apt_proxies(machine)
    for uri in uris[:6]:
        reason = _why_unreachable(machine, uri, proxies)
        if reason:
            dead.append(f"{uri.split('/dists/')[0]} ({reason})")
    if not dead:
        yield ok("packages", f"apt reaches its sources of packages ({len(uris)}).")
    elif len(dead) == len(uris[:6]):
        yield fail("packages", f"apt reaches none of its sources of packages: {'; '.join(dict.fromkeys(dead))}.",
                   "Connect this machine to the internet or set apt's proxy; without internet install from an offline bundle "
                   "(appliance offline-bundle).")
    else:
        yield warn("packages", f"apt does not reach some of its sources of packages: {'; '.join(dict.fromkeys(dead))}.",
                   "Remove the dead ones from /etc/apt/sources.list.d, or apt-get update will fail.")


def _apt_proxies(machine: Machine) -> dict[str, str] | None:
    """Return apt's own proxies; None: those of the environment."""
    said = machine.run("apt-config", "dump", "Acquire").stdout
    found = dict(re.findall(r'Acquire::(https?)::Proxy "([^"]+)"', said, re.IGNORECASE))
    return {key.lower(): value for key, value in found.items()} or None


def _why_unreachable(machine: Machine, uri: str, proxies: dict[str, str] | None) -> str:
    scheme, _, rest = uri.partition(":")
    if scheme in ("file", "copy"):
        folder = Path("/" + rest.lstrip("/").split("/dists/")[0])
        return "" if machine.exists(folder) else "no such folder"
    if scheme not in ("http", "https"):
        return ""  # cdrom, mirror+file: apt knows
    status, reason = machine.fetch(uri, 8.0, proxies)
    return "" if 0 < status < 500 and status != 407 else reason[:120] if not status else f"it answered {status}"
