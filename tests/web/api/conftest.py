"""A whole Hub with a real database; engine, proxy and homes are fakes. Nothing listens: requests go straight to the app."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from starlette.types import ASGIApp
from traitlets.config import Config

from appliance.config import settings_from
from appliance.domain.requester import Requester
from appliance.domain.server import Phase
from appliance.domain.user import User
from appliance.hub.hub import Hub
from appliance.main import Box
from appliance.ports import Authenticator, LoginRequest
from appliance.store import migrate, users
from appliance.store.database import Database
from appliance.testing import FakeHomes, FakeProxy, FakeSpawner
from appliance.web.app import create_app

ORIGIN = "http://box.test"
WRAPPED = {"Accept": "application/jupyterhub-pagination+json"}


class Doors(Authenticator):
    """Lets in whoever says "please"."""

    allow_all = True

    async def authenticate(self, request: LoginRequest, data: Mapping[str, str]) -> str | None:
        return data["username"] if data.get("password") == "please" else None


class ListeningSpawner(FakeSpawner):
    def __init__(self, **traits: Any) -> None:
        super().__init__(listens=True, **traits)


class Client:
    """Asks the API as one token does. `status` and `json` of what came, in one line of a test."""

    def __init__(self, app: ASGIApp, token: str = "") -> None:
        self.token = token
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        headers = {"Authorization": f"token {token}"} if token else {}
        self.http = httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers=headers, timeout=30)

    async def __call__(self, method: str, path: str, **request: Any) -> httpx.Response:
        """path: below /hub/api/."""
        return await self.http.request(method, path if path.startswith(("/", "http")) else f"/hub/api/{path}", **request)

    async def get(self, path: str, status: int = 200, **request: Any) -> Any:
        return expect(await self("GET", path, **request), status)

    async def post(self, path: str, json: Any = None, status: int = 201, **request: Any) -> Any:
        return expect(await self("POST", path, json=json, **request), status)

    async def put(self, path: str, json: Any = None, status: int = 200, **request: Any) -> Any:
        return expect(await self("PUT", path, json=json, **request), status)

    async def patch(self, path: str, json: Any = None, status: int = 200, **request: Any) -> Any:
        return expect(await self("PATCH", path, json=json, **request), status)

    async def delete(self, path: str, json: Any = None, status: int = 204, **request: Any) -> Any:
        return expect(await self("DELETE", path, json=json, **request), status)


def expect(response: httpx.Response, status: int) -> Any:
    """Return the JSON of an answer (None for an empty one), which has to have this status."""
    assert response.status_code == status, f"{response.request.method} {response.request.url}: {response.text}"
    if not response.content:
        return None
    found = response.json()
    if status >= 400:
        assert found["status"] == status
        assert found["message"].endswith(".")
    return found


class House:
    """A Hub under test, and how to knock at it."""

    def __init__(self, box: Box) -> None:
        self.box, self.hub, self.db = box, box.hub, box.db
        self.app = create_app(box.hub)
        self.ends = 0                             # how often the Hub was told to end
        box.hub.control.end = self._end

    def _end(self) -> None:
        self.ends += 1

    async def user(self, name: str, *, admin: bool = False) -> User:
        found = await self.db.read(lambda t: users.find(t, name))
        return found or await self.db.transact(lambda t: users.add(t, name, admin=admin))

    async def client(self, name: str, *scopes: str, admin: bool = False) -> Client:
        """Return a client with a token of a user, who is made if need be. scopes: none for all that the user may."""
        owner = await self.user(name, admin=admin)
        token, _ = await self.hub.tokens.create(owner, note="test", scopes=list(scopes) or None, by=None)
        return Client(self.app, token)

    async def requester(self, client: Client) -> Requester:
        found = await self.hub.permissions.by_token(client.token)
        assert found is not None
        return found

    async def until(self, name: str, phase: Phase, server: str = "") -> None:
        with anyio.fail_after(15):
            while (found := await self.hub.servers.view(name, server)) is None or found.phase is not phase:
                await anyio.sleep(0.02)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("database") / "empty.sqlite"
    migrate.upgrade(Database(str(path)).url)
    return path


def settings_of(path: Path, **hub: Any) -> Config:
    said = {"db_url": f"sqlite:///{path}/appliance.sqlite", "state_dir": str(path / "state"), "homes_dir": str(path / "homes"),
            "run_dir": str(path / "run"), "cookie_secret_file": str(path / "secret"), "spawner_class": ListeningSpawner,
            "proxy_class": FakeProxy, "homes_class": FakeHomes, "authenticator_class": Doors, **hub}
    return Config({"JupyterHub": said})


@pytest.fixture
async def house(tmp_path: Path, empty_database: Path, request: pytest.FixtureRequest) -> AsyncIterator[House]:
    """Options of c.JupyterHub come with `@pytest.mark.parametrize("house", [{…}], indirect=True)`."""
    shutil.copy(empty_database, tmp_path / "appliance.sqlite")
    (tmp_path / "jupyterhub_config.py").touch()
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "homes").mkdir()
    box = Box(settings_from(str(tmp_path / "jupyterhub_config.py"), settings_of(tmp_path, **getattr(request, "param", {}))))
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(box.reconciler.run)
            yield House(box)
            tasks.cancel_scope.cancel()
    finally:
        engine = box.spawner.engine  # type: ignore[attr-defined]
        for server_id in list(engine.listeners):
            engine.hush(server_id)
        await anyio.lowlevel.checkpoint()
        await box.spawner.close()
        await box._probe.close()
        box.db.close()


@pytest.fixture
def hub(house: House) -> Hub:  # type: ignore[override]
    return house.hub


@pytest.fixture
async def admin(house: House) -> Client:
    return await house.client("teacher", admin=True)


@pytest.fixture
async def alice(house: House) -> Client:  # type: ignore[override]
    return await house.client("alice")


@pytest.fixture
def stranger(house: House) -> Client:  # type: ignore[override]
    return Client(house.app)
