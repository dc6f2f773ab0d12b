"""The class's image runs as plain JupyterLab, which is the default, and with one setting as jupyterhub-singleuser.

What people have of the Hub in Lab is the same in both: who they are, the menus' addresses, and their work is seen."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from box import Box

pytestmark = pytest.mark.clients

SINGLEUSER = 'c.DockerSpawner.cmd = ["/opt/jupyter/bin/python", "-s", "/opt/jupyter/bin/jupyterhub-singleuser"]\n'


@pytest.fixture(scope="module", params=["", SINGLEUSER], ids=["plain Lab", "singleuser"])
def box(request: pytest.FixtureRequest, class_image: str) -> Iterator[Box]:
    with Box(f"c.DockerSpawner.image = {class_image!r}\n{request.param}") as box:
        yield box


def test_lab_knows_its_user_and_the_hub(box: Box) -> None:
    with box.student("ada") as ada:
        ada.to_server()
        page = ada.get(f"{ada.prefix}lab")
        assert page.status_code == 200
        found = re.search(r'<script id="jupyter-config-data"[^>]*>(.*?)</script>', page.text, re.DOTALL)
        assert found is not None
        config = json.loads(found[1])
        assert (config["hubPrefix"], config["hubUser"], config["hubHost"], config["hubServerName"]) == ("/hub/", "ada", "", "")
        # singleuser writes what it was sent into its pages, plain Lab of this image does not; it says who somebody is, no more
        if token := config.get("token"):
            hub = {"Authorization": f"token {token}"}
            assert ada.client.get("/hub/api/user", headers=hub).json()["name"] == "ada"
            assert ada.client.post("/hub/api/users/ada/tokens", headers=hub).status_code == 403
            assert ada.client.delete("/hub/api/users/ada/server", headers=hub).status_code == 403
        assert bool(token) is ("singleuser" in str(box.container("ada").attrs["Config"]["Cmd"]))
        assert ada.api("GET", "me").json()["identity"]["username"] == "ada"
        static = re.search(r'src="([^"]*/static/lab/main\.[^"]*\.js[^"]*)"', page.text)
        assert static is not None
        sent = ada.client.get(static[1], headers={"Accept-Encoding": "gzip"})
        assert sent.headers["Content-Encoding"] == "gzip"
        ada.write("note.txt", "kept")
        assert ada.run_cell("print(6 * 7)") == "42\n"
        assert (box.home("ada") / "note.txt").read_text() == "kept"


def test_log_out_in_lab_s_menu_signs_out_of_the_box(box: Box) -> None:
    with box.student("ben") as ben:
        ben.to_server()
        kept = ben.cookie_header(f"{ben.prefix}lab")
        assert ben.get(f"{ben.prefix}logout").url.path.startswith("/hub/log")
        assert ben.client.get(f"{ben.prefix}api/me", headers={"Cookie": kept}).status_code in (401, 403)
