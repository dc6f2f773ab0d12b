"""Accounts of the box's own: names in the database, passwords as argon2 hashes."""

from __future__ import annotations

import secrets
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from traitlets import Integer

from appliance.authenticators.open import OpenAuthenticator
from appliance.domain.names import normalize_username
from appliance.errors import BadInput
from appliance.ports import LoginRequest

MAX_PASSWORD_BYTES = 1024
# OWASP's second choice: little memory, because the Hub has little; 30 ms of one core.
HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
# Well-formed and of no password: checking it costs what checking a real one costs.
_NOBODY = "$argon2id$v=19$m=19456,t=2,p=1$" + "bm9ib2R5bm9ib2R5bm9ibw" + "$" + "A" * 43
_FIRST_GUESSES = """
    12345678 123456789 1234567890 12345678910 0123456789 87654321 987654321 11111111 00000000 88888888 12341234
    11223344 1q2w3e4r 1q2w3e4r5t qwertyui qwertyuiop qwerty123 qwertz123 qwertzui asdfghjk asdfghjkl password password1
    password12 password123 passw0rd p@ssw0rd p@ssword pass1234 iloveyou sunshine princess football baseball superman
    trustno1 welcome1 welcome123 changeme letmein1 abcd1234 abc12345 a1b2c3d4 qazwsxedc computer internet starwars
    jupyter1 jupyterhub jupyterlab notebook classroom student1 student123 students teacher1 teacher123 school123
    administrator admin123 admin1234 default1 secret123 passwort passwort1 passwort123 hallo123 motdepasse azertyuiop
    contraseña contrasena
"""
_CONSONANTS, _VOWELS = "bdfghjkmnprstvwz", "aeiou"
_T = TypeVar("_T")


def generate_password() -> str:
    """Return a password of about 65 bits that can be read aloud: "bakom-tiruf-jopas-gemid"."""
    shape = (_CONSONANTS, _VOWELS, _CONSONANTS, _VOWELS, _CONSONANTS)
    return "-".join("".join(secrets.choice(letters) for letters in shape) for _ in range(4))


def normalize_password(password: str) -> str:
    """Return the one form of a password that keyboards spell in two ways: é as one character, or as e and an accent."""
    return unicodedata.normalize("NFKC", password)


class AccountsAuthenticator(OpenAuthenticator):
    """Local accounts: an admin adds them, their owners choose their passwords.

    A password that an admin set has to be changed at the next sign-in.
    """

    minimum_password_length = Integer(8, min=1, max=256, help="Fewest characters of a new password.").tag(config=True)

    manages_passwords = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._limiter = anyio.CapacityLimiter(2)  # 19 MB of memory each while they hash

    async def authenticate(self, request: LoginRequest, data: Mapping[str, str]) -> str | dict[str, Any] | None:
        """Check a name and a password; a name that does not exist takes as long as a wrong password."""
        assert self.passwords is not None, "the Hub gives an Authenticator its PasswordStore"
        name = normalize_username(data.get("username", "")[:1024])
        password = data.get("password", "")
        stored = await self.passwords.get_password(name)
        if _too_long(password):
            password, stored = "", None
        password = normalize_password(password)
        hashed, must_change = stored if stored else (_NOBODY, False)
        right = await self._in_thread(lambda: _verify(hashed, password))
        if not right or not stored:
            return None
        if HASHER.check_needs_rehash(hashed):
            rehashed = await self._in_thread(lambda: HASHER.hash(password))
            await self.passwords.set_password(name, rehashed, must_change=must_change)
        return {"name": name, "must_change_password": must_change}

    async def set_password(self, name: str, password: str, *, must_change: bool) -> None:
        """Set an account's password. Raises BadInput where it is too weak, NotFound."""
        assert self.passwords is not None, "the Hub gives an Authenticator its PasswordStore"
        self.check_password(name, password)
        hashed = await self._in_thread(lambda: HASHER.hash(normalize_password(password)))
        await self.passwords.set_password(normalize_username(name), hashed, must_change=must_change)

    def check_password(self, name: str, password: str) -> None:
        """Raises BadInput with a sentence that says what is wrong with a new password."""
        if _too_long(password):
            raise BadInput(f"A password has at most {MAX_PASSWORD_BYTES} bytes.")
        password = normalize_password(password)
        if len(password) < self.minimum_password_length:
            raise BadInput(f"A password has at least {self.minimum_password_length} characters.")
        if any(unicodedata.category(char) in ("Cc", "Cs") for char in password):
            raise BadInput("A password cannot contain control characters.")
        plain = password.casefold()
        if plain.strip() == normalize_username(name).casefold():
            raise BadInput("A password cannot be the account's name.")
        if plain in _FIRST_GUESSES.split() or len(set(plain)) < 3:
            raise BadInput("That password is one of the first that anybody would try; please choose another.")

    def hash_in(self, threads: int) -> None:
        """Hash in so many threads at once, for a command that has the machine to itself."""
        self._limiter.total_tokens = threads

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await anyio.to_thread.run_sync(work, limiter=self._limiter)


def _too_long(password: str) -> bool:
    return len(password) > MAX_PASSWORD_BYTES or len(password.encode("utf-8", "surrogatepass")) > MAX_PASSWORD_BYTES


def _verify(hashed: str, password: str) -> bool:
    try:
        return HASHER.verify(hashed, password)
    except (VerificationError, InvalidHashError, UnicodeEncodeError):
        return False
