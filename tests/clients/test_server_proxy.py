"""jupyter-server-proxy, unmodified, in a user's container: an HTTP app and a websocket below /user/NAME/proxy/PORT/."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from box import Box, wait_for
from student import Student
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

pytestmark = pytest.mark.clients

PORT = 8765
# Answers GET with what it was asked, and repeats in a websocket what it hears; only what comes with Lab.
APP = f'''
import asyncio, tornado.web, tornado.websocket

class Page(tornado.web.RequestHandler):
    def get(self):
        self.write({{"path": self.request.uri}})

    post = get

class Echo(tornado.websocket.WebSocketHandler):
    def on_message(self, message):
        self.write_message("heard " + message)

async def main():
    tornado.web.Application([("/ws", Echo), ("/.*", Page)]).listen({PORT}, "127.0.0.1")
    await asyncio.Event().wait()

asyncio.run(main())
'''


@pytest.fixture(scope="module")
def box(class_image: str) -> Iterator[Box]:
    with Box(f"c.DockerSpawner.image = {class_image!r}\n") as box:
        yield box


@pytest.fixture(scope="module")
def ada(box: Box) -> Iterator[Student]:
    """Somebody with an app in her server."""
    with box.student("ada") as ada:
        ada.to_server()
        ada.write("app.py", APP)
        assert ada.run_cell("import subprocess, sys; app = subprocess.Popen(['/opt/jupyter/bin/python', 'app.py'])") == ""
        wait_for("the app", lambda: ada.get(f"{ada.prefix}proxy/{PORT}/").status_code == 200, 20)
        yield ada


def socket(box: Box, student: Student, path: str, *, origin: str = "", cookie: str | None = None) -> ClientConnection:
    sent = student.cookie_header(path) if cookie is None else cookie
    return connect(f"{box.url.replace('http', 'ws', 1)}{path}", origin=origin or box.url,  # type: ignore[arg-type]
                   additional_headers={"Cookie": sent} if sent else {}, proxy=None, open_timeout=20)


def test_an_app_in_the_server_answers_below_the_prefix(ada: Student) -> None:
    response = ada.get(f"{ada.prefix}proxy/{PORT}/some/page?question=a%20b&more=%C3%A9")
    assert response.status_code == 200
    assert response.json()["path"] == "/some/page?question=a%20b&more=%C3%A9"
    absolute = ada.get(f"{ada.prefix}proxy/absolute/{PORT}/some/page")
    assert absolute.json()["path"] == f"{ada.prefix}proxy/absolute/{PORT}/some/page"
    assert ada.script("POST", f"{ada.prefix}proxy/{PORT}/form").json()["path"] == "/form"


def test_a_websocket_goes_through(box: Box, ada: Student) -> None:
    with socket(box, ada, f"{ada.prefix}proxy/{PORT}/ws") as open_socket:
        open_socket.send("hello")
        assert open_socket.recv(timeout=10) == "heard hello"


def test_a_websocket_without_a_right_is_refused_at_the_edge(box: Box, ada: Student) -> None:
    """CVE-2024-28179: older proxies let websockets in that nobody had signed in for. Here they do not get that far."""
    path = f"{ada.prefix}proxy/{PORT}/ws"
    with box.student("eve") as eve:
        eve.to_server()
        theirs = "; ".join(f"{name}={value}" for name, value in eve.cookies.items())
        for what, options in {"nobody": {"cookie": ""}, "somebody else": {"cookie": theirs},
                              "a page from elsewhere": {"origin": "https://elsewhere.example"}}.items():
            with pytest.raises(InvalidStatus) as refused, socket(box, ada, path, **options):
                pass
            assert refused.value.response.status_code == 403, what
        assert eve.get(f"{ada.prefix}proxy/{PORT}/").status_code == 403


def test_past_the_edge_the_server_itself_refuses(box: Box, ada: Student) -> None:
    server = box.server("ada")
    assert server is not None
    url = f"{server.url}{ada.prefix}proxy/{PORT}/"
    assert httpx.get(url, trust_env=False).status_code in (302, 403)
    with pytest.raises(InvalidStatus) as refused, connect(f"{url.replace('http', 'ws', 1)}ws", proxy=None, open_timeout=20):
        pass
    assert refused.value.response.status_code in (302, 403)


def test_nothing_but_the_server_s_own_ports_is_reached(ada: Student) -> None:
    """CVE-2022-21697: proxying to any host. Only the container itself is allowed without the user's own configuration."""
    assert ada.get(f"{ada.prefix}proxy/192.0.2.1:80/").status_code == 403
