"""Who is active: whoever reports it, whoever's requests the proxy counts, whoever's Jupyter says so. The newest wins, and
nothing of the Hub's own counts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import event

from appliance.domain.requester import Requester
from appliance.domain.server import Server
from appliance.domain.urls import Urls
from appliance.errors import BadInput
from appliance.hub import activity
from appliance.hub.activity import Activity, read_time
from appliance.hub.watching import Watching
from appliance.store import servers, users
from appliance.store.rows import ServerRow, UserRow
from appliance.testing.proxies import Reply, Request, TinyServer
from hub.conftest import MiniHub, World

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
WHO: Any = Requester


def at(minute: int) -> datetime:
    return datetime(2026, 1, 2, 3, minute, tzinfo=UTC)


async def long_ago(world: World) -> None:
    """Nobody did anything for a long time."""
    def write(t: users.Transaction) -> None:
        for row in (*t.query(ServerRow), *t.query(UserRow)):
            row.last_activity_at = LONG_AGO

    await world.db.transact(write)


async def times(world: World, server: Server) -> tuple[datetime | None, datetime | None]:
    """Return when the server and its user were active."""
    def read(t: users.Transaction) -> tuple[datetime | None, datetime | None]:
        return t.get_one(ServerRow, server.id).last_activity_at, t.get_one(UserRow, server.user_id).last_activity_at

    return await world.db.read(read)


# -- reported ----------------------------------------------------------------------------------------------------------
async def test_the_newest_report_wins(world: World) -> None:
    async with world.hub() as hub:
        server, user = await hub.start("alice"), await hub.user("alice")
        await long_ago(world)
        reports = Activity(world.db)
        for said, expected in ((at(5), at(5)), (at(3), at(5)), (at(7), at(7)), (at(7), at(7))):
            await reports.report(WHO, user, {"servers": {"": {"last_activity": said.isoformat()}}})
            assert await times(world, server) == (expected, LONG_AGO)
        await reports.report(WHO, user, {"last_activity": at(1).isoformat().replace("+00:00", "Z")})
        assert await times(world, server) == (at(7), at(1))


@pytest.mark.parametrize("body", [
    {}, {"servers": {}}, {"last_activity": "yesterday"}, {"servers": {"": {"last_activity": 5}}}, {"servers": {"": {}}},
    {"last_activity": "2026-01-02T03:04:05Z", "servers": {"no such": {"last_activity": "2026-01-02T03:04:05Z"}}},
    {"last_activity": (datetime.now(UTC) + timedelta(hours=2)).isoformat()},
    {"last_activity": "9999-12-31T23:59:59-23:59"},
])
async def test_a_wrong_report_is_refused_and_nothing_of_it_is_kept(world: World, body: dict[str, Any]) -> None:
    async with world.hub() as hub:
        server, user = await hub.start("alice"), await hub.user("alice")
        await long_ago(world)
        with pytest.raises(BadInput):
            await Activity(world.db).report(WHO, user, body)
        assert await times(world, server) == (LONG_AGO, LONG_AGO)


async def test_a_whole_class_that_reports_at_once_costs_two_transactions(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "APART_S", 0.3)
    async with world.hub() as hub:
        everybody = [await hub.user(f"student{number}") for number in range(40)]
        written: list[str] = []
        event.listen(world.db.engine, "before_cursor_execute",
                     lambda connection, cursor, statement, *_: written.append(statement))
        reports = Activity(world.db)
        async with anyio.create_task_group() as tasks:
            for user in everybody:
                tasks.start_soon(reports.report, WHO, user, {"last_activity": at(9).isoformat()})
        assert sum(statement.startswith("UPDATE users") for statement in written) <= 2
        assert {(await hub.user(user.name)).last_activity_at for user in everybody} == {at(9)}


async def test_somebody_who_hangs_up_takes_no_other_report_along(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "APART_S", 0.3)
    async with world.hub() as hub:
        alice, bob = await hub.user("alice"), await hub.user("bob")
        reports = Activity(world.db)
        await reports.keep({}, {alice.id: at(1)})
        async with anyio.create_task_group() as tasks:
            async def hang_up() -> None:
                with anyio.move_on_after(0.05):
                    await reports.keep({}, {alice.id: at(2)})

            tasks.start_soon(hang_up)
            await anyio.sleep(0.01)
            tasks.start_soon(reports.keep, {}, {bob.id: at(3)})
        assert (await hub.user("bob")).last_activity_at == at(3)


def test_times_are_read_as_clients_write_them() -> None:
    assert read_time("2026-01-02T03:05:00.000000Z") == read_time("2026-01-02T04:05:00+01:00") == read_time(
        "2026-01-02T03:05:00") == at(5)


# -- seen --------------------------------------------------------------------------------------------------------------
class Jupyter:
    """What a Jupyter server says of itself; it was started at(0)."""

    def __init__(self) -> None:
        self.used_at, self.kernels, self.plain = at(0), ["idle"], False

    def __call__(self, request: Request) -> Reply:
        path = request.target.partition("?")[0]
        if self.plain:
            return Reply(200, body=b"<p>It works</p>")
        said: object = [{"execution_state": state} for state in self.kernels]
        if path.endswith("/api/status"):
            said = {"started": at(0).isoformat(), "last_activity": self.used_at.isoformat().replace("+00:00", "Z"),
                    "kernels": len(self.kernels), "connections": 1}
        return Reply(200, body=json.dumps(said).encode())


@pytest.fixture
async def app() -> AsyncIterator[TinyServer]:
    async with TinyServer("app", Jupyter()) as app:
        yield app


@asynccontextmanager
async def watched(world: World, app: TinyServer, file: Path) -> AsyncIterator[tuple[MiniHub, Watching, Server]]:
    """A Hub that looks, and alice's server, which is `app`; nobody did anything for a long time."""
    async with world.hub() as hub:
        server = await hub.start("alice")

        def move(t: users.Transaction) -> None:
            t.get_one(ServerRow, server.id).url = app.url

        await world.db.transact(move)
        await long_ago(world)
        watching = Watching(world.db, world.proxy, hub.spawner, Urls(), hub.probe, Activity(world.db), lambda server: "secret",
                            file)
        yield hub, watching, server


async def test_requests_that_the_proxy_counted_are_use(world: World, app: TinyServer, tmp_path: Path) -> None:
    async with watched(world, app, tmp_path / "seen.json") as (_, watching, server):
        world.proxy.counts = ("monday", {server.id: 5, "gone": 3})
        await watching.look()
        assert await times(world, server) == (LONG_AGO, LONG_AGO)      # there were five before anybody looked
        await watching.look()
        assert await times(world, server) == (LONG_AGO, LONG_AGO)
        world.proxy.counts = ("monday", {server.id: 6})
        before = datetime.now(UTC)
        await watching.look()
        mine, owners = await times(world, server)
        assert mine == owners
        assert before <= mine <= datetime.now(UTC)  # type: ignore[operator]


async def test_what_happened_while_no_hub_ran_is_noticed_by_the_next(world: World, app: TinyServer, tmp_path: Path) -> None:
    async with watched(world, app, tmp_path / "seen.json") as (hub, watching, server):
        world.proxy.counts = ("monday", {server.id: 5})
        await watching.look()
        for counts, seen in ((("monday", {server.id: 5}), False), (("monday", {server.id: 9}), True),
                             (("tuesday", {server.id: 0}), False), (("wednesday", {server.id: 2}), True), (None, False)):
            await long_ago(world)
            world.proxy.counts = counts
            following = Watching(world.db, world.proxy, hub.spawner, Urls(), hub.probe, Activity(world.db),
                                 lambda server: "secret", tmp_path / "seen.json")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(following.run)
                await anyio.sleep(0.3)
                tasks.cancel_scope.cancel()
            assert ((await times(world, server))[0] != LONG_AGO) == seen, counts


async def test_jupyter_is_believed_when_it_was_used_and_that_it_works(world: World, app: TinyServer, tmp_path: Path) -> None:
    jupyter = app.answer
    assert isinstance(jupyter, Jupyter)
    async with watched(world, app, tmp_path / "seen.json") as (_, watching, server):
        await watching.look()
        assert await times(world, server) == (LONG_AGO, LONG_AGO)       # that it was started is no use
        jupyter.used_at = at(40)
        await watching.look()
        assert await times(world, server) == (at(40), at(40))
        jupyter.kernels = ["idle", "busy"]
        await watching.look()
        mine, _ = await times(world, server)
        assert mine is not None
        assert datetime.now(UTC) - mine < timedelta(seconds=30)
        assert {request.target for request in app.seen} == {
            f"/user/alice/api/{what}?no_track_activity=1" for what in ("status", "kernels")}
        assert {request.get("Authorization") for request in app.seen} == {"token secret"}


async def test_a_clock_ahead_in_a_container_is_not_believed(world: World, app: TinyServer, tmp_path: Path) -> None:
    jupyter = app.answer
    assert isinstance(jupyter, Jupyter)
    async with watched(world, app, tmp_path / "seen.json") as (_, watching, server):
        jupyter.used_at = datetime.now(UTC) + timedelta(minutes=30)
        await watching.look()
        mine, _ = await times(world, server)
        assert mine is not None
        assert mine <= datetime.now(UTC)
        await long_ago(world)
        jupyter.used_at = datetime.now(UTC) + timedelta(days=300)
        await watching.look()
        assert await times(world, server) == (LONG_AGO, LONG_AGO)


async def test_an_app_that_is_no_jupyter_is_asked_once_a_start(world: World, app: TinyServer, tmp_path: Path) -> None:
    jupyter = app.answer
    assert isinstance(jupyter, Jupyter)
    jupyter.plain = True
    async with watched(world, app, tmp_path / "seen.json") as (_, watching, server):
        for _ in range(3):
            await watching.look()
        assert len(app.seen) == 1
        world.proxy.counts = ("monday", {server.id: 5})
        await watching.look()
        world.proxy.counts = ("monday", {server.id: 6})
        await watching.look()
        assert (await times(world, server))[0] != LONG_AGO


@pytest.mark.parametrize("body", [b"[1]", b"{}", b'{"started": 1, "last_activity": [], "kernels": {}}', b"\xff", b"[" * 100_000,
                                  b'{"started": "x", "last_activity": "y", "kernels": 1}', b" " * 300_000])
async def test_whatever_a_container_says_everybody_elses_activity_is_seen(
        world: World, app: TinyServer, tmp_path: Path, body: bytes) -> None:
    async with watched(world, app, tmp_path / "seen.json") as (hub, watching, server):
        app.answer = lambda request: Reply(200, body=body)
        bob = await hub.start("bob")
        world.proxy.counts = ("monday", {bob.id: 1})
        await watching.look()
        world.proxy.counts = ("monday", {bob.id: 2})
        await long_ago(world)
        await watching.look()
        assert await times(world, server) == (LONG_AGO, LONG_AGO)
        assert (await times(world, bob))[0] != LONG_AGO


async def test_a_server_that_hangs_holds_nobody_up_for_long(
        world: World, app: TinyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.hub.watching.ASK_TIMEOUT_S", 0.3)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as silent:
        port = silent.extra(anyio.abc.SocketAttribute.local_port)
        async with watched(world, app, tmp_path / "seen.json") as (_, watching, server):
            def move(t: users.Transaction) -> None:
                t.get_one(ServerRow, server.id).url = f"http://127.0.0.1:{port}"

            await world.db.transact(move)
            with anyio.fail_after(3):
                await watching.look()
            assert await times(world, server) == (LONG_AGO, LONG_AGO)


async def test_who_starts_a_server_uses_it(world: World) -> None:
    async with world.hub() as hub:
        server = await hub.start("alice")
        await long_ago(world)
        await hub.servers.stop(await hub.user("alice"), actor="alice")
        await hub.eventually(lambda: server.id not in world.engine.listeners)
        before = datetime.now(UTC)
        again = await hub.start("alice")
        assert again.last_activity_at is not None
        assert again.last_activity_at >= before
        found = await world.db.read(lambda t: servers.get(t, again.id))
        assert found is not None
