"""The admins' list."""

from __future__ import annotations

import html
from dataclasses import replace

import pytest

from appliance.domain.server import Phase, Wanted
from appliance.domain.user import User
from appliance.errors import EngineDown, OutOfMemory

from .browser import Browser
from .fakes import FakeHub

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


async def test_list_shows_users_and_servers(hub: FakeHub, desk: Browser, alice: User, bob: User) -> None:
    hub.servers.ready(alice)
    hub.servers.ready(alice, "two")
    hub.servers.fail(bob, OutOfMemory(evidence="<i>last line</i>"))
    text = (await desk.get("/hub/admin")).text
    assert "3 people, 2 servers run" in text
    assert "alice / two" in text
    assert "320 MB of 1.0 GB" in text
    assert "&lt;i&gt;last line" in text
    assert OutOfMemory.action in text


async def test_a_server_that_was_made_or_imported_and_not_started_has_never_run(
        hub: FakeHub, desk: Browser, alice: User) -> None:
    hub.servers.put(alice, "imported", phase=Phase.STOPPED, wanted=Wanted.STOPPED)
    row = (await desk.get("/hub/admin")).text.partition("alice / imported")[2].partition("</tr>")[0]
    assert "Has never run</span></td>" in row.replace("\n      ", "")
    hub.servers.put(alice, "imported", start_no=1)
    row = (await desk.get("/hub/admin")).text.partition("alice / imported")[2].partition("</tr>")[0]
    assert "Not running</span> <span" in row


async def test_start_and_stop_for_a_student(hub: FakeHub, desk: Browser, alice: User) -> None:
    response = await desk.post("/hub/admin/start?next=/hub/admin?q=al", user="alice", server="")
    assert response.status_code == 303
    assert response.headers["location"] == "/hub/admin?q=al"
    assert hub.servers.starts == [("alice", "", "teacher")]
    await desk.post("/hub/admin/stop", user="alice", server="")
    assert hub.servers.stops == [("alice", "teacher")]


@pytest.mark.parametrize(("name", "status"), [
    ("nobody", 404), ("", 400), ("..", 400), ("a/b", 400), ("x" * 300, 400), ("<script>", 400), ("a\x00b", 400)])
async def test_odd_names_start_nothing(name: str, status: int, hub: FakeHub, desk: Browser) -> None:
    response = await desk.post("/hub/admin/start", user=name)
    assert response.status_code == status
    assert "<script>" not in response.text
    assert "x" * 100 not in response.text
    assert not hub.servers.starts


async def test_server_that_does_not_exist_is_not_made(hub: FakeHub, desk: Browser, alice: User) -> None:
    assert (await desk.post("/hub/admin/start", user="alice", server="two")).status_code == 404
    assert not hub.servers.starts


async def test_search_and_pages(hub: FakeHub, desk: Browser) -> None:
    for number in range(120):
        hub.accounts.add(f"student{number:03}")
    hub.servers.put(hub.accounts.users["student007"], phase=Phase.BOOTING, wanted=Wanted.RUNNING)
    first = (await desk.get("/hub/admin")).text
    assert "Page 1 of 2" in first
    assert "student099" in first
    assert "student100" not in first
    assert "student100" in (await desk.get("/hub/admin?page=2")).text
    assert (await desk.get("/hub/admin?page=999")).headers["location"] == "/hub/admin?page=2"
    for odd in ("0", "-1", "x", "9" * 5000, ""):
        assert "Page 1 of 2" in (await desk.get(f"/hub/admin?page={odd}")).text
    found = (await desk.get("/hub/admin?q=STUDENT11")).text
    assert "student110" in found
    assert "student010" not in found
    running = (await desk.get("/hub/admin?only=running")).text
    assert "student007" in running
    assert "student008" not in running
    assert "Nobody found" in (await desk.get("/hub/admin?q=zzz")).text


@pytest.mark.parametrize("search", ['"><script>alert(1)</script>', "{{7*7}}", "x" * 5000, "%00"])
async def test_search_is_escaped(search: str, desk: Browser) -> None:
    response = await desk.client.get("/hub/admin", params={"q": search}, headers={"Accept": "text/html"})
    assert response.status_code == 200
    assert "<script>" not in response.text
    assert "x" * 100 not in response.text


async def test_admin_sees_what_is_wrong_and_what_to_do(hub: FakeHub, desk: Browser) -> None:
    hub.trouble = [EngineDown(evidence="connection refused")]
    text = html.unescape((await desk.get("/hub/admin")).text)
    assert EngineDown.action in text
    assert "connection refused" in text


async def test_people_are_shown_with_what_they_are_called_and_where_they_belong(
        hub: FakeHub, desk: Browser, alice: User) -> None:
    hub.accounts.users["alice"] = replace(alice, display_name="Alice <Liddell>")
    hub.accounts.groups["alice"] = ("10a", "Chor")
    text = (await desk.get("/hub/admin")).text
    assert "Alice &lt;Liddell&gt; · 10a, Chor" in text


async def test_archived_people_have_a_list_of_their_own_and_nothing_to_start(hub: FakeHub, desk: Browser, alice: User) -> None:
    hub.accounts.users["alice"] = replace(alice, archived=True)
    everybody = (await desk.get("/hub/admin")).text
    assert "1 person" in everybody
    assert "1 archived" in everybody
    assert "alice" not in everybody
    archived = (await desk.get("/hub/admin?only=archived")).text
    assert "alice" in archived
    assert "/hub/admin/start" not in archived
