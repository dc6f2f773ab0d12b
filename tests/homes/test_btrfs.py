"""BtrfsHomes on a real Btrfs: the contract, hard limits, and folders that become subvolumes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from loop_disk import loop_disk

from appliance.errors import HomesUnavailable
from appliance.homes import btrfs
from appliance.homes.btrfs import BtrfsHomes
from appliance.homes.directory import DirectoryHomes
from appliance.testing import HomesContract

pytestmark = [pytest.mark.engine, pytest.mark.anyio]
UID = 30078
MEGABYTE = 1 << 20
FULL = "Disk quota exceeded"
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with loop_disk(tmp_path_factory.mktemp("btrfs"), "600M", "mkfs.btrfs", "-q") as folder:
        yield folder


@pytest.fixture
def root(disk: Path) -> Path:
    """A folder of homes that is new for each test, on the same disk."""
    folder = disk / f"homes{len(os.listdir(disk))}"
    folder.mkdir()
    return folder


@pytest.fixture
def homes(root: Path) -> BtrfsHomes:
    return make(root)


def make(root: Path, quota: str | None = "20M", **attributes: Any) -> BtrfsHomes:
    homes = BtrfsHomes(quota=quota)
    for name, value in {"root": root, **attributes}.items():
        setattr(homes, name, value)
    return homes


async def nobody(uid: int) -> bool:
    return False


async def somebody(uid: int) -> bool:
    return True


def as_user(uid: int, home: Path, command: str) -> str:
    """Run a command in a home as its student; return what it prints. The folder above may be closed to them."""
    done = subprocess.run(["/bin/sh", "-c", command], cwd=home, user=uid, group=uid, extra_groups=[], env={"LC_ALL": "C"},
                          capture_output=True, text=True, timeout=60, check=False)
    return (done.stdout + done.stderr).strip()


def fill(home: Path, megabytes: int, name: str = "filler", uid: int = UID) -> str:
    """Return "written", or why not."""
    said = as_user(uid, home, f"/bin/dd if=/dev/urandom of={name} bs=1M count={megabytes} conv=fsync && echo written")
    return next((words for words in ("written", FULL) if words in said), said)


class TestBtrfsHomes(HomesContract):
    pass


async def test_a_full_home_says_so_hurts_nobody_else_and_can_be_emptied(homes: BtrfsHomes) -> None:
    alice, bob = await homes.ensure(UID, "alice"), await homes.ensure(UID + 1, "bob")
    assert fill(alice, 40) == FULL
    assert fill(bob, 10, uid=UID + 1) == "written"
    assert as_user(UID, alice, "/bin/rm filler && echo gone") == "gone"
    os.sync()  # only what is on the disk is counted
    assert fill(alice, 10) == "written"
    assert await homes.ensure(UID, "alice") == alice


async def test_usage_says_what_is_used_and_allowed(homes: BtrfsHomes) -> None:
    home = await homes.ensure(UID, "alice")
    assert fill(home, 5) == "written"
    os.sync()  # only what is on the disk is counted
    used = await homes.usage(UID)
    assert used is not None
    assert used.quota_bytes == 20 * MEGABYTE
    assert 5 * MEGABYTE <= used.used_bytes < 6 * MEGABYTE
    assert await homes.usage(UID + 9) is None


async def test_a_changed_quota_holds_for_the_homes_there_are(root: Path) -> None:
    homes = make(root)
    home = await homes.ensure(UID, "alice")
    await make(root, "50M").check()
    assert fill(home, 40) == "written"
    await make(root, "10M").check()           # less than it holds: nothing is lost, nothing is added
    assert fill(home, 1, "more") == FULL
    assert (home / "filler").stat().st_size == 40 * MEGABYTE
    await make(root, None).check()
    assert fill(home, 20, "more") == "written"
    used = await make(root, None).usage(UID)
    assert used is not None
    assert used.quota_bytes is None


async def test_a_start_with_the_right_quota_runs_no_program(homes: BtrfsHomes, monkeypatch: pytest.MonkeyPatch) -> None:
    await homes.check()
    await homes.ensure(UID, "alice")
    monkeypatch.setattr(homes, "_btrfs", None)
    await homes.ensure(UID, "alice")
    await homes.check()


# -- refusals ---------------------------------------------------------------------------------------------------------
async def test_another_file_system_is_refused(tmp_path: Path) -> None:
    homes = make(tmp_path)
    for call in (homes.check(), homes.ensure(UID, "alice"), homes.list()):
        with pytest.raises(HomesUnavailable) as refused:
            await call
        assert "not on a Btrfs file system" in refused.value.action


async def test_a_missing_program_is_named(homes: BtrfsHomes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HomesUnavailable) as refused:
        await homes.check()
    assert "btrfs-progs" in refused.value.action


async def test_a_root_that_is_no_mount_is_refused_where_one_is_required(homes: BtrfsHomes, disk: Path) -> None:
    homes.require_mount = True
    with pytest.raises(HomesUnavailable) as refused:
        await homes.check()
    assert "not a mount point" in refused.value.action
    homes.root = disk
    await homes.check()


ENSURE = """
import anyio, sys
from pathlib import Path
from appliance.errors import HomesUnavailable
from appliance.homes.btrfs import BtrfsHomes
homes = BtrfsHomes(quota="20M")
homes.root = Path(sys.argv[1])
try:
    anyio.run(homes.ensure, 30078, "alice")
except HomesUnavailable as error:
    print(error.action)
"""


def test_a_hub_that_may_not_set_quotas_says_what_it_lacks(root: Path) -> None:
    done = subprocess.run(
        ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", sys.executable, "-c", ENSURE, str(root)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert "CAP_SYS_ADMIN" in done.stdout, done.stderr


# -- a folder becomes a subvolume -------------------------------------------------------------------------------------
class Killed(BaseException):
    pass


async def folder_home(root: Path) -> Path:
    homes = DirectoryHomes()
    homes.root = root
    home = await homes.ensure(UID, "alice")
    (home / "work").mkdir()
    (home / "work" / "a.ipynb").write_text("mine")
    (home / "link").symlink_to("/etc/passwd")
    os.link(home / "work" / "a.ipynb", home / "same.ipynb")
    (home / "secret").write_text("x")
    (home / "secret").chmod(0o600)
    for path in (home / "work", home / "work" / "a.ipynb", home / "link", home / "secret"):
        os.chown(path, UID, UID, follow_symlinks=False)
    return home


def assert_whole(home: Path) -> None:
    assert (home / "work" / "a.ipynb").read_text() == "mine"
    assert os.readlink(home / "link") == "/etc/passwd"
    assert (home / "same.ipynb").stat().st_ino == (home / "work" / "a.ipynb").stat().st_ino
    for path in (home, home / "work", home / "work" / "a.ipynb", home / "link", home / "secret"):
        assert path.lstat().st_uid == UID
    assert (home / "secret").stat().st_mode & 0o777 == 0o600
    assert home.stat().st_mode & 0o777 == 0o700


async def test_a_folder_becomes_a_subvolume_and_is_kept_beside_it(root: Path) -> None:
    home = await folder_home(root)
    homes = make(root, in_use=nobody)
    assert await homes.ensure(UID, "alice") == home
    assert btrfs._is_subvolume(home)
    assert_whole(home)
    assert_whole(home.parent / "home.before")
    assert fill(home, 40) == FULL
    assert [found.user_name for found in await homes.list()] == ["alice"]
    assert sorted(os.listdir(home.parent)) == ["home", "home.before", "owner.json"]


@pytest.mark.parametrize("in_use", [somebody, None])
async def test_a_folder_that_may_be_in_use_stays_as_it_is(root: Path, in_use: Any) -> None:
    home = await folder_home(root)
    inode = home.stat().st_ino
    homes = make(root, in_use=in_use)
    assert await homes.ensure(UID, "alice") == home
    await homes.check()
    assert home.stat().st_ino == inode
    assert sorted(os.listdir(home.parent)) == ["home", "owner.json"]


def dies(function: Callable[..., Any], at: int, *, after: bool) -> Callable[..., Any]:
    """Return `function`, but its call number `at` kills the Hub, before or after it has done its work."""
    calls = 0

    def call(*words: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at and not after:
            raise Killed()
        result = function(*words, **more)
        if calls == at:
            raise Killed()
        return result

    return call


@pytest.mark.parametrize(("what", "at", "after"), [
    ("run", 1, False), ("run", 1, True), ("run", 2, False), ("run", 2, True), ("run", 3, True),
    ("rename", 1, False), ("rename", 1, True), ("rename", 2, True),
])
async def test_a_hub_killed_at_any_step_of_it_loses_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, what: str, at: int, after: bool,
) -> None:
    home = await folder_home(root)
    await make(root).check()     # quotas are on
    module: Any = subprocess if what == "run" else os
    monkeypatch.setattr(module, what, dies(getattr(module, what), at, after=after))
    with pytest.raises(Killed):
        await make(root, in_use=nobody).ensure(UID, "alice")
    monkeypatch.undo()
    assert_whole(home if home.exists() else home.parent / "home.before")
    await make(root, in_use=nobody).ensure(UID, "alice")
    assert btrfs._is_subvolume(home)
    assert_whole(home)
    assert_whole(home.parent / "home.before")
    assert sorted(os.listdir(home.parent)) == ["home", "home.before", "owner.json"]
    assert fill(home, 40) == FULL


async def test_a_copy_that_fails_leaves_the_folder(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = await folder_home(root)
    (tmp_path / "cp").write_text("#!/bin/sh\necho it is broken >&2\nexit 1\n")
    (tmp_path / "cp").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(HomesUnavailable) as refused:
        await make(root, in_use=nobody).ensure(UID, "alice")
    assert refused.value.evidence == "it is broken"
    assert_whole(home)
    assert sorted(os.listdir(home.parent)) == ["home", "owner.json"]


async def test_two_starts_at_once_convert_once(root: Path) -> None:
    home = await folder_home(root)
    homes = make(root, in_use=nobody)
    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(homes.ensure, UID, "alice")
    assert btrfs._is_subvolume(home)
    assert sorted(os.listdir(home.parent)) == ["home", "home.before", "owner.json"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
