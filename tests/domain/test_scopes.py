"""The language of scopes: what they expand to, what a filter means, and that narrowing never widens."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.scopes import (
    INHERIT,
    NO_SCOPE,
    SCOPES,
    SELF,
    Owner,
    Rights,
    check,
    define,
    expand,
    identify,
)
from appliance.errors import BadScope

pytestmark = pytest.mark.unit

GROUPS = {"ada": ("7a", "choir"), "bob": ("7b",), "cy": ()}
SERVERS = ("ada/", "ada/lab", "bob/", "cy/x")
SERVICES = ("culler", "grader")
NAMES = sorted(set(SCOPES) - {INHERIT, SELF, NO_SCOPE})
FILTERS = ["", *(f"!user={name}" for name in GROUPS), "!group=7a", "!group=choir", "!group=7b",
           *(f"!server={server}" for server in SERVERS), *(f"!service={service}" for service in SERVICES)]
BARE = ["", "!user", "!server", "!service"]
scopes_written = st.lists(st.builds(str.__add__, st.sampled_from(NAMES), st.sampled_from(FILTERS)), max_size=6)
owners = st.builds(Owner, user=st.sampled_from(["", *GROUPS]), service=st.sampled_from(["", *SERVICES]),
                   server=st.sampled_from(["", *SERVERS]))


def groups_of(user: str) -> tuple[str, ...]:
    return GROUPS.get(user, ())


def deeds(rights: Rights) -> set[tuple[str, str, str]]:
    """Everything that these rights let one do: (scope, sort of thing, name) over a small world."""
    found = set()
    for name in NAMES:
        reach = rights.reach(name)
        found |= {(name, "user", user) for user in GROUPS if reach.user(user, groups_of(user))}
        found |= {(name, "server", server) for server in SERVERS
                  if reach.server(*server.split("/"), groups_of(server.split("/")[0]))}
        found |= {(name, "group", group) for group in ("7a", "7b", "choir") if reach.group(group)}
        found |= {(name, "service", service) for service in SERVICES if reach.service(service)}
    return found


def rights(*scopes: str, owner: Owner = Owner()) -> Rights:   # noqa: B008 (frozen)
    return Rights(expand(scopes, owner))


# -- expanding ---------------------------------------------------------------------------------------------------------
@given(scopes_written, owners)
def test_expanding_twice_is_expanding_once(scopes: list[str], owner: Owner) -> None:
    once = expand(scopes, owner)
    assert expand(once, owner) == once


@given(scopes_written, scopes_written, owners)
def test_expanding_takes_each_scope_by_itself(some: list[str], others: list[str], owner: Owner) -> None:
    assert expand(some + others, owner) == expand(some, owner) | expand(others, owner)


@pytest.mark.parametrize("name", NAMES)
def test_a_scope_holds_its_subscopes_with_the_same_filter(name: str) -> None:
    for said in ("", "!user=ada", "!group=7a"):
        held = rights(name + said)
        for sub in SCOPES[name].subscopes:
            assert held.holds(sub + said)
            assert held.holds(sub) is (not said)


def test_a_filter_by_server_says_nothing_about_its_user() -> None:
    held = expand(["servers!server=ada/lab"], Owner())
    assert held == {f"{name}!server=ada/lab" for name in ("servers", "read:servers", "start:servers", "delete:servers")}
    assert "read:users:name!user=ada" in expand(["servers!user=ada"], Owner())


@pytest.mark.parametrize(("scope", "owner", "held"), [
    ("users:activity!user", Owner(user="ada"), "users:activity!user=ada"),
    ("access:servers!server", Owner(user="ada", server="ada/lab"), "access:servers!server=ada/lab"),
    ("access:services!service", Owner(service="culler"), "access:services!service=culler")])
def test_a_bare_filter_means_the_owners_own(scope: str, owner: Owner, held: str) -> None:
    assert held in expand([scope], owner)
    assert expand([scope], Owner()) == frozenset()      # and nothing where there is no such owner


def test_self_is_a_users_and_nothing_for_a_service() -> None:
    own = rights(SELF, owner=Owner(user="ada"))
    assert own.reach("servers").users == {"ada"}
    assert own.reach("tokens").users == {"ada"}
    assert not own.has("servers")
    assert not own.reach("admin:users")
    assert not own.reach("list:users")
    assert not own.reach("shares")                      # sharing is a right that an admin gives
    assert expand([SELF], Owner(service="culler")) == frozenset()


def test_inherit_and_no_scope_fall_away() -> None:
    assert expand([INHERIT, NO_SCOPE], Owner(user="ada")) == frozenset()


# -- what is none ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("scope", [
    "", "read:everything", "READ:USERS", "read:users ", "users!", "users!group", "users!user=", "users!user=a!group=b",
    "users!team=x", "users!user= ada", "users!user=a\nb", "self!user", "inherit!user=ada", "(no_scope)!user", "!user=ada",
    "users!user=" + "x" * 300, "users!=ada", "custom:grades"])
def test_what_is_no_scope_is_refused_with_a_sentence(scope: str) -> None:
    with pytest.raises(BadScope) as refused:
        check(scope)
    assert refused.value.sentence.endswith(".")
    assert "\n" not in refused.value.sentence
    assert len(refused.value.sentence) < 220


@given(st.text(max_size=80))
def test_any_text_is_a_scope_or_refused(text: str) -> None:
    try:
        assert check(text) == text
    except BadScope as refused:
        assert refused.sentence.isprintable()


@pytest.mark.parametrize("scope", [
    "users", "users!user", "read:users!group=7b", "access:servers!server=ada/", "groups!group=a b", "self", "inherit",
    "access:services!service=culler", "(no_scope)", "read:users!user=jo.e@x"])
def test_what_is_one_stays_as_it_is(scope: str) -> None:
    assert check(scope) == scope


# -- asking ------------------------------------------------------------------------------------------------------------
def test_a_wider_right_holds_a_narrower_one_and_not_the_other_way() -> None:
    assert rights("read:users").holds("read:users!user=ada")
    assert not rights("read:users!user=ada").holds("read:users")
    assert rights("read:users!group=7a").holds("read:users!user=ada", groups_of)
    assert not rights("read:users!group=7a").holds("read:users!user=bob", groups_of)
    assert not rights("read:users!group=7a").holds("read:users!user=ada")          # nobody said who is in it
    assert rights("servers!user=ada").holds("start:servers!server=ada/lab")
    assert not rights("servers!server=ada/lab").holds("start:servers!server=ada/")
    assert not rights("servers!server=ada/lab").holds("start:servers!user=ada")
    assert rights("servers!group=7b").holds("start:servers!server=bob/", groups_of)
    assert rights("groups!group=7a").holds("read:groups:name!group=7a")
    assert not rights("groups!group=7a").holds("read:groups:name!group=7b")


def test_a_name_is_not_a_beginning_of_another() -> None:
    assert not rights("servers!user=ad").holds("start:servers!user=ada")
    assert not rights("servers!user=ad").holds("start:servers!server=ada/")
    assert not rights("servers!server=ada/").reach("start:servers").server("ada", "lab")


def test_missing_names_what_is_not_held() -> None:
    assert rights("read:users").missing(expand(["users!user=ada"], Owner())) == [
        "list:users!user=ada", "users!user=ada", "users:activity!user=ada"]


# -- narrowing ---------------------------------------------------------------------------------------------------------
@given(scopes_written, scopes_written)
def test_narrowed_is_never_wider_than_either_side(some: list[str], others: list[str]) -> None:
    held, wanted = rights(*some), rights(*others)
    narrowed = held.narrowed(wanted.expanded, groups_of)
    assert deeds(narrowed) <= deeds(held) & deeds(wanted)
    assert not held.missing(narrowed.expanded, groups_of)
    assert not wanted.missing(narrowed.expanded, groups_of)


@given(scopes_written, scopes_written)
def test_narrowing_goes_both_ways_alike(some: list[str], others: list[str]) -> None:
    held, wanted = rights(*some), rights(*others)
    assert held.narrowed(wanted.expanded, groups_of) == wanted.narrowed(held.expanded, groups_of)


@given(scopes_written, scopes_written)
def test_narrowed_keeps_what_both_sides_say_of_users_and_servers(some: list[str], others: list[str]) -> None:
    held, wanted = rights(*some), rights(*others)
    lost = (deeds(held) & deeds(wanted)) - deeds(held.narrowed(wanted.expanded, groups_of))
    # two groups that share a member are the one thing that it does not put together
    assert all("!group=" in str(some) and "!group=" in str(others) for _ in lost)


@given(scopes_written)
def test_narrowing_by_what_is_held_changes_nothing(scopes: list[str]) -> None:
    held = rights(*scopes)
    assert held.narrowed(held.expanded) == held
    assert held.narrowed(expand(NAMES, Owner())) == held
    assert held.narrowed(()) == Rights()


# -- identity and scopes of one's own ----------------------------------------------------------------------------------
def test_every_token_may_say_whose_it_is() -> None:
    assert identify(Owner(user="ada")) == {"read:users:name!user=ada", "read:users:groups!user=ada"}
    assert identify(Owner(service="culler")) == {"read:services:name!service=culler"}
    assert identify(Owner()) == frozenset()


def test_scopes_of_ones_own_hold_their_subscopes() -> None:
    known = define({"custom:grades:read": {"description": "read grades"},
                    "custom:grades": {"description": "change grades", "subscopes": ["custom:grades:read"]}})
    assert set(SCOPES) < set(known)
    assert expand(["custom:grades!group=7a"], Owner(), known) == {"custom:grades!group=7a", "custom:grades:read!group=7a"}
    with pytest.raises(BadScope, match="custom:grades"):
        check("custom:grades")      # not where nobody defined it


@pytest.mark.parametrize(("custom", "named"), [
    ({"grades": {"description": "x"}}, "custom:"),
    ({"custom:Grades": {"description": "x"}}, "custom:"),
    ({"custom:grades": {}}, "custom:grades"),
    ({"custom:grades": {"description": ""}}, "custom:grades"),
    ({"custom:grades": {"description": "x", "scopes": []}}, "nothing else"),
    ({"custom:grades": {"description": "x", "subscopes": "custom:a"}}, "custom:grades"),
    ({"custom:grades": {"description": "x", "subscopes": ["admin:users"]}}, "admin:users"),
    ({"custom:grades": {"description": "x", "subscopes": ["custom:other"]}}, "custom:other"),
    ({"custom:grades": {"description": "x", "subscopes": ["custom:grades"]}}, "custom:grades"),
    ({"custom:a1": {"description": "x", "subscopes": ["custom:b1"]},
      "custom:b1": {"description": "x", "subscopes": ["custom:a1"]}}, "itself")])
def test_scopes_that_cannot_be_are_refused(custom: dict[str, dict[str, object]], named: str) -> None:
    with pytest.raises(BadScope, match=named):
        define(custom)


def test_every_subscope_is_a_scope() -> None:
    def all_of(names: Iterable[str]) -> set[str]:
        return set(itertools.chain.from_iterable(SCOPES[name].subscopes for name in names))

    assert all_of(SCOPES) <= set(SCOPES)
