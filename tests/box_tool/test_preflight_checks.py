"""What preflight says of machines as they are: captured outputs in, sentences out."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from box_machine import GIB, ROUTES, FakeBox, by_code

from appliance.box import check_packages, checks, preflight
from appliance.box.__main__ import main
from appliance.box.checks import Check
from appliance.box.machine import Disk
from appliance.box.plan import Plan, auto_reserve, plan_of_box
from appliance.box.shell import BoxError, Result

pytestmark = pytest.mark.unit


@pytest.fixture
def box(tmp_path: Path) -> FakeBox:
    return FakeBox(tmp_path)


def look(box: FakeBox, **plan: Any) -> dict[str, Check]:
    return by_code(preflight.check(box.machine, Plan.of(plan)))


def test_a_fresh_server_passes_without_a_warning(box: FakeBox) -> None:
    found = look(box)
    assert {code: each.sentence for code, each in found.items() if each.status != "ok"} == {}
    assert {"os", "architecture", "root", "systemd", "kernel", "cgroups", "memory", "swap", "disk-images", "homes", "clock",
            "timezone", "docker", "docker-settings", "port-http", "port-https", "port-hub", "web-servers", "dns", "ipv6",
            "subnet", "address-pools", "firewall", "authorities", "packages"} <= set(found)


def test_every_remark_is_sentences_and_everything_bad_has_a_remedy(box: FakeBox) -> None:
    for file in ("/etc/os-release", "/proc/meminfo", "/sys/fs/cgroup/cgroup.controllers", "/run/systemd/system/.keep"):
        box.remove(file)
    (box.root / "run/systemd/system").rmdir()
    box.programs.clear()
    box.is_root, box.now = False, 0.0
    found = look(box, tls="letsencrypt", name="box.local", homes_kind="disk", subnet="nonsense", users_file="/none.csv")
    bad = [each for each in found.values() if each.status != "ok"]
    assert len(bad) >= 10
    for each in found.values():
        assert not each.sentence[0].islower() or each.sentence.startswith(("systemd ", "apt ", "appliance_")), each
        assert each.sentence.endswith((".", ")")), each
        assert bool(each.remedy) == (each.status != "ok"), each
        assert "Traceback" not in each.sentence


@pytest.mark.parametrize(("text", "status"), [
    ('ID=debian\nVERSION_ID="13"\n', "ok"),
    ('NAME="Ubuntu"\nVERSION_ID="24.04"\nID=ubuntu\n', "ok"),
    ('NAME="Ubuntu"\nVERSION_ID="22.04"\nID=ubuntu\n', "fail"),
    ('ID=debian\nVERSION_ID="11"\n', "fail"),
    ("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux forky/sid\"\n", "fail"),
    ("", "fail"),
])
def test_supported_systems(box: FakeBox, text: str, status: str) -> None:
    box.write("/etc/os-release", text)
    assert look(box)["os"].status == status


@pytest.mark.parametrize(("machine", "status"), [("x86_64", "ok"), ("aarch64", "warn"), ("armv7l", "fail"), ("riscv64",
                                                                                                             "fail")])
def test_architectures(box: FakeBox, machine: str, status: str) -> None:
    box.programs["uname -m"] = machine + "\n"
    assert look(box)["architecture"].status == status


def test_cgroups_v1_do_as_well(box: FakeBox) -> None:
    box.remove("/sys/fs/cgroup/cgroup.controllers")
    rows = ["cpuset\t3\t2\t1", "cpu\t1\t2\t1", "memory\t4\t409\t1", "pids\t8\t2\t1"]
    header = "#subsys_name\thierarchy\tnum_cgroups\tenabled"
    box.write("/proc/cgroups", "\n".join([header, *rows]) + "\n")
    assert look(box)["cgroups"].status == "ok"
    box.write("/proc/cgroups", "\n".join([header, *rows]).replace("memory\t4\t409\t1", "memory\t0\t1\t0") + "\n")
    found = look(box)["cgroups"]
    assert found.status == "fail"
    assert "memory" in found.sentence
    assert "cgroup_enable=memory" in found.remedy


def test_a_failed_service_is_named(box: FakeBox) -> None:
    box.programs["systemctl is-system-running"] = Result(1, "degraded\n")
    box.programs["systemctl list-units --failed --plain --no-legend --no-pager"] = \
        "ssh-old.service loaded failed failed Old sshd\n"
    assert "ssh-old.service" in look(box)["systemd"].sentence


@pytest.mark.parametrize(("now", "synchronised", "status"), [
    ("2026-11-23T10:00:00+00:00", "yes", "ok"), ("2026-11-23T10:00:00+00:00", "no", "warn"),
    ("2019-01-01T00:00:00+00:00", "no", "fail"), ("2099-01-01T00:00:00+00:00", "yes", "fail"),
])
def test_clock(box: FakeBox, now: str, synchronised: str, status: str) -> None:
    from datetime import datetime

    box.now = datetime.fromisoformat(now).timestamp()
    box.programs["timedatectl show --property=NTPSynchronized --value"] = synchronised
    assert look(box)["clock"].status == status


def test_a_clock_before_the_release_was_made_is_wrong(box: FakeBox) -> None:
    box.write("/opt/appliance/current/release.json", json.dumps({"made_at": "2027-03-01T00:00:00+00:00"}))
    assert look(box)["clock"].status == "fail"


# ------------------------------------------------------------------------------------------------- memory and disks --
def test_memory_says_how_many_students_fit(box: FakeBox) -> None:
    found = look(box, student_memory="1G", reserve="2G")["memory"]
    assert found.status == "ok"
    assert "13 students" in found.sentence
    assert look(box, student_memory="4G", reserve="4G")["memory"].status == "warn"
    assert look(box, student_memory="20G")["memory"].status == "fail"
    assert look(box, reserve="100M")["memory"].status == "fail"


@pytest.mark.parametrize(("total", "reserve"), [(2, 1), (8, 1), (16, 2), (64, 4), (256, 4)])
def test_the_automatic_reserve(total: int, reserve: int) -> None:
    assert auto_reserve(total * GIB) == reserve * GIB


def test_what_shares_a_disk_is_added_up(box: FakeBox) -> None:
    box.disks["/"] = Disk(1, 50 * GIB, 25 * GIB)
    assert look(box, homes_size="10G")["disk-images"].status == "ok"
    found = look(box, homes_size="20G")["disk-images"]
    assert found.status == "fail"
    assert "30.0 GiB are needed" in found.sentence
    assert "storage_homes_size" in found.remedy
    box.disks["/var/lib/appliance"] = Disk(2, 50 * GIB, 40 * GIB)
    found_all = look(box, homes_size="20G")
    assert found_all["disk-images"].status == found_all["disk-data"].status == "ok"


def test_a_loop_file_that_is_there_needs_no_space_again(box: FakeBox) -> None:
    box.disks["/"] = Disk(1, 50 * GIB, 12 * GIB)
    assert look(box, homes_size="1G")["disk-images"].status != "fail"
    assert look(box, homes_size="4G")["disk-images"].status == "fail"
    box.write("/opt/appliance/current/release.json", "{}")
    assert look(box, homes_size="4G")["disk-images"].status == "ok"


def test_few_inodes(box: FakeBox) -> None:
    box.disks["/"] = Disk(1, 200 * GIB, 100 * GIB, 1000, 10_000_000)
    assert look(box)["inodes"].status == "fail"


def test_a_kernel_without_what_is_needed(box: FakeBox) -> None:
    box.write("/lib/modules/6.1.0-25-amd64/modules.dep", "kernel/net/bridge/bridge.ko:\nkernel/drivers/net/veth.ko:\n")
    found = look(box, homes_kind="directory", quota="")["kernel"]
    assert found.status == "fail"
    assert "nf_tables" in found.sentence
    box.remove("/lib/modules/6.1.0-25-amd64/modules.dep")
    assert look(box)["kernel"].status == "warn"  # a container sees no modules


# ------------------------------------------------------------------------------------------------------------- ports --
_TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 22437 1 0000000000000000 100 0 0 10 0
   1: 0100007F:1F91 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 22999 1 0000000000000000 20 4
"""


def listener(box: FakeBox, name: str, cgroup: str = "0::/system.slice/x.service\n") -> None:
    box.write("/proc/net/tcp", _TCP)
    box.write("/proc/711/comm", name + "\n")
    box.write("/proc/711/cgroup", cgroup)
    fd = box.root / "proc/711/fd"
    fd.mkdir(exist_ok=True)
    (fd / "3").symlink_to("socket:[22437]")


def test_a_taken_port_names_who_has_it(box: FakeBox) -> None:
    listener(box, "apache2")
    found = look(box)
    assert found["port-http"].status == "fail"
    assert "apache2 (process 711)" in found["port-http"].sentence
    assert "systemctl disable --now apache2" in found["port-http"].remedy
    assert found["port-hub"].status == "ok"  # a connection from that port is no listener


def test_our_own_port_is_fine_on_a_rerun(box: FakeBox) -> None:
    listener(box, "traefik", f"0::/system.slice/docker-{'t' * 64}.scope\n".replace("t" * 64, "ab" * 32))
    box.docker()
    box.container("traefik", Id="ab" * 32)
    assert look(box)["port-http"].status == "ok"


def test_a_port_of_a_container_while_docker_is_down_stops_nothing(box: FakeBox) -> None:
    listener(box, "traefik", f"0::/system.slice/docker-{'ab' * 32}.scope\n")
    box.programs["docker info --format '{{json .}}'"] = Result(1, "", "Cannot connect to the Docker daemon")
    assert look(box)["port-http"].status == "warn"


def test_somebody_elses_container_is_named(box: FakeBox) -> None:
    listener(box, "docker-proxy")
    box.docker()
    box.programs["docker ps --no-trunc --format '{{.ID}} {{.Names}} {{.Ports}}'"] = \
        f"{'c' * 64} wiki 0.0.0.0:80->8080/tcp, :::80->8080/tcp\n"
    found = look(box)["port-http"]
    assert found.status == "fail"
    assert "container wiki" in found.sentence
    assert "docker stop wiki" in found.remedy


def test_two_ports_must_differ(box: FakeBox) -> None:
    assert look(box, http_port=443)["ports"].status == "fail"


def test_a_web_server_that_starts_at_boot_is_told_before_it_does(box: FakeBox) -> None:
    box.programs["systemctl is-enabled nginx.service"] = "enabled\n"
    box.programs["systemctl is-active nginx.service"] = Result(3, "inactive\n")
    found = look(box)["web-servers"]
    assert found.status == "warn"
    assert "nginx" in found.sentence


# ------------------------------------------------------------------------------------------------------------- names --
@pytest.mark.parametrize(("plan", "answer", "status"), [
    ({"name": "box.school.example"}, ["192.0.2.2"], "ok"),
    ({"name": "box.school.example"}, [], "warn"),
    ({"name": "box.school.example"}, ["127.0.1.1"], "warn"),
    ({"name": "box.school.example", "tls": "letsencrypt"}, ["192.0.2.2"], "ok"),
    ({"name": "box.school.example", "tls": "letsencrypt"}, ["192.0.2.9"], "fail"),
    ({"name": "box.school.example", "tls": "letsencrypt"}, [], "fail"),
    ({"name": "box.school.example", "tls": "letsencrypt", "acme_challenge": "dns"}, [], "warn"),
    ({"name": "box.school.example", "tls": "letsencrypt"}, ["192.0.2.2", "2001:db8::9"], "warn"),
    ({"name": "box.school.example", "tls": "letsencrypt"}, ["9.9.9.9"], "warn"),  # a router forwards, perhaps
    ({"name": "box.local", "tls": "letsencrypt"}, ["192.0.2.2"], "fail"),
    ({"name": "", "tls": "letsencrypt"}, [], "fail"),
    ({"name": "192.0.2.2", "tls": "letsencrypt"}, [], "fail"),
    ({"name": "192.0.2.2"}, [], "ok"),
    ({"name": "192.0.2.77"}, [], "warn"),
    ({"name": "not a name"}, [], "fail"),
    ({}, [], "ok"),
])
def test_host_names(box: FakeBox, plan: dict[str, str], answer: list[str], status: str) -> None:
    box.names["box.school.example"] = answer
    assert look(box, **plan)["dns"].status == status


# ---------------------------------------------------------------------------------------------------------- networks --
def test_a_route_of_the_campus_collides(box: FakeBox) -> None:
    box.programs["ip -j -4 route show table all"] = json.dumps(
        [*ROUTES, {"dst": "10.77.3.0/24", "gateway": "192.0.2.1", "dev": "eth0", "table": "campus"}])
    found = look(box)["subnet"]
    assert found.status == "fail"
    assert "10.77.3.0/24 (eth0)" in found.sentence
    assert "10.177.0.0/16" in found.remedy
    assert look(box, subnet="10.177.0.0/16")["subnet"].status == "ok"


def test_a_docker_network_collides_unless_it_is_ours(box: FakeBox) -> None:
    config = {"IPAM": {"Config": [{"Subnet": "10.77.0.0/24"}]}, "Id": "f" * 64, "Options": {}}
    box.networks({"Name": "wiki", "Labels": {}, **config})
    box.programs["ip -j -4 route show table all"] = json.dumps([*ROUTES, {"dst": "10.77.0.0/24", "dev": f"br-{'f' * 12}"}])
    found = look(box)["subnet"]
    assert found.status == "fail"
    assert "Docker network “wiki”" in found.sentence
    assert "route" not in found.sentence  # the same thing once
    box.networks({"Name": "appliance", "Labels": {"org.appliance.namespace": "appliance"}, **config})
    assert look(box)["subnet"].status == "ok"


def test_a_name_server_inside_the_subnet_collides(box: FakeBox) -> None:
    box.write("/etc/resolv.conf", "nameserver 10.77.0.53\n")
    assert "name server 10.77.0.53" in look(box)["subnet"].sentence


def test_without_iproute2_the_main_table_is_read(box: FakeBox) -> None:
    del box.programs["ip -j -4 route show table all"]
    box.write("/proc/net/route", "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n"
              "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\neth1\t00004D0A\t00000000\t0001\t0\t0\t0\t0000FFFF\n")
    assert "10.77.0.0/16 (eth1)" in look(box)["subnet"].sentence


@pytest.mark.parametrize("subnet", ["10.77.0.0", "10.77.0.1/16", "8.8.8.0/24", "10.77.0.0/29", "fd00::/64"])
def test_subnets_that_cannot_be_used(box: FakeBox, subnet: str) -> None:
    assert look(box, subnet=subnet)["subnet"].status == "fail"


def test_docker_s_own_pools_must_leave_the_subnet_alone(box: FakeBox) -> None:
    box.write("/etc/docker/daemon.json", json.dumps({"default-address-pools": [{"base": "10.64.0.0/10", "size": 24}]}))
    assert look(box)["address-pools"].status == "fail"


def test_firewalls(box: FakeBox) -> None:
    chain = {"chain": {"family": "ip", "table": "filter", "name": "INPUT", "hook": "input", "type": "filter", "policy": "drop"}}
    box.programs["nft -j list ruleset"] = json.dumps({"nftables": [{"metainfo": {}}, chain]})
    found = look(box)["firewall"]
    assert found.status == "warn"
    assert "table ip filter, chain INPUT" in found.sentence
    box.programs["ufw status"] = "Status: active\n"
    assert look(box)["firewall"].status == "ok"
    del box.programs["ufw status"], box.programs["nft -j list ruleset"]
    box.programs["iptables -S INPUT"] = "-P INPUT DROP\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n"
    assert look(box)["firewall"].status == "warn"


def test_authorities_of_the_school_are_said(box: FakeBox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://me:hunter2@proxy.school:3128")
    box.write("/usr/local/share/ca-certificates/school.crt", "")
    found = look(box)["authorities"]
    assert "school.crt" in found.sentence
    assert "proxy.school" in found.sentence
    assert "hunter2" not in found.sentence


def test_packages(box: FakeBox) -> None:
    for uri in ("http://mirror.example/debian/dists/bookworm/InRelease",
                "http://mirror.example/debian-security/dists/bookworm-security/InRelease"):
        box.pages[uri] = (0, "Name or service not known")
    found = look(box)["packages"]
    assert found.status == "fail"
    assert "offline" in found.remedy
    assert look(box, offline=True)["packages"].status == "ok"
    box.pages.popitem()
    assert look(box)["packages"].status == "warn"
    box.programs["dpkg --audit"] = "The following packages are only half configured\n vim\n"
    assert look(box)["dpkg"].status == "fail"


HOLD = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_an_installation_under_way_is_waited_for(box: FakeBox, monkeypatch: pytest.MonkeyPatch) -> None:
    box.write(check_packages.LOCKS[0], "")
    lock = str(box.paths.at(check_packages.LOCKS[0]))
    monkeypatch.setattr(check_packages, "OTHERS_S", 0.2)
    with subprocess.Popen([sys.executable, "-c", HOLD, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"held\n"
        found = look(box)["dpkg"]
        assert found.status == "fail"
        assert "Wait until that is over" in found.remedy
        monkeypatch.setattr(check_packages, "OTHERS_S", 60.0)
        threading.Timer(1.0, holder.stdin.close).start()
        assert "dpkg" not in look(box)
        assert holder.wait(10) == 0


# ------------------------------------------------------------------------------------------------------------ docker --
@pytest.mark.parametrize(("changes", "word"), [
    ({"SecurityOptions": ["name=seccomp", "name=rootless"]}, "rootless"),
    ({"SecurityOptions": ["name=seccomp", "name=userns"]}, "userns-remap"),
    ({"OperatingSystem": "Docker Desktop"}, "Docker Desktop"),
    ({"OSType": "windows"}, "Linux containers"),
    ({"ServerVersion": "19.03.15"}, "19.03.15"),
    ({"DockerRootDir": "/var/snap/docker/common/var-lib-docker"}, "snap"),
])
def test_engines_that_are_refused(box: FakeBox, changes: dict[str, Any], word: str) -> None:
    box.docker(**changes)
    found = look(box)["docker"]
    assert found.status == "fail"
    assert word in found.sentence


def test_an_engine_that_is_down_and_one_that_is_podman(box: FakeBox) -> None:
    down = '{"ID":"","ServerErrors":["Cannot connect to the Docker daemon at unix:///var/run/docker.sock."]}'
    box.programs["docker info --format '{{json .}}'"] = Result(1, down, "errors pretty printing info")
    found = look(box)["docker"]
    assert found.status == "warn"
    assert "Cannot connect" in found.sentence
    box.programs["dpkg-query --show '--showformat=${Status}' podman-docker"] = "install ok installed"
    assert look(box)["docker"].status == "fail"


def test_other_containers_are_left_alone_and_foreign_settings_are_not_overwritten(box: FakeBox) -> None:
    box.docker()
    box.programs["docker ps --all --format '{{.Names}}\t{{.Label \"org.appliance.namespace\"}}\t"
                 "{{.Label \"com.docker.compose.project\"}}'"] = "wiki\t\twiki\nappliance-hub\t\tappliance\nk3f9\tappliance\t\n"
    box.write("/etc/docker/daemon.json", '{"data-root": "/srv/docker"}')
    found = look(box)
    assert "1 other container (wiki)" in found["docker-others"].sentence
    assert found["docker-settings"].status == "warn"
    assert "live-restore" in found["docker-settings"].sentence
    assert "log" in found["docker-settings"].sentence
    box.write("/etc/docker/daemon.json", '{"live-restore": true, "log-opts": {"max-size": "10m"}}')
    assert look(box)["docker-settings"].status == "ok"
    box.write("/etc/docker/daemon.json", "{oops")
    assert look(box)["docker-settings"].status == "fail"
    box.write("/etc/docker/daemon.json", "{}")
    box.write("/etc/appliance/installed.json", '{"files": ["/etc/docker/daemon.json"]}')
    assert "own" in look(box)["docker-settings"].sentence


# ------------------------------------------------------------------------------------------------------------- homes --
def disk(box: FakeBox, blkid: str | Result, head: bytes = bytes(4096), **changes: Any) -> None:
    box.write("/dev/sdb", head)
    entry = {"name": "sdb", "type": "disk", "fstype": None, "label": None, "size": 500 * GIB, "ro": False, "mountpoint": None}
    box.programs["lsblk --json --bytes --output NAME,TYPE,FSTYPE,LABEL,SIZE,RO,MOUNTPOINT /dev/sdb"] = json.dumps(
        {"blockdevices": [{**entry, **changes}]})
    box.programs["blkid --probe --output export /dev/sdb"] = blkid


EMPTY = Result(2)
OURS = "DEVNAME=/dev/sdb\nLABEL=appliance-homes\nUUID=77\nTYPE=btrfs\nUSAGE=filesystem\n"


@pytest.mark.parametrize(("blkid", "head", "changes", "status"), [
    (EMPTY, bytes(4096), {}, "ok"),
    (OURS, b"x", {}, "ok"),
    (OURS, b"x", {"mountpoint": "/var/lib/appliance/homes"}, "ok"),
    (OURS, b"x", {"mountpoint": "/mnt"}, "fail"),
    ("DEVNAME=/dev/sdb\nUUID=1\nTYPE=ext4\nUSAGE=filesystem\n", b"x", {}, "fail"),
    ("DEVNAME=/dev/sdb\nLABEL=photos\nTYPE=btrfs\n", b"x", {}, "fail"),
    ("DEVNAME=/dev/sdb\nPTUUID=1\nPTTYPE=gpt\n", b"x", {}, "fail"),
    (EMPTY, b"x", {"children": [{"name": "sdb1"}]}, "fail"),
    (EMPTY, b"\0\0secret", {}, "fail"),
    (Result(8, "", "ambivalent result (probably more filesystems)"), b"x", {}, "fail"),
    (EMPTY, bytes(10), {"mountpoint": "/srv"}, "fail"),
    (EMPTY, bytes(10), {"ro": True}, "fail"),
    (EMPTY, bytes(10), {"size": 1000}, "fail"),
])
def test_a_disk_is_used_only_if_it_is_empty_or_ours(
        box: FakeBox, blkid: str | Result, head: bytes, changes: dict[str, Any], status: str) -> None:
    disk(box, blkid, head, **changes)
    found = look(box, homes_kind="disk", homes_device="/dev/sdb")["homes"]
    assert (found.status, status != "fail" or "sdb" in found.sentence) == (status, True)


def test_no_check_writes_anything(box: FakeBox) -> None:
    disk(box, EMPTY, b"\0\0secret")
    before = {path: path.read_bytes() for path in box.root.rglob("*") if path.is_file()}
    look(box, homes_kind="disk", homes_device="/dev/sdb")
    assert {path: path.read_bytes() for path in box.root.rglob("*") if path.is_file()} == before
    assert not [asked for asked in box.asked if any(word in asked for word in ("mkfs", "wipefs", "dd ", "install", "restart"))]


def test_homes_on_a_disk_that_is_not_there(box: FakeBox) -> None:
    assert look(box, homes_kind="disk", homes_device="/dev/sdz")["homes"].status == "fail"
    assert look(box, homes_kind="disk")["homes"].status == "fail"


def test_accounts_stay_in_the_kind_of_database_they_are_in(box: FakeBox) -> None:
    assert "database-kind" not in look(box)
    cluster = box.write("/srv/box/postgres/17/PG_VERSION", "17\n")
    assert look(box, data="/srv/box", database="postgres")["database-kind"].status == "ok"
    refused = look(box, data="/srv/box")["database-kind"]
    assert (refused.status, "in PostgreSQL, and is to use SQLite" in refused.sentence) == ("fail", True)
    cluster.unlink()
    box.write("/srv/box/jupyterhub.sqlite", "")
    assert "hub_database at sqlite" in look(box, data="/srv/box", database="postgres")["database-kind"].remedy
    assert look(box, data="/srv/box")["database-kind"].status == "ok"


def test_an_existing_mount(box: FakeBox) -> None:
    assert look(box, homes_kind="mount")["homes"].status == "fail"
    box.write("/proc/self/mounts", "/dev/sdc /var/lib/appliance/homes ext4 rw 0 0\n")
    assert look(box, homes_kind="mount", quota="2G")["homes"].status == "fail"
    assert look(box, homes_kind="mount", quota="")["homes"].status == "ok"
    box.write("/proc/self/mounts", "/dev/sdc /var/lib/appliance/homes btrfs rw 0 0\n")
    assert look(box, homes_kind="mount")["homes"].status == "ok"


def test_a_loop_file_never_hides_files_and_never_replaces_one(box: FakeBox) -> None:
    box.write("/var/lib/appliance/homes/u20001/home/essay.txt", "words")
    assert look(box)["homes"].status == "fail"
    box.write("/var/lib/appliance/homes.img", "somebody's")
    box.programs["blkid --probe --output export /var/lib/appliance/homes.img"] = "TYPE=ext4\n"
    assert "overwrites no file" in look(box)["homes"].remedy
    box.programs["blkid --probe --output export /var/lib/appliance/homes.img"] = OURS
    assert look(box)["homes"].status == "ok"


# ------------------------------------------------------------------------------------------------------ users, plans --
@pytest.mark.parametrize(("text", "status"), [
    ("name,display_name\nada,Ada Lovelace\nbob,Bob\n", "ok"), ("\ufeffname;group\nada;7b\n", "ok"),
    ("Ada Lovelace\n", "fail"), ("name\nada\nAda\n", "fail"), ("name,group\n,7b\n", "fail"), ("", "fail"),
])
def test_the_list_of_users(box: FakeBox, text: str, status: str) -> None:
    box.write("/root/users.csv", text)
    assert look(box, users_file="/root/users.csv")["users-file"].status == status


def test_a_list_of_users_that_is_not_text(box: FakeBox) -> None:
    box.write("/root/users.csv", "name\nJosé\n".encode("latin-1"))
    assert "UTF-8" in look(box, users_file="/root/users.csv")["users-file"].sentence


@pytest.mark.parametrize(("plan", "word"), [
    ({"nmae": "x"}, "did you mean “name”"), ({"http_port": "eighty"}, "a number"), ({"http_port": 70000}, "port"),
    ({"tls": "on"}, "letsencrypt"), ({"offline": "no"}, "true or false"), ({"student_memory": "much"}, "size"),
    ({"student_memory": "0"}, "nothing"), ({"data": "var/lib"}, "absolute"), (["x"], "object"), ({"name": 7}, "a text"),
])
def test_a_plan_that_cannot_be_meant_is_refused(plan: object, word: str) -> None:
    with pytest.raises(BoxError) as refused:
        Plan.of(plan)
    assert word in f"{refused.value.sentence} {refused.value.action}"


def test_the_plan_of_an_installed_box(box: FakeBox) -> None:
    assert plan_of_box(box.paths) == Plan()
    box.write("/etc/appliance/appliance.env", "APPLIANCE_DATA='/srv/box'  # here\nAPPLIANCE_HTTP_PORT=8080\n")
    assert plan_of_box(box.paths) == Plan(data="/srv/box", http_port=8080)
    assert box.paths.database == box.root / "srv/box/jupyterhub.sqlite"
    box.write("/etc/appliance/config.d/10-box.py", """
c = get_config()  # noqa: F821
c.JupyterHub.public_url = "https://box.school.example"
c.JupyterHub.tls = "letsencrypt"
c.BtrfsHomes.require_mount = True
c.BtrfsHomes.quota = "3G"
c.Spawner.mem_limit = "2G"
c.DockerSpawner.image = chosen()
""")
    plan = plan_of_box(box.paths)
    assert (plan.tls, plan.name, plan.homes_kind, plan.quota, plan.student_memory) == (
        "letsencrypt", "box.school.example", "mount", "3G", "2G")
    box.write("/etc/appliance/config.d/50-own.py", 'c.JupyterHub.tls = "off"\nc.Spawner.mem_limit = much()\n')
    assert plan_of_box(box.paths).tls == "off"
    assert plan_of_box(box.paths).student_memory == "1G"
    box.write("/etc/appliance/config.d/60-broken.py", "c.JupyterHub.tls = (")
    assert plan_of_box(box.paths).tls == "off"


# ------------------------------------------------------------------------------------------------------- the command --
def test_a_check_that_breaks_becomes_a_warning_and_the_rest_goes_on() -> None:
    def check_moon() -> list[Check]:
        raise ZeroDivisionError("no moon")

    found = checks.run_all([check_moon, lambda: [checks.ok("sun", "It shines.")]])
    assert [(each.code, each.status) for each in found] == [("moon", "warn"), ("sun", "ok")]
    assert "ZeroDivisionError: no moon" in found[0].sentence


def test_no_garbage_from_programs_ends_the_checks(box: FakeBox) -> None:
    for command in (*box.programs, "docker info --format '{{json .}}'", "docker network ls --quiet", "ufw status"):
        box.programs[command] = "[1, {\"a\": \x00 ☃"
    assert len(look(box)) > 20
    for command in box.programs:
        box.programs[command] = "[1]"
    assert len(look(box)) > 20


def test_the_report_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text('{"subnet": "8.8.8.0/24"}')
    assert main(["preflight", "--json", "--plan", str(plan)]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert report["status"] == "fail"
    assert {"code", "status", "sentence", "remedy"} == set(report["checks"][0])
    assert next(each for each in report["checks"] if each["code"] == "subnet")["status"] == "fail"
    assert report["facts"]["memory_reserve_bytes"] > 0


def test_a_plan_that_cannot_be_read_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["preflight", "--plan", str(tmp_path / "none.json")]) == 1
    assert "cannot be read" in capsys.readouterr().err
    (tmp_path / "bad.json").write_text("{")
    assert main(["preflight", "--plan", str(tmp_path / "bad.json")]) == 1
    assert "is not JSON" in capsys.readouterr().err
