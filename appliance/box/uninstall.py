"""appliance uninstall: take the box off this machine, and say exactly what stays.

Three parts: `look` sees what there is, `plan` decides without touching anything, and the steps do it. Each step is right on
a box that is half installed or half gone, so the command can be repeated.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.box import shell
from appliance.box.paths import Paths, read_env
from appliance.box.shell import BoxError, say

# What our roles write outside the folders of our own; each is named after the box.
_FILE_PATTERNS = (
    "etc/systemd/system/appliance*", "etc/systemd/system/*.d/appliance*.conf", "etc/systemd/system/*.wants/appliance*",
    "etc/nftables.d/appliance*", "etc/tmpfiles.d/appliance*", "etc/sysctl.d/*appliance*", "etc/modules-load.d/appliance*",
    "etc/logrotate.d/appliance*", "etc/prometheus/appliance*", "usr/share/appliance", "run/appliance", "var/log/appliance",
    "var/cache/appliance", "var/lib/systemd/timers/stamp-appliance*", "var/lib/prometheus/node-exporter/appliance.prom",
    "var/log/appliance-*.log",
)
_UNIT_ENDINGS = (".service", ".timer", ".slice", ".mount", ".path", ".socket")
# Ended first, or systemd would start again what is taken away; the slice and mounts only when nothing is in them.
_FIRST_UNITS, _LAST_UNITS = (".timer", ".path", ".socket", ".service"), (".slice",)
# Kept in the data folder until told twice: the files of people, and what can bring them back.
_KEPT_DATA = ("homes", "homes.btrfs", "homes.img", "backups")


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


@dataclass(frozen=True)
class Step:
    """`sentence` says what is done; `do` does it and may find it done."""

    sentence: str
    do: Callable[[], None]


@dataclass(frozen=True)
class Plan:
    steps: tuple[Step, ...]
    stays: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--purge-homes", action="store_true",
                        help="also delete the students' files and the backups on this machine; needs --yes-delete-all-homes")
    parser.add_argument("--yes-delete-all-homes", action="store_true", help="said a second time: every student's files")
    parser.add_argument("--packages", action="store_true",
                        help="also remove the packages that were installed for the box and that nothing else needs")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")


def run(paths: Paths, parsed: argparse.Namespace) -> int:
    """Take the box off, or say what that would do."""
    if parsed.purge_homes != parsed.yes_delete_all_homes:
        raise BoxError("Homes are deleted only when told twice.", "Say both: --purge-homes --yes-delete-all-homes.")
    found = look(paths)
    made = plan(paths, found, purge_homes=parsed.purge_homes, packages=parsed.packages)
    if not made.steps:
        say("There is nothing of the box on this machine.")
        _say_stays(made)
        return 0
    for line in _what(found, purge_homes=parsed.purge_homes):
        say(line)
    if parsed.dry_run:
        for step in made.steps:
            say(f"would: {step.sentence}")
        _say_stays(made)
        return 0
    if not parsed.yes:
        _ask(found)
    failed = []
    for step in made.steps:
        shell.step(step.sentence)
        try:
            step.do()
        except (BoxError, OSError) as error:  # the rest is taken away all the same; a second run finds what is left
            failed.append(f"{step.sentence}: {error.sentence if isinstance(error, BoxError) else error}")
    _say_stays(made)
    if failed:
        raise BoxError(f"{len(failed)} of {len(made.steps)} steps failed.", "Run “appliance uninstall” once more.",
                       evidence="\n".join(failed))
    say("The box is off this machine.")
    return 0


def _what(found: Found, *, purge_homes: bool) -> Iterable[str]:
    yield f"{found.running_servers} servers are running and are ended; whoever is working now loses what is not saved."
    yield "Accounts, settings, certificates and secrets of the box are deleted."
    if purge_homes:
        yield "EVERY STUDENT'S FILES AND THE BACKUPS ON THIS MACHINE ARE DELETED."


def _ask(found: Found) -> None:
    """Raises BoxError unless somebody at the terminal says yes."""
    if not sys.stdin.isatty():
        raise BoxError("Nobody is here to be asked.", "Say --yes to take the box off without a question.")
    word = input(f"Type “uninstall” to take the box off this machine ({found.running_servers} servers end): ")
    if word.strip() != "uninstall":
        raise BoxError("Nothing was changed.", "Run it again when you are sure.")


def _say_stays(made: Plan) -> None:
    if made.stays:
        say("What stays:")
        for line in made.stays:
            say(f"  {line}")
    else:
        say("Nothing of the box stays.")


# --------------------------------------------------------------------------------------------------------------- look --
def look(paths: Paths) -> Found:
    """Return what there is of the box. What cannot be asked (no engine, no nftables) is not there."""
    installed = shell.read_json(paths.installed_file)
    namespace = paths.name
    containers, foreign = _containers(namespace)
    return Found(
        containers=containers, foreign_containers=foreign, networks=_networks(namespace), images=_images(paths),
        tables=_tables(namespace), units=_units(paths, installed), mounts=_mounts(paths), fstab_lines=_fstab_lines(paths),
        files=_files(paths, installed), ufw_rules=_ufw_rules(),
        data=tuple(sorted(paths.data.iterdir())) if paths.data.is_dir() else (), installed=installed)


def _lines(*argv: str) -> list[str]:
    return shell.run(argv, check=False, timeout_s=60).stdout.splitlines() if shell.find(argv[0]) else []


def _containers(name: str) -> tuple[tuple[Container, ...], int]:
    form = ('{{.Names}}\t{{.State}}\t{{.Label "org.appliance.namespace"}}\t{{.Label "org.appliance.probe"}}'
            '\t{{.Label "com.docker.compose.project"}}')
    ours, foreign = [], 0
    for line in _lines("docker", "ps", "--all", "--no-trunc", "--format", form):
        container, state, namespace, probe, project = line.split("\t")
        if namespace == name or probe == name or project == name:
            ours.append(Container(container, state in ("running", "paused"), server=namespace == name))
        else:
            foreign += 1
    return tuple(ours), foreign


def _networks(name: str) -> tuple[str, ...]:
    found: set[str] = set()
    for label in (f"org.appliance.namespace={name}", f"com.docker.compose.project={name}"):
        found |= set(_lines("docker", "network", "ls", "--filter", f"label={label}", "--format", "{{.Name}}"))
    return tuple(sorted(found))


def _images(paths: Paths) -> tuple[str, ...]:
    """Return the ids of images that images/build made and of those that a release names, each once."""
    wanted = set(_lines("docker", "images", "--all", "--quiet", "--no-trunc", "--filter", "label=org.appliance.content"))
    wanted |= set(_lines("docker", "images", "--quiet", "--no-trunc", "--filter", "reference=appliance/*"))
    there = set(_lines("docker", "images", "--all", "--quiet", "--no-trunc"))
    for file in sorted(paths.releases.glob("*/release.json")):
        wanted |= {image for image in shell.read_json(file).get("images", {}).values() if isinstance(image, str)}
    return tuple(sorted(wanted & there))


def _tables(name: str) -> tuple[str, ...]:
    found = (line.split() for line in _lines("nft", "list", "tables"))
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
    added = (line.removeprefix("ufw ").strip() for line in _lines("ufw", "show", "added") if "comment 'appliance" in line)
    return tuple(rule.partition(" comment ")[0] for rule in added)


# --------------------------------------------------------------------------------------------------------------- plan --
def plan(paths: Paths, found: Found, *, purge_homes: bool = False, packages: bool = False) -> Plan:
    """Return what is to be done, in order, and what stays afterwards. Touches nothing."""
    steps: list[Step] = []
    stays: list[str] = []

    def add(sentence: str, do: Callable[[], None]) -> None:
        steps.append(Step(sentence, do))

    early = [unit for unit in found.units if unit.endswith(_FIRST_UNITS)]
    if early:
        add(f"Ending {', '.join(early)}", lambda: _disable(early))
    # The Hub first: else it would take each server's end for a failure and start what it still wants.
    for container in sorted(found.containers, key=lambda c: (c.server, not c.name.endswith("-hub"), c.name)):
        add(f"Removing the container {container.name}", _runs("docker", "rm", "--force", "--volumes", container.name))
    for network in found.networks:
        add(f"Removing the network {network}", _runs("docker", "network", "rm", network))
    if found.images:
        add(f"Removing {len(found.images)} images", lambda: _remove_images(found.images))
    for table in found.tables:
        add(f"Removing the nftables table {table}", _runs("nft", "delete", "table", "inet", table))
    for rule in found.ufw_rules:
        add(f"Removing the rule “{rule}” from ufw", _runs("ufw", "--force", "delete", *rule.split()))
    for service in found.installed.get("firewalld", []):
        add(f"Removing {service} from firewalld", _runs("firewall-cmd", "--permanent", f"--remove-service={service}"))
    if purge_homes and paths.homes in found.mounts:   # a disk of its own: unmounting alone would leave every file on it
        add(f"Deleting every home in {paths.homes}", lambda: _empty(paths.homes))
    for place in found.mounts:
        add(f"Unmounting {place}", _runs("umount", place))
    if found.fstab_lines:
        add("Taking the box's lines out of /etc/fstab", lambda: _clean_fstab(paths, found.fstab_lines))
    late = [unit for unit in found.units if unit.endswith((*_LAST_UNITS, ".mount"))]
    if late:
        add(f"Ending {', '.join(late)}", lambda: _disable(late))
    _plan_packages(found, add, stays, packages=packages)
    _plan_data(paths, found, add, stays, purge_homes=purge_homes)
    for file in found.files:
        if file == paths.at("/etc/docker/daemon.json") and found.foreign_containers:
            stays.append(f"{file}: it says where the engine keeps the other containers")
        else:
            add(f"Removing {file}", _remover(file))
    if found.units:
        add("Telling systemd", _runs("systemctl", "daemon-reload"))
    _plan_config(paths, found, add, stays, purge_homes=purge_homes)
    for place in (paths.opt, paths.wrapper):   # last: this program runs from there
        if os.path.lexists(place):
            add(f"Removing {place}", _remover(place))
    return Plan(tuple(steps), tuple(stays))


_Add = Callable[[str, Callable[[], None]], None]


def _plan_packages(found: Found, add: _Add, stays: list[str], *, packages: bool) -> None:
    ours = [str(name) for name in found.installed.get("packages", [])]
    engine = [name for name in ours if name.startswith(("docker", "containerd"))]
    if engine and found.foreign_containers:
        stays.append(f"the Docker engine: {found.foreign_containers} containers that are not the box's use it")
        ours = [name for name in ours if name not in engine]
    if ours and packages:
        add(f"Removing the packages {', '.join(ours)} and what only they needed", lambda: _purge(ours))
    elif ours:
        stays.append(f"packages that were installed for the box: {', '.join(ours)} (--packages removes them)")


def _plan_data(paths: Paths, found: Found, add: _Add, stays: list[str], *, purge_homes: bool) -> None:
    loop = any(place.name in ("homes.img", "homes.btrfs") for place in found.data)
    for place in found.data:
        if loop and place in found.mounts:    # what was seen through it is in the loop file
            add(f"Removing the mount point {place}", lambda place=place: _remove_if_empty(place))  # type: ignore[misc]
        elif place.name in _KEPT_DATA and not purge_homes and not _is_empty(place):
            stays.append(f"{place} ({_says(place)})")
        else:
            add(f"Removing {place}", _remover(place))
    if os.path.lexists(paths.data):
        add(f"Removing {paths.data}, if nothing is left in it", lambda: _remove_if_empty(paths.data))


def _plan_config(paths: Paths, found: Found, add: _Add, stays: list[str], *, purge_homes: bool) -> None:
    """The password of backups stays as long as backups do: without it nobody can read them."""
    if not paths.config.is_dir():
        return
    password = paths.secrets / "restic_password"
    target = paths.secrets / "backup.env"
    backups = any(place.name == "backups" and not _is_empty(place) for place in found.data)
    remote = not _is_local(paths, target)
    keep = [file for file in (password, target) if file.exists() and (remote or (backups and not purge_homes))]
    stays += [f"{file} (opens the backups)" for file in keep]
    add(f"Removing {paths.config}", lambda: _remove_tree(paths.config, keep=keep))


def _is_local(paths: Paths, env_file: Path) -> bool:
    return read_env(env_file).get("RESTIC_REPOSITORY", "/").startswith("/") if env_file.exists() else True


def _is_empty(place: Path) -> bool:
    return place.is_dir() and not place.is_symlink() and not os.path.ismount(place) and not any(place.iterdir())


def _says(place: Path) -> str:
    return "backups" if place.name == "backups" else "the students' files, with their numeric owners"


# ---------------------------------------------------------------------------------------------------------------- do --
def _runs(*argv: str | Path) -> Callable[[], None]:
    return lambda: _run_if_there(*argv)


def _run_if_there(*argv: str | Path) -> None:
    """Run a command; that its object is gone already is what was wanted. Raises BoxError."""
    done = shell.run(argv, check=False, timeout_s=180)
    gone = ("no such", "not found", "does not exist", "not mounted", "not loaded", "could not delete non-existent")
    if not done.ok and done.returncode != 127 and not any(word in done.stderr.lower() for word in gone):
        raise BoxError(f"“{' '.join(map(str, argv))}” failed: {done.words}", evidence=done.stderr[-2000:])


def _disable(units: Iterable[str]) -> None:
    for unit in units:
        _run_if_there("systemctl", "disable", "--now", unit)
        shell.run(["systemctl", "reset-failed", unit], check=False, timeout_s=30)


def _remove_images(images: Iterable[str]) -> None:
    """Remove images, a child before its parent: what is refused is tried again as long as one more goes."""
    left = list(images)
    while left:
        refused = [image for image in left
                   if not shell.run(["docker", "rmi", "--force", image], check=False, timeout_s=120).ok]
        there = set(_lines("docker", "images", "--all", "--quiet", "--no-trunc"))
        refused = [image for image in refused if image in there]
        if len(refused) == len(left):
            raise BoxError(f"{len(refused)} images are in use by containers that are not the box's.")
        left = refused


def _clean_fstab(paths: Paths, lines: Iterable[str]) -> None:
    fstab, out = paths.at("/etc/fstab"), set(lines)
    kept = [line for line in fstab.read_text().splitlines(keepends=True) if line.rstrip("\n") not in out]
    shell.write_file(fstab, "".join(kept), 0o644)


def _purge(names: list[str]) -> None:
    """Remove packages and what only they needed; what nobody needed before is none of our business."""
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    there = [line.split()[1] for line in _lines(
        "dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Package}\n", *names) if line.startswith("installed")]
    if not there:
        return
    before = _unneeded()
    shell.run(["apt-mark", "auto", *there], timeout_s=60)
    ours = sorted(_unneeded() - before)
    if ours:
        shell.run(["apt-get", "purge", "--yes", "--quiet", *ours], env=environment, timeout_s=900)


def _unneeded() -> set[str]:
    # recommendations and suggestions of others keep nothing here: we install without them
    said = _lines("apt-get", "--simulate", "-o", "APT::AutoRemove::RecommendsImportant=true",
                  "-o", "APT::AutoRemove::SuggestsImportant=false", "autoremove")
    return {line.split()[1] for line in said if line.startswith("Remv ")}


def _remover(place: Path) -> Callable[[], None]:
    return lambda: _remove(place)


def _remove(place: Path) -> None:
    if os.path.ismount(place):
        raise BoxError(f"{place} is still mounted; nothing in it was touched.", f"Run: umount {place}")
    if place.is_dir() and not place.is_symlink():
        # what is in a mount below it is somebody's disk
        inner = [line.split()[1] for line in _proc_mounts() if Path(line.split()[1]).is_relative_to(place)]
        if inner:
            raise BoxError(f"{inner[0]} is still mounted; nothing in {place} was touched.", f"Run: umount {inner[0]}")
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _proc_mounts() -> list[str]:
    try:
        return [line for line in Path("/proc/self/mounts").read_text().splitlines() if len(line.split()) > 1]
    except OSError:
        return []


def _empty(place: Path) -> None:
    """Delete what is in a file system. Btrfs's read-only snapshots cannot be removed file by file."""
    if shell.find("btrfs"):
        names = [line.rpartition(" path ")[2] for line in _lines("btrfs", "subvolume", "list", str(place))]
        for name in sorted(names, key=len, reverse=True):
            shell.run(["btrfs", "subvolume", "delete", place / name], check=False, timeout_s=120)
    for entry in place.iterdir():
        _remove(entry)


def _remove_if_empty(place: Path) -> None:
    if _is_empty(place):
        place.rmdir()


def _remove_tree(place: Path, *, keep: Iterable[Path]) -> None:
    kept = {file for file in keep if file.exists()}
    if not kept:
        _remove(place)
        return
    for file in sorted(place.rglob("*"), reverse=True):
        if file in kept or any(k.is_relative_to(file) for k in kept):
            continue
        if file.is_dir() and not file.is_symlink():
            file.rmdir()
        else:
            file.unlink(missing_ok=True)
