"""One server's container: what the engine is asked to make, and what it says of one that is there. No call is made
here, so all of it can be tested without an engine."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from appliance.errors import BadOption
from appliance.ports import ActualServer, ActualState, ServerSpec
from appliance.spawners.cgroups import Reading

PREFIX = "org.appliance."
NAMESPACE = f"{PREFIX}namespace"      # what its name begins with
BOX = f"{PREFIX}box"                  # which box it belongs to: the folder of that box's state
SERVER = f"{PREFIX}server"
START = f"{PREFIX}start"
USER = f"{PREFIX}user"
NAME = f"{PREFIX}server-name"
UID = f"{PREFIX}uid"
SPEC = f"{PREFIX}spec"
IMAGE = f"{PREFIX}image"
IMAGE_ID = f"{PREFIX}image-id"
URL = f"{PREFIX}url"
BASE = f"{PREFIX}prefix"              # what its app calls its base URL
PROBE = f"{PREFIX}probe"              # a helper of ours, never a server
SERVICE = f"{PREFIX}service"          # a service's, never a server's

# What an admin's own options may not say, because each of these opens what the rest of this file closes.
FORBIDDEN_HOST_CONFIG = frozenset((
    "auto_remove", "cap_add", "cap_drop", "cgroup_parent", "cgroupns", "ipc_mode", "links", "lxc_conf",
    "network_mode", "pid_mode", "port_bindings", "privileged", "publish_all_ports", "restart_policy", "security_opt",
    "sysctls", "userns_mode", "uts_mode", "volumes_from",
))
_STATES = {
    "created": ActualState.CREATED, "running": ActualState.RUNNING, "paused": ActualState.PAUSED,
    "restarting": ActualState.RUNNING,
}


def container_name(namespace: str, server_id: str) -> str:
    return f"{namespace}-{server_id}"


def labels(
    spec: ServerSpec, *, namespace: str, box: str, spec_hash: str, image: str, image_id: str, url: str,
) -> dict[str, str]:
    """Return what a box with an empty database needs to know this server again."""
    return {
        NAMESPACE: namespace, BOX: box, SERVER: spec.server_id, START: str(spec.start_no), USER: spec.user_name,
        NAME: spec.server_name, UID: str(spec.uid), SPEC: spec_hash, IMAGE: image, IMAGE_ID: image_id, URL: url,
        BASE: spec.prefix,
    }


def hash_of(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:32]


def expand(template: str, spec: ServerSpec) -> str:
    """Return `template` with {username}, {servername} and {uid} filled in; names are valid, so none leads elsewhere."""
    for key, value in (("username", spec.user_name), ("servername", spec.server_name), ("uid", str(spec.uid))):
        template = template.replace("{" + key + "}", value)
    return template


def mounts(volumes: Mapping[str, Any], spec: ServerSpec, *, read_only: bool) -> list[dict[str, Any]]:
    """Return the engine's mounts for {"source": "target"} or {"source": {"bind": target, "mode": "ro"}}.

    A source that begins with "/" is a folder of the host, which must exist; any other is the name of a volume.
    """
    made = []
    for template, bind in volumes.items():
        target, mode = (bind["bind"], bind.get("mode", "rw")) if isinstance(bind, Mapping) else (bind, "rw")
        source = expand(str(template), spec)
        made.append({
            "Type": "bind" if source.startswith("/") else "volume", "Source": source,
            "Target": expand(str(target), spec), "ReadOnly": read_only or "ro" in str(mode).split(","),
        })
    return made


def check_volumes(volumes: Mapping[str, Any]) -> None:
    """Raises BadOption."""
    for source, target in volumes.items():
        bind = target.get("bind") if isinstance(target, Mapping) else target
        if not isinstance(bind, str) or not bind.startswith("/"):
            raise BadOption(f"Volume “{source}” needs an absolute path in the container, or "
                            '{"bind": "/path", "mode": "ro"}.')


def check_host_config(options: Iterable[str]) -> None:
    """Raises BadOption for an option that would undo the isolation."""
    refused = sorted(FORBIDDEN_HOST_CONFIG.intersection(options))
    if refused:
        raise BadOption(f"extra_host_config may not set {', '.join(refused)}: it would undo what keeps servers apart.")


def host_config(
    *, network: str, mem_limit: int | None, mem_guarantee: int | None, cpu_limit: float | None, pids_limit: int,
    shm_size: int | None, log_max_size: str, dns: list[str], cgroup_parent: str, seccomp: str,
    root: Mapping[str, Any], mounted: list[dict[str, Any]], extra: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the engine's HostConfig. `extra`, in the engine's own words, adds to it but cannot loosen it.

    seccomp: a profile's text, "" for the engine's own. root: of `closed_root`, or nothing.
    """
    limits: dict[str, Any] = {
        "PidsLimit": pids_limit,
        "Init": True,  # an image with an init of its own may switch ours off
        "LogConfig": {"Type": "json-file", "Config": {"max-size": log_max_size, "max-file": "2"}},
    }
    if mem_limit is not None:
        limits |= {"Memory": mem_limit, "MemorySwap": mem_limit}  # no swap on top
    if mem_guarantee is not None:
        limits["MemoryReservation"] = mem_guarantee
    if cpu_limit is not None:
        limits["NanoCpus"] = int(cpu_limit * 1e9)
    if shm_size is not None:
        limits["ShmSize"] = shm_size
    if dns:
        limits["Dns"] = dns
    if cgroup_parent:
        limits["CgroupParent"] = cgroup_parent
    extra = dict(extra)
    root = {**root, "Tmpfs": {**root["Tmpfs"], **(extra.pop("Tmpfs", None) or {})}} if root else {}
    mounted = mounted + list(extra.pop("Mounts", None) or [])
    return {**limits, "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}], **extra} | root | {
        "NetworkMode": network,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges", *([f"seccomp={seccomp}"] if seccomp else [])],
        "Privileged": False,
        "AutoRemove": False,  # a dead container is kept until its cause has been read
        "RestartPolicy": {"Name": "no"},
        "Mounts": mounted,
    }


def closed_root(tmp_size: int, volumes: Iterable[str], mounted: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what of the HostConfig makes the root read-only. Left to write are folders in memory: /tmp, /var/tmp, and the
    image's own volumes, which the engine would else keep on the disk without a limit; none where something is mounted."""
    taken = {mount["Target"].rstrip("/") for mount in mounted}
    # exec: pip builds there
    options = f"rw,exec,nosuid,nodev,mode=1777,size={tmp_size}"
    return {"ReadonlyRootfs": True,
            "Tmpfs": {path: options for path in ("/tmp", "/var/tmp", *volumes) if path.rstrip("/") not in taken}}


def endpoint(network: str, address: str) -> dict[str, Any]:
    """Return the engine's NetworkingConfig for a fixed address ("" is any)."""
    return {"EndpointsConfig": {network: {"IPAMConfig": {"IPv4Address": address}} if address else {}}}


def account_files(passwd: str, group: str, *, name: str, uid: int, home: str, shell: str) -> tuple[str, str]:
    """Return an image's /etc/passwd and /etc/group with the user in them.

    Theirs is the first line, so that `whoami` says their name even where the image gave the number to somebody; root
    stays root.
    """
    def others(text: str) -> list[str]:
        kept = []
        for line in text.splitlines():
            fields = line.split(":")
            if len(fields) >= 3 and fields[2] != str(uid) and (fields[0] != name or fields[2] == "0"):
                kept.append(line)
        return kept

    passwd_lines = [f"{name}:x:{uid}:{uid}:{name}:{home}:{shell}", *others(passwd)]
    group_lines = [f"{name}:x:{uid}:", *others(group)]
    return "\n".join(passwd_lines) + "\n", "\n".join(group_lines) + "\n"


# -- what is there ----------------------------------------------------------------------------------------------------
def from_listing(row: Mapping[str, Any], network: str) -> ActualServer | None:
    """Read one row of `GET /containers/json`; None if it is not a server's. It holds no exit code."""
    networks = (row.get("NetworkSettings") or {}).get("Networks") or {}
    created = datetime.fromtimestamp(row.get("Created") or 0, UTC)
    return _actual(row.get("Labels") or {}, str(row.get("State", "")), networks, network, started_at=created)


def from_inspection(found: Mapping[str, Any], network: str) -> ActualServer | None:
    """Read `GET /containers/…/json`; None if it is not a server's."""
    state = found["State"]
    networks = (found.get("NetworkSettings") or {}).get("Networks") or {}
    actual_state = str(state.get("Status", ""))
    ended = actual_state not in _STATES
    return _actual(
        found["Config"].get("Labels") or {}, actual_state, networks, network,
        started_at=moment(state.get("StartedAt", "")), exit_code=state.get("ExitCode") if ended else None,
        ended_at=moment(state.get("FinishedAt", "")) if ended else None,
        oom_killed=bool(state.get("OOMKilled")), error=str(state.get("Error") or "")[:2000],
        mem_limit_bytes=memory_limit(found))


def memory_limit(found: Mapping[str, Any]) -> int | None:
    """Return the limit that an inspected container was made with."""
    return (found.get("HostConfig") or {}).get("Memory") or None


def _actual(
    said: Mapping[str, str], status: str, networks: Mapping[str, Any], network: str, *, started_at: datetime | None,
    ended_at: datetime | None = None, exit_code: int | None = None, oom_killed: bool = False, error: str = "",
    mem_limit_bytes: int | None = None,
) -> ActualServer | None:
    state = _STATES.get(status, ActualState.EXITED)
    try:
        endpoint_now = networks.get(network) or {}
        address = (endpoint_now.get("IPAddress") or "") if state in (ActualState.RUNNING, ActualState.PAUSED) else ""
        url = said.get(URL, "")
        # an address that is not the one of the label belongs to nobody's route
        listens = bool(address) and url.split("//", 1)[-1].rpartition(":")[0] == address
        return ActualServer(
            server_id=said[SERVER], start_no=int(said[START]), user_name=said[USER], server_name=said[NAME],
            uid=int(said[UID]), state=state, url=url if listens else "", address=address, image=said.get(IMAGE, ""),
            spec_hash=said.get(SPEC, ""), started_at=started_at, exit_code=exit_code, oom_killed=oom_killed,
            error=error, prefix=said.get(BASE, ""), ended_at=ended_at,
            mem_limit_bytes=mem_limit_bytes)
    except (KeyError, ValueError):
        return None


def moment(text: str) -> datetime | None:
    """Read the engine's times, which have nanoseconds; None for its year 1."""
    try:
        moment = datetime.fromisoformat(re.sub(r"\.(\d{1,6})\d*", r".\1", text).replace("Z", "+00:00"))
    except ValueError:
        return None
    return None if moment.year == 1 else moment


def reading_of(stats: Mapping[str, Any]) -> Reading | None:
    """Read `GET /containers/…/stats`, under cgroup v1 and v2; None if the container does not run."""
    memory = stats.get("memory_stats") or {}
    if not memory.get("usage"):
        return None
    details = memory.get("stats") or {}
    cache = details.get("total_inactive_file", details.get("inactive_file", 0))
    return Reading(
        memory_bytes=max(0, int(memory["usage"]) - int(cache)), cpu_s=stats["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9,
        pids=(stats.get("pids_stats") or {}).get("current"))
