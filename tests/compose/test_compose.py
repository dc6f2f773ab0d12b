"""compose.yaml by itself: a student at work, whatever happens to Hub and Traefik meanwhile, and what each of them may do."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from box import wait_for
from compose_box import IMAGES, AtWork, ComposeBox, build, capabilities, inspected
from student import Student

from appliance.cookiesecret import load_cookie_secret

pytestmark = pytest.mark.engine
CHOWN, DAC_OVERRIDE, FOWNER, NET_BIND_SERVICE, NET_ADMIN = 0, 1, 3, 10, 12


@pytest.fixture(scope="module", autouse=True)
def images() -> None:
    build(*IMAGES)


@pytest.fixture(scope="module")
def box(images: None) -> Iterator[ComposeBox]:
    with ComposeBox() as made:
        yield made


@pytest.fixture(scope="module")
def student(box: ComposeBox) -> Iterator[Student]:
    """With a server that runs."""
    with box.person() as person:
        person.to_server()
        yield person


def wait_for_new(box: ComposeBox, service: str, before: str) -> None:
    wait_for(f"a new {service}", lambda: box.container(service).attrs["State"]["StartedAt"] != before
             and box.container(service).attrs["State"]["Running"], 20)


def started_at(box: ComposeBox, service: str) -> str:
    return str(box.container(service).attrs["State"]["StartedAt"])


def test_a_student_gets_a_notebook(student: Student) -> None:
    assert student.run_cell("print(6 * 7)") == "42\n"
    student.write("x.txt", "kept")
    assert student.read("x.txt") == "kept"


def test_the_hub_restarted_killed_and_made_anew_interrupts_nobody(box: ComposeBox, student: Student) -> None:
    traefik = started_at(box, "traefik")
    with AtWork(student) as work:
        for how in ("restart", "kill", "recreate"):
            before = started_at(box, "hub")
            if how == "restart":
                box.compose("restart", "hub")
            elif how == "kill":
                os.kill(box.pid("hub"), signal.SIGKILL)
            else:
                box.compose("up", "--detach", "--force-recreate", "hub")
            wait_for_new(box, "hub", before)
            box.wait_hub()
            work.check()
            assert student.get("/hub/home").status_code == 200
        assert work.requests > 100
    assert started_at(box, "traefik") == traefik


def test_everything_made_anew_from_the_same_settings_is_left_alone(box: ComposeBox, student: Student) -> None:
    before = {service: box.container(service).attrs["Id"] + started_at(box, service) for service in ("hub", "traefik")}
    folder = box.data / "state" / "traefik"
    files = {path: path.stat().st_ctime_ns for path in (folder, folder / "static.yml", *(folder / "routes").iterdir())}
    with AtWork(student) as work:
        box.compose("up", "--detach")
        work.check()
    assert {service: box.container(service).attrs["Id"] + started_at(box, service) for service in before} == before
    assert {path: path.stat().st_ctime_ns for path in files} == files


def test_another_hub_leaves_traefik_alone(box: ComposeBox, student: Student) -> None:
    """As an upgrade does: everything that stands on the Hub's image or settings is made anew."""
    before = {service: box.container(service).attrs["Id"] for service in ("hub", "prepare", "traefik")}
    since = started_at(box, "traefik")
    box.environment["APPLIANCE_NOTEBOOK_IMAGE"] = "appliance/notebook:latest"
    with AtWork(student) as work:
        box.compose("up", "--detach")
        box.wait_hub()
        work.check()
    after = {service: box.container(service).attrs["Id"] for service in before}
    assert [service for service in before if before[service] != after[service]] == ["hub", "prepare"]
    assert started_at(box, "traefik") == since


def test_a_killed_traefik_is_back_with_every_route(box: ComposeBox, student: Student) -> None:
    os.kill(box.pid("traefik"), signal.SIGKILL)
    began, path = time.monotonic(), f"{student.prefix}api/status"

    def answers() -> bool:
        try:
            return httpx.get(f"{box.url}{path}", headers={"Cookie": student.cookie_header(path)}, trust_env=False,
                             timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    wait_for("the student's route", answers, 20)
    took_s = time.monotonic() - began
    print(f"Traefik was back with every route after {took_s:.1f} s.")
    assert took_s < 5
    student.kernel().close()


def test_traefik_stopped_by_an_admin_is_waited_for(box: ComposeBox, student: Student) -> None:
    box.compose("stop", "traefik")
    wait_for("the Hub's sentence", lambda: f"{box.name}-traefik is exited" in box.log("hub"), 20)
    box.compose("restart", "hub")
    wait_for("the Hub", lambda: httpx.get(f"http://127.0.0.1:{box.hub_port}/hub/health", trust_env=False).status_code == 200
             if box.pid("hub") and _listens(box.hub_port) else False, 30)
    box.compose("start", "traefik")
    box.wait_hub()
    assert student.get("/hub/home").status_code == 200


def _listens(port: int) -> bool:
    return subprocess.run(["ss", "-Hltn", "sport", "=", f":{port}"], capture_output=True, check=True).stdout != b""


# -- what each may do --------------------------------------------------------------------------------------------------
def test_the_hub_has_the_capabilities_it_uses_and_no_other(box: ComposeBox) -> None:
    for which in ("CapEff", "CapPrm", "CapBnd"):
        assert capabilities(box.pid("hub"), which) == {CHOWN, DAC_OVERRIDE, FOWNER, NET_ADMIN}, which
    assert "NoNewPrivs:\t1" in Path(f"/proc/{box.pid('hub')}/status").read_text()


def test_traefik_is_not_root_has_no_socket_and_writes_no_route(box: ComposeBox, student: Student) -> None:
    pid = box.pid("traefik")
    status = Path(f"/proc/{pid}/status").read_text()
    assert re.search(r"^Uid:\t65532\t65532\t65532\t65532$", status, re.M)
    assert re.search(r"^Gid:\t65532\t65532\t65532\t65532$", status, re.M)
    assert capabilities(pid) == capabilities(pid, "CapBnd") == {NET_BIND_SERVICE}
    mounts = [line.split()[4:6] for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    state = f"{box.data}/state"
    ours = {point: options.split(",")[0] for point, options in mounts if point.startswith(str(box.folder))}
    assert ours == {f"{state}/traefik": "ro", f"{state}/traefik/logs": "rw", f"{state}/traefik/acme": "rw"}
    assert not [point for point, _ in mounts if "docker.sock" in point or point.startswith("/run")]
    # and even with the mount writable it could not
    routes = [*(box.data / "state" / "traefik" / "routes").iterdir()]
    assert len(routes) == 3
    for path in (box.data / "state" / "traefik" / "routes", *routes):
        done = subprocess.run(["setpriv", "--reuid=65532", "--regid=65532", "--clear-groups", "test", "-w",
                               f"/proc/self/cwd/{path.name}"], cwd=path.parent, check=False)
        assert done.returncode == 1, path


@pytest.mark.parametrize("service", ["hub", "traefik"])
def test_root_file_systems_are_read_only_and_limits_hold(box: ComposeBox, service: str) -> None:
    pid = box.pid(service)
    root = next(line for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines() if line.split()[4] == "/")
    assert root.split()[5].startswith("ro")
    host = box.container(service).attrs["HostConfig"]
    assert host["Memory"] > 0
    assert host["PidsLimit"] > 0
    assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}
    assert not host["Privileged"]


def test_no_container_tells_a_secret(box: ComposeBox, student: Student) -> None:
    kept = [load_cookie_secret(box.data / "jupyterhub_cookie_secret", variable="").hex(),
            load_cookie_secret(box.data / "state" / "server_tokens_secret", variable="").hex(),
            (box.data / "state" / "traefik" / "api.json").read_text().split('"password": "')[1].split('"')[0]]
    for service in ("hub", "traefik", "prepare"):
        said = inspected(box.container(service))
        for secret in kept:
            assert secret not in said, service
            assert secret not in box.log(service), service


# -- by hand -----------------------------------------------------------------------------------------------------------
def test_stop_says_who_keeps_them_and_ends_the_servers_when_asked(box: ComposeBox, student: Student) -> None:
    assert "docker compose stop" in box.appliance("stop")
    assert box.container("hub").status == "running"
    assert "1 server ended" in box.appliance("stop", "--servers")
    assert student.state()[0] == "stopped"


def test_a_second_hub_says_where_the_first_one_is(box: ComposeBox) -> None:
    said = box.compose("run", "--rm", "--no-deps", "--name", f"{box.name}-second", "hub")
    assert "already runs here" in said
    assert "of another container" in said


def test_both_are_healthy(box: ComposeBox) -> None:
    for service in ("hub", "traefik"):
        wait_for(f"{service}'s health",
                 lambda service=service: box.container(service).attrs["State"]["Health"]["Status"] == "healthy", 40)


# -- PostgreSQL --------------------------------------------------------------------------------------------------------
def test_a_whole_box_on_postgresql() -> None:
    build("postgres")
    box = ComposeBox(COMPOSE_PROFILES="postgres")
    password = secrets.token_hex(24)
    (box.etc / "secrets" / "postgres_password").write_text(password + "\n")
    (box.etc / "secrets" / "postgres_password").chmod(0o600)
    with box:
        with box.person() as student:
            student.to_server()
            assert student.run_cell("print(6 * 7)") == "42\n"
            with AtWork(student) as work:
                before = started_at(box, "postgres")
                os.kill(box.pid("postgres"), signal.SIGKILL)
                wait_for_new(box, "postgres", before)
                wait_for("the database behind the Hub", lambda: student.get("/hub/home").status_code == 200, 30)
                work.check()
            student.stop()
            student.wait_stopped()
        assert not (box.data / "jupyterhub.sqlite").exists()
        assert capabilities(box.pid("postgres")) == set()
        assert re.search(r"^Uid:\t65531\t", Path(f"/proc/{box.pid('postgres')}/status").read_text(), re.M)
        for service in ("hub", "postgres", "traefik", "prepare"):
            assert password not in inspected(box.container(service)) + box.log(service), service
