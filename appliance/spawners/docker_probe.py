"""The proof that servers are kept apart: two containers that try what they must not be able to do."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from appliance.errors import ApplianceError, ImageMissing, IsolationUnproven, NotFound, StartFailed
from appliance.spawners.docker_container import PROBE, endpoint
from appliance.spawners.docker_engine import Engine
from appliance.spawners.docker_network import Bridge

PORT = 7777
PATIENCE_S = 0.25           # a packet that is not dropped is answered within a millisecond
_LIFETIME_S = 20            # a probe whose Hub was killed ends by itself
_REMOVAL_S = 10.0           # the end of a Hub waits no longer than this for an engine that hangs
METADATA = ("169.254.169.254", 80)

# Runs in the probes. Answers each connection with the addresses out of a JSON list it could reach: one that refuses was
# reached as well.
_AGENT = f"""
import errno, json, selectors, signal, socket, time
signal.alarm({_LIFETIME_S})
door = socket.create_server(("0.0.0.0", {PORT}), backlog=16)
def reached(targets):
    poll, found = selectors.DefaultSelector(), []
    for target in targets:
        s = socket.socket()
        s.setblocking(False)
        code = s.connect_ex(tuple(target))
        if code in (0, errno.ECONNREFUSED): found.append(target)
        elif code == errno.EINPROGRESS: poll.register(s, selectors.EVENT_WRITE, target)
    end = time.monotonic() + {PATIENCE_S}
    while poll.get_map() and (left := end - time.monotonic()) > 0:
        for key, _ in poll.select(left):
            code = key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code in (0, errno.ECONNREFUSED): found.append(key.data)
            poll.unregister(key.fileobj)
    return found
while True:
    peer, _ = door.accept()
    line = peer.makefile("rb").readline()
    if line:
        peer.sendall(json.dumps(reached(json.loads(line))).encode() + b"\\n")
    peer.close()
"""


def prove(engine: Engine, bridge: Bridge, images: Iterable[str]) -> float:
    """Return the seconds it took to prove that two containers on `bridge` reach neither each other nor a port of the
    host; blocking. Uses the first of `images` that is there. Raises IsolationUnproven, ImageMissing, EngineDown."""
    began = time.monotonic()
    clear(engine, bridge.namespace)
    ids: list[str] = []
    addresses = bridge.probe_addresses()
    closed_door = socket.create_server(("0.0.0.0", 0))  # a port of the host that containers must not reach
    workers = ThreadPoolExecutor(2, thread_name_prefix="probe")
    try:
        image = _choose(engine, images)
        for _ in workers.map(lambda address: _start(engine, bridge, image, address, ids), addresses):
            pass
        bridge.isolate()
        port = closed_door.getsockname()[1]
        targets = [
            [list(other), [bridge.gateway, port], [host_address(), port], list(METADATA)]
            for other in ((addresses[1], PORT), (addresses[0], PORT))
        ]
        for address, found in zip(addresses, workers.map(_ask, addresses, targets), strict=True):
            if found:
                raise IsolationUnproven(evidence=f"The probe at {address} reached " + ", ".join(
                    f"{host}:{port}" for host, port in found) + ".")
    except StartFailed as error:
        if isinstance(error, ImageMissing):
            raise
        raise IsolationUnproven(evidence=f"A probe did not start: {error.evidence or error}") from error
    finally:
        closed_door.close()
        workers.shutdown()
        # dropping the probes costs more than the proof, and nothing waits for it but the end of the process
        threading.Thread(target=_remove, args=(engine, ids, _REMOVAL_S), name="probe-removal").start()
    return time.monotonic() - began


def clear(engine: Engine, namespace: str, *, timeout_s: float | None = None) -> None:
    """Remove probes that a Hub left which was killed, or ended before it was done with them. Raises EngineDown."""
    left = engine.call(lambda client: client.containers(
        all=True, filters={"label": f"{PROBE}={namespace}"}), timeout_s=timeout_s)
    _remove(engine, [row["Id"] for row in left], timeout_s)


def host_address() -> str:
    """Return the host's address towards the world, or loopback where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _choose(engine: Engine, images: Iterable[str]) -> str:
    missing: ApplianceError = ImageMissing()
    for image in images:
        try:
            engine.call(lambda client, name: client.inspect_image(name), image)
        except (ImageMissing, NotFound) as error:
            missing = error
        else:
            return image
    raise missing


def _start(engine: Engine, bridge: Bridge, image: str, address: str, ids: list[str]) -> None:
    """Adds to `ids` what it made, whether that starts or not."""
    config: dict[str, Any] = {
        "Image": image, "Entrypoint": ["python3", "-I", "-S", "-c", _AGENT], "Cmd": [], "User": "65534:65534",
        "WorkingDir": "/", "Labels": {PROBE: bridge.namespace}, "NetworkingConfig": endpoint(bridge.network, address),
        "HostConfig": {
            "NetworkMode": bridge.network, "CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges"], "PidsLimit": 16,
            "AutoRemove": True,
        },
    }

    def create_and_start(client: Any) -> None:
        made = str(client.create_container_from_config(config)["Id"])
        ids.append(made)
        client.start(made)

    engine.call(create_and_start)


def _ask(address: str, targets: list[list[Any]]) -> list[list[Any]]:
    """Return which targets the probe at `address` reached. The answer itself proves that the host reaches it."""
    end = time.monotonic() + 5
    while True:
        try:
            with socket.create_connection((address, PORT), timeout=1) as door, door.makefile("rwb") as lines:
                lines.write(json.dumps(targets).encode() + b"\n")
                lines.flush()
                answer: list[list[Any]] = json.loads(lines.readline())
                return answer
        except (OSError, ValueError) as error:
            if time.monotonic() > end:
                raise IsolationUnproven(
                    evidence=f"The host does not reach its own probe at {address}:{PORT}: {error}") from error
            time.sleep(0.01)


def _remove(engine: Engine, ids: Iterable[str], timeout_s: float | None) -> None:
    for each in ids:
        try:
            engine.call(
                lambda client, container: client.remove_container(container, force=True), each, timeout_s=timeout_s)
        except ApplianceError:
            continue  # already going, or its alarm ends it
