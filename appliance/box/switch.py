"""appliance switch, upgrade, rollback: another release takes over, nobody who works notices, and a failure goes back.

What is done is noted before it is done, in /opt/appliance/switch.json. Whatever kills a switch, the next one reads the
note and first puts the box right: back to the release that ran, or, where the new one had already proven itself, ahead.
After a power cut appliance-switch.service does that at boot, with `appliance switch --finish`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

from appliance.box import compose, release, shell, snapshot
from appliance.box.paths import DEFAULT_DATA, Paths
from appliance.box.release import Release
from appliance.box.shell import BoxError, say, step

CHECK_S = 30.0
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


class Machine:
    """What a switch does to the machine, a verb each. Raises BoxError."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self._problems: frozenset[str] | None = None    # of the old Hub; None: nobody knows

    def prepare(self, target: Release) -> None:
        """Let a PostgreSQL of ours run; asking the Hub anything needs the database."""
        if not compose.uses_postgres(self.paths):
            return
        found = compose.inspect(self.paths, "postgres")
        if found is None or not found.running:
            compose.run(self.paths, "up", "--detach", "--no-deps", "--no-build", "postgres", release=self._folder(target),
                        what="Starting PostgreSQL")
        compose.wait_until_well(self.paths, ["postgres"])

    def facts(self, target: Release) -> dict[str, Any]:
        return snapshot.facts(self.paths, self._folder(target))

    def take_snapshot(self, why: str, where: dict[str, str], schema: str | None) -> Path:
        return snapshot.take(self.paths, why, where, schema)

    def try_out(self, target: Release, where: dict[str, str], copies: Path, back_by: Release | None) -> None:
        """Let the target start on a copy of the database; `back_by` is the release that takes the schema back before."""
        if snapshot.is_elsewhere(self.paths, where):
            return step("The database is kept elsewhere, so there is no copy of it to try the new release on.")
        trial = copies / "trial"
        shutil.rmtree(trial, ignore_errors=True)
        trial.mkdir(mode=0o700)
        if where["kind"] == "sqlite":
            if (copies / snapshot.SQLITE_COPY).exists():
                shutil.copyfile(copies / snapshot.SQLITE_COPY, trial / snapshot.SQLITE_COPY)
            inside = Path(self.paths.env().get("APPLIANCE_DATA") or DEFAULT_DATA) / trial.relative_to(self.paths.data)
            database = str(inside / snapshot.SQLITE_COPY)
        else:
            database = snapshot.make_spare(self.paths, where, copies / snapshot.POSTGRES_COPY)
        try:
            if back_by is not None:
                compose.hub(self.paths, "downgrade-db", target.schema, "--database", database, release=self._folder(back_by),
                            what="Taking a copy of the database back")
            compose.hub(self.paths, "trial", "--database", database, release=self._folder(target),
                        what=f"Release {target.id}, tried on a copy of the database,")
        finally:
            shutil.rmtree(trial, ignore_errors=True)
            if where["kind"] != "sqlite":
                snapshot.drop_spare(self.paths, where)

    def stop_hub(self) -> None:
        """End whatever Hub runs; routes, Traefik and servers stay as they are."""
        name = self.paths.container("hub")
        done = shell.run(["docker", "stop", "--time", "20", name], check=False, timeout_s=90)
        if not done.ok and "no such container" not in done.stderr.lower():
            raise BoxError(f"The container {name} could not be stopped: {done.words.rstrip('.')}.",
                           "Does the Docker Engine answer? docker ps")

    def save(self, where: dict[str, str], folder: Path) -> None:
        """Copy the database and the cookie secret as they are now that no Hub runs."""
        partial = folder.with_name("stopping")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700, parents=True)
        snapshot.copy_database(self.paths, where, partial)
        snapshot.copy_secrets(self.paths, partial)
        shutil.rmtree(folder, ignore_errors=True)
        shell.sync_folder(partial)
        partial.rename(folder)
        shell.sync_folder(folder.parent)

    def clear(self) -> None:
        """Remove containers that something killed has left half made or at work."""
        compose.remove_leftovers(self.paths)

    def forget_boot(self) -> None:
        """Let the next Hub see that the machine was restarted, if it was: the one that is put away has already noted that
        down, and the servers it started again for it are not in the database that is put back."""
        for place in self.paths.at(f"/run/{self.paths.name}").glob("*"):
            shutil.rmtree(place, ignore_errors=True)

    def migrate(self, target: Release) -> None:
        compose.hub(self.paths, "upgrade-db", release=self._folder(target), what="Bringing the database up to date")

    def take_back(self, by: Release, schema: str) -> None:
        compose.hub(self.paths, "downgrade-db", schema, release=self._folder(by), what="Taking the database back")

    def put_database_back(self, where: dict[str, str], folder: Path) -> None:
        snapshot.put_database_back(self.paths, where, folder)

    def put_cookie_secret_back(self, folder: Path) -> None:
        snapshot.put_cookie_secret_back(self.paths, folder)

    def replace_cookie_secret(self) -> None:
        snapshot.replace_cookie_secret(self.paths)

    def up(self, target: Release) -> None:
        compose.up(self.paths, self._folder(target))

    def wait(self) -> None:
        compose.wait_until_well(self.paths, compose.services(self.paths))

    def check(self, target: Release, facts: dict[str, Any]) -> None:
        check_pages(facts, target.version, before=self._problems)

    def smoke(self) -> None:
        done = shell.run(["docker", "exec", self.paths.container("hub"), "appliance", "smoke"], check=False, timeout_s=900)
        if not done.ok:
            raise BoxError(f"The smoke test failed: {done.words.removeprefix('appliance: ').rstrip('.')}.",
                           "appliance doctor", evidence=(done.stdout + done.stderr)[-4000:])

    def after(self, target: Release) -> list[str]:
        """What may be done when all is well, and repeated whenever."""
        release.name_latest(target)
        shell.write_file(self.paths.wrapper, shell.WRAPPER, 0o755)
        return release.remove_old(self.paths)

    def watch(self, facts: dict[str, Any]) -> Watch:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            self._problems = frozenset(json.loads(_get(facts, "hub/health")[1])["problems"])
        return Watch(_address(facts), int(facts["port"]), int(facts["hub_port"]))

    def _folder(self, target: Release) -> Path:
        return self.paths.release(target.id)


# ------------------------------------------------------------------------------------------------------------ switch --
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
        self._remember(target, where)
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

    def _remember(self, target: Release, where: dict[str, str]) -> None:
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
    known = {each.name for each in fields(kind)}  # type: ignore[arg-type]
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


# ------------------------------------------------------------------------------------------------- seen from outside --
class Watch:
    """Knocks at the public port and at the Hub's while the body runs, and knows how long each was closed at most."""

    EVERY_S = 0.05

    def __init__(self, host: str, port: int, hub_port: int) -> None:
        self.public_s = self.hub_s = 0.0
        self._doors = ((host, port), ("127.0.0.1", hub_port))
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._knock, args=(number,), daemon=True) for number in (0, 1)]

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=5)

    def _knock(self, number: int) -> None:
        closed_at: float | None = None
        while not self._over.is_set():
            now = time.monotonic()
            try:
                with socket.create_connection(self._doors[number], timeout=2):
                    closed_at = None
            except OSError:
                closed_at = closed_at or now
                gap = round(time.monotonic() - closed_at + self.EVERY_S, 2)
                if number == 0:
                    self.public_s = max(self.public_s, gap)
                else:
                    self.hub_s = max(self.hub_s, gap)
            self._over.wait(self.EVERY_S)


def _address(facts: dict[str, Any]) -> str:
    """Where this machine itself reaches the public port."""
    ip = str(facts.get("ip", ""))
    return "127.0.0.1" if ip in ("", "0.0.0.0") else "::1" if ip == "::" else ip


def check_pages(facts: dict[str, Any], version: str, *, before: frozenset[str] | None = None, within_s: float = CHECK_S,
                sleep: Callable[[float], None] = time.sleep) -> None:
    """Ask through Traefik for the login page and for the Hub, until it knows whether it can start servers.

    before: what was wrong with the old Hub; a new trouble is an error. Raises BoxError.
    """
    ends_at = time.monotonic() + within_s
    while True:
        try:
            status, _ = _get(facts, "hub/login")
            health = json.loads(_get(facts, "hub/health")[1])
            found = health.get("version")
            if status == 200 and found == version and health.get("ready", True):  # 0.1 does not say
                if before is not None and (new := sorted({*health["problems"]} - before)):
                    raise BoxError(f"The new Hub has a trouble the old one had not ({', '.join(new)}).", "appliance doctor")
                return
            said = f"the login page answers with {status}, and the Hub says it has version {found}"
        except (OSError, http.client.HTTPException, ValueError) as error:
            said = str(error) or type(error).__name__
        if time.monotonic() >= ends_at:
            raise BoxError(f"The login page cannot be reached through Traefik: {said}.", "appliance doctor")
        sleep(0.2)


def _get(facts: dict[str, Any], path: str) -> tuple[int, bytes]:
    """GET a page of the Hub from the public port, under the name people use, whoever has signed its certificate."""
    host, port = _address(facts), int(facts["port"])
    name = urlsplit(str(facts.get("public_origin") or "")).netloc
    if facts.get("tls", "off") == "off":
        connection = http.client.HTTPConnection(host, port, timeout=10)
    else:
        trust = ssl.create_default_context()
        trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=10, context=trust)
    try:
        connection.request("GET", f"{facts['base_url']}{path}", headers={"Host": name} if name else {})
        answer = connection.getresponse()
        return answer.status, answer.read(1 << 20)
    finally:
        connection.close()


# ---------------------------------------------------------------------------------------------------------- commands --
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


def ask(question: str, yes: bool) -> None:
    """Raises BoxError unless somebody says yes."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise BoxError("This needs a yes.", "Add --yes where nobody can be asked.")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise BoxError("Nothing was changed.", "Nothing was changed.")


@contextmanager
def undisturbed() -> Iterator[None]:
    """A lost connection does not end a switch; SIGTERM ends it as Ctrl-C does, and it goes back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before[0])
        signal.signal(signal.SIGTERM, before[1])


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


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
