"""Releases on a real engine: staged, switched, broken and taken back, while a student works."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_box import REPO, Real, real_box, tree
from student import Student

from appliance.box import compose, release, shell, switch
from appliance.box.release import Release
from appliance.box.shell import BoxError

sys.path.insert(0, str(Path(__file__).parents[1] / "boxes"))
from at_work import AtWork

pytestmark = pytest.mark.engine

PASSWORD = "releases-take-turns"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    with real_box(tmp_path_factory.mktemp("box"), 237) as box:
        yield box


def test_releases_take_turns_while_a_student_works(real: Real, tmp_path: Path) -> None:
    paths = real.paths
    first = release.stage(paths, tree(tmp_path / "one", "0.2.1"))
    assert Release.read(paths.release(first)) is not None
    assert release.stage(paths, tmp_path / "one") == first

    assert real.switch(first).old is None
    began = time.monotonic()
    assert not real.switch(first).changed
    assert time.monotonic() - began < 1

    real.hub("user", "add", "alice", "--password-stdin", stdin=PASSWORD + "\n")
    student = Student(f"http://127.0.0.1:{real.port}", "alice", PASSWORD)
    student.sign_in()
    student.post("/hub/change-password", old=PASSWORD, new=PASSWORD + "!", again=PASSWORD + "!")
    with AtWork(student) as work:
        second = release.stage(paths, release.pack(tree(tmp_path / "two", "0.2.2"), tmp_path)[0])
        assert second != first
        runs = Release.read(paths.release(first))
        assert runs is not None
        assert release.image_id("appliance/hub:latest") == runs.images["hub"]  # what is staged is not yet what runs
        work.check()
        outcome = real.switch(second)
        print(f"\nupgrade: {outcome}")
        assert (outcome.old, outcome.release, outcome.traefik_gap_s) == (first, second, 0.0)
        assert json.loads(student.get("/hub/health").text)["version"] == "0.2.2"
        work.check()

        # one that does not start
        broken = release.stage(paths, tree(tmp_path / "three", "0.2.3", broken=True))
        with pytest.raises(BoxError, match=f"{broken} could not be put in place, so {second} runs again") as failed:
            real.switch(broken)
        assert "broken on purpose" in failed.value.evidence
        assert json.loads(student.get("/hub/health").text)["version"] == "0.2.2"
        assert student.get("/hub/home").status_code == 200
        work.check()

        # a configuration that cannot be loaded goes no further than its trial
        extra = paths.config_d / "90-mine.py"
        extra.write_text("c.JupyterHub.port = 'eighty'\n")
        with pytest.raises(BoxError, match="port"):
            real.switch(second)
        extra.write_text("c.JupyterHub.default_url = '/hub/home'\n")
        assert real.switch(second).changed
        assert not real.switch(second).changed
        work.check()

        # back, with the account that came later
        real.hub("user", "add", "late", "--password-stdin", stdin=PASSWORD + "\n")
        back = real.switch(first)
        print(f"rollback: {back}")
        assert release.linked(paths.previous) == second
        assert "late" in real.hub("user", "list")
        assert student.get("/hub/home").status_code == 200
        assert json.loads(student.get("/hub/health").text)["version"] == "0.2.1"
        work.check()

        # killed in the middle: the next command puts it right
        process = subprocess.Popen(
            [sys.executable, "-c", "import sys; from pathlib import Path; from appliance.box import switch; "
             "from appliance.box.paths import Paths; switch.Switch(Paths(Path(sys.argv[1]))).to(sys.argv[2])",
             str(real.root), second], cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        note = paths.opt / "switch.json"
        while shell.read_json(note).get("step") not in ("stopping", "saved", "migrated", "started"):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait()
        with release.alone(paths):
            assert f"{first} runs again" in switch.Switch(paths).repair()
        assert not note.exists()
        found = compose.inspect(paths, "hub")
        assert found is not None
        assert found.running
        work.check()
        assert not work.failed
