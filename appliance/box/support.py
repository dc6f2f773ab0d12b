"""`appliance support-bundle`: what support needs in one file, without secrets and without students' names."""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import re
import sqlite3
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from appliance import __version__
from appliance.box import check_ports, checks, doctor, preflight, shell
from appliance.box.machine import Machine
from appliance.box.paths import Paths
from appliance.box.plan import literals, plan_of_box
from appliance.box.redaction import Redactor, looks_random
from appliance.box.shell import BoxError
from appliance.box.snapshot import POSTGRES_USER

_LINES = 3000
_LOG_BYTES = 4_000_000
_COMMANDS = {
    "system/uname.txt": ("uname", "-a"),
    "system/uptime.txt": ("uptime",),
    "system/df.txt": ("df", "--human-readable", "--print-type"),
    "system/df-inodes.txt": ("df", "--inodes"),
    "system/free.txt": ("free", "--mebi"),
    "system/lsblk.txt": ("lsblk", "--output", "NAME,TYPE,FSTYPE,SIZE,MOUNTPOINT"),
    "system/units.txt": ("systemctl", "list-units", "--all", "--no-pager", "--plain", "appliance*", "docker*", "containerd*"),
    "system/failed-units.txt": ("systemctl", "list-units", "--failed", "--no-pager", "--plain"),
    "system/timers.txt": ("systemctl", "list-timers", "--all", "--no-pager"),
    "system/packages.txt": ("dpkg-query", "--show", "docker*", "containerd*", "runc", "nftables", "restic", "ansible*",
                            "systemd",
                            "btrfs-progs", "python3"),
    "system/timedatectl.txt": ("timedatectl",),
    "network/addresses.txt": ("ip", "addr"),
    "network/routes.txt": ("ip", "route", "show", "table", "all"),
    "network/listeners.txt": ("ss", "-ltn"),
    "network/nft.txt": ("nft", "list", "ruleset"),
    "docker/version.txt": ("docker", "version"),
    "docker/info.txt": ("docker", "info"),
    "docker/ps.txt": ("docker", "ps", "--all", "--no-trunc", "--format",
                      "{{.ID}}\t{{.Image}}\t{{.Status}}\t{{.Names}}\t{{.CreatedAt}}\t{{.Ports}}"),
    "docker/images.txt": ("docker", "images", "--no-trunc"),
    "docker/networks.txt": ("docker", "network", "ls"),
    "logs/docker.txt": ("journalctl", "--no-pager", "--lines", str(_LINES), "-u", "docker", "-u", "containerd"),
    "logs/appliance.txt": ("journalctl", "--no-pager", "--lines", str(_LINES), "-u", "appliance*"),
    "logs/kernel.txt": ("journalctl", "--no-pager", "--lines", "500", "--dmesg"),
}
# of `docker inspect`: nothing that may hold a token (environment, command, arguments)
_HOST_CONFIG = ("Memory", "MemorySwap", "NanoCpus", "CpuQuota", "CpuPeriod", "PidsLimit", "CgroupParent", "NetworkMode",
                "RestartPolicy", "LogConfig", "CapAdd", "CapDrop", "ReadonlyRootfs", "Privileged", "ShmSize", "Tmpfs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="where to (default: here, named by the time)")
    parser.add_argument("--with-names", action="store_true", help="leave students' names in; without it each has a pseudonym")


def run(paths: Paths, parsed: argparse.Namespace) -> int:
    output = parsed.output or Path(f"appliance-support-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz")
    if output.is_dir():
        raise BoxError(f"{output} is a folder.", "Name a file.")
    machine = Machine(paths)
    shell.step("Collecting what support needs; this takes up to a minute.")
    content = bundle(machine, with_names=parsed.with_names)
    try:
        shell.write_file(output, content, 0o600)
    except OSError as error:
        raise BoxError(f"{output} cannot be written: {error.strerror or error}.", "Choose another place with "
                       "--output.") from None
    shell.say(f"Wrote {output} ({shell.size(len(content))}). It holds no passwords, keys or tokens"
              + (", but students' names." if parsed.with_names else ", and a pseudonym for each student."))
    return 0


def bundle(machine: Machine, *, with_names: bool = False) -> bytes:
    """Return a tar.gz. Whatever cannot be had is a file that says why. What is no text becomes JSON."""
    redactor = Redactor(with_names=with_names, key=_bytes(machine.paths.cookie_secret))
    _learn(machine, redactor)
    # configuration first: what is found to be secret there is then replaced everywhere else
    files = dict(_guarded(machine, redactor))
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for name, text in sorted(files.items()):
            clean = redactor.clean(text) if isinstance(text, str) else (
                json.dumps(redactor.clean_value(text), indent=2, ensure_ascii=False) + "\n")
            content = clean.encode(errors="replace")
            info = tarfile.TarInfo(f"appliance-support/{name}")
            info.size, info.mode, info.mtime = len(content), 0o600, int(machine.now())
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _guarded(machine: Machine, redactor: Redactor) -> Iterator[tuple[str, Any]]:
    parts: tuple[Callable[[Machine, Redactor], Iterator[tuple[str, Any]]], ...] = (
        _configuration, _versions, _containers, _commands, _files, _logs, _checks)
    for part in parts:
        try:
            yield from part(machine, redactor)
        except Exception as error:  # one part that breaks costs that part only
            yield f"missing/{part.__name__.strip('_')}.txt", f"{type(error).__name__}: {error}\n"


# ---------------------------------------------------------------------------------------------------------- secrets --
def _learn(machine: Machine, redactor: Redactor) -> None:
    """Find this box's secrets and students. What cannot be read cannot get into the bundle either."""
    paths = machine.paths
    for path in (*_files_below(paths.secrets), paths.cookie_secret, *_files_below(paths.tls)):
        if path.suffix in (".crt", ".cer"):
            continue
        content = _bytes(path)
        redactor.learn(content.hex())
        redactor.learn_file(content.decode(errors="replace"))
    for env in (paths.env_file, paths.release_env):
        redactor.env_file(_text(env))
    for path in _files_below(paths.state):
        # routes hold capabilities and injected tokens; beside them lie the proxy's passwords and keys
        if path.suffix in (".log", ".1", ".gz") or path.stat().st_size > 1_000_000:
            continue
        text = _text(path)
        words = re.findall(r"[A-Za-z0-9+/_=.~:{}-]{16,}", text)
        redactor.learn(*(part for word in words for part in (word, *re.split("[=:}]", word)) if looks_random(part)))
        redactor.learn(*re.findall(r"(?i)(?:token|bearer|basic)\s+([^\s\"'\\]{4,})", text))
        redactor.learn(*re.findall(r"appliance-[a-z]+-[a-z0-9]+=([A-Za-z0-9._~+/=-]+)", text))
        with contextlib.suppress(ValueError):
            redactor.json_value(json.loads(text))
        if path.suffix in ("", ".key", ".secret") or re.search(r"secret|password|token|key", path.name):
            redactor.learn_file(text)
    for container in _all_containers(machine):
        for entry in (container.get("Config") or {}).get("Env") or []:
            key, _, value = str(entry).partition("=")
            redactor.env_file(f"{key}={value}")
        for word in [*((container.get("Config") or {}).get("Cmd") or []), *(container.get("Args") or [])]:
            redactor.env_file(str(word))
    redactor.learn_names(_students(machine))


def _students(machine: Machine) -> set[str]:
    names: set[str] = set()
    with contextlib.suppress(sqlite3.Error), \
            contextlib.closing(sqlite3.connect(f"{machine.paths.database.absolute().as_uri()}?mode=ro", uri=True)) as db:
        columns = {str(row[1]) for row in db.execute("PRAGMA table_info(users)")}
        for column in sorted(columns & {"name", "display_name"}):
            names |= {str(row[0]) for row in db.execute(f"SELECT {column} FROM users") if row[0]}
        names |= {str(row[0]) for row in db.execute("SELECT DISTINCT user_name FROM events") if row[0]}
    names |= _names_in_postgres(machine)
    if not names:  # of a PostgreSQL elsewhere the Hub is the one to ask
        for user in machine.json_of("docker", "exec", machine.paths.container("hub"), "appliance", "user", "list",
                                    "--json") or []:
            names |= {str(user[key]) for key in ("name", "display_name") if isinstance(user, dict) and user.get(key)}
    for option, value in literals(machine.paths).items():
        if option.endswith("_users") and isinstance(value, (set, list, tuple, dict)):
            names |= {str(each) for each in value}
    for owner in machine.paths.at(plan_of_box(machine.paths).homes).glob("u*/owner.json"):
        said = shell.read_json(owner)
        names |= {str(value) for key, value in said.items() if key in ("name", "user", "user_name", "display_name")}
    for container in _all_containers(machine):
        labels = (container.get("Config") or {}).get("Labels") or {}
        names |= {str(value) for key, value in labels.items() if key.startswith("org.appliance.") and key.endswith(("user",
                                                                                                                    "owner"))}
    # full names in their parts as well: “Ada Lovelace” is also “Lovelace”
    return names | {part for name in names if " " in name for part in name.split() if len(part) > 2}


def _names_in_postgres(machine: Machine) -> set[str]:
    """Also while the Hub is down. The password goes through the input, where no list of processes shows it."""
    secret = machine.paths.secrets / "postgres_password"
    if "postgres" not in machine.own_containers or not secret.exists():
        return set()
    done = machine.run(
        "docker", "exec", "--interactive", "--user", POSTGRES_USER, machine.paths.container("postgres"), "sh", "-c",
        'read -r PGPASSWORD; export PGPASSWORD; exec psql --host "$POSTGRES_FOLDER/socket" --username appliance --no-psqlrc '
        '--quiet --tuples-only --no-align --dbname appliance --command "$0"',
        "SELECT name FROM users UNION SELECT display_name FROM users UNION SELECT user_name FROM events",
        input=secret.read_text().strip() + "\n")
    return {line.strip() for line in done.stdout.splitlines() if line.strip()} if done.ok else set()


def _all_containers(machine: Machine) -> list[dict[str, Any]]:
    """Those of the box, the students' among them."""
    if machine.engine is None:
        return []
    ids = machine.run("docker", "ps", "--all", "--quiet", "--no-trunc", "--filter",
                      f"label=org.appliance.namespace={machine.paths.name}").stdout.split()
    others = machine.json_of("docker", "inspect", *ids) if ids else []
    return [*machine.own_containers.values(), *(each for each in others or [] if isinstance(each, dict))]


# ------------------------------------------------------------------------------------------------------------ parts --
def _configuration(machine: Machine, redactor: Redactor) -> Iterator[tuple[str, Any]]:
    paths = machine.paths
    yield "config/appliance.env", redactor.env_file(_text(paths.env_file))
    for path in sorted(paths.config_d.glob("*.py")):
        yield f"config/config.d/{path.name}", redactor.python(_text(path))
    for name, path in (("installed.json", paths.installed_file), ("daemon.json", paths.at("/etc/docker/daemon.json"))):
        if path.exists():
            yield f"config/{name}", redactor.json_value(shell.read_json(path))
    listed = [f"{path.relative_to(paths.config)} {path.stat().st_size} bytes, mode {path.stat().st_mode & 0o777:o}"
              for path in (*_files_below(paths.secrets), *_files_below(paths.tls))]
    yield "config/secrets.txt", "\n".join(listed) + "\n"


def _versions(machine: Machine, redactor: Redactor) -> Iterator[tuple[str, Any]]:
    paths = machine.paths
    yield "versions.json", {
        "program": __version__, "release": shell.read_json(paths.release_file),
        "previous": shell.read_json(paths.previous / "release.json").get("id"),
        "releases": _names_in(paths.releases), "snapshots": _names_in(paths.snapshots),
        "backup": shell.read_json(paths.backup_status), "acme": shell.read_json(paths.acme_status),
        "with_names": redactor.with_names,
    }
    yield "release.env", redactor.env_file(_text(paths.release_env))


def _containers(machine: Machine, redactor: Redactor) -> Iterator[tuple[str, Any]]:
    yield "docker/containers.json", [_described(each) for each in _all_containers(machine)]
    # of an edge that is damaged the names alone say which route is missing
    yield "routes.txt", "\n".join(_names_in(machine.paths.routes)) + "\n"


def _described(container: dict[str, Any]) -> dict[str, Any]:
    config, host = container.get("Config") or {}, container.get("HostConfig") or {}
    labels = config.get("Labels") or {}
    return {
        **{key: container.get(key) for key in ("Id", "Name", "Created", "Image", "RestartCount", "State")},
        "User": config.get("User"), "ImageName": config.get("Image"),
        "EnvironmentNames": sorted(str(entry).partition("=")[0] for entry in config.get("Env") or []),
        "Labels": {key: value for key, value in labels.items() if key.startswith(("org.appliance.", "com.docker.compose."))},
        "HostConfig": {key: host.get(key) for key in _HOST_CONFIG},
        "Mounts": [{key: mount.get(key) for key in ("Type", "Source", "Destination", "RW", "Propagation")}
                   for mount in container.get("Mounts") or []],
        "Addresses": {name: network.get("IPAddress")
                      for name, network in ((container.get("NetworkSettings") or {}).get("Networks") or {}).items()},
    }


def _commands(machine: Machine, _: Redactor) -> Iterator[tuple[str, Any]]:
    for name, argv in _COMMANDS.items():
        done = machine.run(*argv, timeout_s=20)
        yield name, done.stdout + (f"\n(status {done.returncode}) {done.stderr}" if not done.ok else "")


def _files(machine: Machine, _: Redactor) -> Iterator[tuple[str, Any]]:
    for path in ("/etc/os-release", "/proc/meminfo", "/proc/mounts", "/proc/cgroups", "/etc/resolv.conf", "/proc/loadavg"):
        yield f"system{path}", machine.read(path)


def _logs(machine: Machine, _: Redactor) -> Iterator[tuple[str, Any]]:
    paths = machine.paths
    for service in ("hub", "traefik", "postgres"):
        done = machine.run("docker", "logs", "--timestamps", "--tail", str(_LINES), paths.container(service), timeout_s=30)
        yield f"logs/{service}.txt", done.stdout + done.stderr
    for path in (*sorted(paths.traefik.rglob("*.log")), *sorted(paths.log.rglob("*.log")), paths.at("/var/log/dockerd.log")):
        if path.is_file():
            yield f"logs/files/{path.name}", _tail(path)


def _checks(machine: Machine, _: Redactor) -> Iterator[tuple[str, Any]]:
    plan = plan_of_box(machine.paths)
    yield "doctor.json", checks.report(doctor.check(machine, plan))
    ports = checks.run_all([lambda: check_ports.check_ports(machine, plan)])
    yield "ports.json", checks.report(ports, facts=preflight.facts(machine, plan))


# ---------------------------------------------------------------------------------------------------------- helpers --
def _files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()) if folder.is_dir() else []


def _names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _text(path: Path) -> str:
    return _bytes(path).decode(errors="replace")


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - _LOG_BYTES, 0))
        return file.read().decode(errors="replace")

