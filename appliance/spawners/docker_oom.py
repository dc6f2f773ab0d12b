"""Whether a container that ended had used all its memory; blocking, with a client that is the caller's."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from docker import APIClient

from appliance.spawners.docker_container import memory_limit, moment

_LATE_S = 3.0    # how long after the end the news was seen to come on a busy machine: 1.4 s
_KILLED = 137


def ran_out_of_memory(client: APIClient, found: Mapping[str, Any]) -> bool:
    """Read an inspected container's state, and where that cannot know, the engine's events.

    Two programs tell the engine of the kernel's kill and of the end. Where the end comes first, as on a busy machine it may,
    engine 20.10 never sets OOMKilled, and only an event that follows says why.
    """
    state = found["State"]
    ended_at = moment(state.get("FinishedAt", ""))
    if state.get("OOMKilled") or state.get("ExitCode") != _KILLED or not memory_limit(found) or ended_at is None:
        return bool(state.get("OOMKilled"))
    began_at = moment(state.get("StartedAt", "")) or ended_at
    with contextlib.closing(client.events(
            since=f"{began_at.timestamp():.6f}", until=f"{ended_at.timestamp() + _LATE_S:.6f}", decode=True,
            filters={"container": found["Id"], "event": ["oom", "kill"]})) as events:
        for event in events:
            if event.get("Action") == "oom":
                return True
            if event["Actor"]["Attributes"].get("signal") in ("9", "SIGKILL"):
                return False    # somebody ended it through the engine, so there is nothing to wait for
    return False
