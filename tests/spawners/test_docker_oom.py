"""That memory ran out is known also where the engine's own word for it is missing. The engine is not what is under test:
its two orders of the same news cannot be called for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from appliance.spawners.docker_oom import ran_out_of_memory

pytestmark = pytest.mark.unit


class Client:
    """Answers as docker-py's does; it notes what it was asked for."""

    def __init__(self, *events: dict[str, Any]) -> None:
        self.told = events
        self.asked: dict[str, Any] = {}
        self.read = 0

    def events(self, **asked: Any) -> Iterator[dict[str, Any]]:
        self.asked = asked
        for event in self.told:
            self.read += 1
            yield event


def event(action: str, **attributes: str) -> dict[str, Any]:
    return {"Action": action, "Actor": {"ID": "abc", "Attributes": attributes}}


def ended(code: int = 137, *, oom: bool = False, limit: int = 32 << 20) -> dict[str, Any]:
    return {"Id": "abc", "HostConfig": {"Memory": limit},
            "State": {"Status": "exited", "ExitCode": code, "OOMKilled": oom,
                      "StartedAt": "2026-11-23T04:32:37.749563123Z", "FinishedAt": "2026-11-23T04:32:38.249563123Z"}}


@pytest.mark.parametrize(("events", "expected"), [
    ([event("oom")], True),
    ([event("kill", signal="15"), event("oom")], True),
    ([event("kill", signal="9"), event("oom")], False),
    ([event("kill", signal="SIGKILL"), event("oom")], False),
    ([], False)])
def test_where_the_state_cannot_know_the_events_tell(events: list[dict[str, Any]], expected: bool) -> None:
    assert ran_out_of_memory(Client(*events), ended()) is expected


def test_nobody_waits_longer_than_for_the_answer() -> None:
    client = Client(event("oom"), event("kill", signal="9"))
    ran_out_of_memory(client, ended())
    assert client.read == 1
    began, until = (datetime.fromtimestamp(float(client.asked[key]), UTC) for key in ("since", "until"))
    assert began == datetime(2026, 11, 23, 4, 32, 37, 749563, UTC)
    assert 1.5 < (until - began).total_seconds() < 6
    assert client.asked["filters"]["container"] == "abc"


@pytest.mark.parametrize(("found", "expected"), [
    (ended(oom=True), True), (ended(0), False), (ended(143), False), (ended(limit=0), False)])
def test_what_is_known_is_not_asked_for(found: dict[str, Any], expected: bool) -> None:
    client = Client(event("oom"))
    assert ran_out_of_memory(client, found) is expected
    assert client.asked == {}
