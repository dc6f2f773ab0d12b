"""The engine and the disk go away and come back."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from box import Box, wait_for

from appliance.domain.server import Phase

pytestmark = pytest.mark.engine


class EngineSocket:
    """A road to the real engine that can be closed: for the Hub the engine is down, for the others it is not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()

    def up(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def down(self) -> None:
        assert self._listener is not None
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.path.unlink()
        for end in list(self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect("/var/run/docker.sock")
            self._open |= {near, far}
            threading.Thread(target=self._both_ways, args=(near, far), daemon=True).start()

    def _both_ways(self, near: socket.socket, far: socket.socket) -> None:
        back = threading.Thread(target=self._pass_on, args=(far, near), daemon=True)
        with near, far:
            back.start()
            self._pass_on(near, far)
            back.join()
            self._open -= {near, far}

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def test_an_engine_that_is_down_at_start_and_goes_away_later(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    road = EngineSocket(tmp_path / "engine.sock")
    box = Box()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{road.path}")
    with box:                                              # the Hub starts without an engine
        monkeypatch.delenv("DOCKER_HOST")                  # for this test's own look at the engine
        with box.student("alice") as student:
            student.start()
            assert "container engine does not answer" in student.wait_failed()
            assert "container engine does not answer" in student.get("/hub/home").text
            road.up()
            wait_for("the Hub to see it", lambda: "container engine" not in student.get("/hub/home").text
                     or (student.state()[0] == "failed" and "can be started again" in box.log()))
            student.to_server()
            with student.kernel() as kernel:
                kernel.run("x = 1")
                road.down()
                wait_for("the Hub to see it", lambda: "container engine does not answer" in student.get("/hub/home").text)
                assert kernel.run("print(x)") == "1\n"     # who works notices nothing
                assert student.api("GET", "status").status_code == 200
                assert box.server("alice").phase is Phase.READY  # type: ignore[union-attr]
                with box.student("bob") as bob:
                    bob.start()
                    assert "container engine does not answer" in bob.wait_failed()
                    road.up()
                    wait_for("the Hub to see it", lambda: box.log().count("can be started again") == 2)
                    bob.to_server()
                assert kernel.run("print(x)") == "1\n"
            monkeypatch.setenv("DOCKER_HOST", "unix:///var/run/docker.sock")
            box.terminate()
    road.down()


@pytest.fixture
def small_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="appliance-small-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24M,mode=755", "appliance-test", folder], check=True)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
        folder.rmdir()


def test_a_full_disk_is_told_and_loses_nothing(small_disk: Path) -> None:
    with Box(errors_expected=True) as box, box.student("alice") as student, box.student("bob") as bob:
        student.to_server()
        student.write("work.txt", "mine")
        filler = small_disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(os.urandom(1 << 16))
        with contextlib.suppress(OSError), (small_disk / "filler2").open("wb", buffering=0) as file:
            while True:
                file.write(b"x")
        page = bob.start()
        assert page.status_code in (200, 500, 503, 507)
        assert "disk" in page.text.lower() or "database" in page.text.lower()
        assert student.api("GET", "status").status_code == 200      # who works goes on
        assert student.read("work.txt") == "mine"
        filler.unlink()
        (small_disk / "filler2").unlink()
        bob.to_server()
        assert student.read("work.txt") == "mine"
