"""Sign-in with a class list: a CSV file with the columns name, role and password, where passwords are hashed.

`python class_list.py PASSWORD` prints a hash for the file.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import hmac
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio.to_thread
from traitlets import Unicode

from appliance import Authenticator, LoginRequest


class ClassListAuthenticator(Authenticator):
    """Knows the people in a CSV file, which is read anew at every sign-in."""

    file = Unicode("class.csv", help="The class list: a CSV file with the columns name, role and password.").tag(config=True)

    async def authenticate(self, request: LoginRequest, data: Mapping[str, str]) -> str | dict[str, Any] | None:
        name, password = data.get("username", "").strip().lower(), data.get("password", "")
        return await anyio.to_thread.run_sync(self._look_up, name, password)  # hashing would hold up everybody else

    def _look_up(self, name: str, password: str) -> dict[str, Any] | None:
        with Path(self.file).open(newline="", encoding="utf-8") as file:
            people = {row["name"]: row for row in csv.DictReader(file)}
        known = people.get(name, {"role": "", "password": _NOBODY})  # an unknown name takes as long as a wrong password
        if not verify(known["password"], password):
            return None
        return {"name": name, "admin": known["role"] == "teacher"}


def hash_password(password: str) -> str:
    salt = os.urandom(16)
    return f"{_text(salt)}${_text(_scrypt(password, salt))}"


def verify(hashed: str, password: str) -> bool:
    salt, _, wanted = hashed.partition("$")
    return hmac.compare_digest(_scrypt(password, base64.b64decode(salt)), base64.b64decode(wanted))


def _scrypt(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=1 << 14, r=8, p=1)


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


_NOBODY = hash_password(_text(os.urandom(32)))

if __name__ == "__main__":
    print(hash_password(sys.argv[1]))
