"""A view of the machine for checks: its files, its programs, its network. Tests give one made of captured outputs."""

from __future__ import annotations

import json
import os
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from appliance.box import shell
from appliance.box.paths import Paths
from appliance.box.shell import Result

Runner = Callable[[Sequence[str], float, str], Result]  # program, patience in seconds, its input
_PATIENCE_S = 20.0
_DIRECT: Mapping[str, str] = {}


@dataclass(frozen=True)
class Disk:
    """The file system that holds a path. inodes_free is None where the file system has no fixed number of them."""

    device: int
    total: int
    free: int
    inodes_free: int | None = None
    inodes_total: int | None = None


def run_program(argv: Sequence[str], timeout_s: float, text: str) -> Result:
    return shell.run(argv, input=text, check=False, timeout_s=timeout_s)


def disk_of(path: Path) -> Disk:
    """Return the file system of `path`, or of the nearest folder above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    found = os.statvfs(path)
    return Disk(os.stat(path).st_dev, found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize,
                found.f_favail if found.f_files else None, found.f_files or None)


def resolve(name: str) -> list[str]:
    """Return the addresses of a host name; none if there are none."""
    try:
        return sorted({str(entry[4][0]) for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)})
    except (OSError, UnicodeError):
        return []


def fetch(url: str, timeout_s: float = 5.0, proxies: Mapping[str, str] | None = _DIRECT) -> tuple[int, str]:
    """Return (status, text) of an address; (0, reason) if nothing answers. Certificates are not judged here.

    `proxies` by scheme; None: those of the environment.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    opener = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=context),
        urllib.request.ProxyHandler(None if proxies is None else dict(proxies)))
    try:
        with opener.open(url, timeout=timeout_s) as answer:
            return int(answer.status), answer.read(1_000_000).decode(errors="replace")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(100_000).decode(errors="replace")
    except (OSError, ValueError) as error:
        return 0, str(getattr(error, "reason", None) or error)


def served_certificate(address: str, port: int, name: str) -> tuple[str, str]:
    """Return (PEM, "") of the certificate that is served for `name`; the second is why it is not trusted, if it is not.
    Raises OSError where nothing speaks TLS."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection((address, port), timeout=5) as door, \
            context.wrap_socket(door, server_hostname=name or None) as tls:
        pem = ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True) or b"")
    strict = ssl.create_default_context()
    strict.check_hostname = bool(name)
    try:
        with socket.create_connection((address, port), timeout=5) as door, \
                strict.wrap_socket(door, server_hostname=name or None):
            return pem, ""
    except ssl.SSLCertVerificationError as error:
        return pem, error.verify_message
    except ssl.SSLError as error:
        return pem, str(error)


@dataclass(frozen=True)
class Machine:
    """What the checks see. Everything they ask goes through here, so that tests can answer."""

    paths: Paths = field(default_factory=Paths)
    run_: Runner = run_program
    disk_of: Callable[[Path], Disk] = disk_of
    resolve: Callable[[str], list[str]] = resolve
    fetch: Callable[..., tuple[int, str]] = fetch
    served_certificate: Callable[[str, int, str], tuple[str, str]] = served_certificate
    now: Callable[[], float] = time.time
    is_root: Callable[[], bool] = shell.is_root

    def run(self, *argv: str, input: str = "", timeout_s: float = _PATIENCE_S) -> Result:
        return self.run_(argv, timeout_s, input)

    def json_of(self, *argv: str) -> Any:
        """Return what a program says in JSON; None if it fails or says something else."""
        done = self.run(*argv)
        try:
            return json.loads(done.stdout) if done.ok else None
        except ValueError:
            return None

    def read(self, path: str | Path) -> str:
        """Return a file's text; "" if it cannot be read. `path` is one of the machine, like /proc/meminfo."""
        try:
            return self.paths.at(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def exists(self, path: str | Path) -> bool:
        return self.paths.at(path).exists()

    def disk(self, path: Path) -> Disk:
        """Of a path below `paths.root`."""
        return self.disk_of(path)

    # -- asked once, because several checks want it and an engine that hangs costs its whole timeout
    @cached_property
    def docker_info(self) -> dict[str, Any] | str | None:
        """What the engine says of itself; a str says why it does not; None: there is no Docker here."""
        done = self.run("docker", "info", "--format", "{{json .}}")
        if done.returncode == 127:
            return None
        try:
            info = json.loads(done.stdout)
        except ValueError:
            return done.words
        if not isinstance(info, dict):
            return done.words
        errors = info.get("ServerErrors") or []
        if errors or not info.get("ServerVersion"):
            return str(errors[0]) if errors else done.words
        return info

    @property
    def engine(self) -> dict[str, Any] | None:
        """`docker info` of an engine that answers."""
        return self.docker_info if isinstance(self.docker_info, dict) else None

    def inspect(self, kind: str, name: str) -> dict[str, Any] | None:
        """Return `docker KIND inspect NAME`, None if there is none (or no engine)."""
        if self.engine is None:
            return None
        found = self.json_of("docker", kind, "inspect", name)
        return found[0] if isinstance(found, list) and found and isinstance(found[0], dict) else None

    @cached_property
    def own_containers(self) -> dict[str, dict[str, Any]]:
        """Those of the box that are there, by service."""
        found = {service: self.inspect("container", self.paths.container(service))
                 for service in ("hub", "traefik", "holding", "postgres")}
        return {service: container for service, container in found.items() if container is not None}

    @cached_property
    def mounts(self) -> dict[str, tuple[str, str]]:
        """(device, file system) by mount point."""
        found = {}
        for line in self.read("/proc/self/mounts").splitlines() or self.read("/proc/mounts").splitlines():
            words = line.split()
            if len(words) >= 3:
                found[words[1].replace("\\040", " ")] = (words[0].replace("\\040", " "), words[2])
        return found

    @cached_property
    def memory(self) -> dict[str, int]:
        """/proc/meminfo in bytes."""
        found = {}
        for line in self.read("/proc/meminfo").splitlines():
            key, _, value = line.partition(":")
            words = value.split()
            if words and words[0].isdigit():
                found[key] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
        return found
