#!/usr/bin/env python3
"""From the login POST to the first 200 of /user/NAME/lab, over a bare `docker create` and `start` of the same image.

The bare container is configured exactly as the Hub's own is (image, limits, user, mounts, network). Cold: no container
before the POST. One unmeasured start of each side comes first, so that all find their files in the page cache.
With --incumbent JupyterHub runs its image in the same run, over a bare JupyterLab of that image.
"""
from __future__ import annotations

import contextlib
from collections.abc import Callable
from statistics import median

from common import Arrival, Bare, Client, HubUnderTest, alternate, arguments, engine_phases, show, show_ratio, to_lab
from incumbent import Incumbent
from ours import Ours


class Clicks:
    """One student of one Hub who comes again and again, each time to a new container."""

    def __init__(self, hub: HubUnderTest) -> None:
        self.hub = hub
        (self.name, self.password), = hub.students(1)
        self.arrivals: list[Arrival] = []
        self.bare_s: list[float] = []
        self.bare: Bare | None = None

    def click(self) -> None:
        client = Client(self.hub.url)
        arrival = to_lab(client, self.name, self.password)
        container = self.hub.container_of(self.name)
        arrival.phases |= engine_phases(container, arrival.sent_at)
        self.bare = self.bare or self.hub.bare_like(container)
        self.hub.stop_server(self.name)
        client.close()
        self.arrivals.append(arrival)

    def start_bare(self) -> None:
        assert self.bare is not None
        self.bare_s.append(self.bare.seconds_to_lab())

    def warm_up(self) -> None:
        self.click()
        self.start_bare()
        self.arrivals.clear()
        self.bare_s.clear()

    def report(self, target: str = "") -> None:
        seconds = [arrival.lab_s for arrival in self.arrivals]
        show(f"login POST to Lab, {self.hub.name}", seconds)
        show(f"bare {self.hub.image}", self.bare_s)
        show_ratio(f"ratio, {self.hub.name}", seconds, self.bare_s, target)
        phases = {name for arrival in self.arrivals for name in arrival.phases}
        moments = {name: median([a.phases[name] for a in self.arrivals if name in a.phases]) for name in phases}
        print("  after " + ", ".join(f"{at:.2f} s {name}" for name, at in sorted(moments.items(), key=lambda item: item[1])))
        failures = sum(arrival.failures for arrival in self.arrivals)
        if failures:
            print(f"  {failures} failed tries")


def main() -> None:
    args = arguments(__doc__, incumbent=True).parse_args()
    with contextlib.ExitStack() as stack:
        hubs: list[HubUnderTest] = [stack.enter_context(Ours())]
        if args.incumbent:
            hubs.append(stack.enter_context(Incumbent()))
        all_clicks = [Clicks(hub) for hub in hubs]
        sides: list[Callable[[], None]] = []
        for clicks in all_clicks:
            clicks.warm_up()
            sides += [clicks.click, clicks.start_bare]
        alternate(args.pairs, *sides)
        for number, clicks in enumerate(all_clicks):
            clicks.report("" if number else "≤ 1.15")


if __name__ == "__main__":
    main()
