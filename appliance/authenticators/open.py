"""For Authenticators whose accounts an admin made one by one: who has one may sign in."""

from __future__ import annotations

from traitlets import Bool

from appliance.ports import Authenticator


class OpenAuthenticator(Authenticator):
    """Lets in everybody it recognises, unless allowed_users names some; blocked_users are never let in."""

    allow_all = Bool(  # type: ignore[assignment]  # three values here: unset leaves it to allowed_users
        None, allow_none=True,
        help="Let in everybody who has an account. Unset: yes, unless allowed_users names some.").tag(config=True)

    async def check_allowed(self, name: str) -> bool:
        if self.allow_all is None:
            return not self.allowed_users or self._lists(self.allowed_users, name)
        return await super().check_allowed(name)
