"""Shares and their codes in both databases: by ids, at once, never of somebody who is gone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from appliance.domain.share import scope_names
from appliance.domain.user import User
from appliance.errors import BadInput, BadScope, NotFound
from appliance.store import groups, servers, shares, users
from appliance.store.database import Database
from appliance.store.rows import GroupRow, ServerRow, ShareCodeRow, ShareRow, UserRow

pytestmark = pytest.mark.unit

ALICES = "access:servers!server=alice/"


class Class:
    """alice with a server that is there, bob, and the group 7b with carol in it."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.alice, self.bob, self.carol = (
            db.run(lambda t, name=name: users.add(t, name)) for name in ("alice", "bob", "carol"))
        db.run(lambda t: groups.set_of_user(t, self.carol.id, ["7b"]))
        self.group_id = db.run(lambda t: t.scalar(select(GroupRow.id).where(GroupRow.name == "7b")), write=False)
        self.server = db.run(lambda t: servers.want_running(t, self.alice.id, "", image="", addresses=(), actor="t")).id

    def grant(self, *names: str, user: User | None = None, group: bool = False) -> shares.Share:
        return self.db.run(lambda t: shares.grant(
            t, self.server, names or ["access:servers"], user_id=user.id if user else None,
            group_id=self.group_id if group else None, actor="alice"))

    def code(self, expires_in_s: int = 60) -> str:
        return self.db.run(lambda t: shares.add_code(
            t, self.server, ["access:servers"], expires_in_s=expires_in_s, actor="alice"))[1]

    def scopes(self, user: User, *group_ids: int) -> list[str]:
        return self.db.run(lambda t: shares.scopes_of(t, user.id, group_ids), write=False)


@pytest.fixture
def school(db: Database) -> Class:
    return Class(db)


def test_a_grant_adds_and_a_revocation_takes_away(school: Class) -> None:
    assert school.scopes(school.bob) == []
    share = school.grant(user=school.bob)
    assert (share.user_name, share.group_name, share.scopes) == ("bob", None, (ALICES,))
    assert school.scopes(school.bob) == [ALICES]
    again = school.grant("read:servers", user=school.bob)
    assert again.id == share.id
    assert again.scopes == (ALICES, "read:servers!server=alice/")

    def revoke(*names: str) -> shares.Share | None:
        return school.db.run(lambda t: shares.revoke(t, school.server, names or None, user_id=school.bob.id, actor="alice"))

    left = revoke("access:servers", "delete:servers")
    assert left is not None
    assert left.scopes == ("read:servers!server=alice/",)
    assert revoke() is None
    assert revoke() is None                                   # idempotent
    assert school.scopes(school.bob) == []
    assert school.db.run(lambda t: t.scalars(select(ShareRow)).all(), write=False) == []


def test_a_group_shares_with_its_members_alone(school: Class) -> None:
    share = school.grant(group=True)
    assert (share.user_name, share.group_name) == (None, "7b")
    assert school.scopes(school.carol, school.group_id) == [ALICES]
    assert school.scopes(school.carol) == [] == school.scopes(school.bob)
    assert school.db.run(lambda t: shares.page(t, user_id=school.carol.id, group_ids=[school.group_id], offset=0, limit=9),
                         write=False) == ([share], 1)


def test_shares_follow_a_rename_and_never_a_name(school: Class) -> None:
    """GHSA-mj6q: rights go by id; who gets a name that is free again gets nothing with it."""
    school.grant(user=school.bob)

    def rename(old: str, new: str) -> None:
        school.db.run(lambda t: t.execute(update(UserRow).where(UserRow.name == old).values(name=new)))

    rename("alice", "alicia")
    rename("bob", "robert")
    newcomer = school.db.run(lambda t: users.add(t, "bob"))
    assert school.scopes(newcomer) == []
    assert school.scopes(school.bob) == ["access:servers!server=alicia/"]


@pytest.mark.parametrize("who", ["owner", "guest", "server"])
def test_what_is_deleted_takes_its_shares_along(school: Class, who: str) -> None:
    school.grant(user=school.bob)
    code = school.code()
    if who == "server":
        school.db.run(lambda t: servers.delete(t, school.server))
    else:
        school.db.run(lambda t: users.delete(t, "alice" if who == "owner" else "bob"))
    assert school.scopes(school.bob) == []
    found = school.db.run(lambda t: shares.find_code(t, code), write=False)
    assert (found is None) is (who != "guest")


def test_a_code_gives_a_share_and_is_counted(school: Class) -> None:
    code = school.code()
    kept = school.db.run(lambda t: t.execute(select(ShareCodeRow.prefix, ShareCodeRow.hashed)).one(), write=False)
    assert code.startswith(kept[0])
    assert code not in kept[1]
    assert len(code) == 43
    for times in (1, 2):
        share = school.db.run(lambda t: shares.exchange(t, code, school.bob.id, actor="bob"))
        assert share.scopes == (ALICES,)
        assert share.user_name == "bob"
        known = school.db.run(lambda t: shares.find_code(t, code), write=False)
        assert known is not None
        assert known.exchange_count == times
        assert known.last_exchanged_at is not None
    assert school.scopes(school.bob) == [ALICES]
    with pytest.raises(BadInput, match="yours already"):
        school.db.run(lambda t: shares.exchange(t, code, school.alice.id, actor="alice"))


@pytest.mark.parametrize("said", ["", "x", "x" * 43, "é" * 43, "x" * 4000, "one letter wrong"])
def test_a_code_that_is_none_gives_nothing(school: Class, said: str) -> None:
    code = school.code()
    said = code[:-1] + ("A" if code[-1] != "A" else "B") if said == "one letter wrong" else said
    with pytest.raises(NotFound):
        school.db.run(lambda t: shares.exchange(t, said, school.bob.id, actor="bob"))


def test_an_expired_code_is_dead_and_swept_away(school: Class) -> None:
    code = school.code()
    past = datetime.now(UTC) - timedelta(seconds=1)
    school.db.run(lambda t: t.execute(update(ShareCodeRow).values(expires_at=past)))
    assert school.db.run(lambda t: shares.find_code(t, code), write=False) is None
    assert school.db.run(lambda t: shares.page_codes(t, owner_id=school.alice.id, offset=0, limit=9), write=False) == ([], 0)
    with pytest.raises(NotFound):
        school.db.run(lambda t: shares.exchange(t, code, school.bob.id, actor="bob"))
    school.code()
    assert len(school.db.run(lambda t: t.scalars(select(ShareCodeRow.id)).all(), write=False)) == 1


def test_a_server_has_so_many_codes_and_no_more(school: Class, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "MOST_CODES", 2)
    codes = [school.code(), school.code()]
    with pytest.raises(BadInput, match="2 share codes already"):
        school.code()
    assert school.db.run(lambda t: shares.delete_codes(t, school.server, code="x" * 43, actor="alice")) == 0
    assert school.db.run(lambda t: shares.delete_codes(t, school.server, code=codes[0], actor="alice")) == 1
    school.code()
    assert school.db.run(lambda t: shares.delete_codes(t, school.server, actor="alice")) == 2


def test_a_code_is_deleted_by_its_own_server_alone(school: Class) -> None:
    other = school.db.run(lambda t: servers.want_running(t, school.bob.id, "", image="", addresses=(), actor="t")).id
    code = school.code()
    known = school.db.run(lambda t: shares.find_code(t, code), write=False)
    assert known is not None
    for said in ({"code": code}, {"code_id": known.id}, {}):
        assert school.db.run(lambda t, said=said: shares.delete_codes(t, other, actor="bob", **said)) == 0
    assert school.db.run(lambda t: shares.delete_codes(t, school.server, code_id=known.id, actor="alice")) == 1


def test_pages_of_shares(school: Class) -> None:
    second = school.db.run(lambda t: servers.want_running(t, school.alice.id, "lab", image="", addresses=(), actor="t")).id
    school.grant(user=school.bob)
    school.grant(group=True)
    school.db.run(lambda t: shares.grant(t, second, ["read:servers"], user_id=school.bob.id, actor="alice"))

    def page(**of: object) -> tuple[list[tuple[str, str | None]], int]:
        found, total = school.db.run(lambda t: shares.page(t, offset=0, limit=2, **of), write=False)  # type: ignore[arg-type]
        return [(share.server.name, share.user_name or share.group_name) for share in found], total

    assert page(owner_id=school.alice.id) == ([("", "bob"), ("", "7b")], 3)
    assert page(server_id=second) == ([("lab", "bob")], 1)
    assert page(user_id=school.bob.id) == ([("", "bob"), ("lab", "bob")], 2)
    assert page(group_ids=[school.group_id]) == ([("", "7b")], 1)


def test_a_scope_that_is_no_longer_known_breaks_no_list(school: Class) -> None:
    """GHSA-hx46: one bad row must not fail the others."""
    school.grant("access:servers", "custom:gone", user=school.bob)
    assert school.scopes(school.bob) == [ALICES]
    found, _ = school.db.run(lambda t: shares.page(t, user_id=school.bob.id, offset=0, limit=9), write=False)
    assert found[0].scopes == (ALICES,)


@pytest.mark.parametrize(("said", "names"), [
    ([], ("access:servers",)),
    (["read:servers", "access:servers!server=alice/lab"], ("access:servers", "read:servers")),
    (["servers!server=alice/lab"], ("servers",)),
])
def test_scopes_of_a_share(said: list[str], names: tuple[str, ...]) -> None:
    assert scope_names(said, "alice", "lab") == names


@pytest.mark.parametrize("said", [
    "access:servers!server=alice/", "access:servers!user=alice", "access:servers!server", "nonsense", "tokens", "admin:users",
    "inherit", "self", "read:users!server=alice/lab", "", "access:servers!server=alice/lab!",
])
def test_scopes_that_cannot_be_shared(said: str) -> None:
    with pytest.raises(BadScope):
        scope_names([said], "alice", "lab")


def test_a_server_that_is_gone_cannot_be_shared(school: Class) -> None:
    school.db.run(lambda t: t.execute(update(ServerRow).values(user_id=school.alice.id)))
    with pytest.raises(NotFound):
        school.db.run(lambda t: shares.grant(t, "nosuchserver", ["access:servers"], user_id=school.bob.id, actor="alice"))
