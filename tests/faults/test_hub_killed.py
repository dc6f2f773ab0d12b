"""kill -9 of the Hub at every step of a start and of a stop, and while people work. Everything is real."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from box import Box, wait_for

from appliance.domain.server import Phase

pytestmark = pytest.mark.engine

START = ("queued", "starting", "home", "created", "booting", "route", "route-live", "ready")
STOP = ("stopping", "route-removed", "container-removed", "stopped")


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    with Box() as box:
        yield box


@pytest.fixture
def running(box: Box) -> Box:
    if not box.running:
        box.start()
    return box


@pytest.mark.parametrize("step", START)
def test_a_start_goes_on_where_the_hub_was_killed(running: Box, step: str) -> None:
    box, name = running, f"start-{step}"
    with box.student(name) as student:
        box.kill()
        if step == "queued":      # the row is written, nobody has read it yet
            box.start()
            student.start()
            box.kill()
        else:
            box.start(kill_at=step)
            student.start()
            assert box.wait_ended() == -signal.SIGKILL
        box.start()
        box.wait_phase(name, Phase.READY)
        student.wait_ready()
        assert student.run_cell("print(6 * 7)") == "42\n"
        assert len(box.containers(name)) == 1
        student.write("work.txt", "mine")
        student.stop()
        box.wait_phase(name, Phase.STOPPED)
    assert not box.containers(name)
    assert (box.home(name) / "work.txt").read_text() == "mine"


@pytest.mark.parametrize("step", STOP)
def test_a_stop_goes_on_where_the_hub_was_killed(running: Box, step: str) -> None:
    box, name = running, f"stop-{step}"
    with box.student(name) as student:
        student.to_server()
        student.write("work.txt", "mine")
        box.kill()
        box.start(kill_at=step)
        student.stop()
        assert box.wait_ended() == -signal.SIGKILL
        box.start()
        box.wait_phase(name, Phase.STOPPED)
        wait_for("the container's end", lambda: not box.containers(name))
        assert list(box.routes_folder.glob(f"*{box.server(name).id}*")) == []  # type: ignore[union-attr]
        student.to_server()       # a second try works, and nothing is lost
        assert student.read("work.txt") == "mine"
        student.stop()
        box.wait_phase(name, Phase.STOPPED)


def test_who_works_notices_nothing_of_a_killed_hub(running: Box) -> None:
    box = running
    with box.student("worker") as student:
        student.to_server()
        with student.kernel() as kernel:
            assert kernel.run("x = 41") == ""
            traefik, container = box.traefik_pid, box.container("worker").id
            box.kill()
            assert kernel.run("print(x + 1)") == "42\n"           # the same websocket
            assert student.api("GET", "status").status_code == 200
            box.start()
            assert kernel.run("print(x + 2)") == "43\n"
            box.wait_phase("worker", Phase.READY)
            assert student.api("GET", "status").status_code == 200
        assert (box.traefik_pid, box.container("worker").id) == (traefik, container)
        assert student.get("/hub/home").status_code == 200         # the session lives on too


@pytest.mark.parametrize("signals", [(signal.SIGTERM,), (signal.SIGINT,), (signal.SIGINT, signal.SIGINT)])
def test_ending_the_hub_interrupts_nobody_and_says_so(running: Box, signals: tuple[signal.Signals, ...]) -> None:
    import os

    box = running
    with box.student("worker") as student:
        student.to_server()
        with student.kernel() as kernel:
            kernel.run("x = 1")
            for number in signals:
                os.kill(box.hub_pid, number)
            assert box.wait_ended() == 0
            assert "Nobody was interrupted" in box.log()
            assert "appliance stop" in box.log()
            assert kernel.run("print(x)") == "1\n"


def test_a_second_hub_in_the_same_folder_says_where_the_first_is(running: Box) -> None:
    said = running.appliance()
    assert "already runs here" in said
    assert str(running.hub_pid) in said
    assert running.url in said
