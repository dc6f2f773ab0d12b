from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from appliance.domain.user import User
from appliance.errors import BadOption, NotFound
from appliance.store import sessions, tokens, users
from appliance.store.database import Database
from appliance.store.rows import ApiTokenRow, OAuthCodeRow

pytestmark = pytest.mark.unit


@pytest.fixture
def ada(db: Database) -> User:
    return db.run(lambda t: users.add(t, "ada"))


def code(user: User, **said: Any) -> OAuthCodeRow:
    return OAuthCodeRow(**{"hashed": said.get("client_id", "") + "x" * 40, "client_id": "c", "user_id": user.id,
                           "session_id": "s", "redirect_uri": "/", "scopes": [],
                           "expires_at": datetime.now(UTC) + timedelta(minutes=5), **said})


def test_a_token_is_found_with_what_it_may(db: Database, ada: User) -> None:
    secret, made = db.run(lambda t: tokens.add(t, user_id=ada.id, scopes=["read:users!user"], note="script", expires_in_s=60))
    found = db.run(lambda t: tokens.find(t, secret))
    assert found == made
    assert found.user == ada
    assert found.scopes == ("read:users!user",)
    assert (found.note, found.service_name, found.client_id, found.session_id) == ("script", "", "", "")
    assert found.api_id == f"a{found.id}"
    assert found.expires_at is not None
    assert timedelta(seconds=58) < found.expires_at - datetime.now(UTC) <= timedelta(seconds=60)
    assert db.run(lambda t: tokens.get(t, made.id)) == made
    assert db.run(lambda t: tokens.of_user(t, ada.id)) == [made]


def test_a_service_has_tokens_without_being_a_user(db: Database, ada: User) -> None:
    secret, made = db.run(lambda t: tokens.add(t, service_name="culler"))
    assert made.user is None
    assert made.service_name == "culler"
    assert made.scopes == ("inherit",)
    assert db.run(lambda t: tokens.find(t, secret)) == made
    assert db.run(lambda t: tokens.of_service(t, "culler")) == [made]
    assert db.run(lambda t: tokens.of_user(t, ada.id)) == []
    assert db.run(lambda t: tokens.end_of_service(t, "culler")) == 1
    assert db.run(lambda t: tokens.find(t, secret)) is None


def test_a_token_is_one_owners(db: Database, ada: User) -> None:
    with pytest.raises(ValueError, match="a user's or a service's"):
        db.run(lambda t: tokens.add(t, user_id=ada.id, service_name="culler"))
    with pytest.raises(ValueError, match="a user's or a service's"):
        db.run(tokens.add)


@pytest.mark.parametrize("expires_in_s", [0, -1, True, False, 10**10, 60.5, "60"])
def test_a_lifetime_that_is_none_is_refused(db: Database, ada: User, expires_in_s: Any) -> None:
    with pytest.raises(BadOption, match="one second"):
        db.run(lambda t: tokens.add(t, user_id=ada.id, expires_in_s=expires_in_s))
    assert db.run(lambda t: tokens.of_user(t, ada.id)) == []


def test_a_lifetime_of_a_year_and_none_are_ones(db: Database, ada: User) -> None:
    year = 365 * 86_400
    assert db.run(lambda t: tokens.add(t, user_id=ada.id, expires_in_s=None))[1].expires_at is None
    found = db.run(lambda t: tokens.add(t, user_id=ada.id, expires_in_s=year))[1].expires_at
    assert found is not None
    assert timedelta(days=364) < found - datetime.now(UTC) <= timedelta(days=365)


def test_an_expired_token_is_good_for_nothing_and_goes(db: Database, ada: User) -> None:
    secret, made = db.run(lambda t: tokens.add(t, user_id=ada.id, expires_in_s=60))

    def pass_time(t: Any) -> None:
        t.get(ApiTokenRow, made.id).expires_at = datetime.now(UTC) - timedelta(seconds=1)

    db.run(pass_time)
    assert db.run(lambda t: tokens.find(t, secret)) is None
    assert db.run(lambda t: tokens.get(t, made.id)) is None
    assert db.run(lambda t: tokens.of_user(t, ada.id)) == []
    assert db.run(tokens.end_expired) == 1
    assert db.run(tokens.end_expired) == 0


@pytest.mark.parametrize("end", [users.archive, users.delete])
def test_with_the_account_its_tokens_end(db: Database, ada: User, end: Any) -> None:
    secret, _ = db.run(lambda t: tokens.add(t, user_id=ada.id))
    db.run(lambda t: end(t, "ada"))
    assert db.run(lambda t: tokens.find(t, secret)) is None
    with pytest.raises(NotFound):
        db.run(lambda t: tokens.add(t, user_id=ada.id))


def test_the_token_of_a_deleted_account_is_not_its_successors(db: Database, ada: User) -> None:
    secret, _ = db.run(lambda t: tokens.add(t, user_id=ada.id))
    db.run(lambda t: users.delete(t, "ada"))
    again = db.run(lambda t: users.add(t, "ada"))
    assert db.run(lambda t: tokens.find(t, secret)) is None
    assert db.run(lambda t: tokens.of_user(t, again.id)) == []


@pytest.mark.parametrize("how", ["ended", "expired"])
def test_a_token_of_a_session_ends_with_it(db: Database, ada: User, how: str) -> None:
    lifetime_s = 3600 if how == "ended" else -1
    db.run(lambda t: sessions.add(t, "s1", ada.id, origin="", address="", user_agent="", lifetime_s=lifetime_s))
    secret, _ = db.run(lambda t: tokens.add(t, user_id=ada.id, session_id="s1", client_id="service-x"))
    if how == "ended":
        assert db.run(lambda t: tokens.find(t, secret)) is not None
        db.run(lambda t: sessions.end(t, ["s1"], actor="ada"))
    assert db.run(lambda t: tokens.find(t, secret)) is None
    assert db.run(tokens.end_expired) == 1


def test_what_an_oauth_client_was_given_ends_with_it(db: Database, ada: User) -> None:
    theirs, made = db.run(lambda t: tokens.add(t, user_id=ada.id, client_id="service-x"))
    other, _ = db.run(lambda t: tokens.add(t, user_id=ada.id, client_id="service-y"))
    db.run(lambda t: t.add(code(ada, client_id="service-x", token_id=made.id)))
    db.run(lambda t: t.add(code(ada, client_id="service-y")))
    assert db.run(lambda t: tokens.end_of_client(t, "service-x")) == 1
    assert db.run(lambda t: tokens.find(t, theirs)) is None
    assert db.run(lambda t: tokens.find(t, other)) is not None
    assert db.run(lambda t: t.execute(text("SELECT client_id FROM oauth_codes")).all()) == [("service-y",)]


def test_revoking_takes_the_code_it_came_from_along(db: Database, ada: User) -> None:
    secret, made = db.run(lambda t: tokens.add(t, user_id=ada.id, client_id="c"))
    db.run(lambda t: t.add(code(ada, token_id=made.id)))
    assert db.run(lambda t: tokens.revoke(t, [made.id], actor="ada")) == 1
    assert db.run(lambda t: tokens.revoke(t, [made.id], actor="ada")) == 0
    assert db.run(lambda t: tokens.find(t, secret)) is None
    assert db.run(lambda t: t.execute(text("SELECT id FROM oauth_codes")).all()) == []


def test_expired_codes_go(db: Database, ada: User) -> None:
    db.run(lambda t: t.add(code(ada, client_id="old", expires_at=datetime.now(UTC) - timedelta(seconds=1))))
    db.run(lambda t: t.add(code(ada, client_id="new")))
    db.run(tokens.end_expired)
    assert db.run(lambda t: t.execute(text("SELECT client_id FROM oauth_codes")).all()) == [("new",)]


def test_two_tokens_may_begin_alike(db: Database, ada: User, monkeypatch: pytest.MonkeyPatch) -> None:
    given = (f"{'ab' * 4}{number:016d}" for number in itertools.count())
    monkeypatch.setattr(tokens.secrets, "token_hex", lambda n: next(given))
    first, second = (db.run(lambda t: tokens.add(t, user_id=ada.id)) for _ in range(2))
    assert first[0][:8] == second[0][:8]
    assert db.run(lambda t: tokens.find(t, first[0])) == first[1]
    assert db.run(lambda t: tokens.find(t, second[0])) == second[1]


@pytest.mark.parametrize("secret", ["", "x" * 15, "x" * 129, "é" * 64, "\x00" * 32, "x" * 64])
def test_what_is_no_token_is_nobodys(db: Database, ada: User, secret: str) -> None:
    db.run(lambda t: tokens.add(t, user_id=ada.id))
    assert db.run(lambda t: tokens.find(t, secret)) is None


def test_events_tell_of_tokens_and_hold_none(db: Database, ada: User) -> None:
    secret, made = db.run(lambda t: tokens.add(t, user_id=ada.id, note="script", actor="ada"))
    db.run(lambda t: tokens.revoke(t, [made.id], actor="ada"))
    rows = db.run(lambda t: t.execute(text("SELECT kind, actor, user_name, data FROM events WHERE kind LIKE 'token.%'")).all())
    assert [tuple(row)[:3] for row in rows] == [("token.created", "ada", "ada"), ("token.revoked", "ada", "ada")]
    assert secret not in str(rows)
    assert secret[:8] not in str(rows)
