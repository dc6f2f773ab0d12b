"""Session tokens as JWTs: the one file that uses python-jose, so that one file is enough to replace it."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from jose import jwt  # type: ignore[import-untyped]  # has no types
from jose.exceptions import JOSEError  # type: ignore[import-untyped]  # has no types

ALGORITHM = "HS256"
ISSUER = "appliance"
MAX_LENGTH = 10_000
_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{43}")
_OPTIONS = {f"require_{claim}": True for claim in ("aud", "exp", "iat", "iss", "sub")} | {"leeway": 0}


@dataclass(frozen=True)
class Claims:
    session_id: str
    user_id: int
    expires_at: datetime


class SessionTokens:
    """Issues and reads the tokens in session cookies. A token says who; the store says whether the session still lives.

    secret: at least 32 bytes. max_age: no token lives longer, whatever its caller asks for.
    """

    def __init__(self, secret: bytes, max_age: timedelta, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)):
        if len(secret) < 32:
            raise ValueError("a signing key has at least 32 bytes")
        # a JWK, because jose parses a plain key that happens to look like JSON
        self._key = {"kty": "oct", "k": base64.urlsafe_b64encode(secret).rstrip(b"=").decode()}
        self._max_age = max_age
        self._now = now
        # Every token of ours has this very header; one with another algorithm, a kid or a jwk never gets to a parser.
        self._header = jwt.encode({}, self._key, algorithm=ALGORITHM).split(".")[0] + "."

    def issue(self, session_id: str, user_id: int, *, expires_at: datetime, audience: str = "hub") -> str:
        """Return a token. expires_at: aware."""
        now = self._now()
        claims = {
            "iss": ISSUER, "aud": audience, "sub": str(user_id), "sid": session_id,
            "iat": int(now.timestamp()), "exp": int(min(expires_at, now + self._max_age).timestamp()),
        }
        return str(jwt.encode(claims, self._key, algorithm=ALGORITHM))

    def read(self, token: str, audience: str = "hub") -> Claims | None:
        """Return what a token of ours for `audience` says, None for any other and for one that has expired."""
        if len(token) > MAX_LENGTH or not token.startswith(self._header) or not _TOKEN.fullmatch(token):
            return None
        try:
            claims = jwt.decode(
                token, self._key, algorithms=[ALGORITHM], audience=audience, issuer=ISSUER, options=_OPTIONS)
        except (JOSEError, TypeError, ValueError, ArithmeticError):  # jose lets through what odd claims raise
            return None
        session_id, user_id, expires = claims.get("sid"), claims["sub"], claims["exp"]
        if claims["aud"] != audience or not isinstance(session_id, str) or not user_id.isdecimal():
            return None
        if type(expires) is not int or expires <= self._now().timestamp():
            return None
        return Claims(session_id, int(user_id), datetime.fromtimestamp(expires, UTC))
