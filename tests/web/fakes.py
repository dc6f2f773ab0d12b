"""A Hub in memory: what the pages ask of the real one, and nothing else."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from appliance.domain import capability
from appliance.domain.capability import Capability
from appliance.domain.person import Person
from appliance.domain.requester import Requester
from appliance.domain.roles import Roles
from appliance.domain.scopes import Owner, Rights, expand, identify
from appliance.domain.server import Failure, Phase, Server, Wanted
from appliance.domain.service import ServiceDefinition, ServicePhase, ServiceState, parse
from appliance.domain.urls import Urls
from appliance.domain.user import ApiToken, Session, User
from appliance.errors import ApplianceError, BadInput, LoginRefused, LoginThrottled, NotYours, Unavailable
from appliance.hub.metrics import Metrics, MetricsAccess, State
from appliance.hub.oauth import Answer
from appliance.hub.offers import Offers, Standing
from appliance.ports import LoginRequest, Usage
from appliance.testing import FakeSpawner

KEY = b"k" * 32


@dataclass(frozen=True)
class SignedIn:
    session: Session
    token: str
    device: str


class FakeAccounts:
    manages_passwords = True

    def __init__(self, hub: FakeHub) -> None:
        self.hub = hub
        self.users: dict[str, User] = {}
        self.passwords: dict[str, str] = {}
        self.tokens: dict[str, str] = {}
        self.groups: dict[str, tuple[str, ...]] = {}
        self.requests: list[LoginRequest] = []
        self.origins: list[str] = []
        self.throttled = False

    def add(self, name: str, *, admin: bool = False, must_change_password: bool = False) -> User:
        number = len(self.users) + 1
        user = User(number, name, 10000 + number, admin, datetime.now(UTC), None, must_change_password)
        self.users[name], self.passwords[name] = user, f"{name}-password"
        return user

    async def sign_in(
        self, request: LoginRequest, data: Mapping[str, str], *, origin: str, device: str | None,
    ) -> SignedIn:
        self.requests.append(request)
        if self.throttled:
            raise LoginThrottled(17)
        name = data.get("username", "").strip().lower()
        if name not in self.users or self.passwords[name] != data.get("password"):
            raise LoginRefused()
        self.origins.append(origin)
        session = self.hub.sessions.open(self.users[name], origin=origin, user_agent=request.user_agent)
        return SignedIn(session, self.hub.sessions.token_of(session), device or "device")

    async def change_password(self, user: User, old: str, new: str) -> None:
        if self.passwords[user.name] != old:
            raise LoginRefused()
        if len(new) < 8:
            raise BadInput("A password has at least 8 characters.")
        self.passwords[user.name] = new
        self.users[user.name] = replace(user, must_change_password=False)

    async def page(self, *, search: str = "", up: bool = False, archived: bool = False, offset: int = 0,
                   limit: int = 100) -> tuple[list[User], int]:
        owners = {server.user_id for server in self.hub.servers.all() if server.phase not in Phase.down()}
        found = sorted((user for user in self.users.values()
                        if search in user.name and user.archived is archived and (not up or user.id in owners)),
                       key=lambda user: user.name)
        return found[offset:offset + limit], len(found)

    async def groups_of(self, users: Sequence[User]) -> Mapping[int, tuple[str, ...]]:
        return {user.id: self.groups[user.name] for user in users if user.name in self.groups}

    async def find_user(self, name: str) -> User | None:
        return self.users.get(name)


class FakePermissions:
    """With the real roles and scopes; `FakeAccounts.tokens` says whose a token is, `scopes` what it is narrowed to."""

    def __init__(self, hub: FakeHub) -> None:
        self.hub = hub
        self.roles = Roles()
        self.scopes: dict[str, tuple[str, ...]] = {}
        self.shared: set[tuple[str, str]] = set()      # (user, server id)

    def _rights(self, user: User) -> Rights:
        names = self.roles.of_user(user.name, self.hub.accounts.groups.get(user.name, ()), admin=user.admin)
        owner = Owner(user=user.name)
        return Rights(expand(self.roles.scopes_of(names), owner) | identify(owner))

    async def of_user(self, user: User) -> Rights:
        return self._rights(user)

    async def by_session(self, session: Session) -> Requester:
        user = session.user
        groups = self.hub.accounts.groups.get(user.name, ())
        return Requester("user", user.name, self._rights(user), user, session_id=session.id, groups=groups,
                         roles=self.roles.of_user(user.name, groups, admin=user.admin))

    async def by_token(self, token: str) -> Requester | None:
        user = self.hub.accounts.users.get(self.hub.accounts.tokens.get(token, ""))
        if user is None:
            return None
        groups = self.hub.accounts.groups.get(user.name, ())
        found = Requester("user", user.name, self._rights(user), user, token_id=1, groups=groups,
                          roles=self.roles.of_user(user.name, groups, admin=user.admin))
        if token in self.scopes:
            owner, scopes = Owner(user=user.name), self.scopes[token]
            found = replace(found, scopes=scopes,
                            rights=found.rights.narrowed(expand(scopes, owner)).with_more(identify(owner)))
        return found

    async def may_enter(self, requester: Requester, server: Server) -> bool:
        user = requester.user
        return user is not None and requester.is_token and (
            server.user_id == user.id or (user.name, server.id) in self.shared) and requester.rights.holds(
                f"access:servers!server={server.user_name}/{server.name}")


class FakeDirectory:
    page_default_limit = page_max_limit = 200

    def __init__(self, hub: FakeHub) -> None:
        self.hub = hub

    async def person(self, name: str) -> Person | None:
        user = self.hub.accounts.users.get(name)
        servers = tuple(server for server in self.hub.servers.all() if server.user_name == name)
        return Person(user, self.hub.accounts.groups.get(name, ()), servers) if user else None


class FakeSessions:
    cookie_max_age_s = 3600

    def __init__(self, hub: FakeHub) -> None:
        self.hub = hub
        self.live: dict[str, Session] = {}

    def open(self, user: User, *, origin: str = "http://box.test", user_agent: str = "") -> Session:
        now = datetime.now(UTC)
        session = Session(secrets.token_hex(6), user, origin, now, now + timedelta(hours=1), now, "10.0.0.5", user_agent)
        self.live[session.id] = session
        return session

    def token_of(self, session: Session) -> str:
        return f"valid.{session.id}.x"

    async def find(self, tokens: Sequence[str]) -> Session | None:
        ids = [token.removeprefix("valid.").removesuffix(".x") for token in tokens if token.startswith("valid.")]
        living = [self.live[session_id] for session_id in ids if session_id in self.live]
        if len({session.user.id for session in living}) != 1:
            return None
        return replace(living[0], user=self.hub.accounts.users[living[0].user.name])

    async def sign_out(self, session: Session) -> None:
        self.live.pop(session.id, None)

    async def sign_out_everywhere(self, user: User) -> None:
        self.live = {key: session for key, session in self.live.items() if session.user.id != user.id}

    async def list(self, user: User) -> list[Session]:
        return [session for session in self.live.values() if session.user.id == user.id]

    async def revoke(self, user: User, session_id: str) -> None:
        if session_id in self.live and self.live[session_id].user.id == user.id:
            del self.live[session_id]


class FakeServers:
    def __init__(self, hub: FakeHub) -> None:
        self.hub = hub
        self.rows: dict[tuple[str, str], Server] = {}
        self.error: ApplianceError | None = None
        self.starts: list[tuple[str, str, str]] = []
        self.stops: list[tuple[str, str]] = []
        self.positions: dict[str, int] = {}
        self.offers = Offers(FakeSpawner(), self._standing)

    async def _standing(self, user_id: int) -> Standing:
        return False, {}

    def put(self, user: User, name: str = "", **changes: object) -> Server:
        """Make or change a server, and tell whoever follows it."""
        row = self.rows.get((user.name, name)) or self._never_ran(user, name)
        if not row.id:
            row = replace(row, id=f"{user.name.encode().hex()}{name.encode().hex()}0000000"[:20])
        row = replace(row, phase_at=datetime.now(UTC), **changes)  # type: ignore[arg-type]
        self.rows[user.name, name] = row
        self.hub.events.tell(row)
        return row

    def ready(self, user: User, name: str = "") -> Server:
        now = datetime.now(UTC)
        row = self.rows.get((user.name, name))
        start_no = row.start_no if row and row.phase.pending else self._start_no(user, name) + 1
        return self.put(user, name, wanted=Wanted.RUNNING, phase=Phase.READY, start_no=start_no, failure=None,
                        started_at=now, ready_at=now)

    def _start_no(self, user: User, name: str) -> int:
        row = self.rows.get((user.name, name))
        return row.start_no if row else 0

    def fail(self, user: User, error: ApplianceError) -> Server:
        failure = Failure(error.code, error.sentence, error.action, error.evidence)
        return self.put(user, phase=Phase.FAILED, failure=failure)

    @staticmethod
    def _never_ran(user: User, name: str) -> Server:
        return Server("", user.id, user.name, user.uid, name, Wanted.STOPPED, Phase.STOPPED, 0, "", "", "", "",
                      datetime.now(UTC), None, None, None, None, None)

    async def view(self, user_name: str, server_name: str = "") -> Server | None:
        user = self.hub.accounts.users.get(user_name)
        return (self.rows.get((user_name, server_name)) or self._never_ran(user, server_name)) if user else None

    def all(self) -> list[Server]:
        return list(self.rows.values())

    async def of_user(self, user: User) -> list[Server]:
        named = sorted((row for row in self.rows.values() if row.user_id == user.id and row.name), key=lambda row: row.name)
        return [self.rows.get((user.name, "")) or self._never_ran(user, ""), *named]

    async def of_users(self, users: Sequence[User]) -> list[Server]:
        ids = {user.id for user in users}
        return [server for server in self.all() if server.user_id in ids]

    async def count_ready(self) -> int:
        return sum(server.ready for server in self.all())

    async def by_id(self, server_id: str) -> Server | None:
        return next((row for row in self.rows.values() if row.id == server_id), None)

    async def start(self, user: User, server_name: str = "", *, image: str = "", options: Mapping[str, object] | None = None,
                    display_name: str | None = None, actor: str) -> Server:
        if self.error:
            raise self.error
        self.starts.append((user.name, server_name, actor))
        row = self.rows.get((user.name, server_name))
        if row and row.ready:
            return row
        return self.put(user, server_name, wanted=Wanted.RUNNING, phase=Phase.STARTING, failure=None, image=image,
                        start_no=self._start_no(user, server_name) + 1, started_at=datetime.now(UTC))

    async def stop(self, user: User, server_name: str = "", *, actor: str) -> Server:
        self.stops.append((user.name, actor))
        return self.put(user, server_name, wanted=Wanted.STOPPED, phase=Phase.STOPPED)

    async def enter(self, session: Session, server: Server) -> str:
        if session.user.id != server.user_id:
            raise NotYours()
        if not server.ready:
            raise Unavailable()
        return Capability(session.id, server.id, server.start_no).value(KEY)

    async def check_capability(self, server_id: str, value: str) -> tuple[Session, Server, Capability] | None:
        said, server = capability.verify(KEY, server_id, value), await self.by_id(server_id)
        session = self.hub.sessions.live.get(said.session_id) if said else None
        return (session, server, said) if said and session and server else None

    async def usage(self, server_id: str) -> Usage | None:
        return Usage(320 << 20, 1 << 30, 12.5)

    def queue_position(self, server_id: str) -> int | None:
        return self.positions.get(server_id)

    def landing(self, server: Server) -> str:
        return self.hub.urls.server(server.user_name, server.name) + "lab"

    def injected_authorization(self, server: Server) -> str | None:
        return "token injected"

    def progress(self, server: Server) -> float:
        return {Phase.QUEUED: 0.05, Phase.STARTING: 0.25, Phase.BOOTING: 0.6, Phase.READY: 1.0}.get(server.phase, 0.0)


@dataclass
class FakeEvents:
    followers: list[tuple[str, asyncio.Queue[Server]]] = field(default_factory=list)
    now: dict[str, Server] = field(default_factory=dict)

    def tell(self, server: Server) -> None:
        self.now[server.id] = server
        for server_id, queue in self.followers:
            if server_id == server.id:
                queue.put_nowait(server)

    async def follow(self, server_id: str) -> AsyncIterator[Server]:
        queue: asyncio.Queue[Server] = asyncio.Queue()
        entry = (server_id, queue)
        self.followers.append(entry)
        try:
            yield self.now[server_id]
            while True:
                yield await queue.get()
        finally:
            self.followers.remove(entry)


class FakeServices:
    """Services by name, with how they are."""

    def __init__(self, urls: Urls) -> None:
        self.urls = urls
        self.known: dict[str, tuple[ServiceDefinition, ServiceState]] = {}

    def put(self, phase: ServicePhase, said: str = "", lines: tuple[str, ...] = (), **description: object) -> None:
        service = parse(description)
        self.known[service.name] = service, ServiceState(phase, datetime.now(UTC), said=said, lines=lines)

    def all(self) -> tuple[ServiceDefinition, ...]:
        return tuple(service for service, _ in self.known.values())

    def get(self, name: str) -> ServiceDefinition | None:
        return self.known[name][0] if name in self.known else None

    def state(self, name: str) -> ServiceState:
        return self.known[name][1]

    def prefix(self, service: ServiceDefinition) -> str:
        return self.urls.service(service.name) if service.has_address else ""

    def visible_to(self, rights: Rights) -> list[ServiceDefinition]:
        reach = rights.reach("access:services")
        return [service for service in self.all() if service.display and service.has_address and reach.service(service.name)]


class FakeTokens:
    """Nobody has one; tests/web/real_hub.py has the real ones."""

    longest_s = 0

    async def list(self, owner: User) -> list[ApiToken]:
        return []

    async def create(self, owner: User, **asked: object) -> tuple[str, None]:
        return "0" * 64, None


class FakeOAuth:
    """Knows no client; tests/web/real_hub.py has the real one."""

    async def ask(self, params: object, requester: object) -> None:
        raise BadInput("Nobody by this name asks for a sign-in here.")

    async def exchange(self, form: object, authorization: str) -> Answer:
        return Answer(401, '{"error": "invalid_client"}')


class FakeCensus:
    def __init__(self) -> None:
        self.state = State()

    async def take(self) -> State:
        return self.state


class FakeShares:
    async def opens(self, server: Server, user: User) -> bool:
        return False


class FakeHub:
    version = "0.1.0"
    proxy_secret = "proxy-secret"
    after_sign_in = "spawn"
    ready = True

    def __init__(self, base: str = "/", public_url: str = "") -> None:
        self.urls = Urls(base)
        self.public_url = public_url
        self.accounts, self.sessions = FakeAccounts(self), FakeSessions(self)
        self.servers, self.events = FakeServers(self), FakeEvents()
        self.permissions, self.directory = FakePermissions(self), FakeDirectory(self)
        self.services, self.oauth, self.tokens = FakeServices(self.urls), FakeOAuth(), FakeTokens()
        self.metrics, self.census, self.metrics_access = Metrics(self.version), FakeCensus(), MetricsAccess()
        self.shares = FakeShares()
        self.trouble: list[ApplianceError] = []
        self.edge_trouble: list[ApplianceError] = []
        self.authority_file: Path | None = None

    def key(self, purpose: str) -> bytes:
        return capability.derive_key(KEY, purpose)

    def problems(self) -> list[ApplianceError]:
        return self.trouble

    def concerns(self) -> list[ApplianceError]:
        return self.edge_trouble
