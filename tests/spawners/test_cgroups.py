"""What a container uses, read from control groups: every layout as files, and the meter of CPU time."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from appliance.errors import BadOption
from appliance.spawners.cgroups import Reading, check_name, group_of, groups_of, is_limited, parse_mounts, read, shared_memory
from appliance.spawners.cpu_meter import CpuMeter

pytestmark = pytest.mark.unit
ID = "6fdacdcced9a79ee42d6f6671cff6457b49ba29bc4d97fd8cfc9e8d7f67346ce"
PID = 4242
READ = Reading(memory_bytes=70_000, cpu_s=1.5, pids=3)


def layout(root: Path, groups: str, mounts: str, files: dict[str, str]) -> Path:
    """Make a machine below `root`. mounts: lines like "GROUP POINT KIND OPTIONS"."""
    lines = []
    for number, line in enumerate(mounts.split("\n"), 30):
        group, point, kind, options = line.split(" ")
        lines.append(f"{number} 23 0:{number} {group} {point} rw,nosuid shared:9 master:1 - {kind} {kind} {options}\n")
    described = {
        f"proc/{PID}/cgroup": groups + "\n",
        "proc/self/mountinfo": "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n" + "".join(lines),
    }
    for name, text in (described | files).items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def v1_files(memory: str, cpu: str, pids: str, group: str = f"docker/{ID}") -> dict[str, str]:
    return {
        f"{memory}/{group}/memory.usage_in_bytes": "100000\n",
        f"{memory}/{group}/memory.stat": "cache 1\ninactive_file 7\nhierarchical_memory_limit 9\ntotal_inactive_file 30000\n",
        f"{cpu}/{group}/cpuacct.usage": "1500000000\n",
        f"{pids}/{group}/pids.current": "3\n",
    }


def v2_files(folder: str) -> dict[str, str]:
    return {
        f"{folder}/memory.current": "100000\n", f"{folder}/memory.stat": "anon 7\ninactive_file 30000\n",
        f"{folder}/cpu.stat": "usage_usec 1500000\nuser_usec 1\nsystem_usec 1\n", f"{folder}/pids.current": "3\n",
    }


V1_GROUPS = f"8:pids:/docker/{ID}\n4:memory:/docker/{ID}\n2:cpuacct:/docker/{ID}\n1:name=systemd:/docker/{ID}"
V1_MOUNTS = ("/ /cg/cpuacct cgroup rw,cpuacct\n/ /cg/memory cgroup rw,memory\n/ /cg/pids cgroup rw,pids\n"
             "/ /cg/systemd cgroup rw,name=systemd")


def test_version_1(tmp_path: Path) -> None:
    root = layout(tmp_path, V1_GROUPS, V1_MOUNTS, v1_files("cg/memory", "cg/cpuacct", "cg/pids"))
    assert read(PID, ID, root=root) == READ


def test_version_1_beside_an_empty_version_2(tmp_path: Path) -> None:
    root = layout(tmp_path, f"{V1_GROUPS}\n0::/docker/{ID}", f"/ /cg/unified cgroup2 rw\n{V1_MOUNTS}", {
        **v1_files("cg/memory", "cg/cpuacct", "cg/pids"), f"cg/unified/docker/{ID}/cgroup.procs": f"{PID}\n"})
    assert read(PID, ID, root=root) == READ


def test_controllers_mounted_together_and_a_point_with_a_space(tmp_path: Path) -> None:
    group = f"system.slice/docker-{ID}.scope"
    root = layout(
        tmp_path, f"8:pids:/{group}\n4:memory:/{group}\n2:cpu,cpuacct:/{group}",
        "/ /cg/cpu,cpuacct cgroup rw,cpu,cpuacct\n/ /cg/my\\040memory cgroup rw,memory\n/ /cg/pids cgroup rw,pids",
        v1_files("cg/my memory", "cg/cpu,cpuacct", "cg/pids", group))
    assert read(PID, ID, root=root) == READ


@pytest.mark.parametrize("group", [f"system.slice/docker-{ID}.scope", f"docker/{ID}", f"machine.slice/libpod-{ID}.scope"])
def test_version_2(tmp_path: Path, group: str) -> None:
    root = layout(tmp_path, f"0::/{group}", "/ /sys/fs/cgroup cgroup2 rw,nsdelegate", v2_files(f"sys/fs/cgroup/{group}"))
    assert read(PID, ID, root=root) == READ


def test_memory_of_version_1_beside_the_rest_in_version_2(tmp_path: Path) -> None:
    files = v1_files("cg/memory", "none", "none") | v2_files(f"cg/unified/docker/{ID}")
    root = layout(tmp_path, f"4:memory:/docker/{ID}\n0::/docker/{ID}",
                  "/ /cg/memory cgroup rw,memory\n/ /cg/unified cgroup2 rw", files)
    assert read(PID, ID, root=root) == READ


def test_groups_that_a_container_makes_itself_count_as_its_own(tmp_path: Path) -> None:
    root = layout(tmp_path, f"0::/docker/{ID}/init/deeper", "/ /cg cgroup2 rw", v2_files(f"cg/docker/{ID}"))
    assert read(PID, ID, root=root) == READ


def test_a_mount_of_another_part_of_the_tree_is_passed_over(tmp_path: Path) -> None:
    root = layout(tmp_path, f"0::/docker/{ID}", "/lxc /elsewhere cgroup2 rw\n/docker /cg cgroup2 rw", v2_files(f"cg/{ID}"))
    assert read(PID, ID, root=root) == READ


def test_processes_may_go_uncounted(tmp_path: Path) -> None:
    files = v1_files("cg/memory", "cg/cpuacct", "cg/pids")
    root = layout(tmp_path, V1_GROUPS.split("\n", 1)[1], V1_MOUNTS, files)
    assert read(PID, ID, root=root) == Reading(70_000, 1.5, None)


@pytest.mark.parametrize("groups", [
    "0::/", "0::/../../user.slice", "0::/system.slice/ssh.service", "0::/docker/" + "0" * 64, "", "nonsense"])
def test_somebody_else_s_process_is_not_read(tmp_path: Path, groups: str) -> None:
    """In a Hub's own container the number means another process, or none."""
    root = layout(tmp_path, groups, "/ /cg cgroup2 rw", v2_files("cg"))
    assert read(PID, ID, root=root) is None
    assert read(PID + 1, ID, root=root) is None


@pytest.mark.parametrize("missing", ["memory.current", "memory.stat", "cpu.stat"])
def test_files_that_are_not_there_or_say_something_else_are_unknown(tmp_path: Path, missing: str) -> None:
    root = layout(tmp_path, f"0::/docker/{ID}", "/ /cg cgroup2 rw", v2_files(f"cg/docker/{ID}"))
    file = root / f"cg/docker/{ID}/{missing}"
    file.write_text("max\n")
    assert read(PID, ID, root=root) is None
    file.unlink()
    assert read(PID, ID, root=root) is None


def test_without_a_mount_nothing_is_known(tmp_path: Path) -> None:
    root = layout(tmp_path, f"0::/docker/{ID}", "/docker/another /cg cgroup2 rw", v2_files(f"elsewhere/docker/{ID}"))
    assert read(PID, ID, root=root) is None


# -- a Hub in a container, which sees the host's groups but not its processes --------------------------------------------
@pytest.mark.parametrize(("parent", "group"), [
    (None, f"docker/{ID}"), (None, f"system.slice/docker-{ID}.scope"),
    ("/appliance.slice", f"appliance.slice/{ID}"), ("/appliance.slice", f"appliance.slice/docker-{ID}.scope"),
    ("/a.slice/a-b.slice", f"a.slice/a-b.slice/docker-{ID}.scope"), ("/appliance.slice", f"docker/{ID}"),
])
@pytest.mark.parametrize("seen_as", ["/", "/../..", "/../../../.."])
def test_a_container_is_found_by_its_name(tmp_path: Path, parent: str | None, group: str, seen_as: str) -> None:
    path = PurePosixPath(parent) if parent else None
    root = layout(tmp_path / "v2", "0::/", f"{seen_as} /sys/fs/cgroup cgroup2 ro", v2_files(f"sys/fs/cgroup/{group}"))
    assert read(PID, ID, path, root) == READ
    assert read(PID + 1, ID, path, root) == READ     # no such process
    assert read(PID, "0" * 64, path, root) is None
    mounts = "\n".join(f"{seen_as} /cg/{name} cgroup ro,{name}" for name in ("cpuacct", "memory", "pids"))
    root = layout(tmp_path / "v1", "4:memory:/docker/other", mounts, v1_files("cg/memory", "cg/cpuacct", "cg/pids", group))
    assert read(PID, ID, path, root) == READ


def test_a_name_becomes_a_slice_or_a_path() -> None:
    assert group_of("appliance.slice", systemd=True) == group_of("appliance.slice", systemd=False) == PurePosixPath(
        "/appliance.slice")
    assert group_of("a-b-c.slice", systemd=True) == PurePosixPath("/a.slice/a-b.slice/a-b-c.slice")
    assert group_of("a-b", systemd=False) == PurePosixPath("/a-b")


@pytest.mark.parametrize("name", ["", "appliance.slice", "a-b.slice", "students", "a_b:c-1.slice"])
def test_names_of_groups(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["/", "/a", "a/b", "..", ".slice", "-a.slice", "a--b.slice", "a b", "é.slice", "a\n",
                                  "a-.slice"])
def test_what_is_no_name_of_a_group(name: str) -> None:
    with pytest.raises(BadOption):
        check_name(name)


@pytest.mark.parametrize(("mounts", "files", "limited"), [
    ("/ /cg cgroup2 rw", {"cg/s.slice/memory.max": "1000\n"}, True),
    ("/ /cg cgroup2 rw", {"cg/s.slice/memory.max": "max\n"}, False),
    ("/ /cg cgroup2 rw", {}, None),
    ("/.. /cg/memory cgroup rw,memory", {"cg/memory/s.slice/memory.limit_in_bytes": "1000\n"}, True),
    ("/ /cg/memory cgroup rw,memory", {"cg/memory/s.slice/memory.limit_in_bytes": f"{(1 << 63) - 4096}\n"}, False),
    ("/ /cg/cpu cgroup rw,cpu", {"cg/cpu/s.slice/cpu.shares": "2\n"}, None),
])
def test_whether_a_group_has_a_limit(tmp_path: Path, mounts: str, files: dict[str, str], limited: bool | None) -> None:
    assert is_limited(PurePosixPath("/s.slice"), layout(tmp_path, "", mounts, files)) is limited


def test_groups_and_mounts_are_read_as_the_kernel_writes_them() -> None:
    assert groups_of(f"4:memory:/docker/{ID}\n2:cpu,cpuacct:/docker/{ID}/x\n0::/", ID) == dict.fromkeys(
        ("memory", "cpu", "cpuacct"), PurePosixPath(f"/docker/{ID}"))
    if os.path.exists("/proc/self/mountinfo"):
        list(parse_mounts(Path("/proc/self/mountinfo").read_text()))


# -- the meter --------------------------------------------------------------------------------------------------------
def test_percent_is_of_the_time_between_two_readings() -> None:
    meter = CpuMeter()
    assert meter.percent("s", "c1", 10.0, 100.0) is None
    assert meter.percent("s", "c1", 11.0, 102.0) == 50.0
    assert meter.percent("s", "c1", 15.0, 104.0) == 200.0
    assert meter.percent("s", "c1", 15.0, 105.0) == 0.0


def test_readings_at_nearly_the_same_time_give_the_same_answer() -> None:
    meter = CpuMeter()
    meter.percent("s", "c1", 10.0, 100.0)
    assert meter.percent("s", "c1", 10.0, 100.0) is None
    assert meter.percent("s", "c1", 11.0, 102.0) == 50.0
    assert meter.percent("s", "c1", 11.1, 102.1) == 50.0
    assert meter.percent("s", "c1", 12.0, 103.0) == 100.0  # measured from the one that counted


def test_a_new_container_begins_anew() -> None:
    meter = CpuMeter()
    meter.percent("s", "c1", 10.0, 100.0)
    assert meter.percent("s", "c2", 20.0, 102.0) is None
    assert meter.percent("s", "c2", 1.0, 104.0) is None     # time that goes back says nothing
    meter.forget("s")
    meter.forget("nobody")
    assert meter.percent("s", "c2", 2.0, 106.0) is None


def test_servers_nobody_asks_about_any_more_are_forgotten() -> None:
    meter = CpuMeter()
    for number in range(1000):
        meter.percent(f"s{number}", "c", 1.0, float(number))
    assert len(meter) == 601
    assert meter.percent("s0", "c", 2.0, 5000.0) is None
    assert len(meter) == 1


@pytest.mark.parametrize(("kind", "options", "files", "expected"), [
    ("cgroup2", "rw", {"memory.current": "1000", "memory.max": "max", "memory.stat": "inactive_file 100"}, (900, None)),
    ("cgroup2", "rw", {"memory.current": "1000", "memory.max": "5000", "memory.stat": "inactive_file 0"}, (1000, 5000)),
    ("cgroup", "rw,memory", {"memory.usage_in_bytes": "1000", "memory.limit_in_bytes": "9223372036854771712",
                             "memory.stat": "total_inactive_file 1"}, (999, None)),
    ("cgroup", "rw,memory", {"memory.usage_in_bytes": "7", "memory.limit_in_bytes": "8", "memory.stat": ""}, None),
    ("cgroup", "rw,cpu", {}, None),
])
def test_what_all_servers_use_together(
        tmp_path: Path, kind: str, options: str, files: dict[str, str], expected: tuple[int, int | None] | None) -> None:
    folder = tmp_path / "sys/fs/cgroup/x/appliance.slice"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(f"1 2 0:3 / /sys/fs/cgroup/x rw - {kind} {kind} {options}\n")
    assert shared_memory(PurePosixPath("/appliance.slice"), tmp_path) == expected
