"""What the benches share: statistics, alternating pairs, an HTTP client, bare containers, processes and their memory."""
from __future__ import annotations

import argparse
import contextlib
import html
import http.client
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, urlencode, urljoin, urlsplit

import docker

USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"
PATIENCE_S = 300
RESULTS = "BENCH_RESULTS"       # environment variable: a file to add every figure to that has a target


# ------------------------------------------------------------------------------------------------------- statistics --
def line(name: str, values: Sequence[float], unit: str = "s", *, digits: int = 2, target: str = "") -> str:
    """Return one line of a table: the median, the range, how many, and what was asked for."""
    if not values:
        return f"{name:<58} no measurement"
    middle, least, most = (f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    spread = f" [{least}-{most}]" if len(values) > 1 else ""
    text = f"{name:<58} {middle}{spread}{' ' if unit else ''}{unit}, n = {len(values)}"
    return f"{text}   (wanted: {target})" if target else text


def show(name: str, values: Sequence[float], unit: str = "s", *, digits: int = 2, target: str = "") -> None:
    text = line(name, values, unit, digits=digits, target=target)
    print(text, flush=True)
    if target and os.environ.get(RESULTS):      # what the summary of all.py is made of
        with Path(os.environ[RESULTS]).open("a") as file:
            file.write(text + "\n")


def show_ratio(name: str, ours: Sequence[float], other: Sequence[float], target: str = "") -> None:
    """Print the ratio of each pair, and the seconds that lie between its halves."""
    show(name, [a / b for a, b in zip(ours, other, strict=True)], "", target=target)
    show("  overhead", [a - b for a, b in zip(ours, other, strict=True)])


def alternate(count: int, *sides: Callable[[], object]) -> None:
    """Run every side `count` times; who goes first changes from round to round, so a drift of the machine favours none."""
    for number in range(count):
        turn = number % len(sides)
        for side in (*sides[turn:], *sides[:turn]):
            side()
            time.sleep(0.5)     # what the last one left behind


def arguments(doc: str | None, *, pairs: int | None = 7, incumbent: bool = False) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    if pairs is not None:
        parser.add_argument("--pairs", type=int, default=pairs, help="alternating pairs to run (default: %(default)s)")
    if incumbent:
        parser.add_argument("--incumbent", action="store_true", help="measure JupyterHub in the same run as well")
    return parser


# ------------------------------------------------------------------------------------------------------ HTTP client --
@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes
    url: str            # path and query

    @property
    def path(self) -> str:
        return urlsplit(self.url).path

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")

    @property
    def location(self) -> str | None:
        """Path and query of where a redirect leads."""
        if self.status not in (301, 302, 303, 307, 308):
            return None
        there = urlsplit(urljoin(self.url, self.headers["Location"]))
        return there.path + (f"?{there.query}" if there.query else "")


class Client:
    """A browser as far as HTTP goes: cookies by path, redirects, one kept connection.

    Made of http.client alone: what it costs is not to be seen in what it measures.
    """

    def __init__(self, base_url: str, timeout_s: float = PATIENCE_S) -> None:
        parts = urlsplit(base_url)
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self._netloc, self._timeout_s = parts.netloc, timeout_s
        self._connection = http.client.HTTPConnection(self._netloc, timeout=timeout_s)
        self.cookies: dict[tuple[str, str], str] = {}      # (path, name) → value
        self.hops: list[tuple[float, str]] = []             # when each answer came, and what it was

    def cookie_header(self, path: str) -> str:
        """Return what a browser sends to `path`, cookies of longer paths first."""
        fitting = [(where, name) for where, name in self.cookies
                   if path == where or path.startswith(where if where.endswith("/") else f"{where}/")]
        return "; ".join(f"{name}={self.cookies[where, name]}"
                         for where, name in sorted(fitting, key=lambda key: -len(key[0])))

    def cookie(self, name: str, path: str) -> str:
        match = re.search(rf"(?:^|; ){re.escape(name)}=([^;]*)", self.cookie_header(path))
        return match[1] if match else ""

    def request(self, method: str, url: str, form: dict[str, str] | None = None,
                headers: dict[str, str] | None = None) -> Answer:
        """Send one request, follow nothing. url: path and query."""
        sent = self._headers(url) | (headers or {})
        body = None
        if method != "GET":
            sent["Origin"] = self.origin
        if form is not None:
            body = urlencode(form)
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        fresh = self._connection.sock is None
        try:
            self._connection.request(method, url, body, sent)
            response = self._connection.getresponse()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            self._connection.close()
            if fresh or method != "GET":
                raise
            return self.request(method, url, form, headers)
        answer = Answer(response.status, response.headers, response.read(), url)
        self._keep_cookies(response.headers)
        self.hops.append((time.perf_counter(), f"{method} {urlsplit(url).path} {answer.status}"))
        return answer

    def get(self, url: str, headers: dict[str, str] | None = None) -> Answer:
        """GET and follow redirects."""
        return self.follow(self.request("GET", url, headers=headers))

    def follow(self, answer: Answer) -> Answer:
        for _ in range(20):
            if answer.location is None:
                return answer
            answer = self.request("GET", answer.location)
        raise RuntimeError(f"too many redirects, the last to {answer.location}")

    def post(self, url: str, form: dict[str, str]) -> Answer:
        return self.request("POST", url, form)

    def events(self, url: str) -> Iterator[dict[str, object]]:
        """Yield what a stream of server-sent events says, until it ends."""
        connection = http.client.HTTPConnection(self._netloc, timeout=self._timeout_s)
        script = {"Accept": "text/event-stream", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}
        try:
            connection.request("GET", url, headers=self._headers(url) | script)
            response = connection.getresponse()
            self.hops.append((time.perf_counter(), f"GET {urlsplit(url).path} {response.status}"))
            if response.status != 200:
                return
            for raw in response:
                if raw.startswith(b"data:"):
                    yield json.loads(raw[5:])
        finally:
            connection.close()

    def close(self) -> None:
        self._connection.close()

    def _headers(self, url: str) -> dict[str, str]:
        headers = {
            "User-Agent": USER_AGENT, "Accept": "text/html,application/xhtml+xml,*/*;q=0.8",
            "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "document"}
        cookies = self.cookie_header(urlsplit(url).path)
        return headers | ({"Cookie": cookies} if cookies else {})

    def _keep_cookies(self, headers: http.client.HTTPMessage) -> None:
        for header in headers.get_all("Set-Cookie", []):
            pair, *attributes = (part.strip() for part in header.split(";"))
            name, _, value = pair.partition("=")
            said = {key.lower(): word for key, _, word in (part.partition("=") for part in attributes)}
            where = (said.get("path", "/"), name)
            expires = said.get("expires")
            if said.get("max-age") == "0" or (expires and _past(expires)):
                self.cookies.pop(where, None)
            else:
                self.cookies[where] = value


def _past(expires: str) -> bool:
    year = re.search(r"\b(\d{4})\b", expires)
    return bool(year) and int(year[1]) < datetime.now().year


@dataclass
class Arrival:
    """One way from the login form to Lab, in seconds after the POST was sent."""

    lab_s: float
    failures: int = 0                   # times that a student would have seen an error
    phases: dict[str, float] = field(default_factory=dict)
    sent_at: float = 0                  # time.time()


def sign_in(client: Client, name: str, password: str) -> Answer:
    """Post the login form; the form itself is fetched first. Returns the answer to the POST."""
    return client.post("/hub/login", _login_form(client, name, password))


def _login_form(client: Client, name: str, password: str) -> dict[str, str]:
    page = client.get("/hub/login")
    client.hops.clear()
    return {"username": name, "password": password, "_xsrf": xsrf_of(page.text)}


def xsrf_of(page: str) -> str:
    """Return the token in a page's form."""
    found = re.search(r'name="_xsrf"[^>]*value="([^"]*)"|value="([^"]*)"[^>]*name="_xsrf"', page)
    return next(filter(None, found.groups()), "") if found else ""


def to_lab(client: Client, name: str, password: str, *, ready: Callable[[], object] = lambda: None,
           timeout_s: float = PATIENCE_S) -> Arrival:
    """Sign in and go where a browser would until Lab's page answers 200.

    The progress page's events are listened to, and "ready" goes on as that page's script does. An error page or a failed
    start counts as a failure; like a student, it is tried again from /hub/spawn. ready: called between the login form and
    its POST (to let many post at once).
    """
    prefix = f"/user/{quote(name)}/"
    form = _login_form(client, name, password)
    ready()
    wall, began = time.time(), time.perf_counter()

    def since() -> float:
        return time.perf_counter() - began

    arrival = Arrival(0, sent_at=wall)
    answer = client.post("/hub/login", form)
    arrival.phases["POST answered"] = since()
    answer = client.follow(answer)
    while since() < timeout_s:
        if answer.status == 200 and answer.path.startswith(f"{prefix}lab"):
            arrival.lab_s = since()
            return arrival
        if answer.status == 200 and answer.path.startswith("/hub/spawn-pending"):
            arrival.phases.setdefault("progress page", since())
            if _wait_for_ready(client, name):
                arrival.phases["told ready"] = since()
                answer = client.get(_way_on(answer))
                continue
        if answer.path.startswith("/hub/login"):
            raise RuntimeError(f"{name} could not sign in: {answer.status}")
        arrival.failures += 1
        time.sleep(1)
        answer = client.get("/hub/spawn")
    raise RuntimeError(f"{name} was not in Lab after {timeout_s:.0f} s; the last answers: {client.hops[-5:]}")


def _way_on(progress_page: Answer) -> str:
    """Return where the progress page's script goes: to the address the page names, or it reloads."""
    named = re.search(r'data-enter="([^"]*)"', progress_page.text)
    return html.unescape(named[1]) if named else progress_page.url


def _wait_for_ready(client: Client, name: str) -> bool:
    xsrf = client.cookie("_xsrf", "/hub/")
    for event in client.events(f"/hub/api/users/{quote(name)}/server/progress?_xsrf={quote(xsrf)}"):
        if event.get("failed"):
            return False
        if event.get("ready"):
            return True
    return True     # the stream ended: the page says how it stands


# -------------------------------------------------------------------------------------------------- bare containers --
class Bare:
    """A server that nobody but the engine starts. create: the body of `POST /containers/create`."""

    def __init__(self, create: dict[str, object], prefix: str, token: str) -> None:
        self._create, self._prefix, self._token = create, prefix, token
        self._api = docker.APIClient(version="auto")

    @classmethod
    def like(cls, container_id: str) -> Bare:
        """Return one that is configured exactly as a Hub's container is: image, limits, user, mounts, network, address.

        It has no labels, so that the Hub does not take it for its own. Start it when the Hub's own is gone.
        """
        api = docker.APIClient(version="auto")
        seen = api.inspect_container(container_id)
        config, host = seen["Config"], seen["HostConfig"]
        kept = ("Image", "Cmd", "Entrypoint", "Env", "User", "WorkingDir", "ExposedPorts", "StopSignal")
        create = {key: config[key] for key in kept if config.get(key) is not None}
        environment = dict(pair.partition("=")[::2] for pair in config["Env"])
        networks = seen["NetworkSettings"]["Networks"]
        endpoints = {network: {"IPAMConfig": said["IPAMConfig"]} for network, said in networks.items()}
        create |= {"HostConfig": host, "NetworkingConfig": {"EndpointsConfig": endpoints}}
        return cls(create, environment["JUPYTERHUB_SERVICE_PREFIX"], environment["JUPYTER_TOKEN"])

    @classmethod
    def plain(cls, image: str, name: str, network: str = "bridge") -> Bare:
        """Return one of an image of JupyterLab as it is installed, told what a Hub would tell it."""
        prefix, token = f"/user/{name}/", "bench-token"
        command = ["jupyter", "lab", "--ip=0.0.0.0", "--no-browser", f"--ServerApp.base_url={prefix}"]
        create = {"Image": image, "Cmd": command, "Env": [f"JUPYTER_TOKEN={token}"], "HostConfig": {"NetworkMode": network}}
        return cls(create, prefix, token)

    def seconds_to_lab(self, *, poll_s: float = 0.01, ready: Callable[[], object] = lambda: None,
                       timeout_s: float = PATIENCE_S) -> float:
        """Create, start, wait for the first 200 of Lab's page, remove; return the seconds until that 200."""
        ready()
        began = time.perf_counter()
        container = self._api.create_container_from_config(self._create)["Id"]
        try:
            self._api.start(container)
            networks = self._api.inspect_container(container)["NetworkSettings"]["Networks"]
            address = next(iter(networks.values()))["IPAddress"]
            while time.perf_counter() - began < timeout_s:
                if self._answers(address, timeout_s):
                    return time.perf_counter() - began
                time.sleep(poll_s)
            logs = self._api.logs(container, tail=20).decode()
            raise RuntimeError(f"a bare {self._create['Image']} was not ready after {timeout_s:.0f} s:\n{logs}")
        finally:
            self._api.remove_container(container, force=True)

    def _answers(self, address: str, timeout_s: float) -> bool:
        connection = http.client.HTTPConnection(address, 8888, timeout=timeout_s)
        try:
            connection.request("GET", f"{self._prefix}lab", headers={"Authorization": f"token {self._token}"})
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


def engine_phases(container_id: str, sent_at: float) -> dict[str, float]:
    """Return when the engine had created and started a container and when its app said that it listens, in seconds."""
    api = docker.APIClient(version="auto")
    seen = api.inspect_container(container_id)
    phases = {"container created": _seconds(seen["Created"]) - sent_at,
              "container started": _seconds(seen["State"]["StartedAt"]) - sent_at}
    for said in api.logs(container_id, timestamps=True).decode(errors="replace").splitlines():
        if " is running at" in said or "HTTP server listening" in said:
            phases["app listening"] = _seconds(said.split(" ", 1)[0]) - sent_at
            break
    return phases


def _seconds(engine_time: str) -> float:
    """Return "2025-01-31T12:00:00.123456789Z" as seconds since 1970."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", engine_time)).timestamp()


# -------------------------------------------------------------------------------------------------- processes, load --
class Child:
    """A process of ours with its output in a file; ended by its id, and nothing else is."""

    def __init__(self, command: Sequence[str | Path], folder: Path, log_name: str, env: dict[str, str] | None = None) -> None:
        self.log = folder / log_name
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([str(word) for word in command], cwd=folder, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, env=env, start_new_session=True)
        self.pid = self.process.pid

    def end(self, timeout_s: float = 30) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """`kill -9`."""
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.process.wait()

    def tail(self, lines: int = 20) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def wait_for(what: str, condition: Callable[[], object], *, timeout_s: float = 60, pause_s: float = 0.02,
             alive: Child | None = None) -> float:
    """Return the seconds until `condition` was true. Raises RuntimeError after `timeout_s`, or when `alive` ended."""
    began = time.perf_counter()
    while not condition():
        if alive is not None and alive.process.poll() is not None:
            raise RuntimeError(f"waiting for {what}: the process ended.\n{alive.tail()}")
        if time.perf_counter() - began > timeout_s:
            raise RuntimeError(f"waited {timeout_s:.0f} s for {what}" + (f"\n{alive.tail()}" if alive else ""))
        time.sleep(pause_s)
    return time.perf_counter() - began


def status_of(url: str, *, timeout_s: float = 5, headers: dict[str, str] | None = None) -> int | None:
    """Return the status of one GET over a new connection, None if nobody answers."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=timeout_s)
    try:
        connection.request("GET", parts.path + (f"?{parts.query}" if parts.query else ""), headers=headers or {})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def free_port(address: str = "127.0.0.1") -> int:
    with socket.socket() as sock:
        sock.bind((address, 0))
        return int(sock.getsockname()[1])


@dataclass(frozen=True)
class Load:
    """What wrk says: all that was asked, and what of it failed."""

    requests: int
    per_second: float
    bad_status: int         # not 2xx or 3xx
    bad_sockets: int        # refused, reset, timed out

    @property
    def failed(self) -> int:
        return self.bad_status + self.bad_sockets


class Wrk:
    """wrk on one address, in the background."""

    def __init__(self, url: str, seconds: int, *, connections: int = 8, headers: dict[str, str] | None = None) -> None:
        given = [word for name, value in (headers or {}).items() for word in ("-H", f"{name}: {value}")]
        self._process = subprocess.Popen(
            ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "5s", *given, url],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def result(self) -> Load:
        said, _ = self._process.communicate()
        total = re.search(r"(\d+) requests in", said)
        rate = re.search(r"Requests/sec:\s*([\d.]+)", said)
        if total is None or rate is None:
            raise RuntimeError(f"wrk failed:\n{said}")
        status = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
        sockets = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
        return Load(int(total[1]), float(rate[1]), int(status[1]) if status else 0,
                    sum(map(int, sockets.groups())) if sockets else 0)


def pss_mb(pids: Iterable[int]) -> float:
    """Return the memory of these processes in MB (10^6 bytes), each shared page divided among who shares it."""
    kilobytes = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            kilobytes += int(re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)[1])
    return kilobytes * 1024 / 1e6


def descendants(pid: int) -> list[int]:
    """Return the processes below `pid`, without itself."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *descendants(child)]
    return found


# ------------------------------------------------------------------------------------------------------------- hubs --
class HubUnderTest(Protocol):
    """Ours or the incumbent; starts on entering, ends everything it started on leaving."""

    name: str
    url: str
    image: str

    def __enter__(self) -> HubUnderTest: ...
    def __exit__(self, *error: object) -> None: ...

    @property
    def hub_pid(self) -> int: ...

    def students(self, count: int) -> list[tuple[str, str]]:
        """Return names and passwords of accounts that may sign in."""

    def container_of(self, name: str) -> str:
        """Return the id of the student's container."""

    def bare_like(self, container: str) -> Bare:
        """Return what its image does without a Hub."""

    def stop_server(self, name: str) -> None:
        """Stop a student's server and wait until its container is gone and the next start is a cold one."""


def run_until_interrupted(hub: HubUnderTest) -> None:
    with hub, contextlib.suppress(KeyboardInterrupt):
        (name, password), = hub.students(1)
        print(f"{hub.name} answers at {hub.url}: {name}, {password}. Ctrl-C ends it and its servers.", flush=True)
        while True:
            time.sleep(3600)


# ---------------------------------------------------------------------------------------------------------- machine --
def machine_facts() -> dict[str, str]:
    """Return what the reader of a figure has to know about the machine."""
    info = docker.from_env().info()
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "processor": processor[1] if processor else os.uname().machine,
        "memory": f"{info['MemTotal'] / 2**30:.0f} GiB",
        "system": info["OperatingSystem"],
        "kernel": os.uname().release.split("-")[0],
        "engine": info["ServerVersion"],
        "cgroup": f"v{info.get('CgroupVersion', '1')}",
    }
