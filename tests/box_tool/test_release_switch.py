"""The order of a switch, and that it is right whatever fails and wherever it is killed. The machine is a fake here."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.box import compose, release, shell
from appliance.box.paths import Paths
from appliance.box.release import Release
from appliance.box.shell import BoxError
from appliance.box.switch import Switch
from appliance.box.switchsteps import Machine

pytestmark = pytest.mark.unit

OLD, NEW, BAD = "1.0-aaaaaaaaaaaa", "1.1-bbbbbbbbbbbb", "1.2-cccccccccccc"
SCHEMAS = {OLD: "0001", NEW: "0002", BAD: "0002"}


class Killed(BaseException):
    """The power went."""


class FakeMachine(Machine):
    """A database that is a file with its schema and what people did, and a Hub that is a file with its release."""

    def __init__(self, paths: Paths) -> None:
        super().__init__(paths)
        self.calls: list[str] = []
        self.before: Callable[[str], None] = lambda name: None
        self.work = 0

    @property
    def database(self) -> Path:
        return self.paths.data / "database"

    @property
    def running(self) -> str:
        file = self.paths.data / "running"
        return file.read_text() if file.exists() else ""

    def read(self) -> dict[str, Any]:
        return shell.read_json(self.database)

    def change(self, **more: Any) -> None:
        shell.write_file(self.database, json.dumps({**self.read(), **more}))

    def _call(self, name: str) -> None:
        self.before(name)
        self.calls.append(name)

    def prepare(self, target: Release) -> None:
        self._call("prepare")

    def facts(self, target: Release) -> dict[str, Any]:
        self._call("facts")
        return {"database": {"kind": "fake"}, "schema": self.read().get("schema"), "ip": "", "port": 1, "hub_port": 1}

    def take_snapshot(self, why: str, where: dict[str, str], schema: str | None) -> Path:
        self._call("snapshot")
        folder = self.paths.snapshots / f"s{len(list(self.paths.snapshots.glob('*')))}-{why}"
        folder.mkdir(parents=True)
        self._copy(folder)
        return folder

    def try_out(self, target: Release, where: dict[str, str], copies: Path, back_by: Release | None) -> None:
        self._call("trial")

    def stop_hub(self) -> None:
        self._call("stop")
        (self.paths.data / "running").unlink(missing_ok=True)

    def save(self, where: dict[str, str], folder: Path) -> None:
        self._call("save")
        folder.mkdir(exist_ok=True)
        self._copy(folder)

    def _copy(self, folder: Path) -> None:
        if self.database.exists():
            shutil.copyfile(self.database, folder / "database")

    def clear(self) -> None:
        self._call("clear")

    def forget_boot(self) -> None:
        self._call("forget boot")

    def migrate(self, target: Release) -> None:
        assert not self.running
        self.change(schema="half")
        self._call("migrate")
        self.change(schema=target.schema)

    def take_back(self, by: Release, schema: str) -> None:
        assert not self.running
        assert by.schema >= str(self.read()["schema"])
        self._call("take back")
        self.change(schema=schema)

    def put_database_back(self, where: dict[str, str], folder: Path) -> None:
        assert not self.running
        self._call("database back")
        if (folder / "database").exists():
            shutil.copyfile(folder / "database", self.database)
        else:
            self.database.unlink(missing_ok=True)

    def put_cookie_secret_back(self, folder: Path) -> None:
        self._call("cookie back")

    def replace_cookie_secret(self) -> None:
        self._call("new cookie")

    def up(self, target: Release) -> None:
        self._call(f"up {target.id}")
        said = self.read()
        if said and said["schema"] != target.schema:
            raise BoxError(f"{target.id} cannot read schema {said['schema']}")
        self.change(schema=target.schema)
        (self.paths.data / "running").write_text(target.id)

    def wait(self) -> None:
        self._call("wait")
        if self.running == BAD:
            raise BoxError("The Hub does not stay up.", "Read its lines.", evidence="Traceback: boom")

    def check(self, target: Release, facts: dict[str, Any]) -> None:
        self._call("check")

    def after(self, target: Release) -> list[str]:
        self._call("after")
        return []

    def watch(self, facts: dict[str, Any]) -> Any:
        @contextmanager
        def nothing() -> Any:
            yield type("Seen", (), {"public_s": 0.0, "hub_s": 0.5})()
        return nothing()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    paths = Paths(tmp_path)
    for number, (release_id, schema) in enumerate(SCHEMAS.items()):
        shell.write_file(paths.release(release_id) / "release.json", json.dumps({
            "id": release_id, "version": release_id.split("-")[0], "schema": schema, "images": {"hub": f"sha256:{number}"},
            "made_at": f"2026-01-0{number + 1}T00:00:00+00:00"}))
    paths.data.mkdir(parents=True)
    monkeypatch.setattr(release, "image_id", lambda name: name)
    monkeypatch.setattr(release, "name_latest", lambda found: None)
    return FakeMachine(paths)


@pytest.fixture
def old(machine: FakeMachine) -> FakeMachine:
    """A box where OLD runs and somebody has signed in."""
    Switch(machine.paths, machine).to(OLD)
    machine.change(sessions=["alice"])
    machine.calls.clear()
    return machine


def links(machine: FakeMachine) -> tuple[str | None, str | None]:
    return release.linked(machine.paths.current), release.linked(machine.paths.previous)


def is_settled(machine: FakeMachine) -> None:
    """Nothing is under way, and what runs is what is named and can read its database."""
    assert not (machine.paths.opt / "switch.json").exists()
    current = release.linked(machine.paths.current)
    assert machine.running == (current or "")
    if current:
        assert machine.read()["schema"] == SCHEMAS[current]
    assert not list(machine.paths.snapshots.glob("*/stopped"))


def test_the_first_release_is_put_in_place(machine: FakeMachine) -> None:
    outcome = Switch(machine.paths, machine).to(OLD)
    assert (outcome.changed, outcome.old, outcome.release) == (True, None, OLD)
    assert links(machine) == (OLD, None)
    is_settled(machine)


def test_an_upgrade_tries_first_and_migrates_when_the_old_hub_has_ended(old: FakeMachine) -> None:
    outcome = Switch(old.paths, old).to(NEW)
    assert old.calls == ["prepare", "facts", "snapshot", "trial", "stop", "save", "migrate", f"up {NEW}", "wait", "facts",
                         "check", "after"]
    assert links(old) == (NEW, OLD)
    assert old.read() == {"schema": "0002", "sessions": ["alice"]}
    assert outcome.hub_gap_s == 0.5
    is_settled(old)


def test_a_rollback_takes_the_schema_back_and_loses_nothing(old: FakeMachine) -> None:
    Switch(old.paths, old).to(NEW)
    old.change(sessions=["alice", "bob"])
    old.calls.clear()
    Switch(old.paths, old).to(OLD, why="rollback")
    assert old.calls.index("save") < old.calls.index("take back") < old.calls.index(f"up {OLD}")
    assert "migrate" not in old.calls
    assert links(old) == (OLD, NEW)
    assert old.read() == {"schema": "0001", "sessions": ["alice", "bob"]}
    is_settled(old)


def test_a_release_that_does_not_start_is_taken_back_and_says_why(old: FakeMachine) -> None:
    old.before = lambda name: old.change(sessions=["alice", "bob"]) if name == "stop" and old.running == OLD else None
    with pytest.raises(BoxError, match=rf"{BAD} could not be put in place, so {OLD} runs again.*does not stay up") as failed:
        Switch(old.paths, old).to(BAD)
    assert "boom" in failed.value.evidence
    assert links(old) == (OLD, None)
    assert old.read() == {"schema": "0001", "sessions": ["alice", "bob"]}  # also what came while it was tried
    is_settled(old)


def test_a_trial_that_fails_touches_nothing(old: FakeMachine) -> None:
    def fail(name: str) -> None:
        if name == "trial":
            raise BoxError("The login page answers with 500.", "Look.")

    old.before = fail
    with pytest.raises(BoxError, match=rf"answers with 500. Nothing was changed: {OLD} goes on"):
        Switch(old.paths, old).to(NEW)
    assert "stop" not in old.calls
    is_settled(old)


def test_people_who_used_a_new_hub_that_was_well_lose_nothing_when_its_check_fails(old: FakeMachine) -> None:
    def fail(name: str) -> None:
        if name == "check" and old.running == NEW:
            old.change(sessions=["alice", "carol"])
            raise BoxError("The login page cannot be reached through Traefik.", "appliance doctor")

    old.before = fail
    with pytest.raises(BoxError, match=f"{OLD} runs again"):
        Switch(old.paths, old).to(NEW)
    assert old.read() == {"schema": "0001", "sessions": ["alice", "carol"]}
    is_settled(old)


def test_a_failing_way_back_keeps_the_note_and_the_next_run_ends_it(old: FakeMachine) -> None:
    def fail(name: str) -> None:
        if name == f"up {OLD}":
            raise BoxError("The Docker Engine does not answer.", "Start it.")

    old.before = fail
    with pytest.raises(BoxError, match="going back failed as well: The Docker Engine does not answer"):
        Switch(old.paths, old).to(BAD)
    assert (old.paths.opt / "switch.json").exists()
    old.before = lambda name: None
    outcome = Switch(old.paths, old).to(NEW)
    assert any(f"{OLD} runs again" in note for note in outcome.notes)
    assert links(old) == (NEW, OLD)
    is_settled(old)


STEPS = ["prepare", "facts", "snapshot", "trial", "stop", "save", "migrate", f"up {NEW}", "wait", "check", "after"]


@pytest.mark.parametrize("moment", STEPS)
@pytest.mark.parametrize("next_one", [NEW, BAD])
def test_a_switch_killed_anywhere_is_put_right_by_the_next(old: FakeMachine, moment: str, next_one: str) -> None:
    def kill(name: str) -> None:
        if name == moment:
            raise Killed

    old.before = kill
    with pytest.raises(Killed):
        Switch(old.paths, old).to(NEW)
    old.before = lambda name: None
    if next_one == BAD:
        with pytest.raises(BoxError):
            Switch(old.paths, old).to(BAD)
    elif links(old)[0] == NEW:  # it was all done but for the tidying up
        Switch(old.paths, old).repair()
    else:
        assert Switch(old.paths, old).to(NEW).changed
    assert links(old)[0] == (NEW if next_one == NEW or moment == "after" else OLD)
    assert old.read()["sessions"] == ["alice"]
    is_settled(old)


@pytest.mark.parametrize("moment", STEPS[:-1])
def test_any_failure_leaves_the_old_release_running(old: FakeMachine, moment: str) -> None:
    failed = []

    def fail(name: str) -> None:
        if name == moment and not failed:
            failed.append(name)
            raise BoxError(f"The step {name} failed.", "Mend it.")

    old.before = fail
    with pytest.raises(BoxError, match=f"step {moment} failed"):
        Switch(old.paths, old).to(NEW)
    Switch(old.paths, old).repair()
    assert links(old) == (OLD, None)
    assert old.read() == {"schema": "0001", "sessions": ["alice"]}
    is_settled(old)


def test_a_snapshot_in_place_of_the_way_back_ends_every_session(old: FakeMachine) -> None:
    Switch(old.paths, old).to(NEW)
    copy = next(old.paths.snapshots.glob("*-upgrade"))
    old.change(sessions=["bob"])
    old.calls.clear()
    Switch(old.paths, old).to(OLD, why="rollback", restore=sorted(old.paths.snapshots.glob("*-upgrade"))[-1])
    assert copy.exists()
    assert "new cookie" in old.calls
    assert "take back" not in old.calls
    assert links(old) == (OLD, NEW)


def test_without_a_release_that_knows_the_way_back_nothing_is_touched(old: FakeMachine) -> None:
    old.change(schema="0009")
    with pytest.raises(BoxError, match="no release here knows the way back"):
        Switch(old.paths, old).to(NEW)
    assert "stop" not in old.calls
    assert not (old.paths.opt / "switch.json").exists()


def test_unknown_and_unfinished_releases_are_refused(old: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BoxError, match=r"no whole release 9\.9-dddddddddddd"):
        Switch(old.paths, old).to("9.9-dddddddddddd")
    monkeypatch.setattr(release, "image_id", lambda name: "")
    with pytest.raises(BoxError, match=r"image hub .* is gone"):
        Switch(old.paths, old).to(NEW)
    assert old.calls == []


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with release.alone(Paths(tmp_path)):
        refused = pytest.raises(BoxError, match=r"Another command is changing the release .*process \d+ since")
        with refused, release.alone(Paths(tmp_path)):
            pass
    with release.alone(Paths(tmp_path)):
        pass


def test_containers_that_do_not_stay_up_are_noticed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = compose.Container("c", "i", False, "exited", "", 0, "")
    now = itertools.count()
    monkeypatch.setattr(compose, "inspect", lambda paths, service: gone)
    monkeypatch.setattr(compose, "logs", lambda paths, service: "the last line")
    with pytest.raises(BoxError, match="appliance-hub does not stay up") as failed:
        compose.wait_until_well(Paths(Path("/nowhere")), ["hub"], clock=lambda: float(next(now)), sleep=lambda s: None)
    assert failed.value.evidence == "the last line"
    assert next(now) < 20


def test_a_container_in_the_middle_of_a_restart_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    up, down = (compose.Container("c", "i", running, status, health, 0, "") for running, status, health in (
        (True, "running", "healthy"), (False, "exited", "")))
    seen = iter([up, down, None, down, up])      # the first is of before
    monkeypatch.setattr(compose, "inspect", lambda paths, service: next(seen))
    compose.wait_until_well(Paths(Path("/nowhere")), ["traefik"], sleep=lambda s: None)
    assert next(seen, "all looked at") == "all looked at"
