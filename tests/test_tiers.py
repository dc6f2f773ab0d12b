"""What runs the tiers beside each other: whole reports in order, the worst status, nothing lost, nothing left."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiers
from tiers import JOBS, Job, Tiers

pytestmark = pytest.mark.unit

# Stands in for pytest: says what it was called with, sleeps and ends as its tier's name wishes.
STAND_IN = """
import sys, time
words = sys.argv[1:]
tier = words[words.index("-m") + 1]
pause_s, status = {"slow": (0.5, 0), "quick": (0, 0), "bad": (0, 1), "empty": (0, 5), "broken": (0, 3)}[tier]
print(tier, "begins", *words, flush=True)
time.sleep(pause_s)
print(f"==== {tier} ended ====", flush=True)
sys.exit(status)
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> list[str]:
    file = tmp_path / "stand_in.py"
    file.write_text(STAND_IN)
    return [sys.executable, str(file)]


def run(stand_in: list[str], *jobs: Job, options: tuple[str, ...] = (), at_once: int = 3) -> tuple[int, str]:
    out = io.StringIO()
    status = Tiers(jobs, stand_in, options, at_once, out).run()
    return status, out.getvalue()


def test_reports_come_whole_and_in_order_whoever_ends_first(stand_in: list[str]) -> None:
    status, said = run(stand_in, Job("slow", 0), Job("quick", 1))
    assert status == 0
    assert re.findall(r"^(?:# *)+(\w+)|^(\w+) begins|==== (\w+) ended", said, re.MULTILINE) == [
        ("slow", "", ""), ("", "slow", ""), ("", "", "slow"), ("quick", "", ""), ("", "quick", ""), ("", "", "quick"),
        ("Summary", "", "")]
    assert re.search(r"slow +0\.0 min  slow ended\nquick +0\.0 min  quick ended\n$", said)


def test_the_worst_status_is_told_and_the_others_run_to_their_end(stand_in: list[str]) -> None:
    status, said = run(stand_in, Job("bad", 0), Job("quick", 0), Job("broken", 1), Job("slow", 1))
    assert status == 3
    assert all(f"==== {tier} ended" in said for tier in ("bad", "quick", "broken", "slow"))


def test_a_tier_without_a_chosen_test_is_no_failure_unless_all_are(stand_in: list[str]) -> None:
    assert run(stand_in, Job("empty", 0), Job("quick", 1))[0] == 0
    assert run(stand_in, Job("empty", 0), Job("bad", 1))[0] == 1
    assert run(stand_in, Job("empty", 0), Job("empty", 1))[0] == 5


def test_options_reach_every_pytest_after_its_own(stand_in: list[str]) -> None:
    _, said = run(stand_in, Job("slow", 0, ("-n", "2")), Job("quick", 0), options=("-k", "a name"))
    assert re.search(r"slow begins -m slow .*-n 2 -k a name", said)
    assert re.search(r"quick begins -m quick .*-k a name", said)


@pytest.mark.parametrize(("at_once", "lanes"), [(1, (0, 1)), (3, (0, 0))])
def test_a_lane_and_a_small_machine_hold_them_apart(stand_in: list[str], at_once: int, lanes: tuple[int, int]) -> None:
    began = time.monotonic()
    run(stand_in, *(Job("slow", lane) for lane in lanes), at_once=at_once)
    assert time.monotonic() - began > 1.0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_all_and_loses_no_word_of_them(tmp_path: Path, number: int) -> None:
    """Real pytests, one of which hangs in a program it started; its fixture still clears up."""
    test = tmp_path / "test_hangs.py"
    test.write_text(f"""
import pathlib, subprocess, pytest
@pytest.fixture
def thing():
    yield
    pathlib.Path({str(tmp_path / "cleared")!r}).touch()
def test_hangs(thing):
    pathlib.Path({str(tmp_path / "begun")!r}).touch()
    subprocess.run(["sleep", "4321"])
""")
    program = (f"import sys; sys.path.insert(0, {str(Path(tiers.__file__).parent)!r}); import tiers; "
               f"jobs = [tiers.Job('', 0, ({str(test)!r},)), tiers.Job('', 0)]; "
               "sys.exit(tiers.Tiers(jobs, [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider']).run())")
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "begun").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "KeyboardInterrupt" in said
    assert "was not started" in said
    assert (tmp_path / "cleared").exists()
    assert "sleep\x004321" not in all_commands()


def all_commands() -> str:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                found.append((folder / "cmdline").read_text(errors="replace"))
            except OSError:
                continue
    return "\n".join(found)


def test_every_tier_that_pytest_knows_is_run(pytestconfig: pytest.Config) -> None:
    markers = {line.partition(":")[0] for line in pytestconfig.getini("markers")}
    own = {"unit", "engine", "browser", "clients", "box", "long"}
    assert own <= markers
    assert {job.tier for job in JOBS} == own


def test_every_file_of_boxes_is_in_exactly_one_part() -> None:
    parts = [set(job.options) for job in JOBS if job.tier == "box"]
    for path in tiers.BOXES:
        assert sum(f"--ignore={path}" not in options for options in parts) == 1, path


def test_how_many_at_once_is_a_matter_of_memory() -> None:
    assert [tiers.lanes_for(gib << 30) for gib in (1, 4, 8, 24)] == [1, 1, 2, 3]
