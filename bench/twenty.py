#!/usr/bin/env python3
"""Twenty students sign in during the same second; the last one in Lab, over the last of twenty bare containers.

The bare containers are configured exactly as the students' are and are started all at once by nothing but the engine.
A student who sees an error page counts as a failed first try; it is tried again until Lab is there.
"""
from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from common import Arrival, Bare, Client, HubUnderTest, alternate, arguments, show, show_ratio, to_lab
from incumbent import Incumbent
from ours import Ours

POLL_S = 0.05   # of twenty bare containers: more often would take processor time from what is measured
T = TypeVar("T")
S = TypeVar("S")


def all_at_once(work: Callable[[S, Callable[[], object]], T], items: Sequence[S]) -> list[T]:
    """Run `work(item, ready)` in a thread each; `ready` returns when all have called it."""
    barrier = threading.Barrier(len(items), timeout=60)
    with ThreadPoolExecutor(len(items)) as threads:
        return list(threads.map(lambda item: work(item, barrier.wait), items))


class Class:
    """The students of one Hub."""

    def __init__(self, hub: HubUnderTest, count: int) -> None:
        self.hub, self.students = hub, hub.students(count)
        self.arrivals: list[Arrival] = []
        self.last_s: list[float] = []
        self.bare_last_s: list[float] = []
        self.bares: list[Bare] = []

    def sign_in(self) -> None:
        def one(student: tuple[str, str], ready: Callable[[], object]) -> Arrival:
            return to_lab(Client(self.hub.url), *student, ready=ready)

        arrivals = all_at_once(one, self.students)
        if not self.bares:
            self.bares = [self.hub.bare_like(self.hub.container_of(name)) for name, _ in self.students]
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(self.hub.stop_server, [name for name, _ in self.students]))
        self.arrivals += arrivals
        self.last_s.append(max(arrival.lab_s for arrival in arrivals))

    def start_bare(self) -> None:
        self.bare_last_s.append(max(all_at_once(
            lambda bare, ready: bare.seconds_to_lab(ready=ready, poll_s=POLL_S), self.bares)))

    def warm_up(self) -> None:
        self.sign_in()
        self.arrivals.clear()
        self.last_s.clear()

    def report(self, target: str = "") -> None:
        count = len(self.students)
        show(f"the last of {count} in Lab, {self.hub.name}", self.last_s)
        show("  all of them", [arrival.lab_s for arrival in self.arrivals])
        show(f"the last of {count} bare {self.hub.image}", self.bare_last_s)
        show_ratio(f"ratio, {self.hub.name}", self.last_s, self.bare_last_s, target)
        failed = sum(1 for arrival in self.arrivals if arrival.failures)
        print(f"  in Lab: {len(self.arrivals)} of {count * len(self.last_s)}; failed first tries: {failed}")


def main() -> None:
    parser = arguments(__doc__, incumbent=True)
    parser.add_argument("--students", type=int, default=20)
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        hubs: list[HubUnderTest] = [stack.enter_context(Ours())]
        if args.incumbent:
            hubs.append(stack.enter_context(Incumbent()))
        classes = [Class(hub, args.students) for hub in hubs]
        for students in classes:
            students.warm_up()
        alternate(args.pairs, *(side for students in classes for side in (students.sign_in, students.start_bare)))
        for number, students in enumerate(classes):
            students.report("" if number else "≤ 1.15")


if __name__ == "__main__":
    main()
