"""The services there are: those of the configuration, and those made through the REST API. Who they are, how to reach them,
and the ones that the Hub runs."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from ipaddress import IPv6Address, ip_address
from typing import Any
from urllib.parse import urlsplit

import anyio
from anyio.abc import TaskGroup

from appliance.domain.requester import Requester
from appliance.domain.roles import ADMIN_SCOPES
from appliance.domain.route import ServiceRoute
from appliance.domain.scopes import IDENTIFY, INHERIT, OF_ONES_OWN, SELF, Owner, Rights, expand
from appliance.domain.service import ServiceDefinition, ServicePhase, ServiceState, clashes, parse
from appliance.errors import (
    ApplianceError,
    BadInput,
    BadOption,
    BadScope,
    Exists,
    Misconfigured,
    NotFound,
    NotHere,
    ServiceFailed,
)
from appliance.hub.probe import Probe
from appliance.hub.servicekeeper import ServiceKeeper
from appliance.hub.servicespecs import ServiceSpecs, ServiceWorld
from appliance.ports import ServiceRunner
from appliance.store import services as store

log = logging.getLogger(__name__)

FOUND_AGAIN_S = 30.0
RETRY_S = 5.0


class Services:
    """configured: as `parse_all` returns them. Is the ServiceBook of Permissions."""

    def __init__(self, world: ServiceWorld, configured: Sequence[ServiceDefinition]) -> None:
        self._world, self._specs = world, ServiceSpecs(world)
        self._probe = Probe()
        self._containers = world.spawner.service_runner()
        self._keepers: dict[str, ServiceKeeper] = {}
        self._tokens: dict[bytes, str] = {}     # SHA-256 of a token → whose it is: a look-up tells nothing by its time
        self._scopes: dict[str, anyio.CancelScope] = {}
        self._tasks: TaskGroup | None = None
        self._changing = anyio.Lock()
        for service in configured:
            if service.container is not None and self._containers is None:
                raise Misconfigured(f"c.JupyterHub.services: “{service.name}” is to be a container, which needs DockerSpawner.")
            self._take(service)

    # -- which there are -----------------------------------------------------------------------------------------------
    def all(self) -> tuple[ServiceDefinition, ...]:
        return tuple(keeper.service for _, keeper in sorted(self._keepers.items()))

    def get(self, name: str) -> ServiceDefinition | None:
        keeper = self._keepers.get(name)
        return keeper.service if keeper is not None else None

    def state(self, name: str) -> ServiceState:
        """Return how a service is. Raises NotFound."""
        keeper = self._keepers.get(name)
        if keeper is None:
            raise NotFound("There is no such service.")
        return keeper.snapshot()

    def prefix(self, service: ServiceDefinition) -> str:
        """Return "/services/NAME/", "" for one without an address."""
        return self._world.urls.service(service.name) if service.has_address else ""

    def is_admin(self, name: str) -> bool | None:
        service = self.get(name)
        return service.admin if service is not None else None

    def of_token(self, token: str) -> str | None:
        return self._tokens.get(_digest(token))

    def count(self) -> Mapping[str, int]:
        """Return how many are in each phase."""
        found = Counter(str(keeper.state.phase) for keeper in self._keepers.values())
        return {str(phase): found[str(phase)] for phase in ServicePhase}

    def concerns(self) -> list[ApplianceError]:
        """Return what an admin should mend."""
        return [ServiceFailed(f"The service {name} does not run. {keeper.state.said}")
                for name, keeper in sorted(self._keepers.items()) if keeper.state.phase is ServicePhase.FAILED]

    async def home_in_use(self, uid: int) -> bool:
        """Say whether a service's container works in this home."""
        return self._containers is not None and uid in await self._containers.uids()

    def visible_to(self, rights: Rights) -> list[ServiceDefinition]:
        """Return those that somebody with these rights may open and is meant to see."""
        reach = rights.reach("access:services")
        return [service for service in self.all() if service.display and service.has_address and reach.service(service.name)]

    # -- running them --------------------------------------------------------------------------------------------------
    async def load(self) -> None:
        """Read those that were made through the REST API. Raises Misconfigured."""
        for stored in await self._world.db.read(store.list_all):
            if self.get(stored.name) is not None:
                raise Misconfigured(
                    f"c.JupyterHub.services has a “{stored.name}”, and so has the database: it was made through the REST API.",
                    action=f"Give one of them another name, or start without it and DELETE /hub/api/services/{stored.name}.")
            try:
                self._take(parse(stored.said, self._world.permissions.roles.scopes, from_config=False))
            except BadInput as error:     # a scope that is gone from the configuration, say; the others go on
                log.error("The service %s, which was made through the REST API, cannot be used: %s", stored.name, error)

    async def run(self) -> None:
        """Run until cancelled: processes are ended, containers go on."""
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                for name in list(self._keepers):
                    self._start(name)
                await self.write_routes()
                if self._containers is not None:
                    await self._clear(self._containers)
        finally:
            self._tasks = None
            with anyio.CancelScope(shield=True):
                await self._probe.close()

    async def write_routes(self) -> None:
        """Lead browsers to every service that has an address now. Containers of an earlier Hub go on, so the ways to them
        stay until they are found again."""
        async with self._changing:
            keepers = sorted(self._keepers.items())
            try:
                await self._world.proxy.set_services(
                    [ServiceRoute(name, self._world.urls.service(name), keeper.url) for name, keeper in keepers if keeper.url],
                    [name for name, keeper in keepers if keeper.service.container and not keeper.tried.is_set()])
            except ApplianceError as error:     # the proxy knows what is wanted, and goes on trying
                log.error("The ways to services could not be written: %s %s", error.sentence, error.evidence)

    async def _clear(self, runner: ServiceRunner) -> None:
        """End the containers of services that are gone from the configuration, once the others have their addresses again."""
        keep = [service.name for service in self.all() if service.container is not None]
        with anyio.move_on_after(FOUND_AGAIN_S):
            for name in keep:
                await self._keepers[name].tried.wait()
        while True:
            if self._world.may_start_containers():
                try:
                    await runner.clear(keep)
                    return
                except ApplianceError as error:
                    log.warning("Containers of earlier services cannot be ended yet: %s", error)
            await anyio.sleep(RETRY_S)

    def _start(self, name: str) -> None:
        if self._tasks is None:
            return
        keeper, scope = self._keepers[name], anyio.CancelScope()
        self._scopes[name] = scope
        self._tasks.start_soon(self._keep, keeper, scope)

    async def _keep(self, keeper: ServiceKeeper, scope: anyio.CancelScope) -> None:
        service = keeper.service
        with scope:
            async with anyio.create_task_group() as tasks:
                if service.has_address:
                    tasks.start_soon(keeper.watch)
                if service.container is not None:
                    assert self._containers is not None
                    tasks.start_soon(
                        keeper.keep, self._containers, lambda: self._specs.of(service), self._world.may_start_containers)
                elif service.managed:
                    tasks.start_soon(keeper.keep, self._world.processes, lambda: self._specs.of(service), lambda: True)

    # -- at run time ---------------------------------------------------------------------------------------------------
    async def add(self, name: str, said: Mapping[str, Any], by: Requester) -> ServiceDefinition:
        """Make a service that runs elsewhere. Raises Exists, BadInput; BadScope where it would get what `by` does not hold."""
        service = parse({**said, "name": name}, self._world.permissions.roles.scopes, from_config=False)
        self._refuse_address(service)
        await self._refuse_more_rights(service, by)
        async with self._changing:
            for other in self.all():
                if service.name.lower() == other.name.lower():
                    raise Exists(f"There is a service with the name “{other.name}”.")
                if clash := clashes(service, other):
                    raise BadOption(clash)
            if service.api_token and self.of_token(service.api_token):
                raise BadOption("“api_token” cannot be used: it is taken.")
            await self._world.db.transact(lambda t: store.add(
                t, service.name, {**said, "url": service.url}, api_token=service.api_token, actor=by.name))
            self._take(service)
            self._start(service.name)
        await self.write_routes()
        return service

    async def remove(self, name: str, by: Requester) -> None:
        """Take away one that was made by `add`. Raises NotFound, NotHere."""
        service = self.get(name)
        if service is None:
            raise NotFound("There is no such service.")
        if service.from_config:
            raise NotHere(f"The service {name} is one of the configuration, so it cannot be taken away here.")
        async with self._changing:
            await self._world.db.transact(lambda t: store.delete(
                t, name, client_id=service.oauth_client_id, actor=by.name))
            self._keepers.pop(name, None)
            if scope := self._scopes.pop(name, None):
                scope.cancel()
        await self.write_routes()

    def _take(self, service: ServiceDefinition) -> None:
        token = self._specs.token(service)
        if token:
            self._tokens[_digest(token)] = service.name
        self._keepers[service.name] = ServiceKeeper(
            service, self._world.urls.service(service.name), token, self._probe, self.write_routes)

    def _refuse_address(self, service: ServiceDefinition) -> None:
        """No way leads past a capability to a student's server, nor to what a cloud tells only the machine itself."""
        host = urlsplit(service.url).hostname or ""
        try:
            address = ip_address(host)
        except ValueError:
            # 2852039166, 0xa9fea9fe and 169.254.43518 are addresses to some resolvers
            if re.fullmatch(r"0x[0-9a-f]*|[0-9]+", host.rstrip(".").rpartition(".")[2].lower()):
                raise BadOption("“url” holds an address that is not written as one; write it like 10.1.2.3.") from None
            return
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if address.is_link_local or address.is_multicast or str(address) in set(self._world.spawner.addresses()):
            raise BadOption("“url” is an address that no service can have.")

    async def _refuse_more_rights(self, service: ServiceDefinition, by: Requester) -> None:
        """Raises BadScope: nobody hands out what they do not hold, by roles of the name neither."""
        permissions = self._world.permissions
        owner = Owner(service=service.name)
        raw = [*permissions.roles.scopes_of(permissions.roles.of_service(service.name, admin=service.admin)),
               *(each for scope in service.oauth_client_allowed_scopes for each in _of_any_visitor(scope))]
        own = f"!service={service.name}"
        wanted = {scope for scope in expand(raw, owner, permissions.roles.scopes) if not scope.endswith(own)}
        if missing := await permissions.missing(by.rights, wanted):
            raise BadScope(f"The service would hold what you do not: {', '.join(missing[:5])}{' …' * (len(missing) > 5)}.")


def _of_any_visitor(scope: str) -> tuple[str, ...]:
    """Return what a service may do whose visitors, of whom one may be an admin, each let it have this scope."""
    name, _, said = scope.partition("!")
    if scope in IDENTIFY:
        return ()
    if name == INHERIT:
        return ADMIN_SCOPES
    return OF_ONES_OWN if name == SELF else (name,) if said == "user" else (scope,)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
