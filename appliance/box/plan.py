"""What the playbook is about to do, as the checks need to know it: a JSON object, checked, with the defaults filled in."""

from __future__ import annotations

import ast
import difflib
import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from appliance.box.paths import DEFAULT_DATA, Paths
from appliance.box.shell import BoxError

GIB = 1024 ** 3
_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_CHOICES = {
    "tls": ("off", "selfsigned", "files", "letsencrypt"),
    "acme_challenge": ("http", "dns"),
    "docker_package": ("distribution", "vendor"),
    "homes_kind": ("loop", "disk", "mount", "directory"),
    "database": ("sqlite", "postgres"),
}


def parse_size(text: str) -> int:
    """Return bytes of "2G", "512M" or "1073741824". Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"“{text}” is not a size like 512M or 20G")
    return int(float(match[1]) * 1024 ** " kmgt".index(match[2].lower() or " "))


@dataclass(frozen=True)
class Plan:
    """One field a key of the JSON object. Paths are those of the machine that is checked."""

    name: str = ""                    # host name of the box; "": it is reached by its address
    http_port: int = 80
    https_port: int = 443
    hub_port: int = 8081
    holding_port: int = 8083          # what is shown while the Hub is away
    tls: str = "selfsigned"
    tls_certificate: str = ""
    tls_key: str = ""
    tls_new_root: bool = False        # selfsigned: devices may have to be told to trust another root
    acme_challenge: str = "http"
    subnet: str = "10.77.0.0/16"
    data: str = DEFAULT_DATA
    homes_kind: str = "loop"
    homes_size: str = "20G"           # of the loop file
    homes_file: str = ""              # the loop file; "": beside the data
    homes_device: str = ""            # kind disk: like /dev/sdb
    homes_path: str = ""              # where homes are mounted; "": homes in the data folder
    homes_label: str = "appliance-homes"
    quota: str = "2G"                 # per student; "" or "0": none
    reserve: str = "auto"             # memory that students never get
    student_memory: str = "1G"
    docker_package: str = "distribution"
    database: str = "sqlite"
    users_file: str = ""
    offline: bool = False             # packages come from elsewhere, nothing is fetched
    ssh_port: int = 22

    @property
    def homes(self) -> str:
        return self.homes_path or f"{self.data.rstrip('/')}/homes"

    @property
    def loop_file(self) -> str:
        return self.homes_file or f"{self.data.rstrip('/')}/homes.img"

    @property
    def student_memory_bytes(self) -> int:
        return parse_size(self.student_memory)

    def reserve_bytes(self, total: int) -> int:
        """Return the memory that is kept for Hub, Traefik, Docker, sshd and the kernel, of `total`."""
        return auto_reserve(total) if self.reserve == "auto" else parse_size(self.reserve)

    @classmethod
    def of(cls, value: object) -> Plan:
        """Check a JSON value. Raises BoxError for a wrong type or choice and for a key that is not one of ours."""
        if not isinstance(value, dict):
            raise BoxError("The plan is not a JSON object.", "Give an object like {\"name\": \"box.school\"}.")
        known = {each.name: each for each in fields(cls)}
        given: dict[str, Any] = {}
        for key, entry in value.items():
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                raise BoxError(f"The plan has an unknown key “{key}”{f'; did you mean “{near[0]}”?' if near else '.'}",
                               f"Known are: {', '.join(sorted(known))}.")
            default: Any = known[key].default
            if isinstance(default, int) and not isinstance(default, bool) and isinstance(entry, str) and entry.isdigit():
                entry = int(entry)  # what a template makes of a number
            if entry is None and default == "":
                entry = ""
            if type(entry) is not type(default):
                raise BoxError(f"The plan's “{key}” is {entry!r}, which is not {_KINDS[type(default)]}.",
                               f"Correct “{key}”.")
            if key in _CHOICES and entry not in _CHOICES[key]:
                raise BoxError(f"The plan's “{key}” is “{entry}”.", f"Use one of: {', '.join(_CHOICES[key])}.")
            if key.endswith("_port") and not 1 <= entry <= 65535:
                raise BoxError(f"The plan's “{key}” is {entry}, which is no port.", "Use a number from 1 to 65535.")
            given[key] = entry
        for key in ("homes_size", "quota", "reserve", "student_memory"):
            text = given.get(key, "")
            if text and not (key == "reserve" and text == "auto"):
                try:
                    parse_size(text)
                except ValueError as error:
                    raise BoxError(f"The plan's “{key}”: {error}.", f"Correct “{key}”.") from None
        if "student_memory" in given and not parse_size(given["student_memory"] or "0"):
            raise BoxError("The plan's “student_memory” is nothing.", "Use a size like 1G.")
        for key in ("data", "homes_device", "homes_file", "homes_path"):
            if given.get(key) and not given[key].startswith("/"):
                raise BoxError(f"The plan's “{key}” is “{given[key]}”, which is no absolute path.", f"Correct “{key}”.")
        return cls(**given)


_KINDS = {str: "a text", int: "a number", bool: "true or false"}


def auto_reserve(total: int) -> int:
    """Return the reserve called "auto": an eighth of the memory, at least 1 GiB and at most 4 GiB."""
    return min(max(total // 8, GIB), 4 * GIB)


def read_plan(path: Path) -> Plan:
    """Raises BoxError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BoxError(f"The plan {path} cannot be read: {error.strerror or error}.", "Give another file.") from None
    try:
        return Plan.of(json.loads(text))
    except ValueError as error:
        raise BoxError(f"The plan {path} is not JSON: {error}.", "Correct it.") from None


def plan_of_box(paths: Paths) -> Plan:
    """Return what an installed box is: appliance.env, and what its configuration says literally. What cannot be read, or
    is computed, has its default."""
    env, said = paths.env(), literals(paths)
    given: dict[str, Any] = {key: env[variable] for key, variable in _VARIABLES.items() if env.get(variable)}
    for key, option in _OPTIONS.items():
        if isinstance(said.get(option), (str, int)):
            given[key] = str(said[option])
    if said:
        given["tls"] = said.get("JupyterHub.tls") or ("files" if said.get("JupyterHub.ssl_cert") else "off")
        # which of the ways to a mounted file system it was nobody needs to know any more
        mounted = said.get("BtrfsHomes.require_mount") or said.get("DirectoryHomes.require_mount")
        given["homes_kind"] = "mount" if mounted else "directory"
        given.setdefault("quota", "")
        names = said.get("JupyterHub.tls_names")
        url = urlsplit(str(said.get("JupyterHub.public_url") or ""))
        given["name"] = url.hostname or (str(names[0]) if isinstance(names, list) and names else "")
    if "postgres" in env.get("COMPOSE_PROFILES", "").split(","):
        given["database"] = "postgres"
    try:
        return Plan.of(given)
    except (BoxError, ValueError):
        return Plan(data=env.get("APPLIANCE_DATA") or DEFAULT_DATA)


def literals(paths: Paths) -> dict[str, Any]:
    """Return {"JupyterHub.tls": "off", …}: each `c.Class.option = literal` of config.d, the last one counts."""
    found: dict[str, Any] = {}
    for file in sorted(paths.config_d.glob("*.py")):
        try:
            statements = ast.parse(file.read_text(encoding="utf-8")).body
        except (OSError, ValueError, SyntaxError):
            continue
        for each in statements:
            if isinstance(each, ast.Assign) and len(each.targets) == 1:
                name = ast.unparse(each.targets[0])
                try:
                    found[name.removeprefix("c.")] = ast.literal_eval(each.value)
                except ValueError:
                    found.pop(name.removeprefix("c."), None)
    return found


# of appliance.env, and of the configuration
_VARIABLES = {
    "data": "APPLIANCE_DATA", "http_port": "APPLIANCE_HTTP_PORT", "https_port": "APPLIANCE_HTTPS_PORT",
    "hub_port": "APPLIANCE_HUB_PORT", "holding_port": "APPLIANCE_HOLDING_PORT", "subnet": "APPLIANCE_SUBNET",
}
_OPTIONS = {
    "acme_challenge": "TraefikProxy.acme_challenge", "student_memory": "Spawner.mem_limit", "quota": "BtrfsHomes.quota",
}
