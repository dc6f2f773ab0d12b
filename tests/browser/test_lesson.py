"""A lesson: signing in, a notebook that prints, saving, leaving, coming back; and nobody else's business."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from box import Box, wait_for
from playwright.sync_api import expect

from .person import Person, Visitor

pytestmark = pytest.mark.browser


def test_student_works_saves_leaves_and_comes_back(classroom: Box, person: Callable[..., Person]) -> None:
    alice = person(classroom, "alice")
    alice.to_lab()
    alice.new_notebook()
    alice.run("print('six times seven is', 6 * 7)", prints="six times seven is 42")
    alice.save_as("lesson.ipynb")
    alice.run("print(sum(range(101)))", prints="5050")
    alice.save()

    alice.page.reload()
    alice.sees_output("six times seven is 42")
    alice.sees_output("5050")

    alice.lab_menu("File", "Log Out")
    alice.is_at("/hub/login*")
    alice.sees("You are signed out")

    # the next day, the server still runs
    alice.sign_in("/user/alice/lab/tree/lesson.ipynb")
    alice.is_at("/user/alice/lab/tree/lesson.ipynb")
    alice.sees_output("six times seven is 42")

    # the day after, it was stopped
    alice.stop_server()
    alice.click("Start")
    alice.is_at("/user/alice/lab*")
    expect(alice.page.locator(".jp-DirListing-item", has_text="lesson.ipynb")).to_be_visible()


def test_progress_page_tells_what_happens_now(classroom: Box, person: Callable[..., Person]) -> None:
    paula = person(classroom, "paula")
    with paula.held_back():
        paula.sign_in("/hub/spawn")
        paula.is_at("/hub/spawn-pending/paula*")
        now = paula.page.locator("[aria-current=step]")
        expect(now).to_have_text("Your notebook is starting")
        expect(paula.page.locator(".steps .done")).to_have_text(["Waiting for a place", "Making your container"])
        expect(paula.page.locator(".steps .later")).to_have_text(["Opening the door"])
        bar = paula.page.get_by_role("progressbar")
        before = bar.evaluate("bar => bar.value")
        paula.page.wait_for_function("before => document.querySelector('progress').value > before", arg=before)
        assert bar.evaluate("bar => bar.value") < 100
    paula.sees_launcher()


def test_everything_up_to_lab_works_without_javascript(classroom: Box, person: Callable[..., Person]) -> None:
    nora = person(classroom, "nora", java_script_enabled=False)
    with nora.held_back():
        nora.sign_in("/hub/spawn")
        nora.is_at("/hub/spawn-pending/nora*")
        expect(nora.page.locator("[aria-current=step]")).to_have_text("Your notebook is starting")
    nora.is_at("/user/nora/lab*")      # by the page's refreshing itself
    nora.stop_server()
    nora.click("Sign out")
    nora.sees("You are signed out")


def test_signing_out_in_one_tab_ends_the_other(classroom: Box, person: Callable[..., Person]) -> None:
    tom = person(classroom, "tom")
    tom.to_lab()
    tom.new_notebook()
    tom.run("print(6 * 7)", prints="42")
    assert tom.open_kernel_sockets()

    other = tom.context.new_page()
    tom.open("/hub/home", other)
    other.get_by_role("button", name="Sign out", exact=True).click()
    expect(other.get_by_role("main")).to_contain_text("You are signed out")

    # asking the page lets Playwright hear of the socket's end
    wait_for("the end of the kernel's websocket", lambda: tom.page.title() and not tom.open_kernel_sockets())
    assert tom.page.evaluate("fetch('/user/tom/api/contents').then(answer => answer.status)") in (401, 403)
    tom.page.reload()
    tom.is_at("/hub/login?next=*")


def test_nobody_gets_into_somebody_elses_server(
        classroom: Box, person: Callable[..., Person], visitor: Callable[..., Visitor]) -> None:
    vera = person(classroom, "vera")
    vera.to_lab()
    mallory = person(classroom, "mallory")
    mallory.to_lab()
    assert mallory.open("/user/vera/lab") == 403
    mallory.sees("That address belongs to somebody else's server.")
    assert "vera" not in mallory.page.title()
    # nor by any script of a page of mallory's own
    mallory.open("/user/mallory/lab")
    for path in ("/user/vera/api/contents", "/user/vera/api/kernels"):
        assert mallory.page.evaluate("path => fetch(path).then(answer => answer.status)", path) in (401, 403)

    # vera's key alone, in a browser without her session: the key names the session, so it opens while that lives …
    key = [cookie for cookie in vera.context.cookies() if cookie["name"].startswith("appliance-server-")]
    thief = visitor(classroom)
    thief.context.add_cookies([{"name": key[0]["name"], "value": key[0]["value"], "domain": "127.0.0.1",
                                "path": "/user/mallory/"}])
    assert thief.open("/user/mallory/lab") != 403    # … but never another server
    thief.is_at("/hub/login?next=*")
    thief.context.add_cookies([{"name": key[0]["name"], "value": key[0]["value"], "domain": "127.0.0.1",
                                "path": "/user/vera/"}])
    vera.open("/hub/home")
    vera.click("Sign out")
    thief.open("/user/vera/lab")                     # … and no longer than the session
    thief.is_at("/hub/login?next=*")


def test_link_into_a_stopped_server_starts_it_and_leads_there(classroom: Box, person: Callable[..., Person]) -> None:
    dora = person(classroom, "dora")
    classroom.put("dora", "notes.ipynb", NOTEBOOK)
    dora.sign_in()
    dora.open("/user/dora/lab/tree/notes.ipynb")
    dora.sees("Your files are kept.")
    dora.sees("lab/tree/notes.ipynb")
    assert not classroom.containers("dora")          # a link alone starts nothing
    dora.click("Start my server")
    dora.is_at("/user/dora/lab/tree/notes.ipynb")
    expect(dora.cells.first).to_contain_text("a note")


def test_user_redirect_keeps_its_query(classroom: Box, person: Callable[..., Person]) -> None:
    ruth = person(classroom, "ruth")
    ruth.sign_in("/hub/user-redirect/api/contents?content=0&note=a%20b%26c")
    ruth.is_at("/user/ruth/api/contents?content=0&note=a%20b%26c")
    expect(ruth.page.locator("body")).to_contain_text('"type": "directory"')


def test_password_set_by_somebody_else_has_to_be_changed_first(classroom: Box, person: Callable[..., Person]) -> None:
    fred = person(classroom, "fred", must_change=True)
    fred.sign_in("/hub/spawn")
    fred.is_at("/hub/change-password*")
    fred.open("/hub/home")
    fred.is_at("/hub/change-password*")
    fred.page.get_by_label("Present password").fill(fred.password)
    fred.page.get_by_label("New password", exact=True).fill("my own three words")
    fred.page.get_by_label("New password, once more").fill("my own three words")
    fred.click("Change password")
    fred.is_at("/hub/home")
    fred.click("Sign out")
    fred.sign_in(password=fred.password)
    fred.sees("do not fit together")
    fred.sign_in(password="my own three words")
    fred.is_at("/hub/home")


def test_admin_sees_everybody_and_stops_and_starts_their_servers(classroom: Box, person: Callable[..., Person]) -> None:
    stella = person(classroom, "stella")
    stella.to_lab()
    teacher = person(classroom, "teacher", admin=True)
    teacher.sign_in("/hub/admin")
    row = teacher.page.get_by_role("row").filter(has=teacher.page.get_by_role("rowheader", name="stella"))
    expect(row).to_contain_text("Running")
    row.get_by_role("button", name="Stop the server of stella").click()
    wait_for("the container's end", lambda: not classroom.containers("stella"))
    teacher.open("/hub/admin?q=stella")
    expect(row).to_contain_text("Not running")
    expect(teacher.page.get_by_role("rowheader")).to_have_text([re.compile("stella")])
    row.get_by_role("button", name="Start the server of stella").click()
    wait_for("a new container", lambda: classroom.containers("stella"))
    stella.open("/hub/admin")
    stella.sees("This page is for teachers and admins.")


NOTEBOOK = """{"cells": [{"cell_type": "code", "id": "a", "execution_count": null, "metadata": {}, "outputs": [],
 "source": ["# a note"]}], "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
 "nbformat": 4, "nbformat_minor": 5}"""
