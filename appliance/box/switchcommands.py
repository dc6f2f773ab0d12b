"""The commands appliance switch, upgrade and rollback."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from appliance.box import release, shell, snapshot
from appliance.box.paths import Paths
from appliance.box.release import Release
from appliance.box.shell import BoxError, ask, say, step, undisturbed
from appliance.box.switch import PROGRAM, Outcome, Switch


def add_switch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("release", nargs="?", metavar="RELEASE",
                        help="the id of a staged release (default: the current one, with the configuration as it is now)")
    parser.add_argument("--finish", action="store_true",
                        help="only end or take back what was interrupted, as is done after a power cut when the machine starts")
    _more(parser)


def add_upgrade_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", type=Path, help="a release's file, a folder of this program, or a bundle's")
    parser.add_argument("--images", metavar="FILE", type=Path, help="load the images from this archive; do not build")
    _more(parser)


def add_rollback_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.add_argument("--restore-snapshot", action="store_true",
                        help="where the database cannot be taken back, put an older copy of it in place; given twice, with "
                             "--yes, nobody is asked")
    _more(parser)


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--smoke", action="store_true", help="also run the smoke test before the old release is let go")
    parser.add_argument("--json", action="store_true", help="for programs")


def run_switch(paths: Paths, parsed: argparse.Namespace) -> int:
    if parsed.finish:
        return _run_finish(paths)
    with undisturbed(), release.alone(paths):
        _end_restore(paths)
        wanted = parsed.release or release.linked(paths.current)
        if wanted is None:
            raise BoxError("No release is in place yet.", "Name one: appliance switch RELEASE")
        return _tell(Switch(paths).to(wanted, smoke=parsed.smoke), parsed)


def run_upgrade(paths: Paths, parsed: argparse.Namespace) -> int:
    release_id = release.stage(paths, parsed.source, images=parsed.images)
    source = paths.release(release_id) / "source"
    if paths.root == Paths().root and (source / "appliance/box/switch.py").exists():
        # a release knows best itself what it needs, so from here on its own code does the work
        _become(source, "switch", release_id, *(f"--{name}" for name in ("smoke", "json") if getattr(parsed, name)))
    with undisturbed(), release.alone(paths):
        _end_restore(paths)
        return _tell(Switch(paths).to(release_id, smoke=parsed.smoke), parsed)


def _become(source: Path, *words: str) -> NoReturn:
    """Go on as another release's program."""
    start = ("import sys; sys.dont_write_bytecode = True; sys.path.insert(0, sys.argv.pop(1)); "
             "from appliance.box.__main__ import main; sys.exit(main())")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-I", "-c", start, str(source), *words])


def _run_finish(paths: Paths) -> int:
    """End what was interrupted, with the program that began it."""
    said = shell.read_json(paths.opt / "switch.json") or shell.read_json(paths.opt / "restore.json")
    by = Path(str(said.get("by") or PROGRAM))
    if by != PROGRAM and paths.root == Paths().root and (by / "appliance/box/switch.py").exists():
        _become(by, "switch", "--finish")
    with undisturbed(), release.alone(paths):
        done = [said for said in (Switch(paths).repair(), _repair_restore(paths)) if said]
    say(" ".join(done) or "Nothing was interrupted.")
    return 0


def _end_restore(paths: Paths) -> None:
    """A restore that was interrupted comes before anything else."""
    if said := _repair_restore(paths):
        step(said)


def _repair_restore(paths: Paths) -> str:
    from appliance.box import restore  # which builds on this module

    return restore.repair(paths)


def run_rollback(paths: Paths, parsed: argparse.Namespace) -> int:
    with undisturbed(), release.alone(paths):
        _end_restore(paths)
        switch = Switch(paths)
        if said := switch.repair():
            step(said)
        current, previous = release.linked(paths.current), release.linked(paths.previous)
        if previous is None or previous == current:
            raise BoxError("There is no release before this one on the box.", "“appliance switch RELEASE” takes a staged one.")
        ask(f"Go back from {current} to {previous}? Accounts, sessions and servers stay.", parsed.yes)
        try:
            return _tell(switch.to(previous, why="rollback", smoke=parsed.smoke), parsed)
        except BoxError as error:
            copy = _copy_instead(paths, switch, previous)
            if copy is None or release.linked(paths.current) != current:
                raise
            at, _ = snapshot.sentence_of(copy)
            say(f"{error.sentence} {error.action}\n"
                f"What is left is the copy of the database of {at}. Everything since then would be lost: accounts, passwords, "
                "groups, and who had a server; everybody has to sign in again. Files in homes stay as they are.")
            if not (parsed.yes and parsed.restore_snapshot):
                if not sys.stdin.isatty():
                    raise BoxError("Putting an old copy of the database in place needs two yeses.",
                                   "Where nobody can be asked: appliance rollback --yes --restore-snapshot") from error
                ask(f"Put the database of {at} in place?", False)
                ask(f"Are you sure that everything since {at} may be lost?", False)
            return _tell(switch.to(previous, why="rollback", smoke=parsed.smoke, restore=copy), parsed)


def _copy_instead(paths: Paths, switch: Switch, release_id: str) -> Path | None:
    """The copy to offer where a rollback failed; None where the way back of the schema was not the reason."""
    target, current = switch._release(release_id), Release.read(paths.current)
    if current is None or current.schema <= target.schema:
        return None
    return snapshot.newest_for(paths, target)


def _tell(outcome: Outcome, parsed: argparse.Namespace) -> int:
    if parsed.json:
        shell.print_json(asdict(outcome))
        return 0
    for note in outcome.notes:
        say(note)
    if not outcome.changed:
        say(f"Release {outcome.release} runs already, with the configuration as it is; nothing was changed.")
        return 0
    say(f"Release {outcome.release} runs after {outcome.seconds:.0f} s" + (
        f" (before: {outcome.old})." if outcome.old and outcome.old != outcome.release else "."))
    if outcome.old:
        say(f"Nobody's server was touched. The Hub did not answer for {outcome.hub_gap_s:.1f} s; Traefik "
            + (f"was started anew and took no connection for {outcome.traefik_gap_s:.1f} s."
               if outcome.traefik_gap_s else "went on all the time."))
    if outcome.snapshot:
        say(f"What was before is in {outcome.snapshot}; “appliance rollback” goes back.")
    return 0
