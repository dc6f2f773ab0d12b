"""What a service is: a program that speaks to the Hub's API, perhaps behind /services/NAME/, perhaps run by the Hub.

`parse` reads one as `c.JupyterHub.services` and the REST API have it, in JupyterHub's words and with one of ours more:
`container`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from appliance.domain import scopes
from appliance.domain.limits import parse_bytes
from appliance.domain.names import validate_username
from appliance.domain.nearest import nearest
from appliance.domain.scopes import SCOPES, Scope
from appliance.errors import ApplianceError, BadName, BadOption

MAX_NAME = 64
RESERVED = frozenset({"hub", "appliance"})     # who did something is told by name, and these are not a service
MIN_TOKEN = 16
CLIENT_PREFIX = "service-"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{16,128}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|[0-9a-fA-F:.]{2,45}")
_CLIENT = re.compile(r"service-[A-Za-z0-9._~-]{1,200}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}")


@dataclass(frozen=True)
class ServiceContainer:
    """How a service is kept in a container of its own, beside the students'."""

    image: str
    port: int = 8888                              # its program listens there
    mem_limit_bytes: int | None = None            # None: as a student's server
    cpu_limit: float | None = None
    volumes: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))     # beside those of all servers


@dataclass(frozen=True)
class ServiceDefinition:
    """One service. What is empty was not given."""

    name: str
    admin: bool = False
    url: str = ""                                 # "http://127.0.0.1:9999", no trailing slash
    api_token: str = field(default="", repr=False)
    command: tuple[str, ...] = ()
    cwd: str = ""
    user: str = ""                                # a system user for a process, an account of the box for a container
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    oauth_client_id: str = ""                     # always "service-…"
    oauth_redirect_uri: str = ""                  # "": the usual one, where the service has an address
    oauth_client_allowed_scopes: tuple[str, ...] = ()
    oauth_no_confirm: bool = False
    info: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    display: bool = True                          # in the list that everybody sees
    timeout_s: int = 30                           # until it has to answer
    container: ServiceContainer | None = None
    from_config: bool = True                      # else made through the REST API

    @property
    def managed(self) -> bool:
        """The Hub starts and ends it."""
        return bool(self.command or self.container)

    @property
    def kind(self) -> str:
        return "managed" if self.managed else "external"

    @property
    def has_address(self) -> bool:
        """It stands at /services/NAME/."""
        return bool(self.url or self.container)

    @property
    def has_oauth(self) -> bool:
        return self.has_address or bool(self.oauth_redirect_uri)


def validate_servicename(name: object) -> str:
    """Return `name` if a service may have it: it stands in addresses, rules, cookies and names of files. Raises BadName."""
    if not isinstance(name, str) or not name:
        raise BadName("A service needs a name.")
    if len(name) > MAX_NAME:
        raise BadName(f"A service's name has at most {MAX_NAME} characters.")
    if not _NAME.fullmatch(name):
        raise BadName(f"A service's name is made of the letters A to Z, digits, '.', '_' and '-', and begins with a letter or "
                      f"a digit; “{_shown(name)}” is not.")
    if name.lower() in RESERVED:
        raise BadName(f"The name “{name}” is the box's own; give the service another one.")
    return name


def parse_all(said: Collection[Any], known: Mapping[str, Scope] = SCOPES) -> tuple[ServiceDefinition, ...]:
    """Return the services of a configuration. Raises BadOption, whose sentence names the service."""
    found: dict[str, ServiceDefinition] = {}
    for number, each in enumerate(said, 1):
        try:
            service = parse(each, known)
        except ApplianceError as error:
            name = each.get("name") if isinstance(each, Mapping) else None
            who = f"“{_shown(name)}”" if isinstance(name, str) and name else f"number {number}"
            raise BadOption(f"service {who}: {error.sentence}") from error
        for other in found.values():
            if clash := clashes(service, other):
                raise BadOption(f"service “{service.name}”: {clash}")
        found[service.name] = service
    return tuple(found.values())


def clashes(service: ServiceDefinition, other: ServiceDefinition) -> str:
    """Say why two services cannot both be, "" if they can."""
    if service.name.lower() == other.name.lower():
        # files and people do not always tell capitals from small letters
        return f"There is another service with the name “{other.name}”."
    if service.oauth_client_id == other.oauth_client_id:
        return f"The service “{other.name}” has the same oauth_client_id."
    if service.api_token and service.api_token == other.api_token:
        return f"The service “{other.name}” has the same api_token."
    return ""


def parse(said: object, known: Mapping[str, Scope] = SCOPES, *, from_config: bool = True) -> ServiceDefinition:
    """Return a service as it was described. Raises BadOption, BadName, BadScope."""
    if not isinstance(said, Mapping):
        raise BadOption("A service is described by a dictionary like {'name': 'culler', 'command': […]}.")
    for key in said:
        if key not in _READERS:
            raise BadOption(_unknown(key, _READERS, "a service"))
    values = {key: _READERS[key](f"“{key}”", value) for key, value in said.items() if value is not None}
    name = validate_servicename(values.pop("name", ""))
    service = ServiceDefinition(
        name=name, from_config=from_config, oauth_client_id=values.pop("oauth_client_id", "") or CLIENT_PREFIX + name,
        **{_FIELDS.get(key, key): value for key, value in values.items()})
    _check_together(service)
    for scope in service.oauth_client_allowed_scopes:
        scopes.check(scope, known)
    return service


def _check_together(service: ServiceDefinition) -> None:
    if not service.from_config and service.managed:
        raise BadOption("The Hub starts only services of its configuration: “command” and “container” cannot be given here.")
    if not service.managed:
        for key in ("cwd", "user", "environment"):
            if getattr(service, key):
                raise BadOption(f"“{key}” is for a service that the Hub starts, so it needs “command” or “container”.")
    if service.container is not None:
        if service.url:
            raise BadOption("A service in a container has an address of the box's own: give “port” in “container” instead of "
                            "“url”.")
        if not service.user:
            raise BadOption("A service in a container needs “user”: the account of this box whose home it works in.")
        validate_username(service.user)
    if service.oauth_no_confirm and not service.has_oauth:
        raise BadOption("“oauth_no_confirm” needs “url” or “oauth_redirect_uri”: nobody signs in to this service.")


# -- one value ---------------------------------------------------------------------------------------------------------
def _text(what: str, value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise BadOption(f"{what} has to be text in quotes.")
    return value


def _flag(what: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise BadOption(f"{what} is True or False.")
    return value


def _url(what: str, value: object) -> str:
    text = _text(what, value)
    if not text:
        return ""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise BadOption(f"{what} is like http://127.0.0.1:9999, not “{_shown(text)}”.") from None
    if (not text.isprintable() or parts.scheme not in ("http", "https") or not _HOST.fullmatch(host)
            or parts.username is not None or port == 0 or parts.netloc.endswith(":")):
        raise BadOption(f"{what} is like http://127.0.0.1:9999, not “{_shown(text)}”.")
    if parts.path not in ("", "/") or parts.query or parts.fragment or text[-1] in "?#":
        raise BadOption(f"{what} has no path, because the service is asked for /services/NAME/ itself: "
                        f"“{_shown(text)}” has one.")
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + (f":{port}" if port else "")


def _token(what: str, value: object) -> str:
    text = _text(what, value)
    if not text:
        return ""
    if len(text) < MIN_TOKEN:
        raise BadOption(f"{what} is too short: it needs at least {MIN_TOKEN} characters, better 64 of “openssl rand -hex 32”.")
    if not _TOKEN.fullmatch(text):
        raise BadOption(f"{what} has at most 128 characters: letters, digits and any of . _ ~ + / = -.")
    return text


def _command(what: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str) and (split := _split(value)):
        raise BadOption(f"{what} is a list of words: write {json.dumps(split, ensure_ascii=False)}.")
    words = [value] if isinstance(value, str) and value else value or []
    if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) and "\0" not in word for word in words):
        raise BadOption(f"{what} is a list of words like ['python3', '-m', 'my_service'].")
    if words and not words[0]:
        raise BadOption(f"{what} begins with a program.")
    return tuple(words)


def _split(command: str) -> list[str]:
    """Return the words of a line as for a shell, [] where it is one word."""
    try:
        words = shlex.split(command)
    except ValueError:      # a quotation mark that is never closed
        words = command.split()
    return words if len(words) > 1 else []


def _environment(what: str, value: object) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        raise BadOption(f"{what} is a dictionary like {{'NAME': 'value'}}.")
    for name, text in value.items():
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            raise BadOption(f"{what} holds “{_shown(name)}”, which cannot be the name of a variable.")
        if not isinstance(text, (str, int, float)) or "\0" in str(text):
            raise BadOption(f"{what}: the value of {name} has to be text in quotes.")
    return MappingProxyType({name: str(text) for name, text in value.items()})


def _client_id(what: str, value: object) -> str:
    text = _text(what, value)
    if text and not _CLIENT.fullmatch(text):
        raise BadOption(f"{what} begins with “{CLIENT_PREFIX}”, followed by letters, digits, '.', '_', '~' or '-'.")
    return text


def _redirect(what: str, value: object) -> str:
    """A path of this box or an address elsewhere; whatever is not exactly this is refused when somebody signs in."""
    text = _text(what, value)
    if not text:
        return ""
    fine = text.isascii() and text.isprintable() and not any(char in "\\ \"<>^`{|}#" for char in text) and len(text) <= 2000
    try:
        parts = urlsplit(text)
        fine = fine and (bool(parts.hostname) and parts.scheme in ("http", "https") and parts.username is None
                         if parts.scheme or parts.netloc else text.startswith("/") and not text.startswith("//"))
    except ValueError:
        fine = False
    if not fine:
        raise BadOption(f"{what} is an address like https://other.school/oauth_callback or a path of this box, "
                        f"not “{_shown(text)}”.")
    return text


def _allowed_scopes(what: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple, set, frozenset)) or not all(isinstance(scope, str) for scope in value):
        raise BadOption(f"{what} is a list of scopes like ['read:users!user'].")
    return tuple(dict.fromkeys(value if isinstance(value, (list, tuple)) else sorted(value)))


def _info(what: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise BadOption(f"{what} is a dictionary like {{'about': 'anything'}}.")
    try:
        json.dumps(dict(value), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise BadOption(f"{what} holds what cannot be said in JSON; use texts, numbers, lists and dictionaries.") from None
    return MappingProxyType(dict(value))


def _timeout(what: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 3600:
        raise BadOption(f"{what} is a whole number of seconds from 1 to 3600.")
    return value


def _container(what: str, value: object) -> ServiceContainer | None:
    if not isinstance(value, Mapping):
        raise BadOption(f"{what} is a dictionary like {{'image': 'appliance/notebook:latest'}}.")
    if not value:
        return None
    keys = ("image", "port", "mem_limit", "cpu_limit", "volumes")
    for key in value:
        if key not in keys:
            raise BadOption(_unknown(key, keys, what))
    image, port = value.get("image"), value.get("port", 8888)
    if not isinstance(image, str) or not _IMAGE.fullmatch(image):
        raise BadOption(f"{what} needs an “image” like appliance/notebook:latest.")
    if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
        raise BadOption(f"{what}: “port” is a whole number from 1 to 65535.")
    memory, cpu, volumes = value.get("mem_limit"), value.get("cpu_limit"), value.get("volumes") or {}
    if cpu is not None and (isinstance(cpu, bool) or not isinstance(cpu, (int, float)) or not 0 < cpu < 10_000):
        raise BadOption(f"{what}: “cpu_limit” is a number of cores, like 0.5.")
    if not isinstance(volumes, Mapping):
        raise BadOption(f"{what}: “volumes” is a dictionary like {{'/on/the/host': '/in/container'}}.")
    return ServiceContainer(image, port, None if memory is None else parse_bytes(memory),
                            None if cpu is None else float(cpu), MappingProxyType(dict(volumes)))


def _roles(what: str, value: object) -> None:
    raise BadOption(f"{what} is gone from JupyterHub too; name the scopes in “oauth_client_allowed_scopes”.")


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "name": _text, "admin": _flag, "url": _url, "api_token": _token, "command": _command, "cwd": _text, "user": _text,
    "environment": _environment, "oauth_client_id": _client_id, "oauth_redirect_uri": _redirect,
    "oauth_client_allowed_scopes": _allowed_scopes, "oauth_no_confirm": _flag, "oauth_roles": _roles, "info": _info,
    "display": _flag, "timeout": _timeout, "container": _container,
}
_FIELDS = {"timeout": "timeout_s"}


def _unknown(key: object, known: Collection[str], whose: str) -> str:
    rest = nearest(key, known) or f"; there is {', '.join(sorted(set(known) - {'oauth_roles'}))}"
    return f"There is no “{_shown(key)}” in {whose}{rest}."


def _shown(text: object) -> str:
    words = str(text)
    return words[:60] if words.isprintable() else "?"


# -- how it is ---------------------------------------------------------------------------------------------------------
class ServicePhase(StrEnum):
    CLIENT = "client"            # has no address and is not the Hub's to start: nobody knows whether it runs
    WAITING = "waiting"          # for the container engine
    STARTING = "starting"
    RUNNING = "running"          # and answers, where it has an address
    AWAY = "away"                # does not answer at its address
    RESTARTING = "restarting"    # has ended and is started again in a moment
    FAILED = "failed"            # ends again and again, or cannot be started; it is tried again, ever more rarely


@dataclass(frozen=True)
class ServiceState:
    """How a service is now. pid: 0 where it is no process of the Hub's."""

    phase: ServicePhase
    since: datetime
    pid: int = 0
    url: str = ""                # where it listens, once that is known
    restarts: int = 0
    said: str = ""               # why it is away, restarting or failed
    lines: tuple[str, ...] = ()  # what it printed last
