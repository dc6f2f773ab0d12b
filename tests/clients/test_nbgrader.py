"""nbgrader, unmodified, as docs/nbgrader.rst sets it up: two courses, two graders, students who fetch, submit, get feedback.

The story is told in order, on one box."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from box import Box, wait_for
from nbgrader_box import make_exchange, nbgrader_config
from student import Student

pytestmark = pytest.mark.clients

TEACHERS = {"holt": ("math7", "art7"), "lee": ("math7",)}
STUDENTS = {"ada": "return a + b", "ben": "return a - b"}       # and what each answers


@dataclass
class School:
    box: Box
    exchange: Path
    hub: httpx.Client                            # with an admin's token
    people: dict[str, Student] = field(default_factory=dict)

    def formgrader(self, name: str, course: str = "math7") -> Formgrader:
        return Formgrader(self.people[name], f"/services/{course}/", f"{self.box.namespace}-service-{course}")

    def command(self, course: str, *words: str) -> str:
        """Run a command in a course's formgrader, as one does in a terminal there."""
        done = subprocess.run(["docker", "exec", f"{self.box.namespace}-service-{course}", *words],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def members(self, group: str) -> list[str]:
        return list(self.hub.get(f"groups/{group}").raise_for_status().json()["users"])

    def home_of(self, course: str) -> Path:
        return self.box.home(f"grader-{course}")


@dataclass
class Formgrader:
    """A course's formgrader in somebody's browser, which has come there by way of the Hub."""

    person: Student
    prefix: str
    container: str

    def open(self) -> httpx.Response:
        return self.person.get(f"{self.prefix}lab?formgrader=true")

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Send what the page's script sends."""
        xsrf = next((cookie.value for cookie in self.person.client.cookies.jar
                     if cookie.name == "_xsrf" and cookie.path == self.prefix), "")
        response = self.person.client.request(
            method, self.prefix + path, content=None if body is None else json.dumps(body), timeout=120,
            headers={"Origin": self.person.url, "X-XSRFToken": xsrf or "", "Sec-Fetch-Site": "same-origin"})
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text[-1000:]}\n{self.log()}"
        return response.json()

    def log(self) -> str:
        return subprocess.run(["docker", "logs", "--tail", "60", self.container], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, check=False).stdout

    def do(self, path: str) -> str:
        """Press a button of the formgrader; return its log."""
        said = self.ask("POST", f"formgrader/api/{path}")
        assert said["success"], said
        return str(said["log"])


def notebook(answer: str = "### BEGIN SOLUTION\n    return a + b\n    ### END SOLUTION") -> dict[str, Any]:
    """An assignment as a teacher writes it: an answer to write, a test worth two points, a text that is graded by hand."""
    def cell(kind: str, source: str, **nbgrader: Any) -> dict[str, Any]:
        about = {"schema_version": 3, "solution": False, "grade": False, "locked": False, "task": False, **nbgrader}
        return {"cell_type": kind, "id": nbgrader["grade_id"], "metadata": {"nbgrader": about}, "source": source,
                **({"outputs": [], "execution_count": None} if kind == "code" else {})}

    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": {
        "name": "python3", "display_name": "Python 3", "language": "python"}}, "cells": [
        cell("code", f"def add(a, b):\n    {answer}\n", grade_id="answer", solution=True),
        cell("code", "assert add(2, 3) == 5", grade_id="test", grade=True, locked=True, points=2),
        cell("markdown", "Why?", grade_id="why", solution=True, grade=True, points=3)]}


@pytest.fixture(scope="module")
def school(class_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[School]:
    """The box of the documentation, with people who have signed in."""
    exchange = make_exchange(tmp_path_factory.mktemp("nbgrader"))
    with Box(nbgrader_config(class_image, exchange)) as box, ExitStack() as stack:
        box.add_user("admin", admin=True)
        hub = stack.enter_context(httpx.Client(
            base_url=f"{box.url}/hub/api", headers={"Authorization": f"token {box.token('admin')}"}, trust_env=False))
        school = School(box, exchange, hub)
        for name in (*TEACHERS, *STUDENTS):
            school.people[name] = stack.enter_context(box.student(name))
        yield school


def test_an_admin_makes_the_groups_of_the_courses(school: School) -> None:
    members: Mapping[str, list[str]] = {
        "formgrade-math7": ["holt", "lee", "grader-math7"], "formgrade-art7": ["holt", "grader-art7"],
        "nbgrader-math7": [], "nbgrader-art7": []}
    wait_for("the accounts of the formgraders", lambda: school.box.user("grader-math7") and school.box.user("grader-art7"))
    for group, users in members.items():
        assert school.hub.post(f"groups/{group}").status_code == 201
        if users:
            assert school.hub.post(f"groups/{group}/users", json={"users": users}).status_code == 200
    assert school.members("formgrade-math7") == ["grader-math7", "holt", "lee"]
    grader = school.box.user("grader-math7")
    assert grader is not None
    (school.exchange / "math7").mkdir(mode=0o755)
    os.chown(school.exchange / "math7", grader.uid, grader.uid)
    services = school.hub.get("services").json()
    assert {name: service["prefix"] for name, service in services.items()} == {
        "math7": "/services/math7/", "art7": "/services/art7/"}


def test_only_a_course_s_graders_open_its_formgrader(school: School) -> None:
    addresses = [f"{school.box.url}/services/{course}/api" for course in ("math7", "art7")]
    wait_for("the formgraders", lambda: all(httpx.get(url, trust_env=False).status_code == 200 for url in addresses))
    for name, course, may in (("holt", "math7", True), ("holt", "art7", True), ("lee", "math7", True), ("lee", "art7", False),
                              ("ada", "math7", False)):
        page = school.formgrader(name, course).open()
        assert page.status_code == (200 if may else 403), f"{name} {course}: {page.status_code} {page.text[:3000]}"
        assert ("jupyter-config-data" in page.text) is may


def test_a_teacher_writes_an_assignment_and_releases_it(school: School) -> None:
    math = school.formgrader("holt")
    math.ask("PUT", "formgrader/api/assignment/ps1", {"duedate_notimezone": None, "duedate_timezone": None})
    math.ask("PUT", "api/contents/math7/source/ps1/add.ipynb", {"type": "notebook", "format": "json", "content": notebook()})
    math.do("assignment/ps1/assign")
    math.do("assignment/ps1/release")
    released = (school.exchange / "math7/outbound/ps1/add.ipynb").read_text()
    assert "raise NotImplementedError" in released
    assert "SOLUTION" not in released


def test_nbgrader_s_own_commands_keep_the_course_s_list_of_students(school: School) -> None:
    for name in STUDENTS:
        school.command("math7", "nbgrader", "db", "student", "add", name)
    assert school.members("nbgrader-math7") == ["ada", "ben"]
    school.command("math7", "nbgrader", "db", "student", "add", "ada")      # again, which changes nothing
    school.command("math7", "nbgrader", "db", "student", "remove", "ben", "--force")
    assert school.members("nbgrader-math7") == ["ada"]
    school.command("math7", "nbgrader", "db", "student", "add", "ben")
    assert school.members("nbgrader-math7") == ["ada", "ben"]
    # a course is not let into another's list
    said = subprocess.run(
        ["docker", "exec", "--env", "JUPYTERHUB_SERVICE_NAME=math7", f"{school.box.namespace}-service-art7", "nbgrader", "db",
         "student", "add", "lee"], capture_output=True, text=True, check=False)
    assert "NOT added to the Jupyterhub group nbgrader-math7" in said.stderr + said.stdout
    assert school.members("nbgrader-math7") == ["ada", "ben"]


def test_students_fetch_and_submit(school: School) -> None:
    for name, answer in STUDENTS.items():
        student = school.people[name]
        student.to_server()
        assert student.script("GET", f"{student.prefix}courses").json() == {"success": True, "value": ["math7"]}
        listed = assignments(student, "GET", "?course_id=math7")
        assert [(each["assignment_id"], each["status"]) for each in listed] == [("ps1", "released")]
        listed = assignments(student, "POST", "/fetch", "ps1")
        assert [(each["assignment_id"], each["status"]) for each in listed] == [("ps1", "fetched")]
        work = student.api("GET", "contents/math7/ps1/add.ipynb").json()["content"]
        work["cells"][0]["source"] = f"def add(a, b):\n    {answer}\n"
        work["cells"][2]["source"] = f"Because {name} thinks so."
        saved = student.api("PUT", "contents/math7/ps1/add.ipynb", json={"type": "notebook", "format": "json", "content": work})
        assert saved.is_success, saved.text
        listed = assignments(student, "POST", "/submit", "ps1")
        assert [each["status"] for each in listed if each["status"] == "submitted"] == ["submitted"]
    submitted = {path.name.split("+")[0]: path for path in (school.exchange / "math7/inbound").iterdir()}
    for name in STUDENTS:
        assert submitted[name].stat().st_uid == school.box.home(name).stat().st_uid


def test_a_student_sees_nobody_else_s_work(school: School) -> None:
    ben = school.people["ben"]
    inbound = "/srv/nbgrader/exchange/math7/inbound"
    assert "PermissionError" in ben.run_cell(f"import os; print(os.listdir({inbound!r}))")
    assert "PermissionError" in ben.run_cell("open('/srv/nbgrader/exchange/math7/outbound/mine', 'w')")
    assert "PermissionError" in ben.run_cell("os.rename('/srv/nbgrader/exchange/math7', '/srv/nbgrader/exchange/mine')")
    assert assignments(ben, "GET", "?course_id=art7") == []


def test_another_grader_collects_and_grades(school: School) -> None:
    math = school.formgrader("lee")
    math.do("assignment/ps1/collect")
    for name in STUDENTS:
        math.do(f"submission/ps1/{name}/autograde")
    scores = {each["student"]: each for each in math.ask("GET", "formgrader/api/submissions/ps1")}
    assert {name: scores[name]["code_score"] for name in STUDENTS} == {"ada": 2, "ben": 0}
    for name in STUDENTS:
        found = math.ask("GET", "formgrader/api/submitted_notebooks/ps1/add")
        submission = next(each for each in found if each["student"] == name)["id"]
        grade = next(each for each in math.ask("GET", f"formgrader/api/grades?submission_id={submission}")
                     if each["name"] == "why")
        math.ask("PUT", f"formgrader/api/grade/{grade['id']}", {"manual_score": 3})
        comment = next(each for each in math.ask("GET", f"formgrader/api/comments?submission_id={submission}")
                       if each["name"] == "why")
        math.ask("PUT", f"formgrader/api/comment/{comment['id']}", {"manual_comment": f"Well said, {name}."})
    math.do("assignment/ps1/generate_feedback")
    math.do("assignment/ps1/release_feedback")
    modes = {path.name: f"{path.stat().st_mode & 0o7777:o}" for path in (school.exchange / "math7").iterdir()}
    assert modes == {"outbound": "755", "inbound": "2733", "feedback": "711"}
    # the pages of the formgrader, for the other grader too
    for person in TEACHERS:
        page = school.people[person].get("/services/math7/formgrader/manage_submissions/ps1")
        assert page.status_code == 200
        assert "frame-ancestors 'self'" in page.headers["Content-Security-Policy"]


def test_students_get_their_feedback_and_nobody_else_s(school: School) -> None:
    for name, points in (("ada", 5), ("ben", 3)):
        student = school.people[name]
        assignments(student, "POST", "/fetch_feedback", "ps1")
        pages = list((school.box.home(name) / "math7/ps1/feedback").rglob("add.html"))
        assert len(pages) == 1
        page = pages[0].read_text()
        assert f"Well said, {name}." in page
        assert re.search(rf"Score: {points}\.0 / 5\.0", page), re.findall(r"Score: [^<]*", page)
        assert not [other for other in STUDENTS if other != name and f"Well said, {other}." in page]
        assert "PermissionError" in student.run_cell("import os; os.listdir('/srv/nbgrader/exchange/math7/feedback')")


def test_the_course_list_leads_to_each_formgrader(school: School) -> None:
    for name, courses in TEACHERS.items():
        teacher = school.people[name]
        teacher.to_server()
        said = teacher.script("GET", f"{teacher.prefix}formgraders").json()
        assert said["success"], said["value"]
        assert [(each["course_id"], each["kind"]) for each in said["value"]] == [
            (course, "jupyterhub") for course in sorted(courses)]
        for each in said["value"]:
            assert each["url"] == f"{school.box.url}/services/{each['course_id']}/lab?formgrader=true"
            assert teacher.get(each["url"]).status_code == 200
    # in a student's Lab there is no formgrader of their own
    ada = school.people["ada"]
    assert ada.get(f"{ada.prefix}formgrader").status_code == 404
    assert '"@jupyter/nbgrader:formgrader"' in ada.get(f"{ada.prefix}lab").text
    assert '"@jupyter/nbgrader:formgrader"' not in school.formgrader("holt").open().text


def test_who_leaves_the_group_is_out(school: School) -> None:
    lee = school.formgrader("lee")
    assert school.hub.request("DELETE", "groups/formgrade-math7/users", json={"users": ["lee"]}).status_code == 200
    school.people["lee"].sign_out()
    school.people["lee"].sign_in()
    assert lee.open().status_code == 403


def test_a_formgrader_that_dies_comes_back_with_the_course(school: School) -> None:
    subprocess.run(["docker", "kill", f"{school.box.namespace}-service-math7"], check=True, capture_output=True)
    math = school.formgrader("holt")
    wait_for("the formgrader", lambda: math.open().status_code == 200)
    assert [each["name"] for each in math.ask("GET", "formgrader/api/assignments")] == ["ps1"]
    owners = {path.stat().st_uid for path in school.home_of("math7").rglob("*")}
    assert owners == {school.box.home("grader-math7").stat().st_uid}


def assignments(student: Student, method: str, path: str, assignment: str = "") -> list[dict[str, Any]]:
    """Ask the student's own assignment list; return its entries."""
    body = {"json": {"course_id": "math7", "assignment_id": assignment}} if assignment else {}
    response = student.script(method, f"{student.prefix}assignments{path}", **body)
    assert response.status_code == 200, response.text
    said = response.json()
    assert said["success"], said["value"]
    return list(said["value"])
