"""A browser, as far as the Hub's pages can tell: keeps cookies by path and sends what forms hold."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
from starlette.types import ASGIApp

from appliance.domain.user import User
from appliance.web import cookies

from .fakes import FakeHub

ORIGIN = "http://box.test"
NAVIGATION = {
    "Accept": "text/html,application/xhtml+xml", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "same-origin"}
SCRIPT = {"Accept": "*/*", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"}


class Browser:
    def __init__(self, hub: FakeHub, app: ASGIApp) -> None:
        self.hub = hub
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("192.0.2.9", 1234))
        self.client = httpx.AsyncClient(transport=transport, base_url=ORIGIN)

    async def get(self, path: str, headers: Mapping[str, str] = NAVIGATION) -> httpx.Response:
        return await self.client.get(path, headers=dict(headers))

    async def post(self, path: str, **fields: str) -> httpx.Response:
        """Send a form as one of our own pages would, with its XSRF token."""
        data = {"_xsrf": self.xsrf, **fields}
        return await self.client.post(path, data=data, headers=NAVIGATION | {"Origin": ORIGIN})

    async def follow(self, path: str, most: int = 8) -> tuple[httpx.Response, list[str]]:
        """Open a page as a person does; return where it ended, and every address on the way."""
        way = [path]
        response = await self.get(path)
        while response.is_redirect:
            assert len(way) <= most, way
            way.append(response.headers["location"])
            response = await self.get(way[-1])
        return response, way

    @property
    def xsrf(self) -> str:
        return self.client.cookies.get("_xsrf", "")

    async def sign_in(self, user: User) -> None:
        """Get a session and the XSRF cookie that goes with it, without the login form."""
        session = self.hub.sessions.open(user)
        self.client.cookies.set(
            cookies.SESSION, self.hub.sessions.token_of(session), "box.test", self.hub.urls.hub)
        await self.get(self.hub.urls.hub + "change-password")
        assert self.xsrf
