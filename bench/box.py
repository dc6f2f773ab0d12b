#!/usr/bin/env python3
"""A fresh box, from nothing to a passed smoke test, and what an admin does to it while a student works.

A container with systemd stands for the server, so packages come from the network and the engine is a nested one. Measured:
`./bootstrap box` with its parts, role by role; the same once more; a changed configuration, an upgrade with a migration, its
rollback and a new Traefik, each with the seconds in which no Hub answered and with what a student's page and kernel
noticed; a reboot until the Hub and until that student's server are back. Takes about ten minutes.
"""
from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from common import arguments, show, wait_for

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "boxes")]
from at_work import AtWork  # noqa: E402 (here and below: of the tests, whose folders are named just before)
from fresh_box import CLONE, SUITES, FreshBox  # noqa: E402
from played import VARIABLES  # noqa: E402
from test_a_box import OWN_PASSWORD, health, newer, student_of  # noqa: E402

SECOND_RUN_S = 30
TASK = re.compile(r"TASK \[(?:(?P<role>[a-z]+) : )?(?P<task>.+?)\] \*")
Figures = dict[str, float]


def play(box: FreshBox, figures: Figures, prefix: str) -> str:
    """Run ./bootstrap box; note how long it took, each role and what came before the first task. Returns its output."""
    box.write("/root/box.json", json.dumps(VARIABLES), "0600")
    began = since = time.monotonic()
    role, said, slow = "bootstrap", [], {}
    with subprocess.Popen(
            # else Ansible names a task when it has ended
            ["docker", "exec", "--env", "ANSIBLE_DISPLAY_SKIPPED_HOSTS=1",
             box.name, "bash", "-c", f"cd {CLONE} && exec ./bootstrap box -- -e @/root/box.json"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        task = ""
        for text in process.stdout or ():
            said.append(text)
            if match := TASK.match(text):
                now = time.monotonic()
                figures[f"{prefix}, {role}"] = figures.get(f"{prefix}, {role}", 0.0) + now - since
                slow[f"{role}: {task}"] = slow.get(f"{role}: {task}", 0.0) + now - since
                role, task, since = match["role"] or role, match["task"], now
    now = time.monotonic()
    figures[f"{prefix}, {role}"] = figures.get(f"{prefix}, {role}", 0.0) + now - since
    figures[prefix] = now - began
    output = "".join(said)
    if process.returncode:
        sys.exit(f"{output[-6000:]}\nThe playbook failed.")
    print(f"{prefix}: {now - began:.0f} s; the slowest:")
    for name, seconds in sorted(slow.items(), key=lambda item: -item[1])[:12]:
        print(f"    {seconds:6.1f} s  {name}")
    return output


def do(box: FreshBox, figures: Figures, name: str, command: str) -> dict[str, object]:
    """Run a command that answers with JSON, and note its seconds and those without a Hub."""
    began = time.monotonic()
    said = box.run(f"{command} --json 2>/dev/null", timeout_s=1200)
    figures[name] = time.monotonic() - began
    outcome: dict[str, object] = json.loads(said[said.index("{"):])
    if "hub_gap_s" in outcome:
        figures[f"{name}, no Hub"] = float(str(outcome["hub_gap_s"]))
        print(f"{name}: {outcome}")
    return outcome


def noticed(student: AtWork, figures: Figures, name: str, action: Callable[[], object]) -> None:
    """Do something while the student works, and note which of their requests failed and whether the websocket was closed."""
    asked, failed = student.asked, len(student.failed)
    action()
    time.sleep(0.5)
    closed = 0
    try:
        student.check(requests_may_fail=True)
    except AssertionError as error:
        print(error)
        closed = 1
    new = student.failed[failed:]
    print(f"{name}: {student.asked - asked} requests, {len(new)} failed {new[:5]}, {closed} websockets closed", flush=True)
    figures[f"{name}, failed requests"], figures[f"{name}, closed websockets"] = len(new), closed
    if new:
        figures[f"{name}, longest gap"] = new[-1][0] - new[0][0] + 0.05


def one_box(suite: str) -> Figures:
    figures: Figures = {}
    with FreshBox(suite) as box:
        box.clone()
        output = play(box, figures, "first run")
        for part, seconds in re.findall(r"- [\"']?([\w -]+?) +(\d+\.\d+) s", output.partition("Show the parts")[2]):
            figures[f"first run, smoke test: {part}"] = float(seconds)
        again = play(box, figures, "second run")
        figures["second run, changes"] = float(re.search(r"changed=(\d+)", again)[1])  # type: ignore[index]
        with student_of(box, "alice", "correct horse alice staple") as first:
            first.sign_in()
            first.post("/hub/change-password", old=first.password, new=OWN_PASSWORD, again=OWN_PASSWORD)
        with AtWork(student_of(box, "alice")) as alice:
            box.write("/etc/appliance/config.d/50-bench.py", "c = get_config()\nc.JupyterHub.cookie_max_age_days = 13\n")
            noticed(alice, figures, "configuration", lambda: do(box, figures, "configuration", "appliance switch"))
            staged = do(box, figures, "staging a release", f"appliance stage {newer(box, 'newer', '')}")["id"]
            noticed(alice, figures, "upgrade", lambda: do(box, figures, "upgrade", f"appliance switch {staged}"))
            noticed(alice, figures, "rollback", lambda: do(box, figures, "rollback", "appliance rollback --yes"))
            folder = newer(box, "traefik", "")
            box.run(f"echo 'LABEL of.another=release' >> {folder}/images/traefik/Dockerfile")
            staged = do(box, figures, "staging a new Traefik", f"appliance stage {folder}")["id"]
            noticed(alice, figures, "new Traefik", lambda: do(box, figures, "new Traefik", f"appliance switch {staged}"))
        figures["reboot"] = box.reboot()
        began = time.monotonic()
        wait_for("the Hub", lambda: "200" in health(box), timeout_s=120)
        figures["reboot, then the Hub"] = time.monotonic() - began
        with student_of(box, "alice") as student:
            student.sign_in()
            student.wait_ready(120)
        figures["reboot, then the student's server"] = time.monotonic() - began
    return figures


def main() -> None:
    parser = arguments(__doc__, pairs=None)
    parser.add_argument("--suite", choices=SUITES, default="trixie", help="which distribution (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=1, help="so many boxes, one after the other (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every run's figures there")
    args = parser.parse_args()
    runs = []
    for number in range(args.runs):
        print(f"\n--- {SUITES[args.suite]}, box {number + 1} of {args.runs}", flush=True)
        runs.append(one_box(args.suite))
        if args.json:
            args.json.write_text(json.dumps(runs, indent=2) + "\n")
    print()
    for name in runs[0]:
        values = [run[name] for run in runs if name in run]
        target = {"second run": f"≤ {SECOND_RUN_S} s", "second run, changes": "0"}.get(
            name, "0" if "Traefik" not in name and re.search("failed requests|closed websockets", name) else "")
        unit = "" if re.search("requests|websockets|changes", name) else "s"
        show(f"{SUITES[args.suite]}: {name}", values, unit, digits=1 if unit else 0, target=target)


if __name__ == "__main__":
    main()
