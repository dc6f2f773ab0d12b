"""For tests: a Proxy without a process, the contract every Proxy passes, and a server that says what it was sent."""

from __future__ import annotations

import asyncio
import json
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from http.cookies import SimpleCookie
from types import TracebackType
from typing import Any, Self

import pytest

from appliance.domain.capability import cookie_name
from appliance.domain.route import Route, ServiceRoute
from appliance.errors import ProxyDown
from appliance.ports import Proxy

HUB = "hub"


class FakeProxy(Proxy):
    """Keeps routes in memory. `live` is what would be served: the same at once, unless `is_down`."""

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self.wanted: dict[str, Route] = {}
        self.live: dict[str, Route] = {}
        self.services: dict[str, ServiceRoute] = {}
        self.closed: list[str] = []
        self.counts: tuple[str, dict[str, int]] | None = None
        self.is_started = False
        self.is_down = False

    async def start(self) -> None:
        if self.is_down:
            raise ProxyDown()
        self.is_started = True

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def set_routes(self, routes: Mapping[str, Route]) -> None:
        self.wanted = dict(routes)
        self._serve()

    async def set_services(self, routes: Collection[ServiceRoute], keep: Collection[str] = ()) -> None:
        kept = {name: route for name, route in self.services.items() if name in keep}
        self.services = kept | {route.name: route for route in routes}

    async def add(self, route: Route) -> None:
        self.wanted[route.server_id] = route
        self._serve()

    async def remove(self, server_id: str) -> None:
        self.wanted.pop(server_id, None)
        self._serve()

    async def wait_live(self, server_id: str, timeout_s: float = 10.0) -> None:
        self._serve()
        if self.is_down:
            raise ProxyDown()

    async def close_connections(self, url: str) -> None:
        self.closed.append(url)

    async def request_counts(self) -> tuple[str, Mapping[str, int]] | None:
        return self.counts

    async def stop(self) -> None:
        self.is_started = False

    def destination(self, path: str, cookie: str = "", origin: str = "") -> str:
        """Return the URL of the server or service that would get this request, or HUB."""
        for service in self.services.values():
            if path.startswith(service.prefix):
                return service.url
        sent = {name: morsel.value for name, morsel in SimpleCookie(cookie).items()}
        fitting = [
            route for route in self.live.values()
            if path.startswith(route.prefix) and sent.get(cookie_name(route.server_id)) in route.capabilities
            and (not origin or origin in route.origins)
        ]
        return max(fitting, key=lambda route: len(route.prefix)).url if fitting else HUB

    def _serve(self) -> None:
        if not self.is_down:
            self.live = dict(self.wanted)


class ProxyContract:
    """What every Proxy does. A subclass has a fixture `proxy` (started, base URL "/") and says where a request ends.

    `servers` are two addresses at which a server really listens, as far as the driver needs one.
    """

    pytestmark = pytest.mark.anyio

    @abstractmethod
    async def destination(self, proxy: Any, path: str, cookie: str = "", origin: str = "") -> str:
        """Return the URL of the server that gets this request, or HUB."""

    @pytest.fixture
    def servers(self) -> tuple[str, str]:
        return "http://127.0.0.1:7001", "http://127.0.0.1:7002"

    @pytest.fixture
    def route(self, servers: tuple[str, str]) -> Route:
        return make_route(servers[0])

    async def test_without_a_route_everything_goes_to_the_hub(self, proxy: Proxy, route: Route) -> None:
        assert await self.destination(proxy, "/user/alice/lab", cookie_of(route)) == HUB

    async def test_a_capability_leads_to_its_server(self, proxy: Proxy, route: Route) -> None:
        await proxy.add(route)
        await proxy.wait_live(route.server_id)
        assert await self.destination(proxy, "/user/alice/lab", cookie_of(route)) == route.url
        assert await self.destination(proxy, "/user/alice/lab") == HUB
        assert await self.destination(proxy, "/user/alice/lab", cookie_of(route) + "x") == HUB

    async def test_a_capability_opens_no_other_path(self, proxy: Proxy, route: Route) -> None:
        await proxy.add(route)
        await proxy.wait_live(route.server_id)
        for path in ("/user/alicebob/", "/user/bob/", "/user/alice", "/hub/login", "/"):
            assert await self.destination(proxy, path, cookie_of(route)) == HUB

    async def test_a_capability_opens_no_other_server(
        self, proxy: Proxy, route: Route, servers: tuple[str, str],
    ) -> None:
        other = make_route(servers[1], server_id="bobsserver", prefix="/user/bob/")
        await proxy.set_routes({route.server_id: route, other.server_id: other})
        await proxy.wait_live(route.server_id)
        await proxy.wait_live(other.server_id)
        assert await self.destination(proxy, "/user/bob/", cookie_of(route)) == HUB
        assert await self.destination(proxy, "/user/bob/", f"{cookie_of(route)}; {cookie_of(other)}") == other.url

    async def test_only_our_origin_may_say_where_it_is_from(self, proxy: Proxy, route: Route) -> None:
        await proxy.add(route)
        await proxy.wait_live(route.server_id)
        assert await self.destination(proxy, "/user/alice/", cookie_of(route), route.origins[0]) == route.url
        for origin in ("http://evil.example", "null", route.origins[0] + "0", "x" + route.origins[0]):
            assert await self.destination(proxy, "/user/alice/", cookie_of(route), origin) == HUB

    async def test_a_new_capability_replaces_the_old_one(self, proxy: Proxy, route: Route) -> None:
        renewed = replace(route, start_no=2, capabilities=("session.2.owner.new",))
        for write in (proxy.add, lambda route: proxy.set_routes({route.server_id: route})):
            for version, other in ((route, renewed), (renewed, route)):
                await write(version)
                await proxy.wait_live(route.server_id)
                assert await self.destination(proxy, "/user/alice/", cookie_of(version)) == route.url
                assert await self.destination(proxy, "/user/alice/", cookie_of(other)) == HUB

    async def test_a_named_server_is_not_the_default_one(
        self, proxy: Proxy, route: Route, servers: tuple[str, str],
    ) -> None:
        named = make_route(servers[1], server_id="secondone", prefix="/user/alice/lab2/")
        await proxy.set_routes({route.server_id: route, named.server_id: named})
        await proxy.wait_live(named.server_id)
        both = f"{cookie_of(route)}; {cookie_of(named)}"
        assert await self.destination(proxy, "/user/alice/lab2/x", both) == named.url
        assert await self.destination(proxy, "/user/alice/x", both) == route.url

    async def test_a_removed_route_ends(self, proxy: Proxy, route: Route) -> None:
        await proxy.add(route)
        await proxy.wait_live(route.server_id)
        for _ in range(2):
            await proxy.remove(route.server_id)
            await proxy.wait_live(route.server_id)
        assert await self.destination(proxy, "/user/alice/", cookie_of(route)) == HUB

    async def test_set_routes_ends_all_others(self, proxy: Proxy, route: Route, servers: tuple[str, str]) -> None:
        other = make_route(servers[1], server_id="bobsserver", prefix="/user/bob/")
        await proxy.add(route)
        await proxy.set_routes({other.server_id: other})
        await proxy.wait_live(route.server_id)
        await proxy.wait_live(other.server_id)
        assert await self.destination(proxy, "/user/alice/", cookie_of(route)) == HUB
        assert await self.destination(proxy, "/user/bob/", cookie_of(other)) == other.url

    async def test_everybody_is_led_to_a_service(self, proxy: Proxy, route: Route, servers: tuple[str, str]) -> None:
        await proxy.set_services([ServiceRoute("Course-1.a", "/services/Course-1.a/", servers[1])])
        await proxy.add(route)
        await proxy.wait_live(route.server_id)     # what was written before it is live then, too
        assert await self.destination(proxy, "/services/Course-1.a/x", origin="http://elsewhere.example") == servers[1]
        assert await self.destination(proxy, "/user/alice/", cookie_of(route)) == route.url
        for path in ("/services/Course-1.a", "/services/Course-1.ab/", "/services/other/", "/services/"):
            assert await self.destination(proxy, path) == HUB

    async def test_services_and_servers_do_not_end_each_other_s_routes(
        self, proxy: Proxy, route: Route, servers: tuple[str, str],
    ) -> None:
        await proxy.set_services([ServiceRoute("grades", "/services/grades/", servers[1])])
        await proxy.set_routes({route.server_id: route})
        await proxy.wait_live(route.server_id)
        assert await self.destination(proxy, "/services/grades/") == servers[1]
        await proxy.set_services([ServiceRoute("other", "/services/other/", servers[0])], keep=["grades", "never-was"])
        await proxy.wait_live("nobody")
        assert await self.destination(proxy, "/services/grades/") == servers[1]
        await proxy.set_services([])
        await proxy.wait_live("nobody")
        assert await self.destination(proxy, "/services/grades/") == HUB
        assert await self.destination(proxy, "/user/alice/", cookie_of(route)) == route.url

    async def test_waiting_for_a_server_without_a_route_returns(self, proxy: Proxy) -> None:
        await proxy.wait_live("neverwas")

    async def test_start_is_idempotent(self, proxy: Proxy, route: Route) -> None:
        await proxy.add(route)
        await proxy.start()
        await proxy.wait_live(route.server_id)
        assert await self.destination(proxy, "/user/alice/", cookie_of(route)) == route.url

    async def test_run_ends_when_cancelled_and_leaves_the_routes(self, proxy: Proxy, route: Route) -> None:
        await proxy.add(route)
        await proxy.wait_live(route.server_id)
        supervision = asyncio.create_task(proxy.run())
        await asyncio.sleep(0.05)
        supervision.cancel()
        with pytest.raises(asyncio.CancelledError):
            await supervision
        assert await self.destination(proxy, "/user/alice/", cookie_of(route)) == route.url

    async def test_connections_of_a_server_without_any_can_be_closed(self, proxy: Proxy, route: Route) -> None:
        await proxy.close_connections(route.url)


def make_route(url: str, **changes: Any) -> Route:
    """Return the route of alice's default server with one capability."""
    route = Route(
        server_id="k3f9k3f9", start_no=1, prefix="/user/alice/", url=url, capabilities=("session1.1.owner.MAC-mac_1",),
        origins=("http://box.school:8000",), injected_token="injected-secret-1")
    return replace(route, **changes)


def cookie_of(route: Route) -> str:
    """Return the Cookie header of a browser that holds the route's first capability."""
    return f"{cookie_name(route.server_id)}={route.capabilities[0]}"


@dataclass
class Request:
    """One request as a server saw it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def get(self, name: str) -> str:
        return ", ".join(self.all(name))


@dataclass
class Reply:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class TinyServer:
    """An HTTP/1.1 server for tests; by default it answers with what it was sent, as JSON, and `X-Served-By: <name>`.

    answer: given a Request, returns a Reply, or None for the default.
    """

    def __init__(
        self, name: str, answer: Callable[[Request], Reply | None] = lambda request: None, port: int = 0,
    ) -> None:
        self.name = name
        self.answer = answer
        self.seen: list[Request] = []
        self.port = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0.01)  # the connections' tasks end

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, *lines = head.rstrip("\r\n").split("\r\n")
                method, target, _ = line.split(" ", 2)
                headers = [(key, value.strip()) for key, value in (header.split(":", 1) for header in lines)]
                request = Request(method, target, headers)
                request.body = await reader.readexactly(int(request.get("Content-Length") or 0))
                self.seen.append(request)
                reply = self.answer(request) or self._echo(request)
                said = {"Content-Length": str(len(reply.body)), "X-Served-By": self.name, **reply.headers}
                fields = "".join(f"{key}: {value}\r\n" for key, value in said.items())
                writer.write(f"HTTP/1.1 {reply.status} Said\r\n{fields}\r\n".encode() + reply.body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def _echo(self, request: Request) -> Reply:
        said = {"method": request.method, "target": request.target, "headers": request.headers}
        return Reply(headers={"Content-Type": "application/json"}, body=json.dumps(said).encode())
