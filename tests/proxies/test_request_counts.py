"""What Traefik counts is what browsers asked servers for: nothing of the Hub's, nothing that was refused."""

from __future__ import annotations

import pytest
from proxy_box import Box

from appliance.proxies.traefik_api import read_counts
from appliance.testing.proxies import cookie_of, make_route

pytestmark = pytest.mark.anyio

METRICS = """\
# HELP traefik_service_requests_total How many requests were processed.
# TYPE traefik_service_requests_total counter
traefik_service_requests_total{code="200",method="GET",protocol="http",service="server-k3f9@file"} 3
traefik_service_requests_total{code="101",method="GET",protocol="websocket",service="server-k3f9@file"} 1e+00
traefik_service_requests_total{code="502",method="GET",protocol="http",service="server-k3f9@file"} 40
traefik_service_requests_total{code="200",method="GET",protocol="http",service="hub@file"} 7
traefik_service_requests_total{code="200",method="GET",protocol="http",service="service-server-x@file"} 7
traefik_service_requests_bytes_total{code="200",method="GET",protocol="http",service="server-k3f9@file"} 900
process_start_time_seconds 1.76e+09
"""


@pytest.mark.unit
def test_only_servers_are_counted_and_only_what_reached_them() -> None:
    assert read_counts(METRICS) == ("1.76e+09", {"k3f9": 4})
    assert read_counts(METRICS.replace("process_start", "x")) is None


async def counts(box: Box) -> dict[str, int]:
    said = await box.proxy.request_counts()
    assert said is not None
    return dict(said[1])


@pytest.mark.engine
async def test_requests_that_reach_a_server_are_counted_and_no_others(box: Box) -> None:
    box.one.answer = box.two.answer = lambda request: None
    alice = make_route(box.one.url)
    bob = make_route(box.two.url, server_id="bobsserver", prefix="/user/bob/", capabilities=("bob.1.owner.MAC",))
    await box.serve(alice, bob)
    before = await counts(box)
    for _ in range(3):
        assert (await box.ask("/user/alice/lab", f"Cookie: {cookie_of(alice)}")).served_by == "one"
    assert (await box.ask("/user/alice/api", "Authorization: token good")).served_by == "one"
    for headers in ((), ("Cookie: a=b",), ("Authorization: token bad",), (f"Cookie: {cookie_of(alice)}", "Origin: http://evil")):
        assert (await box.ask("/user/alice/lab", *headers)).served_by != "one"
    assert (await box.ask("/hub/login")).served_by == "hub"
    after = await counts(box)
    assert after.get("k3f9k3f9", 0) - before.get("k3f9k3f9", 0) == 4
    assert after.get("bobsserver", 0) == before.get("bobsserver", 0)


@pytest.mark.engine
async def test_a_new_version_of_a_route_goes_on_counting_and_another_hub_sees_the_same(box: Box) -> None:
    box.one.answer = lambda request: None
    alice = make_route(box.one.url)
    await box.serve(alice)
    await box.ask("/user/alice/lab", f"Cookie: {cookie_of(alice)}")
    before = await box.proxy.request_counts()
    assert before is not None
    renewed = make_route(box.one.url, start_no=2, capabilities=("session.2.owner.new",))
    await box.serve(renewed)
    await box.ask("/user/alice/lab", f"Cookie: {cookie_of(renewed)}")
    after = await box.proxy.request_counts()
    assert after is not None
    assert (after[0], after[1]["k3f9k3f9"]) == (before[0], before[1]["k3f9k3f9"] + 1)
    proxy = box.another_hub()
    await proxy.start()
    assert await proxy.request_counts() == after


@pytest.mark.engine
async def test_traefik_started_anew_counts_anew(own_box: Box) -> None:
    own_box.one.answer = lambda request: None
    alice = make_route(own_box.one.url)
    await own_box.serve(alice)
    before = await own_box.proxy.request_counts()
    await own_box.proxy.stop()
    assert await own_box.proxy.request_counts() is None
    await own_box.proxy.start()
    await own_box.serve(alice)
    after = await own_box.proxy.request_counts()
    assert before is not None
    assert after is not None
    assert after[0] != before[0]
