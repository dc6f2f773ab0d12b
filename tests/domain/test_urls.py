from __future__ import annotations

import pytest

from appliance.domain.urls import Urls, origin_of
from appliance.errors import BadNext

pytestmark = pytest.mark.unit

ELSEWHERE = [
    "https://evil.example", "http:evil.example", "//evil.example", "///evil.example", "////evil.example", "/\\evil.example",
    "\\\\evil.example", "\\/evil.example", "/\t/evil.example", "/\n/evil.example", "/\r/evil.example", "\t//evil.example",
    " //evil.example", "/%2fevil.example", "/%2Fevil.example", "/%5cevil.example", "/%252fevil.example", "/%25252fevil.example",
    "/%09/evil.example", "/hub//evil.example", "/hub/..//evil.example", "/hub/../../evil", "/./hub", "/hub/%2e%2e/x",
    "/%2e%2e/evil", "javascript:alert(1)", "data:text/html,x", "evil.example", "?next=//evil", "#x", "/\x00/evil",
    "/\u2028/evil ",
    "http:///evil.example", "/" + "a" * 5000, "/hub\\@evil.example", "/hub/\x7f",
]


@pytest.mark.parametrize("target", ELSEWHERE)
def test_what_leads_elsewhere_is_refused(target: str) -> None:
    with pytest.raises(BadNext):
        Urls().safe_next(target)


@pytest.mark.parametrize("target", [
    "/hub/home", "/user/alice/lab/tree/a%20b.ipynb?reset#x", "/user/jos%C3%A9/",
    "/hub/user-redirect/git-pull?repo=https%3A%2F%2Fgit.example%2Fx&urlpath=lab%2Ftree%2Fx", "/hub/x?u=https://a//b/../c", "/",
])
def test_what_leads_to_this_box_is_kept_as_it_is(target: str) -> None:
    assert Urls().safe_next(target) == target


def test_nothing_is_nothing() -> None:
    assert Urls().safe_next("") is None
    assert Urls().safe_next(None) is None


def test_only_what_is_below_the_base_is_this_box() -> None:
    urls = Urls("/jupyter/")
    assert urls.safe_next("/jupyter/hub/home") == "/jupyter/hub/home"
    with pytest.raises(BadNext):
        urls.safe_next("/other/app")


def test_addresses_of_servers() -> None:
    urls = Urls("/jupyter/")
    assert urls.server("josé@x") == "/jupyter/user/jos%C3%A9@x/"
    assert urls.server_decoded("josé@x", "lab2") == "/jupyter/user/josé@x/lab2/"


@pytest.mark.parametrize(("scheme", "host", "origin"), [
    ("https", "Box.School", "https://box.school"), ("https", "box:443", "https://box"), ("http", "box:80", "http://box"),
    ("http", "10.0.0.5:8000", "http://10.0.0.5:8000"), ("http", "[::1]:8000", "http://[::1]:8000"),
    ("http", "a b", ""), ("http", "", ""), ("http", "x/y", ""), ("ftp", "x", ""), ("http", "x`y", ""), ("http", "a,b", ""),
])
def test_origins(scheme: str, host: str, origin: str) -> None:
    assert origin_of(scheme, host) == origin
