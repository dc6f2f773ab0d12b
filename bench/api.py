#!/usr/bin/env python3
"""The REST API and the home page, ours over JupyterHub's, with 5,000 users in SQLite on both sides.

    python bench/api.py [--pairs 7] [--seconds 4] [--users 5000] [--only users user …]

Needs wrk. Both Hubs run in this run, on this machine, one is asked while the other has nothing to do, and who goes first
changes from pair to pair. Each is asked at its own port: neither has a proxy in front of it, a spawner to watch over or a
password to check (both let anybody in by name), and both write their log to a file as they do by themselves. Nobody writes
while wrk reads one address again and again, and a Hub may remember what it read; before each walk through all pages a user is
added, so that it cannot. JupyterHub is installed from PyPI into a folder of its own outside this repository, and its 5,000
users are kept there for the next run.
"""
from __future__ import annotations

import http.client
import json
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from common import Child, Client, Load, Wrk, alternate, arguments, free_port, show, sign_in, status_of, wait_for

VERSION = "6.1.1"
PAGE = 200
PAGED = {"Accept": "application/jupyterhub-pagination+json"}
FOLDER = Path(tempfile.gettempdir()) / "appliance-bench-api"
REPOSITORY = Path(__file__).resolve().parent.parent

OURS = """\
from appliance.ports import Authenticator
from appliance.testing import FakeProxy

class Anybody(Authenticator):
    allow_all = True

    async def authenticate(self, request, data):
        return data["username"]

c = get_config()
c.JupyterHub.port = {port}
c.JupyterHub.hub_port = {hub_port}
c.JupyterHub.authenticator_class = Anybody
c.JupyterHub.proxy_class = FakeProxy
c.JupyterHub.spawner_class = "localprocess"
c.JupyterHub.db_url = "sqlite:///hub.sqlite"
c.JupyterHub.services = [{{"name": "bench", "api_token": "{token}", "admin": True}}]
"""
THEIRS = """\
from jupyterhub.proxy import Proxy

class NoProxy(Proxy):
    should_start = False
    routes = {{}}

    async def add_route(self, routespec, target, data):
        self.routes[routespec] = {{"routespec": routespec, "target": target, "data": data}}

    async def delete_route(self, routespec):
        self.routes.pop(routespec, None)

    async def get_all_routes(self):
        return self.routes

c.JupyterHub.port = {port}
c.JupyterHub.hub_port = {hub_port}
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.proxy_class = NoProxy
c.JupyterHub.spawner_class = "simple"
c.JupyterHub.db_url = "sqlite:///hub.sqlite"
c.JupyterHub.services = [{{"name": "bench", "api_token": "{token}", "admin": True}}]
"""


@dataclass
class Side:
    """One of the two Hubs."""

    name: str
    folder: Path
    config: str
    command: list[str | Path]
    seed: Path | None = None                       # its database with all users in it, for the next run
    users: int = 5000
    token: str = field(default_factory=lambda: secrets.token_hex(32))
    port: int = field(default_factory=free_port)
    user_token: str = ""
    cookie: str = ""
    added: int = 0
    walks: int = 0
    figures: dict[str, list[float]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        for file in self.folder.glob("hub.*"):
            file.unlink()
        if self.seed is not None and self.seed.exists():
            shutil.copy(self.seed, self.folder / "hub.sqlite")
        (self.folder / "jupyterhub_config.py").write_text(self.config.format(
            port=free_port(), hub_port=self.port, token=self.token))
        self.start()
        try:
            self.prepare()
        except BaseException:
            self.child.end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            print(f"{self.name} said:\n{self.child.tail()}", file=sys.stderr)
        self.child.end()

    def start(self) -> None:
        self.child = Child(self.command, self.folder, "hub.log")
        wait_for(self.name, lambda: status_of(f"{self.url}/hub/login") == 200, alive=self.child)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def prepare(self) -> None:
        there = self.total()
        while there < self.users:
            print(f"{self.name}: {there} users …", file=sys.stderr, flush=True)
            self.call("POST", "users", {"usernames": [f"user-{number:05}" for number in
                                                      range(there, min(there + 1000, self.users))]})
            there = self.total()
        if self.seed is not None and not self.seed.exists():
            self.child.end()
            shutil.copy(self.folder / "hub.sqlite", self.seed)
            self.start()
        self.user_token = str(self.call("POST", "users/user-00007/tokens", {"note": "bench"})["token"])
        client = Client(self.url)
        sign_in(client, "user-00007", "any")
        page = client.request("GET", "/hub/home")
        if page.status != 200 or "user-00007" not in page.text:
            raise RuntimeError(f"{self.name}: the home page answers {page.status}")
        self.cookie = client.cookie_header("/hub/home")
        client.close()

    def total(self) -> int:
        page = self.call("GET", "users?limit=1", headers=PAGED)
        return int(page["_pagination"]["total"])

    def call(self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> dict[str, object]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            connection.request(method, f"/hub/api/{path}", json.dumps(body) if body is not None else None,
                               {"Authorization": f"token {self.token}"} | (headers or {}))
            answer = connection.getresponse()
            said = answer.read()
            if answer.status >= 300:
                raise RuntimeError(f"{self.name}: {method} {path} answers {answer.status}: {said[:300]!r}")
            return dict(json.loads(said)) if said[:1] == b"{" else {"items": json.loads(said)}
        finally:
            connection.close()

    def note(self, what: str, value: float) -> None:
        self.figures.setdefault(what, []).append(value)
        print(f"  {self.name:<12} {what:<10} {value:10.3f}", file=sys.stderr, flush=True)

    # -- the six rows --------------------------------------------------------------------------------------------------
    def rate(self, what: str, path: str, seconds: int, connections: int, headers: dict[str, str]) -> None:
        Wrk(f"{self.url}{path}", 1, connections=connections, headers=headers).result()
        load: Load = Wrk(f"{self.url}{path}", seconds, connections=connections, headers=headers).result()
        if load.failed:
            raise RuntimeError(f"{self.name}: {load.failed} of {load.requests} requests for {path} failed")
        self.note(what, load.per_second)

    def page(self, seconds: int) -> None:
        self.rate("page", f"/hub/api/users?limit={PAGE}", seconds, 1, {"Authorization": f"token {self.token}", **PAGED})

    def user(self, seconds: int) -> None:
        self.rate("user", "/hub/api/users/user-02345", seconds, 8, {"Authorization": f"token {self.token}"})

    def whoami(self, seconds: int) -> None:
        self.rate("whoami", "/hub/api/user", seconds, 8, {"Authorization": f"token {self.user_token}"})

    def home(self, seconds: int) -> None:
        self.rate("home", "/hub/home", seconds, 8, {"Cookie": self.cookie})

    def all_users(self, seconds: int) -> None:
        """Walk through all pages over one kept connection, as a client's library does. A user is added before, so that
        nothing of the walk is remembered by then."""
        self.walks += 1
        self.call("POST", f"users/walked-{self.walks:04}-{self.token[:6]}")
        connection, names, path = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60), [], ""
        began = time.perf_counter()
        following: str | None = f"/hub/api/users?limit={PAGE}"
        while following:
            path = following.partition("/hub/")[2]
            connection.request("GET", f"/hub/{path}", headers={"Authorization": f"token {self.token}", **PAGED})
            page = json.loads(connection.getresponse().read())
            names += [user["name"] for user in page["items"]]
            following = page["_pagination"]["next"] and page["_pagination"]["next"]["url"]
        self.note("all", time.perf_counter() - began)
        connection.close()
        if len(set(names)) < self.users:
            raise RuntimeError(f"{self.name}: {len(set(names))} users in all pages")

    def add(self, seconds: int) -> None:
        """Add 1,000 names in one call, while somebody else asks something small again and again."""
        waits: list[float] = []
        done = threading.Event()

        def ask() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
            while not done.is_set():
                began = time.perf_counter()
                connection.request("GET", "/hub/api/user", headers={"Authorization": f"token {self.user_token}"})
                connection.getresponse().read()
                waits.append(time.perf_counter() - began)
                time.sleep(0.005)
            connection.close()

        other = threading.Thread(target=ask)
        other.start()
        time.sleep(0.3)
        names = [f"new-{self.added:02}-{number:04}" for number in range(1000)]
        self.added += 1
        began = time.perf_counter()
        made = self.call("POST", "users", {"usernames": names})
        self.note("add", time.perf_counter() - began)
        done.set()
        other.join()
        self.note("wait", max(waits))
        if len(made["items"]) != 1000:      # type: ignore[arg-type]  # a list, as every answer to this operation
            raise RuntimeError(f"{self.name} made {len(made['items'])} users")  # type: ignore[arg-type]  # the same


def install() -> Path:
    """Return the folder with JupyterHub in it. Idempotent."""
    folder = FOLDER / f"jupyterhub-{VERSION}"
    done = folder / "installed"
    if not done.exists():
        print(f"installing jupyterhub {VERSION} …", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder / "venv"], check=True)
        subprocess.run([folder / "venv/bin/pip", "install", "--quiet", f"jupyterhub=={VERSION}"], check=True, stdout=sys.stderr)
        done.touch()
    return folder


ROWS: dict[str, tuple[Callable[[Side, int], None], str, bool, str]] = {
    # what is measured, what it is called, whether less is better, and what was asked for
    "page": (Side.page, f"GET /hub/api/users, a page of {PAGE}, c=1", False, "≥ 10, aim 20"),
    "all": (Side.all_users, f"all users, page by page of {PAGE}", True, "≥ 10, aim 20"),
    "user": (Side.user, "GET /hub/api/users/NAME, c=8", False, "≥ 5"),
    "whoami": (Side.whoami, "GET /hub/api/user with a token, c=8", False, "≥ 3"),
    "home": (Side.home, "/hub/home rendered, c=8", False, "≥ 3"),
    "add": (Side.add, "POST /hub/api/users, 1,000 names in one call", True, "≥ 50"),
}


def report(ours: Side, theirs: Side, what: str) -> None:
    _, name, less, target = ROWS[what]
    mine, others = ours.figures[what], theirs.figures[what]
    unit = "s" if less else "/s"
    show(name, [other / own if less else own / other for own, other in zip(mine, others, strict=True)], "", digits=1,
         target=target)
    for side, values in ((ours, mine), (theirs, others)):
        show(f"  {side.name}", values, unit, digits=3 if less else 0)
    if what == "add":
        for side in (ours, theirs):
            show(f"  the longest that another had to wait, {side.name}", side.figures["wait"], "s", digits=3,
                 target="others served throughout" if side is ours else "")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=int, default=4, help="how long wrk asks each time (default: %(default)s)")
    parser.add_argument("--users", type=int, default=5000, help="how many there are (default: %(default)s)")
    parser.add_argument("--only", nargs="*", default=list(ROWS), choices=list(ROWS), help="these rows only")
    args = parser.parse_args()
    installed = install()
    with tempfile.TemporaryDirectory(prefix="appliance-bench-api-") as folder:
        # a copy of the program: it is the same one throughout, whatever is edited meanwhile
        shutil.copytree(REPOSITORY / "appliance", Path(folder) / "appliance")
        ours = Side("ours", Path(folder), OURS, [sys.executable, "-m", "appliance.cli"], users=args.users)
        theirs = Side(f"JupyterHub {VERSION}", installed, THEIRS, [installed / "venv/bin/jupyterhub"],
                      installed / f"seed-{args.users}.sqlite", users=args.users)
        with ours, theirs:
            for what in args.only:
                measure = ROWS[what][0]
                alternate(args.pairs, lambda measure=measure: measure(ours, args.seconds),      # type: ignore[misc]  # the loop's own
                          lambda measure=measure: measure(theirs, args.seconds))               # type: ignore[misc]  # the same
            print(f"Ours over JupyterHub {VERSION}, {args.users} users, SQLite, each at its own port, no proxy before either:")
            for what in args.only:
                report(ours, theirs, what)


if __name__ == "__main__":
    main()
