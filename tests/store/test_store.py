from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from appliance.domain.server import Failure, Phase, Wanted
from appliance.errors import BadOption, Exists, NoAddress, NotFound
from appliance.store import events, servers, sessions, tokens, users
from appliance.store.database import Database

pytestmark = pytest.mark.unit


def want(db: Database, user_id: int, addresses: tuple[str, ...] = ("10.1.0.2", "10.1.0.3")) -> servers.Server:
    return db.run(lambda t: servers.want_running(t, user_id, "", image="", addresses=addresses, actor="test"))


def test_uids_are_never_given_twice(db: Database) -> None:
    first = db.run(lambda t: users.add(t, "alice"))
    db.run(lambda t: users.delete(t, "alice"))
    second = db.run(lambda t: users.add(t, "alice"))
    assert second.uid == first.uid + 1
    assert second.id != first.id


def test_a_uid_taken_from_a_home_is_not_given_again(db: Database) -> None:
    db.run(lambda t: users.add(t, "found", uid=100_010))
    assert db.run(lambda t: users.add(t, "new")).uid == 100_011


def test_a_name_is_taken_once(db: Database) -> None:
    db.run(lambda t: users.add(t, "alice"))
    with pytest.raises(Exists):
        db.run(lambda t: users.add(t, "alice"))
    assert len(db.run(users.list_all)) == 1


def test_a_transaction_that_fails_leaves_nothing(db: Database) -> None:
    def work(t: users.Transaction) -> None:
        users.add(t, "alice")
        raise NotFound()

    with pytest.raises(NotFound):
        db.run(work)
    assert db.run(users.list_all) == []


def test_ten_clicks_at_once_are_one_start(db: Database) -> None:
    user = db.run(lambda t: users.add(t, "alice"))
    want(db, user.id)
    db.run(lambda t: servers.want_stopped(t, servers.find(t, user.id).id, actor="test"))  # type: ignore[union-attr]
    failures: list[BaseException] = []

    def click() -> None:
        try:
            want(db, user.id)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=click) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    server = db.run(lambda t: servers.find(t, user.id))
    assert server is not None
    assert server.start_no == 2


def test_each_server_has_an_address_of_its_own(db: Database) -> None:
    ids = [db.run(lambda t, n=name: users.add(t, n)).id for name in ("a", "b", "c")]
    assert {want(db, ids[0]).address, want(db, ids[1]).address} == {"10.1.0.2", "10.1.0.3"}
    with pytest.raises(NoAddress):
        want(db, ids[2])


def test_a_phase_of_an_earlier_start_is_not_written(db: Database) -> None:
    user = db.run(lambda t: users.add(t, "alice"))
    server = want(db, user.id)
    db.run(lambda t: servers.want_stopped(t, server.id, actor="test"))
    again = want(db, user.id)
    assert again.start_no == server.start_no + 1
    assert db.run(lambda t: servers.enter_phase(t, server.id, Phase.READY, start_no=server.start_no)) is None
    assert db.run(lambda t: servers.get(t, server.id)).phase is Phase.QUEUED  # type: ignore[union-attr]


def test_a_failure_is_settled_and_forgotten_by_the_next_start(db: Database) -> None:
    user = db.run(lambda t: users.add(t, "alice"))
    server = want(db, user.id)
    failure = Failure("app-exited", "It ended.", "Look.", "line\n" * 10_000)
    failed = db.run(lambda t: servers.fail(t, server.id, failure, start_no=server.start_no))
    assert failed is not None
    assert (failed.phase, failed.wanted, failed.deadline_at) == (Phase.FAILED, Wanted.STOPPED, None)
    assert failed.failure is not None
    assert len(failed.failure.evidence) == 8000
    assert db.run(servers.unsettled) == []
    assert want(db, user.id).failure is None


def test_a_pending_phase_always_has_a_deadline(db: Database) -> None:
    user = db.run(lambda t: users.add(t, "alice"))
    server = want(db, user.id)
    assert server.deadline_at is not None
    assert server.deadline_at > datetime.now(UTC)


def test_every_change_of_phase_is_an_event(db: Database) -> None:
    user = db.run(lambda t: users.add(t, "alice"))
    server = want(db, user.id)
    for phase in (Phase.STARTING, Phase.BOOTING, Phase.READY):
        db.run(lambda t, p=phase: servers.enter_phase(t, server.id, p, start_no=1, deadline_s=5))
    kinds = [event.kind for event in db.run(lambda t: events.of_server(t, server.id))]
    assert kinds == ["server.queued", "server.starting", "server.booting", "server.ready"]


def test_a_deleted_user_loses_sessions_tokens_and_wanted_servers(db: Database) -> None:
    user = db.run(lambda t: users.add(t, "alice"))
    server = want(db, user.id)
    token = db.run(lambda t: tokens.add(t, user_id=users.find(t, "alice").id, note="", expires_in_s=None)[0])
    db.run(lambda t: sessions.add(t, "s" * 20, user.id, origin="", address="", user_agent="", lifetime_s=60))
    db.run(lambda t: users.delete(t, "alice"))
    assert db.run(lambda t: tokens.find(t, token)) is None
    assert db.run(lambda t: sessions.find(t, "s" * 20)) is None
    assert db.run(lambda t: servers.get(t, server.id)).wanted is Wanted.STOPPED  # type: ignore[union-attr]
    assert [s.id for s in db.run(servers.unsettled)] == [server.id]


def test_sessions_expire(db: Database) -> None:
    user = db.run(lambda t: users.add(t, "alice"))
    db.run(lambda t: sessions.add(t, "s" * 20, user.id, origin="", address="", user_agent="", lifetime_s=-1))
    assert db.run(lambda t: sessions.find(t, "s" * 20)) is None
    assert db.run(sessions.end_expired) == {user.id}


@pytest.mark.parametrize("expires_in_s", [0, -1, 10**10])
def test_a_tokens_life_is_checked(db: Database, expires_in_s: int) -> None:
    db.run(lambda t: users.add(t, "alice"))
    with pytest.raises(BadOption):
        db.run(lambda t: tokens.add(t, user_id=users.find(t, "alice").id, note="", expires_in_s=expires_in_s)[0])


def test_only_a_tokens_hash_is_kept(db: Database) -> None:
    db.run(lambda t: users.add(t, "alice"))
    token = db.run(lambda t: tokens.add(t, user_id=users.find(t, "alice").id, note="script", expires_in_s=60)[0])
    rows = db.run(lambda t: t.execute(text("SELECT prefix, hashed FROM api_tokens")).all())
    assert token not in str(rows)
    found = db.run(lambda t: tokens.find(t, token))
    assert found is not None
    assert found.expires_at is not None
    assert found.expires_at - datetime.now(UTC) < timedelta(seconds=61)
    assert db.run(lambda t: tokens.find(t, token[:-1] + ("0" if token[-1] != "0" else "1"))) is None
