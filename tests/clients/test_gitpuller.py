"""nbgitpuller, unmodified: a link on a school's page brings somebody who is not even signed in to the files of a lesson."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from box import Box, wait_for
from git_server import served
from student import NAVIGATION, Student

pytestmark = pytest.mark.clients

NOTEBOOK = json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a lesson, `work`, and below `served` the one that students fetch."""
    folder = tmp_path_factory.mktemp("git")
    work, bare = folder / "work", folder / "served" / "services" / "git" / "lesson.git"
    git(folder, "init", "--quiet", "--initial-branch=term-1", str(work))
    commit(work, "intro é.ipynb", NOTEBOOK)
    git(folder, "clone", "--quiet", "--bare", str(work), str(bare))
    return folder


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", "-c", "user.name=Ms Holt", "-c", "user.email=holt@box.school", *words], cwd=folder,
                          check=True, capture_output=True, text=True).stdout


def commit(work: Path, name: str, text: str) -> None:
    (work / name).write_text(text)
    git(work, "add", ".")
    git(work, "commit", "--quiet", "-m", f"Change {name}")


def publish(origin: Path, name: str, text: str) -> None:
    """Change a lesson's file and push it to where it is served."""
    commit(origin / "work", name, text)
    git(origin / "work", "push", "--quiet", str(origin / "served/services/git/lesson.git"), "HEAD")


@pytest.fixture(scope="module")
def box(class_image: str, origin: Path) -> Iterator[Box]:
    """The repository is a service of the box: of the host, containers reach the public port and nothing else."""
    with served(origin / "served") as port:
        config = f"""
c.JupyterHub.ip = "0.0.0.0"
c.DockerSpawner.image = {class_image!r}
c.JupyterHub.services = [{{"name": "git", "url": "http://127.0.0.1:{port}"}}]
"""
        with Box(config) as box:
            wait_for("the way to the service", lambda: httpx.get(
                f"{box.url}/services/git/lesson.git/HEAD", trust_env=False).status_code == 200)
            yield box


def link(box: Box, **more: str) -> str:
    """What a teacher puts on a page; containers reach the box at their bridge's gateway."""
    gateway = box.subnet.replace(".0/24", ".1")
    return "/hub/user-redirect/git-pull?" + urlencode({
        "repo": f"http://{gateway}:{box.port}/services/git/lesson.git", "branch": "term-1",
        "urlpath": "lab/tree/week 1/intro é.ipynb?reset", "targetpath": "week 1", **more})


def pull(student: Student, query: str) -> list[dict[str, str]]:
    """Do what the page's script does: read the stream of events to its end."""
    path = f"{student.prefix}git-pull/api?{query}"
    headers = {"Accept": "text/event-stream", "Cookie": student.cookie_header(path), "Accept-Encoding": "gzip, br"}
    with httpx.stream("GET", f"{student.url}{path}", headers=headers, trust_env=False, timeout=60) as response:
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        return [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line.startswith("data: ")]


def test_a_link_leads_through_sign_in_and_start_to_the_files(box: Box) -> None:
    address = link(box)
    query = urlsplit(address).query
    box.add_user("ada")
    with box.student("ada", sign_in=False) as ada:
        page = ada.get(address)
        assert page.url.path == "/hub/login"
        # what the form is sent to is the page's own address
        page = ada.client.post(page.url, data={"_xsrf": ada.xsrf, "username": "ada", "password": ada.password},
                               headers=NAVIGATION | {"Origin": box.url})
        assert page.url.path == "/hub/spawn-pending/ada", [str(step.url) for step in page.history]
        next_path = parse_qs(page.url.query.decode())["next"][0]
        assert next_path == f"/user/ada/git-pull?{query}", "not a character of the query is another"
        wait_for("the server", lambda: ada.get(str(page.url), follow=False).is_redirect)
        page = ada.get(str(page.url))
        assert page.status_code == 200, page.text
        assert page.url.raw_path.decode() == f"/user/ada/git-pull?{query}"
        assert "week 1" in page.text
        said = pull(ada, query)
        assert said[-1]["phase"] == "finished", said
        assert (box.home("ada") / "week 1" / "intro é.ipynb").read_text() == NOTEBOOK
        assert (box.home("ada") / "week 1" / "intro é.ipynb").stat().st_uid == box.home("ada").stat().st_uid


def test_the_link_again_brings_what_is_new_and_keeps_what_the_student_wrote(box: Box, origin: Path) -> None:
    with box.student("ada") as ada:
        ada.to_server()
        query = urlsplit(link(box)).query
        pull(ada, query)
        ada.write("week 1/my own.txt", "mine")
        publish(origin, "second.ipynb", NOTEBOOK)
        page = ada.get(link(box))
        assert page.url.raw_path.decode() == f"/user/ada/git-pull?{query}"
        assert pull(ada, query)[-1]["phase"] == "finished"
        assert (box.home("ada") / "week 1" / "second.ipynb").exists()
        assert ada.read("week 1/my own.txt") == "mine"


def test_what_it_says_comes_as_it_is_said(box: Box) -> None:
    """The edge compresses and passes on; it does not keep events back until the stream ends."""
    with box.student("ada") as ada:
        ada.to_server()
        ada.run_cell(SLOW_GIT)
        query = urlsplit(link(box, targetpath="slow")).query
        path = f"{ada.prefix}git-pull/api?{query}"
        headers = {"Accept": "text/event-stream", "Cookie": ada.cookie_header(path), "Accept-Encoding": "gzip, br"}
        with httpx.stream("GET", f"{box.url}{path}", headers=headers, trust_env=False, timeout=60) as response:
            said = (json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line.startswith("data: "))
            assert next(said)["phase"] == "syncing"
            assert not (box.home("ada") / "done").exists(), "it had ended before the first word came"
            (box.home("ada") / "go").touch()
            assert [event["phase"] for event in said][-1] == "finished"
            assert (box.home("ada") / "done").exists()


# A git that waits in the middle of its work for somebody to say go.
SLOW_GIT = """
import os
os.makedirs(os.path.expanduser("~/.config/git"), exist_ok=True)
os.makedirs(os.path.expanduser("~/hooks"), exist_ok=True)
with open(os.path.expanduser("~/hooks/post-checkout"), "w") as file:
    file.write("#!/bin/sh\\nwhile [ ! -e ~/go ]; do sleep 0.05; done; touch ~/done\\n")
os.chmod(os.path.expanduser("~/hooks/post-checkout"), 0o755)
with open(os.path.expanduser("~/.config/git/config"), "w") as file:
    file.write("[core]\\n\\thooksPath = " + os.path.expanduser("~/hooks") + "\\n")
"""


def test_a_link_elsewhere_leads_nowhere_else(box: Box) -> None:
    with box.student("ada") as ada:
        ada.to_server()
        for path in ("/hub/user-redirect//elsewhere.example/git-pull?repo=x", "/hub/user-redirect/..%2f..%2fuser/ben/git-pull"):
            response = ada.get(path, follow=False)
            where = response.headers.get("Location", "")
            assert response.status_code == 400 or where.startswith("/user/ada/") or where.startswith("/hub/spawn/ada"), where
