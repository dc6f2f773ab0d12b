"""Names in roles that belong to nobody are told, with the nearest one."""

from __future__ import annotations

import pytest

from appliance.domain.rolenames import unknown_names
from appliance.domain.roles import parse

pytestmark = pytest.mark.unit

THERE = {"user": {"ada", "bob"}, "group": {"teachers", "7b"}, "service": {"idle-culler"}}


def test_who_is_there_needs_no_word() -> None:
    assert unknown_names(parse([]), THERE) == []
    assert unknown_names(parse([{
        "name": "grader", "users": ["ada"], "groups": ["teachers"], "services": ["idle-culler"],
        "scopes": ["list:users!group=7b", "read:users!user=bob", "access:servers!server=bob/lab", "self", "servers!user"]}]),
        THERE) == []


@pytest.mark.parametrize(("role", "words"), [
    ({"services": ["idle-culer"]}, "is for the service “idle-culer”, which there is not; the nearest is “idle-culler”."),
    ({"users": ["zoe"]}, "is for the user “zoe”, which there is not so far."),
    ({"groups": ["teacher"]}, "is for the group “teacher”, which there is not so far; the nearest is “teachers”."),
    ({"scopes": ["list:users!group=7bb"]}, "speaks of the group “7bb”, which there is not so far; the nearest is “7b”."),
    ({"scopes": ["read:users!user=adda"]}, "speaks of the user “adda”, which there is not so far; the nearest is “ada”."),
    ({"scopes": ["access:servers!server=bop/lab"]}, "speaks of the user “bop”"),
    ({"scopes": ["access:services!service=culler"]}, "speaks of the service “culler”"),
])
def test_who_is_not_is_named_with_the_role_and_the_nearest(role: dict[str, object], words: str) -> None:
    sentence, = unknown_names(parse([{"name": "grader", **role}]), THERE)
    assert sentence.startswith(f"The role “grader” {words}")
