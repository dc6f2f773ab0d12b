"""What protects the Hub's own pages: XSRF tokens, the origin of a change, and headers on every answer."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Collection, Mapping, Sequence

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from appliance.errors import BadXsrf, ForeignOrigin

XSRF_COOKIE = "_xsrf"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})



def content_security_policy(form_leads_to: str = "") -> str:
    """form_leads_to: the origin that a form's answer redirects to, where that is not ours."""
    return "; ".join((
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'",
        f"form-action 'self' {form_leads_to}".rstrip(), "base-uri 'none'", "frame-ancestors 'none'"))


CONTENT_SECURITY_POLICY = content_security_policy()
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


# Whose contracts this Hub keeps: by it clients choose what they ask for, and single-user servers look for their own.
JUPYTERHUB_VERSION = "6.1.1"


class SecurityHeaders:
    """ASGI middleware: sets each header that the answer has not set itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.headers = _HEADERS | {"X-JupyterHub-Version": JUPYTERHUB_VERSION}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)


def make_xsrf(key: bytes, session_id: str) -> str:
    """Return a token for the session, or with "" for a browser that is not signed in."""
    nonce = secrets.token_urlsafe(16)
    return f"{nonce}.{_mac(key, session_id, nonce)}"


def xsrf_holds(key: bytes, session_id: str, token: str) -> bool:
    nonce, dot, mac = token.partition(".")
    return bool(dot) and len(token) < 100 and _same(_mac(key, session_id, nonce), mac)


def check_xsrf(key: bytes, session_id: str, cookies: Sequence[str], sent: str) -> None:
    """Raises BadXsrf unless `sent` is one of the cookie's values and was made for this session.

    A page on the same host can toss a cookie of its own at us, so a match alone says nothing.
    """
    if not any(_same(cookie, sent) for cookie in cookies) or not xsrf_holds(key, session_id, sent):
        raise BadXsrf()


def check_origin(headers: Mapping[str, str], own: Collection[str]) -> None:
    """Raises ForeignOrigin if the browser says that another site's page sent this."""
    origin = headers.get("origin")
    if (origin is not None and origin not in own) or headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise ForeignOrigin()


def _mac(key: bytes, session_id: str, nonce: str) -> str:
    message = f"xsrf\n{session_id}\n{nonce}".encode("utf-8", "replace")
    return base64.urlsafe_b64encode(hmac.new(key, message, hashlib.sha256).digest()).rstrip(b"=").decode()


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))
