"""What a single-user server is: what is wanted, in which phase it is, and what can be said about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class Wanted(StrEnum):
    RUNNING = "running"
    STOPPED = "stopped"


class Phase(StrEnum):
    """Where a server is on its way. Every phase that is not settled has a deadline."""

    STOPPED = "stopped"      # settled: there is no container
    QUEUED = "queued"        # waits for a place
    STARTING = "starting"    # the container is being made
    BOOTING = "booting"      # the container runs, its app does not answer yet
    READY = "ready"          # settled: the app answers and its route is live
    STOPPING = "stopping"    # the container is being stopped
    FAILED = "failed"        # settled: see `failure`

    @classmethod
    def down(cls) -> tuple[Phase, Phase]:
        """The phases in which there is nothing to look after."""
        return cls.STOPPED, cls.FAILED

    @property
    def pending(self) -> bool:
        return self in (Phase.QUEUED, Phase.STARTING, Phase.BOOTING, Phase.STOPPING)


@dataclass(frozen=True)
class Failure:
    code: str            # of the error's class in appliance.errors
    sentence: str        # for the student
    action: str          # for the teacher
    evidence: str = ""   # for the admin: last log lines, the engine's words


@dataclass(frozen=True)
class Server:
    """A row of the store, as everything above the store sees it."""

    id: str
    user_id: int
    user_name: str
    uid: int
    name: str                      # "" is the default server
    wanted: Wanted
    phase: Phase
    start_no: int                  # 0 before the first start
    address: str                   # the fixed IP address, or "" where the spawner needs none
    url: str                       # "http://10.77.0.7:8888" once it has one, else ""
    image: str                     # chosen for this start; "" is the spawner's default
    spec_hash: str
    phase_at: datetime
    deadline_at: datetime | None
    started_at: datetime | None    # when the current start was asked for
    ready_at: datetime | None
    last_activity_at: datetime | None
    failure: Failure | None
    user_deleted: bool = False
    user_options: Mapping[str, object] = field(default_factory=dict)   # as JupyterHub's clients send and read them
    display_name: str = ""         # of a named server, for people
    delete_when_stopped: bool = False

    @property
    def ready(self) -> bool:
        return self.phase is Phase.READY
