"""What there is of the box on a machine: for taking it off again. Looks, and changes nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.box import shell
from appliance.box.paths import Paths

# What our roles write outside the folders of our own; each is named after the box.
_FILE_PATTERNS = (
    "etc/systemd/system/appliance*", "etc/systemd/system/*.d/appliance*.conf", "etc/systemd/system/*.wants/appliance*",
    "etc/nftables.d/appliance*", "etc/tmpfiles.d/appliance*", "etc/sysctl.d/*appliance*", "etc/modules-load.d/appliance*",
    "etc/logrotate.d/appliance*", "etc/prometheus/appliance*", "usr/share/appliance", "run/appliance", "var/log/appliance",
    "var/cache/appliance", "var/lib/systemd/timers/stamp-appliance*", "var/lib/prometheus/node-exporter/appliance.prom",
    "var/log/appliance-*.log",
)
_UNIT_ENDINGS = (".service", ".timer", ".slice", ".mount", ".path", ".socket")


@dataclass(frozen=True)
class Container:
    name: str
    running: bool
    server: bool          # a student's, and not one of the box's own parts


@dataclass(frozen=True)
class Found:
    """What there is of the box on this machine. Paths are real ones, below the root of `Paths`."""

    containers: tuple[Container, ...] = ()
    foreign_containers: int = 0
    networks: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    listed_images: int = 0                  # those of them that “docker images” shows; the others are steps of building them
    tables: tuple[str, ...] = ()            # nftables, family inet
    units: tuple[str, ...] = ()
    mounts: tuple[Path, ...] = ()
    fstab_lines: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    ufw_rules: tuple[str, ...] = ()         # the words after `ufw delete`
    data: tuple[Path, ...] = ()             # what lies in the data folder
    installed: dict[str, Any] = field(default_factory=dict)

    @property
    def running_servers(self) -> int:
        return sum(container.running and container.server for container in self.containers)


def look(paths: Paths) -> Found:
    """Return what there is of the box. What cannot be asked (no engine, no nftables) is not there."""
    installed = shell.read_json(paths.installed_file)
    namespace = paths.name
    containers, foreign = _containers(namespace)
    images, listed = _images(paths), set(lines("docker", "images", "--quiet", "--no-trunc"))
    return Found(
        containers=containers, foreign_containers=foreign, networks=_networks(namespace), images=images,
        listed_images=len(listed.intersection(images)),
        tables=_tables(namespace), units=_units(paths, installed), mounts=_mounts(paths), fstab_lines=_fstab_lines(paths),
        files=_files(paths, installed), ufw_rules=_ufw_rules(),
        data=tuple(sorted(paths.data.iterdir())) if paths.data.is_dir() else (), installed=installed)


def lines(*argv: str) -> list[str]:
    """Return what a program prints; nothing if it is not there."""
    return shell.run(argv, check=False, timeout_s=60).stdout.splitlines() if shell.find(argv[0]) else []


def _containers(name: str) -> tuple[tuple[Container, ...], int]:
    form = ('{{.Names}}\t{{.State}}\t{{.Label "org.appliance.namespace"}}\t{{.Label "org.appliance.probe"}}'
            '\t{{.Label "com.docker.compose.project"}}')
    ours, foreign = [], 0
    for line in lines("docker", "ps", "--all", "--no-trunc", "--format", form):
        container, state, namespace, probe, project = line.split("\t")
        if namespace == name or probe == name or project == name:
            ours.append(Container(container, state in ("running", "paused"), server=namespace == name))
        else:
            foreign += 1
    return tuple(ours), foreign


def _networks(name: str) -> tuple[str, ...]:
    found: set[str] = set()
    for label in (f"org.appliance.namespace={name}", f"com.docker.compose.project={name}"):
        found |= set(lines("docker", "network", "ls", "--filter", f"label={label}", "--format", "{{.Name}}"))
    return tuple(sorted(found))


def _images(paths: Paths) -> tuple[str, ...]:
    """Return the ids of images that images/build made and of those that a release names, each once.

    An image that somebody built from ours inherits its label, but has a name of its own.
    """
    wanted = set(lines("docker", "images", "--all", "--quiet", "--no-trunc", "--filter", "label=org.appliance.content"))
    wanted |= set(lines("docker", "images", "--quiet", "--no-trunc", "--filter", "reference=appliance/*"))
    named = [line.split() for line in lines("docker", "images", "--all", "--no-trunc", "--format", "{{.ID}} {{.Repository}}")]
    foreign = {image for image, name in named if name != "<none>" and not name.startswith("appliance/")}
    for file in sorted(paths.releases.glob("*/release.json")):
        wanted |= {image for image in shell.read_json(file).get("images", {}).values() if isinstance(image, str)}
    return tuple(sorted((wanted & {image for image, _ in named}) - foreign))


def _tables(name: str) -> tuple[str, ...]:
    found = (line.split() for line in lines("nft", "list", "tables"))
    return tuple(sorted({words[2] for words in found if len(words) == 3 and words[1] == "inet"
                         and words[2].replace("-", "_").split("_")[0] == "appliance"
                         and (name == "appliance" or name.replace("-", "_") in words[2])}))


def _units(paths: Paths, installed: dict[str, Any]) -> tuple[str, ...]:
    names = {file.name for file in paths.at("/etc/systemd/system").glob("appliance*")}
    names |= {str(unit) for unit in installed.get("units", [])}
    # without our drop-in they would listen to everybody
    names |= {f"{package}.service" for package in installed.get("packages", []) if str(package).startswith("prometheus")}
    return tuple(sorted(name for name in names if name.endswith(_UNIT_ENDINGS)))


def _mounts(paths: Paths) -> tuple[Path, ...]:
    """Return what is mounted in the data folder, the innermost first."""
    try:
        lines = paths.at("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return ()
    places = [Path(line.split()[1].replace("\\040", " ")) for line in lines if len(line.split()) > 1]
    data = paths.data
    return tuple(sorted({place for place in places if place.is_relative_to(data) and place != data}, reverse=True))


def _fstab_lines(paths: Paths) -> tuple[str, ...]:
    try:
        lines = paths.at("/etc/fstab").read_text().splitlines()
    except OSError:
        return ()
    data = str(Path("/") / paths.data.relative_to(paths.root))
    return tuple(line for line in lines if not line.startswith("#") and len(line.split()) > 1
                 and Path(line.split()[1]).is_relative_to(data))


def _files(paths: Paths, installed: dict[str, Any]) -> tuple[Path, ...]:
    found = {file for pattern in _FILE_PATTERNS for file in paths.root.glob(pattern)}
    named = [*installed.get("files", []), *(f"/etc/systemd/system/{unit}" for unit in installed.get("units", []))]
    found |= {paths.at(str(file)) for file in named if os.path.lexists(paths.at(str(file)))}
    return tuple(sorted(found))


def _ufw_rules() -> tuple[str, ...]:
    """Return our rules of ufw, which carry our name as their comment."""
    added = (line.removeprefix("ufw ").strip() for line in lines("ufw", "show", "added") if "comment 'appliance" in line)
    return tuple(rule.partition(" comment ")[0] for rule in added)
