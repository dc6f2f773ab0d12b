"""What docs/using-the-api.rst and docs/sharing.rst show is done, line by line, against a running Hub."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from box import Box

from appliance.domain.server import Phase

pytestmark = pytest.mark.engine

DOCS = Path(__file__).resolve().parents[2] / "docs"


def lines(page: str, below: str = "") -> list[str]:
    """Return the commands of a page, or of one of its sections, that speak to the Hub."""
    text = (DOCS / page).read_text()
    if below:
        text = re.split(r"\n[^\n]+\n---+\n", text.partition(f"{below}\n---")[2], maxsplit=1)[0]
    return [line.strip().removeprefix("$ ") for line in text.splitlines() if re.match(r"   \$ (curl|python3) ", line)]


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    config = re.findall(r"\n   c\.JupyterHub\.load_roles = \[\n.*?\n   \]\n", (DOCS / "sharing.rst").read_text(), re.DOTALL)
    with Box(config[0].replace("\n   ", "\n")) as box:
        for name, admin in (("grace", True), ("ada", False), ("bob", False)):
            box.add_user(name, admin=admin)
        yield box


def run(box: Box, line: str, **variables: str) -> str:
    """Return what a command answers; it fails where the Hub refuses."""
    environment = os.environ | variables | {
        "HUB": box.url, "JUPYTERHUB_API_URL": f"{box.url}/hub/api", "JUPYTERHUB_API_TOKEN": variables["TOKEN"],
        "no_proxy": "*"}
    done = subprocess.run(["bash", "-c", line.replace("curl ", "curl -sS --fail-with-body ", 1)], env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=180, cwd=DOCS / "examples", check=False)
    assert done.returncode == 0, f"{line}: {done.stdout}"
    return done.stdout


def test_a_token_says_what_it_may(box: Box) -> None:
    (line,) = lines("using-the-api.rst", "A token")
    said = json.loads(run(box, line, TOKEN=box.token("grace")))
    assert said["name"] == "grace"
    assert "admin:users" in said["scopes"]


def test_people_and_groups(box: Box) -> None:
    answers = [run(box, line, TOKEN=box.token("grace")) for line in lines("using-the-api.rst", "People and groups")]
    assert len(answers) == 5
    assert json.loads(answers[3])["users"] == ["dan", "eve"]
    assert json.loads(answers[4])["properties"] == {"room": "12"}


def test_a_server_from_start_to_end(box: Box) -> None:
    token = box.token("grace")
    start, watch, inside, end = lines("using-the-api.rst", "Servers")
    assert run(box, start, TOKEN=token) == ""
    assert '"ready":true' in run(box, watch, TOKEN=token).replace(" ", "")
    assert "kernels" in json.loads(run(box, inside, TOKEN=token))
    assert run(box, end, TOKEN=token) == ""
    box.wait_phase("grace", Phase.STOPPED)


def test_the_programs_of_the_page(box: Box) -> None:
    if not box.user("dan"):
        test_people_and_groups(box)
    start, who = lines("using-the-api.rst", "A program")
    token = box.token("grace")
    assert run(box, start, TOKEN=token) == "2 of 2 servers are ready.\n"
    said = run(box, who, TOKEN=token).splitlines()
    assert [line.split(":")[0] for line in said] == ["dan", "eve"]
    with pytest.raises(AssertionError, match="needs the scope read:groups"):
        run(box, start, TOKEN=box.token("bob"))


def test_sharing_as_the_page_shows_it(box: Box) -> None:
    token = box.token("ada")
    with box.student("ada") as ada:
        ada.to_server()
        give, give_group, link, look, take, take_all = lines("sharing.rst", "How")
        box.appliance("roster", "apply", "-", said='[{"name": "bob", "groups": ["7b"]}]')
        assert json.loads(run(box, give, TOKEN=token))["user"] == {"name": "bob"}
        assert json.loads(run(box, give_group, TOKEN=token))["scopes"] == ["read:servers!server=ada/"]
        assert "/hub/accept-share?code=" in json.loads(run(box, link, TOKEN=token))["accept_url"]
        assert len(json.loads(run(box, look, TOKEN=token))["items"]) == 2
        (inside,) = lines("sharing.rst", "What a guest can do with it")
        assert "kernels" in json.loads(run(box, inside, TOKEN=token, GUEST=box.token("bob")))
        assert run(box, take, TOKEN=token) == "{}"
        with pytest.raises(AssertionError, match="403"):
            run(box, inside, TOKEN=token, GUEST=box.token("bob"))
        assert run(box, take_all, TOKEN=token) == ""
