"""Traefik, containers, files and secrets go away; people see at most one sentence."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from box import Box, wait_for

from appliance.domain.server import Phase

pytestmark = pytest.mark.engine

FOREIGN = "http: {routers: {evil: {rule: 'PathPrefix(`/`)', priority: 99999, service: x}}}"


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    with Box() as box:
        yield box


def test_a_killed_traefik_is_started_again(box: Box) -> None:
    with box.student("alice") as student:
        student.to_server()
        before = box.traefik_pid
        os.kill(before, signal.SIGKILL)
        wait_for("another Traefik", lambda: box.traefik_pid not in (0, before))
        wait_for("the route", lambda: _status(lambda: student.api("GET", "status").status_code) == 200)
        assert box.server("alice").phase is Phase.READY  # type: ignore[union-attr]


def test_a_killed_container_is_explained_and_a_second_try_works(box: Box) -> None:
    with box.student("bob") as student:
        student.to_server()
        student.write("work.txt", "mine")
        box.container("bob").kill()
        page = student.get("/user/bob/lab")
        assert page.status_code in (502, 503, 504)  # the Hub's page with the cause
        assert "ended from outside" in page.text
        box.wait_phase("bob", Phase.FAILED)
        assert "ended from outside" in student.get("/hub/home").text
        wait_for("the container's end", lambda: not box.containers("bob"))
        student.to_server()
        assert student.read("work.txt") == "mine"


def test_hub_traefik_and_container_killed_at_once(box: Box) -> None:
    with box.student("carol") as student:
        student.to_server()
        student.write("work.txt", "mine")
        container = box.container("carol")
        os.kill(box.traefik_pid, signal.SIGKILL)
        box.kill()
        container.kill()
        box.start()
        box.wait_phase("carol", Phase.FAILED)
        student.to_server()
        assert student.read("work.txt") == "mine"
        assert len(box.containers("carol")) == 1


@pytest.mark.parametrize("damage", ["removed", "emptied", "corrupted", "foreign"])
def test_damaged_routes_are_back_and_no_websocket_drops(box: Box, damage: str) -> None:
    folder = box.routes_folder
    wait_for("the Hub's pages", lambda: _status(lambda: httpx.get(f"{box.url}/hub/login", trust_env=False).status_code) == 200)
    with box.student("dave") as student:
        student.to_server()
        with student.kernel() as kernel:
            kernel.run("x = 1")
            if damage == "removed":
                shutil.rmtree(folder.rename(box.folder / "removed"))  # at once, before anybody can write into it
            elif damage == "emptied":
                for file in folder.iterdir():
                    file.unlink()
            elif damage == "corrupted":
                for file in folder.iterdir():
                    file.write_text("}{ not a route")
            else:
                (folder / "zz.yml").write_text(FOREIGN)
            wait_for("the routes", lambda: folder.exists() and not (folder / "zz.yml").exists()
                     and len(list(folder.iterdir())) > 1)
            wait_for("the server", lambda: _status(lambda: student.api("GET", "status").status_code) == 200)
            assert kernel.run("print(x)") == "1\n"
            # changes arrive again
        with box.student(f"new-{damage}") as other:
            other.to_server()
            other.stop()


def test_a_lost_database_costs_nobody_a_running_server_or_a_file(box: Box) -> None:
    with box.student("erin") as student:
        student.to_server()
        student.write("work.txt", "mine")
        container = box.container("erin").id
        box.kill()
        for file in box.folder.glob("jupyterhub.sqlite*"):
            file.unlink()
        box.start()
        box.wait_phase("erin", Phase.READY)
        assert student.get("/hub/home", follow=False).headers["Location"].startswith("/hub/login")
    box.appliance("user", "passwd", "erin", "--password-stdin", said="a new password 1\n")
    again = box.student("erin", sign_in=False)
    with again as student:
        student.password = "a new password 1"
        page = student.sign_in()
        assert "change-password" in str(page.url)
        student.post("/hub/change-password", old_password="a new password 1", new_password="an own password 2",
                     new_password_again="an own password 2", old="a new password 1", new="an own password 2",
                     again="an own password 2")
        student.get("/hub/home")
        student.wait_ready()
        assert student.read("work.txt") == "mine"
    assert box.container("erin").id == container


def test_a_lost_cookie_secret_ends_every_login_and_no_server(box: Box) -> None:
    with box.student("frank") as student:
        student.to_server()
        with student.kernel() as kernel:
            kernel.run("x = 1")
            container = box.container("frank").id
            box.terminate()
            (box.folder / "jupyterhub_cookie_secret").unlink()
            box.start()
            assert kernel.run("print(x)") == "1\n"
            wait_for("the end of the old capability",
                     lambda: student.api("GET", "status").status_code in (401, 403))
        assert student.get("/hub/home", follow=False).headers["Location"].startswith("/hub/login")
    with box.student("frank") as student:
        student.wait_ready()
        assert student.api("GET", "status").status_code == 200
    assert box.container("frank").id == container


def test_two_starts_at_once_and_a_stop_during_a_start(box: Box) -> None:
    with box.student("grace") as one, box.student("grace") as two:
        clicks = [threading.Thread(target=student.start) for student in (one, two, one, two)]
        for click in clicks:
            click.start()
        for click in clicks:
            click.join()
        one.wait_ready()
        assert len(box.containers("grace")) == 1
        assert box.server("grace").start_no == 1  # type: ignore[union-attr]
        one.stop()
        box.wait_phase("grace", Phase.STOPPED)
        one.start()
        box.wait_phase("grace", Phase.STARTING, Phase.BOOTING)
        two.stop()
        box.wait_phase("grace", Phase.STOPPED)
        wait_for("the container's end", lambda: not box.containers("grace"))
        one.to_server()


def test_servers_reach_the_hubs_api_and_none_of_its_pages(box: Box) -> None:
    code = """
import os, urllib.request, urllib.error
def ask(url, headers={}):
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5).status
    except urllib.error.HTTPError as error:
        return error.code
api = os.environ["JUPYTERHUB_API_URL"]
print(ask(api), ask(api.replace("/api", "/login")), ask(api.replace("/api", "/home")),
      ask(api + "/user", {"X-Forwarded-For": "1.2.3.4"}))
"""
    with box.student("heidi") as student:
        student.to_server()
        assert student.run_cell(code).split() == ["200", "404", "404", "403"]


def _status(ask: object) -> int:
    try:
        return ask()  # type: ignore[operator, no-any-return]
    except httpx.TransportError:
        time.sleep(0.05)
        return 0
