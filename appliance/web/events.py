"""A start as a stream of server-sent events, in JupyterHub's shape."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from appliance.domain.server import Server
from appliance.web import words

if TYPE_CHECKING:
    from appliance.hub.hub import Hub

TICK_S = 1.0      # the bar moves and the place in line is told also while nothing happens
_LONGEST_S = 3600


def progress_event(hub: Hub, server: Server) -> dict[str, object]:
    """Return what JupyterHub's progress API tells of a start, with our steps besides."""
    message = words.message(server, hub.servers.queue_position(server.id))
    if server.ready:
        url = hub.urls.server(server.user_name, server.name)
        return {"progress": 100, "ready": True, "message": message, "url": url, "step": words.step_of(server)}
    if is_over(server):
        return {"progress": 100, "failed": True, "message": message}
    percent = min(99, round(hub.servers.progress(server) * 100))
    return {"progress": percent, "ready": False, "message": message, "step": words.step_of(server)}


def is_over(server: Server) -> bool:
    """Nobody is working on it any more."""
    return not server.phase.pending


@dataclass
class ProgressStream(Response):
    """Tells of one server until its start is over or the browser has gone."""

    hub: Hub
    server: Server
    status_code: int = 200
    background = None

    def __post_init__(self) -> None:
        self.init_headers({"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with anyio.create_task_group() as tasks:
            self._send, self._lock = send, anyio.Lock()

            async def until_gone() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()

            tasks.start_soon(until_gone)
            tasks.start_soon(self._tick)
            with anyio.move_on_after(_LONGEST_S):
                await self._follow()
            tasks.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _follow(self) -> None:
        if is_over(self.server):
            await self._tell(self.server)
            return
        async for server in self.hub.events.follow(self.server.id):
            await self._tell(server)
            if is_over(server):
                return

    async def _tick(self) -> None:
        while True:
            await anyio.sleep(TICK_S)
            await self._tell(self.server)

    async def _tell(self, server: Server) -> None:
        async with self._lock:
            self.server = server
            data = json.dumps(progress_event(self.hub, server))
            await self._send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})
