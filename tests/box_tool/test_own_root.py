"""Another name for the box, and the root that every device would have to trust anew; with the real openssl."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.box.check_root import check_own_root
from appliance.box.machine import Machine
from appliance.box.paths import Paths
from appliance.box.plan import Plan
from appliance.proxies.certificates import ensure_leaf, fingerprint

pytestmark = pytest.mark.unit

TLS = "var/lib/appliance/state/tls"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with a box that was called box.school.example, at two addresses."""
    ensure_leaf(tmp_path / TLS, ("box.school.example", "192.168.7.2", "203.0.113.9"))
    return tmp_path


def status(root: Path, **plan: object) -> list[str]:
    return [check.status for check in check_own_root(Machine(Paths(root)), Plan.of({"tls": "selfsigned", **plan}))]


@pytest.mark.parametrize("name", ["box.school.example", "lab.box.school.example", "BOX.school.example", "box.local", "10.1.2.3",
                                  "203.0.113.9", "fd00::7"])
def test_a_name_that_the_root_may_sign_for_asks_nothing_and_keeps_it(root: Path, name: str) -> None:
    assert status(root, name=name) == ["ok"]
    before = fingerprint(root / TLS / "ca.crt")
    ensure_leaf(root / TLS, (name.lower(),))
    assert fingerprint(root / TLS / "ca.crt") == before, "the check and what it foretells differ"


@pytest.mark.parametrize("name", ["school.example", "otherbox.school.example", "203.0.113.10", "2001:db8::1"])
def test_another_root_comes_only_when_that_is_said(root: Path, name: str) -> None:
    assert status(root, name=name) == ["fail"]
    assert status(root, name=name, tls_new_root=True) == ["warn"]
    before = fingerprint(root / TLS / "ca.crt")
    ensure_leaf(root / TLS, (name,))
    assert fingerprint(root / TLS / "ca.crt") != before, "the check and what it foretells differ"


def test_it_is_said_before_anything_else_is_done_what_to_do(root: Path) -> None:
    check = next(check_own_root(Machine(Paths(root)), Plan.of({"tls": "selfsigned", "name": "new.example"})))
    assert "every device that trusts the old one" in check.sentence
    assert "traefik_new_root: true" in check.remedy


def test_nothing_is_asked_where_there_is_no_root_of_the_boxs_own(root: Path, tmp_path: Path) -> None:
    assert status(root, name="new.example", tls="files") == []
    assert status(root, name="") == []
    (root / TLS / "ca.crt").unlink()
    assert status(root, name="new.example") == []
