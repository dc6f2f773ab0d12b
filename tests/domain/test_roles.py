from __future__ import annotations

import pytest

from appliance.domain.roles import ADMIN_SCOPES, Roles, parse
from appliance.domain.scopes import define
from appliance.errors import BadOption

pytestmark = pytest.mark.unit


def test_the_usual_roles_are_there_without_a_word() -> None:
    roles = Roles()
    assert roles.of_user("ada", (), admin=False) == ("user",)
    assert roles.of_user("ada", (), admin=True) == ("admin", "user")
    assert roles.of_service("culler", admin=False) == ()
    assert roles.of_service("culler", admin=True) == ("admin",)
    assert roles.scopes_of(["server"]) == ["users:activity!user", "access:servers!server"]
    assert roles.scopes_of(["token"]) == ["inherit"]


def test_roles_go_to_users_services_and_whole_groups() -> None:
    roles = parse([
        {"name": "grader", "scopes": ["read:users!group=7a"], "users": ["Ada"], "groups": ["teachers"]},
        {"name": "culling", "description": "ends idle servers", "scopes": ["list:users", "delete:servers"],
         "services": ["culler"]}])
    assert roles.of_user("ada", (), admin=False) == ("grader", "user")      # names are normalised
    assert roles.of_user("bob", ("teachers", "7b"), admin=False) == ("grader", "user")
    assert roles.of_user("bob", ("7b",), admin=False) == ("user",)
    assert roles.of_service("culler", admin=False) == ("culling",)
    assert roles.of_group("teachers") == ("grader",)
    assert roles.scopes_of(("culling", "user")) == ["list:users", "delete:servers", "self"]
    assert roles.by_name["culling"].description == "ends idle servers"


def test_what_everybody_may_can_be_changed_and_admin_can_be_given() -> None:
    roles = parse([{"name": "user", "scopes": ["self", "list:services", "shares!user"]},
                   {"name": "server", "scopes": ["users:activity!user", "access:servers!server", "read:users:groups!user"]},
                   {"name": "token", "scopes": ["read:users!user"]},
                   {"name": "admin", "users": ["ada"], "services": ["backup"]}])
    assert roles.scopes_of(["user"]) == ["self", "list:services", "shares!user"]
    assert "read:users:groups!user" in roles.scopes_of(["server"])
    assert roles.of_user("ada", (), admin=False) == ("admin", "user")
    assert roles.of_service("backup", admin=False) == ("admin",)
    assert roles.scopes_of(["admin"]) == list(ADMIN_SCOPES)


def test_a_role_may_hold_scopes_of_ones_own() -> None:
    known = define({"custom:grades": {"description": "change grades"}})
    assert parse([{"name": "grader", "scopes": ["custom:grades!group=7a"]}], known).scopes_of(["grader"]) == [
        "custom:grades!group=7a"]


@pytest.mark.parametrize(("role", "words"), [
    ("grader", "dictionary"),
    ({}, "number 1.*name begins"),
    ({"name": "Grader"}, "“Grader”.*lower-case"),
    ({"name": "x"}, "three"),
    ({"name": "grader", "scope": []}, "nearest is “scopes”"),
    ({"name": "grader", "scopes": "users"}, "list like"),
    ({"name": "grader", "scopes": [3]}, "list like"),
    ({"name": "grader", "scopes": ["read:everything"]}, "“grader”.*no scope “read:everything”"),
    ({"name": "grader", "scopes": ["inherit"]}, "for tokens"),
    ({"name": "grader", "description": 3}, "text"),
    ({"name": "grader", "users": ["a b"]}, "name"),
    ({"name": "grader", "groups": [""]}, "group"),
    ({"name": "admin", "scopes": ["self"]}, "admin may do cannot be changed"),
    ({"name": "admin", "scopes": []}, "admin may do cannot be changed"),
    ({"name": "token", "users": ["ada"]}, "not given to anybody")])
def test_a_role_that_cannot_be_is_refused_with_a_sentence(role: object, words: str) -> None:
    with pytest.raises(BadOption, match=words):
        parse([role])


def test_two_roles_of_one_name_are_refused() -> None:
    with pytest.raises(BadOption, match=r"“grader”.*two"):
        parse([{"name": "grader"}, {"name": "grader"}])
