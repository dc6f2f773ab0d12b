#!/usr/bin/env python3
"""What a student waits for, in a real Chromium: from Enter on the login form to a launcher that can be clicked.

Ours and JupyterHub in the same run, alternating; each round a student who has not been there before, in a browser with
an empty cache. Then the bytes that Lab's page costs on the wire, at the first visit and when it is loaded again.
"""
from __future__ import annotations

import time
from dataclasses import dataclass, field

from common import Client, HubUnderTest, alternate, arguments, show, show_ratio, to_lab
from incumbent import Incumbent
from ours import Ours
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

PATIENCE_MS = 120_000
# A card of the launcher is there and nothing lies over it (Lab's splash screen does until all is restored).
LAUNCHER_IS_USABLE = """() => {
    const card = document.querySelector('.jp-LauncherCard[data-category="Notebook"]');
    if (!card) return false;
    const box = card.getBoundingClientRect();
    return card.contains(document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2));
}"""


def sign_in(page: Page, url: str, name: str, password: str) -> float:
    """Sign in by the keyboard; return the moment of Enter."""
    page.goto(f"{url}/hub/login")
    page.fill('input[name="username"]', name)
    page.fill('input[name="password"]', password)
    entered = time.perf_counter()
    page.press('input[name="password"]', "Enter", no_wait_after=True)
    return entered


def wait_for_launcher(page: Page) -> None:
    page.wait_for_function(LAUNCHER_IS_USABLE, timeout=PATIENCE_MS, polling="raf")


class Wire:
    """Counts the bytes that a page's responses take on the wire, headers included; what the cache gives counts nothing."""

    def __init__(self, context: BrowserContext, page: Page) -> None:
        self.bytes = self.requests = 0
        session = context.new_cdp_session(page)
        session.on("Network.loadingFinished", self._finished)
        session.on("Network.requestWillBeSent", self._redirected)
        session.send("Network.enable")

    def _finished(self, event: dict[str, float]) -> None:
        self.bytes += int(event["encodedDataLength"])
        self.requests += 1

    def _redirected(self, event: dict[str, dict[str, float]]) -> None:
        if "redirectResponse" in event:
            self.bytes += int(event["redirectResponse"]["encodedDataLength"])
            self.requests += 1


@dataclass
class Visits:
    """One Hub and what was measured of it."""

    hub: HubUnderTest
    browser: Browser
    students: list[tuple[str, str]]
    launcher_s: list[float] = field(default_factory=list)
    address_s: list[float] = field(default_factory=list)
    first_mb: list[float] = field(default_factory=list)
    again_mb: list[float] = field(default_factory=list)
    requests: list[float] = field(default_factory=list)

    def click(self) -> None:
        """Sign the next student in, with no server yet."""
        name, password = self.students[len(self.launcher_s)]
        context = self.browser.new_context()
        page = context.new_page()
        entered = sign_in(page, self.hub.url, name, password)
        page.wait_for_url(f"**/user/{name}/lab**", timeout=PATIENCE_MS, wait_until="commit")
        self.address_s.append(time.perf_counter() - entered)
        wait_for_launcher(page)
        self.launcher_s.append(time.perf_counter() - entered)
        context.close()
        self.hub.stop_server(name)

    def weigh(self) -> None:
        """Load Lab of a running server with an empty cache, then again."""
        name, password = self.students[-1]
        client = Client(self.hub.url)
        to_lab(client, name, password)
        context = self.browser.new_context()
        context.add_cookies([
            {"name": cookie, "value": value, "domain": "127.0.0.1", "path": path}
            for (path, cookie), value in client.cookies.items()])
        page = context.new_page()
        wire = Wire(context, page)
        page.goto(f"{self.hub.url}/user/{name}/lab")
        self.first_mb.append(self._settled(page, wire))
        self.requests.append(wire.requests)
        page.reload()
        self.again_mb.append(self._settled(page, wire) - self.first_mb[-1])
        context.close()

    @staticmethod
    def _settled(page: Page, wire: Wire) -> float:
        wait_for_launcher(page)
        page.wait_for_timeout(2000)     # what Lab loads once it stands
        return wire.bytes / 1e6

    def report_wire(self, first: str = "", again: str = "") -> None:
        show(f"first load of Lab, {self.hub.name}", self.first_mb, "MB", target=first)
        show("  requests", self.requests, "", digits=0)
        show(f"the same again, {self.hub.name}", self.again_mb, "MB", digits=3, target=again)


def main() -> None:
    args = arguments(__doc__).parse_args()
    with Ours() as ours, Incumbent() as incumbent, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        hubs = [Visits(hub, browser, hub.students(args.pairs + 2)) for hub in (ours, incumbent)]
        for visits in hubs:
            visits.click()              # unmeasured: files into the page cache
            visits.launcher_s.clear()
            visits.address_s.clear()
            visits.students = visits.students[1:]
        alternate(args.pairs, *(visits.click for visits in hubs))
        alternate(args.pairs, *(visits.weigh for visits in hubs))
        browser.close()
    for visits in hubs:
        show(f"Enter to usable launcher, {visits.hub.name}", visits.launcher_s)
        show("  of that until Lab's address is reached", visits.address_s)
    show_ratio("ratio, ours over JupyterHub", hubs[0].launcher_s, hubs[1].launcher_s, "≤ 0.50")
    hubs[0].report_wire("≤ 1.5", "≤ 0.1")
    hubs[1].report_wire()


if __name__ == "__main__":
    main()
