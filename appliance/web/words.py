"""How states and times read to a person."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

from appliance.domain.scopes import Scope
from appliance.domain.server import Phase, Server, Wanted

# the way of a start, as the progress page lists it
STEPS = (
    (Phase.QUEUED, "Waiting for a place"),
    (Phase.STARTING, "Making your container"),
    (Phase.BOOTING, "Your notebook is starting"),
    (Phase.READY, "Opening the door"),
)
STATES = {
    Phase.STOPPED: "Not running",
    Phase.QUEUED: "Waiting for a place",
    Phase.STARTING: "Starting",
    Phase.BOOTING: "Starting",
    Phase.READY: "Running",
    Phase.STOPPING: "Stopping",
    Phase.FAILED: "Failed",
}


def shown_phase(server: Server) -> Phase:
    """Return the phase as people see it: a stop that was asked for shows at once, before anybody has begun with it."""
    return Phase.STOPPING if server.ready and server.wanted is Wanted.STOPPED else server.phase


def step_of(server: Server) -> int:
    """Return the index in STEPS of what is being done now; -1 before the first."""
    return next((i for i, (phase, _) in enumerate(STEPS) if phase is server.phase), -1)


def called(server: Server) -> str:
    """Return what a server is called in a sentence: "your server", or a named one's own name."""
    return f"“{server.display_name or server.name}”" if server.name else "your server"


def message(server: Server, queue_position: int | None = None) -> str:
    """Return one sentence about what happens with the server now."""
    if server.wanted is Wanted.STOPPED and server.phase.pending:
        return "Your server is being stopped."
    match shown_phase(server):
        case Phase.QUEUED if queue_position and queue_position > 1:
            return f"Waiting for a place: you are number {queue_position} in line."
        case Phase.QUEUED if queue_position:
            return "Waiting for a place: you are next."
        case Phase.QUEUED:
            return "Waiting for a place."
        case Phase.STARTING:
            return "Making your container."
        case Phase.BOOTING:
            return "Your notebook is starting."
        case Phase.READY:
            return "Your server is ready. Opening the door."
        case Phase.STOPPING:
            return "Ending the previous server before the new one starts."
        case Phase.FAILED if server.failure:
            return server.failure.sentence
        case Phase.FAILED:
            return "Your server could not be started. Your files are safe."
    return "Your server is not running."


def scope(said: str, known: Mapping[str, Scope], you: str = "") -> str:
    """Return what a scope allows as it continues “may …”: "read about users (only you)". you: the name of whoever reads it."""
    name, _, limit = said.partition("!")
    described = known[name].description if name in known else name
    kind, _, value = limit.partition("=")
    if not kind:
        return described
    if kind == "user" and value in ("", you):
        return f"{described} (only you)"
    if kind == "server":
        return f"{described} (only the server {value.removesuffix('/')})" if value else f"{described} (only this server)"
    which = {"user": value, "group": f"the group {value}", "service": f"the service {value}" if value else "this service"}
    return f"{described} (only {which[kind]})"


def duration(seconds: float) -> str:
    """Return "3 minutes" and the like."""
    count, unit = max(0, int(seconds)), "second"
    for size, larger in ((60, "minute"), (60, "hour"), (24, "day")):
        if count < size:
            break
        count, unit = count // size, larger
    return f"{count} {unit}{'' if count == 1 else 's'}"


def ago(at: datetime | None, now: datetime) -> str:
    """Return "3 minutes ago", "just now" or "never"."""
    if at is None:
        return "never"
    seconds = (now - at).total_seconds()
    return "just now" if seconds < 10 else f"{duration(seconds)} ago"


def clock(at: datetime) -> str:
    """Return the moment for a machine and for a tooltip."""
    return at.isoformat(timespec="seconds")


def browser(user_agent: str) -> str:
    """Return "Firefox on Linux" of a User-Agent header, as far as it can be told."""
    name = next((word for word, mark in (
        ("Edge", r"Edg(e|A|iOS)?/"), ("Opera", r"OPR/"), ("Firefox", r"Firefox/|FxiOS/"),
        ("Chrome", r"Chrome/|CriOS/|Chromium/"), ("Safari", r"Safari/"), ("a script", r"python|curl|wget|httpx"),
    ) if re.search(mark, user_agent, re.IGNORECASE)), "an unknown browser")
    system = next((word for word, mark in (
        ("Android", "Android"), ("iPhone", "iPhone"), ("iPad", "iPad"), ("ChromeOS", "CrOS"), ("Windows", "Windows"),
        ("macOS", "Mac OS"), ("Linux", "Linux"),
    ) if mark in user_agent), "")
    return f"{name} on {system}" if system else name
