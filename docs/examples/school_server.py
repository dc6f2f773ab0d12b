"""Sign-in by asking the school's own server, which answers 200 and who it is, or 401."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
from traitlets import Float, Unicode

from appliance import Authenticator, LoginRequest


class SchoolAuthenticator(Authenticator):
    """Posts name and password to `url`; the answer is JSON like {"login": "ada", "groups": ["teachers"]}."""

    url = Unicode(help="Where the school's server takes names and passwords.").tag(config=True)
    timeout_s = Float(5.0, help="Seconds until a silent server counts as a refusal.").tag(config=True)

    transport: httpx.AsyncBaseTransport | None = None  # for tests

    async def authenticate(self, request: LoginRequest, data: Mapping[str, str]) -> str | dict[str, Any] | None:
        form = {"login": data.get("username", ""), "password": data.get("password", "")}
        try:
            async with httpx.AsyncClient(transport=self.transport, timeout=self.timeout_s) as client:
                answer = await client.post(self.url, data=form)
        except httpx.HTTPError as error:
            self.log.error("The school's server does not answer: %r", error)
            return None
        if answer.status_code != 200:
            return None
        person = answer.json()
        return {"name": person["login"], "admin": "teachers" in person["groups"]}
