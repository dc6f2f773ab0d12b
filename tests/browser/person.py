"""What people do with a browser, in their words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from box import PASSWORD, PATIENCE_S, Box, wait_for
from playwright.sync_api import BrowserContext, Error, Locator, Page, WebSocket, expect

PATIENCE_MS = PATIENCE_S * 1000


class Visitor:
    """One browser before one box; `page` is the tab in front."""

    def __init__(self, box: Box, context: BrowserContext) -> None:
        self.box, self.context = box, context
        self.page = context.new_page()

    def url(self, path: str) -> str:
        return self.box.url + path

    def open(self, path: str, page: Page | None = None) -> int:
        """Type an address; return the status of what it leads to."""
        for last in (False, False, True):
            try:
                response = (page or self.page).goto(self.url(path))
                break
            except Error as error:      # a container's network came or went beside, which Chromium takes for another Wi-Fi
                if last or "ERR_NETWORK_CHANGED" not in str(error):
                    raise
        assert response is not None
        return response.status

    def click(self, name: str) -> None:
        """Click a button or a link by its name."""
        button = self.page.get_by_role("button", name=name, exact=True)
        button.or_(self.page.get_by_role("link", name=name, exact=True)).click()

    def sees(self, text: str) -> None:
        expect(self.page.get_by_role("main")).to_contain_text(text)

    def is_at(self, path: str) -> None:
        """Wait until the tab shows this address; `*` stands for anything."""
        expect(self.page).to_have_url(re.compile(re.escape(self.url(path)).replace(r"\*", ".*") + "$"))


class Person(Visitor):
    def __init__(self, box: Box, context: BrowserContext, name: str) -> None:
        super().__init__(box, context)
        self.name, self.password = name, PASSWORD.format(name=name)
        self.prefix = f"/user/{name}/"
        self.sockets: list[WebSocket] = []

    def sign_in(self, path: str = "/hub/home", password: str = "") -> None:
        """Open a page of the box and fill in the form that comes instead."""
        self.open(path)
        self.is_at("/hub/login*")
        self.page.get_by_label("Name").fill(self.name)
        self.page.get_by_label("Password").fill(password or self.password)
        self.page.get_by_label("Password").press("Enter")

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Within, this person's server does not answer when it is started."""
        self.box.put(self.name, "wait", "")
        yield
        (self.box.home(self.name) / "wait").unlink()

    def stop_server(self) -> None:
        """On the home page, and wait until it is gone."""
        self.open("/hub/home")
        self.click("Stop")
        self.sees("Not running")
        assert not self.box.containers(self.name)

    # -- JupyterLab ---------------------------------------------------------------------------------------------------
    def to_lab(self) -> None:
        """Sign in and wait for the launcher."""
        self.page.on("websocket", lambda socket: self.sockets.append(socket))
        # Jupyter Server 2.21 answers 404 for a whole folder when a file in it gets another name while it is listed
        self.page.add_locator_handler(self.page.locator(".jp-Dialog", has_text="Directory not found"),
                                      lambda dialog: dialog.get_by_role("button", name="Close").click())
        self.sign_in("/hub/spawn")
        self.sees_launcher()

    def sees_launcher(self) -> None:
        self.is_at(f"{self.prefix}lab*")
        expect(self.launcher_card).to_be_visible()
        expect(self.page.locator("#jupyterlab-splash")).to_have_count(0)

    @property
    def launcher_card(self) -> Locator:
        return self.page.locator('.jp-LauncherCard[data-category="Notebook"]').first

    @property
    def cells(self) -> Locator:
        """Lab keeps invisible ones besides."""
        return self.page.locator(".jp-NotebookPanel:visible .jp-CodeCell:visible")

    def sees_output(self, text: str) -> None:
        expect(self.page.locator(".jp-Cell-outputArea:visible", has_text=text)).to_be_visible()

    def new_notebook(self) -> None:
        self.launcher_card.click()
        expect(self.cells).to_have_count(1)
        self.sees_idle_kernel()

    def sees_idle_kernel(self) -> None:
        """Until then Lab takes a cell to run and drops it."""
        expect(self.page.locator("#jp-main-statusbar")).to_contain_text("| Idle")

    def run(self, code: str, prints: str) -> None:
        """Run code in the notebook's last cell and wait for what it prints."""
        number = self.cells.count()
        cell = self.cells.last
        cell.locator(".cm-content").click()
        self.page.keyboard.insert_text(code)
        self.page.keyboard.press("Shift+Enter")
        self.sees_output(prints)
        expect(self.cells).to_have_count(number + 1)

    def save_as(self, name: str) -> None:
        """Save a notebook that has no name yet, and wait until it is on the disk."""
        self.page.keyboard.press("Control+s")
        dialog = self.page.locator(".jp-Dialog")
        dialog.locator("input").first.fill(name)
        dialog.get_by_role("button", name="Rename").click()
        expect(dialog).to_have_count(0)
        wait_for(f"{name} on the disk", lambda: (self.box.home(self.name) / name).exists())
        self.is_at(f"{self.prefix}lab/tree/{name}")
        expect(self.page.locator(".jp-DirListing-item", has_text=name)).to_be_visible()

    def save(self) -> None:
        self.page.keyboard.press("Control+s")
        expect(self.page.locator(".jp-NotebookPanel:visible")).to_be_visible()
        expect(self.page.locator(".lm-TabBar-tab.jp-mod-dirty")).to_have_count(0)

    def lab_menu(self, menu: str, item: str) -> None:
        self.page.get_by_role("menuitem", name=menu, exact=True).click()
        self.page.locator(".lm-Menu-item:not(.lm-mod-hidden)", has=self.page.get_by_text(item, exact=True)).click()

    def open_kernel_sockets(self) -> list[WebSocket]:
        return [socket for socket in self.sockets if "/channels" in socket.url and not socket.is_closed()]
