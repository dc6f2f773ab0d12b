"""Whether the box's own authority may sign for the name the box is to have: a new root is a walk to every device."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from appliance.box.checks import Check, fail, ok, warn
from appliance.box.machine import Machine
from appliance.box.plan import Plan

_ENTRY = re.compile(r"(DNS|IP):(\S+)")


def check_own_root(machine: Machine, plan: Plan) -> Iterator[Check]:
    """Of TLS mode `selfsigned`, where there is a root already that devices may trust."""
    root = machine.paths.at(f"{plan.data.rstrip('/')}/state/tls/ca.crt")
    if plan.tls != "selfsigned" or not plan.name or not root.is_file():
        return
    # plain Python cannot read a certificate's constraints; without openssl nothing is known, and nothing is said
    done = machine.run("openssl", "x509", "-in", str(root), "-noout", "-ext", "nameConstraints")
    permitted = _ENTRY.findall(done.stdout) if done.ok else []
    if not permitted:
        return
    if _permits(permitted, plan.name):
        yield ok("root", f"The box's own root, which devices may trust already, may sign for {plan.name}.")
        return
    said = (f"The box's own root may not sign for {plan.name}: the box would make another one, and every device that trusts "
            "the old one would have to be told to trust the new one.")
    if plan.tls_new_root:
        yield warn("root", said, "The help page of the sign-in tells how; it is done once a device.")
    else:
        yield fail("root", said, "Keep appliance_name as it was, or say traefik_new_root: true if that is meant.")


def _permits(permitted: list[tuple[str, str]], name: str) -> bool:
    """As appliance.proxies.certificates decides; `permitted` is what openssl prints, networks with their masks."""
    try:
        address = ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        name = name.lower().rstrip(".")
        return any(name == base.lower() or name.endswith(f".{base.lower()}") for kind, base in permitted if kind == "DNS")
    return any(address in network for kind, base in permitted if kind == "IP" and (network := _network(base)))


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """Read 10.0.0.0/255.0.0.0, or FC00:0:0:0:0:0:0:0/FE00:0:0:0:0:0:0:0."""
    base, _, mask = text.partition("/")
    try:
        bits = int(ipaddress.ip_address(mask)).bit_count()
        return ipaddress.ip_network(f"{base}/{bits}", strict=False)
    except ValueError:
        return None
