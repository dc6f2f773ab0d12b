"""Secrets that are kept only as salted hashes and found by an indexed prefix."""

from __future__ import annotations

import hashlib
import hmac
import secrets

PREFIX_LENGTH = 8


def hashed(secret: str, salt: str = "") -> str:
    """Return "salt:hash". SHA-512 is enough, because the secrets are random and long."""
    salt = salt or secrets.token_hex(8)
    return f"{salt}:{hashlib.sha512((salt + secret).encode()).hexdigest()}"


def matches(stored: str, secret: str) -> bool:
    return hmac.compare_digest(stored.encode(), hashed(secret, stored.partition(":")[0]).encode())
