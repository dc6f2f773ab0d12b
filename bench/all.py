#!/usr/bin/env python3
"""Run every bench, one after the other on a machine that does nothing else, and write a page with what came out.

    python bench/all.py --output figures.md

The page has one table of the figures that something was asked of, and each bench's whole output below it.
"""
from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import RESULTS, arguments, machine_facts

HERE = Path(__file__).resolve().parent
BENCHES = (
    "image_start.py", "data_path.py", "click_to_lab.py --incumbent", "twenty.py --incumbent", "browser.py",
    "hub_killed.py", "container_killed.py", "hub_memory.py --incumbent", "api.py",
)
# Of the benches that print lines of their own: what of it goes into the table, and what was asked for.
OWN_LINES = {
    "image_start.py": ("our image, bare, over a plain one",
                       r"ratio ours/plain\s+(?P<value>[\d.]+\s+\[.*\])\s+n=(?P<n>\d+)", "≤ 0.55"),
    "data_path.py": ("requests/s with the capability, over no check",
                     r"capability / open: (?P<value>[\d.]+ \[.*?\]), (?P<n>\d+) pairs", "≥ 0.90"),
}
LINE = re.compile(r"(?P<figure>.*?)\s{2,}(?P<value>\S.*), n = (?P<n>\d+)\s+\(wanted: (?P<target>.*)\)")


def run(command: str, results: Path) -> str:
    """Run one bench and show and return what it prints; one that fails stops nothing."""
    print(f"\n=== python bench/{command}", flush=True)
    began, said = time.monotonic(), []
    script, *words = command.split()
    environment = os.environ | {RESULTS: str(results), "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(HERE.parent)}
    with subprocess.Popen([sys.executable, HERE / script, *words], env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        for text in process.stdout or ():
            print(text, end="", flush=True)
            said.append(text)
    if process.returncode:
        said.append(f"It failed with status {process.returncode}.\n")
    print(f"    took {time.monotonic() - began:.0f} s", flush=True)
    return "".join(said)


def table(command: str, lines: list[str], output: str) -> list[str]:
    found = [(match["figure"], match, match["target"]) for match in map(LINE.match, lines) if match]
    if command in OWN_LINES:
        figure, pattern, target = OWN_LINES[command]
        found += [(figure, match, target) for match in re.finditer(pattern, output)]
    return [f"| {figure} | {' '.join(match['value'].split())} | {match['n']} | {target} | `python bench/{command}` |"
            for figure, match, target in found]


def main() -> None:
    parser = arguments(__doc__, pairs=None)
    parser.add_argument("--output", type=Path, help="the page to write (default: print it)")
    parser.add_argument("--box", type=int, default=0, metavar="RUNS",
                        help="also make so many whole boxes, ten minutes or more each: bench/box.py")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="run these only, like click_to_lab")
    args = parser.parse_args()
    facts = machine_facts()
    rows, outputs = [], []
    for command in (*BENCHES, *([f"box.py --runs {args.box}"] if args.box else [])):
        name = command.partition(".py")[0]
        if (args.only and name not in args.only) or not (HERE / f"{name}.py").exists():
            continue
        with tempfile.NamedTemporaryFile("r") as results:
            output = run(command, Path(results.name))
            rows += table(command, results.read().splitlines(), output)
        outputs.append(f"### `python bench/{command}`\n\n```\n{output.rstrip()}\n```\n")
    page = "\n".join((
        f"Measured on {facts['cores']} cores ({facts['processor']}), {facts['memory']} of memory, {facts['system']}, kernel "
        f"{facts['kernel']}, Docker Engine {facts['engine']}, cgroup {facts['cgroup']}.", "Median [range].", "",
        "| figure | measured | n | wanted | command |", "|---|---|---|---|---|", *rows, "", *outputs))
    if args.output:
        args.output.write_text(page)
        print(f"\nWrote {args.output}.")
    else:
        print(f"\n{page}")


if __name__ == "__main__":
    main()
