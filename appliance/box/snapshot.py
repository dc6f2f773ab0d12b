"""Copies of what the box cannot make anew: its database, configuration and secrets. Used by switch, backup and restore."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import tarfile
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from appliance.box import compose, release, shell
from appliance.box.paths import Paths
from appliance.box.release import Release
from appliance.box.shell import BoxError

KEEP = 5
SQLITE_COPY, POSTGRES_COPY = "jupyterhub.sqlite", "database.dump"
META = "snapshot.json"
POSTGRES_USER = "65531"      # of images/postgres
SPARE = "appliance_spare"    # a PostgreSQL database beside the real one, for trials and for putting back


def facts(paths: Paths, folder: Path | None = None) -> dict[str, Any]:
    """Return what the Hub of a release says of the box: see appliance.upkeep.facts. Raises BoxError."""
    said = compose.hub(paths, "facts", release=folder, what="Asking the Hub about this box").stdout
    try:
        found = json.loads(said.strip().splitlines()[-1])
        found["database"]["kind"]
    except (ValueError, IndexError, KeyError, TypeError):
        raise BoxError("The Hub does not say where its database is.", "Try again with --debug.", evidence=said) from None
    return dict(found)


# ---------------------------------------------------------------------------------------------------------- database --
def is_elsewhere(paths: Paths, where: dict[str, str]) -> bool:
    """Say whether a database is kept by a PostgreSQL that is not this box's own."""
    return where["kind"] != "sqlite" and not compose.uses_postgres(paths)


def database_file(paths: Paths, where: dict[str, str]) -> Path:
    return paths.at(where["path"])


def database_size(paths: Paths, where: dict[str, str]) -> int:
    if where["kind"] == "sqlite":
        file = database_file(paths, where)
        return sum(path.stat().st_size for path in (file, Path(f"{file}-wal")) if path.exists())
    if is_elsewhere(paths, where):
        return 0
    said = _sql(paths, where, "postgres", f"SELECT pg_database_size('{where['name']}')")
    return int(said) if said.isdigit() else 0


def copy_database(paths: Paths, where: dict[str, str], folder: Path) -> Path | None:
    """Write a consistent copy into a folder while the Hub runs; None where there is nothing to copy yet, or where the
    database is kept elsewhere. Raises BoxError."""
    if where["kind"] == "sqlite":
        source = database_file(paths, where)
        return copy_sqlite(source, folder / SQLITE_COPY) if source.exists() else None
    if is_elsewhere(paths, where):
        return None
    return _dump(paths, where, folder / POSTGRES_COPY)


def copy_sqlite(source: Path, target: Path) -> Path:
    """Copy with SQLite's own means: part of the database is in the -wal file. Raises BoxError."""
    target.unlink(missing_ok=True)
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        with closing(sqlite3.connect(f"file:{_quoted(source)}?mode=rw", uri=True, timeout=30)) as old, \
                closing(sqlite3.connect(target)) as new:
            old.backup(new)
            new.execute("PRAGMA journal_mode=DELETE")  # one file, whole by itself
    except sqlite3.Error as error:
        target.unlink(missing_ok=True)
        raise BoxError(f"The database {source} could not be copied: {error}.",
                       "Check the free space, and the file with: sqlite3 FILE 'PRAGMA integrity_check'") from error
    _sync(target)
    return target


def check_sqlite(file: Path) -> None:
    """Raises BoxError for a file that is no whole database of ours."""
    try:
        with closing(sqlite3.connect(f"file:{_quoted(file)}?mode=ro", uri=True)) as database:
            found = database.execute("PRAGMA integrity_check").fetchone()[0]
            database.execute("SELECT count(*) FROM users").fetchone()
    except sqlite3.Error as error:
        found = str(error)
    if found != "ok":
        raise BoxError(f"The copy of the database is damaged: {found}.", "Take another backup.")


def put_database_back(paths: Paths, where: dict[str, str], folder: Path) -> None:
    """Replace the database by the copy in a folder. The Hub must not run. A folder without a copy: there was none."""
    if where["kind"] == "sqlite":
        target, source = database_file(paths, where), folder / SQLITE_COPY
        fresh = target.with_name(f".{target.name}.back")
        if source.exists():
            shutil.copyfile(source, fresh)
            fresh.chmod(0o600)
            _sync(fresh)
        for ending in ("-wal", "-shm", *(() if source.exists() else ("",))):
            Path(f"{target}{ending}").unlink(missing_ok=True)
        if source.exists():
            os.replace(fresh, target)
        shell.sync_folder(target.parent)
    elif not is_elsewhere(paths, where):
        make_spare(paths, where, folder / POSTGRES_COPY)
        _sql(paths, where, "postgres", f"DROP DATABASE IF EXISTS {_name(where['name'])} WITH (FORCE)")
        _sql(paths, where, "postgres", f"ALTER DATABASE {SPARE} RENAME TO {_name(where['name'])}")


def make_spare(paths: Paths, where: dict[str, str], dump: Path) -> str:
    """Put a dump into the spare PostgreSQL database and return its name."""
    drop_spare(paths, where)
    _sql(paths, where, "postgres", f"CREATE DATABASE {SPARE} TEMPLATE template0")
    if dump.exists():
        with dump.open("rb") as file:
            done = subprocess.run([*_in_postgres(paths, where), "pg_restore", "--username", where["user"], "--no-owner",
                                   "--exit-on-error", "--dbname", SPARE], stdin=file, capture_output=True, check=False,
                                  env={**os.environ, **_password(paths)})
        if done.returncode != 0:
            raise BoxError("The copy of the database could not be put into PostgreSQL.", "Is the file damaged?",
                           evidence=done.stderr.decode(errors="replace")[-4000:])
    return SPARE


def drop_spare(paths: Paths, where: dict[str, str]) -> None:
    _sql(paths, where, "postgres", f"DROP DATABASE IF EXISTS {SPARE} WITH (FORCE)")


def _dump(paths: Paths, where: dict[str, str], target: Path) -> Path:
    with open(os.open(target, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as file:
        done = subprocess.run([*_in_postgres(paths, where), "pg_dump", "--username", where["user"], "--format", "custom",
                               "--dbname", where["name"]], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.PIPE,
                              check=False, env={**os.environ, **_password(paths)})
    if done.returncode != 0:
        target.unlink()
        raise BoxError("The database could not be copied out of PostgreSQL.", "Does the container of PostgreSQL run?",
                       evidence=done.stderr.decode(errors="replace")[-4000:])
    _sync(target)
    return target


def _sql(paths: Paths, where: dict[str, str], database: str, statement: str) -> str:
    done = shell.run([*_in_postgres(paths, where), "psql", "--username", where["user"], "--dbname", database, "--no-psqlrc",
                      "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1", "--command", statement],
                     check=False, timeout_s=300, env=_password(paths))
    if not done.ok:
        raise BoxError(f"PostgreSQL refused: {done.words.rstrip('.')}.", "Does its container run? appliance doctor")
    return done.stdout.strip()


def _in_postgres(paths: Paths, where: dict[str, str]) -> list[str]:
    """PostgreSQL's own programs, as the user that its folder belongs to."""
    return [shell.find("docker") or "docker", "exec", "--interactive", "--user", POSTGRES_USER, "--env", "PGPASSWORD",
            "--env", f"PGHOST={where['host']}", paths.container("postgres")]


def _password(paths: Paths) -> dict[str, str]:
    """Through the environment, so that it is in no list of processes."""
    file = paths.secrets / "postgres_password"
    return {"PGPASSWORD": file.read_text().strip()} if file.exists() else {}


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _quoted(path: Path) -> str:
    return str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


# --------------------------------------------------------------------------------------------------------- snapshots --
def take(paths: Paths, why: str, where: dict[str, str], schema: str | None) -> Path:
    """Copy database, configuration and secrets into a new folder below `snapshots`, and return it. Raises BoxError."""
    release.ensure_room(paths.data, int(database_size(paths, where) * 2.5) + (64 << 20), "copy the database")
    paths.snapshots.mkdir(mode=0o700, parents=True, exist_ok=True)
    paths.snapshots.chmod(0o700)
    for left in paths.snapshots.glob(".*.partial"):
        shutil.rmtree(left)
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{why}"
    while (paths.snapshots / name).exists():
        time.sleep(1)
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{why}"
    partial = paths.snapshots / f".{name}.partial"
    partial.mkdir(mode=0o700)
    copied = copy_database(paths, where, partial)
    copy_secrets(paths, partial)
    with tarfile.open(partial / "config.tar.gz", "w:gz") as tar:
        if paths.config.is_dir():
            tar.add(paths.config, arcname="config")
    (partial / "config.tar.gz").chmod(0o600)
    shell.write_file(partial / META, json.dumps({
        "why": why, "at": datetime.now(UTC).isoformat(timespec="seconds"), "release": release.linked(paths.current),
        "schema": schema, "database": copied.name if copied else None}, indent=2) + "\n", 0o600)
    partial.rename(paths.snapshots / name)
    for old in list_all(paths)[KEEP:]:
        shutil.rmtree(old)
    return paths.snapshots / name


def copy_secrets(paths: Paths, folder: Path) -> None:
    """Copy the two secrets of the Hub that are not configuration."""
    for file in (paths.cookie_secret, paths.state / "server_tokens_secret"):
        if file.exists():
            shutil.copyfile(file, folder / file.name)
            (folder / file.name).chmod(0o600)
            _sync(folder / file.name)


def put_cookie_secret_back(paths: Paths, folder: Path) -> None:
    if (folder / paths.cookie_secret.name).exists():
        shell.write_file(paths.cookie_secret, (folder / paths.cookie_secret.name).read_bytes(), 0o600)


def replace_cookie_secret(paths: Paths) -> None:
    """Everybody has to sign in again: the database of an earlier time would let ended sessions live again."""
    with contextlib.suppress(FileNotFoundError):
        paths.cookie_secret.unlink()  # the Hub makes a new one


def list_all(paths: Paths) -> list[Path]:
    """Return the snapshots, the newest first."""
    found = paths.snapshots.iterdir() if paths.snapshots.is_dir() else ()
    return sorted((path for path in found if not path.name.startswith(".")), reverse=True)


def newest_for(paths: Paths, wanted: Release) -> Path | None:
    """Return the newest snapshot whose database a release can use."""
    def fits(said: dict[str, Any]) -> bool:
        return bool(said.get("database")) and (said.get("release") == wanted.id or said.get("schema") == wanted.schema)

    return next((path for path in list_all(paths) if fits(shell.read_json(path / META))), None)


def sentence_of(folder: Path) -> Sequence[str]:
    """Return (when, why) of a snapshot, for people."""
    said = shell.read_json(folder / META)
    try:
        at = datetime.fromisoformat(str(said.get("at"))).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        at = folder.name
    return at, str(said.get("why", ""))
