"""What the Hub asks of its drivers: Authenticator, Spawner, Proxy and Homes.

Each is a traitlets Configurable, so that `c.Authenticator.…` and `c.Spawner.…` in jupyterhub_config.py reach every
subclass. A driver knows nothing of the Hub: it gets plain data and gives plain data. `appliance.testing` holds the
contract tests that every driver passes.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from traitlets import Bool, Dict, Enum, Float, Integer, List, Set, TraitError, TraitType, Unicode, Union, validate
from traitlets import Callable as CallableTrait
from traitlets.config import LoggingConfigurable

from appliance.domain.limits import parse_bytes
from appliance.domain.names import normalize_username, validate_username
from appliance.domain.offers import ImageChoice, Profile, parse_profiles
from appliance.domain.route import Route, ServiceRoute
from appliance.domain.service import ServiceContainer
from appliance.errors import ApplianceError, BadName, BadOption, LoginRefused


class ByteSize(TraitType[int | None, int | str | float | None]):
    """Bytes, as a number or as "512M", "2G"; None is no limit."""

    default_value = None
    allow_none = True

    def validate(self, obj: Any, value: Any) -> int | None:
        try:
            return None if value is None else parse_bytes(value)
        except BadOption as error:
            # what traitlets' own error() makes of an exception is that exception
            raise TraitError(f"{type(obj).__name__}.{self.name}: {error.sentence}") from error


# ---------------------------------------------------------------------------------------------------- Authenticator --
@dataclass(frozen=True)
class LoginRequest:
    """What an Authenticator may know of the browser (JupyterHub hands a tornado handler here)."""

    address: str = ""
    user_agent: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Identity:
    """Who signed in, normalised and checked. admin: None leaves the account's flag as it is."""

    name: str
    admin: bool | None = None
    must_change_password: bool = False


class PasswordStore(Protocol):
    """Where local accounts keep their password hashes; the Hub gives one to an Authenticator that asks for it."""

    async def get_password(self, name: str) -> tuple[str, bool] | None:
        """Return (hash, must_change) of an account, None if there is none or it has no password."""

    async def set_password(self, name: str, hashed: str, *, must_change: bool) -> None:
        """Raises NotFound."""


class Authenticator(LoggingConfigurable):
    """Says who somebody is. A custom one overrides `authenticate` and is named in `c.JupyterHub.authenticator_class`."""

    admin_users = Set(Unicode(), help="Names that are admins from their next sign-in on.").tag(config=True)
    allowed_users = Set(Unicode(), help="Names that may sign in. Empty: see allow_all.").tag(config=True)
    blocked_users = Set(Unicode(), help="Names that may not sign in, whatever else allows them.").tag(config=True)
    allow_all = Bool(False, help="Let in everybody whom the Authenticator recognises.").tag(config=True)
    username_pattern = Unicode("", help="Regular expression a whole, normalised name has to match.").tag(config=True)
    username_map = Dict(help="Maps a normalised name to the one to use here.").tag(config=True)
    post_auth_hook = CallableTrait(
        None, allow_none=True,
        help="async (authenticator, request, identity) -> Identity or None; runs last, None refuses.",
    ).tag(config=True)

    # given by the Hub before the first call
    passwords: PasswordStore | None = None
    # True if set_password works, so that the Hub offers its pages and commands for it
    manages_passwords = False

    @abstractmethod
    async def authenticate(self, request: LoginRequest, data: Mapping[str, str]) -> str | dict[str, Any] | None:
        """Return the name, or {"name": …, "admin": …}, or None to refuse. data: the login form's fields."""

    async def pre_spawn_start(self, user_name: str, environment: dict[str, str]) -> None:
        """Called before a user's server starts; may add to `environment`. An error it raises fails the start."""

    async def set_password(self, name: str, password: str, *, must_change: bool) -> None:
        """Set an account's password. Raises BadInput where the password is too weak. Only if `manages_passwords`."""
        raise BadOption("Passwords of these accounts are kept elsewhere and cannot be changed here.")

    async def get_authenticated_user(self, request: LoginRequest, data: Mapping[str, str]) -> Identity:
        """Authenticate, normalise, then check every list; the one entrance the Hub uses. Raises LoginRefused."""
        said = await self.authenticate(request, data)
        if said is None:
            raise LoginRefused()
        model = {"name": said} if isinstance(said, str) else dict(said)
        try:
            name = normalize_username(str(model["name"]))
            name = validate_username(str(self.username_map.get(name, name)))
        except BadName as error:
            raise LoginRefused(error.sentence) from error
        if self.username_pattern and not re.fullmatch(self.username_pattern, name):
            raise LoginRefused()
        admin = model.get("admin")
        if self._lists(self.admin_users, name):
            admin = True
        if self._lists(self.blocked_users, name) or not (admin or await self.check_allowed(name)):
            raise LoginRefused()
        identity = Identity(name, None if admin is None else bool(admin), bool(model.get("must_change_password")))
        if self.post_auth_hook is not None:
            hooked: Identity | None = await self.post_auth_hook(self, request, identity)
            if hooked is None:
                raise LoginRefused()
            return hooked
        return identity

    async def check_allowed(self, name: str) -> bool:
        """Say whether a recognised, normalised name that is not an admin's may sign in."""
        return self.allow_all or self._lists(self.allowed_users, name)

    def names_admin(self, name: str) -> bool:
        """Say whether the configuration makes a normalised name an admin's."""
        return self._lists(self.admin_users, name)

    @staticmethod
    def _lists(names: Iterable[str], name: str) -> bool:
        return name in {normalize_username(listed) for listed in names}


# ---------------------------------------------------------------------------------------------------------- Spawner --
@dataclass(frozen=True)
class ServerSpec:
    """One start of one server. Everything is decided by the Hub; the spawner adds its own options."""

    server_id: str            # random, never reused: containers are named by it
    start_no: int
    user_name: str
    server_name: str          # "" is the default server
    uid: int                  # uid and gid of the processes
    home: Path                # on the host, exists and belongs to uid
    prefix: str               # "/user/alice/": percent-encoded, what the app calls its base URL
    address: str              # fixed IP address out of `Spawner.addresses()`, or ""
    image: str                # "" is the spawner's default; already checked by `check_image`
    environment: Mapping[str, str]
    mem_limit_bytes: int | None = None     # None: the spawner's, as with the next
    cpu_limit: float | None = None
    user_options: Mapping[str, object] = field(default_factory=dict)   # what the user chose; anything at all may be in it


@dataclass(frozen=True)
class ServerHandle:
    url: str                  # "http://host:port", no trailing slash


class ActualState(StrEnum):
    CREATED = "created"       # made, not started
    RUNNING = "running"
    PAUSED = "paused"
    EXITED = "exited"


@dataclass(frozen=True)
class ActualServer:
    """What the engine says of one labelled container (or process)."""

    server_id: str
    start_no: int
    user_name: str
    server_name: str
    uid: int
    state: ActualState
    url: str                  # "" unless running or paused
    address: str
    image: str
    spec_hash: str            # of the configuration it was made with
    started_at: datetime | None = None
    exit_code: int | None = None
    oom_killed: bool = False
    error: str = ""           # the engine's own words
    prefix: str = ""          # what the app calls its base URL, where that is known
    ended_at: datetime | None = None    # of one that has exited, where that is known
    mem_limit_bytes: int | None = None  # that it was made with, where that is known


@dataclass(frozen=True)
class Usage:
    memory_bytes: int
    memory_limit_bytes: int | None
    cpu_percent: float | None    # of one core, over the last moments
    pids: int | None = None


class Spawner(LoggingConfigurable):
    """Starts and stops single-user servers; one object for the whole Hub.

    Idempotent and stateless: what runs is asked of the engine, never remembered. Never pulls an image. All methods
    raise EngineDown when the engine does not answer.
    """

    default_url = Unicode("/lab", help="Where a student lands, below the server's own address.").tag(config=True)
    port = Integer(8888, help="The port the app in the server listens on.").tag(config=True)
    ready_path = Unicode(
        "api", help="Path below the server's address that is asked until it answers with less than 500.").tag(config=True)
    strip_prefix = Bool(
        False, help="Take /user/NAME off the path, for an app that believes it lives at /.").tag(config=True)
    inject_token = Bool(
        True, help="Let the edge add the server's own token; off for an app with a bearer scheme of its own.").tag(config=True)
    mem_limit = ByteSize(help="Most memory a server may use: bytes, or like 2G. None: no limit.").tag(config=True)
    mem_guarantee = ByteSize(help="Memory a server gets under pressure: bytes, or like 512M.").tag(config=True)
    cpu_limit = Float(None, allow_none=True, help="Most CPU a server may use, in cores.").tag(config=True)
    environment = Dict(help="Environment variables for every server.").tag(config=True)
    oauth_client_allowed_scopes = List(
        Unicode(), help="What else a server may do in its visitors' names, as far as they may: scopes of the REST API.",
    ).tag(config=True)
    cmd = List(Unicode(), help="Command to run; empty: the image's own (or jupyter-lab for a process).").tag(config=True)
    args = List(Unicode(), help="More arguments for the command.").tag(config=True)
    start_timeout = Integer(60, help="Seconds until a container has to run.").tag(config=True)
    http_timeout = Integer(60, help="Seconds from then until its app has to answer.").tag(config=True)
    stop_timeout = Integer(10, help="Seconds a server has to save and end before it is killed.").tag(config=True)

    options_form = Union(
        [Unicode(), CallableTrait()], default_value="",
        help="More fields of the form in which people choose their server, as HTML that is put on the page as it stands; or "
             "a function of the person (name, admin, groups, user_options) that returns it.").tag(config=True)
    options_from_form = Union(
        [CallableTrait(), Enum(("simple", "passthrough"))], default_value="simple",
        help="Function from the form's fields, each a list of texts, to the options to keep. simple: a field that is there "
             "once is a text, and one that is \"on\" is True; passthrough: lists as they are.").tag(config=True)
    apply_user_options = CallableTrait(
        None, allow_none=True,
        help="Function of the person and the options that were chosen; returns what the start differs in: {\"image\", "
             "\"mem_limit\", \"cpu_limit\", \"environment\"}, or None. Options may also come by the REST API, so they may "
             "be anything.").tag(config=True)
    profile_list: List[Any] = List(
        help="Ready-made servers to choose from: [{\"display_name\", \"slug\", \"description\", \"default\", \"groups\", "
             "\"image\", \"mem_limit\", \"cpu_limit\", \"environment\", \"default_url\"}, …]; with groups, only for their "
             "members.").tag(config=True)

    state_dir: Path = Path("state")   # given by the Hub: where a driver may keep files of its own
    more_images: tuple[ImageChoice, ...] = ()   # given by the Hub: images that groups of the configuration may have

    @validate("profile_list")
    def _check_profile_list(self, proposal: Any) -> Any:
        try:
            parse_profiles(proposal["value"])
        except BadOption as error:
            raise TraitError(f"{type(self).__name__}.profile_list: {error.sentence}") from error
        return proposal["value"]

    def profiles(self) -> tuple[Profile, ...]:
        return parse_profiles(self.profile_list)

    def image_choices(self) -> tuple[ImageChoice, ...]:
        """Return the images that `c.DockerSpawner.allowed_images` and the like offer, the default one first; empty where
        there is no image to choose."""
        return ()

    async def missing_images(self, images: Iterable[str]) -> frozenset[str]:
        """Return those of `images` that are not on this machine."""
        return frozenset()

    async def prepare(self) -> None:
        """Make ready what all servers share and prove that it keeps them apart. Idempotent; run at start and after the
        engine was away. Raises EngineDown, EngineUnsuitable, IsolationUnproven."""

    def addresses(self) -> Iterable[str]:
        """Return every fixed address a server may get, in order; empty where servers need none."""
        return ()

    def hub_host(self) -> str:
        """Return the host's address as servers see it, for the Hub's API."""
        return "127.0.0.1"

    def options(self, image: str) -> ImageOptions:
        """Return how servers of `image` ("" is the default one) are reached."""
        return ImageOptions(self.port, self.default_url, self.ready_path, self.strip_prefix, self.inject_token)

    async def check_image(self, image: str) -> None:
        """Raises ImageNotAllowed, ImageMissing. "" is the default image."""

    @abstractmethod
    def spec_hash(self, spec: ServerSpec) -> str:
        """Return a hash over all that, when it changes, needs a new container."""

    @abstractmethod
    async def start(self, spec: ServerSpec) -> ServerHandle:
        """Start a server and return where it will listen; does not wait for its app.

        Idempotent per spec.server_id and spec.start_no: one that runs is returned, one of an earlier start, half made
        or ended is replaced. Raises ImageMissing, ImageBroken, DiskFull, SpawnError.
        """

    @abstractmethod
    async def stop(self, server_id: str) -> None:
        """End a server in good order within stop_timeout and remove what is left of it. Idempotent."""

    @abstractmethod
    async def list(self) -> list[ActualServer]:
        """Return everything that carries our label, running or not."""

    @abstractmethod
    async def inspect(self, server_id: str) -> ActualServer | None: ...

    @abstractmethod
    async def logs(self, server_id: str, lines: int = 50) -> str:
        """Return the last lines the server printed, "" if there is none."""

    @abstractmethod
    def watch(self) -> AsyncIterator[str]:
        """Yield the server id whenever something may have changed about it, "" when that may be any. Never ends: it yields
        "" when it begins, when the engine goes away (which may be as late as the next), and when the engine is back."""

    def service_runner(self) -> ServiceRunner | None:
        """Return what runs services in containers that are kept apart like servers; None where this spawner makes none."""
        return None

    async def usage(self, server_id: str) -> Usage | None:
        """Return what a running server uses now, None if that is not known."""
        return None

    async def shared_usage(self) -> Usage | None:
        """Return what all servers use together, and may, where one control group holds them all."""
        return None

    async def close(self) -> None:
        """Let go of connections and threads. Servers go on."""


@dataclass(frozen=True)
class ImageOptions:
    port: int
    default_url: str
    ready_path: str
    strip_prefix: bool
    inject_token: bool


# ------------------------------------------------------------------------------------------------------------ Proxy --
class KeptContainer(Protocol):
    """Control of one named container that somebody else made and keeps. Every method may raise EngineDown."""

    name: str

    async def state(self) -> str | None:
        """Return the engine's word for its state ("running", "restarting", "exited", …), None if there is none."""
        ...

    async def signal(self, number: int) -> None:
        """Send a signal to its first process; nothing happens if it does not run."""
        ...

    async def restart(self, grace_s: int) -> None:
        """End and start it; it keeps its settings, and its mounts are made anew. Raises NotFound."""
        ...

    async def logs(self, lines: int = 10) -> str:
        """Return the last lines it printed, "" if there is none."""
        ...

    async def start_another(self, name: str, command: list[str]) -> KeptContainer:
        """Start one more with the same image, user, environment, limits and mounts but another command; its name ends in
        `name`, and what is left of an earlier one is removed. Raises NotFound."""
        ...

    async def remove(self) -> None:
        """End and remove it at once. Idempotent."""
        ...

    async def close(self) -> None: ...


class Proxy(LoggingConfigurable):
    """Lets browsers in by `Route`s. What is wanted is given whole; the driver keeps the real proxy in that state."""

    # given by the Hub before start()
    state_dir: Path = Path("state")
    base_url: str = "/"
    hub_url: str = "http://127.0.0.1:8081"     # where everything that matches no route goes
    hub_secret: str = ""                        # sent to the Hub as X-Appliance-Proxy, so that it trusts X-Forwarded-*
    bind_ip: str = ""
    bind_port: int = 8000
    tls: str = ""                               # off, selfsigned, files, letsencrypt; "": files if ssl_cert is set
    tls_names: tuple[str, ...] = ()
    public_host: str = ""                       # of the address people type, if that is configured
    ssl_key: str = ""
    ssl_cert: str = ""
    control: Callable[[str], KeptContainer] | None = None   # of a container by its name, where the engine is known

    async def prepare(self) -> None:
        """Write whatever the proxy reads and make its folders, without starting anything. Idempotent and quick; for a
        proxy that somebody else starts. Raises Misconfigured, DiskFull."""

    def refusal(self, tls: str, names: tuple[str, ...]) -> tuple[str, str] | None:
        """Return (an option of this class, why it cannot be) where its configuration does not fit the box's TLS."""
        return None

    def trouble(self) -> ApplianceError | None:
        """Return what an admin should mend although browsers are let in."""
        return None

    def kept_by(self) -> str:
        """Return what an admin does to end a proxy that the Hub does not start, "" if stop() ends it."""
        return ""

    @abstractmethod
    async def start(self) -> None:
        """Start the proxy, or adopt the one an earlier Hub left running; returns when it answers. Raises ProxyDown,
        Misconfigured (a port that is taken, a certificate that cannot be read)."""

    @abstractmethod
    async def run(self) -> None:
        """Keep the proxy alive and its routes as wanted, whatever happens to it or its files. Ends when cancelled,
        and leaves the proxy running."""

    @abstractmethod
    async def set_routes(self, routes: Mapping[str, Route]) -> None:
        """Make these the wanted routes, by server id; all others go."""

    @abstractmethod
    async def set_services(self, routes: Collection[ServiceRoute], keep: Collection[str] = ()) -> None:
        """Make these the ways to services; all others go, but for those to `keep`, by name, which stay as they are. Until it
        is called, those of an earlier Hub stay. Returns when written, not when live."""

    @abstractmethod
    async def add(self, route: Route) -> None:
        """Add or replace the route of one server. Returns when written, not when live."""

    @abstractmethod
    async def remove(self, server_id: str) -> None:
        """Idempotent."""

    @abstractmethod
    async def wait_live(self, server_id: str, timeout_s: float = 10.0) -> None:
        """Return when the proxy itself says that the server's wanted route (or its absence) is what it serves.
        Raises ProxyDown."""

    @abstractmethod
    async def close_connections(self, url: str) -> None:
        """Cut the open connections between the proxy and a server ("http://host:port"); browsers reconnect."""

    async def request_counts(self) -> tuple[str, Mapping[str, int]] | None:
        """Return how many requests have reached each server by way of the proxy, by server id, and since when that is
        counted (another text once counting began anew). None: not known now, or this proxy does not count."""
        return None

    async def close(self) -> None:
        """Let go of connections and threads. The proxy goes on."""

    @abstractmethod
    async def stop(self) -> None:
        """End the proxy itself. Only `appliance stop` does that; one that others keep (see kept_by) is left alone."""


# --------------------------------------------------------------------------------------------------------- Services --
@dataclass(frozen=True)
class ServiceSpec:
    """One start of a service that the Hub runs. uid and home: of `user`, for a container."""

    name: str
    prefix: str               # "/services/course101/"
    environment: Mapping[str, str]
    command: tuple[str, ...] = ()
    cwd: str = ""             # "" is the home
    user: str = ""            # "" is the Hub's own, for a process
    container: ServiceContainer | None = None
    uid: int = 0
    home: Path = Path("/")


@dataclass(frozen=True)
class ServiceStart:
    pid: int = 0              # of a process
    url: str = ""             # where a container listens, "http://10.77.255.243:8888"


class ServiceRunner(Protocol):
    """Runs services as processes, or as containers: one object for all of one sort."""

    async def clear(self, keep: Collection[str]) -> None:
        """End what an earlier Hub left behind and nobody wants any more. Raises EngineDown."""
        ...

    async def run(
        self, spec: ServiceSpec, started: Callable[[ServiceStart], Awaitable[None]], line: Callable[[str], None],
    ) -> str:
        """Run a service until it ends by itself and return in words how: "with status 1". line: told what it prints.

        One that runs already, with the same `spec`, is taken over. Cancelled, a process is ended in good order before this
        returns; a container goes on. Raises ApplianceError where it cannot be started.
        """
        ...

    async def stop(self, name: str) -> None:
        """End one that no `run` looks after. Idempotent."""
        ...

    async def uids(self) -> set[int]:
        """Return whose homes are in use by containers. Raises EngineDown."""
        ...


# ------------------------------------------------------------------------------------------------------------ Homes --
@dataclass(frozen=True)
class Home:
    uid: int
    user_name: str
    path: Path


@dataclass(frozen=True)
class HomeUsage:
    used_bytes: int
    quota_bytes: int | None      # None: no limit


class Homes(LoggingConfigurable):
    """Keeps the users' home directories. Nothing here ever deletes one."""

    root: Path = Path("homes")     # given by the Hub
    # given by the Hub: says whether anything may use a uid's home besides the server that is being started; None: unknown
    in_use: Callable[[int], Awaitable[bool]] | None = None

    @abstractmethod
    async def check(self) -> None:
        """Raises HomesUnavailable if homes are not where they should be (a mount that is missing)."""

    @abstractmethod
    async def ensure(self, uid: int, user_name: str) -> Path:
        """Return the home's absolute path; it exists and belongs to uid. Raises HomesUnavailable, DiskFull."""

    async def rename(self, uid: int, user_name: str) -> None:
        """Note that a home's owner has another name now; the home itself stays. Nothing to do where there is none yet.
        Raises HomesUnavailable, DiskFull."""

    @abstractmethod
    async def list(self) -> list[Home]: ...

    async def usage(self, uid: int) -> HomeUsage | None:
        """Return what a home holds, None where that is not known at once. Asked for a whole class every few seconds."""
        return None


# What a driver's class may be given as: a name of an entry point, an import path, or the class.
DriverClass = str | type
