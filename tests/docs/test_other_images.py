"""The documentation's configurations of other images, in a whole box."""

from __future__ import annotations

from pathlib import Path

import pytest
from box import Box
from student import Student

pytestmark = pytest.mark.engine

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"


def enter(student: Student) -> str:
    """Go the way of a student's browser; return the page in the end."""
    student.sign_in()
    student.start()
    student.wait_ready()
    return student.get("/hub/spawn").text


def test_the_hello_image_is_served_below_its_prefix() -> None:
    with Box((EXAMPLES / "hello_config.py").read_text()) as box:
        box.add_user("ada")
        with box.student("ada", sign_in=False) as ada:
            assert "<h1>Hello</h1>" in enter(ada)
            assert "The other page" in ada.get("/user/ada/second.html").text
            assert ada.get("/user/ada/nothing.html").status_code == 404
        box.add_user("grace")
        with box.student("grace", sign_in=False) as grace:
            grace.sign_in()
            assert "Hello" not in grace.get("/user/ada/").text


def test_the_api_starts_any_image_of_the_list_and_no_other() -> None:
    with Box((EXAMPLES / "two_images_config.py").read_text()) as box:
        box.add_user("ada")
        with box.student("ada", sign_in=False) as ada:
            headers = {"Authorization": f"token {box.token('ada')}"}
            refused = ada.client.post("/hub/api/users/ada/server", json={"image": "debian:latest"}, headers=headers)
            assert refused.status_code == 403
            taken = ada.client.post("/hub/api/users/ada/server", json={"image": "Hello"}, headers=headers)
            assert taken.status_code in (201, 202)
            ada.sign_in()
            ada.wait_ready()
            assert "<h1>Hello</h1>" in ada.get("/user/ada/").text
