"""A session token opens nothing but what it was issued for. Forgeries are made by hand, not by the library."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from appliance.jwt import SessionTokens

pytestmark = pytest.mark.unit

SECRET = bytes(range(32))
NOW = datetime.now(UTC)
LATER = NOW + timedelta(hours=1)
GOOD = {"iss": "appliance", "aud": "hub", "sub": "7", "sid": "abcdefgh", "iat": int(NOW.timestamp()),
        "exp": int(LATER.timestamp())}
HEADER = {"alg": "HS256", "typ": "JWT"}


@pytest.fixture
def tokens() -> SessionTokens:
    return SessionTokens(SECRET, timedelta(days=14))


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forge(claims: Any = GOOD, header: Any = None, *, secret: bytes = SECRET, digest: str = "sha256") -> str:
    signed = ".".join(b64(json.dumps(part, separators=(",", ":")).encode())
                      for part in (HEADER if header is None else header, claims))
    return f"{signed}.{b64(hmac.new(secret, signed.encode(), digest).digest())}"


def without(claim: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key != claim}


def test_issued_token_is_read_back(tokens: SessionTokens) -> None:
    claims = tokens.read(tokens.issue("abcdefgh", 7, expires_at=LATER))
    assert claims is not None
    assert (claims.session_id, claims.user_id) == ("abcdefgh", 7)
    assert claims.expires_at == LATER.replace(microsecond=0)


def test_token_made_by_hand_as_ours_are_is_read(tokens: SessionTokens) -> None:
    assert tokens.read(forge()) is not None  # or the refusals below would prove nothing


def test_no_token_outlives_the_longest_age(tokens: SessionTokens) -> None:
    claims = tokens.read(tokens.issue("abcdefgh", 7, expires_at=NOW + timedelta(days=400)))
    assert claims is not None
    assert claims.expires_at < datetime.now(UTC) + timedelta(days=14, minutes=1)


def test_expired_token_is_refused(tokens: SessionTokens) -> None:
    assert tokens.read(tokens.issue("abcdefgh", 7, expires_at=NOW - timedelta(seconds=1))) is None


def test_token_expires_while_time_goes_by() -> None:
    clock = [NOW]
    tokens = SessionTokens(SECRET, timedelta(days=14), now=lambda: clock[0])
    token = tokens.issue("abcdefgh", 7, expires_at=LATER)
    assert tokens.read(token)
    clock[0] = LATER + timedelta(seconds=1)
    assert tokens.read(token) is None


def test_token_for_another_audience_is_refused(tokens: SessionTokens) -> None:
    token = tokens.issue("abcdefgh", 7, audience="visit", expires_at=LATER)
    assert tokens.read(token, "hub") is None
    assert tokens.read(token, "visit") is not None


@pytest.mark.parametrize("claims", [
    {**GOOD, "aud": ["hub", "visit"]}, {**GOOD, "iss": "someone"}, {**GOOD, "sub": "seven"}, {**GOOD, "sid": 1},
    {**GOOD, "exp": "9999999999"}, {**GOOD, "exp": None}, {**GOOD, "exp": 1e400}, {**GOOD, "exp": True},
    {**GOOD, "sub": 7}, {**GOOD, "nbf": int(LATER.timestamp())}, [], "text", 1, {},
    *(without(claim) for claim in GOOD),
])
def test_signed_token_with_wrong_or_missing_claims_is_refused(tokens: SessionTokens, claims: Any) -> None:
    assert tokens.read(forge(claims)) is None


def test_token_signed_with_another_key_is_refused(tokens: SessionTokens) -> None:
    assert tokens.read(forge(secret=os.urandom(32))) is None
    assert tokens.read(forge(secret=b"")) is None


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "", None, ["HS256"], {}, 1])
def test_token_without_a_signature_is_refused(tokens: SessionTokens, alg: Any) -> None:
    signed = forge(header={"alg": alg, "typ": "JWT"})
    assert tokens.read(signed) is None
    assert tokens.read(signed.rsplit(".", 1)[0] + ".") is None
    assert tokens.read(forge().rsplit(".", 1)[0] + ".") is None


@pytest.mark.parametrize(("alg", "digest"), [("HS512", "sha512"), ("HS384", "sha384"), ("RS256", "sha256"),
                                             ("ES256", "sha256"), ("dir", "sha256")])
def test_token_that_names_another_algorithm_is_refused(tokens: SessionTokens, alg: str, digest: str) -> None:
    assert tokens.read(forge(header={"alg": alg, "typ": "JWT"}, digest=digest)) is None


@pytest.mark.parametrize("extra", [
    {"kid": "../../dev/null"}, {"jku": "http://127.0.0.1/keys"}, {"x5u": "http://127.0.0.1/"}, {"crit": ["b64"]},
    {"jwk": {"kty": "oct", "k": b64(b"mine" * 8)}},
])
def test_key_named_in_the_header_is_not_used(tokens: SessionTokens, extra: dict[str, Any]) -> None:
    assert tokens.read(forge(header={**HEADER, **extra}, secret=b"mine" * 8)) is None
    assert tokens.read(forge(header={**HEADER, **extra})) is None


@pytest.mark.parametrize("garbage", [
    "", ".", "..", "...", "a.b.c", "\0", "é.é.é", "\ud800.x.y", "Bearer x", b64(b"[" * 7000) + ".e30." + "A" * 43,
    forge() + ".", forge() + "=", forge() + "\n", " " + forge(), forge()[:-1], forge().replace(".", "..", 1),
    forge().upper(), forge().rsplit(".", 1)[0] + "." + "A" * 43,
])
def test_garbage_is_refused(tokens: SessionTokens, garbage: str) -> None:
    assert tokens.read(garbage) is None


def test_overlong_token_is_refused_although_it_is_signed(tokens: SessionTokens) -> None:
    assert tokens.read(forge({**GOOD, "pad": "x" * 100})) is not None
    assert tokens.read(forge({**GOOD, "pad": "x" * 10_000})) is None


def test_every_changed_byte_is_refused(tokens: SessionTokens) -> None:
    token = tokens.issue("abcdefgh", 7, expires_at=LATER)
    for at in range(len(token) - 1):  # the last letter holds two bits that no byte holds
        changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1:]
        assert tokens.read(changed) is None, at


def test_key_that_looks_like_json_is_used_as_bytes() -> None:
    looks = b'{"keys": [{"kty": "oct", "k": ""}]}'
    tokens = SessionTokens(looks, timedelta(days=1))
    token = tokens.issue("abcdefgh", 7, expires_at=LATER)
    signed, mac = token.rsplit(".", 1)
    assert mac == b64(hmac.new(looks, signed.encode(), hashlib.sha256).digest())
    assert tokens.read(forge(secret=b"")) is None


def test_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        SessionTokens(b"short", timedelta(days=1))
