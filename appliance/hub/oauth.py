"""The Hub as OAuth provider: running servers and services learn from it who their visitor is.

A client is a pure function of what there is: a server's id, address and secret belong to the start that runs, a service's
to its definition. Tokens end with their session, with the server's stop, with the service, and with a click on /hub/token.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote_plus

from appliance.domain.capability import read_server_token
from appliance.domain.oauth import OAuthClient, read_server_client_id, server_access_scopes, server_client_id
from appliance.domain.requester import SERVICE, Requester
from appliance.domain.scopes import INHERIT, NO_SCOPE, SCOPES, SELF, Owner, Scope, expand
from appliance.domain.server import Phase, Server
from appliance.domain.service import ServiceDefinition
from appliance.domain.user import Session
from appliance.errors import BadInput, Refused
from appliance.hub.provider import Answer, Asked, check_asked, give_code, give_token, refusal
from appliance.hub.provider import ErrorForClient as ErrorForClient
from appliance.hub.specs import Specs
from appliance.store import groups, servers, users
from appliance.store import oauth as store
from appliance.store.database import Database, Transaction

UP = (Phase.STARTING, Phase.BOOTING, Phase.READY)
LONGEST_ID = 1000


@dataclass(frozen=True)
class Question:
    """Somebody signed in is asked whether a client may know who they are. scopes: what it wants beyond that."""

    asked: Asked
    scopes: tuple[str, ...]
    must_confirm: bool

    @property
    def client(self) -> OAuthClient:
        return self.asked.client


class OAuth:
    """services: those there are. token_key: of servers' own tokens. by_token: whose API token it is. known: every scope."""

    def __init__(self, db: Database, specs: Specs, services: Callable[[], Iterable[ServiceDefinition]], token_key: bytes,
                 by_token: Callable[[str], Awaitable[Requester | None]], *, expires_in_s: int,
                 known: Mapping[str, Scope] = SCOPES) -> None:
        self._db, self._specs, self._services, self._token_key = db, specs, services, token_key
        self._by_token, self._expires_in_s, self._known = by_token, expires_in_s, known

    async def tidy(self) -> None:
        """End what clients were given that there are no more."""
        await self._db.transact(self._tidy)

    def _tidy(self, t: Transaction) -> None:
        known = {server_client_id(server.user_name, server.name) for server in servers.up(t)}
        store.end_of_clients_gone(t, known | {service.oauth_client_id for service in self._services()})

    # -- the browser's side --------------------------------------------------------------------------------------------
    async def ask(self, params: Mapping[str, Sequence[str]], requester: Requester) -> Question:
        """Look at what a browser brings to /authorize. Raises BadInput, Refused where the visitor may not enter, and
        ErrorForClient."""
        return await self._db.read(lambda t: self._ask(t, params, requester))

    def _ask(self, t: Transaction, params: Mapping[str, Sequence[str]], requester: Requester) -> Question:
        client_id = next(iter(params.get("client_id", ())), "")
        client = self._client(t, client_id) if len(client_id) <= LONGEST_ID else None
        if client is None and requester.user is not None and (named := read_server_client_id(client_id[:LONGEST_ID])) \
                and named[0] != requester.user.name:
            # as if it were up: whether another's server runs is not told
            raise Refused(f"You may not open {_shown(*named)}.")
        if client is None or requester.user is None:
            raise BadInput("Nobody by this name asks for a sign-in here; if it is a server, it may have been stopped.",
                           action="Start again from your home page.")
        asked = check_asked(client, params)

        def groups_of(user_name: str) -> Sequence[str]:
            user = users.find(t, user_name)
            return groups.of_users(t, [user.id]).get(user.id, ()) if user is not None else ()

        if not requester.rights.holds(client.access_scope, groups_of):
            raise Refused(f"You may not open {client.shown}.")
        owner = Owner(user=requester.user.name)
        wanted = [scope for scope in asked.scopes or client.allowed_scopes if scope in client.allowed_scopes]
        held = tuple(scope for scope in dict.fromkeys(wanted) if self._may_have(requester, scope, owner, groups_of))
        trusted = client.no_confirm or client.owner_id == requester.user.id
        return Question(asked, held, not trusted and not store.agreed(
            t, requester.user.id, client.id, (client.access_scope, *held)))

    def _may_have(self, requester: Requester, scope: str, owner: Owner,
                  groups_of: Callable[[str], Sequence[str]]) -> bool:
        """Say whether a visitor holds any of it; a token never does more than its owner may."""
        name = scope.partition("!")[0]
        if name in (INHERIT, SELF, NO_SCOPE):
            return True
        held = requester.rights.narrowed(expand([scope], owner, self._known), groups_of)
        return bool(held.reach(name))

    async def agree(self, question: Question, session: Session, scopes: Sequence[str]) -> str:
        """Return where the browser goes. scopes: those that the visitor ticked; what was not asked for is left out."""
        given = [question.client.access_scope, *(scope for scope in question.scopes if scope in scopes)]
        return await self._db.transact(lambda t: give_code(t, question.asked, session, given))

    def deny(self, question: Question) -> str:
        return refusal(question.asked, "access_denied", "The visitor said no.")

    # -- the client's side ---------------------------------------------------------------------------------------------
    async def exchange(self, form: Sequence[tuple[str, str]], authorization: str) -> Answer:
        """Answer a client at /token, in OAuth's own words for what is wrong.

        Its secret is in the form, in HTTP Basic, or is the API token that came along.
        """
        said = dict(form)
        client_id, secret = said.get("client_id", ""), said.get("client_secret", "")
        if not secret:
            basic_id, secret = _read_authorization(authorization)
            if basic_id and client_id not in ("", basic_id):
                secret = ""
            client_id = client_id or basic_id
        service = None
        if 0 < len(secret) <= 500 and client_id.startswith("service-"):
            service = next((found for found in self._services() if found.oauth_client_id == client_id), None)
            requester = await self._by_token(secret) if service is not None else None
            if requester is None or requester.kind != SERVICE or service is None or requester.service_name != service.name:
                service = None
        return await self._db.transact(lambda t: give_token(
            t, self._service_client(service) if service is not None else self._server_by_secret(t, client_id, secret),
            form, self._expires_in_s))

    def _server_by_secret(self, t: Transaction, client_id: str, secret: str) -> OAuthClient | None:
        read = read_server_token(self._token_key, secret)
        server = servers.get(t, read[0]) if read is not None else None
        if read is None or server is None or not _is_up(server) or server.start_no != read[1]:
            return None
        client = self._server_client(server)
        return client if client_id == client.id else None

    # -- which client --------------------------------------------------------------------------------------------------
    def _client(self, t: Transaction, client_id: str) -> OAuthClient | None:
        for service in self._services():
            if service.oauth_client_id == client_id and service.has_oauth:
                return self._service_client(service)
        named = read_server_client_id(client_id)
        user = users.find(t, named[0]) if named is not None else None
        server = servers.find(t, user.id, named[1]) if user is not None and named is not None else None
        return self._server_client(server) if server is not None and _is_up(server) else None

    def _server_client(self, server: Server) -> OAuthClient:
        return OAuthClient(
            id=server_client_id(server.user_name, server.name), redirect_uri=self._specs.callback(server),
            shown=_shown(server.user_name, server.name),
            access_scope=server_access_scopes(server.user_name, server.name)[0],
            allowed_scopes=self._specs.oauth_client_allowed_scopes, owner_id=server.user_id)

    def _service_client(self, service: ServiceDefinition) -> OAuthClient:
        return OAuthClient(
            id=service.oauth_client_id,
            redirect_uri=service.oauth_redirect_uri or f"{self._specs.service_prefix(service.name)}oauth_callback",
            shown=f"the service {service.name}", access_scope=f"access:services!service={service.name}",
            allowed_scopes=service.oauth_client_allowed_scopes, no_confirm=service.oauth_no_confirm)


def _shown(user_name: str, server_name: str) -> str:
    return f"{user_name}'s server" + (f" “{server_name}”" if server_name else "")


def _is_up(server: Server) -> bool:
    return server.phase in UP and not server.user_deleted


def _read_authorization(header: str) -> tuple[str, str]:
    """Return (client id, secret) of HTTP Basic, or ("", token)."""
    scheme, _, said = header.partition(" ")
    if scheme.lower() in ("token", "bearer"):
        return "", said.strip()
    if scheme.lower() != "basic" or len(said) > 2000:
        return "", ""
    try:
        name, _, secret = base64.b64decode(said.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return "", ""
    return unquote_plus(name), unquote_plus(secret)
