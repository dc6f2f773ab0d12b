"""The box's test of itself, on a real box: that it passes, that it sees what is broken, and that it leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from box import Box, wait_for
from loop_disk import loop_disk

from appliance import smoke
from appliance.domain.names import SMOKE_USER
from appliance.domain.server import Phase
from appliance.store import servers, sessions, users

pytestmark = pytest.mark.engine

PARTS = ["account", "sign-in", "start", "enter", "cell", "quota", "isolation", "strangers", "stop", "clean-up"]


def run(box: Box, *words: str) -> tuple[int, dict[str, object]]:
    done = subprocess.run([sys.executable, "-m", "appliance.cli", "smoke", "--json", *words], cwd=box.folder,
                          env=box._environment(), capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def failed(result: dict[str, object]) -> dict[str, str]:
    """Return the part that failed; one only, and with what to do."""
    parts = [part for part in result["parts"] if part["ok"] is False]  # type: ignore[attr-defined]
    assert len(parts) == 1, parts
    assert parts[0]["sentence"].endswith(".")
    assert parts[0]["action"].endswith(".")
    found: dict[str, str] = parts[0]
    return found


def assert_nothing_is_left(box: Box) -> None:
    user = box.user(SMOKE_USER)
    assert user is not None
    assert user.archived
    assert box.database(lambda t: users.get_password(t, SMOKE_USER)) is None
    assert box.database(lambda t: sessions.of_user(t, user.id)) == []
    server = box.database(lambda t: servers.find(t, user.id))
    assert server is None or server.phase in Phase.down()
    assert box.containers(SMOKE_USER) == []


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    with Box() as box:
        yield box


def test_it_passes_beside_a_class_and_says_what_took_how_long(box: Box) -> None:
    with box.student("ada") as ada:
        ada.to_server()
        ada.run_cell("counter = 41")
        for _ in range(2):
            status, result = run(box)
            assert status == 0, result
            assert [part["name"] for part in result["parts"]] == PARTS  # type: ignore[attr-defined]
            assert [part["name"] for part in result["parts"] if part["skipped"]] == ["quota"]  # type: ignore[attr-defined]
            assert_nothing_is_left(box)
        assert ada.run_cell("counter + 1") == "42"
    assert SMOKE_USER not in box.appliance("user", "list")


def test_prometheus_sees_the_class_and_not_the_test(box: Box) -> None:
    with box.student("ada") as ada:
        ada.to_server()
        assert run(box)[0] == 0
        box.add_user("head", admin=True)
        answer = httpx.get(f"{box.url}/hub/metrics", headers={"Authorization": f"Bearer {box.token('head')}"}, trust_env=False)
        assert answer.status_code == 200
        assert "jupyterhub_running_servers 1.0" in answer.text
        assert "jupyterhub_total_users 2.0" in answer.text
        assert 'jupyterhub_server_spawn_duration_seconds_count{status="success"} 1.0' in answer.text
        assert "ada" not in answer.text.replace("loadavg", "")
        assert httpx.get(f"{box.url}/hub/metrics", trust_env=False).status_code == 403


def test_it_speaks_to_people_too(box: Box) -> None:
    said = box.appliance("smoke")
    assert "6 * 7 is 42" in said
    assert "The box works at http://127.0.0.1" in said


def test_nobody_can_sign_in_with_its_account(box: Box) -> None:
    run(box)
    with box.student(SMOKE_USER, sign_in=False) as stranger:
        stranger.get("/hub/login")
        for password in ("", "x", box.add_user.__name__):
            answer = stranger.post("/hub/login", username=SMOKE_USER, password=password)
            assert answer.status_code in (403, 429)


def test_a_door_that_is_closed(box: Box) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        status, result = run(box, "--url", f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert status == 1
    part = failed(result)
    assert part["name"] == "sign-in"
    assert "Nothing answers" in part["sentence"]
    assert "Traefik" in part["action"]
    assert_nothing_is_left(box)


def test_a_certificate_that_is_wrong(box: Box, tmp_path: Path) -> None:
    with tls_in_front_of_nothing(tmp_path) as port:
        status, result = run(box, "--url", f"https://127.0.0.1:{port}")
    assert status == 1
    part = failed(result)
    assert part["name"] == "sign-in"
    assert "certificate" in part["sentence"]
    assert "--ca-file" in part["action"]


def test_something_else_at_the_address(box: Box) -> None:
    status, result = run(box, "--url", box.url + "/elsewhere/")
    assert status == 1
    assert "sign-in page" in failed(result)["sentence"]


@pytest.mark.parametrize("words", [("--url", "box.school"), ("--ca-file", "/no/such/file"), ("--url", "ftp://x/")])
def test_options_that_cannot_be_are_said_before_anything_is_done(box: Box, words: tuple[str, ...]) -> None:
    said = box.appliance("smoke", *words, ok=False)
    assert "Traceback" not in said
    assert "clean-up" not in said


def test_one_at_a_time(box: Box) -> None:
    with smoke._alone(box.settings.state_dir / "smoke.lock"):
        assert "Another smoke test" in box.appliance("smoke", ok=False)


def test_one_that_is_ended_cleans_up(box: Box) -> None:
    running = subprocess.Popen([sys.executable, "-m", "appliance.cli", "smoke"], cwd=box.folder, env=box._environment(),
                               stdout=subprocess.PIPE, text=True)
    wait_for("its container", lambda: box.containers(SMOKE_USER))
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=60)
    assert running.returncode == 130
    assert_nothing_is_left(box)


def test_one_that_was_killed_is_cleaned_up_by_the_next(box: Box) -> None:
    running = subprocess.Popen([sys.executable, "-m", "appliance.cli", "smoke"], cwd=box.folder, env=box._environment(),
                               stdout=subprocess.DEVNULL)
    wait_for("its container", lambda: box.containers(SMOKE_USER))
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    status, result = run(box)
    assert status == 0, result
    assert_nothing_is_left(box)


def test_traefik_that_is_frozen_and_a_hub_that_is_down() -> None:
    with Box() as box:
        box.terminate()
        status, result = run(box)
        assert status == 1
        first = result["parts"][1]  # type: ignore[index]
        assert (first["name"], first["ok"]) == ("sign-in", False)
        box.start()
        assert run(box)[0] == 0


def test_a_certificate_of_the_boxs_own_authority_and_a_session_without_a_password() -> None:
    """The password is never asked where the Authenticator does not keep it, or its lists leave the account out."""
    with Box("c.JupyterHub.tls = 'selfsigned'\nc.Authenticator.allowed_users = {'ada'}\n") as box:
        status, result = run(box)
        assert status == 0, result
        assert str(result["url"]).startswith("https://")
        assert "not asked" in result["parts"][1]["sentence"]  # type: ignore[index]
        assert_nothing_is_left(box)


def test_a_full_box_is_said_and_nobody_is_disturbed() -> None:
    with Box("c.JupyterHub.active_server_limit = 1\n") as box, box.student("ada") as ada:
        ada.to_server()
        status, result = run(box)
        assert (status, result["full"]) == (1, True)
        part = failed(result)
        assert (part["name"], part["code"]) == ("start", "box-full")
        assert ada.run_cell("6 * 7") == "42"
        assert_nothing_is_left(box)


def test_an_image_without_a_kernel() -> None:
    with Box("c.DockerSpawner.image = 'appliance/hello'\nc.DockerSpawner.image_options = {'appliance/hello': "
             "{'port': 8080, 'ready_path': '', 'default_url': '/'}}\n", errors_expected=True) as box:
        status, result = run(box)
        assert status == 1
        assert failed(result)["name"] in ("start", "enter", "cell")
        assert_nothing_is_left(box)


def test_a_quota_is_seen_to_refuse_and_the_home_is_as_it_was(tmp_path: Path) -> None:
    with loop_disk(tmp_path, "600M", "mkfs.btrfs", "-q") as disk, Box(
            f"c.JupyterHub.homes_class = 'btrfs'\nc.JupyterHub.homes_dir = '{disk}/homes'\n"
            "c.BtrfsHomes.quota = '64M'\n") as box:
        status, result = run(box)
        assert status == 0, result
        quota = next(part for part in result["parts"] if part["name"] == "quota")  # type: ignore[attr-defined]
        assert quota["ok"]
        assert "refused after" in quota["sentence"]
        assert quota["seconds"] < 30
        assert not list(box.home(SMOKE_USER).glob(".appliance-smoke*"))
        assert_nothing_is_left(box)


def test_a_quota_that_is_not_enforced() -> None:
    """DirectoryHomes has none; here it says that it has one."""
    with Box("from appliance.homes.directory import DirectoryHomes\n"
             "class Boasting(DirectoryHomes):\n    quota = 32 << 20\n"
             "c.JupyterHub.homes_class = Boasting\n") as box:
        status, result = run(box)
        assert status == 1
        part = failed(result)
        assert part["name"] == "quota"
        assert "not enforced" in part["action"]
        assert_nothing_is_left(box)
        assert not list(box.home(SMOKE_USER).glob(".appliance-smoke*"))


@contextmanager
def tls_in_front_of_nothing(folder: Path) -> Iterator[int]:
    """A listener with a certificate that nobody signed."""
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key",
                    "-out", folder / "cert"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert", folder / "key")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                try:
                    with listener.accept()[0] as one, context.wrap_socket(one, server_side=True):
                        time.sleep(0.1)
                except (OSError, ssl.SSLError):
                    continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            thread.join()
