"""The settings of the whole box: what the command line and jupyterhub_config.py say, checked, in one frozen object."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from traitlets import Bool, Dict, Enum, Float, Integer, List, TraitError, TraitType, Unicode, Union
from traitlets import Callable as CallableTrait
from traitlets.config import Config, Configurable, LoggingConfigurable

from appliance import plugins
from appliance.configfile import Checker, ConfigFile, GivenOnCommandLine, readable
from appliance.cookiesecret import load_cookie_secret as load_cookie_secret
from appliance.domain import roles, scopes
from appliance.domain.group_limits import GroupLimits, parse_limits
from appliance.domain.hosts import clean_host
from appliance.domain.names import validate_groupname, validate_new_servername
from appliance.domain.offers import NamedServers
from appliance.domain.roles import Roles
from appliance.domain.service import ServiceDefinition, parse_all
from appliance.domain.urls import Urls, origin_of
from appliance.errors import ApplianceError, BadInput, BadName, Misconfigured
from appliance.ports import Authenticator, Homes, Proxy, Spawner

DEFAULT_FILE = "jupyterhub_config.py"
_Driver = TypeVar("_Driver", bound=LoggingConfigurable)


class DriverName(TraitType[Any, Any]):
    """A short name, an import path, or a class."""

    info_text = "a name, an import path or a class"

    def validate(self, obj: Any, value: Any) -> str | type:
        if isinstance(value, (str, type)) and value:
            return value
        self.error(obj, value)


def _driver(kind: plugins.Kind, default: str) -> DriverName:
    return DriverName(default, help=f"{kind.noun[0].upper()}{kind.noun[1:]}: {', '.join(kind.builtin)}, the name of "
                                    "another entry point, an import path, or a class.").tag(config=True)


class JupyterHub(Configurable):
    """The box as a whole. Folders and files are relative to where the Hub is started."""

    ip = Unicode("", help="Address the box is reached at; empty: all of this machine's.").tag(config=True)
    port = Integer(8000, min=1, max=65535, help="Port the box is reached at.").tag(config=True)
    base_url = Unicode("/", help="Path everything lives under, like /jupyter/.").tag(config=True)
    bind_url = Unicode(
        "", help="ip, port and base_url in one, like http://127.0.0.1:8000/jupyter/; each of them alone wins.",
    ).tag(config=True)
    public_url = Unicode(
        "", help="The address people type, like https://box.school, if something stands in front of the box. "
                 "Empty: whatever address a browser used.").tag(config=True)
    tls = Enum(
        ("", "off", "selfsigned", "files", "letsencrypt"), "",
        help="Where the certificate comes from: selfsigned is an authority of the box's own, files are ssl_cert and ssl_key, "
             "off is plain HTTP. Empty: files if ssl_cert is given, else off.").tag(config=True)
    tls_names = List(
        Unicode(), help="DNS names and IP addresses in the certificate, for selfsigned and letsencrypt. Empty with selfsigned: "
                        "the public_url's, this machine's name and its addresses.").tag(config=True)
    ssl_key = Unicode("", help="File of the TLS certificate's private key.").tag(config=True)
    ssl_cert = Unicode("", help="File of the TLS certificate, followed by those that signed it.").tag(config=True)
    hub_ip = Unicode("127.0.0.1", help="Address the Hub itself listens on, for the proxy.").tag(config=True)
    hub_port = Integer(8081, min=1, max=65535, help="Port the Hub itself listens on, for the proxy.").tag(config=True)
    db_url = Unicode(
        "sqlite:///jupyterhub.sqlite", help="The database: a file, or postgresql://user@host/name.").tag(config=True)
    cookie_secret_file = Unicode(
        "jupyterhub_cookie_secret", help="The secret that signs logins; deleting it ends every login.").tag(config=True)
    cookie_max_age_days = Float(14, min=0.01, max=400, help="Days until one has to sign in again.").tag(config=True)
    authenticator_class = _driver(plugins.AUTHENTICATOR, "pam")
    spawner_class = _driver(plugins.SPAWNER, "docker")
    proxy_class = _driver(plugins.PROXY, "traefik")
    homes_class = _driver(plugins.HOMES, "directory")
    concurrent_spawn_limit = Integer(
        None, min=0, allow_none=True,
        help="Most servers that start at the same moment, others wait; 0: no limit. Unset: by the number of cores.",
    ).tag(config=True)
    active_server_limit = Integer(0, min=0, help="Most servers that run at all; 0: no limit.").tag(config=True)
    redirect_to_server = Bool(True, help="Lead people to their server when they have signed in.").tag(config=True)
    default_url = Unicode("", help="Path to lead people to instead, like /hub/home.").tag(config=True)
    state_dir = Unicode("state", help="Folder for what the box keeps for itself: routes, keys, logs.").tag(config=True)
    run_dir = Unicode(
        "", help="Folder that is empty after the machine was restarted, so that the Hub notices and starts the servers again "
                 "that ran. Empty: one of its own below /run/appliance, or else in state_dir.").tag(config=True)
    homes_dir = Unicode("homes", help="Folder of the users' home directories.").tag(config=True)
    authenticate_prometheus = Bool(
        True, help="Ask for a token at /hub/metrics; off: whoever reaches the box reads them.").tag(config=True)
    metrics_token_file = Unicode(
        "", help="File of the token with which Prometheus reads /hub/metrics; an admin's API token does as well.",
    ).tag(config=True)
    allow_named_servers = Bool(
        False, help="Let people have more servers than the default one, each with a name.").tag(config=True)
    named_server_limit_per_user = Union(
        [Integer(0, min=0), CallableTrait()], default_value=0,
        help="How many named servers each may have; 0: no limit. Or a function of the person (name, admin, groups).",
    ).tag(config=True)
    default_server_name = Unicode(
        "", help="The named server that links lead to which name none, like /hub/user-redirect/…; needs allow_named_servers.",
    ).tag(config=True)
    group_limits = Dict(
        help="What groups change for their members: {\"7b\": {\"mem_limit\": \"1G\", \"cpu_limit\": 1, \"image\": …, "
             "\"allowed_images\": […], \"profiles\": […], \"max_named_servers\": 2}}. Of several groups the highest holds.",
    ).tag(config=True)
    services = List(
        Dict(), help="Programs that speak to the Hub's API: dictionaries of name, url, api_token, command, container and more, "
                     "see “Writing a service”.").tag(config=True)
    load_roles = List(
        Dict(), help="Roles: dictionaries of name, description, scopes, and the users, services and groups who have it. The "
                     "roles user, server and token can be changed, admin can be given.").tag(config=True)
    custom_scopes = Dict(
        help="Scopes of one's own, for services: {'custom:grades:read': {'description': 'read grades', 'subscopes': []}}.",
    ).tag(config=True)
    token_expires_in_max_seconds = Integer(
        0, min=0, max=315_360_000, help="Longest life of a token that people or services make; 0: no such limit.",
    ).tag(config=True)
    oauth_token_expires_in = Integer(
        14 * 86_400, min=60, max=315_360_000,
        help="Seconds that what a server or service learns about its visitor is good for; it ends with the sign-in anyway.",
    ).tag(config=True)
    api_page_default_limit = Integer(
        50, min=1, max=10_000, help="Entries in a page of the REST API where a program asks for pages and not for how many.",
    ).tag(config=True)
    api_page_max_limit = Integer(
        200, min=1, max=10_000, help="Most entries in one answer of the REST API.").tag(config=True)
    event_log_file = Unicode(
        "", help="File to which every event (starts, stops, sign-ins, accounts, …) is appended as a line of JSON; see “The "
                 "event log”. Its folder must be there. Empty: none.").tag(config=True)
    event_log_max_bytes = Integer(
        20_000_000, min=0, help="Size at which event_log_file is put aside, as FILE.1, of which one is kept; 0: never.",
    ).tag(config=True)
    log_level = Enum(
        (0, 10, 20, 30, 40, 50, "DEBUG", "INFO", "WARN", "WARNING", "ERROR", "CRITICAL"), "INFO",
        help="How much the Hub writes to its log.").tag(config=True)


@dataclass(frozen=True)
class Settings:
    """Everything decided before the box is built. Paths are absolute."""

    config: Config                  # for the drivers; unknown options are gone
    config_file: Path | None        # None: there is none
    ip: str                         # "" is all addresses; never a host name, IPv6 without brackets
    port: int
    base_url: str                   # begins and ends with a slash
    public_origin: str              # "https://box.school", or "": whatever address a browser used
    tls: str                        # off, selfsigned, files or letsencrypt
    tls_names: tuple[str, ...]      # as certificates have them; (): whatever this machine is called
    ssl_key: str                    # "" or an absolute path, as is ssl_cert: both or none
    ssl_cert: str
    hub_ip: str
    hub_port: int
    db_url: str                     # as SQLAlchemy takes it, with its driver
    cookie_secret_file: Path
    cookie_max_age: timedelta
    authenticator_class: type[Authenticator]
    spawner_class: type[Spawner]
    proxy_class: type[Proxy]
    homes_class: type[Homes]
    concurrent_spawn_limit: int     # 0: none, as with the next
    active_server_limit: int
    redirect_to_server: bool
    default_url: str                # "" or a path
    state_dir: Path
    run_dir: Path
    homes_dir: Path
    log_level: int
    authenticate_prometheus: bool
    metrics_token_file: Path | None
    named_servers: NamedServers
    group_limits: Mapping[str, GroupLimits]
    group_limits_at: str            # "file, line 3: " for a sentence about them, "" if nothing is said of them
    roles: Roles
    services: tuple[ServiceDefinition, ...]
    token_expires_in_max_seconds: int   # 0: no more than what holds anyway
    oauth_token_expires_in: int
    api_page_default_limit: int
    api_page_max_limit: int
    event_log_file: Path | None
    event_log_max_bytes: int        # 0: never put aside
    notices: tuple[str, ...] = ()   # options we do not have

    @property
    def urls(self) -> Urls:
        return Urls(self.base_url)

    @property
    def public_host(self) -> str:
        return urlsplit(self.public_origin).hostname or ""

    @property
    def authority_file(self) -> Path | None:
        """The root of the box's own authority, which TraefikProxy makes; None where browsers need not be told to trust it."""
        return self.state_dir / "tls" / "ca.crt" if self.tls == "selfsigned" else None

    @property
    def classes(self) -> tuple[type[Configurable], ...]:
        return (JupyterHub, self.authenticator_class, self.spawner_class, self.proxy_class, self.homes_class)

    def make(self, cls: type[_Driver], **attributes: Any) -> _Driver:
        """Build a driver from the configuration and give it the Hub's `attributes`. Raises Misconfigured."""
        try:
            driver = cls(config=self.config, log=logging.getLogger(f"appliance.{cls.__name__}"))
            for name, value in attributes.items():
                setattr(driver, name, value)
        except TraitError as error:
            raise Misconfigured(f"{cls.__name__} cannot be used: {error}") from error
        return driver


# ----------------------------------------------------------------------------------------------------- command line --
_FLAGS = (
    ("--ip", "JupyterHub.ip", "ADDRESS"), ("--port", "JupyterHub.port", "PORT"),
    ("--base-url", "JupyterHub.base_url", "PATH"), ("--ssl-key", "JupyterHub.ssl_key", "FILE"),
    ("--ssl-cert", "JupyterHub.ssl_cert", "FILE"), ("--db", "JupyterHub.db_url", "URL"),
)
_ALL_FLAGS = frozenset(flag for flag, _, _ in _FLAGS)


def add_arguments(parser: argparse.ArgumentParser, flags: Container[str] = _ALL_FLAGS) -> None:
    """Add -f, --debug and `flags`; those that are not given on a command line do not appear in what is parsed.

    Where the box's own command hands its words over, its help does not speak of files in the Hub's container.
    """
    handed_over = bool(os.environ.get("APPLIANCE_HANDED_OVER"))
    add = parser.add_argument_group("configuration").add_argument
    add("-f", "--config", metavar="FILE", default=argparse.SUPPRESS,
        help=argparse.SUPPRESS if handed_over else f"read this file; without it {DEFAULT_FILE}, if there is one")
    for flag, option, metavar in (row for row in _FLAGS if row[0] in flags):
        trait = JupyterHub.class_traits()[option.partition(".")[2]]
        default = f" (default: {trait.default_value})" if trait.default_value else ""
        add(flag, dest=option, metavar=metavar, default=argparse.SUPPRESS,
            help=argparse.SUPPRESS if handed_over else f"{trait.help[0].lower()}{trait.help[1:].rstrip('.')}{default}")
    add("--debug", action="store_true", default=argparse.SUPPRESS,
        help="write everything to the log, and tracebacks of errors")


def split_options(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str, str]]]:
    """Take each --Class.option=VALUE out of a command line; return the rest, and (class, option, value) of each.
    Raises Misconfigured."""
    rest: list[str] = []
    options: list[tuple[str, str, str]] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        match = re.fullmatch(r"--([A-Z]\w*)\.(\w+)(?:=(.*))?", word, re.DOTALL)
        if match is None:
            rest.append(word)
        elif match[3] is None and not words:
            raise Misconfigured(f"The option {word} needs a value: {word}=VALUE.")
        else:
            options.append((match[1], match[2], words.pop(0) if match[3] is None else match[3]))
    return rest, options


def overrides(parsed: argparse.Namespace, options: Iterable[tuple[str, str, str]]) -> Config:
    """Return what the command line sets, with the options that `split_options` took out of it."""
    given: dict[tuple[str, str], list[str]] = {}
    for _, option, _ in _FLAGS:
        if hasattr(parsed, option):
            section, _, name = option.partition(".")
            given[section, name] = [getattr(parsed, option)]
    for section, name, value in options:
        given.setdefault((section, name), []).append(value)
    config = Config()
    for (section, name), values in given.items():
        config[section][name] = GivenOnCommandLine(values)
    if getattr(parsed, "debug", False):
        config.JupyterHub.log_level = "DEBUG"
    return config


def load_settings(argv: Sequence[str] = ()) -> Settings:
    """Return the settings for a command line like ["-f", "my_config.py", "--port=8080"]. Raises Misconfigured."""
    rest, options = split_options(argv)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_arguments(parser)
    parsed = parser.parse_args(rest)
    return settings_from(getattr(parsed, "config", None), overrides(parsed, options))


def settings_from(config_file: str | None, given: Config) -> Settings:
    """Return the settings of a file, None being the usual one, and what the command line sets. Raises Misconfigured."""
    file = ConfigFile.load(Path(config_file or DEFAULT_FILE), may_be_missing=config_file is None)
    config = Config()
    config.merge(file.config)
    config.merge(given)
    own = Config({"JupyterHub": config.JupyterHub.copy()})
    checker = Checker(own, given, file, [JupyterHub])
    checker.check()
    hub = JupyterHub(config=own)
    drivers = {kind.option: _find(kind, hub, checker) for kind in plugins.KINDS}
    checker = Checker(config, given, file, [JupyterHub, *drivers.values()])
    notices = checker.check()
    return _Resolver(hub, config, checker).settings(drivers, file.path, tuple(notices))


def _find(kind: plugins.Kind, hub: JupyterHub, checker: Checker) -> type[Any]:
    try:
        return plugins.find(kind, getattr(hub, kind.option))
    except Misconfigured as error:
        where = checker.where("JupyterHub", kind.option) if kind.option in checker.config.JupyterHub else ""
        raise Misconfigured(f"{where}{error.sentence}") from error


class _Resolver:
    """From the traits of JupyterHub to settings, with a sentence for what cannot be."""

    def __init__(self, hub: JupyterHub, config: Config, checker: Checker) -> None:
        self.hub, self.config, self.checker = hub, config, checker

    def refuse(self, name: str, reason: str) -> Misconfigured:
        return Misconfigured(f"{self.checker.where('JupyterHub', name)}c.JupyterHub.{name} {reason}.")

    def settings(self, drivers: dict[str, type[Any]], file: Path | None, notices: tuple[str, ...]) -> Settings:
        hub = self.hub
        ip, port, base_url = self.binding()
        key, cert = self.certificate()
        tls, names = self.tls(), self.tls_names()
        self.check_proxy(drivers[plugins.PROXY.option], tls, names, port)
        if hub.port == hub.hub_port and hub.hub_ip == ip:
            raise self.refuse("hub_port", "must differ from c.JupyterHub.port")
        limit = hub.concurrent_spawn_limit
        level = hub.log_level
        return Settings(
            config=self.config, config_file=file.absolute() if file else None,
            ip=ip, port=port, base_url=base_url, public_origin=self.public_origin(base_url),
            tls=tls, tls_names=names, ssl_key=key, ssl_cert=cert,
            hub_ip=self.address("hub_ip", hub.hub_ip), hub_port=hub.hub_port, db_url=self.db_url(),
            cookie_secret_file=Path(hub.cookie_secret_file).absolute(),
            cookie_max_age=timedelta(days=hub.cookie_max_age_days),
            **drivers,
            concurrent_spawn_limit=max(8, 4 * len(os.sched_getaffinity(0))) if limit is None else limit,
            active_server_limit=hub.active_server_limit, redirect_to_server=hub.redirect_to_server,
            default_url=self.default_url(), state_dir=Path(hub.state_dir).absolute(),
            run_dir=Path(hub.run_dir or default_run_dir(Path(hub.state_dir).absolute())).absolute(),
            homes_dir=Path(hub.homes_dir).absolute(),
            log_level=level if isinstance(level, int) else logging.getLevelNamesMapping()[str(level)], notices=notices,
            authenticate_prometheus=hub.authenticate_prometheus,
            metrics_token_file=Path(hub.metrics_token_file).absolute() if hub.metrics_token_file else None,
            named_servers=self.named_servers(), group_limits=self.group_limits(),
            group_limits_at=self.checker.where("JupyterHub", "group_limits") if hub.group_limits else "",
            roles=(roles := self.roles()), services=self.services(roles),
            token_expires_in_max_seconds=hub.token_expires_in_max_seconds,
            oauth_token_expires_in=hub.oauth_token_expires_in,
            api_page_default_limit=min(hub.api_page_default_limit, hub.api_page_max_limit),
            api_page_max_limit=hub.api_page_max_limit,
            event_log_file=Path(hub.event_log_file).absolute() if hub.event_log_file else None,
            event_log_max_bytes=hub.event_log_max_bytes)

    def named_servers(self) -> NamedServers:
        try:
            name = validate_new_servername(self.hub.default_server_name)
        except BadName as error:
            raise self.refuse("default_server_name", f"cannot be used: {error.sentence.rstrip('.')}") from error
        allowed = self.hub.allow_named_servers
        return NamedServers(allowed, self.hub.named_server_limit_per_user, name if allowed else "")

    def group_limits(self) -> dict[str, GroupLimits]:
        found = {}
        for said, limits in self.hub.group_limits.items():
            try:
                found[validate_groupname(str(said))] = parse_limits(limits)
            except BadInput as error:
                raise self.refuse("group_limits", f"cannot be used, for {said!r}: {error.sentence.rstrip('.')}") from error
        return found

    def binding(self) -> tuple[str, int, str]:
        hub, said = self.hub, self.config.JupyterHub
        ip, port, base = hub.ip, hub.port, hub.base_url
        if hub.bind_url:
            try:
                url = urlsplit(hub.bind_url)
                found = url.port or {"http": 80, "https": 443}[url.scheme]
            except (ValueError, KeyError):
                raise self.refuse("bind_url", "must be like http://127.0.0.1:8000/") from None
            if url.scheme == "https" and self.tls() == "off":
                raise self.refuse("bind_url", "says https, which needs c.JupyterHub.tls, or ssl_key and ssl_cert")
            ip = ip if "ip" in said else url.hostname or ""
            port = port if "port" in said else found
            base = base if "base_url" in said else url.path or "/"
        base = f"/{base.strip('/')}/" if base.strip("/") else "/"
        if not re.fullmatch(r"/([A-Za-z0-9_~-][A-Za-z0-9._~-]*/)*", base):
            raise self.refuse("base_url", f"must be a path like /jupyter/, of letters, digits, '.', '_', '~' and '-', "
                                          f"not {hub.base_url!r}")
        return self.address("ip", ip), port, base

    def address(self, name: str, value: str) -> str:
        value = {"*": "", "localhost": "127.0.0.1"}.get(value, value).strip("[]")
        if value in ("", "0.0.0.0", "::"):
            return "" if name == "ip" else value
        try:
            return str(ipaddress.ip_address(value))
        except ValueError:
            raise self.refuse(name, f"must be an IP address of this machine, not {value!r}") from None

    def certificate(self) -> tuple[str, str]:
        key, cert = self.hub.ssl_key, self.hub.ssl_cert
        if bool(key) != bool(cert):
            raise self.refuse("ssl_key" if key else "ssl_cert", "needs the other of the two, ssl_key and ssl_cert")
        for name, path in (("ssl_key", key), ("ssl_cert", cert)):
            reason = readable(path) if path else ""
            if reason:
                raise self.refuse(name, f"cannot be read: {path}: {reason}")
        return (str(Path(key).absolute()), str(Path(cert).absolute())) if key else ("", "")

    def tls(self) -> str:
        said, given = str(self.hub.tls), bool(self.hub.ssl_cert or self.hub.ssl_key)
        if said == "files" and not given:
            raise self.refuse("tls", "is 'files', which needs c.JupyterHub.ssl_cert and ssl_key")
        if said not in ("", "files") and given:
            raise self.refuse("tls", f"is {said!r}, which does not go with c.JupyterHub.ssl_cert and ssl_key")
        return said or ("files" if given else "off")

    def tls_names(self) -> tuple[str, ...]:
        tls, names = self.tls(), []
        for said in self.hub.tls_names:
            name = clean_host(said)
            if not name:
                raise self.refuse("tls_names", f"holds {said!r}, which is neither a DNS name nor an IP address")
            names.append(name)
        if names and tls in ("off", "files"):
            raise self.refuse("tls_names", f"has no effect, because c.JupyterHub.tls is {tls!r}")
        if tls == "letsencrypt" and not names:
            raise self.refuse("tls", "is 'letsencrypt', which needs the box's names in c.JupyterHub.tls_names")
        return tuple(dict.fromkeys(names))

    def check_proxy(self, proxy: type[Proxy], tls: str, names: tuple[str, ...], port: int) -> None:
        if tls in ("selfsigned", "letsencrypt") and port == 80:
            raise self.refuse("tls", f"is {tls!r}, so c.JupyterHub.port cannot be 80, where HTTP is spoken; usual is 443")
        found = proxy(config=self.config).refusal(tls, names)
        if found is None:
            return
        option, reason = found
        said_by = [cls.__name__ for cls in proxy.mro() if option in self.config.get(cls.__name__, ())]
        where = self.checker.where(said_by[0], option) if said_by else self.checker.where("JupyterHub", "tls")
        raise Misconfigured(f"{where}c.{proxy.__name__}.{option} {reason}.")

    def public_origin(self, base_url: str) -> str:
        if not self.hub.public_url:
            return ""
        url = urlsplit(self.hub.public_url)
        origin = origin_of(url.scheme, url.netloc)
        if not origin or url.query or url.fragment or f"{url.path.rstrip('/')}/" not in ("/", base_url):
            raise self.refuse("public_url", "must be like https://box.school, with no path but base_url")
        return origin

    def roles(self) -> Roles:
        try:
            known = scopes.define(self.hub.custom_scopes)
        except ApplianceError as error:
            raise self.refuse("custom_scopes", f"cannot be used: {error.sentence.rstrip('.')}") from error
        try:
            return roles.parse(self.hub.load_roles, known)
        except ApplianceError as error:
            raise self.refuse("load_roles", f"cannot be used: {error.sentence.rstrip('.')}") from error

    def services(self, roles: Roles) -> tuple[ServiceDefinition, ...]:
        try:
            return parse_all(self.hub.services, roles.scopes)
        except ApplianceError as error:
            raise self.refuse("services", f"cannot be used: {error.sentence.rstrip('.')}") from error

    def default_url(self) -> str:
        if self.hub.default_url and not re.fullmatch(r"/[^/\\\s]\S*", self.hub.default_url):
            raise self.refuse("default_url", "must be a path of this box that begins with one slash")
        return self.hub.default_url

    def db_url(self) -> str:
        url = self.hub.db_url
        if "://" not in url:
            return f"sqlite:///{Path(url).absolute()}" if url else self._no_database()
        scheme, rest = url.split("://", 1)
        if scheme in ("sqlite", "sqlite+pysqlite"):
            path = rest.partition("?")[0].removeprefix("/")
            return f"sqlite:///{Path(path).absolute()}" if path and path != ":memory:" else self._no_database()
        if scheme in ("postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2", "postgresql+asyncpg"):
            return f"postgresql+psycopg://{rest}"
        return self._no_database()

    def _no_database(self) -> str:
        raise self.refuse("db_url", "must be the path of a file, sqlite:///FILE or postgresql://USER@HOST/NAME")


def default_run_dir(state_dir: Path) -> Path:
    """Two boxes on one machine must not take each other's marker for their own."""
    return Path("/run/appliance", sha256(str(state_dir).encode()).hexdigest()[:12])


def warnings(settings: Settings) -> list[str]:
    """Return what an admin should know before the box starts, a sentence or two each."""
    found = list(settings.notices)
    if not _is_loopback(settings.hub_ip):
        found.append("c.JupyterHub.hub_ip lets other machines reach the Hub past the proxy; 127.0.0.1 does not.")
    if not (_is_loopback(settings.ip) or settings.tls != "off" or settings.public_origin.startswith("https://")):
        where = settings.ip or "all addresses of this machine"
        found.append(
            f"The box listens on {where}, port {settings.port}, without encryption: whoever shares the network can "
            "read passwords. Set c.JupyterHub.tls, or give --ip=127.0.0.1 behind something that encrypts.")
    return found


def _is_loopback(ip: str) -> bool:
    return bool(ip) and ipaddress.ip_address(ip).is_loopback
