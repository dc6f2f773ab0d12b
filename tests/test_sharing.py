"""A server that is shared, through a real Traefik: a script of the guest goes in by its API token, a browser does not."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator

import httpx
import pytest
from box import Box
from student import Student, text_of
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

pytestmark = pytest.mark.engine

CONFIG = """
c.JupyterHub.load_roles = [{"name": "user", "scopes": ["self", "shares!user", "read:users:name"]}]
"""
STATUS = "/user/ada/api/status"


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    with Box(CONFIG) as box:
        yield box


@pytest.fixture(scope="module")
def ada(box: Box) -> Iterator[Student]:
    with box.student("ada") as ada:
        ada.to_server()
        yield ada


def ask(box: Box, token: str, method: str, path: str, body: object = None) -> httpx.Response:
    """Send what a script would."""
    return httpx.request(method, f"{box.url}{path}", json=body, headers={"Authorization": f"token {token}"}, trust_env=False,
                         timeout=30)


def channels(box: Box, token: str, kernel: str) -> ClientConnection:
    return connect(f"{box.url.replace('http', 'ws', 1)}/user/ada/api/kernels/{kernel}/channels", proxy=None, open_timeout=30,
                   additional_headers={"Authorization": f"token {token}"}, ping_interval=None)


def test_a_script_goes_in_by_a_share_until_it_is_taken(box: Box, ada: Student) -> None:
    box.add_user("bob")
    own, bobs = box.token("ada"), box.token("bob")
    assert ask(box, own, "GET", STATUS).status_code == 200
    assert ask(box, bobs, "GET", STATUS).status_code == 403
    given = ask(box, own, "POST", "/hub/api/shares/ada/", {"user": "bob"})
    assert (given.status_code, given.json()["server"]["ready"]) == (200, True)
    assert ask(box, bobs, "GET", STATUS).status_code == 200

    # what arrives in the server is its own secret and never the guest's token
    kernel = ask(box, bobs, "POST", "/user/ada/api/kernels", {"name": "python3"}).json()["id"]
    assert ada.script("GET", f"/user/ada/api/kernels/{kernel}").status_code == 200
    with channels(box, bobs, kernel) as socket:
        socket.ping().wait(10)
        taken = ask(box, own, "PATCH", "/hub/api/shares/ada/", {"user": "bob"})
        assert (taken.status_code, taken.json()) == (200, {})
        with pytest.raises(ConnectionClosed):
            while True:          # what the kernel had said before comes first
                socket.recv(timeout=10)
    assert ask(box, bobs, "GET", STATUS).status_code == 403
    with pytest.raises(InvalidStatus) as refused, channels(box, bobs, kernel):
        pass
    assert refused.value.response.status_code == 403
    assert ask(box, own, "GET", STATUS).status_code == 200


def test_a_link_gives_the_right_and_says_why_no_browser_goes_in(box: Box, ada: Student) -> None:
    made = ask(box, box.token("ada"), "POST", "/hub/api/share-codes/ada/", {"expires_in": 600}).json()
    with box.student("carl") as carl:
        page = carl.get(made["accept_url"])
        assert "ada shares a server with you" in text_of(page)
        after = html.unescape(text_of(carl.post("/hub/accept-share", code=made["code"])))
        assert "You have accepted." in after
        assert "nobody opens another's server in a browser here" in after
        refused = carl.get("/user/ada/lab")
        assert (refused.status_code, str(refused.url).split("?")[0]) == (403, f"{box.url}/hub/enter")
        assert "This server is shared with you" in text_of(refused)
        assert carl.capability == ("", "")
        assert carl.script("GET", STATUS).status_code == 403
    assert ask(box, box.token("carl"), "GET", STATUS).status_code == 200


def test_not_even_an_admin_s_script_goes_in_without_a_share(box: Box, ada: Student) -> None:
    box.add_user("head", admin=True)
    assert ask(box, box.token("head"), "GET", STATUS).status_code == 403


def test_a_token_for_one_server_opens_no_other(box: Box, ada: Student) -> None:
    with box.student("dan") as dan:
        dan.to_server()
        tokens = json.loads(ask(box, box.token("ada"), "POST", "/hub/api/users/ada/tokens", {
            "scopes": ["access:servers!server=ada/"], "note": "one server", "expires_in": 600}).text)
        assert ask(box, tokens["token"], "GET", STATUS).status_code == 200
        assert ask(box, tokens["token"], "GET", "/user/dan/api/status").status_code == 403
        assert ask(box, tokens["token"], "GET", "/hub/api/users/ada/tokens").status_code == 403
