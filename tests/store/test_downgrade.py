"""Every schema can be gone back to, with accounts, sessions and servers kept, and be left again."""

from __future__ import annotations

import itertools

import pytest
from sqlalchemy import text

from appliance.errors import Misconfigured
from appliance.store import migrate
from appliance.store.database import HEAD, VERSION_TABLE, Database, beside, describe, known_revisions

pytestmark = pytest.mark.unit

NOW = "2026-01-01 08:00:00+00:00"
ROWS = {
    "users": f"INSERT INTO users (id, name, uid, admin, created_at, password_hash, must_change_password) "
             f"VALUES (7, 'alice', 10007, true, '{NOW}', 'hash', false)",
    "sessions": f"INSERT INTO sessions (id, user_id, origin, created_at, expires_at, last_seen_at, address, user_agent) "
                f"VALUES ('s1', 7, 'http://box', '{NOW}', '{NOW}', '{NOW}', '192.0.2.9', 'x')",
    "servers": f"INSERT INTO servers (id, user_id, name, wanted, phase, start_no, url, image, spec_hash, phase_at, "
               f"failure_code, failure_sentence, failure_action, failure_evidence) "
               f"VALUES ('v1', 7, '', 'running', 'ready', 3, 'http://10.0.0.2:8888', 'i', 'h', '{NOW}', '', '', '', '')",
    "counters": "INSERT INTO counters (name, value) VALUES ('uid-of-test', 10007)",
}
SAME = {
    "users": "SELECT id, name, uid, admin, password_hash FROM users",
    "sessions": "SELECT id, user_id, origin FROM sessions",
    "servers": "SELECT id, user_id, wanted, phase, start_no, url FROM servers",
    "counters": "SELECT value FROM counters WHERE name = 'uid-of-test'",
}


def read(db: Database) -> dict[str, list[tuple[object, ...]]]:
    return {name: [tuple(row) for row in db.run(lambda t, q=query: t.execute(text(q)).all())] for name, query in SAME.items()}


@pytest.mark.parametrize(("newer", "older"), [
    (newer, older) for older, newer in itertools.combinations(sorted(known_revisions()), 2)])
def test_down_and_up_again_keeps_everybody(db_url: str, newer: str, older: str) -> None:
    db = Database(db_url)
    try:
        migrate.upgrade(db.url, newer)
        for statement in ROWS.values():
            db.run(lambda t, s=statement: t.execute(text(s)))
        before = read(db)
        assert all(before.values())
        assert db.downgrade(older) == older
        assert db.revision() == older
        assert read(db) == before
        migrate.upgrade(db.url, newer)
        assert read(db) == before
        assert db.revision() == newer
    finally:
        db.close()


def test_a_schema_that_is_there_already_needs_no_way_back(db: Database) -> None:
    assert db.downgrade(HEAD) == HEAD
    assert db.downgrade("9999") == HEAD


def test_a_newer_database_is_not_taken_back_by_who_does_not_know_it(db: Database) -> None:
    db.run(lambda t: t.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")))
    with pytest.raises(Misconfigured, match=r"newer version.*9999"):
        db.downgrade("0001")


def test_where_a_database_is_and_what_lies_beside_it() -> None:
    assert describe("sqlite:////srv/x.sqlite") == {"kind": "sqlite", "path": "/srv/x.sqlite"}
    given = "postgresql://appliance:secret@/appliance?host=/srv/socket"
    assert describe(given) == {"kind": "postgresql", "host": "/srv/socket", "name": "appliance", "user": "appliance"}
    assert "secret" not in str(describe(given))
    assert describe(beside(given, "spare")) == {**describe(given), "name": "spare"}
    assert "secret" in beside(given, "spare")
    assert beside("sqlite:////srv/x.sqlite", "/tmp/copy.sqlite") == "sqlite:////tmp/copy.sqlite"
    assert beside(given, "") == beside(given, "appliance")
