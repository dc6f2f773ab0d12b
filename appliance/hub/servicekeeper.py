"""Looks after one service: starts it again when it ends, and knows whether it answers."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import anyio

from appliance.domain.service import ServiceDefinition, ServicePhase, ServiceState
from appliance.errors import ApplianceError, EngineDown
from appliance.hub.probe import Probe
from appliance.log import redact
from appliance.ports import ServiceRunner, ServiceSpec, ServiceStart

log = logging.getLogger(__name__)

STABLE_S = 60.0            # one that ran for so long and ends is started again at once
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
FAILED_AFTER = 3           # ends in a row
KEPT_LINES = 50
LOG_PERIOD_S, LOG_LINES = 10.0, 500     # no more lines than that in the Hub's log
LOOK_S = 30.0              # between two looks at one that answers
LOOK_AGAIN_S = 0.1         # at one that does not, at first
LOOK_RARELY_S = 5.0        # and once it is late
MAY_START_S = 0.2


class ServiceKeeper:
    """One service. prefix: its path. secret: its token, for no log. changed: told when the way to it may be another."""

    def __init__(self, service: ServiceDefinition, prefix: str, secret: str, probe: Probe,
                 changed: Callable[[], Awaitable[None]]) -> None:
        self.service, self._prefix, self._secret = service, prefix, secret
        self._probe, self._changed = probe, changed
        watched = service.managed or service.has_address
        self.state = ServiceState(ServicePhase.STARTING if watched else ServicePhase.CLIENT, _now(), url=service.url)
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._quiet = False             # one that ends again and again is told of ever more rarely
        self._counted_from, self._logged, self._left_out = 0.0, 0, 0
        self._news = anyio.Event()      # set when the state changes
        self.tried = anyio.Event()      # set once it was started, or could not be for a reason of its own

    @property
    def url(self) -> str:
        """Where the proxy leads; "" while that is nowhere."""
        return self.service.url or self.state.url

    def snapshot(self) -> ServiceState:
        return replace(self.state, lines=tuple(map(redact, self._lines)))

    # -- one that the Hub runs -----------------------------------------------------------------------------------------
    async def keep(
        self, runner: ServiceRunner, spec: Callable[[], Awaitable[ServiceSpec]], may_start: Callable[[], bool],
    ) -> None:
        """Run it for ever; ends when cancelled, and the runner ends it then or leaves it running."""
        ends, said = 0, ""
        while True:
            if not may_start():
                if self.state.phase is not ServicePhase.WAITING:
                    self._enter(ServicePhase.WAITING)
                await anyio.sleep(MAY_START_S)
                continue
            self._enter(ServicePhase.STARTING, restarts=self.state.restarts)
            began_at = anyio.current_time()
            try:
                why = await self._live(runner, spec)
            except EngineDown as error:     # its container may well go on, so the way to it stays
                log.warning("Nothing is heard of the service %s: %s", self.service.name, error)
                self._enter(ServicePhase.WAITING, said=error.sentence)
                await anyio.sleep(FIRST_PAUSE_S)
                continue
            ends = 1 if anyio.current_time() - began_at >= STABLE_S else ends + 1
            pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(ends - 1, 10))
            phase = ServicePhase.FAILED if ends >= FAILED_AFTER else ServicePhase.RESTARTING
            rare = ends <= FAILED_AFTER or ends & (ends - 1) == 0
            if rare or why != said:
                log.error("The service %s has ended. %s It is started again in %.0f s.%s", self.service.name, why, pause_s,
                          f" It has ended {ends} times in a row." if ends > 1 else "")
            said, self._quiet = why, ends >= FAILED_AFTER
            self._enter(phase, said=why, restarts=self.state.restarts + 1, url="", pid=0)
            await self._told()
            await anyio.sleep(pause_s)

    async def _live(self, runner: ServiceRunner, spec: Callable[[], Awaitable[ServiceSpec]]) -> str:
        """Run it once and return why it does not run any more. Raises EngineDown."""
        why, down = "", None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._speak_up)
            try:
                why = await self._run(runner, spec)
            except EngineDown as error:
                down = error
            tasks.cancel_scope.cancel()
        if down is not None:
            raise down
        return why

    async def _speak_up(self) -> None:
        await anyio.sleep_until(anyio.current_time() + STABLE_S)
        if self._quiet:
            self._quiet = False
            log.info("The service %s runs again.", self.service.name)

    async def _run(self, runner: ServiceRunner, spec: Callable[[], Awaitable[ServiceSpec]]) -> str:
        try:
            return f"It ended {await runner.run(await spec(), self._started, self._line)}."
        except EngineDown:
            raise
        except ApplianceError as error:
            return f"{error.sentence} {error.action}"
        except Exception:
            log.exception("Running the service %s failed", self.service.name)
            return "The Hub's log tells why."

    async def _started(self, start: ServiceStart) -> None:
        if not self._quiet:
            log.info("The service %s runs%s.", self.service.name, f" as process {start.pid}" if start.pid else "")
        phase = ServicePhase.STARTING if self.service.has_address else ServicePhase.RUNNING
        self._enter(phase, pid=start.pid, url=self.service.url or start.url)
        await self._told()

    async def _told(self) -> None:
        self.tried.set()
        if self.service.container is not None:
            await self._changed()

    def _line(self, text: str) -> None:
        if self._secret:
            text = text.replace(self._secret, "[redacted]")
        self._lines.append(text)
        if not self._quiet and self._fits():
            log.info("%s: %s", self.service.name, text)

    def _fits(self) -> bool:
        """Say whether the log takes one more line: a service that prints without end fills it up no more than a busy one."""
        now = anyio.current_time()
        if now - self._counted_from >= LOG_PERIOD_S:
            if self._left_out:
                log.warning("%s: %d more lines were left out.", self.service.name, self._left_out)
            self._counted_from, self._logged, self._left_out = now, 0, 0
        self._logged += 1
        self._left_out += self._logged > LOG_LINES
        return self._logged <= LOG_LINES

    # -- does it answer? -----------------------------------------------------------------------------------------------
    async def watch(self) -> None:
        """Look for ever whether it answers, if it has an address."""
        while True:
            state = self.state
            if not self.url or state.phase not in (ServicePhase.STARTING, ServicePhase.RUNNING, ServicePhase.AWAY):
                await anyio.sleep(LOOK_AGAIN_S)
                continue
            answers = await self._answers()
            if self.state is not state:
                continue        # it has ended meanwhile, or it is another start
            if answers:
                if state.phase is not ServicePhase.RUNNING:
                    if not self._quiet:
                        log.info("The service %s answers.", self.service.name)
                    self._enter(ServicePhase.RUNNING)
                await self._until_news(LOOK_S)
                continue
            late = (_now() - state.since).total_seconds() >= self.service.timeout_s
            if state.phase is ServicePhase.RUNNING or (late and state.phase is ServicePhase.STARTING):
                said = f"It does not answer at {self.url}."
                log.warning("The service %s does not answer at %s.", self.service.name, self.url)
                self._enter(ServicePhase.AWAY, said=said)
            await self._until_news(LOOK_AGAIN_S if self.state.phase is ServicePhase.STARTING else LOOK_RARELY_S)

    async def _answers(self) -> bool:
        """Whatever it answers. One that speaks HTTPS is only knocked at: whose certificate it has is the proxy's matter."""
        if self.url.startswith("https:"):
            return await self._probe.listens(self.url if self.url.count(":") > 1 else f"{self.url}:443")
        return await self._probe.status(f"{self.url}{self._prefix}", token=None, timeout_s=5) is not None

    async def _until_news(self, longest_s: float) -> None:
        with anyio.move_on_after(longest_s):
            await self._news.wait()

    def _enter(self, phase: ServicePhase, *, said: str = "", **changes: Any) -> None:
        self.state = replace(self.state, phase=phase, since=_now(), said=said, **changes)
        self._news.set()
        self._news = anyio.Event()


def _now() -> datetime:
    return datetime.now(UTC)
