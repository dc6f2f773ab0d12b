"""One request as a handler sees it: who came, from where, with what, and which cookies the answer will set."""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive

from appliance.domain.capability import cookie_name
from appliance.domain.requester import Requester
from appliance.domain.server import Server
from appliance.domain.urls import Urls, origin_of
from appliance.domain.user import Session, User
from appliance.errors import BadInput, BadNext, BodyTooLarge, MissingScope, NotSignedIn, Refused
from appliance.web import cookies, security
from appliance.web.cookies import Cookie

if TYPE_CHECKING:
    from appliance.hub.hub import Hub

MAX_BODY_BYTES = 64 * 1024
MAX_API_BODY_BYTES = 1024 * 1024
_LOCATION_SAFE = ":/%#?=@[]!$&'()*+,;{}|^`"


@dataclass
class Visit:
    request: Request
    hub: Hub
    trusted: bool = False             # it came through our own proxy, so X-Forwarded-… may be believed
    api: bool = False                 # under /hub/api: answers are JSON
    session: Session | None = None
    user: User | None = None          # of the session, or of the API token; None for a service
    requester: Requester | None = None      # who that is, and what they may; None for strangers
    cookies: dict[str, list[str]] = field(default_factory=dict)
    set_cookies: list[Cookie] = field(default_factory=list)
    _xsrf: str = ""

    @classmethod
    def of(cls, request: Request, hub: Hub, *, trust_proxy: bool = True, api: bool = False) -> Visit:
        secret = request.headers.get("x-appliance-proxy", "")
        trusted = trust_proxy and bool(hub.proxy_secret) and hmac.compare_digest(
            secret.encode(), hub.proxy_secret.encode())
        request = Request(request.scope, _limited(request, MAX_API_BODY_BYTES if api else MAX_BODY_BYTES))
        return cls(request, hub, trusted, api, cookies=cookies.parse(request.headers.getlist("cookie")))

    # -- where it came from --------------------------------------------------------------------------------------------
    @property
    def urls(self) -> Urls:
        return self.hub.urls

    @property
    def address(self) -> str:
        """The browser's IP address: the last one, which our own proxy wrote; those before it anybody can invent."""
        if self.trusted and (forwarded := self.request.headers.get("x-forwarded-for", "")):
            return forwarded.split(",")[-1].strip()[:64]
        return self.request.client.host if self.request.client else ""

    @property
    def user_agent(self) -> str:
        return "".join(char for char in self.request.headers.get("user-agent", "")[:300] if char.isprintable())

    @property
    def request_origin(self) -> str:
        """"https://box.school:8000" as the request itself says, "" where it does not say it properly."""
        headers, scheme = self.request.headers, str(self.request.scope.get("scheme", "http"))
        host = headers.get("host", "")
        if self.trusted:
            scheme = headers.get("x-forwarded-proto", scheme)
            host = headers.get("x-forwarded-host", host)
        return origin_of({"ws": "http", "wss": "https"}.get(scheme, scheme), host)

    @property
    def public_origin(self) -> str:
        parts = urlsplit(self.hub.public_url)
        return origin_of(parts.scheme, parts.netloc)

    @property
    def own_origins(self) -> set[str]:
        return {self.request_origin, self.public_origin} - {""}

    @property
    def origin(self) -> str:
        """The origin this browser knows us by; TLS may have ended before our own proxy."""
        said = self.request.headers.get("origin", "")
        if said in self.own_origins:
            return said
        own, public = self.request_origin, self.public_origin
        return public if public and (not own or urlsplit(own).netloc == urlsplit(public).netloc) else own

    @property
    def here(self) -> str:
        """Path and query exactly as they were sent. Raises BadInput where they are not ASCII."""
        try:
            path = self.request.scope.get("raw_path", self.request.url.path.encode()).decode("ascii")
            query = self.request.scope.get("query_string", b"").decode("ascii")
        except UnicodeDecodeError:
            raise BadInput("That address holds characters that are not allowed in one.") from None
        return f"{path}?{query}" if query else path

    # -- what it wants -------------------------------------------------------------------------------------------------
    @property
    def navigates(self) -> bool:
        """A browser opens an address (and is not running a script's request or opening a websocket)."""
        headers = self.request.headers
        if self.request.method not in ("GET", "HEAD") or headers.get("upgrade"):
            return False
        mode = headers.get("sec-fetch-mode")
        return mode == "navigate" if mode else "text/html" in headers.get("accept", "")

    @property
    def wants_html(self) -> bool:
        accept = self.request.headers.get("accept", "*/*")
        return not self.api and ("text/html" in accept or "*/*" in accept)

    def next(self, fallback: str = "") -> str:
        """Return `?next=` if it may be followed, else `fallback`; the home page if it may not be."""
        try:
            return self.urls.safe_next(self.request.query_params.get("next")) or fallback
        except BadNext:
            return f"{self.urls.hub}home"

    async def form(self) -> FormData:
        return await self.request.form(max_files=0, max_fields=50, max_part_size=MAX_BODY_BYTES)

    async def field(self, name: str) -> str:
        value = (await self.form()).get(name, "")
        return value if isinstance(value, str) else ""

    async def json(self) -> Any:
        """Return the body as JSON, None for an empty one. Raises BadInput, BodyTooLarge."""
        body = await self.request.body()
        return read_json(body) if body.strip() else None

    def param(self, name: str) -> str:
        return str(self.request.path_params.get(name, ""))

    # -- who it is -----------------------------------------------------------------------------------------------------
    def signed_in(self) -> Session:
        if self.session is None:
            raise NotSignedIn()
        return self.session

    def somebody(self) -> User:
        if self.user is None:
            raise NotSignedIn()
        return self.user

    def require(self, scope: str) -> None:
        """Raises NotSignedIn, MissingScope unless the visitor holds a scope for everybody."""
        if self.requester is None:
            raise NotSignedIn()
        if not self.requester.rights.has(scope):
            raise MissingScope.of(scope)

    # -- the answer ----------------------------------------------------------------------------------------------------
    def hub_url(self, path: str, **query: str) -> str:
        """Return the address of a Hub page; empty query values are left out."""
        query = {name: value for name, value in query.items() if value}
        return f"{self.urls.hub}{path}" + (f"?{urlencode(query, safe='/')}" if query else "")

    def xsrf(self) -> str:
        """Return the token for a form on the page, and see that the browser has the cookie that goes with it.

        None for a script, which could be one of a server's page: that shares the Hub's origin, so it may read what is
        fetched, but not a window of the Hub's.
        """
        if self.request.headers.get("sec-fetch-mode", "navigate") != "navigate":
            return ""
        if not self._xsrf:
            key, session_id = self.hub.key("xsrf"), self.session.id if self.session else ""
            for cookie in self.cookies.get(security.XSRF_COOKIE, []):
                if security.xsrf_holds(key, session_id, cookie):
                    self._xsrf = cookie
                    return cookie
            self._xsrf = security.make_xsrf(key, session_id)
            self.set_cookie(security.XSRF_COOKIE, self._xsrf)
        return self._xsrf

    async def check_xsrf(self) -> None:
        """Raises BadXsrf."""
        headers, query = self.request.headers, self.request.query_params
        sent = headers.get("x-xsrftoken") or query.get("_xsrf") or ("" if self.api else await self.field("_xsrf"))
        security.check_xsrf(
            self.hub.key("xsrf"), self.session.id if self.session else "",
            self.cookies.get(security.XSRF_COOKIE, []), sent)

    def set_cookie(self, name: str, value: str, *, path: str = "", max_age_s: int | None = None) -> None:
        self.set_cookies.append(Cookie(name, value, path or self.urls.hub, max_age_s))

    def tell_session(self, session: Session) -> None:
        """Give the browser the cookie by which servers notice that somebody else, or nobody, is signed in now."""
        self.set_cookie(cookies.SESSION_ID, session.id, path=self.urls.base, max_age_s=self.hub.sessions.cookie_max_age_s)

    def set_capability(self, server: Server, value: str) -> None:
        self.set_cookie(cookie_name(server.id), value, path=self.urls.server(server.user_name, server.name))

    def finish(self, response: Response) -> Response:
        """Put the cookies on the answer."""
        secure = self.origin.startswith("https://")
        for cookie in self.set_cookies:
            response.set_cookie(
                cookie.name, cookie.value, max_age=cookie.max_age_s, path=cookie.path,
                secure=secure, httponly=True, samesite="lax")
        return response


def redirect(target: str, status: int = 302) -> Response:
    """Return a redirect to a path of this box; unlike Starlette's it leaves the query as it came."""
    return Response(status_code=status, headers={"Location": quote(target, safe=_LOCATION_SAFE)})


async def sign_in_by_token(visit: Visit) -> bool:
    """Find the user of an API token; False if none came. Raises Refused for one that is not valid."""
    scheme, _, token = visit.request.headers.get("authorization", "").partition(" ")
    if scheme.lower() not in ("token", "bearer"):
        return False
    visit.requester = await visit.hub.permissions.by_token(token.strip()) if 0 < len(token) <= 500 else None
    if visit.requester is None:
        raise Refused("That API token is not valid.", action="Make a new token with “appliance token NAME”.")
    visit.user = visit.requester.user
    return True


async def sign_in_by_cookie(visit: Visit, session: Session | None) -> None:
    """Take a session for who visits, or nobody for None."""
    visit.session, visit.user = session, session.user if session else None
    visit.requester = await visit.hub.permissions.by_session(session) if session else None


def read_json(body: bytes) -> Any:
    """Return what a JSON text says. Raises BadInput where it is broken, nested too deep, names a key twice, or holds numbers
    that are none."""
    try:
        return json.loads(body, object_pairs_hook=_object, parse_constant=_no_constant, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        why = "" if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError, RecursionError)) else f" {error}"
        raise BadInput(f"The body has to be JSON.{why}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("A key stands in it twice.")
    return found


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no number.")


def _integer(text: str) -> int:
    if len(text) > 18:
        raise ValueError("A number in it is too large.")
    return int(text)


def _limited(request: Request, most: int) -> Receive:
    """Return the request's receive, which raises BodyTooLarge instead of taking more than `most` bytes."""
    taken = 0

    async def receive() -> Message:
        nonlocal taken
        length = request.headers.get("content-length", "0")
        message = await request.receive()
        taken += len(message.get("body", b""))
        if taken > most or (length.isdecimal() and int(length[:12]) > most):
            raise BodyTooLarge()
        return message

    return receive
