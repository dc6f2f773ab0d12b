"""The list of services, and what stands at a service's address while it is away."""

from __future__ import annotations

import html

import pytest

from appliance.domain.roles import parse
from appliance.domain.service import ServicePhase

from .browser import NAVIGATION, SCRIPT, Browser
from .fakes import FakeHub

pytestmark = [pytest.mark.unit, pytest.mark.anyio]
EVIL = "<script>alert(1)</script>"


def some(hub: FakeHub) -> None:
    hub.services.put(ServicePhase.RUNNING, name="grades", url="http://127.0.0.1:9999")
    hub.services.put(ServicePhase.FAILED, "It ended with status 4.", (EVIL, "no database"), name="culler", command=["culler"])
    hub.services.put(ServicePhase.AWAY, name="board", url="http://127.0.0.1:9998")


def everybody_may_open(hub: FakeHub, *names: str) -> None:
    hub.permissions.roles = parse(
        [{"name": "user", "scopes": ["self", *(f"access:services!service={name}" for name in names)]}])


async def test_an_admin_sees_how_they_are(hub: FakeHub, desk: Browser) -> None:
    some(hub)
    text = html.unescape((await desk.get("/hub/services")).text)
    for words in ("Running", "Failed", "It ended with status 4.", "no database", "Does not answer", "run by the Hub",
                  'href="/services/grades/"'):
        assert words in text
    assert EVIL not in (await desk.get("/hub/services")).text
    assert "http://127.0.0.1:9999" not in text


async def test_a_student_sees_what_they_may_open_and_no_more(hub: FakeHub, browser: Browser) -> None:
    some(hub)
    assert "There is no service for you here." in (await browser.get("/hub/services")).text
    assert "/hub/services" not in (await browser.get("/hub/home")).text
    everybody_may_open(hub, "grades", "culler")
    text = (await browser.get("/hub/services")).text
    assert 'href="/services/grades/"' in text
    for words in ("culler", "board", "status 4", "run by the Hub"):
        assert words not in text
    assert "/hub/services" in (await browser.get("/hub/home")).text


async def test_a_stranger_is_led_to_sign_in(hub: FakeHub, stranger: Browser) -> None:
    response = await stranger.get("/hub/services")
    assert response.headers["location"].startswith("/hub/login?next=")


@pytest.mark.parametrize(("phase", "words"), [
    (ServicePhase.STARTING, "The service x is starting."), (ServicePhase.RESTARTING, "The service x is starting."),
    (ServicePhase.WAITING, "The service x is starting."), (ServicePhase.AWAY, "The service x does not answer right now."),
    (ServicePhase.RUNNING, "The service x does not answer right now."), (ServicePhase.FAILED, "The service x does not run.")])
async def test_a_service_that_is_away_says_so(hub: FakeHub, stranger: Browser, phase: ServicePhase, words: str) -> None:
    hub.services.put(phase, "It ended with status 4.", name="x", url="http://127.0.0.1:9999", command=["x"])
    for path, status in (("/services/x/a?b=1", 503),
                         ("/hub/error/service/x/502?url=http://box.test/services/x/a%3Fb=1", 502)):
        response = await stranger.get(path)
        assert (response.status_code, response.headers["retry-after"]) == (status, "5")
        assert f"Error {status}" in response.text
        assert words in response.text
        assert 'href="/services/x/a?b=1"' in response.text      # “Try again”
        assert "status 4" not in response.text
        script = await stranger.get(path, SCRIPT)
        assert (script.status_code, script.json()["status"]) == (status, status)
        assert script.json()["message"].startswith(words)


@pytest.mark.parametrize("path", ["/services/", "/services/nobody/", "/services/nobody", "/services/%78/", "/services/..%2fx/",
                                  "/services/culler/", "/services/" + "x" * 5000 + "/", "/services/<script>/"])
async def test_where_there_is_no_service_there_is_nothing(hub: FakeHub, stranger: Browser, path: str) -> None:
    some(hub)      # the culler has no address
    response = await stranger.get(path)
    assert response.status_code == 404
    assert "x" * 100 not in response.text
    assert "<script>" not in response.text


async def test_the_slash_is_added(hub: FakeHub, stranger: Browser) -> None:
    some(hub)
    response = await stranger.get("/services/grades?x=1")
    assert (response.status_code, response.headers["location"]) == (302, "/services/grades/?x=1")


@pytest.mark.parametrize("url", [
    "https://evil.example/x", "//evil.example", "/hub/logout", "/services/board/", "javascript:alert(1)", "/services/x/%0d%0a",
    "http://[", "/services/x/../../hub/"])
async def test_try_again_leads_nowhere_else(hub: FakeHub, stranger: Browser, url: str) -> None:
    hub.services.put(ServicePhase.AWAY, name="x", url="http://127.0.0.1:9999")
    response = await stranger.client.get("/hub/error/service/x/502", params={"url": url}, headers=NAVIGATION)
    assert response.status_code == 502
    assert 'href="/services/x/"' in response.text


@pytest.mark.parametrize("path", ["/hub/error/service/x/200", "/hub/error/service/nobody/502", "/hub/error/service/x/abc"])
async def test_odd_errors_are_no_page(hub: FakeHub, stranger: Browser, path: str) -> None:
    hub.services.put(ServicePhase.AWAY, name="x", url="http://127.0.0.1:9999")
    assert (await stranger.get(path)).status_code == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_nothing_there_ever_answers_200(hub: FakeHub, stranger: Browser, method: str) -> None:
    some(hub)
    for path in ("/services/grades/", "/services/nobody/", "/hub/error/service/grades/502"):
        assert (await stranger.client.request(method, path)).status_code >= 400
