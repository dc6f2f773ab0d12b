"""What happens to our containers, as the engine tells it: a stream read in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any

from docker import APIClient

from appliance.errors import ApplianceError
from appliance.spawners.docker_container import NAMESPACE, SERVER
from appliance.spawners.docker_engine import ENGINE_ERRORS, Engine

log = logging.getLogger(__name__)
_KINDS = ["create", "start", "die", "oom", "kill", "stop", "destroy", "pause", "unpause", "restart", "rename"]
_RETRY_S = 0.25
_RETRY_MOST_S = 2.0


class Events:
    """Puts the id of each server that may have changed into `queue`, and "" when a connection was made or broke off.

    `on_start` is called in the thread when a container of ours was started, by whomever.
    """

    def __init__(self, engine: Engine, namespace: str, on_start: Callable[[], None]) -> None:
        self._engine = engine
        self._filters = {"type": "container", "event": _KINDS, "label": f"{NAMESPACE}={namespace}"}
        self._on_start = on_start
        self._loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[str] = asyncio.Queue()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._stream: Any = None
        self._thread = threading.Thread(target=self._read, name="docker-events", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, promptly and from any thread."""
        self._ended.set()
        with self._lock:
            self._cut()

    def _read(self) -> None:
        pause = _RETRY_S
        while not self._ended.is_set():
            try:
                client = self._engine.client()
            except ApplianceError:
                self._ended.wait(pause)
                pause = min(2 * pause, _RETRY_MOST_S)
                continue
            pause = _RETRY_S
            try:
                self._follow(client)
            except ENGINE_ERRORS as error:
                log.warning("The Docker Engine's event stream broke off: %s", error)
            finally:
                client.close()
            self._ended.wait(_RETRY_S)

    def _follow(self, client: APIClient) -> None:
        with self._lock:
            if self._ended.is_set():
                return
            self._stream = client.events(filters=self._filters, decode=True)
        try:
            self._tell("")  # whatever happened before this moment was not seen
            for event in self._stream:
                if event.get("Action") == "start":
                    with contextlib.suppress(ApplianceError):  # the next start, or the next look, says it
                        self._on_start()
                if server_id := str(event.get("Actor", {}).get("Attributes", {}).get(SERVER, "")):   # else a service's
                    self._tell(server_id)
        finally:
            with self._lock:
                self._cut()
            self._tell("")  # the engine may have gone, and servers with it

    def _tell(self, server_id: str) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self.queue.put_nowait, server_id)

    def _cut(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            with contextlib.suppress(OSError, AttributeError):
                stream.close()
