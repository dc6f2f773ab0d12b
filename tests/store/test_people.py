"""Users and groups as the REST API asks for them, on both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from appliance.domain.person import Wanted
from appliance.domain.server import Phase
from appliance.errors import BadInput, Exists
from appliance.store import groups, people, servers, users
from appliance.store.database import Database
from appliance.store.rows import ServerRow, UserRow

pytestmark = pytest.mark.unit


def listed(db: Database, **wanted: object) -> list[str]:
    return [person.user.name for person in db.run(lambda t: people.page(t, Wanted(**wanted)))]  # type: ignore[arg-type]


def test_who_was_never_seen_is_first_or_last(db: Database) -> None:
    db.run(lambda t: people.add_many(t, ["alice", "bob", "carl"], admin=False, actor="test"))
    for name, ago in (("bob", timedelta(0)), ("carl", timedelta(days=1))):
        db.run(lambda t, name=name, ago=ago: t.execute(  # type: ignore[misc]
            update(UserRow).where(UserRow.name == name).values(last_activity_at=datetime.now(UTC) - ago)) and None)
    assert listed(db, sort="last_activity") == ["alice", "carl", "bob"]
    assert listed(db, sort="last_activity", descending=True) == ["bob", "carl", "alice"]
    assert listed(db, sort="name", offset=1, limit=1) == ["bob"]
    assert listed(db, name_filter="a_", limit=9) == []


def test_states(db: Database) -> None:
    alice, bob, _ = db.run(lambda t: people.add_many(t, ["alice", "bob", "carl"], admin=False, actor="test"))
    for person, phase in ((alice, Phase.READY), (bob, Phase.STARTING)):
        server = db.run(lambda t, person=person: servers.want_running(  # type: ignore[misc]
            t, person.user.id, "", image="", addresses=(), actor="test"))
        db.run(lambda t, server=server, phase=phase: t.execute(  # type: ignore[misc]
            update(ServerRow).where(ServerRow.id == server.id).values(phase=phase)) and None)
    assert listed(db, state="ready") == ["alice"]
    assert listed(db, state="active") == ["alice", "bob"]
    assert listed(db, state="inactive") == ["carl"]
    [found] = db.run(lambda t: people.page(t, Wanted(state="ready")))
    assert [server.phase for server in found.servers] == [Phase.READY]


def test_only_those_who_are_reached(db: Database) -> None:
    db.run(lambda t: people.add_many(t, ["alice", "bob", "carl"], admin=False, actor="test"))
    db.run(lambda t: groups.add(t, "7b", ["bob"], actor="test"))
    assert listed(db, names={"alice"}, of_groups={"7b"}) == ["alice", "bob"]
    assert listed(db, names=set(), of_groups=set()) == []


def test_the_same_people_added_by_several_at_once(db: Database) -> None:
    db.run(lambda t: users.add(t, "teacher"))
    names = [f"pupil{number:03}" for number in range(100)]

    def add(number: int) -> int:
        try:
            return len(db.run(lambda t: people.add_many(t, names[number:], admin=False, actor="test")))
        except Exists:
            return 0

    with ThreadPoolExecutor(6) as threads:
        added = list(threads.map(add, range(6)))
    everybody = db.run(users.list_all)
    assert sum(added) == len(everybody) - 1 == 100
    assert len({user.uid for user in everybody}) == 101


def test_the_same_group_added_by_several_at_once(db: Database) -> None:
    def add(number: int) -> bool:
        try:
            db.run(lambda t: groups.add(t, "7b", actor="test"))
        except Exists:
            return False
        return True

    with ThreadPoolExecutor(6) as threads:
        assert sum(threads.map(add, range(6))) == 1


def test_rename(db: Database) -> None:
    [alice] = db.run(lambda t: people.add_many(t, ["alice"], admin=False, actor="test"))
    db.run(lambda t: people.rename(t, alice.user.id, "alicia", actor="test"))
    assert db.run(lambda t: people.find(t, "alice")) is None
    found = db.run(lambda t: people.find(t, "alicia"))
    assert found
    assert (found.user.id, found.user.uid) == (alice.user.id, alice.user.uid)
    db.run(lambda t: people.add_many(t, ["alice"], admin=False, actor="test"))
    with pytest.raises(Exists):
        db.run(lambda t: people.rename(t, alice.user.id, "alice", actor="test"))
    db.run(lambda t: servers.want_running(t, alice.user.id, "", image="", addresses=(), actor="test"))
    with pytest.raises(BadInput, match="Stop it"):
        db.run(lambda t: people.rename(t, alice.user.id, "other", actor="test"))
