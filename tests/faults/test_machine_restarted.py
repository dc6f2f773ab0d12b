"""The machine was restarted: students come back to a progress page, and through it to their notebook."""

from __future__ import annotations

import time

import pytest
from box import Box, wait_for

from appliance.domain.server import Phase

pytestmark = pytest.mark.engine


def restart_machine(box: Box, *ended: str) -> None:
    """What the next Hub finds after it: no marker, no Traefik, and these students' containers exited."""
    box.kill()
    for name in ended:
        box.container(name).kill()
    for file in (box.folder / "run").iterdir():
        file.unlink()


def test_who_ran_is_back_in_their_notebook_and_who_did_not_is_as_before() -> None:
    with Box() as box, box.student("alice") as alice, box.student("bob") as bob, box.student("carol") as carol:
        for student in (alice, bob, carol):
            student.start()
        for student in (alice, bob, carol):
            student.wait_ready()
        alice.write("work.txt", "mine")
        carol.stop()
        carol.wait_stopped()
        restart_machine(box, "alice")                   # bob's runs on, as with an engine that has live-restore
        began = time.monotonic()
        box.start()
        # alice reloads the tab she left open until it is her notebook again
        seen = []

        def reload() -> bool:
            page = alice.get("/user/alice/lab")
            seen.append((page.status_code, page.url.path))
            return seen[-1] == (200, "/user/alice/lab") and "spawn" not in page.text

        wait_for("the notebook", reload)
        print(f"back after {time.monotonic() - began:.1f} s: {list(dict.fromkeys(seen))}")
        assert any("spawn" in path for _, path in seen)
        alice.wait_ready()
        assert alice.read("work.txt") == "mine"
        assert alice.run_cell("print(6 * 7)") == "42\n"
        again, stayed, stopped = (box.wait_phase(name, *phases) for name, phases in (
            ("alice", [Phase.READY]), ("bob", [Phase.READY]), ("carol", [Phase.STOPPED])))
        assert (again.start_no, stayed.start_no, stopped.start_no) == (2, 1, 1)
        why = [(event.user_name, event.kind) for event in box.events()
               if event.data.get("why") == "restarted after the machine was"]
        assert why == [("alice", "server.queued")]
        assert bob.api("GET", "status").status_code == 200

        # killed without a restart: nothing is started that nobody asked for
        box.kill()
        box.container("alice").kill()
        box.start()
        assert box.wait_phase("alice", Phase.FAILED).failure.code == "app-gone"  # type: ignore[union-attr]
