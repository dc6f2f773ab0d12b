"""Chromium, people who use it, and the box they come to."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from box import REPOSITORY, Box
from playwright.sync_api import Browser, BrowserContext, Error, Page, expect, sync_playwright

from .person import PATIENCE_MS, Person, Visitor

ARTIFACTS = REPOSITORY / "artifacts"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
# A server does not answer as long as there is a file “wait” in its home: see Person.held_back.
GATE = """
c.DockerSpawner.cmd = ["sh", "-c", "while [ -e ~/wait ]; do sleep 0.05; done; "
                                   "exec /opt/jupyter/bin/python -s /opt/jupyter/bin/jupyter-lab"]
"""


@pytest.fixture(scope="session")
def classroom() -> Iterator[Box]:
    """One box for all tests with JupyterLab; each test has people of its own."""
    with Box(GATE) as box:
        yield box


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Not for the whole session: Playwright's event loop would be in the way of tests that run one of their own."""
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        # without Debian's Chromium, the one that Playwright installs
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def new_context(chromium: Browser, request: pytest.FixtureRequest) -> Iterator[Callable[..., BrowserContext]]:
    """Make browsers that share nothing with each other: new_context(viewport=…); pages of a failed test are kept as
    pictures."""
    made: list[BrowserContext] = []

    def new(**options: object) -> BrowserContext:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 800}} | options)  # type: ignore[arg-type]
        context.set_default_timeout(PATIENCE_MS)
        made.append(context)
        return context

    yield new
    if request.node.stash.get(_FAILED, False):
        _keep_pictures(request.node.name, made)
    for context in made:
        context.close()


@pytest.fixture
def visitor(new_context: Callable[..., BrowserContext]) -> Callable[..., Visitor]:
    """Somebody before a browser of their own, who has no account: visitor(box, viewport=…)."""
    return lambda box, **options: Visitor(box, new_context(**options))


@pytest.fixture
def person(new_context: Callable[..., BrowserContext]) -> Callable[..., Person]:
    """Somebody with an account and a browser of their own, not signed in yet: person(box, "alice", admin=True)."""
    def new(box: Box, name: str, *, admin: bool = False, must_change: bool = False, **options: object) -> Person:
        if box.user(name) is None:
            box.add_user(name, admin=admin, must_change=must_change)
        return Person(box, new_context(**options), name)

    return new


_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report  # type: ignore[return-value]


def take_picture(page: Page, path: Path, **options: Any) -> None:
    """Keep a picture of a page. Chromium sometimes refuses one right after a navigation and takes the next."""
    for last in (False, False, False, True):
        try:
            page.screenshot(path=path, **options)
            return
        except Error as error:
            if last or "Unable to capture screenshot" not in str(error):
                raise
            page.wait_for_timeout(250)


def _keep_pictures(test: str, contexts: list[BrowserContext]) -> None:
    folder = ARTIFACTS / "failed"
    folder.mkdir(parents=True, exist_ok=True)
    pages = [page for context in contexts for page in context.pages]
    for number, page in enumerate(pages):
        path: Path = folder / f"{re.sub(r'[^A-Za-z0-9_-]', '-', test)}-{number}.png"
        take_picture(page, path)
        print(f"{page.url} looked like {path}")
