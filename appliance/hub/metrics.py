"""What the box tells Prometheus. JupyterHub's names where the meaning is the same, else ours.

No label names a person, an image or an address; all have few values.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import anyio
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from appliance.domain.names import SMOKE_USER
from appliance.domain.server import Phase, Server

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LAG_EVERY_S = 1.0
_SPAWN_BUCKETS = (0.5, 1, 1.5, 2, 3, 5, 10, 15, 30, 60, 120)
_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_LOGIN_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@dataclass(frozen=True)
class State:
    """What is counted when somebody asks. None: not known here."""

    servers: Mapping[Phase, int] = field(default_factory=dict)
    users: int | None = None
    archived_users: int | None = None
    active_users: Mapping[str, int] = field(default_factory=dict)      # by period: 24h, 7d, 30d
    queue_length: int = 0
    problems: tuple[str, ...] = ()                                      # codes
    slice_memory_bytes: int | None = None
    slice_memory_limit_bytes: int | None = None
    homes_size_bytes: int | None = None
    homes_available_bytes: int | None = None


@dataclass(frozen=True)
class MetricsAccess:
    """Who may read. token_file: holds what a Prometheus sends; read each time, so that it can be changed."""

    authenticate: bool = True
    token_file: Path | None = None

    def fits(self, token: str) -> bool:
        if self.token_file is None:
            return False
        try:
            known = self.token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return False
        return len(known) >= 16 and hmac.compare_digest(known.encode(), token.strip().encode("utf-8", "replace"))


class Metrics:
    """One box's instruments; nothing is global, so that two can live in one process."""

    def __init__(self, version: str = "") -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Histogram(
            "jupyterhub_request_duration_seconds", "Duration of the Hub's answers.", ["method", "code", "handler"],
            registry=registry, buckets=_REQUEST_BUCKETS)
        self._spawns = Histogram(
            "jupyterhub_server_spawn_duration_seconds", "From the click to the open door, or to the failure.", ["status"],
            registry=registry, buckets=_SPAWN_BUCKETS)
        self._stops = Histogram(
            "jupyterhub_server_stop_seconds", "Time a server took to stop.", ["status"], registry=registry,
            buckets=_SPAWN_BUCKETS)
        self._logins = Histogram(
            "jupyterhub_login_duration_seconds", "Time a sign-in took, with the wait after failed ones.", ["status"],
            registry=registry, buckets=_LOGIN_BUCKETS)
        self._routes_added = Histogram(
            "jupyterhub_proxy_add_duration_seconds", "Time until the proxy served a server's route.", ["status"],
            registry=registry, buckets=_REQUEST_BUCKETS)
        self._routes_removed = Histogram(
            "jupyterhub_proxy_delete_duration_seconds", "Time until the proxy had forgotten a server's route.", ["status"],
            registry=registry, buckets=_REQUEST_BUCKETS)
        for status in ("success", "failure"):
            self._routes_added.labels(status)
            self._routes_removed.labels(status)
            self._logins.labels(status)
            self._spawns.labels(status)
            self._stops.labels(status)
        self._startup = Gauge(
            "jupyterhub_hub_startup_duration_seconds", "Time until the Hub let browsers in.", registry=registry)
        self._failures = Counter(
            "appliance_server_failures", "Servers that could not start or ended by themselves, by cause.", ["code"],
            registry=registry)
        self._lag = Histogram(
            "appliance_event_loop_lag_seconds", "How late the Hub's event loop wakes up; high means it is overloaded.",
            registry=registry, buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5))
        Gauge("appliance_build_info", "The version that runs.", ["version"], registry=registry).labels(version).set(1)
        self._running = Gauge("jupyterhub_running_servers", "Servers that let their owner in.", registry=registry)
        self._users = Gauge("jupyterhub_total_users", "Accounts that are not archived.", registry=registry)
        self._archived = Gauge("appliance_archived_users", "Accounts that are archived.", registry=registry)
        self._active = Gauge("jupyterhub_active_users", "People who were seen in this period.", ["period"], registry=registry)
        self._servers = Gauge("appliance_servers", "Servers in each phase.", ["phase"], registry=registry)
        self._queue = Gauge("appliance_start_queue_length", "Servers that wait for a place to start.", registry=registry)
        self._problems = Gauge(
            "appliance_problem", "1: this keeps servers from being started now.", ["code"], registry=registry)
        self._services = Gauge("appliance_services", "Services in each phase.", ["phase"], registry=registry)
        self.services: Callable[[], Mapping[str, int]] = dict
        self._slice = Gauge("appliance_slice_memory_bytes", "Memory of all servers together.", registry=registry)
        self._slice_limit = Gauge("appliance_slice_memory_limit_bytes", "Most they may use together.", registry=registry)
        self._homes = Gauge("appliance_homes_size_bytes", "Size of the file system that homes are on.", registry=registry)
        self._homes_left = Gauge("appliance_homes_available_bytes", "What is free of it.", registry=registry)

    # -- what happens ------------------------------------------------------------------------------------------------
    def request(self, method: str, handler: str, code: int, seconds: float) -> None:
        """handler: the entry of the table of addresses, never the address."""
        self._requests.labels(method if method in _METHODS else "other", str(code), handler).observe(seconds)

    def signed_in(self, seconds: float, *, ok: bool) -> None:
        """ok: the name and the password fit together."""
        self._logins.labels("success" if ok else "failure").observe(seconds)

    def hub_started(self, seconds: float) -> None:
        self._startup.set(seconds)

    def spawned(self, server: Server, *, ok: bool) -> None:
        if server.started_at is not None and server.user_name != SMOKE_USER:
            self._spawns.labels("success" if ok else "failure").observe(_since(server.started_at))

    def stopped(self, server: Server, *, ok: bool) -> None:
        if server.user_name != SMOKE_USER:
            self._stops.labels("success" if ok else "failure").observe(_since(server.phase_at))

    def failed(self, server: Server, code: str) -> None:
        """A server, in whatever phase it was, has failed."""
        if server.user_name == SMOKE_USER:
            return
        self._failures.labels(code).inc()
        if server.phase is Phase.STOPPING:
            self.stopped(server, ok=False)
        elif server.phase is not Phase.READY:
            self.spawned(server, ok=False)

    @contextmanager
    def route_change(self, *, removes: bool) -> Iterator[None]:
        """Measure how long the proxy takes to do what is done within."""
        began_at, status = time.perf_counter(), "failure"
        try:
            yield
            status = "success"
        finally:
            which = self._routes_removed if removes else self._routes_added
            which.labels(status).observe(time.perf_counter() - began_at)

    async def watch_event_loop(self) -> None:
        """Measure how late sleeps end, until cancelled."""
        while True:
            before = anyio.current_time()
            await anyio.sleep(_LAG_EVERY_S)
            self._lag.observe(max(0.0, anyio.current_time() - before - _LAG_EVERY_S))

    # -- what is -----------------------------------------------------------------------------------------------------
    def render(self, state: State) -> bytes:
        """Return everything in Prometheus' text format. What is not known says NaN, so that no alarm takes it for zero."""
        for phase in Phase:
            self._servers.labels(str(phase)).set(state.servers.get(phase, 0) if state.servers else float("nan"))
        _set(self._running, state.servers.get(Phase.READY, 0) if state.servers else None)
        _set(self._users, state.users)
        _set(self._archived, state.archived_users)
        for period, count in state.active_users.items():
            self._active.labels(period).set(count)
        self._queue.set(state.queue_length)
        for service_phase, count in self.services().items():
            self._services.labels(service_phase).set(count)
        self._problems.clear()
        for code in state.problems:
            self._problems.labels(code).set(1)
        _set(self._slice, state.slice_memory_bytes)
        _set(self._slice_limit, state.slice_memory_limit_bytes)
        _set(self._homes, state.homes_size_bytes)
        _set(self._homes_left, state.homes_available_bytes)
        return generate_latest(self._registry)


def _set(gauge: Gauge, value: float | None) -> None:
    gauge.set(float("nan") if value is None else value)


def _since(at: datetime) -> float:
    return max(0.0, (datetime.now(UTC) - at).total_seconds())
