"""JupyterLab of an unmodified jupyterhub-singleuser in a browser: its scripts and websockets, and its ways to the Hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from box import REPOSITORY, Box
from clients.client_images import ensure_image
from playwright.sync_api import expect

from .person import Person

pytestmark = pytest.mark.clients

CONFIG = """
c.DockerSpawner.image = "{image}"
c.Spawner.inject_token = {inject}
c.Spawner.http_timeout = 90
"""


@pytest.fixture(scope="module", params=[("6.1.1", True), ("6.1.1", False), ("5.5.4", False)],
                ids=["6.1.1 by the edge", "6.1.1 by redirects", "5.5.4 by redirects"])
def school_box(request: pytest.FixtureRequest) -> Iterator[Box]:
    version, inject = request.param
    image = ensure_image(f"singleuser-{version}", REPOSITORY / "tests/clients/singleuser", below="tools",
                         arguments={"JUPYTERHUB": version})
    with Box(CONFIG.format(image=image, inject=inject)) as box:
        yield box


def test_cells_run_and_the_menu_leads_back_to_the_hub(school_box: Box, person: Callable[..., Person]) -> None:
    ada = person(school_box, "ada")
    ada.to_lab()
    ada.new_notebook()
    ada.run("print(6 * 7)", prints="42")
    ada.save_as("first.ipynb")
    assert "6 * 7" in (school_box.home("ada") / "first.ipynb").read_text()
    ada.page.get_by_role("menuitem", name="File", exact=True).click()
    expect(ada.page.get_by_role("menuitem", name="Hub Control Panel")).to_be_visible()
    ada.page.keyboard.press("Escape")
    ada.lab_menu("File", "Log Out")
    ada.is_at("/hub/login*")
    ada.open("/user/ada/lab")
    ada.is_at("/hub/login*")
    ada.sign_in("/user/ada/lab/tree/first.ipynb")
    ada.is_at("/user/ada/lab/tree/first.ipynb")
    expect(ada.page.get_by_text("6 * 7")).to_be_visible()
