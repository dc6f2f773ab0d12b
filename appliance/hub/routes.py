"""Routes are a pure function of the store: which servers run, and whose sessions live."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from appliance.domain.capability import Capability, injected_token
from appliance.domain.route import Route
from appliance.domain.server import Phase, Server
from appliance.domain.urls import Urls
from appliance.domain.user import Session
from appliance.ports import Spawner
from appliance.store import servers, sessions
from appliance.store.database import Transaction


class Routes:
    """Makes the wanted `Route` of a server. key: of the capabilities; token_key: of the injected tokens."""

    def __init__(self, urls: Urls, spawner: Spawner, key: bytes, token_key: bytes, public_origin: str) -> None:
        self._urls, self._spawner, self._public_origin = urls, spawner, public_origin
        self._key, self._token_key = key, token_key

    def value(self, session: Session, server: Server) -> str:
        return Capability(session.id, server.id, server.start_no).value(self._key)

    def token(self, server: Server) -> str | None:
        if not self._spawner.options(server.image).inject_token:
            return None
        return injected_token(self._token_key, server.id, server.start_no)

    def of(self, server: Server, owners_sessions: Sequence[Session], named: Iterable[str] = ()) -> Route:
        """named: the owner's named servers, whose paths lie below that of the default one."""
        origins = {self._public_origin} if self._public_origin else {s.origin for s in owners_sessions if s.origin}
        return Route(
            server_id=server.id,
            start_no=server.start_no,
            prefix=self._urls.server_decoded(server.user_name, server.name),
            url=server.url,
            capabilities=tuple(sorted(self.value(session, server) for session in owners_sessions)),
            origins=tuple(sorted(origins)),
            injected_token=self.token(server),
            strip_prefix=self._spawner.options(server.image).strip_prefix,
            below=() if server.name else tuple(sorted(self._urls.server_decoded(server.user_name, name) for name in named)),
        )

    def wanted(self, t: Transaction, server_id: str) -> Route | None:
        """Return the route a server should have now, None if it should have none."""
        server = servers.get(t, server_id)
        if server is None:
            return None
        named = {} if server.name else servers.names_of_named(t, [server.user_id])
        return self._wanted(t, server, named.get(server.user_id, ()))

    def all_wanted(self, t: Transaction) -> dict[str, Route]:
        named = servers.names_of_named(t)
        routes = (self._wanted(t, server, named.get(server.user_id, ())) for server in servers.up(t))
        return {route.server_id: route for route in routes if route is not None}

    def _wanted(self, t: Transaction, server: Server, named: Iterable[str]) -> Route | None:
        # a route is written while the app still boots, so that it costs no waiting afterwards
        if server.phase not in (Phase.BOOTING, Phase.READY) or not server.url or server.user_deleted:
            return None
        return self.of(server, sessions.of_user(t, server.user_id), named)
