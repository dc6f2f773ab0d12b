"""Nothing with anything on it is ever formatted; what is ours stays, grows, and is mounted with quotas. Real loop devices."""

import contextlib
import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

DISKS = Path(__file__).parents[2] / "ansible/roles/storage/files/disks.py"
MIB = 1024 * 1024
pytestmark = [pytest.mark.engine, pytest.mark.skipif(os.geteuid() != 0, reason="only root makes file systems")]


@pytest.fixture
def play(tmp_path):
    """Runs disks.py with one place; where systemd would mount it, a systemctl of the test's own does."""
    tools, homes = tmp_path / "tools", tmp_path / "homes"
    tools.mkdir()
    # The program's PATH begins with /usr/local/sbin: the test's tools are put before it in a copy of the program.
    program = tmp_path / "disks.py"
    text = DISKS.read_text(encoding="utf-8")
    assert 'os.environ["PATH"] = "/usr/local/sbin' in text
    program.write_text(text.replace('os.environ["PATH"] = "', f'os.environ["PATH"] = "{tools}:', 1))

    def run(source, size=0, check=False, quota=True):
        (tools / "systemctl").write_text(
            f'#!/bin/sh\n[ "$1" != start ] || mount -o {"loop,nodiscard" if size else "noatime"} {source} {homes}\n')
        (tools / "systemctl").chmod(0o755)
        wanted = {
            "check": check, "students_memory": 0, "folders": [{"path": str(tmp_path / "data"), "mode": "0711"}],
            "folders_within": [{"path": str(homes), "mode": "0711"}],
            "places": [{"source": str(source), "size": size, "kind": "btrfs", "label": "appliance-homes", "place": str(homes),
                        "unit": "x.mount", "quota": quota}]}
        # the students' memory is another matter, which this machine's own slice must not be touched for
        code = "import sys; sys.argv = sys.argv[1:]; import runpy; m = runpy.run_path(sys.argv[0]); " \
               "main = m['main']; main.__globals__['ensure_slice'] = lambda box, size: None; main()"
        done = subprocess.run(["python3", "-c", code, program, json.dumps(wanted)], capture_output=True, text=True, check=False)
        return done.returncode, [line for line in done.stdout.splitlines() if line], done.stderr.strip()

    run.homes = homes
    yield run
    subprocess.run(["umount", homes], capture_output=True, check=False)


@pytest.fixture
def disk(tmp_path):
    """A block device of 512 MiB with nothing on it, and its file."""
    file = tmp_path / "disk"
    with file.open("wb") as empty:
        empty.truncate(512 * MIB)
    device = ""
    for _ in range(20):  # others take devices at the same time
        device = subprocess.run(["losetup", "-f"], capture_output=True, text=True, check=True).stdout.strip()
        if not os.path.exists(device):
            os.mknod(device, stat.S_IFBLK | 0o660, os.makedev(7, int(device.removeprefix("/dev/loop"))))
        with contextlib.suppress(subprocess.CalledProcessError):
            subprocess.run(["losetup", device, file], capture_output=True, check=True)
            break
    yield device
    subprocess.run(["umount", tmp_path / "homes"], capture_output=True, check=False)
    subprocess.run(["losetup", "-d", device], check=True)


def head(disk):
    with open(disk, "rb") as file:
        return file.read(8 * MIB)


def test_an_empty_disk_becomes_homes_with_quotas_and_a_second_run_changes_nothing(play, disk):
    status, did, said = play(disk)
    assert (status, said) == (0, "")
    assert f"made a btrfs file system on {disk}" in did
    assert os.path.ismount(play.homes)
    assert stat.S_IMODE(play.homes.stat().st_mode) == 0o711
    subprocess.run(["btrfs", "qgroup", "show", play.homes], check=True, capture_output=True)
    (play.homes / "ada").write_text("work")
    assert play(disk) == (0, [], "")
    assert (play.homes / "ada").read_text() == "work"


def test_a_check_says_what_would_be_done_and_does_nothing(play, disk):
    status, did, _ = play(disk, check=True)
    assert status == 0
    assert f"made a btrfs file system on {disk}" in did
    assert not os.path.ismount(play.homes)
    assert not any(head(disk))


@pytest.mark.parametrize("make", [
    lambda disk: subprocess.run(["mkfs.btrfs", "-q", "-L", "photos", disk], check=True),
    lambda disk: subprocess.run(["mkfs.ext4", "-q", disk], check=True),
    lambda disk: subprocess.run(["mkswap", disk], check=True, capture_output=True),
    lambda disk: Path(disk).write_bytes(os.urandom(64)),
], ids=["other-btrfs", "ext4", "swap", "unknown"])
def test_a_disk_with_anything_on_it_is_refused_and_not_touched(play, disk, make):
    make(disk)
    before = head(disk)
    status, did, said = play(disk)
    assert status == 1
    assert "is not empty" in said
    assert "not touched" in said
    assert not any("made a btrfs" in line for line in did)
    assert head(disk) == before


def test_a_disk_somebody_uses_is_refused(play, disk):
    held = os.open(disk, os.O_RDONLY | os.O_EXCL)
    try:
        status, _, said = play(disk)
    finally:
        os.close(held)
    assert status == 1
    assert "somebody uses it" in said


def test_what_is_only_at_the_end_of_a_disk_counts(play, disk):
    with Path(disk).open("r+b") as file:
        file.seek(-512, os.SEEK_END)
        file.write(b"raid?")
    status, _, said = play(disk)
    assert status == 1
    assert "not touched" in said


def test_a_disk_that_is_not_there_is_named(play):
    status, _, said = play("/dev/appliance-no-such-disk")
    assert (status, said) == (1, "There is no disk /dev/appliance-no-such-disk; “lsblk” lists those that are there.")


def test_a_loop_file_has_all_its_space_and_grows_while_it_is_used(play, tmp_path):
    file = tmp_path / "data" / "homes.img"
    status, did, said = play(file, size=256 * MIB)
    assert (status, said) == (0, ""), did
    assert file.stat().st_blocks * 512 >= 256 * MIB
    (play.homes / "ada").write_bytes(os.urandom(8 * MIB))
    (play.homes / "ada").unlink()
    subprocess.run(["btrfs", "filesystem", "sync", play.homes], check=True)
    assert file.stat().st_blocks * 512 >= 256 * MIB     # what is deleted within stays the file's own

    with (play.homes / "grace").open("w") as open_file:  # somebody works meanwhile
        assert play(file, size=400 * MIB)[0] == 0
        open_file.write("still here")
    free = os.statvfs(play.homes)
    assert free.f_blocks * free.f_frsize >= 390 * MIB
    assert (play.homes / "grace").read_text() == "still here"
    assert play(file, size=300 * MIB) == (0, [], "")    # never smaller


def test_a_file_larger_than_the_disk_is_refused_before_it_is_made(play, tmp_path):
    too_large = shutil.disk_usage(tmp_path).total * 2
    status, _, said = play(tmp_path / "data" / "homes.img", size=too_large)
    assert status == 1
    assert "MiB free" in said
    assert list((tmp_path / "data").iterdir()) == []


def test_files_in_the_place_are_not_hidden_by_a_mount(play, disk):
    play.homes.mkdir()
    (play.homes / "thesis").write_text("years")
    status, _, said = play(disk)
    assert status == 1
    assert "holds files" in said
    assert not os.path.ismount(play.homes)
