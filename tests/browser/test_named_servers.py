"""Choosing an environment and having several servers, as students do it in a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from box import Box, wait_for
from playwright.sync_api import Page, expect

from appliance.store import groups

from .person import Person
from .test_looks import SIZES, picture  # noqa: F401 (a fixture)

pytestmark = pytest.mark.browser

CONFIG = """
c.JupyterHub.allow_named_servers = True
c.JupyterHub.named_server_limit_per_user = 2
c.DockerSpawner.image = "appliance/notebook:latest"
c.DockerSpawner.allowed_images = {
    "jupyter": {"image": "appliance/notebook:latest", "display_name": "JupyterLab", "description": "Notebooks in Python"},
    "hello": {"image": "appliance/hello:latest", "display_name": "A plain page", "description": "To see that it works"},
    "statistics": {"image": "appliance/never-built:latest", "display_name": "Statistics", "description": "R and RStudio"},
}
c.DockerSpawner.image_options = {"appliance/hello:latest": {
    "port": 8080, "default_url": "/", "ready_path": "", "strip_prefix": True, "inject_token": False}}
c.Spawner.mem_limit = "1G"
c.JupyterHub.group_limits = {"7b": {"mem_limit": "768M"}}
"""


@pytest.fixture(scope="module")
def box_with_choices() -> Iterator[Box]:
    with Box(CONFIG) as box:
        yield box


def choose(who: Person, what: str) -> None:
    who.page.get_by_role("radio", name=what).check()
    who.click("Start")


def test_two_servers_of_different_kinds_at_once_and_one_is_deleted(
        box_with_choices: Box, person: Callable[..., Person]) -> None:
    ada = person(box_with_choices, "ada")
    ada.sign_in("/hub/spawn")
    expect(ada.page.get_by_role("radio", name="JupyterLab")).to_be_checked()
    expect(ada.page.get_by_role("radio", name="Statistics")).to_be_disabled()
    ada.sees("Not installed on this box")
    choose(ada, "JupyterLab")
    ada.sees_launcher()
    ada.new_notebook()
    ada.run("print('six times seven is', 6 * 7)", prints="six times seven is 42")
    ada.save_as("lesson.ipynb")

    lab, ada.page = ada.page, ada.context.new_page()
    ada.open("/hub/home")
    ada.page.get_by_label("New server").fill("Show and tell")
    ada.click("Make it")
    ada.is_at("/hub/spawn/ada/show-and-tell*")
    choose(ada, "A plain page")
    ada.is_at("/user/ada/show-and-tell/")
    expect(ada.page.get_by_role("heading")).to_have_text("Hello")
    ada.click("Its other page")
    ada.is_at("/user/ada/show-and-tell/second.html")
    assert len(box_with_choices.containers("ada")) == 2

    # the first one goes on, in its tab
    page, ada.page = ada.page, lab
    ada.run("print(sum(range(101)))", prints="5050")
    ada.page = page

    # a named server that is stopped says so, although the default one runs below the same path
    ada.open("/hub/home")
    ada.click("Stop Show and tell")
    line = ada.page.get_by_role("listitem").filter(has_text="Show and tell")
    expect(line).to_contain_text("Not running")
    ada.open("/user/ada/show-and-tell/second.html?not=in-the-cache")
    ada.sees("Your server “Show and tell” is not running")
    ada.click("Start my server")
    expect(ada.page.get_by_role("radio", name="A plain page")).to_be_checked()      # as the last time
    ada.click("Start")
    ada.is_at("/user/ada/show-and-tell/second.html?not=in-the-cache")

    ada.open("/hub/home")
    ada.click("Delete Show and tell")
    ada.sees("Your files are kept")
    ada.click("Keep it")
    ada.click("Delete Show and tell")
    ada.click("Delete the server")
    ada.is_at("/hub/home")
    expect(ada.page.get_by_role("listitem").filter(has_text="Show and tell")).to_have_count(0)
    assert box_with_choices.home("ada").joinpath("lesson.ipynb").exists()
    wait_for("its container's end", lambda: len(box_with_choices.containers("ada")) == 1)
    ada.open("/user/ada/show-and-tell/second.html?deleted")     # a path like any other of the default server by now
    expect(ada.page.locator("body")).to_contain_text("404")


def test_a_group_s_limit_reaches_the_container_and_the_page(box_with_choices: Box, person: Callable[..., Person]) -> None:
    gus = person(box_with_choices, "gus")
    user = box_with_choices.user("gus")
    assert user is not None
    box_with_choices.database(lambda t: groups.set_of_user(t, user.id, ["7b"]))
    gus.sign_in("/hub/spawn")
    choose(gus, "A plain page")
    gus.is_at("/user/gus/")
    (container,) = box_with_choices.containers("gus")
    assert container.attrs["HostConfig"]["Memory"] == 768 << 20
    gus.open("/hub/home")
    gus.sees("of 768 MB")


def test_all_of_it_works_without_javascript(box_with_choices: Box, person: Callable[..., Person]) -> None:
    nora = person(box_with_choices, "nora", java_script_enabled=False)
    nora.sign_in("/hub/home")
    nora.page.get_by_label("New server").fill("a/b")
    nora.click("Make it")
    nora.sees("A name cannot contain “/”")
    expect(nora.page.get_by_label("New server")).to_have_value("a/b")
    nora.page.get_by_label("New server").fill("two")
    nora.click("Make it")
    choose(nora, "A plain page")
    nora.is_at("/user/nora/two/")
    nora.open("/hub/home")
    nora.click("Delete two")
    nora.click("Delete the server")
    expect(nora.page.get_by_role("listitem").filter(has_text="two")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_every_page_of_it_fits_and_can_be_read(
        box_with_choices: Box, person: Callable[..., Person], picture: Callable[[Page, str], None],  # noqa: F811
        size: str, scheme: str) -> None:
    look = f"{size}-{scheme}"
    ben = person(box_with_choices, f"ben-{look}", viewport=SIZES[size], color_scheme=scheme)
    ben.sign_in("/hub/spawn")
    ben.sees("What do you want to work with?")
    picture(ben.page, f"choices-{look}")
    ben.open("/hub/home")
    picture(ben.page, f"home-no-servers-{look}")
    for name in ("Show and tell", "x"):
        ben.page.get_by_label("New server").fill(name)
        ben.click("Make it")
        choose(ben, "A plain page")
        ben.is_at(f"/user/ben-{look}/*/")
        ben.open("/hub/home")
    ben.click("Stop x")
    expect(ben.page.get_by_role("listitem").filter(has_text="Not running")).to_be_visible()
    picture(ben.page, f"home-servers-{look}")
    ben.click("Delete x")
    picture(ben.page, f"delete-server-{look}")
    ben.click("Delete the server")
    ben.open("/hub/home")
    ben.page.get_by_label("New server").fill("a/b")
    ben.click("Make it")
    picture(ben.page, f"home-bad-name-{look}")
