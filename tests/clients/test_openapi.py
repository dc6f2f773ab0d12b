"""The document of the REST API against the running Hub: whatever it says may be sent is answered as it says.

The Hub is the real program with a real database, over HTTP; engine, proxy and homes are fakes, so that a thousand starts cost
nothing. schemathesis makes the requests, good and bad ones, and chains of them.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from appliance.store import groups, users
from appliance.store.database import Database, Transaction

pytestmark = pytest.mark.clients

TIME_S = 75           # for all phases together
CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
          "response_headers_conformance", "unsupported_method", "allow_header_conformance", "ignored_auth",
          "negative_data_rejection")
# names that are there, so that not every second request ends with 404
HOOKS = """\
import random

import schemathesis

NAMES = {{"name": {users}, "group": ["7a", "7b", "7c"], "server": ["maths", "physics"], "owner": {users}}}


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    for name, known in NAMES.items():
        if path_parameters and name in path_parameters and random.random() < 0.7:
            path_parameters[name] = random.choice(known)
    return path_parameters
"""
# too much is a refusal as well
REFUSALS = "[checks.negative_data_rejection]\nexpected-statuses = [400, 403, 404, 405, 409, 413]\n"
CONFIG = """\
from appliance.testing import FakeHomes, FakeProxy, FakeSpawner


class Spawner(FakeSpawner):
    def __init__(self, **traits):
        super().__init__(listens=True, **traits)


c = get_config()  # noqa
c.JupyterHub.spawner_class, c.JupyterHub.proxy_class, c.JupyterHub.homes_class = Spawner, FakeProxy, FakeHomes
c.JupyterHub.authenticator_class = "local"
c.JupyterHub.ip, c.JupyterHub.port, c.JupyterHub.hub_port = "127.0.0.1", {other}, {port}
c.JupyterHub.state_dir, c.JupyterHub.run_dir, c.JupyterHub.homes_dir = "{folder}/state", "{folder}/run", "{folder}/homes"
c.JupyterHub.db_url, c.JupyterHub.cookie_secret_file = "{folder}/db.sqlite", "{folder}/secret"
c.JupyterHub.allow_named_servers = True
c.JupyterHub.services = [{{"name": "tester", "api_token": "{token}", "admin": True}}]
"""
TOKEN = "a-service-s-token-can-be-revoked-by-nobody"
PEOPLE = ["alice", "bob", "carl", "dora", "josé", "emil@school"]


@dataclass(frozen=True)
class RunningHub:
    folder: Path
    url: str
    token: str
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        return (self.folder / "hub.log").read_text()

    def ask(self, method: str, path: str, **request: object) -> httpx.Response:
        headers = {"Authorization": f"token {self.token}"}
        return httpx.request(method, f"{self.url}/hub/api/{path}", headers=headers, **request)  # type: ignore[arg-type]


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    port, other = free_ports()
    (tmp_path / "homes").mkdir()
    (tmp_path / "jupyterhub_config.py").write_text(CONFIG.format(
        folder=tmp_path, port=port, other=other, token=TOKEN))
    with open(tmp_path / "hub.log", "wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "appliance.cli"], cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=log,
                                   stderr=log, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
    try:
        until = time.monotonic() + 60
        while "The Hub is ready" not in (tmp_path / "hub.log").read_text():
            assert process.poll() is None, (tmp_path / "hub.log").read_text()
            assert time.monotonic() < until, (tmp_path / "hub.log").read_text()
            time.sleep(0.1)
        db = Database(f"{tmp_path}/db.sqlite")
        db.run(people)
        db.close()
        yield RunningHub(tmp_path, f"http://127.0.0.1:{port}", TOKEN, process)
    finally:
        process.terminate()
        assert process.wait(30) == 0


def people(t: Transaction) -> None:
    for name in PEOPLE:
        groups.set_of_user(t, users.add(t, name).id, ["7a"])
    groups.add(t, "7b", [], actor="test")
    users.add(t, "teacher", admin=True)


def test_the_hub_answers_as_its_document_says(hub: RunningHub) -> None:
    (hub.folder / "hooks.py").write_text(HOOKS.format(users=PEOPLE))
    (hub.folder / "schemathesis.toml").write_text(REFUSALS)
    run = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "run", f"{hub.url}/hub/api/openapi.json", "--checks", ",".join(CHECKS),
         "--header", f"Authorization: Bearer {hub.token}", "--exclude-path", "/shutdown", "--max-time", str(TIME_S),
         "--suppress-health-check", "all", "--warnings", "off", "--continue-on-failure", "--request-timeout", "20",
         "--seed", "4", "--max-examples", "30", "--no-shrink"],
        cwd=hub.folder, env={**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(hub.folder), "NO_COLOR": "1"},
        capture_output=True, text=True, timeout=3 * TIME_S, check=False)
    assert run.returncode == 0, "\n".join(line[:300] for line in run.stdout.splitlines()[-200:]) + run.stderr[-2000:]
    assert "Traceback" not in hub.log, hub.log[-6000:]
    assert hub.ask("GET", "users").status_code == 200


def test_shutdown_ends_the_program(hub: RunningHub) -> None:
    assert hub.ask("POST", "users/alice/server").status_code in (201, 202)
    for body in ([], {"servers": "yes"}, "x"):
        assert hub.ask("POST", "shutdown", json=body).status_code == 400
    response = hub.ask("POST", "shutdown", json={"servers": True, "proxy": True})
    assert (response.status_code, set(response.json())) == (202, {"message"})
    assert hub.process.wait(60) == 0
    assert "tester shuts the Hub down, with servers, with the proxy." in hub.log
