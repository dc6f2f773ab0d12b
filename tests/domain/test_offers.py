"""What the configuration offers, what groups change, and what somebody's own options may be."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from appliance.domain.group_limits import (
    GroupLimits,
    check_properties,
    merged,
    of_group,
    parse_limits,
    read_properties,
)
from appliance.domain.names import validate_new_servername, validate_servername
from appliance.domain.offers import ImageChoice, parse_images, parse_profiles, parse_start
from appliance.domain.user_options import MOST_BYTES, check_user_options
from appliance.errors import BadName, BadOption

pytestmark = pytest.mark.unit

GB = 1 << 30


def test_images_are_a_list_or_named_and_described() -> None:
    assert parse_images(["r:1", "py:2"]) == (ImageChoice("r:1", "r:1", "r:1"), ImageChoice("py:2", "py:2", "py:2"))
    assert parse_images({"R": "r:1", "py": {"image": "py:2", "display_name": "Python", "description": "For maths"}}) == (
        ImageChoice("R", "r:1", "R"), ImageChoice("py", "py:2", "Python", "For maths"))


@pytest.mark.parametrize("said", [
    "r:1", 5, None, [5], [""], {"R": 5}, {"R": {}}, {"R": {"image": ""}}, {"R": {"image": "r", "limit": 1}}, ["a\nb"],
    ["x" * 300]])
def test_images_of_another_kind_are_refused(said: Any) -> None:
    with pytest.raises(BadOption):
        parse_images(said)


def test_a_profile_says_as_much_as_it_likes() -> None:
    plain, full = parse_profiles([{"display_name": "Plain Python 3"}, {
        "display_name": "Statistics", "slug": "r", "description": "With RStudio", "default": True, "groups": ["7b"],
        "image": "r:1", "mem_limit": "2G", "cpu_limit": 1.5, "environment": {"COURSE": 7}, "default_url": "/rstudio"}])
    assert (plain.slug, plain.default, plain.groups, plain.start.image) == ("plain-python-3", False, (), "")
    assert (full.slug, full.default, full.default_url) == ("r", True, "/rstudio")
    assert (full.start.mem_limit_bytes, full.start.cpu_limit, full.start.environment) == (2 * GB, 1.5, {"COURSE": "7"})
    assert plain.is_for([])
    assert full.is_for(["7a", "7b"])
    assert not full.is_for(["7a"])


@pytest.mark.parametrize("said", [
    "x", {}, {"display_name": ""}, {"display_name": "A", "slug": "Ä B"}, {"display_name": "数学"},
    {"display_name": "A", "kernel": 1},
    {"display_name": "A", "groups": "7b"}, {"display_name": "A", "mem_limit": "lots"}, {"display_name": "A", "mem_limit": 5},
    {"display_name": "A", "cpu_limit": 0}, {"display_name": "A", "cpu_limit": True},
    {"display_name": "A", "environment": ["x"]},
    {"display_name": "A", "environment": {"a b": "c"}}, {"display_name": "A", "environment": {"A": "\0"}},
    {"display_name": "A", "default_url": "/a b"}, {"display_name": "A", "default_url": "lab"}])
def test_a_profile_that_cannot_be_is_refused(said: Any) -> None:
    with pytest.raises(BadOption):
        parse_profiles([said])


def test_two_profiles_cannot_have_one_name() -> None:
    with pytest.raises(BadOption, match="slug"):
        parse_profiles([{"display_name": "A"}, {"display_name": "a"}])


def test_a_start_has_no_keys_but_ours() -> None:
    assert parse_start({"mem_limit": "1G"}).mem_limit_bytes == GB
    with pytest.raises(BadOption, match="privileged"):
        parse_start({"privileged": True})


# -- groups -------------------------------------------------------------------------------------------------------------
def test_of_several_groups_the_highest_limit_holds_and_lists_add_up() -> None:
    small = parse_limits({"mem_limit": "1G", "cpu_limit": 1, "allowed_images": ["r:1"], "profiles": ["a"],
                          "max_named_servers": 1})
    large = parse_limits({"mem_limit": "4G", "allowed_images": ["py:2", "r:1"], "profiles": ["b"], "image": "py:2"})
    both = merged([small, large])
    assert (both.mem_limit_bytes, both.cpu_limit, both.max_named_servers, both.image) == (4 * GB, 1.0, 1, "py:2")
    assert [choice.image for choice in both.allowed_images or ()] == ["r:1", "py:2"]
    assert both.profiles == ("a", "b")
    assert merged([]) == GroupLimits()


def test_no_limit_of_servers_is_more_than_any_number() -> None:
    assert merged([parse_limits({"max_named_servers": 5}), parse_limits({"max_named_servers": 0})]).max_named_servers == 0


def test_properties_go_before_the_configuration_key_by_key() -> None:
    found = of_group(parse_limits({"mem_limit": "1G", "cpu_limit": 1}), check_properties({"mem_limit": "2G", "colour": "red"}))
    assert (found.mem_limit_bytes, found.cpu_limit) == (2 * GB, 1.0)


@pytest.mark.parametrize("said", [
    {"mem_limit": []}, {"mem_limit": True}, {"mem_limit": -1}, {"mem_limit": "9" * 40 + "T"}, {"cpu_limit": "two"},
    {"cpu_limit": math.inf}, {"cpu_limit": math.nan}, {"image": 5}, {"image": ""}, {"allowed_images": "r:1"},
    {"profiles": "a"}, {"profiles": [1]}, {"max_named_servers": -1}, {"max_named_servers": True}, {"max_named_servers": "3"}])
def test_a_wrong_value_of_one_of_our_keys_is_refused_and_spoils_no_other(said: dict[str, Any]) -> None:
    with pytest.raises(BadOption):
        check_properties(said)
    other = "cpu_limit" if "cpu_limit" not in said else "mem_limit"
    value = {"cpu_limit": 2, "mem_limit": "1G"}[other]
    assert read_properties({**said, other: value}) == check_properties({other: value})


def test_the_configuration_may_hold_no_other_keys() -> None:
    with pytest.raises(BadOption, match="memory"):
        parse_limits({"memory": "1G"})
    assert check_properties({"memory": "1G"}) == GroupLimits()


# -- options ------------------------------------------------------------------------------------------------------------
def test_options_are_kept_as_they_came() -> None:
    said = {"image": "R", "profile": "r", "list": [1, 2.5, None, True, {"deep": "ä"}]}
    assert check_user_options(said) == json.loads(json.dumps(said))


def deep(levels: int) -> Any:
    return {"a": deep(levels - 1)} if levels else 1


@pytest.mark.parametrize("said", [
    [], "x", None, 5, {"__class__": "x"}, {"__jupyterhub_bytes__": True}, {"a": {"__b__": 1}}, {"a": [{"__b__": 1}]}, {"": 1},
    {"x" * 101: 1}, {5: 1}, {"a\nb": 1}, {"a": "\0"}, {"a": "\ud800"}, {"a": math.nan}, {"a": math.inf}, {"a": 10 ** 400},
    {"a": b"x"}, {"a": "x" * MOST_BYTES}, deep(50)], ids=lambda said: repr(said)[:30])
def test_options_that_could_break_a_listing_are_refused(said: Any) -> None:
    with pytest.raises(BadOption):
        check_user_options(said)


# -- names --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["lab", "API", "tree", "oauth_callback", "hub", "git-pull"])
def test_a_server_cannot_be_called_like_a_page_of_every_server(name: str) -> None:
    with pytest.raises(BadName):
        validate_new_servername(name)
    assert validate_servername(name)    # one that is there is still found


def test_other_names_are_fine() -> None:
    assert validate_new_servername("Lab2") == "lab2"
    assert validate_new_servername("") == ""
