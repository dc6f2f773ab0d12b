"""Every test here runs on SQLite and on PostgreSQL, the latter on a socket of its own."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.store import migrate
from appliance.store.database import Database


def _postgres_programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    assert found, "PostgreSQL is missing; run: apt-get install postgresql"
    return found[-1].parent


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The folder of a running PostgreSQL's socket."""
    folder = Path(tempfile.mkdtemp(prefix="appliance-pg-"))
    programs = _postgres_programs()
    shutil.chown(folder, "postgres")
    subprocess.run([programs / "initdb", "-D", folder / "data", "-A", "trust", "--no-sync"], user="postgres", check=True,
                   stdout=subprocess.DEVNULL, cwd="/")
    server = subprocess.Popen(
        [programs / "postgres", "-D", folder / "data", "-k", folder, "-c", "listen_addresses=", "-F"], user="postgres",
        stderr=subprocess.DEVNULL, cwd="/")
    try:
        while not (folder / ".s.PGSQL.5432").exists():
            assert server.poll() is None
            time.sleep(0.05)
        while subprocess.run([programs / "pg_isready", "-q", "-h", folder], check=False).returncode:
            time.sleep(0.05)
        yield str(folder)
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def db_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/appliance.sqlite"
        return
    socket = request.getfixturevalue("postgres")
    name = f"t{time.monotonic_ns()}"
    subprocess.run([_postgres_programs() / "createdb", "-h", socket, "-U", "postgres", name], check=True)
    yield f"postgresql://postgres@/{name}?host={socket}"


@pytest.fixture
def db(db_url: str) -> Iterator[Database]:
    database = Database(db_url)
    migrate.upgrade(database.url)  # in this process: a new one for each test takes its time
    yield database
    database.close()
