"""A machine made of files and captured outputs, for the checks."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from appliance.box.checks import Check
from appliance.box.machine import Disk, Machine
from appliance.box.paths import Paths
from appliance.box.shell import Result

GIB = 1024 ** 3
NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC).timestamp()

# captured on Debian 12 with docker.io 20.10.24, shortened to what is looked at
DOCKER_INFO: dict[str, Any] = {
    "Containers": 0, "Driver": "overlay2", "CgroupDriver": "systemd", "CgroupVersion": "2",
    "OperatingSystem": "Debian GNU/Linux 12 (bookworm)", "OSType": "linux", "Architecture": "x86_64",
    "DockerRootDir": "/var/lib/docker", "ServerVersion": "20.10.24+dfsg1", "LiveRestoreEnabled": True,
    "Swarm": {"LocalNodeState": "inactive"}, "SecurityOptions": ["name=apparmor", "name=seccomp,profile=default"],
}
ADDRESSES = [
    {"ifname": "lo", "addr_info": [{"family": "inet", "local": "127.0.0.1", "scope": "host"}]},
    {"ifname": "eth0", "addr_info": [
        {"family": "inet", "local": "192.0.2.2", "prefixlen": 24, "scope": "global"},
        {"family": "inet6", "local": "fe80::2", "prefixlen": 64, "scope": "link"}]},
    {"ifname": "docker0", "addr_info": [{"family": "inet", "local": "172.17.0.1", "prefixlen": 16, "scope": "global"}]},
]
ROUTES = [
    {"dst": "default", "gateway": "192.0.2.1", "dev": "eth0", "flags": []},
    {"dst": "172.17.0.0/16", "dev": "docker0", "protocol": "kernel", "scope": "link", "flags": ["linkdown"]},
    {"dst": "192.0.2.0/24", "dev": "eth0", "protocol": "kernel", "scope": "link", "prefsrc": "192.0.2.2", "flags": []},
    {"type": "local", "dst": "127.0.0.0/8", "dev": "lo", "table": "local"},
    {"type": "broadcast", "dst": "192.0.2.255", "dev": "eth0", "table": "local"},
]
PRINT_URIS = """\
'http://mirror.example/debian/dists/bookworm/InRelease' mirror.example_debian_dists_bookworm_InRelease 0 \n\
'http://mirror.example/debian-security/dists/bookworm-security/InRelease' mirror.example_debian-security_InRelease 0 \n"""
FILES = {
    "/etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\nID=debian\n',
    "/run/systemd/system/.keep": "",
    "/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory hugetlb pids rdma misc\n",
    "/proc/meminfo": "MemTotal:       16316412 kB\nMemFree:          845244 kB\nMemAvailable:   11206512 kB\n"
                     "SwapTotal:        999420 kB\nHugePages_Total:       0\n",
    "/proc/filesystems": "nodev\tsysfs\nnodev\toverlay\n\text4\n\tbtrfs\n",
    "/proc/sys/kernel/osrelease": "6.1.0-25-amd64\n",
    "/lib/modules/6.1.0-25-amd64/modules.dep":
        "kernel/net/bridge/bridge.ko: kernel/net/802/stp.ko kernel/net/llc/llc.ko\nkernel/drivers/net/veth.ko:\n"
        "kernel/net/netfilter/nf_tables.ko: kernel/net/netfilter/nfnetlink.ko\nkernel/drivers/block/loop.ko:\n",
    "/etc/timezone": "Europe/Berlin\n",
    "/etc/resolv.conf": "nameserver 192.0.2.53\n",
    "/proc/self/mounts": "/dev/sda1 / ext4 rw,relatime 0 0\ntmpfs /run tmpfs rw 0 0\n",
}
PROGRAMS: dict[str, str | Result] = {
    "uname -m": "x86_64\n",
    "systemctl is-system-running": "running\n",
    "timedatectl show --property=NTPSynchronized --value": "yes\n",
    "ip -j addr": json.dumps(ADDRESSES),
    "ip -j -4 route show table all": json.dumps(ROUTES),
    "nft -j list ruleset": json.dumps({"nftables": [{"metainfo": {"version": "1.0.6"}}]}),
    "dpkg --audit": "",
    "apt-get --print-uris update": PRINT_URIS,
}


class FakeBox:
    """Everything is as on a fresh server until a test changes `files`, `programs` and the like."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.programs: dict[str, str | Result] = dict(PROGRAMS)
        self.names: dict[str, list[str]] = {}
        self.pages: dict[str, tuple[int, str]] = {}
        self.disks: dict[str, Disk] = {}
        self.certificate: tuple[str, str] | None = None
        self.asked: list[str] = []
        self.now = NOW
        self.is_root = True
        for path, text in FILES.items():
            self.write(path, text)

    @property
    def paths(self) -> Paths:
        return Paths(self.root)

    def write(self, path: str, text: str | bytes) -> Path:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    def remove(self, path: str) -> None:
        (self.root / path.lstrip("/")).unlink()

    def docker(self, **changes: Any) -> None:
        """An engine that answers."""
        self.programs["docker info --format '{{json .}}'"] = json.dumps({**DOCKER_INFO, **changes})
        self.programs.setdefault("docker network ls --quiet", "")

    def container(self, service: str, **changes: Any) -> None:
        state = {"Status": "running", "Running": True, "Health": {"Status": "healthy"}, "OOMKilled": False, "ExitCode": 0}
        self.programs[f"docker container inspect appliance-{service}"] = json.dumps([{
            "Id": service[0] * 64, "Name": f"/appliance-{service}", "Image": f"sha256:{service}", "RestartCount": 0,
            "State": state, "Config": {"Env": []}, **changes}])

    def networks(self, *networks: Mapping[str, Any]) -> None:
        self.docker()
        ids = [f"n{number}" for number, _ in enumerate(networks)]
        self.programs["docker network ls --quiet"] = "\n".join(ids)
        self.programs["docker network inspect " + " ".join(ids)] = json.dumps(list(networks))

    def _run(self, argv: Any, timeout_s: float, text: str) -> Result:
        command = shlex.join(argv)
        self.asked.append(command)
        found = self.programs.get(command)
        if found is None:
            return Result(127, stderr=f"{argv[0]} is not installed")
        return found if isinstance(found, Result) else Result(0, found)

    def _disk(self, path: Path) -> Disk:
        inside = "/" + str(path.relative_to(self.root))
        near = [place for place in self.disks if inside.startswith(place)]
        return self.disks[max(near, key=len)] if near else Disk(1, 200 * GIB, 100 * GIB, 5_000_000, 10_000_000)

    def _certificate(self, address: str, port: int, name: str) -> tuple[str, str]:
        if self.certificate is None:
            raise ConnectionRefusedError
        return self.certificate

    @property
    def machine(self) -> Machine:
        return Machine(
            self.paths, self._run, self._disk, lambda name: self.names.get(name, []),
            lambda url, *_: self.pages.get(url, (200, "") if "mirror.example" in url else (0, "Connection refused")),
            self._certificate, lambda: self.now, lambda: self.is_root)


def by_code(found: list[Check]) -> dict[str, Check]:
    """The worst of each code."""
    result: dict[str, Check] = {}
    for each in found:
        if each.code not in result or ("ok", "warn", "fail").index(each.status) > ("ok", "warn", "fail").index(
                result[each.code].status):
            result[each.code] = each
    return result
