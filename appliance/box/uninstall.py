"""appliance uninstall: take the box off this machine, and say exactly what stays.

Three parts: `found.look` sees what there is, `plan` decides without touching anything, and the steps, of removal.py, do it.
Each step is right on a box that is half installed or half gone, so the command can be repeated.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from appliance.box import removal, shell
from appliance.box.found import Found, look
from appliance.box.paths import Paths, read_env
from appliance.box.shell import BoxError, counted, say

# Ended first, or systemd would start again what is taken away; the slice and mounts only when nothing is in them.
_FIRST_UNITS, _LAST_UNITS = (".timer", ".path", ".socket", ".service"), (".slice",)
# Kept in the data folder until told twice: the files of people, and what can bring them back.
_KEPT_DATA = ("homes", "homes.btrfs", "homes.img", "backups")


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
    if parsed.dry_run:
        say("Nothing is changed now. Without --dry-run:")
    for line in _what(found, purge_homes=parsed.purge_homes):
        say(line)
    if parsed.dry_run:
        say("Step by step:")
        for step in made.steps:
            say(f"  {step.sentence}")
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
    if found.running_servers:
        yield (f"{counted(found.running_servers, 'server is running and is', 'servers are running and are')} ended; "
               "whoever is working then loses what is not saved.")
    else:
        yield "No server is running."
    yield "Accounts, settings, certificates and secrets of the box are deleted."
    if purge_homes:
        yield "EVERY STUDENT'S FILES AND THE BACKUPS ON THIS MACHINE ARE DELETED."


def _ask(found: Found) -> None:
    """Raises BoxError unless somebody at the terminal says yes."""
    if not sys.stdin.isatty():
        raise BoxError("Nobody is here to be asked.", "Say --yes to take the box off without a question.")
    end = counted(found.running_servers, "server ends", "servers end")
    word = input(f"Type “uninstall” to take the box off this machine ({end}): ")
    if word.strip() != "uninstall":
        raise BoxError("Nothing was changed.", "Run it again when you are sure.")


def _say_stays(made: Plan) -> None:
    if made.stays:
        say("What stays:")
        for line in made.stays:
            say(f"  {line}")
    else:
        say("Nothing of the box stays.")


# --------------------------------------------------------------------------------------------------------------- plan --
def plan(paths: Paths, found: Found, *, purge_homes: bool = False, packages: bool = False) -> Plan:
    """Return what is to be done, in order, and what stays afterwards. Touches nothing."""
    steps: list[Step] = []
    stays: list[str] = []

    def add(sentence: str, do: Callable[[], None]) -> None:
        steps.append(Step(sentence, do))

    early = [unit for unit in found.units if unit.endswith(_FIRST_UNITS)]
    if early:
        add(f"Ending {', '.join(early)}", lambda: removal.disable(early))
    # The Hub first: else it would take each server's end for a failure and start what it still wants.
    for container in sorted(found.containers, key=lambda c: (c.server, not c.name.endswith("-hub"), c.name)):
        add(f"Removing the container {container.name}", removal.runs("docker", "rm", "--force", "--volumes", container.name))
    for network in found.networks:
        add(f"Removing the network {network}", removal.runs("docker", "network", "rm", network))
    if found.images:
        steps_too = " and what was left of building them" if len(found.images) > found.listed_images else ""
        add(f"Removing {counted(found.listed_images, 'image')}{steps_too}", lambda: removal.remove_images(found.images))
    for table in found.tables:
        add(f"Removing the nftables table {table}", removal.runs("nft", "delete", "table", "inet", table))
    for rule in found.ufw_rules:
        add(f"Removing the rule “{rule}” from ufw", removal.runs("ufw", "--force", "delete", *rule.split()))
    for service in found.installed.get("firewalld", []):
        add(f"Removing {service} from firewalld", removal.runs("firewall-cmd", "--permanent", f"--remove-service={service}"))
    if purge_homes and paths.homes in found.mounts:   # a disk of its own: unmounting alone would leave every file on it
        add(f"Deleting every home in {paths.homes}", lambda: removal.empty(paths.homes))
    for place in found.mounts:
        add(f"Unmounting {place}", removal.runs("umount", place))
    if found.fstab_lines:
        add("Taking the box's lines out of /etc/fstab", lambda: removal.clean_fstab(paths, found.fstab_lines))
    late = [unit for unit in found.units if unit.endswith((*_LAST_UNITS, ".mount"))]
    if late:
        add(f"Ending {', '.join(late)}", lambda: removal.disable(late))
    _plan_packages(found, add, stays, packages=packages)
    _plan_data(paths, found, add, stays, purge_homes=purge_homes)
    for file in found.files:
        if file == paths.at("/etc/docker/daemon.json") and found.foreign_containers:
            stays.append(f"{file}: it says where the engine keeps the other containers")
        else:
            add(f"Removing {file}", removal.remover(file))
    if found.units:
        add("Telling systemd", removal.runs("systemctl", "daemon-reload"))
    _plan_config(paths, found, add, stays, purge_homes=purge_homes)
    for place in (paths.opt, paths.wrapper):   # last: this program runs from there
        if os.path.lexists(place):
            add(f"Removing {place}", removal.remover(place))
    return Plan(tuple(steps), tuple(stays))


_Add = Callable[[str, Callable[[], None]], None]


def _plan_packages(found: Found, add: _Add, stays: list[str], *, packages: bool) -> None:
    ours = [str(name) for name in found.installed.get("packages", [])]
    engine = [name for name in ours if name.startswith(("docker", "containerd"))]
    if engine and found.foreign_containers:
        number = found.foreign_containers
        stays.append(f"the Docker engine: {counted(number, 'container that is', 'containers that are')} not the box's "
                     f"{'uses' if number == 1 else 'use'} it")
        ours = [name for name in ours if name not in engine]
    if ours and packages:
        add(f"Removing the packages {', '.join(ours)} and what only they needed", lambda: removal.purge(ours))
    elif ours:
        stays.append(f"packages that were installed for the box: {', '.join(ours)} (--packages removes them)")


def _plan_data(paths: Paths, found: Found, add: _Add, stays: list[str], *, purge_homes: bool) -> None:
    loop = any(place.name in ("homes.img", "homes.btrfs") for place in found.data)
    for place in found.data:
        if loop and place in found.mounts:    # what was seen through it is in the loop file
            add(f"Removing the mount point {place}", partial(removal.remove_if_empty, place))
        elif place.name in _KEPT_DATA and not purge_homes and not removal.is_empty(place):
            stays.append(f"{place} ({_says(place)})")
        else:
            add(f"Removing {place}", removal.remover(place))
    if os.path.lexists(paths.data):
        add(f"Removing {paths.data}, if nothing is left in it", lambda: removal.remove_if_empty(paths.data))


def _plan_config(paths: Paths, found: Found, add: _Add, stays: list[str], *, purge_homes: bool) -> None:
    """The password of backups stays as long as backups do: without it nobody can read them."""
    if not paths.config.is_dir():
        return
    password = paths.secrets / "restic_password"
    target = paths.secrets / "backup.env"
    backups = any(place.name == "backups" and not removal.is_empty(place) for place in found.data)
    remote = not _is_local(paths, target)
    keep = [file for file in (password, target) if file.exists() and (remote or (backups and not purge_homes))]
    stays += [f"{file} (opens the backups)" for file in keep]
    add(f"Removing {paths.config}", lambda: removal.remove_tree(paths.config, keep=keep))


def _is_local(paths: Paths, env_file: Path) -> bool:
    return read_env(env_file).get("RESTIC_REPOSITORY", "/").startswith("/") if env_file.exists() else True


def _says(place: Path) -> str:
    return "backups" if place.name == "backups" else "the students' files, with their numeric owners"
