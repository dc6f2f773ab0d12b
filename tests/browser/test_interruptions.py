"""What a student with Lab open notices of things that end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from box import Box

from .person import Person

pytestmark = pytest.mark.browser


def test_killed_container_is_explained_and_started_again(classroom: Box, person: Callable[..., Person]) -> None:
    karl = person(classroom, "karl")
    karl.to_lab()
    karl.new_notebook()
    karl.run("print(6 * 7)", prints="42")
    karl.save_as("before.ipynb")
    classroom.container("karl").kill()
    response = karl.page.reload()
    assert response is not None
    assert response.status >= 500
    karl.sees("Your saved files are safe")
    karl.click("Start it again")
    karl.is_at("/user/karl/lab*")
    karl.sees_output("42")


def test_restarted_hub_is_not_noticed_in_lab(classroom: Box, person: Callable[..., Person]) -> None:
    hanna = person(classroom, "hanna")
    hanna.to_lab()
    hanna.new_notebook()
    hanna.run("x = 6 * 7; print(x)", prints="42")
    sockets = hanna.open_kernel_sockets()
    classroom.kill()
    try:
        hanna.run("print(x + 1)", prints="43")
    finally:
        classroom.start()
    hanna.run("print(x + 2)", prints="44")
    assert hanna.open_kernel_sockets() == sockets
    hanna.save_as("worked.ipynb")
    hanna.page.reload()
    hanna.sees_output("44")
