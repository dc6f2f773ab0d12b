"""nbgrader's and nbgitpuller's own pages in a browser: their frames, scripts and streams come through."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest
from box import REPOSITORY, Box, wait_for
from clients.client_images import ensure_image
from clients.git_server import served
from clients.nbgrader_box import make_exchange, nbgrader_config
from playwright.sync_api import expect

from .person import Person

pytestmark = pytest.mark.clients

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
NOTEBOOK = {"nbformat": 4, "nbformat_minor": 5, "metadata": KERNEL, "cells": [
    {"cell_type": "markdown", "id": "first", "metadata": {}, "source": "# The first lesson"}]}


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """The box of docs/nbgrader.rst, which serves a repository as well."""
    folder = tmp_path_factory.mktemp("school")
    exchange, git = make_exchange(folder), folder / "git"
    make_repository(folder / "work", git / "services/git/lesson.git")
    image = ensure_image("class", REPOSITORY / "docs/examples/nbgrader", below="notebook")
    config = nbgrader_config(image, exchange)
    with served(git) as port:
        config += f"""
c.JupyterHub.ip = "0.0.0.0"
c.JupyterHub.services.append({{"name": "git", "url": "http://127.0.0.1:{port}"}})
c.JupyterHub.load_roles.append(
    {{"name": "grader", "users": ["holt"], "scopes": ["access:services!service=math7", "access:services!service=git"]}})
"""
        with Box(config) as box:
            wait_for("the formgrader", lambda: httpx.get(
                f"{box.url}/services/math7/api", trust_env=False).status_code == 200)
            yield box


def make_repository(work: Path, bare: Path) -> None:
    work.mkdir()
    (work / "intro.ipynb").write_text(json.dumps(NOTEBOOK))
    for words in (["init", "-b", "main"], ["add", "."], ["-c", "user.name=Holt", "-c", "user.email=holt@box.school", "commit",
                                                        "-m", "A lesson"], ["clone", "--bare", ".", str(bare)]):
        subprocess.run(["git", *words], cwd=work, check=True, capture_output=True)


def test_the_formgrader_stands_in_its_frame(school: Box, person: Callable[..., Person]) -> None:
    holt = person(school, "holt")
    holt.sign_in("/services/math7/lab?formgrader=true")
    frame = holt.page.frame_locator("iframe")
    expect(frame.get_by_role("heading", name="Manage Assignments")).to_be_visible()
    frame.get_by_role("link", name="Add new assignment").click()
    frame.locator(".modal input.name").fill("ps1")
    frame.get_by_role("button", name="Save").click()
    expect(frame.get_by_role("link", name="ps1")).to_be_visible()
    wait_for("its folder", (school.home("grader-math7") / "math7/source/ps1").is_dir)


def test_a_link_ends_at_the_open_notebook(school: Box, person: Callable[..., Person]) -> None:
    gateway = school.subnet.replace(".0/24", ".1")
    ada = person(school, "ada")
    ada.sign_in("/hub/user-redirect/git-pull?" + urlencode({
        "repo": f"http://{gateway}:{school.port}/services/git/lesson.git", "branch": "main", "targetpath": "lesson",
        "urlpath": "lab/tree/lesson/intro.ipynb"}))
    ada.is_at("/user/ada/lab/tree/lesson/intro.ipynb")
    expect(ada.page.locator(".jp-NotebookPanel:visible")).to_contain_text("The first lesson")
    # the same Lab has the student's side of nbgrader, and not the teacher's
    ada.page.get_by_role("menuitem", name="Nbgrader", exact=True).click()
    expect(ada.page.locator(".lm-Menu-item", has_text="Assignment List")).to_be_visible()
    expect(ada.page.locator(".lm-Menu-item", has_text="Formgrader")).to_have_count(0)
