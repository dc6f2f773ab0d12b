"""A whole box in a folder of its own: Hub, Traefik, containers, network. For tests that look at it from outside.

    with Box("c.Spawner.mem_limit = '512M'") as box:      # started at once
        box.add_user("alice")
        with box.student("alice") as alice:               # tests/student.py
            alice.to_server()
            box.kill()
            assert alice.run_cell("print(6 * 7)") == "42\n"
            box.start()

At the end everything is ended as an admin would (`appliance stop --servers`), and nothing may be left.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import anyio
import docker
import docker.errors
from student import Student

from appliance.admin import Admin
from appliance.config import Settings, load_settings
from appliance.domain.server import Phase, Server
from appliance.domain.user import Event, User
from appliance.spawners.docker_firewall import remove_table, table_name
from appliance.store import events, servers, users
from appliance.store.database import Database, Transaction

REPOSITORY = Path(__file__).resolve().parent.parent
PATIENCE_S = 60.0     # for everything that takes a moment on a fast machine
READY = "The Hub is ready after"
PASSWORD = "correct horse {name} staple"

CONFIG = """\
c = get_config()  # noqa
c.JupyterHub.ip = "127.0.0.1"
c.JupyterHub.port = {port}
c.JupyterHub.hub_port = {hub_port}
c.JupyterHub.authenticator_class = "local"
c.JupyterHub.db_url = "{folder}/jupyterhub.sqlite"
c.JupyterHub.cookie_secret_file = "{folder}/jupyterhub_cookie_secret"
c.JupyterHub.state_dir = "{folder}/state"
c.JupyterHub.run_dir = "{folder}/run"
c.JupyterHub.homes_dir = "{folder}/homes"
c.DockerSpawner.namespace = "{namespace}"
c.DockerSpawner.subnet = "{subnet}"
"""
# a Hub that ends itself, as kill -9 would, right after a step of hub/lifecycle.py
KILLED_AT = """\
import os, signal, sys
from appliance import config, main
def on_step(step):
    if step == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)
sys.exit(main.run_hub(config.load_settings(), on_step=on_step))
"""

_T = TypeVar("_T")


class Box:
    """extra_config: more lines for jupyterhub_config.py. errors_expected: the Hub's log may hold tracebacks."""

    def __init__(self, extra_config: str = "", *, errors_expected: bool = False) -> None:
        self.errors_expected = errors_expected
        self.folder = Path(tempfile.mkdtemp(prefix="appliance-test-"))
        self.engine = docker.DockerClient.from_env(timeout=60)
        self.port, hub_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        (self.folder / "homes").mkdir()
        number = _free_network(self.engine)
        self.subnet = f"10.200.{number}.0/24"
        self.namespace = f"box{number}-{secrets.token_hex(2)}"
        self.config_file = self.folder / "jupyterhub_config.py"
        self.config_file.write_text(CONFIG.format(
            port=self.port, hub_port=hub_port, folder=self.folder, namespace=self.namespace, subnet=self.subnet)
            + extra_config)
        self._hub: subprocess.Popen[bytes] | None = None
        self._secrets: set[str] = set()

    def __enter__(self) -> Box:
        try:
            self.start()
        except BaseException:
            self._clear()
            raise
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is not None:
            print(f"The Hub's log ends with:\n{self.log()[-6000:]}", file=sys.stderr)
        self.close()

    # -- the Hub ------------------------------------------------------------------------------------------------------
    def start(self, *, kill_at: str = "", wait: bool = True) -> None:
        """Start the Hub and wait until it lets browsers in. kill_at: a step of Lifecycle.on_step at which it kills
        itself (-9)."""
        assert self._hub is None or self._hub.poll() is not None, "the Hub runs already"
        begins = len(self.log())
        program = ["-c", KILLED_AT, kill_at] if kill_at else ["-m", "appliance.cli"]
        with open(self.folder / "hub.log", "ab") as log:
            self._hub = subprocess.Popen([sys.executable, *program], cwd=self.folder, env=self._environment(),
                                         stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        if wait:
            wait_for("the Hub", lambda: READY in self.log()[begins:] or not self.running)
            if READY not in self.log()[begins:]:
                raise AssertionError(f"The Hub ended with status {self._hub.wait()}:\n{self.log()[begins:][-4000:]}")

    @property
    def running(self) -> bool:
        return self._hub is not None and self._hub.poll() is None

    @property
    def hub_pid(self) -> int:
        assert self._hub is not None
        return self._hub.pid

    def kill(self) -> None:
        """kill -9 of the Hub alone."""
        assert self._hub is not None
        self._hub.kill()
        self._hub.wait()

    def terminate(self) -> int:
        """SIGTERM to the Hub; return its exit status."""
        assert self._hub is not None
        self._hub.terminate()
        return self._hub.wait(PATIENCE_S)

    def wait_ended(self) -> int:
        """Wait until the Hub ends by itself (see kill_at); return its exit status, negative if by a signal."""
        assert self._hub is not None
        return self._hub.wait(PATIENCE_S)

    def log(self) -> str:
        file = self.folder / "hub.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def appliance(self, *words: str, said: str = "", ok: bool = True) -> str:
        """Run a command of the program; return what it prints. said: its standard input."""
        done = subprocess.run(
            [sys.executable, "-m", "appliance.cli", *words], cwd=self.folder, env=self._environment(), input=said,
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE_S, check=False)
        assert not ok or done.returncode == 0, f"appliance {' '.join(words)}: {done.stdout}"
        return done.stdout

    @staticmethod
    def _environment() -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items()
                if not key.startswith(("APPLIANCE_", "JUPYTER", "JPY_", "TRAEFIK_"))}
        return kept | {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}

    # -- accounts -----------------------------------------------------------------------------------------------------
    def add_user(self, name: str, password: str = "", *, admin: bool = False, must_change: bool = False) -> str:
        """Return the password; a name of its own where none is given."""
        password = password or PASSWORD.format(name=name)
        self._secrets.add(password)
        # a thread: a test that drives a browser has an event loop in its own
        _in_thread(lambda: self._admin(lambda a: a.add_user(name, admin=admin, password=password, must_change=must_change)))
        return password

    def token(self, name: str) -> str:
        """Return a new API token."""
        token: str = self._admin(lambda admin: admin.create_token(name))
        self._secrets.add(token)
        return token

    def student(self, name: str, *, sign_in: bool = True) -> Student:
        """Return a browser's stand-in, signed in; the account is made if need be. Close it, or use `with`."""
        student = Student(self.url, name, PASSWORD.format(name=name))
        if sign_in:
            if self.user(name) is None:
                self.add_user(name)
            student.sign_in()
        return student

    def _admin(self, work: Callable[[Admin], _T]) -> _T:
        with Admin(self.settings) as admin:
            return work(admin)

    @cached_property
    def settings(self) -> Settings:
        return load_settings(["-f", str(self.config_file)])

    # -- what there is, as seen from outside ---------------------------------------------------------------------------
    def database(self, work: Callable[[Transaction], _T]) -> _T:
        """Read with the store's functions: box.database(users.list_all)."""
        db = Database(self.settings.db_url)
        try:
            return db.run(work, write=False)
        finally:
            db.close()

    def user(self, name: str) -> User | None:
        return self.database(lambda t: users.find(t, name))

    def server(self, user_name: str) -> Server | None:
        """Return the row of a user's default server."""
        def read(t: Transaction) -> Server | None:
            user = users.find(t, user_name)
            return servers.find(t, user.id) if user else None

        return self.database(read)

    def events(self) -> list[Event]:
        """Oldest first."""
        return sorted(self.database(lambda t: events.newest(t, limit=1000)), key=lambda event: event.id)

    def wait_phase(self, user_name: str, *phases: Phase) -> Server:
        """Wait until a user's server is in one of these phases."""
        def reached() -> Server | None:
            server = self.server(user_name)
            return server if server is not None and server.phase in phases else None

        return wait_for(f"{user_name}'s server to be {' or '.join(phases)}", reached)

    def containers(self, user_name: str = "") -> list[Any]:
        """Return the engine's view of this box's servers (docker.models.containers.Container), ended ones included."""
        labels = [f"org.appliance.namespace={self.namespace}", "org.appliance.server"]
        if user_name:
            labels.append(f"org.appliance.user={user_name}")
        return self.engine.containers.list(all=True, filters={"label": labels}, ignore_removed=True)

    def container(self, user_name: str) -> Any:
        found = self.containers(user_name)
        assert len(found) == 1, f"{user_name} has {len(found)} containers"
        return found[0]

    def home(self, user_name: str) -> Path:
        """Return a user's home on the host."""
        user = self.user(user_name)
        assert user is not None
        return self.settings.homes_dir / f"u{user.uid}" / "home"

    def put(self, user_name: str, file_name: str, text: str) -> None:
        """Write a file into a user's home, which is made as the Hub would make it."""
        user = self.user(user_name)
        assert user is not None
        homes = self.settings.make(self.settings.homes_class, root=self.settings.homes_dir)
        _in_thread(lambda: anyio.run(homes.ensure, user.uid, user.name))
        file = self.home(user_name) / file_name
        file.write_text(text)
        os.chown(file, user.uid, user.uid)

    @property
    def traefik_pid(self) -> int:
        """0 if there is none."""
        try:
            pid = int(json.loads((self.settings.state_dir / "traefik" / "traefik.pid").read_text())["pid"])
            return pid if b"traefik" in Path(f"/proc/{pid}/cmdline").read_bytes() else 0
        except (OSError, ValueError, KeyError):
            return 0

    @property
    def routes_folder(self) -> Path:
        return self.settings.state_dir / "traefik" / "routes"

    # -- the end ------------------------------------------------------------------------------------------------------
    def close(self) -> None:
        """End everything as an admin would, clear the rest away, and raise AssertionError if there was a rest, or if
        the log holds a traceback or a password."""
        wrong = []
        try:
            if self.running:
                status = self.terminate()
                if status != 0:
                    wrong.append(f"the Hub ended with status {status}")
            pid = self.traefik_pid
            self.appliance("stop", "--servers")
            if left := [container.name for container in self.containers()]:
                wrong.append(f"containers are left: {left}")
            if pid and _alive(pid):
                wrong.append("Traefik is left")
            wrong += self._wrong_in_logs()
        finally:
            wrong += self._clear()
        assert not wrong, f"{'; '.join(wrong)}\nThe Hub's log ended with:\n{self._last_log}"

    def _wrong_in_logs(self) -> list[str]:
        logs = {file.name: file.read_text(errors="replace")
                for file in (self.folder / "hub.log", *self.settings.state_dir.rglob("*.log")) if file.exists()}
        wrong = [f"{name} holds a secret" for name, text in logs.items() if any(word in text for word in self._secrets)]
        if "Traceback" in logs.get("hub.log", "") and not self.errors_expected:
            wrong.append("hub.log holds a traceback")
        return wrong

    def _clear(self) -> list[str]:
        """Remove by force whatever there is of this box; return what should have been gone."""
        self._last_log = self.log()[-6000:]
        if self.running:
            self.kill()
        pid = self.traefik_pid
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for label in ("namespace", "probe"):  # probes end by themselves, but later
            for container in self.engine.containers.list(
                    all=True, filters={"label": f"org.appliance.{label}={self.namespace}"}, ignore_removed=True):
                with contextlib.suppress(docker.errors.APIError):
                    container.remove(force=True)
        wrong = []
        try:
            wait_for("the network's end", self._remove_network, 30)
        except AssertionError as error:
            wrong.append(str(error))
        remove_table(table_name(self.namespace))
        self.engine.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        return wrong

    def _remove_network(self) -> bool:
        try:
            self.engine.networks.get(self.namespace).remove()
        except docker.errors.NotFound:
            return True
        except docker.errors.APIError:  # a container of it is still being removed
            return False
        return True


def wait_for(what: str, condition: Callable[[], _T | None], timeout_s: float = PATIENCE_S) -> _T:
    """Return what `condition` returns as soon as that is true."""
    end = time.monotonic() + timeout_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"waited {timeout_s:.0f} s in vain for {what}"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _free_network(engine: docker.DockerClient) -> int:
    """Return an N for which nobody uses 10.200.N.0/24; any of them, for another test run may look at the same time."""
    taken = [ipaddress.ip_network(config["Subnet"])
             for network in engine.networks.list() for config in network.attrs["IPAM"]["Config"] or () if "Subnet" in config]
    return next(number for number in random.sample(range(256), 256)
                if not any(net.version == 4 and net.overlaps(ipaddress.ip_network(f"10.200.{number}.0/24")) for net in taken))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _in_thread(work: Callable[[], _T]) -> _T:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()
