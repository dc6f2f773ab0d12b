"""The Hub's whole web side on a real database, with a fake engine and proxy; and people who use it."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import SimpleNamespace
from typing import cast
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
from hub.conftest import KEY, MiniHub, World

from appliance.domain.capability import derive_key
from appliance.domain.oauth import server_client_id
from appliance.domain.roles import Roles, parse
from appliance.domain.server import Phase, Server
from appliance.domain.service import ServiceDefinition
from appliance.domain.service import parse as parse_service
from appliance.domain.urls import Urls
from appliance.hub.directory import Directory
from appliance.hub.hub import Hub
from appliance.hub.oauth import OAuth
from appliance.hub.permissions import Permissions
from appliance.hub.shares import Shares
from appliance.hub.specs import Specs
from appliance.hub.tokens import Tokens
from appliance.store import users
from appliance.web.app import create_api_app, create_app

ORIGIN = "http://box.test"
NAVIGATION = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "same-origin"}
GRADER_TOKEN = "grader-secret-" + "x" * 30
SERVICES: list[dict[str, object]] = [
    {"name": "grader", "url": "http://127.0.0.1:9000", "api_token": GRADER_TOKEN,
     "oauth_client_allowed_scopes": ["read:users!user", "admin:users", "servers!user"]},
    {"name": "board", "url": "http://127.0.0.1:9001", "api_token": "board-secret-" + "x" * 30, "oauth_no_confirm": True},
    {"name": "away", "api_token": "away-secret-" + "x" * 30, "oauth_redirect_uri": "https://other.school/back?x=1"},
]
ROLES = [{"name": "user", "scopes": ["self", "access:services!service=grader", "access:services!service=board",
                                     "access:services!service=away"]}]


class Book:
    """What Permissions asks of the services."""

    def __init__(self, services: Sequence[ServiceDefinition]) -> None:
        self.services = services

    def is_admin(self, name: str) -> bool | None:
        return next((service.admin for service in self.services if service.name == name), None)

    def of_token(self, token: str) -> str | None:
        return next((service.name for service in self.services if service.api_token == token), None)


@dataclass
class Classroom:
    mini: MiniHub
    hub: Hub
    public: httpx.AsyncClient       # what a container speaks to: the listener for servers

    def visitor(self) -> Visitor:
        return Visitor(self)

    async def person(self, name: str, *, admin: bool = False) -> Visitor:
        """Return a browser that somebody signed in with."""
        visitor = Visitor(self)
        user = await self.mini.user(name)
        if admin:
            await self.mini.db.transact(lambda t: users.set_admin(t, user.id, True))
        await visitor.sign_in(name)
        return visitor

    async def server(self, name: str) -> Server:
        return await self.mini.start(name)

    async def stop(self, server: Server) -> None:
        await self.mini.servers.stop(await self.mini.user(server.user_name), server.name, actor="test")
        await self.mini.until(server.id, Phase.STOPPED)

    def secret(self, server: Server) -> str:
        return Specs(Urls(), self.mini.spawner, 8081, KEY).api_token(server)

    async def who(self, token: str) -> httpx.Response:
        """Ask as jupyterhub-singleuser does."""
        return await self.public.get("/hub/api/user", headers={"Authorization": f"token {token}"})

    async def exchange(self, **form: str) -> httpx.Response:
        form = {"grant_type": "authorization_code"} | form
        return await self.public.post("/hub/api/oauth2/token", data={name: value for name, value in form.items() if value})


class Visitor:
    """A browser: keeps cookies by path and sends what forms hold."""

    def __init__(self, room: Classroom) -> None:
        transport = httpx.ASGITransport(create_app(room.hub), raise_app_exceptions=False, client=("192.0.2.9", 1234))
        self.client = httpx.AsyncClient(transport=transport, base_url=ORIGIN)

    async def get(self, path: str, headers: Mapping[str, str] = NAVIGATION) -> httpx.Response:
        return await self.client.get(path, headers=dict(headers))

    async def post(self, path: str, fields: Mapping[str, object] | None = None, *, origin: str = ORIGIN,
                   xsrf: str | None = None) -> httpx.Response:
        data = {"_xsrf": self.client.cookies.get("_xsrf", "") if xsrf is None else xsrf, **(fields or {})}
        return await self.client.post(path, data=data, headers=NAVIGATION | {"Origin": origin})

    async def sign_in(self, name: str, path: str = "/hub/login") -> httpx.Response:
        await self.get("/hub/login")
        response = await self.post(path, {"username": name, "password": "please"})
        assert response.is_redirect, response.text
        return response


class Client:
    """What jupyterhub-singleuser keeps of one sign-in. pkce: as version 6 does, and 5 does not."""

    def __init__(self, server: Server | None = None, *, client_id: str = "", redirect_uri: str = "", pkce: bool = True) -> None:
        self.client_id = client_id or (server_client_id(server.user_name, server.name) if server else "")
        self.redirect_uri = redirect_uri or (f"/user/{server.user_name}/oauth_callback" if server else "")
        self.state = secrets.token_urlsafe(20) + " ü&="
        self.verifier = secrets.token_urlsafe(48) if pkce else ""

    def url(self, **changes: str) -> str:
        said = {"client_id": self.client_id, "redirect_uri": self.redirect_uri, "response_type": "code", "state": self.state}
        if self.verifier:
            digest = hashlib.sha256(self.verifier.encode()).digest()
            said |= {"code_challenge": base64.urlsafe_b64encode(digest).decode().rstrip("="), "code_challenge_method": "S256"}
        return "/hub/api/oauth2/authorize?" + urlencode({name: value for name, value in (said | changes).items() if value})

    def code(self, response: httpx.Response) -> str:
        """Return the code that a browser brings back."""
        answer = self.answer(response)
        assert answer["state"] == self.state
        assert set(answer) - {"x"} == {"code", "state"}, answer
        return answer["code"]

    def answer(self, response: httpx.Response) -> dict[str, str]:
        """Return what a browser is sent back to the client with."""
        assert response.is_redirect, f"{response.status_code} {response.text}"
        location = response.headers["Location"]
        assert location.startswith(self.redirect_uri), location
        return {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}

    def form(self, code: str, secret: str, **changes: str) -> dict[str, str]:
        return {"client_id": self.client_id, "client_secret": secret, "code": code, "redirect_uri": self.redirect_uri,
                "code_verifier": self.verifier} | changes


@asynccontextmanager
async def classroom(world: World, services: Sequence[Mapping[str, object]] = SERVICES,
                    roles: Sequence[Mapping[str, object]] = ROLES, **traits: object) -> AsyncIterator[Classroom]:
    world.traits |= traits
    async with world.hub() as mini:
        definitions = tuple(parse_service(service) for service in services)
        known: Roles = parse(roles)
        permissions = Permissions(mini.db, known, KEY, Book(definitions))
        specs = Specs(Urls(), mini.spawner, 8081, KEY)
        oauth = OAuth(mini.db, specs, lambda: definitions, KEY, permissions.by_token,
                      expires_in_s=int(timedelta(days=14).total_seconds()), known=known.scopes)
        hub = real_hub(mini, permissions, oauth)
        api = httpx.ASGITransport(create_api_app(hub), raise_app_exceptions=False)
        yield Classroom(mini, hub, httpx.AsyncClient(transport=api, base_url="http://10.77.0.1:8081"))


def real_hub(mini: MiniHub, permissions: Permissions, oauth: OAuth) -> Hub:
    """What the web side asks of a Hub, of the real parts."""
    return cast(Hub, SimpleNamespace(
        urls=Urls(), version="0.2.0", public_url="", after_sign_in="home", proxy_secret="",
        key=lambda purpose: derive_key(KEY, purpose),
        accounts=mini.accounts, sessions=mini.sessions, servers=mini.servers, events=mini.changes, metrics=mini.metrics,
        authority_file=None, problems=list, permissions=permissions, tokens=Tokens(mini.db, permissions), oauth=oauth,
        directory=Directory(mini.db, mini.world.homes, mini.reconciler.wake),
        shares=Shares(mini.db, mini.servers.end_rights, permissions.roles.scopes),
        services=SimpleNamespace(all=tuple, visible_to=lambda rights: ())))
