"""A fake Homes driver and the contract of every one."""

from __future__ import annotations

import builtins
import os
from pathlib import Path
from typing import Any

import anyio
import pytest

from appliance.errors import HomesUnavailable
from appliance.ports import Home, Homes


class FakeHomes(Homes):
    """Folders below `root` that belong to whoever runs the tests."""

    def __init__(self, root: Path | None = None, **traits: Any) -> None:
        super().__init__(**traits)
        if root is not None:
            self.root = root
        self.unavailable = False

    async def check(self) -> None:
        if self.unavailable:
            raise HomesUnavailable()

    async def ensure(self, uid: int, user_name: str) -> Path:
        await self.check()
        home = self.root.absolute() / f"u{uid}" / user_name
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        return home

    async def rename(self, uid: int, user_name: str) -> None:
        await self.check()
        for home in self.root.absolute().glob(f"u{uid}/*"):
            home.rename(home.with_name(user_name))

    async def list(self) -> builtins.list[Home]:
        await self.check()
        return [Home(int(path.parent.name[1:]), path.name, path) for path in sorted(self.root.absolute().glob("u*/*"))]


class HomesContract:
    """What every Homes driver does. A subclass has a fixture `homes`, whose root exists."""

    pytestmark = pytest.mark.anyio
    uid = 30078

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    async def test_a_home_belongs_to_its_user_alone(self, homes: Homes) -> None:
        home = await homes.ensure(self.uid, "alice")
        assert home.is_absolute()
        found = home.stat()
        assert found.st_mode & 0o777 == 0o700
        if os.geteuid() == 0:
            assert (found.st_uid, found.st_gid) == (self.uid, self.uid)

    async def test_a_home_is_made_once_and_keeps_its_files(self, homes: Homes) -> None:
        home = await homes.ensure(self.uid, "alice")
        (home / "work.ipynb").write_text("mine")
        assert await homes.ensure(self.uid, "alice") == home
        assert (home / "work.ipynb").read_text() == "mine"

    async def test_users_have_homes_of_their_own(self, homes: Homes) -> None:
        assert await homes.ensure(self.uid, "alice") != await homes.ensure(self.uid + 1, "bob")

    async def test_homes_say_whose_they_are(self, homes: Homes) -> None:
        alice = Home(self.uid, "alice", await homes.ensure(self.uid, "alice"))
        jose = Home(self.uid + 1, "josé", await homes.ensure(self.uid + 1, "josé"))
        assert sorted(await homes.list(), key=lambda home: home.uid) == [alice, jose]

    async def test_a_home_stays_when_its_owner_is_renamed(self, homes: Homes) -> None:
        await homes.rename(self.uid, "nobody yet")
        home = await homes.ensure(self.uid, "alice")
        (home / "work.ipynb").write_text("mine")
        await homes.rename(self.uid, "alicia")
        assert ((await homes.ensure(self.uid, "alicia")) / "work.ipynb").read_text() == "mine"
        assert [(found.uid, found.user_name) for found in await homes.list()] == [(self.uid, "alicia")]

    async def test_usage_is_of_a_home_that_is_there(self, homes: Homes) -> None:
        assert await homes.usage(self.uid) is None
        await homes.ensure(self.uid, "alice")
        used = await homes.usage(self.uid)
        assert used is None or 0 <= used.used_bytes < 1 << 20

    async def test_two_at_once_make_one_home(self, homes: Homes) -> None:
        found = []

        async def ensure() -> None:
            found.append(await homes.ensure(self.uid, "alice"))

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(ensure)
        assert len(set(found)) == 1
        assert len(await homes.list()) == 1
