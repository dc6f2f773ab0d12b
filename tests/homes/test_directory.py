"""DirectoryHomes: the contract, and what it refuses."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from appliance.errors import DiskFull, HomesUnavailable
from appliance.homes import directory
from appliance.homes.directory import DirectoryHomes
from appliance.testing import FakeHomes, HomesContract

pytestmark = [pytest.mark.unit, pytest.mark.anyio]
UID = 30078 if os.geteuid() == 0 else os.geteuid()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def homes(tmp_path: Path) -> DirectoryHomes:
    (tmp_path / "homes").mkdir()
    homes = DirectoryHomes()
    homes.root = tmp_path / "homes"
    return homes


class TestDirectoryHomes(HomesContract):
    @pytest.fixture(autouse=True)
    def _needs_root(self) -> None:
        if os.geteuid() != 0:
            pytest.skip("only root gives a directory away")


class TestFakeHomes(HomesContract):
    @pytest.fixture
    def homes(self, tmp_path: Path) -> FakeHomes:
        return FakeHomes(tmp_path)

    async def test_a_home_belongs_to_its_user_alone(self, homes: FakeHomes) -> None:  # type: ignore[override]
        assert (await homes.ensure(self.uid, "alice")).stat().st_mode & 0o777 == 0o700


async def test_owner_json_is_not_the_user_s_to_change(homes: DirectoryHomes) -> None:
    home = await homes.ensure(UID, "alice")
    owner = home.parent / "owner.json"
    assert json.loads(owner.read_text()) == {"user_name": "alice", "uid": UID}
    assert owner.stat().st_uid == os.geteuid() == home.parent.stat().st_uid
    assert home.parent.stat().st_mode & 0o777 == 0o711


async def test_a_missing_root_is_not_made(homes: DirectoryHomes, tmp_path: Path) -> None:
    homes.root = tmp_path / "unmounted"
    for call in (homes.check(), homes.ensure(UID, "alice"), homes.list()):
        with pytest.raises(HomesUnavailable):
            await call
    assert not homes.root.exists()


async def test_a_root_that_is_no_mount_is_refused_where_one_is_required(homes: DirectoryHomes) -> None:
    homes.require_mount = True
    with pytest.raises(HomesUnavailable) as refused:
        await homes.ensure(UID, "alice")
    assert "not a mount point" in refused.value.action
    homes.root = Path("/proc")
    await homes.check()


async def test_nobody_gets_the_home_of_somebody_else(homes: DirectoryHomes) -> None:
    await homes.ensure(UID, "alice")
    with pytest.raises(HomesUnavailable) as refused:
        await homes.ensure(UID, "bob")
    assert "alice" in refused.value.action


async def test_no_link_is_followed(homes: DirectoryHomes, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.mkdir(mode=0o755)
    (homes.root / f"u{UID}").mkdir()
    (homes.root / f"u{UID}" / "home").symlink_to(target)
    with pytest.raises(HomesUnavailable):
        await homes.ensure(UID, "alice")
    (homes.root / f"u{UID + 1}").symlink_to(target)
    with pytest.raises(HomesUnavailable):
        await homes.ensure(UID + 1, "bob")
    assert (target.stat().st_uid, target.stat().st_mode & 0o777) == (os.geteuid(), 0o755)
    assert list(target.iterdir()) == []


async def test_a_home_that_was_half_made_is_finished(homes: DirectoryHomes) -> None:
    (homes.root / f"u{UID}" / "home").mkdir(parents=True)
    assert (await homes.ensure(UID, "alice")).stat().st_uid == UID


async def test_a_home_of_another_uid_is_refused(homes: DirectoryHomes) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives a directory away")
    home = await homes.ensure(UID, "alice")
    os.chown(home, UID + 5, UID + 5)
    with pytest.raises(HomesUnavailable):
        await homes.ensure(UID, "alice")


async def test_an_unreadable_owner_json_is_named_and_hides_no_other(
    homes: DirectoryHomes, caplog: pytest.LogCaptureFixture,
) -> None:
    await homes.ensure(UID, "alice")
    await homes.ensure(UID + 1, "bob")
    (homes.root / f"u{UID}" / "owner.json").write_text("{")
    with pytest.raises(HomesUnavailable) as refused:
        await homes.ensure(UID, "alice")
    assert "owner.json" in refused.value.action
    assert [home.user_name for home in await homes.list()] == ["bob"]
    assert "owner.json" in caplog.text


async def test_what_is_not_a_home_is_not_listed(homes: DirectoryHomes) -> None:
    (homes.root / "lost+found").mkdir()
    (homes.root / "u7").mkdir()
    (homes.root / "uncle.txt").write_text("x")
    assert await homes.list() == []


async def test_root_never_gets_a_home(homes: DirectoryHomes) -> None:
    with pytest.raises(HomesUnavailable):
        await homes.ensure(0, "root")


@pytest.mark.parametrize(
    ("number", "error"),
    [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EIO, HomesUnavailable),
     (errno.EACCES, HomesUnavailable), (errno.EROFS, HomesUnavailable)])
async def test_errors_of_the_disk_are_told_apart(
    homes: DirectoryHomes, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception],
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(directory, "_write", fail)
    with pytest.raises(error):
        await homes.ensure(UID, "alice")
    monkeypatch.undo()
    await homes.ensure(UID, "alice")
