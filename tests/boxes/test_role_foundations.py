"""What the roles storage, docker and firewall do to a fresh box, seen on the box and from outside. No Hub, so it is quick."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fresh_box import REPOSITORY, FreshBox
from played import Played, play_over_ssh

pytestmark = pytest.mark.long

SUITES = ["bookworm", "trixie", *(["noble"] if os.environ.get("APPLIANCE_TEST_NOBLE") else [])]
HOMES = "/var/lib/appliance/homes"
VARIABLES = {"storage_homes_size": "1G", "storage_quota": "100M"}
LIMITS = ("/sys/fs/cgroup/appliance.slice/memory.max", "/sys/fs/cgroup/memory/appliance.slice/memory.limit_in_bytes")
Play = Callable[..., Played]


@pytest.fixture(scope="module", params=SUITES)
def box(request: pytest.FixtureRequest) -> Iterator[FreshBox]:
    with FreshBox(request.param) as box:
        yield box


@pytest.fixture(scope="module")
def play(box: FreshBox, tmp_path_factory: pytest.TempPathFactory) -> Play:
    def play(*words: str, **variables: object) -> Played:
        return play_over_ssh(box, {**VARIABLES, **variables}, tmp_path_factory.mktemp("play"),
                             "--tags", "storage,docker,firewall", *words)
    return play


def limit(box: FreshBox) -> int:
    return int(box.run(f"cat {' '.join(LIMITS)} 2>/dev/null || true").split()[0])


def reaches(box: FreshBox, port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(2)
        return client.connect_ex((box.address, port)) == 0


def test_a_check_of_a_bare_box_changes_nothing(box: FreshBox, play: Play) -> None:
    assert play("--check", "--diff").changed > 0
    assert not box.exists("/etc/appliance")
    assert box.run("command -v dockerd || true") == ""


def test_the_second_run_changes_nothing(box: FreshBox, play: Play) -> None:
    first, second = play(), play()
    assert first.changed > 0
    assert second.changed == 0, second
    print(f"{box.suite}: {first.seconds:.0f} s, again {second.seconds:.0f} s")


def test_what_was_not_there_before_is_written_down(box: FreshBox) -> None:
    installed = json.loads(box.read("/etc/appliance/installed.json"))
    assert installed["docker"] is True
    assert {"docker.io", "btrfs-progs", "nftables"} <= set(installed["packages"])
    assert {"appliance.slice", "appliance-firewall.service", "var-lib-appliance-homes.mount"} <= set(installed["units"])
    assert "/etc/docker/daemon.json" in installed["files"]


def test_compose_2_is_there_and_docker_keeps_containers_through_its_restart(box: FreshBox) -> None:
    assert "version 2." in box.run("docker compose version").lower().replace("v2.", "2.")
    assert "true" in box.run("docker info --format '{{.LiveRestoreEnabled}}'")


def test_servers_are_held_to_the_memory_and_systemd_does_not_forget(box: FreshBox) -> None:
    box.load_images(["appliance/hello:latest"])
    held = limit(box)
    total = int(box.run("awk '/MemTotal/ {print $2}' /proc/meminfo")) * 1024
    assert total // 2 <= held <= total - 1024 ** 3
    take = "docker run --rm --entrypoint /busybox --cgroup-parent {} appliance/hello dd if=/dev/zero of=/dev/null bs={} count=1"
    parent = "appliance.slice" if "systemd" in box.run("docker info --format '{{.CgroupDriver}}'") else "/appliance.slice"
    box.run("systemctl daemon-reload; systemctl daemon-reexec; systemctl set-property --runtime appliance.slice MemoryMax=60M")
    box.run(take.format(parent, "30M"))
    assert "137" in box.run(f"{take.format(parent, '200M')} >/dev/null 2>&1; echo $?", check=False)


def test_a_run_puts_the_limit_back_and_lets_homes_grow_while_somebody_works(box: FreshBox, play: Play) -> None:
    box.run(f"docker run --detach --name counts --user 0 --label org.appliance.namespace=test --volume {HOMES}:/homes "
            "--entrypoint /busybox appliance/hello sh -c 'while /busybox sleep 0.2; do echo >> /homes/count; done'")
    done = play(storage_homes_size="1500M", docker_log_max_size="20m", firewall_extra_ports=["8080"])
    assert "which was left out because servers run" in done.output
    assert limit(box) > 1024 ** 3
    assert int(box.run(f"df --block-size=1M --output=size {HOMES} | tail -1")) > 1400
    before = int(box.run(f"wc -l < {HOMES}/count"))
    box.run("sleep 1")
    assert int(box.run(f"wc -l < {HOMES}/count")) > before
    box.run("docker rm --force counts")
    assert "The engine was restarted" not in done.output


def test_from_outside_only_the_open_ports_answer(box: FreshBox) -> None:
    # 8080 was opened above; nothing is published by Docker here
    box.run("for port in 80 8080 9999; do setsid python3 -m http.server $port >/dev/null 2>&1 </dev/null & done; sleep 1")
    assert [port for port in (22, 80, 8080, 9999) if reaches(box, port)] == [22, 80, 8080]
    ask = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9999/').status)"
    assert box.run(f'python3 -c "{ask}"') == "200\n"    # it answers, and is only kept from others


def test_everything_is_back_after_a_reboot_which_no_frozen_server_holds_up(box: FreshBox, play: Play) -> None:
    parent = "appliance.slice" if "systemd" in box.run("docker info --format '{{.CgroupDriver}}'") else "/appliance.slice"
    box.run(f"docker run --detach --name deaf --cgroup-parent {parent} appliance/hello && docker pause deaf")
    took_s = box.reboot()
    assert took_s < 45
    assert "btrfs" in box.run(f"findmnt {HOMES}")
    assert box.run("nft list table inet appliance_host | grep -c 8080").strip() == "1"
    assert limit(box) > 1024 ** 3
    assert box.run("docker ps --quiet") == ""
    assert box.exists("/run/appliance")


def test_variables_of_the_inventory_are_refused_before_the_box_is_reached(tmp_path: Path) -> None:
    inventory = tmp_path / "inventory.yml"
    inventory.write_text("all: {hosts: {box: {ansible_host: 192.0.2.1, ansible_user: root}}, vars: {docker_pakage: vendor}}\n")
    done = subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", "-i", inventory, REPOSITORY / "ansible/site.yml"],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "LC_ALL": "C.UTF-8"})
    assert done.returncode != 0
    assert "There is no variable docker_pakage. Did you mean docker_package" in done.stdout + done.stderr
    assert "unreachable=0" in done.stdout
