"""The database: how it is opened, checked, brought up to date, and how a transaction runs."""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Collection, Hashable
from pathlib import Path
from typing import Any, TypeVar, cast

import anyio.to_thread
from sqlalchemy import ColumnElement, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.orm import Session

from appliance.errors import DatabaseDown, DiskFull, Misconfigured
from appliance.store.eventlog import EventLog
from appliance.store.events import RECORDS
from appliance.store.recall import Recall

Transaction = Session
T = TypeVar("T")

HEAD = "0003"           # the newest migration of this program
VERSION_TABLE = "appliance_schema"
MIGRATIONS = Path(__file__).parent / "migrations"


class Database:
    """Transactions over SQLite (WAL) or PostgreSQL. `url`: an SQLAlchemy URL, or the path of an SQLite file.

    log: gets the events of each transaction, once it is sure that they happened.
    """

    def __init__(self, url: str, log: EventLog | None = None) -> None:
        self.url = normalize_url(url)
        self.engine = _make_engine(self.url)
        self._limiter = anyio.CapacityLimiter(8)
        parsed = make_url(self.url)
        self._log = log
        self._recall = Recall(parsed.database or "" if parsed.get_backend_name() == "sqlite" else "")

    async def transact(self, work: Callable[[Session], T]) -> T:
        """Run `work` in one writing transaction in a thread. Raises what `work` raises, DatabaseDown, DiskFull."""
        return await anyio.to_thread.run_sync(functools.partial(self.run, work), limiter=self._limiter)

    async def read(self, work: Callable[[Session], T]) -> T:
        """Run `work` in one transaction that does not write."""
        return await anyio.to_thread.run_sync(functools.partial(self.run, work, write=False), limiter=self._limiter)

    async def recall(self, key: Hashable, work: Callable[[Session], T], keep_s: Callable[[T], float] = lambda value: 60.0,
                     weight: Callable[[T], int] = lambda value: 1) -> T:
        """The same, asked again only after somebody has written, or after a while. key: names `work` and what goes into it.

        What it returns is shared, so nobody may change it. keep_s: how long a value may be kept; 0 for not at all. weight: of
        a value, in users or the like.
        """
        version = self._recall.version()
        found = self._recall.find(key, version)
        if found is not None:
            return cast(T, found.value)
        value = await self.read(work)
        seconds = keep_s(value)
        if seconds > 0:
            self._recall.keep(key, version, value, seconds, weight(value))
        return value

    def run(self, work: Callable[[Session], T], *, write: bool = True) -> T:
        """The same without an event loop, for commands."""
        happened: list[dict[str, Any]] = []
        info = {RECORDS: happened} if self._log is not None else {}
        try:
            with (self.engine.connect().execution_options(appliance_write=write) as connection, connection.begin(),
                  Session(bind=connection, expire_on_commit=False, autoflush=True, info=info) as session):
                result = work(session)
                session.flush()
        except OperationalError as error:
            raise _explain(error) from error
        if write:
            self._recall.wrote()
        if happened and self._log is not None:
            self._log.write(happened)
        return result

    def close(self) -> None:
        self._recall.close()
        self.engine.dispose()

    # -- schema ------------------------------------------------------------------------------------------------------
    def revision(self) -> str | None:
        """Return the schema's revision, None for an empty database.

        Raises Misconfigured for a database that is not ours, or newer than this program; it is left untouched.
        """
        try:
            with self.engine.connect().execution_options(appliance_write=False) as connection:
                tables = set(inspect(connection).get_table_names())
                if VERSION_TABLE in tables:
                    found = str(connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar())
                    if found not in known_revisions():
                        raise Misconfigured(
                            f"The database {self.shown_url} was written by a newer version of this program (schema {found}; "
                            f"this one knows {HEAD}).", action="Install the newer version, or restore a backup made before it.")
                    return found
        except DBAPIError as error:
            raise _explain(error, self.shown_url) from error
        if {"spawners", "oauth_clients"} <= tables:
            raise Misconfigured(
                f"The database {self.shown_url} belongs to the original JupyterHub. It was not touched.",
                action="Name another one with --db, for example --db sqlite:///appliance.sqlite.")
        if tables:
            raise Misconfigured(
                f"The database {self.shown_url} holds tables of another program. It was not touched.",
                action="Name another database with --db.")
        return None

    def ensure_current(self) -> bool:
        """Create the schema in an empty database and return whether that was done.

        Raises Misconfigured where an older one waits for `upgrade-db`.
        """
        file = make_url(self.url).database if self.engine.dialect.name == "sqlite" else None
        if file and Path(file).parent.is_dir():  # it will hold hashes of passwords; SQLite's other files follow its mode
            os.close(os.open(file, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o600))
        found = self.revision()
        if found is None:
            self.upgrade()
        elif found != HEAD:
            raise Misconfigured(f"The database {self.shown_url} has an older schema ({found}; needed: {HEAD}).",
                                action="Make a copy of it, then run: appliance upgrade-db")
        if self.engine.dialect.name == "sqlite":  # kept in the file, so only once it is known to be ours
            with contextlib.closing(self.engine.raw_connection()) as connection:
                connection.cursor().execute("PRAGMA journal_mode=WAL")
        return found is None

    def upgrade(self) -> str:
        """Bring the schema up to date and return the revision. Alembic runs in a process of its own: it is needed once
        and would stay in the Hub's memory for ever."""
        self.revision()
        self._migrate("upgrade", "head", "could not be brought up to date")
        return HEAD

    def downgrade(self, revision: str) -> str:
        """Take the schema back to an older revision and return it; nothing to do where it is there or below."""
        found = self.revision()
        if found is None or found <= revision:
            return found or "none"
        self._migrate("downgrade", revision, f"could not be taken back to schema {revision}")
        return revision

    def _migrate(self, direction: str, revision: str, failing: str) -> None:
        done = subprocess.run([sys.executable, "-m", "appliance.store.migrate", direction, revision], input=self.url,
                              capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Misconfigured(f"The database {self.shown_url} {failing}.", action=done.stderr.strip()[-800:])

    @property
    def shown_url(self) -> str:
        return make_url(self.url).render_as_string(hide_password=True)


def normalize_url(url: str) -> str:
    """Return an SQLAlchemy URL. Raises Misconfigured."""
    if "://" not in url:
        url = f"sqlite:///{url}"
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        elif parsed.get_backend_name() != "sqlite":
            raise Misconfigured("Only SQLite and PostgreSQL databases can be used.",
                                action="Write sqlite:///FILE or postgresql://USER@HOST/NAME.")
        elif parsed.database in (None, "", ":memory:"):
            raise Misconfigured("A database in memory would forget everybody.", action="Write sqlite:///FILE.")
        return parsed.render_as_string(hide_password=False)
    except (ArgumentError, NoSuchModuleError) as error:
        raise Misconfigured(f"“{url}” is not the address of a database.",
                            action="Write sqlite:///FILE or postgresql://USER@HOST/NAME.") from error


def describe(url: str) -> dict[str, str]:
    """Return where a database is, without its password: kind (sqlite, postgresql), then path, or host, name and user."""
    parsed = make_url(normalize_url(url))
    if parsed.get_backend_name() == "sqlite":
        return {"kind": "sqlite", "path": str(Path(parsed.database or "").absolute())}
    host = parsed.host or parsed.query.get("host") or ""
    return {"kind": "postgresql", "host": host if isinstance(host, str) else host[0], "name": parsed.database or "",
            "user": parsed.username or ""}


def beside(url: str, name: str) -> str:
    """Return the URL of a copy: `name` is a URL, a file, or the bare name of another database on the same PostgreSQL; "" is
    the database itself."""
    parsed = make_url(normalize_url(url))
    if name and parsed.get_backend_name() == "postgresql" and "://" not in name and "/" not in name:
        return parsed.set(database=name).render_as_string(hide_password=False)
    return normalize_url(name or url)


def among(column: ColumnElement[int], ids: Collection[int]) -> ColumnElement[bool]:
    """Return a condition that holds for these ids, and perhaps for a few between them: what so many parameters would cost."""
    least, most = min(ids), max(ids)
    return column.between(least, most) if most - least < 4 * len(ids) else column.in_(ids)


def known_revisions() -> set[str]:
    return {path.name.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py")}


def _make_engine(url: str) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(url, pool_size=4, max_overflow=4, pool_pre_ping=True)
    engine = create_engine(url, pool_size=4, max_overflow=4, connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, record: Any) -> None:
        connection.isolation_level = None  # the driver must not begin by itself: `begin` below does
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA cache_size=-512")

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        # a writer takes the lock at once: upgrading a read lock later fails where two do it
        write = connection.get_execution_options().get("appliance_write", True)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _explain(error: DBAPIError, where: str = "") -> Exception:
    words = str(error.orig)
    if "disk is full" in words or "No space left" in words:
        return DiskFull(evidence=words)
    if where:
        return Misconfigured(f"The database {where} cannot be opened: {words.strip()}.",
                             action="Check that it exists, that its folder may be written, and the name and password.")
    return DatabaseDown(evidence=words)
