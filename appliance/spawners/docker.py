"""Every server a container on one bridge, made by the Docker Engine."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import anyio
import anyio.to_thread
from docker import APIClient
from docker.errors import NotFound as NotThere
from docker.types import HostConfig
from traitlets import Bool, Dict, Integer, List, TraitError, Unicode, Union, default, validate

from appliance.domain.offers import ImageChoice, parse_images
from appliance.errors import (
    ApplianceError,
    BadOption,
    EngineUnsuitable,
    ImageMissing,
    ImageNotAllowed,
    NotFound,
    SpawnError,
)
from appliance.ports import ActualServer, ByteSize, ImageOptions, ServerHandle, ServerSpec, Spawner, Usage
from appliance.spawners import cgroups, docker_probe, seccomp
from appliance.spawners import docker_container as containers
from appliance.spawners.cpu_meter import CpuMeter
from appliance.spawners.docker_accounts import AccountFiles
from appliance.spawners.docker_engine import Engine, NetworkGone
from appliance.spawners.docker_events import Events
from appliance.spawners.docker_firewall import INTERNET, Firewall, Rules, host_resolvers, parse_egress, table_name
from appliance.spawners.docker_network import Bridge, refuse_unsuitable
from appliance.spawners.docker_servers import ServerContainers
from appliance.spawners.docker_services import DockerServices
from appliance.spawners.log_lines import readable
from appliance.spawners.server_locks import ServerLocks, still_wanted

_API_VERSION = "1.41"         # only shapes docker-py's HostConfig
_GUARD_S = 5.0                # how often the firewall's table and the ports are looked after
_PATIENCE_AT_END_S = 3.0      # of a Hub that ends, with an engine that hangs


class DockerSpawner(Spawner):
    """Starts each server as a container on one bridge of its own, with a fixed address and a numeric uid.

    The names of the options are those of JupyterHub's DockerSpawner where there is one of the same meaning.
    """

    image = Unicode("appliance/notebook:latest", help="Image of a server that asks for no other.").tag(config=True)
    allowed_images = Union(
        [Dict(), List(Unicode())],
        help="Images people may choose from: a list, or a dict from a name to the image or to {\"image\", \"display_name\", "
             "\"description\"}. Empty: only `image`.",
    ).tag(config=True)
    image_options = Dict(
        Dict(), help="Per image: {\"port\", \"default_url\", \"ready_path\", \"strip_prefix\", \"inject_token\", "
                     "\"read_only\"}, where it differs from c.Spawner and c.DockerSpawner.").tag(config=True)
    volumes = Dict(
        help="More folders or volumes: {\"/on/the/host\": \"/in/container\"} or {…: {\"bind\": …, \"mode\": \"ro\"}}; "
             "{username}, {servername} and {uid} are filled in. A folder has to exist.").tag(config=True)
    read_only_volumes = Dict(help="The same, read-only.").tag(config=True)
    notebook_dir = Unicode(
        "/home/{username}", help="Where the user's home is in the container: its HOME and the working folder.",
    ).tag(config=True)
    network_name = Unicode(help="Docker network of all servers; made if missing. Default: the namespace.").tag(config=True)
    subnet = Unicode("10.77.0.0/16", help="IPv4 network of that network; every server has one address of it for ever.",
                     ).tag(config=True)
    gateway = Unicode("", help="The host's address in it. Empty: its first address.").tag(config=True)
    allowed_egress = List(
        Unicode(), [INTERNET],
        help="What containers may reach beyond this box: \"internet\" (all but private networks) and networks like "
             "\"10.1.2.0/24\".").tag(config=True)
    dns = List(Unicode(), help="Name servers for containers. Empty: the host's.").tag(config=True)
    max_connections = Integer(
        1000, min=0, help="Most connections of one container to the outside at the same time. 0: no limit.",
    ).tag(config=True)
    pids_limit = Integer(512, min=16, help="Most processes and threads of one server.").tag(config=True)
    read_only = Bool(
        False, help="Make a container's own files read-only, so that a server can write to its home, to /tmp and /var/tmp "
                    "(in memory, see tmp_size), to /dev/shm and to `volumes`, and fill nothing else of the disk.",
    ).tag(config=True)
    tmp_size = ByteSize(
        "512M", help="With read_only: size of /tmp, of /var/tmp, and of each volume the image asks for. They are in memory "
                     "and count towards mem_limit; what is not used costs nothing.").tag(config=True)
    seccomp_profile = Unicode(
        "", help="File with a seccomp profile for all servers, like the engine's own. The Hub takes the making of Btrfs "
                 "subvolumes out of it, with which a student could store more than c.BtrfsHomes.quota. Empty: the engine's "
                 "own profile, which allows that.").tag(config=True)
    cgroup_parent = Unicode(
        "", help="Control group that all servers are in, e.g. \"appliance.slice\", so that together they get no more "
                 "than it allows. Its limits are set elsewhere, by systemd for a slice. Empty: the engine's own.",
    ).tag(config=True)
    shm_size = ByteSize(help="Size of /dev/shm, like 256M. None: the engine's 64M.").tag(config=True)
    log_max_size = Unicode("10m", help="A container's log is cut at this size; two such files are kept.").tag(config=True)
    extra_host_config = Dict(
        help="More of docker-py's host_config, e.g. {\"device_requests\": …}. What keeps servers apart cannot be set "
             "with it.").tag(config=True)
    probe_image = Unicode("appliance/base:latest", help="Image with python3 for the proof of isolation; "
                                                        "`image` where it is missing.").tag(config=True)
    namespace = Unicode("appliance", help="Begins the names of containers and tells boxes on one engine apart.",
                        ).tag(config=True)
    docker_host = Unicode("", help="Where the engine listens, e.g. unix:///run/docker.sock. Empty: DOCKER_HOST or "
                                   "its usual socket.").tag(config=True)

    # given by the Hub before prepare(): ports of the host that containers may reach
    public_ports: tuple[int, ...] = (8000,)     # Traefik's, on every address
    hub_api_port: int = 8081                    # the Hub's, on the bridge's gateway only

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._engine = Engine(self.docker_host)
        self._firewall = Firewall()
        self._locks = ServerLocks()
        self._learning = threading.Lock()
        self._cpu = CpuMeter()
        self._seccomp = seccomp.load(self.seccomp_profile) if self.seccomp_profile else ""
        self._cgroup_driver = ""     # of the engine, once that was asked
        self._preparing: anyio.Lock | None = None
        self._proving = False

    # -- options ------------------------------------------------------------------------------------------------------
    @default("network_name")
    def _default_network_name(self) -> str:
        return self.namespace

    @validate("namespace")
    def _check_namespace(self, proposal: Any) -> str:
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,40}", proposal["value"]):
            raise TraitError("DockerSpawner.namespace is made of lower case letters, digits and '-'.")
        return str(proposal["value"])

    @validate("extra_host_config")
    def _check_extra(self, proposal: Any) -> Any:
        return _checked(proposal, containers.check_host_config)

    @validate("volumes", "read_only_volumes")
    def _check_volumes(self, proposal: Any) -> Any:
        return _checked(proposal, containers.check_volumes)

    @validate("allowed_egress")
    def _check_egress(self, proposal: Any) -> Any:
        return _checked(proposal, parse_egress)

    @validate("subnet")
    def _check_subnet(self, proposal: Any) -> Any:
        return _checked(proposal, lambda subnet: Bridge.parse("", "", subnet))

    @validate("image_options")
    def _check_image_options(self, proposal: Any) -> Any:
        known = {"port", "default_url", "ready_path", "strip_prefix", "inject_token", "read_only"}
        for image, options in proposal["value"].items():
            if unknown := sorted(set(options) - known):
                raise TraitError(f"DockerSpawner.image_options[{image!r}] has no {', '.join(unknown)}; "
                                 f"known are {', '.join(sorted(known))}.")
            if not isinstance(options.get("read_only", False), bool):
                raise TraitError(f"DockerSpawner.image_options[{image!r}]: read_only is True or False.")
        return proposal["value"]

    @validate("allowed_images")
    def _check_allowed_images(self, proposal: Any) -> Any:
        return _checked(proposal, parse_images)

    @validate("seccomp_profile")
    def _check_seccomp_profile(self, proposal: Any) -> Any:
        return _checked(proposal, lambda path: path and seccomp.load(path))

    @validate("cgroup_parent")
    def _check_cgroup_parent(self, proposal: Any) -> Any:
        return _checked(proposal, cgroups.check_name)

    @validate("tmp_size")
    def _check_tmp_size(self, proposal: Any) -> Any:
        if not proposal["value"]:
            raise TraitError("DockerSpawner.tmp_size needs a size like 512M: without one, /tmp could use all memory.")
        return proposal["value"]

    @property
    def bridge(self) -> Bridge:
        """Raises BadOption."""
        return Bridge.parse(self.network_name, self.namespace, self.subnet, self.gateway)

    def rules(self) -> Rules:
        """Return what containers may reach, as configured now."""
        bridge = self.bridge
        return Rules(
            table=table_name(self.namespace), bridge=bridge.interface, gateway=bridge.gateway,
            egress=parse_egress(self.allowed_egress), resolvers=tuple(self.dns) or host_resolvers(),
            public_ports=tuple(self.public_ports), gateway_ports=(self.hub_api_port,),
            max_connections=self.max_connections)

    def addresses(self) -> Iterable[str]:
        return self.bridge.addresses()

    def hub_host(self) -> str:
        return self.bridge.gateway

    def options(self, image: str) -> ImageOptions:
        said = self.image_options.get(self.resolve(image), {})
        return ImageOptions(**{**vars(super().options(image)), **{key: said[key] for key in said if key != "read_only"}})

    def image_choices(self) -> tuple[ImageChoice, ...]:
        named = parse_images(self.allowed_images)
        own = next((choice for choice in named if choice.image == self.image), None)
        first = own or ImageChoice(self.image, self.image, self.image)
        return (first, *(choice for choice in named if choice is not own))

    def images(self) -> dict[str, str]:
        """Return the images a server may have at all, by each name they go by."""
        found = {choice.name: choice.image for choice in self.image_choices()}
        for choice in self.more_images:
            found.setdefault(choice.name, found.get(choice.image, choice.image))
        for image in (profile.start.image for profile in self.profiles()):
            if image:
                found.setdefault(image, image)
        return found

    def resolve(self, image: str) -> str:
        """Return the image that `image` (a name people see, an image, or "") stands for; not checked."""
        return self.images().get(image, image) if image else self.image

    def _allowed(self, image: str) -> str:
        resolved = self.resolve(image)
        if resolved not in self.images().values():
            raise ImageNotAllowed(evidence=f"Asked for {resolved!r}.")
        return resolved

    async def missing_images(self, images: Iterable[str]) -> frozenset[str]:
        def look(client: APIClient) -> frozenset[str]:
            missing = set()
            for image in images:
                try:
                    client.inspect_image(self.resolve(image))
                except NotThere:
                    missing.add(image)
            return frozenset(missing)

        return await self._engine.run(look, timeout_s=10)

    async def check_image(self, image: str) -> None:
        await self._engine.run(self._learn_image, self._allowed(image))

    # -- what all servers share ---------------------------------------------------------------------------------------
    async def prepare(self) -> None:
        if self._preparing is None:
            self._preparing = anyio.Lock()
        async with self._preparing:
            self._engine.forget()  # the engine may be another one now
            took = await anyio.to_thread.run_sync(self._prepare, abandon_on_cancel=True)
        self.log.info("Servers are kept apart: proven in %.1f s.", took)

    def _prepare(self) -> float:
        info = self._engine.call(lambda client: client.info(), timeout_s=10)
        refuse_unsuitable(info)
        self._check_parent(str(info.get("CgroupDriver", "")))
        self._engine.call(self._containers.refuse_others, timeout_s=10)
        bridge = self.bridge
        self._engine.call(bridge.ensure, timeout_s=30)
        self._firewall.apply(self.rules())
        if not self._firewall.limited and self.max_connections:
            self.log.warning("This kernel cannot count connections, so max_connections has no effect.")
        bridge.isolate()
        self._proving = True
        try:
            took = docker_probe.prove(self._engine, bridge, (self.probe_image, self.image))
        finally:
            self._proving = False
        for image in self.images().values():  # so that no start has to
            try:
                self._engine.call(self._learn_image, image)
            except ImageMissing:
                self.log.warning("There is no image %s on this machine; servers of it cannot start.", image)
        return took

    def _check_parent(self, driver: str) -> None:
        """Raises EngineUnsuitable."""
        self._cgroup_driver = driver
        name = self.cgroup_parent
        if not name:
            return
        if driver == "systemd" and not name.endswith(".slice"):
            raise EngineUnsuitable(
                "The box's container engine cannot keep servers in the control group that is configured.",
                action=f"This engine uses systemd, where c.DockerSpawner.cgroup_parent ends in .slice; “{name}” does not.")
        group = cgroups.group_of(name, systemd=driver == "systemd")
        if cgroups.is_limited(group) is False:
            self.log.warning("The control group %s has no memory limit, so all servers together can take the memory that "
                             "this machine needs for itself.", group)

    def _clear_probes(self) -> None:
        if not self._proving:  # else that removes them itself; without them it would wait for their answer
            docker_probe.clear(self._engine, self.namespace, timeout_s=_PATIENCE_AT_END_S)

    def _learn_image(self, client: APIClient, image: str) -> dict[str, Any]:
        found: dict[str, Any] = client.inspect_image(image)
        self._accounts.learn(client, image, found["Id"])
        return found

    @property
    def _containers(self) -> ServerContainers:
        return ServerContainers(self.namespace, self.network_name, str(self.state_dir.absolute()))

    @property
    def _accounts(self) -> AccountFiles:
        return AccountFiles(self.state_dir / "accounts", self.namespace, self._learning)

    def _guard(self) -> None:
        """Undo what a reload of another firewall did to the rules; look after the ports."""
        if self._firewall.ensure():
            self.log.warning("Somebody removed or changed the nftables table that keeps servers apart; it is back.")
        with contextlib.suppress(NetworkGone):
            self.bridge.isolate()

    def _isolate(self) -> None:
        self.bridge.isolate()

    # -- one server ---------------------------------------------------------------------------------------------------
    def spec_hash(self, spec: ServerSpec) -> str:
        return containers.hash_of(self._config(spec, self.resolve(spec.image), extra_mounts=[]))

    async def start(self, spec: ServerSpec) -> ServerHandle:
        image = self._allowed(spec.image)
        if spec.uid <= 0:
            raise SpawnError("A server cannot run as root.", evidence=f"uid {spec.uid}")
        try:
            return await self._engine.run(self._start, spec, image, timeout_s=self.start_timeout)
        except NetworkGone:
            await self.prepare()
            return await self._engine.run(self._start, spec, image, timeout_s=self.start_timeout)

    def _start(self, client: APIClient, spec: ServerSpec, image: str) -> ServerHandle:
        with self._locks.hold(spec.server_id):
            return self._start_alone(client, spec, image)

    def full_config(self, client: APIClient, spec: ServerSpec, image: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what the engine is asked to make, without labels, and what it says of the image. Blocking."""
        found: dict[str, Any] = client.inspect_image(image)
        shell = next((line[6:] for line in found["Config"].get("Env") or () if line.startswith("SHELL=")), "/bin/sh")
        config = self._config(spec, image, volumes=found["Config"].get("Volumes") or (), extra_mounts=self._accounts.mounts(
            client, spec, image=image, image_id=found["Id"], home=self._home(spec), shell=shell))
        if self.cgroup_parent and self._driver(client) != "systemd":  # else it would be below the engine's own group
            config["HostConfig"]["CgroupParent"] = f"/{self.cgroup_parent}"
        return config, found

    def _start_alone(self, client: APIClient, spec: ServerSpec, image: str) -> ServerHandle:
        config, found = self.full_config(client, spec, image)
        if self.args and not self.cmd:
            config["Cmd"] = [*(found["Config"].get("Cmd") or ()), *self.args]
        url = f"http://{spec.address}:{self.options(image).port}"
        config["Labels"] = containers.labels(
            spec, namespace=self.namespace, box=self._containers.box, spec_hash=self.spec_hash(spec), image=image,
            image_id=found["Id"], url=url)
        made = self._containers.create(client, spec.server_id, spec.start_no, config)
        if made:
            still_wanted()  # what is made and not started, the next start replaces
            client.start(made)
            self.bridge.isolate()
        return ServerHandle(url)

    def _driver(self, client: APIClient) -> str:
        self._cgroup_driver = self._cgroup_driver or str(client.info().get("CgroupDriver") or "none")
        return self._cgroup_driver

    def _config(self, spec: ServerSpec, image: str, *, extra_mounts: builtins.list[dict[str, Any]],
                volumes: Iterable[str] = ()) -> dict[str, Any]:
        """volumes: of the image."""
        home = self._home(spec)
        mounted = [
            {"Type": "bind", "Source": str(spec.home), "Target": home, "ReadOnly": False},
            *containers.mounts(self.volumes, spec, read_only=False),
            *containers.mounts(self.read_only_volumes, spec, read_only=True),
            *extra_mounts,
        ]
        read_only = self.image_options.get(image, {}).get("read_only", self.read_only)
        mem_limit = self.mem_limit if spec.mem_limit_bytes is None else spec.mem_limit_bytes
        assert self.tmp_size is not None  # see _check_tmp_size
        environment = {
            **{str(key): str(value) for key, value in self.environment.items()},
            "HOME": home, "USER": spec.user_name, "LOGNAME": spec.user_name, "JUPYTER_IMAGE_SPEC": image, **spec.environment,
        }
        config: dict[str, Any] = {
            "Image": image,
            "Hostname": self.namespace,
            "User": f"{spec.uid}:{spec.uid}",
            "WorkingDir": home,
            "Env": [f"{key}={value}" for key, value in environment.items()],
            "HostConfig": containers.host_config(
                network=self.network_name, mem_limit=mem_limit,
                mem_guarantee=min(self.mem_guarantee, mem_limit or self.mem_guarantee) if self.mem_guarantee else None,
                cpu_limit=self.cpu_limit if spec.cpu_limit is None else spec.cpu_limit,
                pids_limit=self.pids_limit, shm_size=self.shm_size,
                log_max_size=self.log_max_size, dns=list(self.dns), cgroup_parent=self.cgroup_parent, seccomp=self._seccomp,
                mounted=mounted,
                root=containers.closed_root(self.tmp_size, volumes, mounted) if read_only else {},
                extra=HostConfig(_API_VERSION, **self.extra_host_config) if self.extra_host_config else {}),
            "NetworkingConfig": containers.endpoint(self.network_name, spec.address),
        }
        if self.cmd:
            config["Cmd"] = [containers.expand(word, spec) for word in (*self.cmd, *self.args)]
        return config

    def _home(self, spec: ServerSpec) -> str:
        return containers.expand(self.notebook_dir, spec)

    async def stop(self, server_id: str) -> None:
        await self._engine.run(self._stop, server_id, timeout_s=self.stop_timeout + 30, slow=True)
        self._cpu.forget(server_id)

    def _stop(self, client: APIClient, server_id: str) -> None:
        with self._locks.hold(server_id):
            self._containers.stop(client, server_id, self.stop_timeout)

    def service_runner(self) -> DockerServices:
        return DockerServices(self, self._engine)

    # -- what there is ------------------------------------------------------------------------------------------------
    async def list(self) -> builtins.list[ActualServer]:
        return await self._engine.run(self._containers.list, timeout_s=30)

    async def inspect(self, server_id: str) -> ActualServer | None:
        return await self._engine.run(
            self._containers.inspect, containers.container_name(self.namespace, server_id), timeout_s=30)

    async def logs(self, server_id: str, lines: int = 50) -> str:
        def read(client: APIClient, name: str) -> bytes:
            return bytes(client.logs(name, tail=lines))

        try:
            return readable(await self._engine.run(
                read, containers.container_name(self.namespace, server_id), timeout_s=10))
        except NotFound:
            return ""

    async def usage(self, server_id: str) -> Usage | None:
        used = await self._engine.run(
            self._read_usage, containers.container_name(self.namespace, server_id), timeout_s=10)
        if used is None:
            self._cpu.forget(server_id)
            return None
        container_id, mem_limit, reading = used
        percent = self._cpu.percent(server_id, container_id, reading.cpu_s, time.monotonic())
        return Usage(reading.memory_bytes, mem_limit, percent, reading.pids)

    async def shared_usage(self) -> Usage | None:
        if not self.cgroup_parent or not self._cgroup_driver:
            return None
        found = cgroups.shared_memory(cgroups.group_of(self.cgroup_parent, systemd=self._cgroup_driver == "systemd"))
        return Usage(*found, None) if found else None

    def _read_usage(self, client: APIClient, name: str) -> tuple[str, int | None, cgroups.Reading] | None:
        """Return a running container's id, its memory limit and what it uses."""
        try:
            found = client.inspect_container(name)
            if not found["State"].get("Pid"):
                return None
            parent = self.cgroup_parent and cgroups.group_of(self.cgroup_parent, systemd=self._driver(client) == "systemd")
            reading = cgroups.read(found["State"]["Pid"], found["Id"], parent or None) or containers.reading_of(
                client.stats(found["Id"], stream=False, one_shot=True))
        except NotThere:
            return None
        return (found["Id"], containers.memory_limit(found), reading) if reading else None

    async def watch(self) -> AsyncIterator[str]:
        events = Events(self._engine, self.namespace, self._isolate)
        try:
            guarded = time.monotonic()
            while True:
                server_id = None
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_GUARD_S):
                        server_id = await events.queue.get()
                if time.monotonic() - guarded >= _GUARD_S:
                    guarded = time.monotonic()
                    try:
                        await anyio.to_thread.run_sync(self._guard)
                    except ApplianceError as error:
                        self.log.error("%s %s", error, error.evidence)
                if server_id is not None:
                    yield server_id
        finally:
            events.close()

    async def close(self) -> None:
        with contextlib.suppress(ApplianceError):
            await anyio.to_thread.run_sync(self._clear_probes, abandon_on_cancel=True)
        self._engine.close()


def _checked(proposal: Any, check: Callable[[Any], object]) -> Any:
    """Return a proposed value that `check` has nothing against. Raises TraitError."""
    try:
        check(proposal["value"])
    except BadOption as error:
        raise TraitError(f"DockerSpawner.{proposal['trait'].name}: {error.sentence}") from error
    return proposal["value"]
