"""Reads the database file of the original JupyterHub, 2.0 to 6.1, into plain records. The file is opened for reading alone.

What is read was looked up in files that JupyterHub 5.5.4 and 6.1.1 themselves had made. Rows that make no sense are left out
and told in `notes`; whether their names can be used here is for the importer to say.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from appliance.errors import BadInput

# schemas: of 5.5.4, those between, of 6.1.1
KNOWN = {"4621fec11365": "5", "be8ecf03ddac": "6", "afd65840b69e": "6", "ff1860e38070": "6", "f460b0348206": "6"}
_NEEDED = {"users": {"id", "name", "admin"}, "groups": {"id", "name"}, "user_group_map": {"user_id", "group_id"},
           "spawners": {"id", "user_id", "name"}, "api_tokens": {"user_id", "hashed", "prefix"}}
_ROLES = {"user", "admin", "server", "token"}
_HASH = re.compile(r"sha512:1:([0-9a-f]{8,64}):([0-9a-f]{128})")     # of a token that JupyterHub itself made up


@dataclass(frozen=True)
class OldUser:
    id: int
    name: str
    admin: bool
    display_name: str = ""


@dataclass(frozen=True)
class OldGroup:
    id: int
    name: str
    properties: Mapping[str, Any]
    member_ids: tuple[int, ...]


@dataclass(frozen=True)
class OldServer:
    id: int
    user_id: int
    name: str                        # "" is the default one
    display_name: str
    user_options: Mapping[str, Any]


@dataclass(frozen=True)
class OldShare:
    """With a user or a group, exactly one of the two."""

    server_id: int
    user_id: int | None
    group_id: int | None
    scopes: tuple[str, ...]


@dataclass(frozen=True)
class OldToken:
    """What a person made for a script. salt, digest: SHA-512 over both, as tokens are kept here."""

    user_id: int
    prefix: str
    salt: str
    digest: str
    note: str
    scopes: tuple[str, ...]
    created_at: datetime | None
    expires_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True)
class OldHub:
    version: str                     # "5", "6", "?"
    users: tuple[OldUser, ...]
    groups: tuple[OldGroup, ...]
    servers: tuple[OldServer, ...]
    shares: tuple[OldShare, ...]
    tokens: tuple[OldToken, ...]
    other_tokens: int                # of services, and given by people in words of their own: only they know them
    share_codes: int
    passwords: int                   # of NativeAuthenticator
    services: tuple[str, ...]        # made through the REST API
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)     # of one's own, and who has them
    notes: tuple[str, ...] = ()


def read(path: Path, called: str = "") -> OldHub:
    """called: how a sentence about the file names it. Raises BadInput for what cannot be read or is no such file."""
    with _opened(path, called or str(path)) as connection:
        return _Reader(connection, called or str(path)).read()


@contextlib.contextmanager
def _opened(path: Path, called: str) -> Iterator[sqlite3.Connection]:
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise BadInput(f"{called} cannot be read: {error.strerror or error}.", action="Check its name.") from error
    if head != b"SQLite format 3\x00":
        raise BadInput(f"{called} is no SQLite database.",
                       action="Name the jupyterhub.sqlite of the old Hub; one on PostgreSQL or MySQL has to be copied into an "
                              "SQLite file first.")
    connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, timeout=5, isolation_level=None)
    try:
        connection.execute("PRAGMA query_only=ON")
        connection.execute("BEGIN")      # one state of the file, even while the old Hub runs
        yield connection
    except sqlite3.Error as error:
        raise BadInput(f"The database {called} cannot be read: {error}.",
                       action="End the old Hub, copy its database, and name the copy.") from error
    finally:
        connection.close()


class _Reader:
    def __init__(self, connection: sqlite3.Connection, called: str) -> None:
        connection.row_factory = sqlite3.Row
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        self._db, self._called, self._notes = connection, called, list[str]()
        self._columns: dict[str, set[str]] = {}
        for row in connection.execute("SELECT m.name AS table_name, c.name FROM sqlite_master m, pragma_table_info(m.name) c "
                                      "WHERE m.type = 'table'"):
            self._columns.setdefault(str(row["table_name"]), set()).add(str(row["name"]))

    def read(self) -> OldHub:
        self._check()
        version = self._version()
        users = tuple(OldUser(row["id"], self._text(row["name"]), bool(row["admin"]), self._shown_name(row))
                      for row in self._rows("users", "id", "name", "admin", "user_info"))
        known = {user.id for user in users}
        servers = tuple(OldServer(row["id"], row["user_id"], self._text(row["name"]), self._text(row["display_name"]),
                                  self._object(row["user_options"], f"the options of server {row['id']}"))
                        for row in self._rows("spawners", "id", "user_id", "name", "display_name", "user_options")
                        if row["user_id"] in known)
        tokens, others = self._tokens(known)
        return OldHub(version, users, self._groups(known), servers, self._shares(known, {server.id for server in servers}),
                      tokens, others, self._count("share_codes"), self._count("users_info"), self._services(), self._roles(),
                      tuple(self._notes))

    def _check(self) -> None:
        missing = [table for table, columns in _NEEDED.items() if not columns <= self._columns.get(table, set())]
        if "appliance_schema" in self._columns:
            raise BadInput(f"{self._called} is a database of this program and not of the original JupyterHub.",
                           action="To bring a box back from its backup: sudo appliance restore.")
        if missing:
            raise BadInput(f"{self._called} is no database of JupyterHub: it lacks the table{'s' if len(missing) > 1 else ''} "
                           f"{', '.join(missing)}.", action="Name the jupyterhub.sqlite of the old Hub.")

    def _version(self) -> str:
        found = next((self._text(row["version_num"]) for row in self._rows("alembic_version", "version_num")), "")
        if found not in KNOWN:
            self._notes.append(f"This file is of a JupyterHub that is not known here (schema {found[:40] or '?'}; known are 5 "
                               "and 6 up to 6.1). What is there under the usual names was read; look closely at the rest.")
        return KNOWN.get(found, "?")

    def _groups(self, users: set[int]) -> tuple[OldGroup, ...]:
        members: dict[int, list[int]] = {}
        for row in self._rows("user_group_map", "user_id", "group_id"):
            if row["user_id"] in users:
                members.setdefault(row["group_id"], []).append(row["user_id"])
        return tuple(OldGroup(row["id"], self._text(row["name"]),
                              self._object(row["properties"], f"the properties of the group {self._text(row['name'])[:64]}"),
                              tuple(members.get(row["id"], ())))
                     for row in self._rows("groups", "id", "name", "properties"))

    def _shares(self, users: set[int], servers: set[int]) -> tuple[OldShare, ...]:
        found, now = [], datetime.now(UTC)
        for row in self._rows("shares", "spawner_id", "user_id", "group_id", "scopes", "expires_at"):
            until = self._time(row["expires_at"])
            one = (row["user_id"] in users) != (row["group_id"] is not None)
            if row["spawner_id"] in servers and one and (until is None or until > now):
                found.append(OldShare(row["spawner_id"], row["user_id"], row["group_id"], self._list(row["scopes"])))
        return tuple(found)

    def _tokens(self, users: set[int]) -> tuple[tuple[OldToken, ...], int]:
        """Return the tokens that people had JupyterHub make for their scripts, and how many others there are.

        Those of running servers and of browsers that were let in to one end with them, and are nobody's to bring.
        """
        found, others, now = list[OldToken](), 0, datetime.now(UTC)
        for row in self._rows("api_tokens", "user_id", "service_id", "prefix", "hashed", "client_id", "session_id", "note",
                              "scopes", "created", "expires_at", "last_activity"):
            until, note = self._time(row["expires_at"]), self._text(row["note"])
            ended = until is not None and until <= now
            if ended or row["session_id"] or row["client_id"] not in (None, "", "jupyterhub") or note.startswith("Server at "):
                continue
            match = _HASH.fullmatch(self._text(row["hashed"]))
            scopes = self._list(row["scopes"])
            if row["user_id"] not in users or match is None or not scopes:
                others += 1
                continue
            found.append(OldToken(row["user_id"], self._text(row["prefix"]), match[1], match[2], note, scopes,
                                  self._time(row["created"]), until, self._time(row["last_activity"])))
        return tuple(found), others

    def _roles(self) -> dict[str, tuple[str, ...]]:
        names = {row["id"]: self._text(row["name"]) for row in self._rows("roles", "id", "name")}
        found: dict[str, list[str]] = {name: [] for name in names.values() if name not in _ROLES}
        for table, column, of in (("user_role_map", "user_id", "users"), ("group_role_map", "group_id", "groups"),
                                  ("service_role_map", "service_id", "services")):
            holders = {row["id"]: self._text(row["name"]) for row in self._rows(of, "id", "name")}
            for row in self._rows(table, column, "role_id"):
                name = names.get(row["role_id"], "")
                if name in found and row[column] in holders:
                    found[name].append(f"{of.removesuffix('s')} {holders[row[column]]}")
        return {name: tuple(holders) for name, holders in found.items()}

    def _services(self) -> tuple[str, ...]:
        if "from_config" not in self._columns.get("services", set()):
            return ()
        return tuple(self._text(row["name"]) for row in self._rows("services", "name", "from_config") if not row["from_config"])

    # -- values --------------------------------------------------------------------------------------------------------
    def _rows(self, table: str, *columns: str) -> Iterator[Mapping[str, Any]]:
        """Yield the rows by id; a column that this version does not have is None. Names are of this file only."""
        there = self._columns.get(table, set())
        chosen = [column for column in columns if column in there]
        if not chosen:
            return
        order = " ORDER BY id" if "id" in there else ""
        for row in self._db.execute(f"SELECT {', '.join(chosen)} FROM {table}{order}"):
            yield dict.fromkeys(columns) | dict(row)

    def _count(self, table: str) -> int:
        if table not in self._columns:
            return 0
        return int(self._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    def _shown_name(self, row: Mapping[str, Any]) -> str:
        said = self._object(row["user_info"], f"what the sign-in said of user {row['id']}")
        return next((said[key] for key in ("display_name", "name") if isinstance(said.get(key), str)), "")

    def _object(self, value: Any, what: str) -> dict[str, Any]:
        found = self._json(value)
        if found is None or isinstance(found, dict):
            return found or {}
        self._notes.append(f"Left out because it cannot be read: {what}.")
        return {}

    def _list(self, value: Any) -> tuple[str, ...]:
        found = self._json(value)
        return tuple(item for item in found if isinstance(item, str)) if isinstance(found, list) else ()

    @staticmethod
    def _json(value: Any) -> Any:
        """None for nothing at all, "" for what is no JSON."""
        if value in (None, ""):
            return None
        try:
            return json.loads(value)
        except (ValueError, TypeError, RecursionError):
            return ""

    @staticmethod
    def _text(value: Any) -> str:
        return value if isinstance(value, str) else ""

    @staticmethod
    def _time(value: Any) -> datetime | None:
        try:
            said = datetime.fromisoformat(value)
        except (TypeError, ValueError):
            return None
        return said.replace(tzinfo=UTC) if said.tzinfo is None else said.astimezone(UTC)
