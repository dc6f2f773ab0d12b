"""Unmodified jupyterhub-singleuser in a container: once let in by the edge alone, once by its own OAuth redirects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from box import Box, wait_for
from client_images import ensure_image
from student import SCRIPT, Student

from appliance.domain.server import Phase

pytestmark = pytest.mark.clients

FOLDER = Path(__file__).parent / "singleuser"
CONFIG = """
c.DockerSpawner.image = "{image}"
c.Spawner.inject_token = {inject}
c.Spawner.http_timeout = 90
"""


@dataclass(frozen=True)
class School:
    box: Box
    version: str
    injects: bool

    def api_url(self, name: str) -> str:
        """Return the Hub's API as a student's container sees it."""
        return self.environment(name)["JUPYTERHUB_API_URL"]

    def environment(self, name: str) -> dict[str, str]:
        entries = self.box.container(name).attrs["Config"]["Env"]
        return dict(entry.split("=", 1) for entry in entries)

    def ask_hub(self, name: str, token: str) -> httpx.Response:
        """Ask from the host what a program in a student's container would."""
        return httpx.get(f"{self.api_url(name)}/user", headers={"Authorization": f"token {token}"}, trust_env=False)

    def direct(self, name: str) -> httpx.Client:
        """Return a client of the program in the container, past the edge, as only the host can reach it."""
        server = self.box.server(name)
        assert server is not None
        return httpx.Client(base_url=server.url, trust_env=False, timeout=30)


@pytest.fixture(scope="module", params=["6.1.1", "5.5.4"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=[True, False], ids=["by the edge", "by redirects"])
def school(request: pytest.FixtureRequest, version: str) -> Iterator[School]:
    image = ensure_image(f"singleuser-{version}", FOLDER, below="tools", arguments={"JUPYTERHUB": version})
    with Box(CONFIG.format(image=image, inject=request.param)) as box:
        yield School(box, version, request.param)


def ask(student: Student, method: str, path: str, **more: Any) -> httpx.Response:
    """Ask the student's own server as Lab's scripts do, which repeat the cookie of its XSRF protection, if it has one."""
    xsrf = [cookie.value or "" for cookie in student.client.cookies.jar
            if cookie.name == "_xsrf" and cookie.path == student.prefix]
    headers = SCRIPT | {"Origin": student.url} | ({"X-XSRFToken": xsrf[0]} if xsrf else {})
    return student.client.request(method, f"{student.prefix}api/{path}", headers=headers, follow_redirects=False, **more)


def who_am_i(student: Student) -> str:
    response = ask(student, "GET", "me")
    return str(response.json()["identity"]["username"]) if response.status_code == 200 else str(response.status_code)


def open_lab(school: School, student: Student) -> None:
    """Open one's own server as a browser does, and check the way it went."""
    response = student.get(f"{student.prefix}lab")
    assert response.status_code == 200, f"{response.status_code} {response.text[:2000]}"
    assert "jupyter-config-data" in response.text
    way = [str(step.url) for step in response.history]
    went_round = any("/hub/api/oauth2/authorize?" in url for url in way)
    assert went_round is not school.injects, way
    assert any("/oauth_callback?" in url for url in way) is went_round
    assert ("jupyterhub-user-" + student.name in student.cookies) is went_round


def token_of(school: School, student: Student) -> str:
    """Return what the edge adds to this browser's requests."""
    return school.environment(student.name)["JUPYTER_TOKEN"]


def test_the_owner_is_signed_in_and_works(school: School) -> None:
    with school.box.student("alice") as alice:
        alice.to_server()
        open_lab(school, alice)
        assert who_am_i(alice) == "alice"
        page = alice.get(f"{alice.prefix}hub/home", follow=False)
        assert page.status_code in (302, 404)
        version = school.box.container("alice").exec_run(["python3", "-c", "import jupyterhub; print(jupyterhub.__version__)"])
        assert version.output.decode().strip() == school.version
        body = {"type": "file", "format": "text", "content": "hers"}
        assert ask(alice, "PUT", "contents/note.txt", json=body).status_code == 201
        assert ask(alice, "GET", "contents/note.txt").json()["content"] == "hers"
        if school.injects:
            assert alice.run_cell("print(6 * 7)") == "42\n"
        else:
            assert alice.api("PUT", "contents/note.txt", json=body).status_code == 403, "the server's own protection holds"


def test_it_tells_the_hub_that_somebody_works(school: School) -> None:
    with school.box.student("busy") as busy:
        busy.to_server()
        wait_for("its activity", lambda: (server := school.box.server("busy")) and server.last_activity_at)
        log = school.box.container("busy").logs().decode()
        assert "Failed to connect to my Hub" not in log
        assert "Error notifying Hub of activity" not in log


def test_nobody_else_gets_in(school: School) -> None:
    with school.box.student("carol") as carol, school.box.student("dave") as dave:
        carol.to_server()
        open_lab(school, carol)
        assert dave.get(f"{carol.prefix}lab").status_code == 403
        dave.to_server()
        open_lab(school, dave)
        tokens = {name: school.box.token(name) for name in ("carol", "dave")}
        with school.direct("carol") as container:
            path = f"{carol.prefix}api/contents"
            assert container.get(path).status_code == 403

            def as_who(token: str) -> int:
                return container.get(path, headers={"Authorization": f"token {token}"}).status_code

            assert as_who(tokens["carol"]) == 200
            assert as_who(tokens["dave"]) == 403
            assert as_who(school.environment("dave")["JUPYTERHUB_API_TOKEN"]) == 403
            assert as_who("nobody-s-token-at-all-0123456789") == 403
            if school.injects:
                assert as_who(token_of(school, carol)) == 200
                assert as_who(token_of(school, dave)) == 403
        # past the edge somebody else is asked to sign in, and refused by the Hub
        with school.direct("carol") as container:
            sent = container.get(f"{carol.prefix}lab", headers={"Accept": "text/html"})
            assert sent.status_code == 302
            away = dave.get(sent.headers["Location"])
            assert "/hub/api/oauth2/authorize" in str(away.url)
            assert away.status_code == 403
            assert "You may not open carol&#39;s server." in away.text


def test_signing_out_ends_it_everywhere(school: School) -> None:
    with school.box.student("erin") as erin:
        erin.to_server()
        open_lab(school, erin)
        kept = erin.cookie_header(f"{erin.prefix}lab")
        left = erin.get(f"{erin.prefix}logout")
        assert left.url.path == "/hub/login", [str(step.url) for step in left.history]
        assert erin.get(f"{erin.prefix}lab").url.path == "/hub/login"
        assert not [name for name in erin.cookies if name.startswith("jupyterhub-hub-login")]
        # what the browser had opens nothing: not at the edge, and not past it
        again = httpx.get(f"{school.box.url}{erin.prefix}api/me", headers={"Cookie": kept}, trust_env=False)
        assert again.status_code == 403
        with school.direct("erin") as container:
            cookies = "; ".join(part for part in kept.split("; ") if not part.startswith("jupyterhub-session-id="))
            assert container.get(f"{erin.prefix}api/me", headers={"Cookie": cookies}).status_code == 403


def test_the_hub_s_end_disturbs_nobody(school: School) -> None:
    with school.box.student("frank") as frank:
        frank.to_server()
        open_lab(school, frank)
        school.box.kill()
        assert who_am_i(frank) == "frank"
        school.box.start()
        assert who_am_i(frank) == "frank"
        own = school.environment("frank")["JUPYTERHUB_API_TOKEN"]
        assert school.ask_hub("frank", own).status_code == 200
        # a new sign-in from another browser to the same, running server
        with school.box.student("frank") as elsewhere:
            elsewhere.wait_ready()
            open_lab(school, elsewhere)
            assert who_am_i(elsewhere) == "frank"


def test_what_a_stopped_server_knew_is_refused(school: School) -> None:
    with school.box.student("grace") as grace:
        grace.to_server()
        open_lab(school, grace)
        environment = school.environment("grace")
        url = f"{environment['JUPYTERHUB_API_URL']}/user"
        known = [environment["JUPYTERHUB_API_TOKEN"], *([environment["JUPYTER_TOKEN"]] if school.injects else [])]

        def still_known() -> list[int]:
            return [httpx.get(url, headers={"Authorization": f"token {token}"}, trust_env=False).status_code
                    for token in known]

        assert still_known() == [200] * len(known)
        grace.stop()
        school.box.wait_phase("grace", Phase.STOPPED)
        assert still_known() == [403] * len(known)
        refused = httpx.get(url, headers={"Authorization": f"token {known[0]}"}, trust_env=False)
        assert refused.json()["status"] == 403
        assert refused.json()["message"]
        # the browser's cookies of the first start, in the home's cookie secret still good, open nothing of the next
        grace.to_server()
        assert school.environment("grace")["JUPYTERHUB_API_TOKEN"] not in known
        assert still_known() == [403] * len(known)
        open_lab(school, grace)
        assert who_am_i(grace) == "grace"
