"""appliance switch, upgrade, rollback: another release takes over, nobody who works notices, and a failure goes back.

What is done is noted before it is done, in /opt/appliance/switch.json. Whatever kills a switch, the next one reads the
note and first puts the box right: back to the release that ran, or, where the new one had already proven itself, ahead.
After a power cut appliance-switch.service does that at boot, with `appliance switch --finish`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TypeVar

from appliance.box import compose, release, shell, snapshot
from appliance.box.paths import Paths
from appliance.box.release import Release
from appliance.box.shell import BoxError, step
from appliance.box.switchsteps import Machine

# In this order. Up to "tried" nothing of what runs was touched; from "checked" on the new release has proven itself.
STEPS = ("begun", "tried", "stopping", "saved", "migrated", "started", "well", "checked")
APPLYING = "applying"        # the release stays, and its containers are being made to match the configuration
PROGRAM = Path(__file__).resolve().parents[2]


N = TypeVar("N")


@dataclass(frozen=True)
class Note:
    """The journal of one switch. `restore`: a snapshot to put back, where the schema could not be taken back."""

    to: str
    old: str | None
    previous: str | None
    step: str
    where: dict[str, str]
    schema: str | None
    snapshot: str
    restore: str = ""
    by: str = str(PROGRAM)         # the program that wrote it knows best how to end it
    format: int = 1

    @property
    def saved(self) -> Path:
        """Copies made after the old Hub ended, so that going back loses nothing."""
        return Path(self.snapshot) / "stopped"

    def reached(self, name: str) -> bool:
        return STEPS.index(self.step) >= STEPS.index(name)


@dataclass(frozen=True)
class Outcome:
    """What a switch did, for people and programs."""

    release: str
    changed: bool
    old: str | None = None
    seconds: float = 0.0
    traefik_gap_s: float = 0.0     # longest time in which the public port took no connection
    hub_gap_s: float = 0.0         # how long no Hub answered
    snapshot: str = ""
    removed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Switch:
    """One switch to another release. Call it with the lock held (release.alone)."""

    def __init__(self, paths: Paths, machine: Machine | None = None) -> None:
        self.paths, self.machine = paths, machine or Machine(paths)

    # -- the note
    @property
    def _file(self) -> Path:
        return self.paths.opt / "switch.json"

    def _read(self) -> Note | None:
        return read_note(Note, self._file)

    def _write(self, note: Note, name: str) -> Note:
        note = replace(note, step=name)
        shell.write_file(self._file, json.dumps(asdict(note), indent=2) + "\n", 0o600)
        return note

    def _forget(self, note: Note) -> None:
        self._file.unlink(missing_ok=True)
        if note.snapshot:
            shutil.rmtree(note.saved, ignore_errors=True)

    def _release(self, release_id: str) -> Release:
        found = Release.read(self.paths.release(release_id))
        if found is None:
            raise BoxError(f"There is no whole release {release_id} on this box.",
                           f"Stage it again: appliance stage FILE   (there are: {self._list() or 'none'})")
        return found

    def _list(self) -> str:
        return ", ".join(each.id for each in release.staged(self.paths))

    # -- what is called from outside
    def repair(self) -> str:
        """Put right what a killed switch left, and return a sentence about it, "" where there was nothing."""
        note = self._read()
        if note is None:
            return ""
        if note.step == APPLYING:
            target = self._release(note.to)
            self.machine.clear()
            self.machine.prepare(target)
            self.machine.up(target)
            self.machine.wait()
            self._forget(note)
            return "Applying the configuration was interrupted; it is done now."
        if not note.reached("stopping"):
            self._forget(note)
            return ""
        if note.reached("checked"):
            self._link(note)
            self._settle(self._release(note.to), note.where)
            self._forget(note)
            return f"An earlier switch to {note.to} was interrupted when it was all but done; it is now."
        self._go_back(note, killed=True)
        return (f"An earlier switch to {note.to} was interrupted; "
                + (f"{note.old} runs again, with everything as it was." if note.old else "it was undone."))

    def to(self, release_id: str, *, why: str = "upgrade", smoke: bool = False, restore: Path | None = None) -> Outcome:
        """Make a staged release the current one. On any failure the old one runs again. Raises BoxError."""
        began = time.monotonic()
        notes = [said for said in [self.repair()] if said]
        target, old_id = self._release(release_id), release.linked(self.paths.current)
        if compose.uses_postgres(self.paths) and "postgres" not in target.images:
            raise BoxError(f"Release {target.id} was staged without PostgreSQL, which is to keep the database.",
                           f"Stage it once more: appliance stage {self.paths.release(target.id) / 'source'}")
        if old_id == release_id:
            return replace(self._apply(target, smoke=smoke), notes=notes, seconds=round(time.monotonic() - began, 2))
        old = Release.read(self.paths.release(old_id)) if old_id else None
        if missing := [name for name, found in target.images.items() if release.image_id(found) != found]:
            raise BoxError(f"The image {missing[0]} of release {target.id} is gone from this machine.",
                           f"Make it again: appliance stage {self.paths.release(target.id) / 'source'}")
        self.machine.prepare(old if old is not None else target)
        asked = old if old is not None and old.schema >= target.schema else target
        facts = self.machine.facts(asked)
        where, schema = facts["database"], facts["schema"]
        self._ensure_known(where, schema)
        note = self._write(Note(target.id, old.id if old else None, release.linked(self.paths.previous), "begun", where,
                                schema, "", str(restore or "")), "begun")
        step(f"Copying the database, the configuration and the secrets (release {old.id if old else 'none'} goes on) …")
        taken = self.machine.take_snapshot(why, where, schema)
        note = self._write(replace(note, snapshot=str(taken)), "begun")
        try:
            step(f"Trying release {target.id} on a copy of the database …")
            self.machine.try_out(target, where, restore or taken, self._back_by(note, target, old))
        except BoxError as error:
            self._forget(note)
            raise BoxError(f"{error.sentence.rstrip('.')}. Nothing was changed"
                           + (f": {old.id} goes on." if old else "."), _mend(error), evidence=error.evidence) from error
        note = self._write(note, "tried")
        with self.machine.watch(facts) as watch:
            try:
                self._forward(note, target, old, smoke=smoke)
            except (BoxError, OSError, KeyboardInterrupt) as error:
                raise self._failed(error) from error
        removed = self._settle(target, where)
        return Outcome(target.id, True, old.id if old else None, round(time.monotonic() - began, 2),
                       watch.public_s if old else 0.0, watch.hub_s if old else 0.0, str(taken), removed, notes)

    # -- the way there
    def _back_by(self, note: Note, target: Release, old: Release | None) -> Release | None:
        """Return the release that can take the schema back to what `target` knows; None where that is not needed."""
        if note.restore or note.schema is None or note.schema <= target.schema:
            return None
        if old is None or old.schema < note.schema:
            raise BoxError(f"The database has schema {note.schema}, and no release here knows the way back to {target.schema}.",
                           "Stage the release that wrote it, or restore a backup.")
        return old

    def _forward(self, note: Note, target: Release, old: Release | None, *, smoke: bool) -> None:
        step("Ending the old Hub; whoever works goes on …" if old else "Preparing the first start …")
        note = self._write(note, "stopping")
        self.machine.stop_hub()
        self.machine.save(note.where, note.saved)
        note = self._write(note, "saved")
        back_by = self._back_by(note, target, old)
        if note.restore:
            self.machine.put_database_back(note.where, Path(note.restore))
            self.machine.replace_cookie_secret()
        elif back_by is not None:
            self.machine.take_back(back_by, target.schema)
        if note.restore or (note.schema is not None and note.schema < target.schema):
            self.machine.migrate(target)
        note = self._write(note, "migrated")
        step(f"Starting release {target.id} …")
        note = self._write(note, "started")
        self.machine.up(target)
        self.machine.wait()
        note = self._write(note, "well")
        step("Asking it for its pages, as a browser does …")
        self.machine.check(target, self.machine.facts(target))
        if smoke:
            step("Running the smoke test …")
            self.machine.smoke()
        note = self._write(note, "checked")
        self._link(note)
        self._forget(note)

    def _link(self, note: Note) -> None:
        if note.old:
            _point(self.paths.previous, note.old)
        _point(self.paths.current, note.to)

    def _settle(self, target: Release, where: dict[str, str]) -> list[str]:
        removed = self.machine.after(target)
        self.remember(target, where)
        return removed

    def _ensure_known(self, where: dict[str, str], schema: str | None) -> None:
        """Raises BoxError where the configuration leads away from the accounts to an empty database."""
        before = shell.read_json(self.paths.opt / "applied.json").get("database")
        if before and before != where and schema is None:
            raise BoxError(f"The configuration names another database than before ({_shown(where)} instead of "
                           f"{_shown(before)}), and there is nothing in it: every account would be gone.",
                           "Set it back (hub_database in the playbook). Accounts are not moved from one kind to another.")

    # -- the way back
    def _failed(self, error: BaseException) -> BoxError:
        note = self._read()
        sentence = "It was interrupted" if isinstance(error, KeyboardInterrupt) else (
            error.sentence.rstrip(".") if isinstance(error, BoxError) else str(error).rstrip("."))
        evidence = error.evidence if isinstance(error, BoxError) else ""
        if note is None:  # failed behind the last step
            return BoxError(f"{sentence}.", _mend(error), evidence=evidence)
        if note.reached("checked"):
            self.repair()
            return BoxError(f"Release {note.to} runs, but: {sentence}.", "Run the same command again.", evidence=evidence)
        step(f"{sentence}. Going back …")
        try:
            self._go_back(note)
        except (BoxError, OSError) as second:
            words = second.sentence if isinstance(second, BoxError) else f"{second}."
            return BoxError(f"{sentence}; and going back failed as well: {words}",
                            "When that is mended, “appliance switch” goes on from here. The copies are in "
                            f"{note.snapshot}.", evidence=evidence)
        if note.old is None:
            return BoxError(f"Release {note.to} could not be put in place: {sentence}.", _mend(error), evidence=evidence)
        return BoxError(f"Release {note.to} could not be put in place, so {note.old} runs again with everything as it was: "
                        f"{sentence}.", _mend(error), evidence=evidence)

    def _go_back(self, note: Note, *, killed: bool = False) -> None:
        """Let the old release run again; may be repeated."""
        old = Release.read(self.paths.release(note.old)) if note.old else None
        target = Release.read(self.paths.release(note.to))
        self.machine.stop_hub()
        self.machine.clear()
        if killed:
            self.machine.forget_boot()
        if note.reached("saved"):
            if either := old or target:
                self.machine.prepare(either)
            self._database_back(note, target, old)
        if old is not None:
            self.machine.up(old)
            self.machine.wait()
            _point(self.paths.current, old.id)
            if note.previous:
                _point(self.paths.previous, note.previous)
            with contextlib.suppress(BoxError):
                release.name_latest(old)
        self._forget(note)

    def _database_back(self, note: Note, target: Release | None, old: Release | None) -> None:
        """A new Hub that was well may have been used, so what people did with it is kept where that can be; what one
        that never was well has left is not trusted."""
        if note.reached("well") and not note.restore and target is not None and old is not None:
            if note.schema == target.schema:
                return
            if note.schema is not None and note.schema < target.schema:
                with contextlib.suppress(BoxError):
                    self.machine.take_back(target, note.schema)
                    return
        self.machine.put_database_back(note.where, note.saved)
        self.machine.put_cookie_secret_back(note.saved)

    # -- the same release again
    def _apply(self, target: Release, *, smoke: bool) -> Outcome:
        """Let what runs match the configuration: nothing to do, or the containers that have to change."""
        print_now, print_then = fingerprint(self.paths, target), shell.read_json(self.paths.opt / "applied.json")
        found = {name: compose.inspect(self.paths, name) for name in compose.services(self.paths)}
        runs = all(each is not None and each.running and each.image in target.images.get(name, each.image)
                   for name, each in found.items())
        if runs and print_now == print_then.get("fingerprint") and not smoke:
            self._ensure_wrapper()
            return Outcome(target.id, False, target.id)
        self.machine.prepare(target)
        facts = self.machine.facts(target)
        self._ensure_known(facts["database"], facts["schema"])
        hub = found["hub"]
        if print_now != print_then.get("fingerprint") and hub is not None and facts["schema"] is not None:
            with _scratch(self.paths) as folder:
                step("Trying the changed configuration on a copy of the database …")
                snapshot.copy_database(self.paths, facts["database"], folder)
                self.machine.try_out(target, facts["database"], folder, None)
        note = self._write(Note(target.id, target.id, release.linked(self.paths.previous), APPLYING, facts["database"],
                                facts["schema"], ""), APPLYING)
        try:
            with self.machine.watch(facts) as watch:
                self.machine.up(target)
                again = compose.inspect(self.paths, "hub")
                same = hub is not None and again is not None and again.id == hub.id and again.started_at == hub.started_at
                if same and print_now != print_then.get("fingerprint"):
                    step("Restarting the Hub with the changed configuration; whoever works goes on …")
                    shell.run(["docker", "restart", "--time", "20", self.paths.container("hub")], timeout_s=120)
                self.machine.wait()
                self.machine.check(target, facts)
                if smoke:
                    step("Running the smoke test …")
                    self.machine.smoke()
        finally:
            self._forget(note)
        after = {name: compose.inspect(self.paths, name) for name in found}
        changed = any(_start(found[name]) != _start(after[name]) for name in found)
        removed = self._settle(target, facts["database"])
        return Outcome(target.id, changed, target.id, 0.0, watch.public_s if changed else 0.0,
                       watch.hub_s if changed else 0.0, "", removed)

    def _ensure_wrapper(self) -> None:
        with contextlib.suppress(OSError):
            if self.paths.wrapper.read_text() == shell.WRAPPER:
                return
        shell.write_file(self.paths.wrapper, shell.WRAPPER, 0o755)

    def remember(self, target: Release, where: dict[str, str]) -> None:
        """Note that what runs has read the configuration as it is now."""
        shell.write_file(self.paths.opt / "applied.json", json.dumps(
            {"release": target.id, "fingerprint": fingerprint(self.paths, target), "database": where}) + "\n", 0o600)


def fingerprint(paths: Paths, target: Release) -> str:
    """Of everything that takes effect only when a container starts: the release, and what the admin decided."""
    digest = hashlib.sha256(target.id.encode())
    for path in [paths.env_file, *sorted(paths.config_d.glob("*.py")), *sorted(paths.secrets.glob("*.env"))]:
        if path.is_file() and path.name != "backup.env":
            digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _start(found: compose.Container | None) -> tuple[str, str]:
    return (found.id, found.started_at) if found else ("", "")


def _point(link: Path, release_id: str) -> None:
    """Let a link lead to a release, in one step."""
    if release.linked(link) == release_id:
        return
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(Path("releases") / release_id)
    os.replace(fresh, link)
    shell.sync_folder(link.parent)


def read_note(kind: type[N], file: Path) -> N | None:
    """Return what a journal says, None where nothing is under way. Raises BoxError for one that this program cannot read."""
    said = shell.read_json(file)
    known = {each.name for each in fields(kind)}  # type: ignore[arg-type]  # a dataclass by what calls it
    try:
        if said.get("format", 1) != 1:
            raise TypeError
        return kind(**{name: value for name, value in said.items() if name in known}) if said else None
    except TypeError:
        raise BoxError(f"{file} was written by another version of this program.",
                       "Let that one end what it began: appliance switch --finish") from None


def _shown(where: dict[str, str]) -> str:
    return str(where.get("path") or f"{where['kind']} {where.get('name', '')} on {where.get('host', '')}")


@contextmanager
def _scratch(paths: Paths) -> Iterator[Path]:
    folder = paths.snapshots / ".trial.partial"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _mend(error: BaseException) -> str:
    if isinstance(error, BoxError) and error.action != BoxError.action:
        return error.action
    return "The last lines say why; when that is mended, run the same command again."
