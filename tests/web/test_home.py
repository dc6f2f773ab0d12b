"""The home page."""

from __future__ import annotations

import pytest

from appliance.domain.server import Phase, Wanted
from appliance.domain.user import User

from .browser import Browser
from .fakes import FakeHub

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


async def test_stop_shows_before_anybody_has_begun_with_it(hub: FakeHub, browser: Browser, alice: User) -> None:
    hub.servers.put(alice, phase=Phase.READY, wanted=Wanted.STOPPED)
    page = (await browser.get("/hub/home")).text
    assert "Stopping" in page
    assert "Running" not in page
    assert "data-progress" in page      # and the page follows how it goes on
