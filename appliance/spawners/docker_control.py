"""One named container that somebody else keeps (Docker Compose), looked at, signalled and restarted through the engine."""

from __future__ import annotations

from contextlib import suppress

from docker import APIClient
from docker.errors import APIError
from docker.errors import NotFound as NotThere

from appliance.errors import NotFound
from appliance.spawners.docker_container import PREFIX
from appliance.spawners.docker_engine import Engine
from appliance.spawners.log_lines import readable

_PATIENCE_S = 10.0


class DockerContainer:
    """What `ports.KeptContainer` asks for. docker_host: as DockerSpawner.docker_host; empty is the usual engine."""

    def __init__(self, name: str, docker_host: str = "") -> None:
        self.name, self._docker_host = name, docker_host
        self._engine = Engine(docker_host, threads=4, timeout_s=_PATIENCE_S)

    async def state(self) -> str | None:
        try:
            found = await self._engine.run(lambda client: client.inspect_container(self.name))
        except NotFound:
            return None
        return str(found["State"]["Status"])

    async def signal(self, number: int) -> None:
        await self._engine.run(self._signal, number)

    def _signal(self, client: APIClient, number: int) -> None:
        try:
            client.kill(self.name, signal=int(number))
        except NotThere:
            return
        except APIError as error:
            if error.status_code != 409:  # it does not run
                raise

    async def restart(self, grace_s: int) -> None:
        await self._engine.run(
            lambda client: client.restart(self.name, timeout=grace_s), timeout_s=grace_s + _PATIENCE_S, slow=True)

    async def logs(self, lines: int = 10) -> str:
        try:
            return readable(await self._engine.run(lambda client: bytes(client.logs(self.name, tail=lines))))
        except NotFound:
            return ""

    async def start_another(self, name: str, command: list[str]) -> DockerContainer:
        other = DockerContainer(f"{self.name}-{name}", self._docker_host)
        try:
            await other.remove()
            await self._engine.run(self._start_like, other.name, command, slow=True)
        except BaseException:
            await other.close()
            raise
        return other

    def _start_like(self, client: APIClient, name: str, command: list[str]) -> None:
        found = client.inspect_container(self.name)
        host = found["HostConfig"] | {"RestartPolicy": {"Name": "no"}, "PortBindings": {}, "AutoRemove": False}
        # without the labels: Compose would take it for one of its own
        client.create_container_from_config({
            "Image": found["Image"], "Cmd": command, "User": found["Config"]["User"], "Env": found["Config"]["Env"],
            "Labels": {f"{PREFIX}helper": self.name}, "HostConfig": host}, name)
        client.start(name)

    async def remove(self) -> None:
        with suppress(NotFound):
            await self._engine.run(lambda client: client.remove_container(self.name, force=True), slow=True)

    async def close(self) -> None:
        self._engine.close()
