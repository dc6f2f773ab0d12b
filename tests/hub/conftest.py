"""A Hub's inside with a real database and a fake engine and proxy: what is under test is the Hub itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from appliance.domain.group_limits import GroupLimits
from appliance.domain.offers import ImageChoice, NamedServers
from appliance.domain.server import Phase, Server
from appliance.domain.urls import Urls
from appliance.domain.user import Session, User
from appliance.hub.accounts import Accounts
from appliance.hub.changes import Changes
from appliance.hub.lifecycle import Lifecycle
from appliance.hub.metrics import Metrics
from appliance.hub.offers import Offers, Standing
from appliance.hub.probe import Probe
from appliance.hub.reboot import Marker
from appliance.hub.reconciler import Reconciler
from appliance.hub.routes import Routes
from appliance.hub.servers import Servers
from appliance.hub.sessions import Sessions
from appliance.hub.specs import Specs
from appliance.hub.throttle import Throttle
from appliance.jwt import SessionTokens
from appliance.ports import Authenticator, LoginRequest
from appliance.store import groups, migrate, users
from appliance.store.database import Database
from appliance.testing import FakeEngine, FakeHomes, FakeProxy, FakeSpawner

KEY = b"k" * 32


class Doors(Authenticator):
    """Lets in whoever says "please"."""

    allow_all = True

    async def authenticate(self, request: LoginRequest, data: Mapping[str, str]) -> str | None:
        return data["username"] if data.get("password") == "please" else None


@dataclass
class World:
    """The parts that outlive a Hub: database, engine, proxy, homes; `hub()` runs one on them."""

    path: Path
    db: Database
    engine: FakeEngine = field(default_factory=FakeEngine)
    limit: int = 4
    active_limit: int = 0
    traits: dict[str, Any] = field(default_factory=dict)
    marker: Marker | None = None
    named: NamedServers = field(default_factory=lambda: NamedServers(allowed=True))
    group_limits: dict[str, GroupLimits] = field(default_factory=dict)
    choices: tuple[ImageChoice, ...] = ()

    def __post_init__(self) -> None:
        self.proxy = FakeProxy()
        self.homes = FakeHomes(self.path / "homes")

    @asynccontextmanager
    async def hub(self, on_step: Callable[[str], None] = lambda step: None) -> AsyncIterator[MiniHub]:
        hub = MiniHub(self, on_step)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(hub.reconciler.run)
                yield hub
                tasks.cancel_scope.cancel()
        finally:
            await hub.probe.close()


class MiniHub:
    def __init__(self, world: World, on_step: Callable[[str], None]) -> None:
        self.world, self.db = world, world.db
        self.spawner = FakeSpawner(world.engine, listens=True, **world.traits)
        self.changes, self.probe = Changes(self.db), Probe()
        urls = Urls()
        self.spawner.choices = world.choices
        self.offers = Offers(self.spawner, self.standing, world.named, world.group_limits)
        routes, specs = Routes(urls, self.spawner, KEY, KEY, ""), Specs(urls, self.spawner, 8081, KEY, offers=self.offers)
        self.authenticator = Doors()
        self.metrics = Metrics()
        self.reconciler = Reconciler(
            Lifecycle(self.db, self.spawner, world.proxy, world.homes, self.authenticator, routes, specs, self.changes,
                      self.probe, on_step, self.metrics), limit=world.limit, active_limit=world.active_limit,
            marker=world.marker)
        self.servers = Servers(self.db, self.spawner, world.proxy, self.reconciler, routes, specs, self.changes, KEY)
        self.sessions = Sessions(self.db, SessionTokens(KEY, timedelta(days=1)), cookie_max_age_s=3600,
                                 after_end=self.servers.end_rights)
        self.accounts = Accounts(self.db, self.authenticator, self.sessions, Throttle(), KEY)

    async def standing(self, user_id: int) -> Standing:
        return await self.db.read(lambda t: groups.standing(t, user_id))

    async def user(self, name: str = "alice") -> User:
        found = await self.db.read(lambda t: users.find(t, name))
        return found or await self.db.transact(lambda t: users.add(t, name))

    async def session(self, name: str = "alice") -> Session:
        signed_in = await self.accounts.sign_in(
            LoginRequest("192.0.2.1"), {"username": name, "password": "please"}, origin="http://box", device=None)
        return signed_in.session

    async def start(self, name: str = "alice", until: Phase | None = Phase.READY) -> Server:
        user = await self.user(name)
        server = await self.servers.start(user, actor=name)
        return await self.until(server.id, until) if until else server

    async def until(self, server_id: str, *phases: Phase) -> Server:
        """Wait until a server is in one of the phases."""
        with anyio.fail_after(15):
            async for server in self.changes.follow(server_id, at_least_every_s=0.1):
                if server.phase in phases:
                    return server
        raise AssertionError("the server is gone")

    async def gone(self, server_id: str) -> None:
        with anyio.fail_after(15):
            while self.world.engine.servers.get(server_id) or await self.servers.by_id(server_id):
                await anyio.sleep(0.02)

    async def eventually(self, check: Callable[[], bool]) -> None:
        with anyio.fail_after(15):
            while not check():
                await anyio.sleep(0.02)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    db = Database(f"{tmp_path}/appliance.sqlite")
    migrate.upgrade(db.url)
    world = World(tmp_path, db)
    yield world
    for server_id in list(world.engine.listeners):
        world.engine.hush(server_id)
    await anyio.lowlevel.checkpoint()
    db.close()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


