"""Checks of the machine itself: what runs on it, its clock, its memory, its disks."""

from __future__ import annotations

import gzip
import os
import platform
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from appliance.box.checks import Check, fail, ok, warn
from appliance.box.machine import Machine
from appliance.box.paths import read_env
from appliance.box.plan import GIB, Plan, parse_size
from appliance.box.shell import read_json, size

SUPPORTED = {("debian", "12"): "Debian 12", ("debian", "13"): "Debian 13", ("ubuntu", "24.04"): "Ubuntu 24.04"}
_NAMES = "Debian 12, Debian 13 or Ubuntu 24.04"
# No machine that runs this has a clock before it, whatever its files say.
_EARLIEST = datetime.fromisoformat("2026-01-01T00:00:00+00:00").timestamp()
_DAY_S = 86400
# On the disk of images, and of the database, state and logs; of a box to be installed, and of one that runs.
IMAGES_BYTES = (8 * GIB, 2 * GIB)
DATA_BYTES = (2 * GIB, GIB // 2)
_MIN_INODES = (150_000, 20_000)
_KERNEL = {
    "overlay": "the images' file system", "bridge": "the network of the students' servers",
    "veth": "the network of the students' servers", "nf_tables": "the firewall",
    "btrfs": "homes with a quota", "loop": "homes in one file",
}


def check_os(machine: Machine) -> Iterator[Check]:
    text = read_env(machine.paths.at("/etc/os-release"))
    found = (text.get("ID", ""), text.get("VERSION_ID", ""))
    pretty = text.get("PRETTY_NAME") or " ".join(found).strip() or "an unknown system"
    if found in SUPPORTED:
        yield ok("os", f"This is {pretty}.")
    elif found[0] == "debian" and not found[1]:
        yield fail("os", f"This is {pretty}, which changes every day.", f"Use {_NAMES}.")
    else:
        yield fail("os", f"This is {pretty}; the box is made for and tested on {_NAMES} only.",
                   f"Install {_NAMES} on this machine, without a desktop.")


def check_architecture(machine: Machine) -> Iterator[Check]:
    found = machine.run("uname", "-m").stdout.strip() or platform.machine()
    if found == "x86_64":
        yield ok("architecture", "The processor is an x86_64.")
    elif found == "aarch64":
        yield warn("architecture", "The processor is an aarch64 (ARM, 64 bits). Every part of the box exists for it, but the "
                   "box was never tested on one, and a release packed on another kind of processor brings no images for it.",
                   "Let images be built on this machine (images_source: build), and run the smoke test.")
    else:
        yield fail("architecture", f"The processor is a {found}; there is no Traefik for it among the box's parts.",
                   "Use a machine with a 64-bit Intel or AMD processor.")


def check_root(machine: Machine) -> Iterator[Check]:
    if machine.is_root():
        yield ok("root", "This runs as root.")
    else:
        yield fail("root", "This does not run as root, so much of the machine cannot be seen.",
                   "Run it with sudo; in Ansible set “become: true”.")


def check_systemd(machine: Machine) -> Iterator[Check]:
    if not machine.exists("/run/systemd/system"):
        yield fail("systemd", "systemd does not run here, so nothing would start at boot.",
                   "Use a real or virtual machine, not a plain container or WSL 1.")
        return
    state = machine.run("systemctl", "is-system-running").stdout.strip() or "unknown"
    if state in ("running", "starting", "initializing"):
        yield ok("systemd", f"systemd says the machine is {state}.")
    elif state == "degraded":
        rows = machine.run("systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager").stdout
        failed = [row.split()[0] for row in rows.splitlines() if row.split()]
        yield warn("systemd", f"Some of this machine's services have failed: {', '.join(failed) or 'see systemctl --failed'}.",
                   "Look at each with “systemctl status NAME”; the box can do without most of them.")
    else:
        yield warn("systemd", f"systemd says the machine is “{state}”.", "Finish what it is doing, or reboot, and try again.")


def check_cgroups(machine: Machine) -> Iterator[Check]:
    controllers = machine.read("/sys/fs/cgroup/cgroup.controllers").split()
    if controllers:
        version, missing = "v2", [name for name in ("memory", "pids", "cpu") if name not in controllers]
    else:
        rows = [line.split() for line in machine.read("/proc/cgroups").splitlines() if not line.startswith("#")]
        enabled = {row[0] for row in rows if len(row) == 4 and row[3] == "1"}
        version, missing = "v1", [name for name in ("memory", "pids", "cpu") if name not in enabled]
        if not rows:
            yield fail("cgroups", "This machine has no control groups, so no student's memory can be limited.",
                       "Use a kernel of the distribution.")
            return
    if missing:
        yield fail("cgroups", f"The kernel does not limit {', '.join(missing)} (control groups {version}), so one student "
                   "could take the whole machine.",
                   "Add “cgroup_enable=memory” to GRUB_CMDLINE_LINUX in /etc/default/grub, run update-grub and reboot."
                   if missing == ["memory"] else "Use a kernel of the distribution.")
    else:
        yield ok("cgroups", f"Memory, processes and processor time can be limited (control groups {version}).")


def check_swap(machine: Machine) -> Iterator[Check]:
    total = machine.memory.get("SwapTotal", 0)
    if total:
        yield ok("swap", f"There are {size(total)} of swap. It helps the system itself; students' servers do not count on it.")
    else:
        yield ok("swap", "There is no swap. That is fine: the reserve of memory does its work.")


def check_clock(machine: Machine) -> Iterator[Check]:
    now = machine.now()
    made = max(_EARLIEST, _made_at(machine))
    shown = time.strftime("%Y-%m-%d %H:%M", time.gmtime(now))
    if now < made - _DAY_S:
        yield fail("clock", f"The clock says {shown} UTC, which is before this program was made. Certificates and sign-ins "
                   "would be refused.", "Set it: timedatectl set-ntp true, or: date -s 'YYYY-MM-DD HH:MM'.")
        return
    if now > made + 15 * 365 * _DAY_S:
        yield fail("clock", f"The clock says {shown} UTC, many years after this program was made.",
                   "Set it: timedatectl set-ntp true, or: date -s 'YYYY-MM-DD HH:MM'.")
        return
    said = machine.run("timedatectl", "show", "--property=NTPSynchronized", "--value").stdout.strip()
    if said == "yes":
        yield ok("clock", f"The clock is synchronised ({shown} UTC).")
    else:
        yield warn("clock", f"The clock says {shown} UTC and is not synchronised with a time server.",
                   "Run: timedatectl set-ntp true (package systemd-timesyncd or chrony), with the school's time server if "
                   "others are blocked. A clock that runs off ends sign-ins and makes certificates invalid.")


def _made_at(machine: Machine) -> float:
    made = read_json(machine.paths.release_file).get("made_at")
    try:
        return datetime.fromisoformat(str(made)).timestamp() if made else 0.0
    except ValueError:
        return 0.0


def check_timezone(machine: Machine) -> Iterator[Check]:
    zone = machine.read("/etc/timezone").strip()
    if not zone:
        try:
            zone = os.readlink(machine.paths.at("/etc/localtime")).partition("zoneinfo/")[2]
        except OSError:
            zone = ""
    zone = zone or "UTC"
    note = " Backups run at their hour in that zone; for local time: timedatectl set-timezone Europe/Berlin." \
        if zone in ("UTC", "Etc/UTC") else ""
    yield ok("timezone", f"The time zone is {zone}.{note}")


def check_memory(machine: Machine, plan: Plan) -> Iterator[Check]:
    total = machine.memory.get("MemTotal", 0)
    if not total:
        yield warn("memory", "The machine's memory could not be read.", "Look at /proc/meminfo.")
        return
    reserve, each = plan.reserve_bytes(total), plan.student_memory_bytes
    fit = max(total - reserve, 0) // each
    sentence = (f"{size(total)} of memory, {size(reserve)} of it reserved for the box itself: {fit} students' servers of "
                f"{size(each)} fit when every one of them uses all it may.")
    if fit < 1:
        yield fail("memory", sentence, "Add memory, or lower hub_student_memory or appliance_memory_reserve.")
    elif reserve < GIB // 2:
        yield fail("memory", f"Only {size(reserve)} are reserved for the box itself; a class could take the machine down.",
                   "Leave appliance_memory_reserve at “auto”, or set at least 512M.")
    elif fit < 5:
        yield warn("memory", sentence, "Enough to try the box; for a class add memory.")
    else:
        yield ok("memory", sentence + " Most use less, so more can be signed in.")


def check_disks(machine: Machine, plan: Plan, *, installed: bool = False) -> Iterator[Check]:
    """Adds up what goes onto the same file system, the loop file of the homes included."""
    stage = 1 if installed else 0
    root = docker_root(machine)
    needs: list[tuple[str, str, int]] = [("images", root, IMAGES_BYTES[stage]), ("data", plan.data, DATA_BYTES[stage])]
    if plan.homes_kind == "loop":
        loop = machine.paths.at(plan.loop_file)
        missing = parse_size(plan.homes_size) - _allocated(loop)
        if missing > 0 and not installed:
            needs.append(("homes", plan.loop_file, missing))
    elif plan.homes_kind == "directory":
        needs.append(("homes", plan.homes, GIB))
    by_device: dict[int, list[tuple[str, str, int]]] = {}
    for need in needs:
        by_device.setdefault(machine.disk(machine.paths.at(need[1])).device, []).append(need)
    for together in by_device.values():
        disk = machine.disk(machine.paths.at(together[0][1]))
        needed = sum(count for _, _, count in together)
        what = " and ".join(f"{name} ({path})" for name, path, _ in together)
        code = f"disk-{together[0][0]}"
        if disk.free < needed:
            yield fail(code, f"{size(disk.free)} are free for {what}; {size(needed)} are needed.",
                       "Make space or add a disk"
                       + (", lower storage_homes_size" if any(name == "homes" for name, _, _ in together) else "")
                       + ("; “docker image prune” removes images nobody uses." if installed else "."))
        elif disk.free < needed * 1.25 or disk.free < disk.total * 0.05:
            yield warn(code, f"{size(disk.free)} of {size(disk.total)} are free for {what}. That is little.",
                       "It works; make space soon.")
        else:
            yield ok(code, f"{size(disk.free)} of {size(disk.total)} are free for {what}.")
        if disk.inodes_free is not None and disk.inodes_free < _MIN_INODES[stage]:
            yield fail("inodes", f"Only {disk.inodes_free} more files fit on the disk of {what}.",
                       "Remove many small files, or make the file system anew with more inodes (mkfs.ext4 -i 16384).")


def _allocated(path: Path) -> int:
    """Bytes of a file that the disk has really given."""
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0


def docker_root(machine: Machine) -> str:
    """Return where the engine keeps images: what it says, what daemon.json says, or the usual."""
    if machine.engine:
        return str(machine.engine.get("DockerRootDir") or "/var/lib/docker")
    return str(read_json(machine.paths.at("/etc/docker/daemon.json")).get("data-root") or "/var/lib/docker")


def check_kernel(machine: Machine, plan: Plan) -> Iterator[Check]:
    wanted = ["overlay", "bridge", "veth", "nf_tables"]
    if plan.homes_kind in ("loop", "disk"):
        wanted.append("btrfs")
    if plan.homes_kind == "loop":
        wanted.append("loop")
    known = {name: _has_feature(machine, name) for name in wanted}
    missing = [name for name, there in known.items() if there is False]
    if missing:
        yield fail("kernel", "The kernel has no " + ", no ".join(f"{name} ({_KERNEL[name]})" for name in missing) + ".",
                   "Use a kernel of the distribution; for homes without Btrfs set storage_homes: directory."
                   if {"btrfs", "loop"} & set(missing) else "Use a kernel of the distribution.")
        return
    unsure = [name for name, there in known.items() if there is None]
    if unsure:
        yield warn("kernel", f"Whether the kernel has {', '.join(unsure)} cannot be seen from here.",
                   "Go on: the smoke test at the end uses them all.")
    else:
        yield ok("kernel", f"The kernel has {', '.join(wanted)}.")


_CONFIG = {"overlay": "CONFIG_OVERLAY_FS", "bridge": "CONFIG_BRIDGE", "veth": "CONFIG_VETH", "nf_tables": "CONFIG_NF_TABLES",
           "btrfs": "CONFIG_BTRFS_FS", "loop": "CONFIG_BLK_DEV_LOOP"}


def _has_feature(machine: Machine, name: str) -> bool | None:
    """None: nothing here says so."""
    if any(line.split()[-1:] == [name] for line in machine.read("/proc/filesystems").splitlines()):
        return True
    if machine.exists(f"/sys/module/{name}") or (name == "loop" and machine.exists("/dev/loop-control")):
        return True
    release = machine.read("/proc/sys/kernel/osrelease").strip()
    modules = machine.read(f"/lib/modules/{release}/modules.dep") + machine.read(f"/lib/modules/{release}/modules.builtin")
    if f"/{name}.ko" in modules:
        return True
    config = machine.read(f"/boot/config-{release}")
    if not config:
        try:
            config = gzip.decompress(machine.paths.at("/proc/config.gz").read_bytes()).decode(errors="replace")
        except OSError:
            config = ""
    if config and not modules:
        return f"{_CONFIG[name]}=y" in config or f"{_CONFIG[name]}=m" in config
    return False if modules else None
