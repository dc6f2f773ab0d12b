"""Filters of the playbook: they refuse wrong variables with sentences, and compute what templates need."""

from __future__ import annotations

import base64
import difflib
import io
import ipaddress
import json
import re
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.common.validation import check_type_bool, check_type_dict, check_type_float, check_type_int

ROLES = Path(__file__).resolve().parents[2]
REPOSITORY = ROLES.parents[1]

_KINDS = {
    "str": "a text", "path": "a path", "int": "a whole number", "float": "a number", "bool": "true or false",
    "list": "a list", "dict": "a table of keys and values",
}
_CONVERT = {"int": check_type_int, "float": check_type_float, "bool": check_type_bool, "dict": check_type_dict}
_SIZES = ("appliance_memory_reserve", "storage_homes_size", "storage_quota", "storage_docker_size", "hub_student_memory")
_MAY_BE_EMPTY = ("storage_quota", "storage_docker_size")
# what has to be said as well when a variable has this value
_NEEDED = {
    ("storage_homes", "disk"): ("storage_homes_device",),
    ("docker_package", "vendor"): ("docker_vendor_url",),
    ("traefik_tls", "files"): ("traefik_tls_certificate", "traefik_tls_key"),
    ("traefik_tls", "letsencrypt"): ("appliance_name",),
    ("traefik_acme_challenge", "dns"): ("traefik_acme_dns_provider",),
    ("images_source", "load"): ("images_archive",),
}


def specifications(roles: Path = ROLES) -> dict[str, dict[str, Any]]:
    """Return name → specification of every variable of every role."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(roles.glob("*/meta/argument_specs.yml")):
        for entry in yaml.safe_load(file.read_text(encoding="utf-8"))["argument_specs"].values():
            found.update(entry.get("options", {}))
    return found


def prefixes(_: object = None, roles: Path = ROLES) -> list[str]:
    """Return the beginnings of all our variables: the roles' names."""
    return sorted(f"{folder.name}_" for folder in roles.iterdir() if (folder / "meta/argument_specs.yml").exists())


def problems(values: Mapping[str, Any], specs: Mapping[str, Mapping[str, Any]] | None = None) -> list[str]:
    """Return a sentence for each variable that is unknown, of the wrong type, or cannot be meant so; all at once.

    `values`: every variable of ours that is set, defaults included.
    """
    known = specifications() if specs is None else specs
    said: list[str] = []
    for name, value in sorted(values.items()):
        if name in known:
            said += _wrong(name, value, known[name])
        else:
            said.append(_unknown(name, known))
    if not said:
        said += [*_formats(values), *_missing(values), *_files(values), *_lists(values)]
    return said


def _unknown(name: str, known: Mapping[str, Any]) -> str:
    same_role = sorted(each for each in known if each.split("_")[0] == name.split("_")[0])
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    guess = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"There is no variable {name}.{guess} Known are: {', '.join(same_role or sorted(known))}."


def _wrong(name: str, value: Any, spec: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with one value and, where it is a list or table, with what is in it."""
    kind = spec.get("type", "str")
    if value is None:
        return [f"{name} has no value; {_KINDS.get(kind, kind)} is needed: {spec['description']}"]
    if not _is(kind, value):
        return [f"{name} is {_shown(value, spec)}; {_KINDS.get(kind, kind)} is needed: {_text(spec.get('description', ''))}"]
    if "choices" in spec and value not in spec["choices"]:
        near = difflib.get_close_matches(str(value), map(str, spec["choices"]), n=1)
        return [f"{name} is {_shown(value, spec)}; it has to be one of {', '.join(map(str, spec['choices']))}."
                + (f" Did you mean {near[0]}?" if near else "")]
    entries = list(enumerate(value, 1)) if kind == "list" else [(0, value)] if kind == "dict" else []
    said: list[str] = []
    for number, entry in entries:
        place = f"{name}, entry {number}," if number else name
        inner = {"type": spec["elements"]} if number and "elements" in spec else {}
        if inner and not _is(inner["type"], entry):
            said.append(f"{place} is {_shown(entry, spec)}; {_KINDS.get(inner['type'], inner['type'])} is needed.")
        elif "options" in spec and isinstance(entry, Mapping):
            said += _wrong_options(place, entry, spec["options"])
    return said


def _wrong_options(place: str, entry: Mapping[str, Any], options: Mapping[str, Mapping[str, Any]]) -> list[str]:
    said = [f"{place} has an unknown key {key}.{_near(str(key), options)} Known are: {', '.join(sorted(options))}."
            for key in entry if key not in options]
    said += [f"{place} has no {key}, which is needed." for key, spec in options.items()
             if spec.get("required") and not entry.get(key)]
    for key, value in entry.items():
        if key in options and value is not None:
            said += _wrong(f"{place} {key}", value, {"description": "", **options[key]})
    return said


def _near(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f" Did you mean {near[0]}?" if near else ""


def _is(kind: str, value: Any) -> bool:
    if kind in ("str", "path"):
        return isinstance(value, (str, int, float)) and not isinstance(value, bool)
    if kind == "list":
        return isinstance(value, (list, tuple))
    if kind == "int" and isinstance(value, bool):
        return False
    if kind in _CONVERT:
        try:
            _CONVERT[kind](value)
        except (TypeError, ValueError):
            return False
    return True


def _shown(value: Any, spec: Mapping[str, Any]) -> str:
    if spec.get("no_log"):
        return "something else"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return f"“{text[:60]}{'…' if len(text) > 60 else ''}”"


def _text(description: str | list[str]) -> str:
    return description if isinstance(description, str) else " ".join(description)


def _formats(values: Mapping[str, Any]) -> list[str]:
    said = []
    for name in _SIZES:
        value = values.get(name, "1G")
        if (value == "" and name in _MAY_BE_EMPTY) or (value == "auto" and name == "appliance_memory_reserve"):
            continue
        try:
            size(value)
        except ValueError:
            said.append(f"{name} is {_shown(value, {})}; a size like 512M or 20G is needed.")
    for name in ("appliance_subnet",):
        try:
            ipaddress.IPv4Network(values.get(name, "10.77.0.0/16"))
        except ValueError as error:
            said.append(f"{name} is {_shown(values[name], {})}, which is no IPv4 network like 10.77.0.0/16 ({error}).")
    for name in ("appliance_data", "appliance_config", "storage_homes_file", "storage_homes_device"):
        value = str(values.get(name, "/"))
        if value and not value.startswith("/"):
            said.append(f"{name} is {_shown(value, {})}; a path from / on is needed.")
    for name, value in values.items():
        lowest = 0 if name == "firewall_ssh_port" else 1
        if name.endswith("_port") and not lowest <= int(value) < 65536:
            said.append(f"{name} is {value}; a port is a number from 1 to 65535.")
    for entry in values.get("firewall_extra_ports", []):
        if not re.fullmatch(r"\d{1,5}(-\d{1,5})?(/(tcp|udp))?", str(entry)):
            said.append(f"firewall_extra_ports has {_shown(entry, {})}; ports look like 8080, 53/udp or 6000-6010/tcp.")
    for name in ("docker_avoid_networks",):
        for entry in values.get(name, []):
            try:
                ipaddress.IPv4Network(entry)
            except ValueError:
                said.append(f"{name} has {_shown(entry, {})}, which is no network like 10.1.0.0/16.")
    return said


def _files(values: Mapping[str, Any]) -> list[str]:
    """Files of the machine that Ansible runs on; relative paths are seen from where it was started."""
    named = [(name, values.get(name)) for name in ("appliance_users_file",)]
    if values.get("traefik_tls") == "files":
        named += [(name, values.get(name)) for name in ("traefik_tls_certificate", "traefik_tls_key")]
    named += [("docker_extra_authorities", each) for each in values.get("docker_extra_authorities", [])]
    return [f"{name} names {path}, which is no file of the machine that Ansible runs on."
            for name, path in named if path and not Path(str(path)).is_file()]


def _lists(values: Mapping[str, Any]) -> list[str]:
    if not (values.get("appliance_users") and values.get("appliance_users_file")
            and check_type_bool(values.get("appliance_archive_missing_users", False))):
        return []
    return ["Accounts are in appliance_users and in appliance_users_file, and appliance_archive_missing_users is on: each list "
            "would archive the other's. Put everybody into one of them."]


def _missing(values: Mapping[str, Any]) -> list[str]:
    return [f"{name} is “{choice}”, so {needed} has to be set as well."
            for (name, choice), all_needed in _NEEDED.items() if values.get(name) == choice
            for needed in all_needed if needed in values and not values[needed]]


# ---------------------------------------------------------------------------------------------- what templates compute --
def size(text: str | int) -> int:
    """Return the bytes of “2G”, as every part of the box reads it. Raises ValueError."""
    return int(_of_the_box("plan").parse_size(str(text)))


def reserve(total: int, wanted: str) -> int:
    """Return the bytes that are kept from students on a machine with `total`: never more than half of it."""
    kept = _of_the_box("plan").auto_reserve(total) if wanted == "auto" else size(wanted)
    return min(int(kept), total // 2)


def unit(path: str) -> str:
    """Return a path as systemd-escape --path writes it in the name of a unit."""
    text = "/".join(part for part in path.split("/") if part)
    return "".join("-" if c == "/" else c if c.isascii() and (c.isalnum() or (c in ":_." and i)) else
                   "".join(f"\\x{byte:02x}" for byte in c.encode()) for i, c in enumerate(text))


def ports(entries: Iterable[str | int], protocol: str) -> list[str]:
    """Return those of `firewall_extra_ports` that are of a protocol, as nftables writes them."""
    split = (str(entry).partition("/") for entry in entries)
    return sorted({port for port, _, kind in split if (kind or "tcp") == protocol})


def address_pool(box: Mapping[str, Any], avoid: Iterable[str]) -> str:
    """Return a /16 for Docker's own networks that the box reaches nothing else by.

    One that was chosen before stays, unless `avoid` names it: networks that exist do not move.
    """
    named = [ipaddress.IPv4Network(each, strict=False) for each in avoid]
    pools = (box.get("daemon_json") or {}).get("default-address-pools") or []
    chosen = [ipaddress.IPv4Network(pool["base"]) for pool in pools]
    if chosen and not any(chosen[0].overlaps(other) for other in named):
        return str(chosen[0])
    taken = named + [ipaddress.IPv4Network(each, strict=False) for each in box.get("networks", [])]
    for candidate in (*(f"172.{n}.0.0/16" for n in range(31, 16, -1)), *(f"10.{n}.0.0/16" for n in range(254, 199, -1))):
        if not any(ipaddress.IPv4Network(candidate).overlaps(other) for other in taken):
            return candidate
    raise ValueError("No network is free for Docker; name fewer in docker_avoid_networks.")


def program(_: object = None) -> str:
    """Return the box's own command line as a zip archive in base64, small enough to send along with a task."""
    package = REPOSITORY / "appliance"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in [package / "__init__.py", package / "errors.py", *sorted((package / "box").rglob("*.py"))]:
            # one date for all: the same program is the same text
            file.writestr(zipfile.ZipInfo(str(path.relative_to(REPOSITORY)), (1980, 1, 1, 0, 0, 0)), path.read_bytes(),
                          zipfile.ZIP_DEFLATED)
    return base64.b64encode(archive.getvalue()).decode()


def sentence(check: Mapping[str, str]) -> str:
    """Return a check's result as a line: what is, and what to do about it."""
    return f"{check['status']}: {check['sentence']} {check.get('remedy') or ''}".rstrip()


def _of_the_box(module: str) -> Any:
    """Import a module of the package that the playbook belongs to; one definition serves both."""
    if str(REPOSITORY) not in sys.path:
        sys.path.append(str(REPOSITORY))
    import importlib

    return importlib.import_module(f"appliance.box.{module}")


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {
            "appliance_prefixes": prefixes, "appliance_problems": problems, "appliance_size": size,
            "appliance_reserve": reserve, "appliance_ports": ports, "appliance_unit": unit,
            "appliance_address_pool": address_pool,
            "appliance_program": program, "appliance_sentence": sentence,
        }
