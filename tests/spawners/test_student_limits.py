"""What one student can use up: a whole box with quotas, read-only containers and a control group of all servers."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from box import Box, wait_for
from loop_disk import loop_disk
from student import Student

from appliance.domain.server import Phase

pytestmark = pytest.mark.engine

CONFIG = """
c.JupyterHub.homes_class = "btrfs"
c.JupyterHub.homes_dir = "{disk}"
c.BtrfsHomes.quota = "40M"
c.BtrfsHomes.require_mount = True
c.DockerSpawner.read_only = True
c.DockerSpawner.tmp_size = "64M"
c.DockerSpawner.cgroup_parent = "{group}"
c.DockerSpawner.seccomp_profile = "{profile}"
c.Spawner.mem_limit = "512M"
"""
# tries to write into every folder there is, follows no link, and prints where it could
WRITE_EVERYWHERE = """
import os
written = []
for folder, folders, _ in os.walk("/"):
    folders[:] = [name for name in folders if not (folder == "/" and name in ("proc", "sys"))]
    try:
        with open(os.path.join(folder, "written"), "wb"):
            pass
        os.unlink(os.path.join(folder, "written"))
        written.append(folder)
    except OSError:
        pass
tops = {place for place in ("/home/alice", "/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue") if any(
    (folder + "/").startswith(place + "/") for folder in written)}
print(sorted(tops), sorted(folder for folder in written if not any(
    (folder + "/").startswith(place + "/") for place in tops)))
"""
FILL = """
import os
def fill(path):
    try:
        with open(path, "wb", buffering=0) as file:
            for _ in range(200):
                file.write(os.urandom(1 << 20))
            os.fsync(file.fileno())
        return "written"
    except OSError as error:
        return error.strerror
"""


@pytest.fixture(scope="module")
def group() -> Iterator[str]:
    name = f"appliance-test-{next(tempfile._get_candidate_names()).replace('_', 'x')}.slice"
    yield name
    for folder in Path("/sys/fs/cgroup").glob(f"**/{name}"):
        folder.rmdir()


@pytest.fixture(scope="module")
def box(group: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    profile = tmp_path_factory.mktemp("profile") / "seccomp.json"
    profile.write_bytes(subprocess.run(
        ["docker", "run", "--rm", "--network", "none", "--entrypoint", "cat", "appliance/hub:latest",
         "/usr/share/appliance/seccomp.json"], check=True, capture_output=True, timeout=60).stdout)
    with loop_disk(tmp_path_factory.mktemp("homes"), "600M", "mkfs.btrfs", "-q") as disk, Box(
            CONFIG.format(disk=disk, group=group, profile=profile)) as made:
        yield made


@pytest.fixture
def alice(box: Box) -> Iterator[Student]:
    with box.student("alice") as student:
        student.to_server()
        yield student


def test_a_student_writes_to_home_and_memory_only(alice: Student) -> None:
    said = alice.run_cell(WRITE_EVERYWHERE)
    assert said == "['/dev/mqueue', '/dev/shm', '/home/alice', '/tmp', '/var/tmp'] []\n"


def test_what_is_in_memory_is_limited(alice: Student) -> None:
    said = alice.run_cell(FILL + 'print(fill("/tmp/x"), fill("/var/tmp/x"), fill("/dev/shm/x"), sep="; ")')
    assert said == "; ".join(["No space left on device"] * 3) + "\n"
    assert alice.run_cell('import os\nfor each in ("/tmp/x", "/var/tmp/x", "/dev/shm/x"): os.unlink(each)') == ""


def test_the_notebook_image_works_with_a_root_that_is_read_only(box: Box, alice: Student) -> None:
    assert alice.run_cell("import matplotlib.pyplot as plot\nplot.plot([1, 2]); plot.savefig('p.png'); import os\n"
                          "print(os.path.getsize('p.png') > 0)").endswith("True\n")
    alice.write("notes.txt", "mine")
    assert alice.read("notes.txt") == "mine"
    assert alice.get("/user/alice/lab").status_code == 200
    terminal = alice.api("POST", "terminals")
    assert terminal.status_code in (200, 201)
    assert alice.api("DELETE", f"terminals/{terminal.json()['name']}").status_code == 204
    # a package of a student's own, built into a wheel in /tmp and installed into the home, without the network
    built = alice.run_cell(
        "import subprocess, sys, zipfile\n"
        "with zipfile.ZipFile('/tmp/mine-1-py3-none-any.whl', 'w') as wheel:\n"
        "    wheel.writestr('mine.py', 'answer = 42')\n"
        "    wheel.writestr('mine-1.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: mine\\nVersion: 1\\n')\n"
        "    wheel.writestr('mine-1.dist-info/WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n"
        "    wheel.writestr('mine-1.dist-info/RECORD', '')\n"
        "done = subprocess.run([sys.executable, '-m', 'pip', 'install', '--user', '--no-index', "
        "'/tmp/mine-1-py3-none-any.whl'], capture_output=True, text=True)\n"
        "print(done.returncode, done.stderr if done.returncode else '')")
    assert built.startswith("0"), built
    # this kernel began before there was a folder for packages
    assert alice.run_cell("print(subprocess.check_output([sys.executable, '-c', 'import mine; print(mine.answer)']))") == (
        "b'42\\n'\n")
    # /tmp is one where programs run
    assert alice.run_cell("import os\nopen('/tmp/s', 'w').write('#!/bin/sh\\necho runs')\nos.chmod('/tmp/s', 0o755)\n"
                          "print(subprocess.check_output(['/tmp/s']))").endswith("b'runs\\n'\n")


def test_a_full_home_is_told_hurts_nobody_and_still_starts(box: Box, alice: Student) -> None:
    said = alice.run_cell(FILL + 'print(fill("filler"))')
    assert said == "Disk quota exceeded\n"
    with box.student("bob") as bob:
        bob.to_server()
        assert bob.run_cell("open('work', 'wb').write(b'x' * (10 << 20)); print('fine')") == "fine\n"
    alice.stop()
    box.wait_phase("alice", Phase.STOPPED)
    alice.to_server()
    with alice.kernel() as kernel:
        assert kernel.run(FILL + 'print(fill("more"))') == "Disk quota exceeded\n"
        assert kernel.run("os.unlink('filler'); print('gone')") == "gone\n"


def test_a_quota_cannot_be_got_around_with_a_subvolume(alice: Student) -> None:
    said = alice.run_cell("""
import errno, fcntl, os, struct, subprocess
place = os.open(".", os.O_RDONLY)
for number in (0x5000940E, 0x50009418, 0x50009401, 0x50009417):  # BTRFS_IOC_SUBVOL_CREATE, SNAP_CREATE, and version 2 of each
    try:
        fcntl.ioctl(place, number, bytearray(struct.pack("=q4088s", place, b"sub")))
        print("made")
    except OSError as error:
        print(errno.errorcode[error.errno])
open("a", "w").write("x" * 10000)
print(subprocess.getoutput("cp --reflink=always a b && echo copied"))
""")
    assert said.split() == ["EPERM"] * 4 + ["copied"]


def test_all_servers_are_in_one_group_whose_missing_limit_is_told(box: Box, alice: Student, group: str) -> None:
    found = [path for path in Path("/sys/fs/cgroup").glob(f"**/{group}/*{box.container('alice').id}*") if path.is_dir()]
    assert found
    server = box.server("alice")
    assert server is not None
    said = subprocess.run(["docker", "inspect", "-f", "{{.HostConfig.CgroupParent}}", box.container("alice").id],
                           capture_output=True, text=True, check=True).stdout.strip()
    assert said in (group, f"/{group}")
    box.terminate()
    box.start()     # the group is there by now, without a limit
    wait_for("the warning", lambda: f"{group} has no memory limit" in box.log())
