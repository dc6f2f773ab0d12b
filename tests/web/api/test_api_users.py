"""Users over the REST API."""

from __future__ import annotations

import pytest

from .conftest import Client

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


async def test_whoami(alice: Client, admin: Client) -> None:
    model = await alice.get("user")
    assert (model["kind"], model["name"], model["admin"]) == ("user", "alice", False)
    assert (await admin.get("user"))["admin"] is True
