from __future__ import annotations

import re

import pytest

from appliance.domain.capability import (
    Capability,
    cookie_name,
    derive_key,
    injected_token,
    read_server_token,
    server_id_of_cookie,
    server_token,
    verify,
)

pytestmark = pytest.mark.unit

KEY = derive_key(b"s" * 32, "capability")
ONE = Capability("session22222", "server33333", 4)


def test_a_capability_verifies_for_what_it_says_and_nothing_else() -> None:
    value = ONE.value(KEY)
    assert verify(KEY, ONE.server_id, value) == ONE
    assert verify(KEY, "another22222", value) is None
    assert verify(derive_key(b"s" * 32, "session"), ONE.server_id, value) is None
    session, start_no, role, mac = value.split(".")
    for forged in (f"other2222222.{start_no}.{role}.{mac}", f"{session}.5.{role}.{mac}", f"{session}.{start_no}.visitor.{mac}",
                   value[:-1], value + "A", value.upper(), "", "....", value.replace(".", " ")):
        assert verify(KEY, ONE.server_id, forged) is None


def test_a_value_needs_no_quoting_in_a_cookie_or_a_rule() -> None:
    assert re.fullmatch(r"[A-Za-z0-9._-]+", ONE.value(KEY))
    assert server_id_of_cookie(cookie_name("server33333")) == "server33333"
    for other in ("_xsrf", "appliance-server-", "appliance-server-a/b", "xappliance-server-abcdefghij"):
        assert server_id_of_cookie(other) is None


def test_the_injected_token_is_another_for_each_start() -> None:
    tokens = {injected_token(KEY, "server33333", n) for n in range(5)} | {injected_token(KEY, "server44444", 0)}
    assert len(tokens) == 6


def test_a_server_s_own_token_says_which_start_it_is_of_and_nothing_else_is_one() -> None:
    token = server_token(KEY, "k3f9abcd", 7)
    assert read_server_token(KEY, token) == ("k3f9abcd", 7)
    for other in ("", "k3f9abcd.7.", token + "x", token.replace(".7.", ".8."), token.upper(), token.replace("k3f9", "k3f8"),
                  injected_token(KEY, "k3f9abcd", 7), "ü" + token[1:]):
        assert read_server_token(KEY, other) is None
    assert read_server_token(b"other" * 8, token) is None
    assert injected_token(KEY, "k3f9abcd", 7) not in token
