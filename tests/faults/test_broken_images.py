"""Images and commands that cannot work: a sentence, no container left, and a second try once it is mended."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from box import Box, wait_for

from appliance.domain.server import Phase

pytestmark = pytest.mark.engine

ANSWERS_500 = """
import http.server
class Broken(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(500)
http.server.ThreadingHTTPServer(("", 8888), Broken).serve_forever()
"""
BROKEN = {
    "image-missing": "c.DockerSpawner.image = 'appliance/no-such-image:latest'",
    "image-broken": "c.DockerSpawner.cmd = ['/no/such/program']",
    "app-exited": "c.DockerSpawner.cmd = ['sh', '-c', 'echo the disk of my app is missing; exit 3']",
    "app-never-listened": "c.DockerSpawner.cmd = ['sleep', '600']",
    "app-answers-errors": ("c.DockerSpawner.image = 'appliance/base:latest'\n"
                           f"c.DockerSpawner.cmd = ['python3', '-c', {ANSWERS_500!r}]"),
    "out-of-memory": ("c.DockerSpawner.mem_limit = '32M'\n"
                      "c.DockerSpawner.cmd = ['python3', '-c', 'x = [bytearray(1 << 20) for _ in range(200)]']"),
}


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    with Box() as box:
        yield box


@contextlib.contextmanager
def changed(box: Box, more: str) -> Iterator[None]:
    """Run the box with more lines of configuration for a while."""
    working = box.config_file.read_text()

    def restart(config: str) -> None:
        box.terminate()
        box.config_file.write_text(config)
        box.start()

    restart(f"{working}\n{more}")
    try:
        yield
    finally:
        restart(working)


@pytest.mark.parametrize("code", BROKEN)
def test_a_broken_image_is_explained_and_a_mended_one_starts(box: Box, code: str) -> None:
    name = f"u-{code}"
    with box.student(name) as student:
        with changed(box, f"c.Spawner.http_timeout = 3\n{BROKEN[code]}\n"):
            student.start()
            page = student.wait_failed()
        failure = box.wait_phase(name, Phase.FAILED).failure
        assert failure is not None
        assert failure.code == code
        assert failure.sentence in page
        wait_for("the container's end", lambda: not box.containers(name))
        if code == "app-exited":
            assert "the disk of my app is missing" in failure.evidence
            assert "the disk of my app" not in page       # evidence is for admins
        student.to_server()
        student.stop()
        box.wait_phase(name, Phase.STOPPED)
