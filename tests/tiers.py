"""Runs several tiers at once, each in a pytest of its own: those that mostly wait beside those that compute.

    python tests/tiers.py unit engine browser -- OPTIONS OF pytest

The reports come out whole, one after the other, in the order below; a summary follows, and the status is the worst of
them. Ctrl-C lets every pytest clean up and ends what is left after a minute. Only the standard library, so that it
starts before anything is imported.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TextIO

REPOSITORY = Path(__file__).resolve().parent.parent
NOTHING_COLLECTED = 5           # pytest's statuses
INTERRUPTED = 2
CLEANING_S = 60.0
LANE_BYTES = 3 << 30            # what a lane may need: a box with an engine of its own, or Chromium and JupyterLab
BOXES = sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "tests/boxes").glob("test_*.py"))
FIRST_BOX = "tests/boxes/test_a_box.py"
WORKERS = str(min(4, os.cpu_count() or 1))


@dataclass(frozen=True)
class Job:
    """One pytest. lane: jobs of the same lane run one after the other. options: before those of the command line."""

    tier: str
    lane: int
    options: tuple[str, ...] = ()
    part: str = ""

    @property
    def name(self) -> str:
        return f"{self.tier} ({self.part})" if self.part else self.tier


# In the order of the reports. A file of boxes is one story, told in order, so parts are files. The lanes take about the same
# time: what computes (unit, Chromium) beside what waits for containers and for machines to boot.
JOBS = (
    Job("unit", 0, ("-n", WORKERS, "--dist", "loadfile")),
    Job("engine", 1),
    Job("browser", 0),
    Job("clients", 0),
    Job("box", 2, tuple(f"--ignore={path}" for path in BOXES if path != FIRST_BOX), part="the first"),
    Job("box", 2, (f"--ignore={FIRST_BOX}",), part="the others"),
    Job("long", 2),
)


@dataclass
class Run:
    job: Job
    log: Path
    process: subprocess.Popen[bytes] | None = None
    began_at: float = 0.0
    took_s: float = 0.0
    status: int | None = None

    @property
    def last_line(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return next((line.strip("= ") for line in reversed(lines) if line.strip()), "nothing was said")


@dataclass
class Tiers:
    """command: what comes before a job's own options. out: where reports go."""

    jobs: Sequence[Job]
    command: Sequence[str]
    options: Sequence[str] = ()
    at_once: int = 3
    out: TextIO = field(default_factory=lambda: sys.stdout)
    interrupted: bool = False

    def run(self) -> int:
        """Run all of them and return the worst status."""
        with tempfile.TemporaryDirectory(prefix="appliance-tiers-") as folder:
            runs = [Run(job, Path(folder) / f"{number}.log") for number, job in enumerate(self.jobs)]
            before = {each: signal.signal(each, self._interrupt) for each in (signal.SIGINT, signal.SIGTERM)}
            try:
                self._follow(runs)
            finally:
                for each, handler in before.items():
                    signal.signal(each, handler)
                _end([run for run in runs if run.process and run.status is None])
            return self._sum_up(runs)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True

    def _follow(self, runs: list[Run]) -> None:
        """Start what may run, and show each report in its turn as far as it has come."""
        for shown in runs:
            position = 0
            self._say(f"\n######## {shown.job.name}")
            while True:
                if self.interrupted:
                    self._say("\nInterrupted: the tests are given a minute to clear up.")
                    _end([run for run in runs if run.process and run.status is None])
                _poll(runs)
                if not self.interrupted:
                    self._start(runs)
                ended = shown.status is not None or self.interrupted     # before the log's last bytes are read
                position = self._show(shown.log, position)
                if ended:
                    break
                time.sleep(0.2)

    def _start(self, runs: list[Run]) -> None:
        for run in runs:
            busy = [other.job.lane for other in runs if other.process and other.status is None]
            if run.process is None and run.job.lane not in busy and len(busy) < self.at_once:
                cache = f"cache_dir=.pytest_cache/{run.job.tier}{run.job.lane}"
                _launch(run, [*self.command, "-m", run.job.tier, "-o", cache, *run.job.options, *self.options])

    def _show(self, log: Path, position: int) -> int:
        if not log.exists():
            return position
        with open(log, "rb") as file:
            file.seek(position)
            said = file.read()
        self.out.write(said.decode(errors="replace"))
        self.out.flush()
        return position + len(said)

    def _sum_up(self, runs: list[Run]) -> int:
        self._say("\n######## Summary")
        for run in runs:
            what = run.last_line if run.process else "was not started"
            self._say(f"{run.job.name:20} {run.took_s / 60:5.1f} min  {what}")
        if self.interrupted:
            return INTERRUPTED
        statuses = [run.status or 0 for run in runs]
        # with options that choose tests, a part may have none of them
        chosen = [status for status in statuses if status != NOTHING_COLLECTED]
        return max((abs(status) for status in chosen), default=NOTHING_COLLECTED)

    def _say(self, line: str) -> None:
        print(line, file=self.out, flush=True)


def _launch(run: Run, words: Sequence[str]) -> None:
    with open(run.log, "wb") as log:
        # a group of its own: a Ctrl-C in the terminal comes once, through this process
        run.process = subprocess.Popen(words, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                       start_new_session=True)
    run.began_at = time.monotonic()


def _poll(runs: list[Run]) -> None:
    for run in runs:
        if run.process and run.status is None and (status := run.process.poll()) is not None:
            run.status, run.took_s = status, time.monotonic() - run.began_at


def _end(runs: list[Run]) -> None:
    """Interrupt them as Ctrl-C does, wait until they have cleared up, and end by force what has not."""
    for run in runs:
        _signal(run, signal.SIGINT)
    deadline = time.monotonic() + CLEANING_S
    while time.monotonic() < deadline and any(run.status is None for run in runs):
        time.sleep(0.1)
        _poll(runs)
    for run in runs:
        _signal(run, signal.SIGKILL)
    for run in runs:
        assert run.process
        run.process.wait()
    _poll(runs)


def _signal(run: Run, number: int) -> None:
    assert run.process
    with contextlib.suppress(ProcessLookupError):
        os.killpg(run.process.pid, number)


def lanes_for(memory_bytes: int) -> int:
    return max(1, min(len({job.lane for job in JOBS}), memory_bytes // LANE_BYTES))


def main(words: Sequence[str]) -> int:
    split = list(words).index("--") if "--" in words else len(words)
    tiers, options = words[:split], words[split + 1:]
    jobs = [job for job in JOBS if job.tier in tiers]
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    colour = ("--color=yes",) if sys.stdout.isatty() else ()
    return Tiers(jobs, [sys.executable, "-m", "pytest", *colour], options, lanes_for(memory_bytes)).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
