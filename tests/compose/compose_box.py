"""A box out of the repository's compose.yaml, under a name, a folder, ports and a network of its own."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import docker
import docker.errors
import httpx
from box import REPOSITORY, _free_network, free_port, wait_for
from student import Student

from appliance.spawners.docker_firewall import remove_table, table_name

PASSWORD = "correct horse battery staple"
IMAGES = ("hub", "traefik", "notebook", "holding")
SYS_RESOURCE = 24


def build(*images: str) -> None:
    built = subprocess.run([sys.executable, REPOSITORY / "images" / "build", *images], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr


class ComposeBox:
    """config: a piece for config.d. more: environment variables for compose. Use `with`."""

    def __init__(self, config: str = "", **more: str) -> None:
        self.engine = docker.DockerClient.from_env(timeout=60)
        number = _free_network(self.engine)
        self.name = f"compose{number}-{secrets.token_hex(2)}"
        self.folder = Path(tempfile.mkdtemp(prefix="appliance-compose-"))
        self.data, self.etc = self.folder / "data", self.folder / "etc"
        (self.etc / "config.d").mkdir(parents=True)
        (self.etc / "secrets").mkdir(mode=0o700)
        (self.etc / "config.d" / "50-test.py").write_text(f"c = get_config()\n{config}")
        self.port, self.hub_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            "APPLIANCE_NAME": self.name, "APPLIANCE_DATA": str(self.data), "APPLIANCE_CONFIG": str(self.etc),
            "APPLIANCE_HTTP_PORT": str(self.port), "APPLIANCE_HUB_PORT": str(self.hub_port),
            "APPLIANCE_HOLDING_PORT": str(free_port()),
            "APPLIANCE_SUBNET": f"10.200.{number}.0/24",
            **{f"APPLIANCE_{image.upper()}_IMAGE": self.engine.images.get(f"appliance/{image}:latest").id for image in IMAGES},
            **_machine(), **more}

    def __enter__(self) -> ComposeBox:
        try:
            self.compose("up", "--detach")
            self.wait_hub()
        except BaseException:
            print(self.log("hub"), self.log("traefik"), file=sys.stderr)
            self._clear()
            raise
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if error is not None:
                print(self.log("hub")[-5000:], self.log("traefik")[-2000:], file=sys.stderr)
            else:
                logs = self.log("hub")
                assert "Traceback" not in logs, logs
                assert PASSWORD not in logs
        finally:
            self._clear()

    def compose(self, *words: str, check: bool = True, said: str = "") -> str:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("APPLIANCE_", "COMPOSE_"))}
        done = subprocess.run(
            ["docker", "compose", "--file", str(REPOSITORY / "compose.yaml"), *words], env=kept | self.environment, text=True,
            input=said, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, check=False)
        assert not check or done.returncode == 0, f"docker compose {' '.join(words)}: {done.stdout}"
        return done.stdout

    def appliance(self, *words: str, environment: str = "") -> str:
        return self.compose("exec", "-T", *(["--env", environment] if environment else []), "hub", "appliance", *words)

    def log(self, service: str) -> str:
        try:
            return bytes(self.container(service).logs()).decode(errors="replace")
        except docker.errors.NotFound:
            return ""

    def container(self, service: str) -> Any:
        return self.engine.containers.get(f"{self.name}-{service}")

    def pid(self, service: str) -> int:
        """Of a service's first process, as the host has it; 0 while there is none."""
        return int(self.container(service).attrs["State"]["Pid"])

    def wait_hub(self) -> None:
        def answers() -> bool:
            try:
                return httpx.get(f"{self.url}/hub/health", timeout=2, trust_env=False).status_code == 200
            except httpx.HTTPError:
                return False

        wait_for("the Hub behind Traefik", answers, 40)

    @contextmanager
    def person(self) -> Iterator[Student]:
        """Somebody who has signed in; the account is made if need be."""
        self.appliance("user", "ensure-admin", environment=f"APPLIANCE_ADMIN_PASSWORD={PASSWORD}")
        with Student(self.url, "admin", PASSWORD) as student:
            student.sign_in()
            yield student

    def _clear(self) -> None:
        self.compose("--profile", "postgres", "down", "--timeout", "5", check=False)
        for label in (f"org.appliance.namespace={self.name}", f"org.appliance.probe={self.name}"):
            for container in self.engine.containers.list(all=True, filters={"label": label}, ignore_removed=True):
                container.remove(force=True)
        with suppress(docker.errors.NotFound):
            self.engine.networks.get(self.name).remove()
        remove_table(table_name(self.name))
        self.engine.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(Path("/run", self.name), ignore_errors=True)


def _machine() -> dict[str, str]:
    """What compose.yaml leaves to the machine: one without systemd shares no mounts, and not every one lets the engine
    lower a score."""
    root = next(line for line in Path("/proc/self/mountinfo").read_text().splitlines() if line.split()[4] == "/")
    capabilities = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    may_lower = int(capabilities.split()[1], 16) >> SYS_RESOURCE & 1
    return {**({} if " shared:" in root else {"APPLIANCE_PROPAGATION": "rprivate"}),
            **({} if may_lower else {"APPLIANCE_OOM_SCORE_ADJ": "0"})}


class AtWork:
    """Somebody who works meanwhile: a kernel that counts, a websocket that stays open, a request every few milliseconds."""

    def __init__(self, student: Student) -> None:
        self.student = student
        self.requests, self.failed = 0, []
        self._ending = threading.Event()
        self._asking = threading.Thread(target=self._ask)

    def __enter__(self) -> AtWork:
        self.student.run_cell(
            "import threading, time\ncount = 0\ndef work():\n    global count\n    while True:\n"
            "        count += 1\n        time.sleep(0.01)\nthreading.Thread(target=work, daemon=True).start()")
        self.kernel, self.count = self.student._kernel, int(self.student.run_cell("print(count)"))
        self._asking.start()
        return self

    def check(self) -> None:
        """The same websocket still carries cells, the count has gone on, no request has failed."""
        assert self.student._kernel is self.kernel
        count = int(self.student.run_cell("print(count)"))
        assert count > self.count
        self.count = count
        assert self.failed == []

    def _ask(self) -> None:
        path = f"{self.student.prefix}api/status"
        with httpx.Client(base_url=self.student.url, trust_env=False, timeout=10) as client:
            while not self._ending.is_set():
                try:
                    response = client.get(path, headers={"Cookie": self.student.cookie_header(path)})
                    if response.status_code != 200:
                        self.failed.append(response.status_code)
                except httpx.HTTPError as error:
                    self.failed.append(repr(error))
                self.requests += 1
                time.sleep(0.01)

    def __exit__(self, *error: object) -> None:
        self._ending.set()
        self._asking.join()


def capabilities(pid: int, which: str = "CapEff") -> set[int]:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(which))
    mask = int(line.split()[1], 16)
    return {bit for bit in range(64) if mask >> bit & 1}


def inspected(container: Any) -> str:
    container.reload()
    return json.dumps(container.attrs)
