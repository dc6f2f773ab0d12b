"""The file with the secret that signs logins, as JupyterHub keeps it."""

from __future__ import annotations

import binascii
import os
import secrets
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from appliance.errors import Misconfigured


def load_cookie_secret(path: Path, *, variable: str = "JPY_COOKIE_SECRET") -> bytes:
    """Return the secret that signs logins; makes the file (0600, hex) if there is none. Raises Misconfigured.

    The environment's `variable` (hex) wins, as JupyterHub has it; "" is none.
    """
    if variable and os.environ.get(variable):
        return _secret(os.environ[variable], variable, "Unset it, or set it to 64 hex digits.")
    try:
        if not path.exists():
            _create_secret(path)
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(4096).decode("ascii", "replace")
    except OSError as error:
        raise Misconfigured(f"The cookie secret {path} cannot be read: {error.strerror or error}.") from error
    if mode & 0o077:
        raise Misconfigured(f"The cookie secret {path} can be read by others than its owner, and whoever has it can "
                            f"sign in as anybody. Run: chmod 600 '{path}' (or delete it, which ends every login).")
    return _secret(text, f"The cookie secret {path}", "Delete it and the Hub makes a new one; that ends every login.")


def _secret(text: str, what: str, action: str) -> bytes:
    try:
        secret = binascii.a2b_hex(text.strip())
    except ValueError:
        raise Misconfigured(f"{what} is not in hexadecimal digits. {action}") from None
    if len(secret) < 32:
        raise Misconfigured(f"{what} is {'empty' if not secret else 'too short'}. {action}")
    return secret


def _create_secret(path: Path) -> None:
    """Whole or not at all, and never over another's that was made meanwhile."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        os.unlink(temporary)
