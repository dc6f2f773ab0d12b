"""Every example of the documentation runs: drivers pass the contracts, configurations are taken by the program."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import AsyncIterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from traitlets.config import Config

from appliance import LoginRequest, config, plugins
from appliance.config import Settings
from appliance.errors import HomesUnavailable, LoginRefused
from appliance.testing import HomesContract, SpawnerContract

pytestmark = pytest.mark.unit

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
CONFIGURATIONS = sorted(EXAMPLES.glob("*_config.py"))
REQUEST = LoginRequest(address="192.0.2.1")


@pytest.fixture(autouse=True)
def examples_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(("status", "answer", "ended", "said"), [
    (403, {"status": 403, "message": "That API token is not valid."}, 1, "403: That API token is not valid."),
    (200, {"items": [{"name": "ada", "servers": {"": {}}, "last_activity": None}], "_pagination": {"next": None}}, 0,
     "ada: the default one")])
def test_who_works_says_what_it_was_told_and_no_more(status: int, answer: dict[str, Any], ended: int, said: str) -> None:
    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *words: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / "who_works.py")], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=60, check=False, env=os.environ | {
                "JUPYTERHUB_API_URL": f"http://127.0.0.1:{server.server_port}", "JUPYTERHUB_API_TOKEN": "x", "no_proxy": "*"})
    assert (done.returncode, done.stdout.strip()) == (ended, said)


def settings_of(name: str, **changes: str) -> Settings:
    return config.load_settings(
        ["-f", str(EXAMPLES / name), *(f"--{option.replace('_', '.', 1)}={value}" for option, value in changes.items())])


# -------------------------------------------------------------------------------------------------- configurations --
@pytest.fixture
def readable_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that https_config.py names are not on this machine."""
    monkeypatch.setattr("appliance.config.readable", lambda path: "")


@pytest.mark.usefixtures("readable_certificate")
@pytest.mark.parametrize("file", CONFIGURATIONS, ids=lambda file: file.name)
def test_every_configuration_is_taken_without_a_complaint(file: Path) -> None:
    settings = config.load_settings(["-f", str(file)])
    assert settings.notices == ()
    for driver in (settings.authenticator_class, settings.spawner_class, settings.homes_class):
        settings.make(driver)


def test_every_example_is_shown_on_a_page() -> None:
    pages = "".join(page.read_text() for page in EXAMPLES.parent.glob("*.rst"))
    for file in EXAMPLES.iterdir():
        if file.is_file():
            assert f"examples/{file.name}" in pages


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.name)
def test_drivers_use_what_is_public(file: Path) -> None:
    public = {"appliance", "appliance.errors", "appliance.homes.directory"}
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("appliance"):
            assert node.module in public


# -------------------------------------------------------------------------------------------------- Authenticators --
@pytest.fixture
def class_list(tmp_path: Path) -> Any:
    import class_list as example

    file = tmp_path / "class.csv"
    file.write_text("name,role,password\n"
                    f"ada,student,{example.hash_password('difference engine')}\n"
                    f"grace,teacher,{example.hash_password('nanoseconds')}\n")
    settings = settings_of("class_list_config.py", ClassListAuthenticator_file=str(file))
    return settings.make(settings.authenticator_class)


def test_the_configuration_finds_the_class_beside_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", "import sys; from appliance import config; config.load_settings(sys.argv[1:])",
         "-f", str(EXAMPLES / "class_list_config.py")],
        capture_output=True, text=True, cwd="/", env={"PYTHONPATH": str(EXAMPLES.parents[1])}, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.anyio
async def test_the_class_list_lets_its_people_in(class_list: Any) -> None:
    ada = await class_list.get_authenticated_user(REQUEST, {"username": " Ada", "password": "difference engine"})
    grace = await class_list.get_authenticated_user(REQUEST, {"username": "grace", "password": "nanoseconds"})
    assert (ada.name, ada.admin) == ("ada", False)
    assert (grace.name, grace.admin) == ("grace", True)


@pytest.mark.anyio
@pytest.mark.parametrize("form", [
    {"username": "ada", "password": "nanoseconds"}, {"username": "nobody", "password": "nanoseconds"},
    {"username": "ada"}, {}])
async def test_the_class_list_refuses_everybody_else(class_list: Any, form: dict[str, str]) -> None:
    with pytest.raises(LoginRefused):
        await class_list.get_authenticated_user(REQUEST, form)


def school(answer: httpx.Response | Exception) -> Any:
    settings = settings_of("school_server_config.py")
    authenticator = settings.make(settings.authenticator_class)

    def handle(request: httpx.Request) -> httpx.Response:
        assert str(request.url) == "https://login.school.example/check"
        assert request.content == b"login=ada&password=secret"
        if isinstance(answer, Exception):
            raise answer
        return answer

    authenticator.transport = httpx.MockTransport(handle)
    return authenticator


@pytest.mark.anyio
async def test_the_school_s_server_says_who_it_is() -> None:
    for groups, admin in ((["teachers"], True), ([], False)):
        authenticator = school(httpx.Response(200, json={"login": "ada", "groups": groups}))
        identity = await authenticator.get_authenticated_user(REQUEST, {"username": "ada", "password": "secret"})
        assert (identity.name, identity.admin) == ("ada", admin)


@pytest.mark.anyio
@pytest.mark.parametrize("answer", [httpx.Response(401), httpx.Response(500), httpx.ConnectError("away")])
async def test_without_the_school_s_word_nobody_is_let_in(answer: httpx.Response | Exception) -> None:
    with pytest.raises(LoginRefused):
        await school(answer).get_authenticated_user(REQUEST, {"username": "ada", "password": "secret"})


@pytest.mark.anyio
async def test_the_hook_knows_the_weekend(class_list: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    namespace: dict[str, Any] = {"get_config": Config}
    exec((EXAMPLES / "hooks_config.py").read_text(), namespace)
    class_list.post_auth_hook = namespace["only_in_class"]

    class Calendar:
        weekday_now = 0

        @classmethod
        def now(cls) -> Any:
            return cls

        @classmethod
        def weekday(cls) -> int:
            return cls.weekday_now

    namespace["datetime"] = Calendar
    ada, grace = ({"username": "ada", "password": "difference engine"}, {"username": "grace", "password": "nanoseconds"})
    assert (await class_list.get_authenticated_user(REQUEST, ada)).name == "ada"
    Calendar.weekday_now = 6
    assert (await class_list.get_authenticated_user(REQUEST, grace)).name == "grace"
    with pytest.raises(LoginRefused):
        await class_list.get_authenticated_user(REQUEST, ada)


def test_the_plugin_s_entry_points_are_looked_for() -> None:
    project = tomllib.loads((EXAMPLES / "plugin_pyproject.toml").read_text())
    for kind in (plugins.AUTHENTICATOR, plugins.SPAWNER):
        (path,) = project["project"]["entry-points"][kind.group].values()
        assert issubclass(plugins.find(kind, path), kind.base)
        assert path.partition(":")[0] in project["tool"]["setuptools"]["py-modules"]


# -------------------------------------------------------------------------------------------------------- Spawner --
class TestSimpleSpawner(SpawnerContract):
    python = sys.executable

    @pytest.fixture
    async def spawner(self, state_dir: Path) -> AsyncIterator[Any]:
        settings = settings_of("simple_spawner_config.py")
        spawner = settings.make(settings.spawner_class, state_dir=state_dir)
        await spawner.prepare()
        yield spawner
        for server in await spawner.list():
            await spawner.stop(server.server_id)
        await spawner.close()

    async def kill(self, spawner: Any, server_id: str) -> None:
        os.killpg(int((spawner.state_dir / "simple" / server_id / "pid").read_text()), signal.SIGKILL)


# ---------------------------------------------------------------------------------------------------------- Homes --
class TestQuotaHomes(HomesContract):
    @pytest.fixture
    def homes(self, tmp_path: Path) -> Any:
        settings = settings_of("quota_homes_config.py")
        homes = settings.make(settings.homes_class, root=tmp_path, require_mount=False)
        homes.quota_command = ["sh", "-c", "echo {uid} >> {root}/quotas"]
        return homes

    async def test_each_home_has_its_quota(self, homes: Any, tmp_path: Path) -> None:
        await homes.ensure(self.uid, "alice")
        assert (tmp_path / "quotas").read_text() == f"{self.uid}\n"

    async def test_no_quota_no_server(self, homes: Any) -> None:
        homes.quota_command = ["sh", "-c", "echo not on this disk >&2; exit 1"]
        with pytest.raises(HomesUnavailable) as caught:
            await homes.ensure(self.uid, "alice")
        assert caught.value.evidence == "not on this disk\n"
