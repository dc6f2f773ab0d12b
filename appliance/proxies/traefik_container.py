"""Traefik in a container that Docker Compose keeps: adopted run by run, signalled and restarted through the engine.

Which static configuration a run has read is in a note beside it, under the time its process began, as Traefik's own API
says it. Of a run that nobody noted (the engine restarted it while no Hub was there) the files' times tell.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from appliance.errors import ApplianceError, NotFound
from appliance.ports import KeptContainer
from appliance.proxies.machine import give_to_group, write_private

_GRACE_S = 5        # Traefik's own graceTimeOut is 0.5 s


@dataclass(frozen=True)
class Run:
    started: str              # when the process began, in Traefik's words: tells it from the next
    config_hash: str          # of the static file it has read; "" if it is another than the one that is there
    watched: str              # the folder of routes at its beginning


class TraefikContainer:
    """folder: the state's, mounted read-only into the container, but for `logs` and `acme`. user_id: who runs there."""

    def __init__(self, folder: Path, control: KeptContainer, user_id: int, log: logging.Logger,
                 ask: Callable[[str], Awaitable[tuple[int, str]]]) -> None:
        self._folder, self._control, self._user_id, self._log, self._ask = folder, control, user_id, log, ask
        self._note = folder / "run.json"
        self._said = ""
        self.running: Run | None = None

    @property
    def name(self) -> str:
        return self._control.name

    @property
    def is_new(self) -> bool:
        """Say whether no Hub has ever met it, so that nobody can be connected."""
        return self.running is None and not self._note.exists()

    def ensure_folders(self) -> None:
        """Make what the container mounts: its user reads all and writes only its logs and certificates."""
        for name, owner in (("", 0), ("logs", self._user_id), ("acme", self._user_id)):
            place = self._folder / name
            place.mkdir(mode=0o750, parents=True, exist_ok=True)
            handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                owner = owner or os.geteuid()
                found = os.fstat(handle)
                if (found.st_uid, found.st_gid) != (owner, self._user_id):
                    os.fchown(handle, owner, self._user_id)
                if found.st_mode & 0o7777 != 0o750:
                    os.fchmod(handle, 0o750)
            finally:
                os.close(handle)

    def write_static(self, text: str) -> None:
        """Write the static file if it is another, so that its time says since when it is what it is."""
        path = self._folder / "static.yml"
        with suppress(OSError, UnicodeDecodeError):
            if path.read_text() == text and not path.is_symlink():
                give_to_group(path, self._user_id)
                return
        self.ensure_folders()
        write_private(path, text, group=self._user_id)

    async def settle(self, static: str, watched: str) -> bool:
        """Say whether Traefik answers and runs with `static`; restart it where it has read another.

        watched: what the folder of routes is known by now.
        """
        wanted = hashlib.sha256(static.encode()).hexdigest()
        status, body = await self._ask("/api/version")
        if status != 200:
            self.write_static(static)
            return False
        run = self._run(str(json.loads(body).get("startDate", "")), watched)
        self.write_static(static)
        if run.config_hash != wanted:
            self._log.warning("The configuration has changed: Traefik is restarted, open connections are interrupted.")
            await self.restart()
            return False
        if run != self.running:
            self.running = run
            write_private(self._note, json.dumps(asdict(run)))
            self._log.info("Traefik answers in the container %s, since %s.", self.name, run.started)
        self._said = ""
        return True

    def _run(self, started: str, watched: str) -> Run:
        if self.running is not None and self.running.started == started:
            return self.running
        with suppress(OSError, ValueError, TypeError):
            noted = Run(**json.loads(self._note.read_text()))
            if noted.started == started:
                return noted
        is_current = self._older("static.yml", started)
        config_hash = hashlib.sha256((self._folder / "static.yml").read_bytes()).hexdigest() if is_current else ""
        return Run(started, config_hash, watched if self._older("routes.id", started) else "")

    def _older(self, name: str, started: str) -> bool:
        with suppress(OSError, ValueError):
            return (self._folder / name).stat().st_mtime < datetime.fromisoformat(started).timestamp()
        return False

    async def signal(self, number: int) -> None:
        try:
            await self._control.signal(number)
        except ApplianceError as error:
            self._log.error("Traefik could not be told of a change: %s", error.evidence or error)

    async def restart(self) -> None:
        self.running = None
        try:
            await self._control.restart(_GRACE_S)
        except NotFound:
            await self.say_why_silent()
        except ApplianceError as error:
            self._log.error("Traefik could not be restarted: %s", error.evidence or error)

    async def state(self) -> str:
        """Return the engine's word, "missing" if there is no such container, "unknown" if the engine does not answer."""
        try:
            return await self._control.state() or "missing"
        except ApplianceError:
            return "unknown"

    async def say_why_silent(self, reason: str = "") -> None:
        """Log, once for each cause, what keeps people out. reason: a sentence that is known already."""
        state = await self.state()
        if state == self._said:
            return
        self._said = state
        words = {
            "running": "",
            "unknown": "Traefik does not answer, and neither does the container engine; people are let in when it does.",
            "missing": f"There is no container {self.name}, so nobody is let in. Start it: docker compose up -d traefik",
        }.get(state, f"Traefik's container {self.name} is {state}, so nobody is let in. Unless it comes back by itself, "
                     "start it: docker compose up -d traefik")
        if not words:
            return
        last = ""
        with suppress(ApplianceError):
            last = await self._control.logs(3) if state not in ("unknown", "missing") else ""
        self._log.error("%s %s%s", words, reason, f"\nIt said last: {last}" if last else "")

    async def close(self) -> None:
        await self._control.close()
