"""Services of a real box: a process that signs its visitors in, one that is killed with the Hub, one that cannot start, and
one in a container, all through the real Traefik."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from box import Box, free_port, wait_for
from websockets.sync.client import connect

from appliance.spawners.docker_container import SERVICE

pytestmark = pytest.mark.engine

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "class_board.py"
SLEEPER = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("pids", os.getpid(), child.pid, flush=True)
time.sleep(600)
"""
ASKER = """
import json, os, sys, time, urllib.request
request = urllib.request.Request(os.environ["JUPYTERHUB_API_URL"] + "/users", headers={
    "Authorization": "token " + os.environ["JUPYTERHUB_API_TOKEN"]})
with urllib.request.urlopen(request) as answer:
    print("users", [user["name"] for user in json.load(answer)], flush=True)
time.sleep(600)
"""
ECHO = """
import asyncio, os, urllib.parse, websockets
async def echo(ws):
    async for said in ws:
        await ws.send(ws.request.path + " " + said)
async def main():
    url = urllib.parse.urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"])
    async with websockets.serve(echo, url.hostname, url.port):
        await asyncio.Future()
asyncio.run(main())
"""
IN_CONTAINER = """
import http.server, json, os, urllib.request
class Say(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        request = urllib.request.Request(os.environ["JUPYTERHUB_API_URL"] + "/user", headers={
            "Authorization": "token " + os.environ["JUPYTERHUB_API_TOKEN"]})
        with urllib.request.urlopen(request, timeout=5) as answer:
            me = json.load(answer)
        body = json.dumps({"me": me["name"], "kind": me["kind"], "user": os.environ["JUPYTERHUB_USER"], "uid": os.getuid(),
                           "home": os.path.expanduser("~"), "path": self.path}).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words): pass
http.server.HTTPServer(("0.0.0.0", 8888), Say).serve_forever()
"""


def config(board_port: int) -> str:
    python = [sys.executable, "-u", "-c"]
    services = [
        {"name": "board", "url": f"http://127.0.0.1:{board_port}", "command": [sys.executable, str(EXAMPLE)],
         "oauth_no_confirm": True},
        {"name": "sleeper", "command": [*python, SLEEPER]},
        {"name": "asker", "command": [*python, ASKER]},
        {"name": "broken", "command": [*python, "import sys; print('no such lesson'); sys.exit(3)"]},
        {"name": "echo", "url": f"http://127.0.0.1:{free_port()}", "command": [*python, ECHO]},
        {"name": "gone", "url": "http://127.0.0.1:1"},
        {"name": "course", "user": "grader-course", "command": [sys_python, "-u", "-c", IN_CONTAINER],
         "container": {"image": "appliance/base:latest", "mem_limit": "128M"}},
    ]
    roles = [{"name": "user", "scopes": ["self", "access:services!service=board"]},
             {"name": "asks", "scopes": ["list:users"], "services": ["asker"]}]
    return (f"c.JupyterHub.services = {services!r}\nc.JupyterHub.load_roles = {roles!r}\n"
            "c.DockerSpawner.image = 'appliance/base:latest'\n")


sys_python = "python3"      # the container's own


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    with Box(config(free_port())) as made:
        made.add_user("ada", admin=True)
        made.add_user("bob")
        yield made
        made.terminate()
        assert services_of(made)
        made.appliance("stop", "--servers")
        assert services_of(made) == []


def service(box: Box, name: str, token: str) -> dict[str, Any]:
    answer = httpx.get(f"{box.url}/hub/api/services/{name}", headers={"Authorization": f"token {token}"}, timeout=10)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest.fixture(scope="module")
def admin_token(box: Box) -> str:
    return box.token("ada")


def until_state(box: Box, token: str, name: str, *states: str) -> dict[str, Any]:
    return wait_for(f"{name} to be {states}", lambda: (
        found if (found := service(box, name, token))["state"] in states else None))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def pids_of(box: Box, begins: int = 0) -> list[int]:
    said = wait_for("the sleeper's word", lambda: [
        line for line in box.log()[begins:].splitlines() if "sleeper: pids " in line])
    return [int(word) for word in said[-1].split()[-2:]]


def gone(pids: list[int]) -> Callable[[], bool]:
    return lambda: not any(map(alive, pids))


def test_the_example_signs_its_visitors_in(box: Box, admin_token: str) -> None:
    until_state(box, admin_token, "board", "running")
    with box.student("bob") as bob, box.student("ada") as ada:
        page = bob.get("/services/board/")
        assert page.status_code == 200, page.text
        assert "Hello bob." in page.text
        assert str(page.url).endswith("/services/board/")
        bob.client.post("/services/board/", data={"text": "<b>school's out</b>"})
        page = ada.get("/services/board/")
        assert "Hello ada." in page.text
        assert "<li>bob: &lt;b&gt;school&#x27;s out&lt;/b&gt;</li>" in page.text
    wait_for("the log", lambda: "board: bob came" in box.log())


def test_a_stranger_has_to_sign_in_first(box: Box, admin_token: str) -> None:
    until_state(box, admin_token, "board", "running")
    with box.student("bob", sign_in=False) as bob:
        page = bob.get("/services/board/")
        assert page.url.path == "/hub/login"
        assert "Hello" not in page.text


def test_a_managed_service_asks_the_api_in_its_own_name(box: Box, admin_token: str) -> None:
    wait_for("the users", lambda: "asker: users [" in box.log())
    assert service(box, "asker", admin_token)["roles"] == ["asks"]


def test_one_that_crashes_is_said_to_and_tried_again(box: Box, admin_token: str) -> None:
    found = until_state(box, admin_token, "broken", "failed")
    assert found["message"] == "It ended with status 3."
    assert found["last_lines"][-1] == "no such lesson"
    assert found["restarts"] >= 3
    assert "The service broken has ended. It ended with status 3. It is started again in 1 s." in box.log()
    with box.student("ada") as ada:
        page = ada.get("/hub/services").text
    assert "no such lesson" in page
    metrics = httpx.get(f"{box.url}/hub/metrics", headers={"Authorization": f"token {admin_token}"}).text
    assert 'appliance_services{phase="failed"} 1.0' in metrics


def test_a_websocket_passes(box: Box, admin_token: str) -> None:
    until_state(box, admin_token, "echo", "running")
    with connect(f"{box.url.replace('http', 'ws')}/services/echo/x?y=1") as websocket:
        websocket.send("hello")
        assert websocket.recv(timeout=10) == "/services/echo/x?y=1 hello"


def test_where_a_service_is_away_the_hub_says_so(box: Box) -> None:
    def asked() -> httpx.Response | None:
        answer = httpx.get(f"{box.url}/services/gone/x", headers={"Accept": "text/html"})
        return answer if answer.status_code == 502 else None     # Traefik's own

    assert re.search("The service gone (is starting|does not answer right now).", wait_for("the Hub's word", asked).text)
    assert httpx.get(f"{box.url}/services/nobody/").status_code == 404


def test_a_service_in_a_container_speaks_to_the_hub_and_is_reached(box: Box, admin_token: str) -> None:
    until_state(box, admin_token, "course", "running")
    said = httpx.get(f"{box.url}/services/course/a?b=1", timeout=10).json()
    user = box.user("grader-course")
    assert user is not None
    assert said == {"me": "course", "kind": "service", "user": "grader-course", "uid": user.uid, "home": "/home/grader-course",
                    "path": "/services/course/a?b=1"}
    assert box.containers() == []      # to everybody who looks for servers, it is none


def test_kill_9_of_the_hub_leaves_no_process_and_interrupts_no_container(box: Box, admin_token: str) -> None:
    until_state(box, admin_token, "course", "running")
    pids = pids_of(box)
    assert all(map(alive, pids))
    container = course(box)
    box.kill()
    wait_for("the end of the processes", gone(pids))
    assert httpx.get(f"{box.url}/services/course/", timeout=10).status_code in (200, 502, 503)   # its Hub is away
    begins = len(box.log())
    box.start()
    assert all(map(alive, pids_of(box, begins)))
    until_state(box, admin_token, "course", "running")
    assert course(box) == container
    assert httpx.get(f"{box.url}/services/course/", timeout=10).status_code == 200


def test_the_hub_ends_its_processes_in_good_order(box: Box, admin_token: str) -> None:
    pids = pids_of(box)
    began = time.monotonic()
    assert box.terminate() == 0
    assert time.monotonic() - began < 10
    assert gone(pids)()
    begins = len(box.log())
    box.start()
    assert all(map(alive, pids_of(box, begins)))


def test_a_killed_service_comes_back_and_its_way_stays(box: Box, admin_token: str) -> None:
    found = until_state(box, admin_token, "board", "running")
    os.kill(found["pid"], signal.SIGKILL)
    again = wait_for("the board", lambda: now if (now := service(box, "board", admin_token))["state"] == "running"
                     and now["pid"] not in (0, found["pid"]) else None)
    assert again["restarts"] == found["restarts"] + 1
    with box.student("bob") as bob:
        assert "Hello bob." in bob.get("/services/board/").text


def course(box: Box) -> str:
    found = services_of(box)
    assert len(found) == 1
    return str(found[0].id)


def services_of(box: Box) -> list[Any]:
    labels = [SERVICE, f"org.appliance.namespace={box.namespace}"]
    return list(box.engine.containers.list(all=True, filters={"label": labels}))


