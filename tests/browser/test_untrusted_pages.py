"""What a page that a container serves may not do to the Hub's pages beside it, in a real browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import pytest
from box import Box
from playwright.sync_api import expect

from .person import Person, Visitor

pytestmark = pytest.mark.browser

NUMBERS = count(1)
CONFIG = """
c.DockerSpawner.image = "appliance/base:latest"
c.DockerSpawner.image_options = {"appliance/base:latest": {"port": 8000, "default_url": "/page", "ready_path": "page"}}
c.DockerSpawner.cmd = ["python3", "app.py"]
"""
APP = '''
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
PREFIX = os.environ["JUPYTERHUB_SERVICE_PREFIX"]
WORKER = "self.addEventListener('fetch', event => event.respondWith(new Response('taken over')))"
class App(BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.removeprefix(PREFIX)
        self.send_response(200)
        self.send_header("Content-Type", "text/javascript" if path.endswith(".js") else "text/html")
        self.send_header("Service-Worker-Allowed", "/")
        if path == "clear":
            self.send_header("Clear-Site-Data", '"cookies", "storage"')
        if path == "cookies":
            for name in ("jupyterhub-hub-login", "_xsrf"):
                for where in ("/", "/hub", "/hub/home"):
                    self.send_header("Set-Cookie", f"{name}=tossed; Path={where}")
        if path == "overwrite":
            self.send_header("Set-Cookie", "jupyterhub-hub-login=tossed; Path=/hub/")
        self.end_headers()
        self.wfile.write((WORKER if path.endswith(".js") else "<title>An app</title><main>An app's page</main>").encode())
    def log_message(self, *args):
        pass
ThreadingHTTPServer(("0.0.0.0", 8000), App).serve_forever()
'''
REGISTER = """scope => navigator.serviceWorker.register('worker.js', scope ? {scope} : {})
    .then(() => 'registered', error => error.name)"""


@pytest.fixture(scope="module")
def app_box() -> Iterator[Box]:
    """Every server is the small app above."""
    with Box(CONFIG) as box:
        yield box


@pytest.fixture
def visited(app_box: Box, person: Callable[..., Person]) -> Person:
    """Somebody who is signed in and has opened their app's page."""
    name = f"user{next(NUMBERS)}"
    app_box.add_user(name)
    app_box.put(name, "app.py", APP)
    somebody = person(app_box, name)
    somebody.sign_in("/hub/spawn")
    somebody.is_at(f"/user/{name}/page")
    return somebody


def test_service_worker_reaches_no_further_than_its_server(visited: Person) -> None:
    for scope in ("/", "/hub/", "/hub/login", "/user/"):
        assert visited.page.evaluate(REGISTER, scope) == "SecurityError"
    assert visited.page.evaluate(REGISTER, None) == "registered"    # its own pages are its own business
    visited.open("/hub/home")
    expect(visited.page.get_by_role("heading", level=1)).to_have_text(f"Hello, {visited.name}")


def test_container_does_not_clear_the_sites_cookies(visited: Person) -> None:
    before = visited.context.cookies()
    assert visited.open(f"{visited.prefix}clear") == 200
    assert visited.context.cookies() == before


def test_tossed_cookies_sign_nobody_out(visited: Person) -> None:
    visited.open(f"{visited.prefix}cookies")
    assert sum(cookie["value"] == "tossed" for cookie in visited.context.cookies()) == 6
    visited.open("/hub/home")
    expect(visited.page.get_by_role("heading", level=1)).to_have_text(f"Hello, {visited.name}")
    visited.click("Stop")      # a form with its XSRF token still works
    visited.sees("Not running")


def test_tossed_cookies_sign_nobody_in(visited: Person, visitor: Callable[..., Visitor]) -> None:
    visited.open(f"{visited.prefix}cookies")
    tossed = [cookie for cookie in visited.context.cookies() if cookie["value"] == "tossed"]
    stranger = visitor(visited.box)
    stranger.context.add_cookies([
        {"name": cookie["name"], "value": cookie["value"], "domain": "127.0.0.1", "path": cookie["path"]} for cookie in tossed])
    stranger.open("/hub/home")
    stranger.is_at("/hub/login?next=*")


def test_overwritten_session_cookie_signs_nobody_out(visited: Person) -> None:
    visited.open(f"{visited.prefix}overwrite")
    visited.open("/hub/home")
    assert "login" not in visited.page.url


def test_nobody_works_in_the_name_of_somebody_else_by_a_tossed_session(visited: Person) -> None:
    with visited.box.student("mallory") as mallory:
        name, theirs = next((n, value) for n, value in mallory.cookies.items() if n.startswith("jupyterhub-hub-login"))
        visited.context.add_cookies([   # as an answer of the container could set it
            {"name": name, "value": theirs, "domain": "127.0.0.1", "path": "/hub/"}])
        visited.open("/hub/home")
        assert "/hub/login" in visited.page.url   # whose browser it is cannot be told


def test_page_in_a_frame_is_refused(visited: Person) -> None:
    """The Hub's pages cannot be put into a container's page, to be clicked unawares."""
    visited.page.evaluate("""() => new Promise(loaded => {
        const frame = document.createElement('iframe');
        frame.onload = loaded;
        frame.src = '/hub/home';
        document.body.append(frame);
    })""")
    frame = visited.page.frames[1]
    assert "Hello" not in frame.content()
