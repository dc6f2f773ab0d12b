from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from proxy_box import Box, make_box


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def box(tmp_path_factory: pytest.TempPathFactory, anyio_backend: str) -> AsyncIterator[Box]:
    """One Traefik for the module's tests."""
    async with make_box(tmp_path_factory.mktemp("box")) as made:
        yield made


@pytest.fixture
async def own_box(tmp_path_factory: pytest.TempPathFactory, anyio_backend: str) -> AsyncIterator[Box]:
    """A Traefik of the test's own, to be broken."""
    async with make_box(tmp_path_factory.mktemp("box")) as made:
        yield made
