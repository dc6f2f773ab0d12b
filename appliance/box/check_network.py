"""Checks of names, networks and firewalls."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator
from typing import Any

from appliance.box.checks import Check, fail, ok, warn
from appliance.box.machine import Machine
from appliance.box.plan import Plan
from appliance.box.shell import read_json

_HOST_NAME = re.compile(r"(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*",
                        re.IGNORECASE)
_BRIDGE = "br-appliance"


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
