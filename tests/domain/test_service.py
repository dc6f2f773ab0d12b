from __future__ import annotations

from typing import Any

import pytest

from appliance.domain.capability import injected_token, service_token
from appliance.domain.service import clashes, parse, parse_all, validate_servicename
from appliance.domain.urls import Urls
from appliance.errors import BadInput, BadName, BadOption, BadScope

pytestmark = pytest.mark.unit

TOKEN = "0123456789abcdef0123456789abcdef"


def refusal(**said: Any) -> str:
    with pytest.raises(BadInput) as caught:
        parse({"name": "culler", **said})
    return caught.value.sentence


def test_everything_jupyterhub_takes_is_taken() -> None:
    service = parse({
        "name": "Grades_1.b", "admin": True, "url": "http://127.0.0.1:9999/", "api_token": TOKEN,
        "command": ["python3", "-m", "grades"], "cwd": "/srv/grades", "user": "grader", "environment": {"DEBUG": 1},
        "oauth_client_id": "service-grades", "oauth_redirect_uri": "https://grades.school/oauth_callback",
        "oauth_client_allowed_scopes": ["read:users!user", "read:users!user"], "oauth_no_confirm": True,
        "info": {"about": ["anything", 1]}, "display": False, "timeout": 5})
    assert (service.name, service.admin, service.url, service.api_token) == ("Grades_1.b", True, "http://127.0.0.1:9999", TOKEN)
    assert (service.command, service.cwd, service.user) == (("python3", "-m", "grades"), "/srv/grades", "grader")
    assert service.environment == {"DEBUG": "1"}
    assert service.oauth_client_allowed_scopes == ("read:users!user",)
    assert (service.oauth_client_id, service.oauth_no_confirm, service.display, service.timeout_s) == (
        "service-grades", True, False, 5)
    assert (service.kind, service.has_address, service.has_oauth) == ("managed", True, True)
    assert TOKEN not in repr(service)


def test_what_is_left_out_or_none_is_the_default() -> None:
    service = parse({"name": "culler", "url": None, "command": None, "info": None})
    assert service == parse({"name": "culler"})
    assert (service.kind, service.oauth_client_id, service.has_address, service.has_oauth) == (
        "external", "service-culler", False, False)


def test_a_command_may_be_one_word_as_in_jupyterhub() -> None:
    assert parse({"name": "culler", "command": "/usr/bin/culler"}).command == ("/usr/bin/culler",)


def test_a_service_in_a_container() -> None:
    service = parse({"name": "course101", "user": "grader-course101", "container": {
        "image": "appliance/notebook:latest", "mem_limit": "1G", "cpu_limit": 2, "volumes": {"/srv/exchange": "/exchange"}}})
    assert service.container is not None
    assert (service.kind, service.has_address, service.url) == ("managed", True, "")
    assert (service.container.port, service.container.mem_limit_bytes, service.container.cpu_limit) == (8888, 1 << 30, 2.0)


@pytest.mark.parametrize(("said", "words"), [
    ({"comand": ["x"]}, "There is no “comand” in a service; the nearest is “command”."),
    ({"colour": "red"}, "There is no “colour” in a service; there is admin, api_token,"),
    ({"api_token": "short"}, "“api_token” is too short: it needs at least 16 characters"),
    ({"api_token": "spaces in a token are not fine"}, "“api_token” has at most 128 characters"),
    ({"api_token": "x" * 129}, "“api_token” has at most 128 characters"),
    ({"admin": "yes"}, "“admin” is True or False."),
    ({"url": 9999}, "“url” has to be text in quotes."),
    ({"command": "sleep 5"}, "“command” is a list of words: write [\"sleep\", \"5\"]."),
    ({"command": "echo 'so far"}, "“command” is a list of words: write [\"echo\", "),
    ({"command": [1]}, "“command” is a list of words"),
    ({"command": [""]}, "“command” begins with a program."),
    ({"environment": {"A B": "x"}, "command": ["x"]}, "“A B”, which cannot be the name of a variable"),
    ({"environment": {"A": ["x"]}, "command": ["x"]}, "the value of A has to be text"),
    ({"environment": {"A": "x"}}, "“environment” is for a service that the Hub starts"),
    ({"user": "ada"}, "“user” is for a service that the Hub starts"),
    ({"oauth_client_id": "jupyterhub-user-ada"}, "“oauth_client_id” begins with “service-”"),
    ({"oauth_redirect_uri": "//evil.example/x"}, "“oauth_redirect_uri” is an address like"),
    ({"oauth_redirect_uri": "javascript:alert(1)"}, "“oauth_redirect_uri” is an address like"),
    ({"oauth_redirect_uri": "https://a.b/c#d"}, "“oauth_redirect_uri” is an address like"),
    ({"oauth_redirect_uri": "https://user@a.b/c"}, "“oauth_redirect_uri” is an address like"),
    ({"oauth_client_allowed_scopes": "users"}, "“oauth_client_allowed_scopes” is a list of scopes"),
    ({"oauth_client_allowed_scopes": ["everything"]}, "There is no scope “everything”."),
    ({"oauth_no_confirm": True}, "“oauth_no_confirm” needs “url” or “oauth_redirect_uri”"),
    ({"oauth_roles": ["user"]}, "oauth_client_allowed_scopes"),
    ({"info": ["x"]}, "“info” is a dictionary"),
    ({"info": {"x": {1, 2}}}, "“info” holds what cannot be said in JSON"),
    ({"timeout": 0}, "“timeout” is a whole number of seconds"),
    ({"timeout": True}, "“timeout” is a whole number of seconds"),
    ({"container": {"image": "a"}, "user": "ada", "url": "http://127.0.0.1:1"}, "give “port” in “container” instead of “url”"),
    ({"container": {"image": "a"}}, "A service in a container needs “user”"),
    ({"container": {"image": "a"}, "user": "../x"}, "A name cannot contain “/”"),
    ({"container": {"imgae": "a"}, "user": "ada"}, "There is no “imgae” in “container”; the nearest is “image”."),
    ({"container": {"port": 1}, "user": "ada"}, "“container” needs an “image”"),
    ({"container": {"image": "a", "mem_limit": "much"}, "user": "ada"}, "“much” is not a size"),
    ({"container": {"image": "a", "cpu_limit": -1}, "user": "ada"}, "“cpu_limit” is a number of cores"),
])
def test_what_cannot_be_is_refused_with_a_sentence(said: dict[str, Any], words: str) -> None:
    assert words in refusal(**said)


@pytest.mark.parametrize("url", [
    "127.0.0.1:9999", "ftp://127.0.0.1", "http://", "http://:80", "http://a b", "http://x:0", "http://x:99999", "http://x:",
    "http://u:p@x", "http://x/path", "http://x?q=1", "http://x/#f", "http://x?", "http://`x`", "http://[::1", "unix:///x",
    "http://x\n", "http://[fe80::1%eth0]:80", "http://-x"])
def test_only_plain_addresses_are_taken(url: str) -> None:
    assert "“url” " in refusal(url=url)


@pytest.mark.parametrize(("url", "kept"), [
    ("http://127.0.0.1:9999", "http://127.0.0.1:9999"), ("https://grades.school/", "https://grades.school"),
    ("http://[::1]:80", "http://[::1]:80"), ("http://localhost", "http://localhost"), ("", "")])
def test_an_address_is_kept_without_its_slash(url: str, kept: str) -> None:
    assert parse({"name": "grades", "url": url}).url == kept


@pytest.mark.parametrize("name", [
    "", ".", "..", "-x", ".x", "a/b", "a b", "josé", "x" * 65, "a`b", "a%2fb", "a\nb", "Hub", "appliance", 7, None, "a:b",
    "a@b"])
def test_names_that_cannot_be(name: object) -> None:
    with pytest.raises(BadName):
        validate_servicename(name)


@pytest.mark.parametrize("name", ["a", "course101", "Math-1", "a.b_c-9", "x" * 64])
def test_names_that_can_be(name: str) -> None:
    assert validate_servicename(name) == name


@pytest.mark.parametrize(("services", "words"), [
    ([{"name": "a"}, {"name": "A"}], "service “A”: There is another service with the name “a”."),
    ([{"name": "a", "api_token": TOKEN}, {"name": "b", "api_token": TOKEN}],
     "service “b”: The service “a” has the same api_token."),
    ([{"name": "a"}, {"name": "b", "oauth_client_id": "service-a"}],
     "service “b”: The service “a” has the same oauth_client_id."),
    ([{"name": "a"}, "b"], "service number 2: A service is described by a dictionary"),
    ([{"url": "http://x"}], "service number 1: A service needs a name."),
    ([{"name": "a", "url": "x"}], "service “a”: “url” is like"),
])
def test_of_several_the_one_that_is_wrong_is_named(services: list[Any], words: str) -> None:
    with pytest.raises(BadOption) as caught:
        parse_all(services)
    assert words in caught.value.sentence
    assert TOKEN not in caught.value.sentence


def test_what_the_api_makes_is_never_started_by_the_hub() -> None:
    for said in ({"command": ["rm"]}, {"container": {"image": "a"}, "user": "ada"}):
        with pytest.raises(BadOption):
            parse({"name": "x", **said}, from_config=False)
    assert not parse({"name": "x", "url": "http://127.0.0.1:1"}, from_config=False).from_config


def test_scopes_of_one_s_own_are_known() -> None:
    from appliance.domain.scopes import define

    known = define({"custom:grades:read": {"description": "read grades"}})
    said = {"name": "grades", "url": "http://x", "oauth_client_allowed_scopes": ["custom:grades:read"]}
    assert parse(said, known).oauth_client_allowed_scopes == ("custom:grades:read",)
    with pytest.raises(BadScope):
        parse(said)


def test_two_that_can_both_be() -> None:
    assert clashes(parse({"name": "a"}), parse({"name": "b"})) == ""


def test_a_service_s_own_token_is_its_own() -> None:
    key = b"k" * 32
    tokens = {service_token(key, "a"), service_token(key, "b"), service_token(b"j" * 32, "a"), injected_token(key, "a", 1)}
    assert len(tokens) == 4
    assert service_token(key, "a") == service_token(key, "a")


def test_where_a_service_stands() -> None:
    assert Urls("/jupyter/").service("course101") == "/jupyter/services/course101/"
