"""Services in containers, made and kept apart as students' servers are, but with labels of their own: no reconciler ever
takes one for a server. As those, they outlive the Hub, and the next one takes them over."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any

from docker import APIClient
from docker.errors import NotFound as NotThere

from appliance.errors import ApplianceError, EngineDown, ServiceFailed
from appliance.ports import ServerSpec, ServiceSpec, ServiceStart
from appliance.spawners import docker_container as containers
from appliance.spawners.docker_engine import ENGINE_ERRORS, Engine, translate
from appliance.spawners.docker_oom import ran_out_of_memory
from appliance.spawners.docker_servers import ServerContainers

if TYPE_CHECKING:
    from appliance.spawners.docker import DockerSpawner

_LONGEST_LINE = 4096
_MOST_BYTES_PER_S = 500_000


class DockerServices:
    """See ports.ServiceRunner. Each container is called `<namespace>-service-<name>`; a server's id has no "-"."""

    def __init__(self, spawner: DockerSpawner, engine: Engine) -> None:
        self._spawner, self._engine = spawner, engine
        self._choosing = threading.Lock()     # two that start at once get two addresses

    async def clear(self, keep: Collection[str]) -> None:
        def end(client: APIClient) -> None:
            for name in self._there(client):
                if name not in keep:
                    self._end(client, name)

        await self._engine.run(end, timeout_s=60, slow=True)

    async def stop(self, name: str) -> None:
        await self._engine.run(self._end, name, timeout_s=60, slow=True)

    async def uids(self) -> set[int]:
        there = await self._engine.run(self._there, timeout_s=30)
        return {int(found["Config"]["Labels"][containers.UID]) for found in there.values() if found["State"].get("Running")}

    async def run(
        self, spec: ServiceSpec, started: Callable[[ServiceStart], Awaitable[None]], line: Callable[[str], None],
    ) -> str:
        container_id, url, is_new = await self._engine.run(self._ensure, spec, timeout_s=self._spawner.start_timeout)
        await started(ServiceStart(url=url))
        follower = _Follower(self._engine, container_id, line, from_start=is_new)
        try:
            return await follower.ended
        finally:
            follower.close()

    # -- in a thread ---------------------------------------------------------------------------------------------------
    def _ensure(self, client: APIClient, spec: ServiceSpec) -> tuple[str, str, bool]:
        """Return (id, address, whether it was just made) of the container, which runs."""
        assert spec.container is not None
        if spec.uid <= 0:
            raise ServiceFailed(f"The service {spec.name} cannot run as root.")
        with self._choosing:
            there = self._there(client)
            address = self._address(there, spec.name)
            url = f"http://{address}:{spec.container.port}"
            config = self._config(client, spec, address, url)
            found = there.get(spec.name)
            if found is not None:
                said = found["Config"]["Labels"]
                same = all(said.get(label) == config["Labels"][label]
                           for label in (containers.SPEC, containers.IMAGE_ID, containers.URL))
                if same and found["State"].get("Running"):
                    return str(found["Id"]), url, False
                self._end(client, spec.name)
            made = str(client.create_container_from_config(config, self._name(spec.name))["Id"])
        client.start(made)
        self._spawner.bridge.isolate()
        return made, url, True

    def _config(self, client: APIClient, spec: ServiceSpec, address: str, url: str) -> dict[str, Any]:
        assert spec.container is not None
        server = ServerSpec(
            server_id=f"service-{spec.name}", start_no=1, user_name=spec.user, server_name="", uid=spec.uid, home=spec.home,
            prefix=spec.prefix, address=address, image=spec.container.image, environment=spec.environment,
            mem_limit_bytes=spec.container.mem_limit_bytes, cpu_limit=spec.container.cpu_limit)
        config, image = self._spawner.full_config(client, server, spec.container.image)
        config["HostConfig"]["Mounts"] += containers.mounts(spec.container.volumes, server, read_only=False)
        config.pop("Cmd", None)     # what servers run is not what services run
        if spec.command:
            config["Cmd"] = [containers.expand(word, server) for word in spec.command]
        if spec.cwd:
            config["WorkingDir"] = spec.cwd
        config["Labels"] = {
            containers.NAMESPACE: self._spawner.namespace, containers.BOX: self._box, containers.SERVICE: spec.name,
            containers.USER: spec.user, containers.UID: str(spec.uid), containers.IMAGE: spec.container.image,
            containers.IMAGE_ID: image["Id"], containers.URL: url, containers.SPEC: containers.hash_of(config)}
        return config

    def _address(self, there: dict[str, dict[str, Any]], name: str) -> str:
        """Return the address of the one that runs, else a free one. Raises ServiceFailed."""
        taken = {other: str(found["Config"]["Labels"].get(containers.URL, "")).split("//")[-1].rpartition(":")[0]
                 for other, found in there.items()}
        addresses = list(self._spawner.bridge.service_addresses())
        if taken.get(name) in addresses:
            return taken[name]
        for address in addresses:
            if address not in taken.values():
                return address
        raise ServiceFailed(f"The service {name} has no address: {len(addresses)} services can be containers.",
                            action="Make some of them processes, or run them elsewhere.")

    def _there(self, client: APIClient) -> dict[str, dict[str, Any]]:
        """Return what the engine says of each of our services, by name."""
        rows = client.containers(all=True, filters={"label": [
            f"{containers.NAMESPACE}={self._spawner.namespace}", f"{containers.BOX}={self._box}", containers.SERVICE]})
        found = {}
        for row in rows:
            with contextlib.suppress(NotThere):
                found[str(row["Labels"][containers.SERVICE])] = client.inspect_container(row["Id"])
        return found

    def _end(self, client: APIClient, name: str) -> None:
        called = self._name(name)
        try:
            client.stop(called, timeout=self._spawner.stop_timeout)
        except NotThere:
            return
        self._containers.remove(client, called)

    def _name(self, name: str) -> str:
        return f"{self._spawner.namespace}-service-{name}"

    @property
    def _containers(self) -> ServerContainers:
        return ServerContainers(self._spawner.namespace, self._spawner.network_name, self._box)

    @property
    def _box(self) -> str:
        return str(self._spawner.state_dir.absolute())


class _Follower:
    """Reads what a container prints, in a thread of its own, until it ends. ended: in words how, or an error."""

    def __init__(self, engine: Engine, container_id: str, line: Callable[[str], None], *, from_start: bool) -> None:
        self._engine, self._container_id, self._line, self._from_start = engine, container_id, line, from_start
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[str] = self._loop.create_future()
        self._lock = threading.Lock()
        self._closed = False
        self._stream: Any = None
        # a daemon: one that waits for the engine never holds up the end of the Hub
        threading.Thread(target=self._run, name="service-logs", daemon=True).start()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._stream is not None:
                with contextlib.suppress(OSError, AttributeError):
                    self._stream.close()

    def _run(self) -> None:
        try:
            result: str | Exception = self._follow()
        except ApplianceError as error:
            result = error
        self._tell(self._settle, result)

    def _follow(self) -> str:
        client = self._engine.client()
        client.timeout = None     # it may be silent for days
        try:
            self._read(client)
            found = client.inspect_container(self._container_id)
            state = found["State"]
            out_of_memory = not state.get("Running") and ran_out_of_memory(client, found)
        except NotThere:
            return "because somebody removed its container"
        except ENGINE_ERRORS as error:
            raise translate(error) from error
        finally:
            client.close()
        if state.get("Running"):
            raise EngineDown(evidence="The stream of its log broke off.")
        if out_of_memory:
            return "because it used all the memory it may have"
        return f"with status {state.get('ExitCode')}"

    def _read(self, client: APIClient) -> None:
        with self._lock:
            if self._closed:
                return
            self._stream = client.logs(
                self._container_id, stream=True, follow=True, tail="all" if self._from_start else 0)
        rest = b""
        for chunk in self._stream:
            *whole, rest = (rest + chunk).split(b"\n")
            for each in whole:
                self._tell(self._line, each[:_LONGEST_LINE].decode(errors="replace").rstrip("\r"))
            rest = rest[:_LONGEST_LINE]
            time.sleep(len(chunk) / _MOST_BYTES_PER_S)     # one that prints without end does not keep the Hub busy
        if rest:
            self._tell(self._line, rest.decode(errors="replace"))

    def _tell(self, call: Callable[[Any], None], what: object) -> None:
        with contextlib.suppress(RuntimeError):     # the loop is closed already
            if not self._closed:
                self._loop.call_soon_threadsafe(call, what)

    def _settle(self, result: str | Exception) -> None:
        if self.ended.done():
            return
        if isinstance(result, Exception):
            self.ended.set_exception(result)
        else:
            self.ended.set_result(result)
