"""Any image that serves HTTP can be what students get; it needs to know neither Jupyter nor us."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from box import Box
from playwright.sync_api import expect

from .person import Person, Visitor

pytestmark = pytest.mark.browser

CONFIG = """
c.DockerSpawner.image = "appliance/hello:latest"
c.DockerSpawner.image_options = {"appliance/hello:latest": {
    "port": 8080, "default_url": "/", "ready_path": "", "strip_prefix": True, "inject_token": False}}
"""


@pytest.fixture(scope="module")
def hello_box() -> Iterator[Box]:
    with Box(CONFIG) as box:
        yield box


def test_student_lands_on_the_page_of_any_web_app(
        hello_box: Box, person: Callable[..., Person], visitor: Callable[..., Visitor]) -> None:
    anna = person(hello_box, "anna")
    anna.sign_in("/hub/spawn")
    anna.is_at("/user/anna/")
    expect(anna.page.get_by_role("heading")).to_have_text("Hello")
    anna.click("Its other page")
    anna.is_at("/user/anna/second.html")
    anna.stop_server()

    stranger = visitor(hello_box)
    stranger.open("/user/anna/")
    stranger.is_at("/hub/login?next=*")
