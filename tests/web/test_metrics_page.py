"""/hub/metrics: who reads them, and that they tell nobody's name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from appliance.domain.server import Phase
from appliance.domain.user import User
from appliance.hub.metrics import MetricsAccess, State

from .browser import Browser
from .fakes import FakeHub

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

TOKEN = "prometheus-" + "x" * 32


@pytest.fixture
def token_file(hub: FakeHub, tmp_path: Path) -> Path:
    file = tmp_path / "metrics_token"
    file.write_text(f"{TOKEN}\n")
    hub.metrics_access = MetricsAccess(token_file=file)
    return file


def token_of(folder: Path, content: str) -> Path:
    (folder / "token").write_text(content)
    return folder / "token"


async def status(browser: Browser, authorization: str = "") -> int:
    return (await browser.get("/hub/metrics", {"Authorization": authorization} if authorization else {})).status_code


async def test_prometheus_reads_them_with_the_boxs_token(stranger: Browser, token_file: Path) -> None:
    response = await stranger.get("/hub/metrics", {"Authorization": f"Bearer {TOKEN}"})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "# TYPE jupyterhub_running_servers gauge" in response.text
    assert await status(stranger, f"token {TOKEN}") == 200


@pytest.mark.parametrize("authorization", [
    "", "Bearer ", "Bearer wrong", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer " + "é" * 30, "Bearer " + "x" * 9000])
async def test_nobody_else_does(stranger: Browser, token_file: Path, authorization: str) -> None:
    response = await stranger.client.get("/hub/metrics", headers={"Authorization": authorization.encode()})
    assert response.status_code == 403
    assert "jupyterhub_" not in response.text


@pytest.mark.parametrize("content", ["", "short", None])
async def test_a_token_file_that_is_none_opens_nothing(
        hub: FakeHub, stranger: Browser, tmp_path: Path, content: str | None) -> None:
    hub.metrics_access = MetricsAccess(token_file=tmp_path / "not there" if content is None else token_of(tmp_path, content))
    assert await status(stranger, f"Bearer {content or ''}") == 403


async def test_admins_read_them_and_students_do_not(
        hub: FakeHub, stranger: Browser, browser: Browser, desk: Browser, alice: User, teacher: User) -> None:
    assert await status(desk) == 200
    assert await status(browser) == 403
    hub.accounts.tokens |= {"t" * 64: "teacher", "a" * 64: "alice"}
    assert await status(stranger, "token " + "t" * 64) == 200
    assert await status(stranger, "token " + "a" * 64) == 403


async def test_they_can_be_open(hub: FakeHub, stranger: Browser) -> None:
    hub.metrics_access = MetricsAccess(authenticate=False)
    assert await status(stranger) == 200


async def test_addresses_are_counted_by_entry_and_nobody_is_named(hub: FakeHub, browser: Browser, desk: Browser) -> None:
    for path in ("/hub/home", "/hub/nothing/alice", "/user/alice/lab", "/hub/spawn/alice"):
        await browser.get(path)
    text = (await desk.get("/hub/metrics")).text
    assert "alice" not in text
    assert re.search(r'jupyterhub_request_duration_seconds_count\{code="200",handler="hub/home",method="GET"\} 1\.0', text)
    assert 'handler="user/{path:path}"' in text


async def test_sign_ins_are_counted_by_how_they_end(hub: FakeHub, stranger: Browser, alice: User) -> None:
    hub.metrics_access = MetricsAccess(authenticate=False)
    await stranger.get("/hub/login")
    for password in ("wrong", "wrong too", "alice-password"):
        await stranger.post("/hub/login", username="alice", password=password)
    text = (await stranger.get("/hub/metrics")).text
    assert 'jupyterhub_login_duration_seconds_count{status="failure"} 2.0' in text
    assert 'jupyterhub_login_duration_seconds_count{status="success"} 1.0' in text


async def test_what_is_not_known_is_no_zero(hub: FakeHub, desk: Browser) -> None:
    hub.census.state = State(problems=("database-down",))
    text = (await desk.get("/hub/metrics")).text
    assert "jupyterhub_running_servers NaN" in text
    assert 'appliance_problem{code="database-down"} 1.0' in text
    hub.census.state = State({Phase.READY: 3}, users=30, slice_memory_bytes=5)
    text = (await desk.get("/hub/metrics")).text
    assert "jupyterhub_running_servers 3.0" in text
    assert 'appliance_servers{phase="failed"} 0.0' in text
    assert "appliance_slice_memory_bytes 5.0" in text
    assert "database-down" not in text
