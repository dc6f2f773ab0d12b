"""Display names, archived accounts and groups; the second schema, from and to the first with data in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import inspect, text

from appliance.domain.names import SMOKE_USER
from appliance.domain.server import Phase, Wanted
from appliance.errors import Archived
from appliance.store import groups, migrate, servers, sessions, tokens, users
from appliance.store.database import MIGRATIONS, VERSION_TABLE, Database

pytestmark = pytest.mark.unit


@contextmanager
def opened(url: str) -> Iterator[Database]:
    db = Database(url)
    try:
        yield db
    finally:
        db.close()


def downgrade(url: str, revision: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = url
    command.downgrade(config, revision)


def add_old_users(db: Database) -> None:
    """As the first schema's program wrote them."""
    db.run(lambda t: t.execute(text(
        "INSERT INTO users (name, uid, admin, created_at, password_hash, must_change_password) VALUES "
        "('teacher', 100000, true, '2025-09-01 08:00:00', 'hash-t', false), "
        "('ada', 100001, false, '2025-09-01 08:00:00', 'hash-a', true)")))
    db.run(lambda t: t.execute(text("INSERT INTO counters (name, value) VALUES ('uid', 100002)")))


def test_an_upgrade_keeps_what_the_first_schema_has(db_url: str) -> None:
    with opened(db_url) as db:
        migrate.upgrade(db.url, "0001")
        add_old_users(db)
        migrate.upgrade(db.url)
        ada = db.run(lambda t: users.find(t, "ada"))
        assert ada is not None
        assert (ada.uid, ada.display_name, ada.archived, ada.must_change_password) == (100001, "", False, True)
        assert db.run(lambda t: users.get_password(t, "ada")) == ("hash-a", True)
        assert db.run(lambda t: groups.of_users(t)) == {}
        assert db.run(lambda t: users.add(t, "bob")).uid == 100002


def test_down_and_up_again_loses_nothing_and_opens_no_archived_account(db_url: str) -> None:
    with opened(db_url) as db:
        migrate.upgrade(db.url)
        for name in ("teacher", "ada", "bob"):
            user = db.run(lambda t, name=name: users.add(t, name))  # type: ignore[misc]
            db.run(lambda t, name=name: users.set_password(t, name, f"hash-{name}", must_change=False))  # type: ignore[misc]
        token = db.run(lambda t: tokens.add(t, user_id=users.find(t, "bob").id, note="", expires_in_s=None)[0])
        db.run(lambda t: users.set_display_name(t, user.id, "Bob Ross"))
        db.run(lambda t: groups.set_of_user(t, user.id, ["10a", "Chor"]))
        db.run(lambda t: users.archive(t, "bob"))

        downgrade(db.url, "0001")
        with db.engine.connect() as connection:
            assert "display_name" not in {column["name"] for column in inspect(connection).get_columns("users")}
            assert connection.execute(text("SELECT count(*) FROM users")).scalar() == 3
            assert connection.execute(text("SELECT password_hash FROM users WHERE name = 'bob'")).scalar() is None
            assert connection.execute(text("SELECT password_hash FROM users WHERE name = 'ada'")).scalar() == "hash-ada"
            assert connection.execute(text("SELECT count(*) FROM api_tokens")).scalar() == 0
            assert connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar() == "0001"
            # the name is still taken there
            indexes = inspect(connection).get_indexes("users")
            assert any(index["unique"] and index["column_names"] == ["name"] for index in indexes)

        migrate.upgrade(db.url)
        with db.engine.connect() as connection:
            assert not inspect(connection).has_table("kept_0002")
        bob = db.run(lambda t: users.find(t, "bob"))
        assert bob is not None
        assert (bob.display_name, bob.archived) == ("Bob Ross", True)
        assert db.run(lambda t: groups.of_users(t)) == {bob.id: ("10a", "Chor")}
        db.run(lambda t: users.unarchive(t, "bob"))
        assert db.run(lambda t: users.get_password(t, "bob")) == ("hash-bob", False)
        assert db.run(lambda t: tokens.find(t, token)) is None
        ada = db.run(lambda t: users.find(t, "ada"))
        assert ada is not None
        db.run(lambda t: groups.set_of_user(t, ada.id, ["new one"]))   # ids go on where they were
        assert db.run(lambda t: groups.of_users(t, [ada.id])) == {ada.id: ("new one",)}


def test_an_archived_account_opens_nothing_and_runs_nothing(db: Database) -> None:
    ada = db.run(lambda t: users.add(t, "ada"))
    db.run(lambda t: users.set_password(t, "ada", "hash", must_change=False))
    token = db.run(lambda t: tokens.add(t, user_id=users.find(t, "ada").id, note="", expires_in_s=None)[0])
    db.run(lambda t: sessions.add(t, "s" * 20, ada.id, origin="", address="", user_agent="", lifetime_s=60))
    running = db.run(lambda t: servers.want_running(t, ada.id, "", image="", addresses=(), actor="ada"))
    db.run(lambda t: servers.enter_phase(t, running.id, Phase.READY, start_no=running.start_no))

    assert db.run(lambda t: users.archive(t, "ada"))
    assert not db.run(lambda t: users.archive(t, "ada"))

    assert db.run(lambda t: users.get_password(t, "ada")) is None
    assert db.run(lambda t: tokens.find(t, token)) is None
    assert db.run(lambda t: sessions.find(t, "s" * 20)) is None
    assert db.run(lambda t: servers.get(t, running.id)).wanted is Wanted.STOPPED  # type: ignore[union-attr]
    assert [server.id for server in db.run(servers.unsettled)] == [running.id]
    with pytest.raises(Archived):
        db.run(lambda t: servers.want_running(t, ada.id, "", image="", addresses=(), actor="ada"))
    with pytest.raises(Archived):
        db.run(lambda t: servers.want_running(t, ada.id, "another", image="", addresses=(), actor="ada"))

    assert db.run(lambda t: users.unarchive(t, "ada"))
    assert db.run(lambda t: users.get_password(t, "ada")) == ("hash", False)
    assert db.run(lambda t: tokens.find(t, token)) is not None


def test_pages_leave_out_the_archived_and_the_boxs_own_account(db: Database) -> None:
    for name in ("ada", "bob", SMOKE_USER):
        db.run(lambda t, name=name: users.add(t, name))  # type: ignore[misc]
    ada = db.run(lambda t: users.find(t, "ada"))
    assert ada is not None
    db.run(lambda t: users.set_display_name(t, ada.id, "Ada Lovelace"))
    db.run(lambda t: users.archive(t, "bob"))
    assert [user.name for user in db.run(lambda t: users.page(t))[0]] == ["ada"]
    assert [user.name for user in db.run(lambda t: users.page(t, archived=True))[0]] == ["bob"]
    assert db.run(lambda t: users.page(t, search="lovel"))[1] == 1


def test_groups_are_set_as_a_whole(db: Database) -> None:
    ada = db.run(lambda t: users.add(t, "ada"))
    bob = db.run(lambda t: users.add(t, "bob"))
    db.run(lambda t: groups.set_of_user(t, ada.id, ["b", "a"]))
    db.run(lambda t: groups.set_of_user(t, bob.id, ["b"]))
    db.run(lambda t: groups.set_of_user(t, ada.id, ["c", "b"]))
    assert db.run(lambda t: groups.of_users(t)) == {ada.id: ("b", "c"), bob.id: ("b",)}
    db.run(lambda t: users.delete(t, "bob"))
    assert [(group.name, group.members) for group in db.run(groups.list_all)] == [("a", ()), ("b", ("ada",)), ("c", ("ada",))]


def test_what_metrics_count(db: Database) -> None:
    assert db.run(servers.count_phases) == dict.fromkeys(Phase, 0)
    for name in ("ada", "bob", "carol", SMOKE_USER):
        user = db.run(lambda t, name=name: users.add(t, name))  # type: ignore[misc]
        db.run(lambda t, user=user: servers.want_running(t, user.id, "", image="", addresses=(), actor=""))  # type: ignore[misc]
        db.run(lambda t, user=user: sessions.add(  # type: ignore[misc]
            t, f"{user.id:020}", user.id, origin="", address="", user_agent="", lifetime_s=60))
    db.run(lambda t: users.archive(t, "bob"))
    db.run(lambda t: users.delete(t, "carol"))
    assert db.run(servers.count_phases) == dict.fromkeys(Phase, 0) | {Phase.QUEUED: 1, Phase.STOPPED: 2}
    assert db.run(users.count_people) == (1, 1)
    assert db.run(lambda t: users.count_active(t, {"24h": timedelta(days=1), "never": timedelta()})) == {"24h": 2, "never": 0}


def test_a_rosters_password_is_remembered_and_else_the_present_one(db: Database) -> None:
    for name in ("ada", "bob", "carol"):
        db.run(lambda t, name=name: users.add(t, name))  # type: ignore[misc]
    db.run(lambda t: users.set_password(t, "ada", "listed", must_change=True, by_roster=True))
    db.run(lambda t: users.set_password(t, "ada", "her own", must_change=False))
    db.run(lambda t: users.set_password(t, "bob", "his own", must_change=False))
    assert db.run(users.roster_hashes) == {"ada": "listed", "bob": "his own"}
    db.run(lambda t: users.set_password(t, "bob", None, must_change=False))
    assert db.run(lambda t: users.get_password(t, "bob")) is None
