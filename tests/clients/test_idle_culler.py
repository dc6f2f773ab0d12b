"""jupyterhub-idle-culler, unmodified, as a service that the Hub runs, with no more rights than it asks for.

Two of them on one box: a process that stops default servers, and, as the documentation has it, a container, here for the
named ones."""

from __future__ import annotations

import sys
import threading
import time

import httpx
import pytest
from box import REPOSITORY, Box, wait_for
from student import Student

from appliance.domain.server import Phase
from appliance.hub.watching import LOOK_EVERY_S

pytestmark = pytest.mark.clients

TIMEOUT_S = int(LOOK_EVERY_S) + 10       # who works is noticed that often
EXAMPLE = (REPOSITORY / "docs/examples/idle_culler_config.py").read_text()
CONFIG = """
c.DockerSpawner.image = "appliance/hello:latest"
c.Spawner.port = 8080
c.Spawner.default_url = "/"
c.Spawner.strip_prefix = True
c.Spawner.inject_token = False
c.JupyterHub.allow_named_servers = True
c.JupyterHub.services += [{{
    "name": "culler", "command": [{python!r}, "-m", "jupyterhub_idle_culler", "--timeout={timeout_s}", "--cull-every=2",
                                  "--api-page-size=2", "--cull-named-servers=false"],
}}]
c.JupyterHub.load_roles[0]["services"].append("culler")
"""


class AtWork:
    """Somebody who uses their server all the time."""

    def __init__(self, student: Student) -> None:
        self.student, self.answers = student, set[int]()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> AtWork:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ending.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._ending.wait(0.5):
            self.answers.add(self.student.get(self.student.prefix, follow=False).status_code)


def test_idle_servers_go_named_ones_for_good_and_who_works_is_left_alone(class_image: str) -> None:
    example = EXAMPLE.replace("c = get_config()  # noqa: F821\n", "").replace('"school/class:latest"', repr(class_image))
    in_container = example.replace('"--timeout=3600"', f'"--timeout={TIMEOUT_S}", "--cull-every=2", '
                                   '"--cull-default-servers=false", "--remove-named-servers=true"')
    with Box(in_container + CONFIG.format(python=sys.executable, timeout_s=TIMEOUT_S)) as box:
        box.add_user("admin", admin=True)
        with box.student("busy") as busy, httpx.Client(
                base_url=f"{box.url}/hub/api", headers={"Authorization": f"token {box.token('admin')}"},
                trust_env=False) as hub:
            check_culling(box, busy, hub)


def check_culling(box: Box, busy: Student, hub: httpx.Client) -> None:
    def ready() -> set[str]:
        found = hub.get("users", params={"state": "ready"}).raise_for_status().json()
        return {f"{user['name']}/{server}" for user in found for server in user["servers"]}

    idle = ["ada", "ben", "cleo", "dora"]
    busy.to_server()
    with AtWork(busy) as work:
        for name in idle:
            box.add_user(name)
            assert hub.post(f"users/{name}/server").status_code in (201, 202)
        assert hub.post("users/ada/servers/second").status_code in (201, 202)
        for name in idle:
            box.wait_phase(name, Phase.READY)
        began = time.monotonic()
        wait_for("the named server", lambda: ready() == {*(f"{name}/" for name in idle), "ada/second", "busy/"})
        # the busy one was started first, so nothing but its use keeps it
        wait_for("the idle servers' end", lambda: ready() == {"busy/"}, TIMEOUT_S + 60)
        assert time.monotonic() - began > TIMEOUT_S / 2, "they were not idle yet"
        wait_for("their containers' end", lambda: len(box.containers()) == 1)
        time.sleep(5)
        assert ready() == {"busy/"}
        assert work.answers == {200}
    # the named one is gone, the others are only stopped
    servers = hub.get("users/ada", params={"include_stopped_servers": "1"}).raise_for_status().json()["servers"]
    assert list(servers) == [""]
    log = box.log()
    assert "idle-culler: " in log
    assert "Culling server ada/second (inactive for" in log
    assert "Culling server ada (inactive for" in log
    assert "Fetching page 2" in log
