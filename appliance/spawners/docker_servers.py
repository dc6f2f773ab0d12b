"""Making, ending and reading the containers of one namespace; blocking, with a client that is the caller's."""

from __future__ import annotations

import builtins
import contextlib
import time
from dataclasses import replace
from typing import Any

from docker import APIClient
from docker.errors import APIError
from docker.errors import NotFound as NotThere

from appliance.errors import EngineUnsuitable, SpawnError, StopTimeout
from appliance.ports import ActualServer, ActualState
from appliance.spawners.docker_container import BOX, NAMESPACE, container_name, from_inspection, from_listing
from appliance.spawners.docker_oom import ran_out_of_memory

_REMOVAL_S = 20.0    # a container that is being removed is waited for so long


class ServerContainers:
    """box: which of the boxes that share the engine is ours."""

    def __init__(self, namespace: str, network: str, box: str) -> None:
        self.namespace, self.network, self.box = namespace, network, box

    def create(self, client: APIClient, server_id: str, start_no: int, config: dict[str, Any]) -> str:
        """Return the id of a new container, "" if the one of this very start runs already."""
        name = container_name(self.namespace, server_id)
        end = time.monotonic() + _REMOVAL_S
        while True:
            try:  # asking first would cost every start a round trip
                return str(client.create_container_from_config(config, name)["Id"])
            except APIError as error:
                if error.status_code != 409 or time.monotonic() > end:
                    raise
            try:
                there = from_inspection(client.inspect_container(name), self.network)
            except NotThere:  # on its way in or out
                time.sleep(0.05)
                continue
            if there is None:
                raise SpawnError(action=f"A container that is not ours is called {name}; rename or remove it.")
            if there.start_no == start_no and there.state is ActualState.RUNNING:
                return ""
            elif there.start_no == start_no and there.state is ActualState.PAUSED:
                client.unpause(name)
                return ""
            else:
                self.remove(client, name)

    def stop(self, client: APIClient, server_id: str, timeout_s: int) -> None:
        """End and remove one; idempotent."""
        name = container_name(self.namespace, server_id)
        try:
            client.stop(name, timeout=timeout_s)  # thaws a paused one
        except NotThere:
            return
        except APIError as error:
            if error.status_code != 409:  # being removed already, or an engine that wants it thawed first
                raise
            with contextlib.suppress(APIError):
                client.unpause(name)
                client.stop(name, timeout=timeout_s)
        self.remove(client, name)

    def remove(self, client: APIClient, name: str) -> None:
        end = time.monotonic() + _REMOVAL_S
        while True:
            try:
                client.remove_container(name, force=True, v=True)
                return
            except NotThere:
                return
            except APIError as error:
                if error.status_code != 409:
                    raise
                if time.monotonic() > end:
                    raise StopTimeout(evidence=str(error.explanation)) from error
                time.sleep(0.05)  # "removal … is already in progress"

    def list(self, client: APIClient) -> builtins.list[ActualServer]:
        found = []
        for row in client.containers(all=True, filters={"label": [f"{NAMESPACE}={self.namespace}", f"{BOX}={self.box}"]}):
            actual = from_listing(row, self.network)
            if actual is not None and actual.state is ActualState.EXITED:
                actual = self.inspect(client, row["Id"])  # only there is the cause
            if actual is not None:
                found.append(actual)
        return found

    def refuse_others(self, client: APIClient) -> None:
        """Raises EngineUnsuitable while another box has servers of our namespace: they are not ours to end, and their
        addresses are ours to give."""
        for row in client.containers(all=True, filters={"label": [f"{NAMESPACE}={self.namespace}", BOX]}):
            other = row["Labels"][BOX]
            if other != self.box:
                raise EngineUnsuitable(
                    "Servers of another box run on this machine, so no server was started here.",
                    action=f"End them from that box's folder ({other}) with “appliance stop --servers”, or give this box a "
                           "c.DockerSpawner.namespace and a c.DockerSpawner.subnet of its own.")

    def inspect(self, client: APIClient, name: str) -> ActualServer | None:
        try:
            found = client.inspect_container(name)
        except NotThere:
            return None
        actual = from_inspection(found, self.network)
        if actual is not None and actual.state is ActualState.EXITED:
            return replace(actual, oom_killed=ran_out_of_memory(client, found))
        return actual
