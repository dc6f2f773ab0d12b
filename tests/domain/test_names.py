from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.names import MAX_LENGTH, quote_name, validate_servername, validate_username
from appliance.errors import BadName

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("said", "stored"), [
    ("alice", "alice"), ("Alice", "alice"), ("  alice ", "alice"), ("José", "josé"), ("a\u0301nna", "ánna"),
    ("eva.mueller@school.example", "eva.mueller@school.example"), ("7b", "7b"), ("Пётр", "пётр"), ("李明", "李明"),
])
def test_names_are_stored_in_one_spelling(said: str, stored: str) -> None:
    assert validate_username(said) == stored


@pytest.mark.parametrize("name", [
    "", ".", "..", "...", "/", "a/b", "a\\b", "a b", "a\x00b", "a\nb", "a\x7fb", "x" * 300, "x" * (MAX_LENGTH + 1), "-a", ".a",
    "_a", "@a", "a`b", "a'b", 'a"b', "a%2fb", "a;b", "a?b", "a#b", "a<b>", "{a}", "a$b", "a\u200bb", "a\u202eb", "a\ufeff",
    "\u0430lice",            # one Cyrillic letter among Latin ones
    "\u0430\u0441\u0435",    # Cyrillic letters that all look Latin
    "a\u0338", "\U0001f600",
])
def test_other_names_are_refused_with_a_sentence(name: str) -> None:
    with pytest.raises(BadName) as refusal:
        validate_username(name)
    assert refusal.value.sentence.endswith(".")
    assert len(refusal.value.sentence) < 200
    assert "\x00" not in refusal.value.sentence


@given(st.text())
def test_a_valid_name_is_safe_wherever_it_goes(text: str) -> None:
    try:
        name = validate_username(text)
    except BadName:
        return
    assert validate_username(name) == name
    assert not set(name) & set("`/\\%\"'<>;?#&{}$ \t\r\n\0")
    assert name not in (".", "..")
    assert "/" not in quote_name(name)


@pytest.mark.parametrize("byte", range(256))
def test_every_byte_is_decided(byte: int) -> None:
    char = bytes([byte]).decode("latin-1")
    try:
        name = validate_username(f"a{char}b")
    except BadName:
        return
    assert all(c.isalnum() or c in "._-@" for c in name)


def test_the_default_servers_name_is_empty() -> None:
    assert validate_servername("") == ""
    with pytest.raises(BadName):
        validate_servername("..")
