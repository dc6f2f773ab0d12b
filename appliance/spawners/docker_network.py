"""The one bridge all servers are on: its addresses, its Docker network, and its ports kept apart."""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import docker

from appliance.errors import BadOption, EngineUnsuitable
from appliance.spawners.docker_engine import NetworkGone

_SYS = Path("/sys/class/net")
_MAX_INTERFACE_NAME = 15


@dataclass(frozen=True)
class Bridge:
    """The network of one namespace, as it is wanted."""

    network: str      # name of the Docker network
    namespace: str
    subnet: ipaddress.IPv4Network
    gateway: str

    @classmethod
    def parse(cls, network: str, namespace: str, subnet: str, gateway: str = "") -> Bridge:
        """Raises BadOption for a subnet or gateway that cannot be used."""
        try:
            net = ipaddress.IPv4Network(subnet)
        except ValueError as error:
            raise BadOption(f"“{subnet}” is not an IPv4 network like 10.77.0.0/16.") from error
        if not 8 <= net.prefixlen <= 27:
            raise BadOption("A subnet between /8 and /27 is needed.")
        first = str(net.network_address + 1)
        try:
            chosen = ipaddress.IPv4Address(gateway or first)
        except ValueError as error:
            raise BadOption(f"The gateway “{gateway}” is not an IPv4 address.") from error
        bridge = cls(network, namespace, net, str(chosen))
        if chosen not in net or chosen in bridge.dynamic or chosen in (net.network_address, net.broadcast_address):
            raise BadOption(f"The gateway “{gateway}” is not an address servers could reach in {subnet}.")
        return bridge

    @cached_property
    def interface(self) -> str:
        """Name of the host's interface, at most 15 characters."""
        name = f"br-{self.namespace}"
        if len(name) <= _MAX_INTERFACE_NAME:
            return name
        return f"br-{self.namespace[:5]}-{hashlib.sha256(self.namespace.encode()).hexdigest()[:6]}"

    @cached_property
    def dynamic(self) -> ipaddress.IPv4Network:
        """The last addresses: what Docker may give to containers that are not ours, and the probes have."""
        return ipaddress.IPv4Network((int(self.subnet.broadcast_address) - 15, 28))

    def addresses(self) -> Iterator[str]:
        """Yield every address that a server may have."""
        gateway = int(ipaddress.IPv4Address(self.gateway))
        for number in range(int(self.subnet.network_address) + 1, int(self.dynamic.network_address)):
            if number != gateway:
                yield str(ipaddress.IPv4Address(number))

    def probe_addresses(self) -> tuple[str, str]:
        """Two addresses that no server has."""
        return str(self.dynamic.network_address + 1), str(self.dynamic.network_address + 2)

    def service_addresses(self) -> Iterator[str]:
        """Yield the addresses that services have: of the last ones, those that neither probes nor servers get."""
        for number in range(int(self.dynamic.network_address) + 3, int(self.dynamic.broadcast_address)):
            yield str(ipaddress.IPv4Address(number))

    # -- the Docker network -------------------------------------------------------------------------------------------
    def ensure(self, client: docker.APIClient) -> str:
        """Return the id of the Docker network, which is made if there is none. Raises EngineUnsuitable."""
        for found in client.networks(names=[self.network]):  # the engine matches parts of names
            if found["Name"] == self.network:
                self._check(client.inspect_network(found["Id"]))
                return str(found["Id"])
        self._refuse_taken_subnet()
        try:
            return str(client.create_network(
                self.network, driver="bridge", check_duplicate=None, ipam=self._ipam(), options=self._options(),
                labels={"org.appliance.namespace": self.namespace},
            )["Id"])
        except docker.errors.APIError as error:
            raise self._refusal(f"Docker could not make the network “{self.network}” with subnet {self.subnet}; "
                                "if it is taken choose another c.DockerSpawner.subnet.", str(error)) from error

    def _options(self) -> dict[str, str]:
        return {
            "com.docker.network.bridge.name": self.interface,
            "com.docker.network.bridge.enable_icc": "false",
            "com.docker.network.bridge.enable_ip_masquerade": "true",
        }

    def _ipam(self) -> dict[str, Any]:
        return {"Driver": "default", "Config": [
            {"Subnet": str(self.subnet), "Gateway": self.gateway, "IPRange": str(self.dynamic)}]}

    def _check(self, found: dict[str, Any]) -> None:
        config = (found.get("IPAM", {}).get("Config") or [{}])[0]
        options = found.get("Options") or {}
        is_there = {
            "driver": found.get("Driver"), "subnet": config.get("Subnet"), "gateway": config.get("Gateway"),
            "ip range": config.get("IPRange"), "IPv6": bool(found.get("EnableIPv6")),
            **{key.rpartition(".")[2]: options.get(key) for key in self._options()},
        }
        wanted = {
            "driver": "bridge", "subnet": str(self.subnet), "gateway": self.gateway, "ip range": str(self.dynamic),
            "IPv6": False, **{key.rpartition(".")[2]: value for key, value in self._options().items()},
        }
        other = [f"{key} is {is_there[key]}, wanted {wanted[key]}" for key in wanted if is_there[key] != wanted[key]]
        if other:
            raise self._refusal(
                f"The Docker network “{self.network}” exists with other settings ({'; '.join(other)}). Stop all servers "
                f"and run `docker network rm {self.network}`, or set c.DockerSpawner.network_name or .subnet.")

    def _refuse_taken_subnet(self) -> None:
        done = subprocess.run(["ip", "-j", "-4", "route", "show", "table", "all"],
                              capture_output=True, text=True, timeout=10, check=False)
        for route in json.loads(done.stdout or "[]"):
            if route.get("type", "unicast") not in ("unicast", "blackhole") or route.get("dst") == "default":
                continue
            if route.get("dev") == self.interface:
                continue
            try:
                other = ipaddress.IPv4Network(route["dst"])
            except (KeyError, ValueError):
                continue
            if other.prefixlen and other.overlaps(self.subnet):
                raise self._refusal(
                    f"This box already uses {other} on {route.get('dev', 'another interface')}, so servers cannot have "
                    f"{self.subnet}. Choose another c.DockerSpawner.subnet.")

    @staticmethod
    def _refusal(action: str, evidence: str = "") -> EngineUnsuitable:
        return EngineUnsuitable("The network of this box's servers could not be set up, so no server was started.",
                                action=action, evidence=evidence)

    # -- the bridge's ports -------------------------------------------------------------------------------------------
    def isolate(self) -> int:
        """Mark every port of the bridge as isolated and return how many were not; blocking. Raises NetworkGone."""
        changed = 0
        ports = _SYS / self.interface / "brif"
        try:
            names = [port.name for port in ports.iterdir()]
        except FileNotFoundError as error:
            raise NetworkGone(evidence=f"There is no bridge {self.interface}.") from error
        for name in names:
            flag = _SYS / name / "brport" / "isolated"
            try:
                if flag.read_text().strip() == "1":
                    continue
                self._isolate_port(name, flag)
                changed += 1
            except FileNotFoundError:
                continue  # the container has ended meanwhile
        return changed

    @staticmethod
    def _isolate_port(name: str, flag: Path) -> None:
        # what `bridge link set dev NAME isolated on` sets, without the cost of a process
        try:
            flag.write_text("1")
        except OSError as error:  # /sys is read-only inside most containers
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
        if flag.read_text().strip() != "1":
            done = subprocess.run(["bridge", "link", "set", "dev", name, "isolated", "on"],
                                  capture_output=True, text=True, timeout=10, check=False)
            if done.returncode and flag.exists():
                raise EngineUnsuitable("The servers' network ports could not be kept apart, so no server was started.",
                                       action="The kernel or iproute2 refused to isolate a port of the bridge.",
                                       evidence=done.stderr[:2000])


def refuse_unsuitable(info: dict[str, Any]) -> None:
    """Raises EngineUnsuitable for an engine (`docker info`) that cannot keep students apart."""
    security = " ".join(info.get("SecurityOptions") or [])
    reasons: list[tuple[bool, str]] = [
        ("name=rootless" in security, "This Docker Engine runs rootless."),
        ("name=userns" in security, "This Docker Engine remaps users (userns-remap)."),
        ("docker desktop" in str(info.get("OperatingSystem", "")).lower(), "This is Docker Desktop."),
        (info.get("OSType", "linux") != "linux", "This Docker Engine does not run Linux containers."),
    ]
    for applies, reason in reasons:
        if applies:
            raise EngineUnsuitable(action=f"{reason} {EngineUnsuitable.action}")


