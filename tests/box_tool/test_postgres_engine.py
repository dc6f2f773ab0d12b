"""A box whose accounts are in PostgreSQL, on a real engine: releases, copies and their way back. Nobody has a server here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_box import Real, docker, real_box, tree

from appliance.box import backup, compose, release, restore, shell, snapshot, switch, switchsteps
from appliance.box.__main__ import main
from appliance.box.release import Release
from appliance.box.shell import BoxError
from appliance.store.database import HEAD

pytestmark = pytest.mark.long

PASSWORD = "o'clock / and %20"
MIGRATION = """
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "9001", "{head}", None, None

def upgrade() -> None:
    with op.batch_alter_table("users") as table:
        table.add_column(sa.Column("shoe_size", sa.Integer(), nullable=True))

def downgrade() -> None:
    with op.batch_alter_table("users") as table:
        table.drop_column("shoe_size")
"""


class Killed(BaseException):
    """The power went."""


class Fails(switchsteps.Machine):
    """A machine that fails, or is killed, before one of its parts."""

    moment, error = "", BaseException()

    def wait(self) -> None:
        self._fail("wait")
        super().wait()

    def check(self, target: Release, facts: dict[str, object]) -> None:
        self._fail("check")
        super().check(target, facts)

    def up(self, target: Release) -> None:
        self._fail("up")
        super().up(target)

    def _fail(self, moment: str) -> None:
        if self.moment == moment:
            self.moment = ""
            raise self.error


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    with real_box(tmp_path_factory.mktemp("box"), 238, "COMPOSE_PROFILES=postgres") as box:
        shell.write_file(box.paths.secrets / "postgres_password", PASSWORD + "\n", 0o600)
        shell.write_file(box.paths.secrets / "restic_password", "secret\n", 0o600)
        yield box


@pytest.fixture(scope="module")
def releases(real: Real, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """One that is in place, and a newer one with another schema."""
    folder = tmp_path_factory.mktemp("releases")
    newer = tree(folder / "two", "0.2.2")
    (newer / "appliance/store/migrations/versions/9001_shoes.py").write_text(MIGRATION.format(head=HEAD))
    database = newer / "appliance/store/database.py"
    database.write_text(re.sub(r"^HEAD = .*", 'HEAD = "9001"', database.read_text(), flags=re.MULTILINE))
    first, second = release.stage(real.paths, tree(folder / "one", "0.2.1")), release.stage(real.paths, newer)
    real.switch(first)
    return first, second


def sql(real: Real, statement: str) -> str:
    return snapshot._sql(real.paths, where(real), "appliance", statement)


def where(real: Real) -> dict[str, str]:
    return dict(json.loads((real.paths.opt / "applied.json").read_text())["database"])


def has_shoes(real: Real) -> bool:
    return "shoe_size" in sql(real, "SELECT column_name FROM information_schema.columns WHERE table_name = 'users'")


def add(real: Real, name: str) -> None:
    real.hub("user", "add", name, "--password-stdin", stdin="releases-take-turns\n")


def names(real: Real) -> list[str]:
    return sql(real, "SELECT name FROM users ORDER BY name").splitlines()


def is_settled(real: Real, release_id: str) -> None:
    assert release.linked(real.paths.current) == release_id
    assert not (real.paths.opt / "switch.json").exists()
    assert "appliance_spare" not in sql(real, "SELECT datname FROM pg_database")
    compose.wait_until_well(real.paths, compose.services(real.paths))
    assert not [name for name in docker("ps", "--all", "--format", "{{.Names}}").split()
                if name.startswith(f"{real.name}-hub-run")]


def test_releases_take_turns_on_a_postgresql_of_the_box(real: Real, releases: tuple[str, str]) -> None:
    first, second = releases
    made = Release.read(real.paths.release(first))
    assert made is not None
    assert {"hello", "postgres"} & set(made.images) == {"postgres"}
    assert where(real)["kind"] == "postgresql"
    add(real, "alice")
    assert real.switch(second).old == first
    assert has_shoes(real)
    assert Path(real.switch(first).snapshot, snapshot.POSTGRES_COPY).stat().st_mode & 0o777 == 0o600
    assert not has_shoes(real)
    assert names(real) == ["alice"]
    is_settled(real, first)


@pytest.mark.parametrize("moment", ["up", "wait", "check"])
def test_whatever_fails_the_old_release_has_its_database_again(real: Real, releases: tuple[str, str], moment: str) -> None:
    first, second = releases
    machine = Fails(real.paths)
    machine.moment, machine.error = moment, BoxError("It failed on purpose.")
    before = names(real)
    with release.alone(real.paths), pytest.raises(BoxError, match=f"{first} runs again with everything as it was: It failed"):
        switch.Switch(real.paths, machine).to(second)
    assert not has_shoes(real)
    assert names(real) == before
    is_settled(real, first)


def test_a_power_cut_takes_postgresql_down_too(real: Real, releases: tuple[str, str]) -> None:
    first, second = releases
    machine = Fails(real.paths)
    machine.moment, machine.error = "wait", Killed()
    with release.alone(real.paths), pytest.raises(Killed):
        switch.Switch(real.paths, machine).to(second)
    docker("kill", f"{real.name}-postgres", f"{real.name}-hub")
    half = f"{'0' * 12}_{real.name}-hub"  # as compose leaves it, half way through replacing a container
    docker("create", "--name", half, "--label", f"com.docker.compose.project={real.name}", "--label",
           "com.docker.compose.service=hub", "appliance/base:latest", "true")
    assert main(["switch", "--finish"], real.paths) == 0
    assert half not in docker("ps", "--all", "--format", "{{.Names}}")
    assert not has_shoes(real)
    is_settled(real, first)


def test_a_configuration_that_leads_away_from_the_accounts_is_refused(real: Real, releases: tuple[str, str]) -> None:
    before = real.paths.env_file.read_text()
    real.paths.env_file.write_text(before.replace("COMPOSE_PROFILES=postgres", ""))
    try:
        with pytest.raises(BoxError, match="names another database than before"):
            real.switch(releases[0])
    finally:
        real.paths.env_file.write_text(before)
    assert not real.switch(releases[0]).changed
    assert not real.paths.database.exists()


def test_a_backup_brings_the_accounts_back(real: Real, releases: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    add(real, "bob")
    own = real.paths.config_d / "50-own.py"
    shell.write_file(own, "# the school's\n")
    real.switch(releases[0])
    report = backup.make(real.paths)
    assert report.ok
    assert "PostgreSQL takes it" in backup.verify(real.paths)
    add(real, "carol")
    shell.write_file(own, "# of later\n")
    real.switch(releases[0])
    # on the way back the power goes as well
    monkeypatch.setattr(restore, "_put_files", lambda *_: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        main(["restore", "--yes"], real.paths)
    monkeypatch.undo()
    docker("kill", f"{real.name}-postgres")
    assert main(["switch", "--finish"], real.paths) == 0
    assert names(real) == ["alice", "bob"]
    assert own.read_text() == "# the school's\n"
    assert not real.switch(releases[0]).changed, "what came back is not what runs"
    assert not (real.paths.opt / "restore.json").exists()
    is_settled(real, releases[0])
