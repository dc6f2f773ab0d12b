from __future__ import annotations

import hashlib
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from appliance.errors import Misconfigured
from appliance.store import rows
from appliance.store.database import HEAD, VERSION_TABLE, Database, known_revisions

pytestmark = pytest.mark.unit


def test_an_empty_database_gets_the_newest_schema(db_url: str) -> None:
    db = Database(db_url)
    assert db.revision() is None
    db.ensure_current()
    assert db.revision() == HEAD
    db.upgrade()  # again is nothing to do
    db.close()


def test_the_newest_migration_is_the_one_the_program_names() -> None:
    assert max(known_revisions()) == HEAD


def test_the_migrations_make_what_the_rows_describe(db: Database) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={
            "compare_type": True, "include_object": lambda o, name, kind, *_: name != VERSION_TABLE})
        assert compare_metadata(context, rows.Base.metadata) == []


def test_a_newer_database_is_refused_untouched(db: Database) -> None:
    db.run(lambda t: t.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")))
    for refused in (db.ensure_current, db.upgrade):
        with pytest.raises(Misconfigured, match=r"newer version.*9999"):
            refused()
    assert db.run(lambda t: t.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()) == "9999"


def test_the_original_jupyterhubs_database_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "jupyterhub.sqlite"
    with sqlite3.connect(path) as connection:
        for table in ("spawners", "oauth_clients", "users", "alembic_version"):
            connection.execute(f"CREATE TABLE {table} (id INTEGER)")
    connection.close()
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    with closing(Database(str(path))) as db, pytest.raises(Misconfigured, match="original JupyterHub") as refusal:
        db.ensure_current()
    assert "--db" in refusal.value.action
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "x.sqlite") as connection:
        connection.execute("CREATE TABLE recipes (id INTEGER)")
    connection.close()
    with closing(Database(str(tmp_path / "x.sqlite"))) as db, pytest.raises(Misconfigured, match="another program"):
        db.ensure_current()


@pytest.mark.parametrize("url", ["mysql://a/b", "nonsense://", "sqlite://"])
def test_other_databases_are_refused_with_a_sentence(url: str) -> None:
    with pytest.raises(Misconfigured):
        Database(url).revision()


def test_a_database_that_cannot_be_opened_is_said_so(tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path}/no/such/folder/x.sqlite")
    with closing(db), pytest.raises(Misconfigured, match="cannot be opened"):
        db.revision()


def test_a_migration_leaves_alembic_out_of_the_hubs_process(tmp_path: Path) -> None:
    code = ("import sys; from appliance.store.database import Database;"
            f"d = Database('{tmp_path}/x.sqlite'); d.ensure_current(); print('alembic' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_database_file_is_its_owners_alone(tmp_path: Path) -> None:
    db = Database(f"{tmp_path}/x.sqlite")
    assert db.ensure_current()
    db.run(lambda t: t.execute(text("DELETE FROM users")))
    assert not db.ensure_current()
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    db.close()
    assert set(modes.values()) == {0o600}, modes
