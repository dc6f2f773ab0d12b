"""What browsers and programs are told while the Hub is away."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from box import REPOSITORY, wait_for
from compose_box import IMAGES, AtWork, ComposeBox, build, capabilities
from student import Student

PAGE = (REPOSITORY / "images/holding/www/holding.html").read_text()
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.mark.unit
def test_the_page_looks_as_the_hubs_pages_do() -> None:
    style = (REPOSITORY / "appliance/web/static/style.css").read_text()

    def colours(text: str) -> list[dict[str, str]]:
        """Those of light and of dark."""
        return [dict(re.findall(r"(--[a-z-]+): (#[0-9a-f]{6});", block)) for block in re.findall(r":root \{([^}]*)\}", text)]

    ours, theirs = colours(PAGE), colours(style)
    assert len(ours) == len(theirs) == 2
    for mine, all_of_them in zip(ours, theirs, strict=True):
        assert len(mine) > 5
        assert mine.items() <= all_of_them.items()


@pytest.mark.unit
def test_the_page_asks_nobody_for_anything() -> None:
    assert not re.findall(r"(?:src|href)=\"(?!\")|url\(|@import|<script|<form|https?://(?!www\.w3\.org/2000/svg)", PAGE)
    assert '<html lang="en">' in PAGE
    assert '<meta http-equiv="refresh" content="3">' in PAGE


@pytest.fixture(scope="module")
def box() -> Iterator[ComposeBox]:
    build(*IMAGES)
    with ComposeBox() as made:
        yield made


@pytest.fixture(scope="module")
def student(box: ComposeBox) -> Iterator[Student]:
    with box.person() as person:
        person.to_server()
        yield person


@pytest.fixture
def away(box: ComposeBox, student: Student) -> Iterator[ComposeBox]:
    """The box while its Hub is away."""
    box.compose("stop", "hub")
    try:
        yield box
    finally:
        box.compose("start", "hub")
        box.wait_hub()


@pytest.mark.engine
def test_people_are_shown_a_page_that_tries_again_and_programs_get_json(away: ComposeBox, student: Student) -> None:
    with httpx.Client(base_url=away.url, trust_env=False, follow_redirects=False) as client, AtWork(student) as work:
        for path in ("/", "/hub/login?next=%2Fhub%2Fapi", "/hub/home", "/user/nobody/lab/tree/x.ipynb?token=abc",
                     "/user/admin/lab"):
            answer = client.get(path, headers=HTML)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "3"), path
            assert answer.text == PAGE
            assert answer.headers["Cache-Control"] == "no-store"
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert not {"set-cookie", "location"} & set(answer.headers)
        assert client.post("/hub/login", data={"username": "ada", "password": "x" * 5000}, headers=HTML).text == PAGE
        assert client.head("/hub/home", headers=HTML).status_code == 503
        for method, path, accept in (("GET", "/hub/api/users", "text/html"), ("POST", "/hub/api/users/ada/server", "*/*"),
                                     ("DELETE", "/hub/home", "application/json"), ("GET", "/user/nobody/api/status", "*/*")):
            answer = client.request(method, path, headers={"Accept": accept})
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "3")
            assert answer.json() == {"status": 503, "message": "The box is being updated. Please try again in a few seconds."}
        work.check()


@pytest.mark.engine
def test_the_page_is_gone_as_soon_as_the_hub_is_back(box: ComposeBox, student: Student) -> None:
    box.compose("stop", "hub")
    with httpx.Client(base_url=box.url, trust_env=False) as client:
        assert client.get("/hub/login", headers=HTML).status_code == 503
        box.compose("start", "hub")
        wait_for("the sign-in", lambda: client.get("/hub/login", headers=HTML).status_code == 200, 30)
        assert "One moment" not in client.get("/hub/login", headers=HTML).text
        # what the Hub itself answers is its own, whatever the status
        assert client.get("/hub/nothing-here", headers=HTML).status_code == 404
        assert client.get("/hub/api/users").status_code == 403
    assert student.get("/hub/home").status_code == 200


@pytest.mark.engine
def test_without_it_a_hub_that_is_away_is_a_short_word_and_nobody_who_works_notices(away: ComposeBox, student: Student) -> None:
    away.compose("stop", "holding")
    with AtWork(student) as work:
        answer = httpx.get(f"{away.url}/hub/login", headers=HTML, trust_env=False)
        assert answer.status_code == 503
        assert len(answer.text) < 100
        work.check()
    away.compose("start", "holding")
    wait_for("the page", lambda: httpx.get(f"{away.url}/hub/login", headers=HTML, trust_env=False).text == PAGE, 10)


@pytest.mark.engine
def test_it_may_nothing_and_listens_to_this_machine_alone(box: ComposeBox, student: Student) -> None:
    container = box.container("holding")
    assert capabilities(box.pid("holding")) == capabilities(box.pid("holding"), "CapBnd") == set()
    assert container.attrs["Config"]["User"] == "65534:65534"
    assert container.attrs["HostConfig"]["ReadonlyRootfs"]
    assert not container.attrs["Mounts"]
    port = int(box.environment["APPLIANCE_HOLDING_PORT"])
    gateway = box.environment["APPLIANCE_SUBNET"].replace(".0/24", ".1")
    said = student.run_cell(f"import socket\ns = socket.socket(); s.settimeout(2)\nprint(s.connect_ex(('{gateway}', {port})))")
    assert said.strip() not in ("", "0")
    lines = [line for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    listens = [line.split()[1:4] for line in lines]
    ours = [local for local, _, state in listens if state == "0A" and local.endswith(f":{port:04X}")]
    assert ours == [f"0100007F:{port:04X}"]


@pytest.mark.engine
def test_it_ends_when_the_machine_does(box: ComposeBox) -> None:
    """Systemd sends SIGTERM to whatever is left, and waits a minute and a half for it."""
    before, began = box.pid("holding"), time.monotonic()
    os.kill(before, signal.SIGTERM)
    wait_for("its end", lambda: not Path(f"/proc/{before}").exists(), 5)
    assert time.monotonic() - began < 2
    wait_for("the next", lambda: box.pid("holding") not in (0, before), 20)


@pytest.mark.engine
def test_nothing_but_its_two_answers_can_be_had_from_it(away: ComposeBox) -> None:
    """Whatever a browser asks reaches it as one question only."""
    with httpx.Client(base_url=away.url, trust_env=False) as client:
        for path in ("/cgi-bin/holding", "/busybox", "/../busybox", "/cgi-bin/../../busybox", "/holding.html",
                     "/hub/x?%24(id)=%60id%60"):
            answer = client.get(path, headers=HTML)
            assert (answer.status_code, answer.text) == (503, PAGE), path
