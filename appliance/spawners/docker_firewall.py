"""An nftables table of our own, which says what containers may reach. It stands beside Docker's rules and needs none of
them: a packet that any table drops is dropped."""

from __future__ import annotations

import ipaddress
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import BadOption, EngineUnsuitable

# Addresses that are not the internet: this host, private and carrier networks, link-local with the cloud's metadata
# address, protocol and benchmark ranges, multicast and what is reserved.
NOT_INTERNET = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/3",
)
INTERNET = "internet"
# the last is the host's as a Hub in a container sees it
_RESOLV_CONF = tuple(map(Path, (
    "/etc/resolv.conf", "/run/systemd/resolve/resolv.conf", "/host/run/systemd/resolve/resolv.conf")))


@dataclass(frozen=True)
class Rules:
    """What the containers on one bridge may reach."""

    table: str
    bridge: str
    gateway: str
    egress: tuple[str, ...] = (INTERNET,)    # "internet" and CIDRs
    resolvers: tuple[str, ...] = ()
    public_ports: tuple[int, ...] = ()       # on every address of the host
    gateway_ports: tuple[int, ...] = ()      # on the bridge's gateway only
    max_connections: int = 0                 # at the same time, per container; 0: no limit

    def text(self, *, limit: bool = True) -> str:
        """Return the table as `nft -f` reads it: made, emptied and filled in one transaction."""
        bridge = f'"{self.bridge}"'
        ports = ", ".join(map(str, self.public_ports))
        gateway_ports = ", ".join(map(str, self.gateway_ports))
        resolvers = ", ".join(self.resolvers)
        cidrs = ", ".join(entry for entry in self.egress if entry != INTERNET)
        counted = limit and self.max_connections > 0
        lines = [
            f"add table inet {self.table}",
            f"delete table inet {self.table}",
            f"table inet {self.table} {{",
            # `typeof`: what a newer nft (in the Hub's own container, say) keeps for `type ipv4_addr` kills nft 1.0.6, Debian
            # 12's, whenever it lists anything on that machine
            *(["  set connections { typeof ip saddr; size 65535; flags dynamic; }"] if counted else []),
            # jumped to with every packet that comes from a container
            "  chain from_container {",
            "    meta nfproto ipv6 drop",
            "    ct state established,related accept",
            "    ct state invalid drop",
            *([f"    ct state new add @connections {{ ip saddr ct count over {self.max_connections} }} drop"]
              if counted else []),
            "  }",
            "  chain passing {",  # containers to the world, the world to containers
            "    type filter hook forward priority filter - 10; policy accept;",
            f"    iifname {bridge} oifname {bridge} drop",
            f"    oifname {bridge} ct state established,related accept",
            f"    oifname {bridge} drop",
            f"    iifname != {bridge} accept",
            "    jump from_container",
            *([f"    ip daddr {{ {resolvers} }} meta l4proto {{ tcp, udp }} th dport 53 accept"] if resolvers else []),
            *([f"    ip daddr {{ {cidrs} }} accept"] if cidrs else []),
            *([f"    ip daddr != {{ {', '.join(NOT_INTERNET)} }} accept"] if INTERNET in self.egress else []),
            "    drop",
            "  }",
            "  chain to_host {",
            "    type filter hook input priority filter - 10; policy accept;",
            f"    iifname != {bridge} accept",
            "    jump from_container",
            *([f"    tcp dport {{ {ports} }} accept"] if ports else []),
            *([f"    ip daddr {self.gateway} tcp dport {{ {gateway_ports} }} accept"] if gateway_ports else []),
            *([f"    ip daddr {{ {resolvers} }} meta l4proto {{ tcp, udp }} th dport 53 accept"] if resolvers else []),
            "    drop",
            "  }",
            "}",
            "",
        ]
        return "\n".join(lines)


class Firewall:
    """Puts `Rules` into the kernel and notices when somebody took them out. Blocking; call it in a thread."""

    def __init__(self) -> None:
        self.limited = True       # False where the kernel cannot count connections
        self._wanted: Rules | None = None
        self._listing = ""

    def apply(self, rules: Rules) -> None:
        """Make `rules` the table's whole content, atomically. Raises EngineUnsuitable."""
        self.limited = True
        done = _nft("-f", "-", text=rules.text())
        if done.returncode and rules.max_connections:
            self.limited = False
            done = _nft("-f", "-", text=rules.text(limit=False))
        if done.returncode:
            raise EngineUnsuitable(
                "The rules that keep servers apart could not be set, so no server was started.",
                action="The kernel refused our nftables table; see the evidence.", evidence=done.stderr[:2000])
        self._wanted, self._listing = rules, _list(rules.table)

    def ensure(self) -> bool:
        """Put the last rules back if they are not as they were; say whether that was needed."""
        if self._wanted is None or _list(self._wanted.table) == self._listing:
            return False
        self.apply(self._wanted)
        return True


def remove_table(table: str) -> None:
    """Idempotent."""
    _nft("-f", "-", text=f"add table inet {table}\ndelete table inet {table}\n")


def table_name(namespace: str) -> str:
    """Return "appliance" for the namespace of that name, "appliance_NAMESPACE" for others."""
    name = re.sub(r"[^A-Za-z0-9]", "_", namespace)
    return name if name == "appliance" else f"appliance_{name}"


def host_resolvers(files: Iterable[Path] = _RESOLV_CONF) -> tuple[str, ...]:
    """Return the IPv4 name servers a container asks: those of the host, but not ones on loopback, which the engine asks
    itself on the containers' behalf."""
    found: dict[str, None] = {}
    for file in files:
        try:
            lines = file.read_text(errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if len(words) >= 2 and words[0] == "nameserver":
                try:
                    address = ipaddress.ip_address(words[1])
                except ValueError:
                    continue
                if address.version == 4 and not address.is_loopback:
                    found[str(address)] = None
    return tuple(found)


def parse_egress(entries: Iterable[str]) -> tuple[str, ...]:
    """Return "internet" and CIDRs, checked and in their canonical form. Raises BadOption."""
    parsed: dict[str, None] = {}
    for entry in entries:
        if entry == INTERNET:
            parsed[entry] = None
            continue
        try:
            parsed[str(ipaddress.IPv4Network(entry, strict=False))] = None
        except ValueError as error:
            raise BadOption(f"“{entry}” is neither “internet” nor a network like 10.1.0.0/16.") from error
    # nft refuses intervals that overlap, so what a wider entry holds is left out
    networks = [ipaddress.IPv4Network(entry) for entry in parsed if entry != INTERNET]
    merged = [str(network) for network in ipaddress.collapse_addresses(networks)]
    return ((INTERNET,) if INTERNET in parsed else ()) + tuple(merged)


def _list(table: str) -> str:
    return _nft("--stateless", "--terse", "list", "table", "inet", table).stdout


def _nft(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    program = shutil.which("nft") or shutil.which("nft", path="/usr/sbin:/sbin")
    if program is None:
        raise EngineUnsuitable(
            "The rules that keep servers apart could not be set, so no server was started.",
            action="Install nftables (apt install nftables).")
    return subprocess.run([program, *arguments], input=text, capture_output=True, text=True, timeout=20, check=False)
