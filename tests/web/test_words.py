"""How states and times read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from appliance.domain.server import Phase
from appliance.web import words

pytestmark = pytest.mark.unit

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(("seconds", "said"), [
    (0, "just now"), (-5, "just now"), (9, "just now"), (10, "10 seconds ago"), (60, "1 minute ago"),
    (3599, "59 minutes ago"), (3600, "1 hour ago"), (86399, "23 hours ago"), (86400, "1 day ago"),
    (10 * 86400, "10 days ago")])
def test_ago(seconds: int, said: str) -> None:
    assert words.ago(NOW - timedelta(seconds=seconds), NOW) == said


def test_never() -> None:
    assert words.ago(None, NOW) == "never"


def test_every_phase_has_a_word() -> None:
    assert set(words.STATES) == set(Phase)


@pytest.mark.parametrize(("header", "said"), [
    ("Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0", "Firefox on Linux"),
    ("Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/127.0 Safari/537.36 Edg/127.0",
     "Edge on Windows"),
    ("Mozilla/5.0 (X11; CrOS x86_64) AppleWebKit/537.36 Chrome/127.0 Safari/537.36", "Chrome on ChromeOS"),
    ("Mozilla/5.0 (iPad; CPU OS 17_0 like Mac OS X) AppleWebKit/605.1.15 Version/17.0 Safari/604.1", "Safari on iPad"),
    ("python-requests/2.32", "a script"), ("", "an unknown browser")])
def test_browser_is_told_by_its_name(header: str, said: str) -> None:
    assert words.browser(header) == said
