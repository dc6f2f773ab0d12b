from __future__ import annotations

import pytest
from starlette.types import ASGIApp

from appliance.domain.user import User
from appliance.web.app import create_app

from .browser import Browser
from .fakes import FakeHub


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def hub() -> FakeHub:
    return FakeHub()


@pytest.fixture
def app(hub: FakeHub) -> ASGIApp:
    return create_app(hub)  # type: ignore[arg-type]


@pytest.fixture
def alice(hub: FakeHub) -> User:
    return hub.accounts.add("alice")


@pytest.fixture
def bob(hub: FakeHub) -> User:
    return hub.accounts.add("bob")


@pytest.fixture
def teacher(hub: FakeHub) -> User:
    return hub.accounts.add("teacher", admin=True)


@pytest.fixture
def stranger(hub: FakeHub, app: ASGIApp) -> Browser:
    """A browser that is not signed in."""
    return Browser(hub, app)


@pytest.fixture
async def browser(hub: FakeHub, app: ASGIApp, alice: User) -> Browser:
    """Alice's browser, signed in."""
    browser = Browser(hub, app)
    await browser.sign_in(alice)
    return browser


@pytest.fixture
async def desk(hub: FakeHub, app: ASGIApp, teacher: User) -> Browser:
    """The teacher's browser, signed in."""
    browser = Browser(hub, app)
    await browser.sign_in(teacher)
    return browser
