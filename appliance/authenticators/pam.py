"""The machine's own users, by PAM, as JupyterHub has it without any configuration."""

from __future__ import annotations

import pwd
from collections.abc import Mapping
from typing import Any

import anyio
import anyio.to_thread
import pamela  # type: ignore[import-untyped]  # has no types
from traitlets import Bool, Unicode

from appliance.authenticators.open import OpenAuthenticator
from appliance.domain.names import normalize_username
from appliance.ports import LoginRequest

_MAX_BYTES = 1024


class PAMAuthenticator(OpenAuthenticator):
    """Any user of this machine who has a password.

    Names are compared in lower case, so a user with capitals in the name cannot sign in. Root may only when admin_users
    names it.
    """

    service = Unicode("login", help="PAM service to ask.").tag(config=True)
    encoding = Unicode("utf8", help="How PAM's modules spell what is not ASCII.").tag(config=True)
    check_account = Bool(True, help="Refuse accounts that have expired or are locked.").tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._limiter = anyio.CapacityLimiter(16)  # a wrong password takes PAM two seconds, on purpose

    async def authenticate(self, request: LoginRequest, data: Mapping[str, str]) -> str | dict[str, Any] | None:
        """Ask PAM; the name is normalised first, so that nobody slips past a list in another spelling."""
        name = normalize_username(data.get("username", "")[:_MAX_BYTES])
        password = data.get("password", "")
        # PAM reads a C string, which ends at the first null byte
        if not name or not password or len(password) > _MAX_BYTES or "\0" in name + password:
            return None
        allowed = await anyio.to_thread.run_sync(self._ask, name, password, limiter=self._limiter)
        return name if allowed else None

    def _ask(self, name: str, password: str) -> bool:
        try:
            pamela.authenticate(name, password, self.service, self.encoding, check=self.check_account)
            uid = pwd.getpwnam(name).pw_uid
        except pamela.PAMError as error:
            # PAM's words about an account, never about the password; the browser gets none of them
            self.log.warning("PAM refused %.64r: %s", name, error.message)
            return False
        except (UnicodeError, KeyError):
            return False
        if uid == 0 and not self._lists(self.admin_users, name):
            self.log.warning("%.64r is root and was refused; c.Authenticator.admin_users may name it.", name)
            return False
        return True
