"""Every schema can be gone back to, with accounts, sessions and servers kept, and be left again."""

from __future__ import annotations

import itertools
import json

import pytest
from sqlalchemy import inspect, text

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


# -- what the second schema has no place for ---------------------------------------------------------------------------
_TOKEN = ("INSERT INTO api_tokens (id, user_id, service_name, prefix, hashed, note, scopes, client_id, session_id, "
          "created_at) VALUES ({id}, {user}, {service}, '{prefix}', 'salt:hash{id}', 'note{id}', '{scopes}', '{client}', '', "
          f"'{NOW}')")
FULL, NARROW, OF_SERVICE, OF_CLIENT = (
    _TOKEN.format(id=1, user=7, service="NULL", prefix="aaaaaaa1", scopes='["inherit"]', client=""),
    _TOKEN.format(id=2, user=7, service="NULL", prefix="aaaaaaa2", scopes='["read:users!user"]', client=""),
    _TOKEN.format(id=3, user="NULL", service="'culler'", prefix="aaaaaaa3", scopes='["inherit"]', client=""),
    _TOKEN.format(id=4, user=7, service="NULL", prefix="aaaaaaa4", scopes='["inherit"]', client="service-x"),
)
NEW_IN_0003 = (
    FULL, NARROW, OF_SERVICE, OF_CLIENT,
    """INSERT INTO groups (id, name, properties) VALUES (3, '7b', '{"mem_limit": "2G"}')""",
    """UPDATE servers SET user_options = '{"image": "r"}', display_name = 'Statistics' WHERE id = 'v1'""",
    f"""INSERT INTO services (id, name, admin, url, data, created_at) VALUES (5, 'board', true, 'http://127.0.0.1:9',
        '{{"info": {{"a": 1}}}}', '{NOW}')""",
    f"""INSERT INTO shares (id, server_id, user_id, group_id, scopes, created_at) VALUES (6, 'v1', NULL, 3,
        '["access:servers"]', '{NOW}')""",
    f"""INSERT INTO share_codes (id, server_id, prefix, hashed, scopes, created_at, expires_at, exchange_count) VALUES
        (8, 'v1', 'bbbbbbbb', 'salt:hash', '["access:servers"]', '{NOW}', '{NOW}', 2)""",
)
KEPT = {
    "api_tokens": "SELECT id, user_id, service_name, prefix, hashed, note, scopes, client_id FROM api_tokens ORDER BY id",
    "groups": "SELECT id, name, properties FROM groups ORDER BY id",
    "servers": "SELECT id, user_options, display_name FROM servers ORDER BY id",
    "services": "SELECT id, name, admin, url, data FROM services",
    "shares": "SELECT id, server_id, user_id, group_id, scopes FROM shares",
    "share_codes": "SELECT id, server_id, hashed, scopes, exchange_count FROM share_codes",
}


def all_of(db: Database, queries: dict[str, str]) -> dict[str, str]:
    # SQLite has JSON as text, with whatever blanks it was written with
    return {name: str([tuple(row) for row in db.run(lambda t, q=query: t.execute(text(q)).all())]).replace(" ", "")
            for name, query in queries.items()}


@pytest.fixture
def full(db: Database) -> Database:
    """A database of schema 0003 with everything in it that 0002 does not know."""
    for statement in (ROWS["users"], ROWS["servers"], *NEW_IN_0003):
        db.run(lambda t, s=statement: t.execute(text(s.replace(":", r"\:"))))
    return db


def test_what_waits_on_the_way_down_is_there_again_on_the_way_up(full: Database) -> None:
    before = all_of(full, KEPT)
    assert all(value != "[]" for value in before.values())
    for _ in range(2):
        full.downgrade("0002")
        migrate.upgrade(full.url, "0003")
        assert all_of(full, KEPT) == before
    tables = full.run(lambda t: inspect(t.connection()).get_table_names())
    assert "kept_0003" not in tables


def test_the_image_that_was_chosen_before_is_the_last_choice_afterwards(full: Database) -> None:
    full.downgrade("0002")
    full.run(lambda t: t.execute(text("UPDATE servers SET image = 'r:1'")))
    full.run(lambda t: t.execute(text("DELETE FROM kept_0003 WHERE name = 'servers'")))
    migrate.upgrade(full.url, "0003")
    said = full.run(lambda t: t.execute(text("SELECT user_options FROM servers")).scalar_one())
    assert (json.loads(said) if isinstance(said, str) else said) == {"image": "r:1"}


def test_a_narrowed_token_does_not_become_all_powerful_on_the_way_down(full: Database) -> None:
    full.downgrade("0002")
    # the older program takes every token of a user for one that may do all its user may
    rows = full.run(lambda t: t.execute(text("SELECT id, user_id, hashed FROM api_tokens")).all())
    assert [tuple(row) for row in rows] == [(1, 7, "salt:hash1")]


def test_numbers_given_meanwhile_are_not_taken_away(full: Database) -> None:
    full.downgrade("0002")
    full.run(lambda t: t.execute(text(
        "INSERT INTO api_tokens (id, user_id, prefix, hashed, note, created_at) "
        rf"VALUES (2, 7, 'cccccccc', 'salt\:new', 'meanwhile', '{NOW.replace(':', chr(92) + ':')}')")))
    migrate.upgrade(full.url, "0003")
    rows = full.run(lambda t: t.execute(text("SELECT id, hashed, scopes FROM api_tokens")).all())
    found = {row.hashed: (row.id, str(row.scopes).replace(chr(34), chr(39))) for row in rows}
    assert found["salt:new"] == (2, "['inherit']")
    assert found["salt:hash2"][0] not in (1, 2, 3, 4)
    assert found["salt:hash2"][1] == "['read:users!user']"
    assert len(found) == 5
    # and the next one gets a number of its own
    full.run(lambda t: t.execute(text(_TOKEN.format(id="DEFAULT", user=7, service="NULL", prefix="d", scopes="[]", client="")
                                      .replace("(id, ", "(").replace("(DEFAULT, ", "(").replace(":", r"\:"))))
    assert full.run(lambda t: t.execute(text("SELECT count(DISTINCT id) FROM api_tokens")).scalar()) == 6


def test_what_waits_for_somebody_who_is_gone_goes_too(full: Database) -> None:
    full.downgrade("0002")
    for statement in ("DELETE FROM api_tokens", "DELETE FROM servers", "DELETE FROM users"):
        full.run(lambda t, s=statement: t.execute(text(s)))
    migrate.upgrade(full.url, "0003")
    found = all_of(full, KEPT)
    assert found["shares"] == found["share_codes"] == "[]"
    assert "culler" in found["api_tokens"]
    assert "read:users" not in found["api_tokens"]
