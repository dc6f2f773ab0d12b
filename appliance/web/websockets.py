"""A websocket that the proxy did not route is answered like the request it began as, never accepted."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_DENIAL = "websocket.http.response"


class RefuseWebSockets:
    """ASGI middleware, outermost: hands the handshake to the application as the plain GET that it is."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        can_tell_why = _DENIAL in scope.get("extensions", {})

        async def receive_nothing() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send_denial(message: Message) -> None:
            if can_tell_why:
                await send({**message, "type": f"websocket.{message['type']}"})
            elif message["type"] == "http.response.start":
                await send({"type": "websocket.close", "code": 1008})

        await receive()     # websocket.connect
        await self.app({**scope, "type": "http", "method": "GET"}, receive_nothing, send_denial)
