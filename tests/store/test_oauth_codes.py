"""Codes of OAuth, on SQLite and on PostgreSQL."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from sqlalchemy import update

from appliance.domain.user import Session
from appliance.store import oauth, sessions, tokens, users
from appliance.store.database import Database, Transaction
from appliance.store.rows import ApiTokenRow, OAuthCodeRow

pytestmark = pytest.mark.unit

CLIENT = "jupyterhub-user-alice"


@pytest.fixture
def session(db: Database) -> Session:
    user = db.run(lambda t: users.add(t, "alice"))
    return db.run(lambda t: sessions.add(t, "session22222", user.id, origin="http://box", address="", user_agent="",
                                         lifetime_s=3600))


def add(db: Database, session: Session, code: str = "the code", client_id: str = CLIENT) -> None:
    db.run(lambda t: oauth.add_code(
        t, code, client_id=client_id, session=session, redirect_uri="/user/alice/oauth_callback",
        scopes=["access:servers!server=alice/"], challenge="c" * 43, challenge_method="S256"))


def use(t: Transaction, code: str = "the code", client_id: str = CLIENT) -> str:
    """Return a token, "" where there is none for this code."""
    found = oauth.find_code(t, code, client_id)
    return oauth.exchange(t, found, client_id=client_id, expires_in_s=60, note="alice's server") if found else ""


def rows(db: Database) -> tuple[int, int]:
    """Return how many codes and tokens there are."""
    return db.run(lambda t: (t.query(OAuthCodeRow).count(), t.query(ApiTokenRow).count()), write=False)


def test_a_code_gives_one_token_with_all_that_it_was_for(db: Database, session: Session) -> None:
    add(db, session)
    token = db.run(use)
    found = db.run(lambda t: tokens.find(t, token), write=False)
    assert found is not None
    assert found.user == session.user
    assert (found.scopes, found.client_id, found.session_id) == (("access:servers!server=alice/",), CLIENT, session.id)
    assert db.run(use) == ""
    assert db.run(lambda t: tokens.find(t, token), write=False) is None
    assert rows(db) == (0, 0)


def test_nobody_else_s_code_is_found_or_used_up(db: Database, session: Session) -> None:
    add(db, session)
    assert db.run(lambda t: use(t, client_id="service-x")) == ""
    assert db.run(lambda t: use(t, "another code")) == ""
    assert db.run(use)


def test_threads_that_use_one_code_at_once_leave_no_token(db: Database, session: Session) -> None:
    add(db, session)
    with ThreadPoolExecutor(6) as pool:
        given = [token for token in pool.map(lambda _: db.run(use), range(6)) if token]
    assert len(given) == 1
    assert db.run(lambda t: tokens.find(t, given[0]), write=False) is None


def test_codes_end_by_time_with_the_session_and_with_the_client(db: Database, session: Session) -> None:
    add(db, session, "old")
    db.run(lambda t: t.execute(update(OAuthCodeRow).values(expires_at=datetime.now(UTC))))
    assert db.run(lambda t: use(t, "old")) == ""
    add(db, session, "new")
    assert rows(db) == (1, 0)                      # what is over is forgotten when another one is made
    db.run(lambda t: tokens.end_of_client(t, CLIENT))
    assert db.run(lambda t: use(t, "new")) == ""
    add(db, session, "last")
    db.run(lambda t: sessions.end(t, [session.id], actor="alice"))
    assert db.run(lambda t: use(t, "last")) == ""


def test_what_clients_were_given_that_are_gone_ends(db: Database, session: Session) -> None:
    for number, client_id in enumerate((CLIENT, "service-old")):
        add(db, session, str(number), client_id)
        assert db.run(lambda t, code=str(number), client_id=client_id: use(t, code, client_id))
    own, _ = db.run(lambda t: tokens.add(t, user_id=session.user.id))
    db.run(lambda t: oauth.end_of_clients_gone(t, {CLIENT}))
    assert {found.client_id for found in db.run(lambda t: tokens.of_user(t, session.user.id), write=False)} == {CLIENT, ""}
    assert db.run(lambda t: tokens.find(t, own), write=False)


def test_who_agreed_to_less_did_not_agree(db: Database, session: Session) -> None:
    add(db, session)
    scopes = ["access:servers!server=alice/"]
    assert not db.run(lambda t: oauth.agreed(t, session.user.id, CLIENT, scopes), write=False)
    db.run(use)
    assert db.run(lambda t: oauth.agreed(t, session.user.id, CLIENT, scopes), write=False)
    assert not db.run(lambda t: oauth.agreed(t, session.user.id, CLIENT, [*scopes, "shutdown"]), write=False)
    assert not db.run(lambda t: oauth.agreed(t, session.user.id, "service-x", scopes), write=False)
