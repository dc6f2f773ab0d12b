"""The Docker Engine behind one door: threads, clients of their own, and every exception as one of ours."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import docker
import docker.constants
import docker.errors
import docker.utils
import requests
import urllib3
from anyio import CapacityLimiter

from appliance.errors import (
    ApplianceError,
    BadOption,
    DiskFull,
    EngineDown,
    EngineUnsuitable,
    HomeFull,
    ImageBroken,
    ImageMissing,
    NotFound,
    SpawnError,
)

T = TypeVar("T")

# What docker-py and the libraries below it may raise; `translate` has an answer for each.
ENGINE_ERRORS = (docker.errors.DockerException, docker.errors.StreamParseError, requests.RequestException,
                 urllib3.exceptions.HTTPError)
_EVIDENCE = 2000
_KNOCK_S = 5.0


class NetworkGone(SpawnError):
    """The network of the servers is not there any more; prepare() makes it again."""


class AddressTaken(SpawnError):
    """The engine says that the server's fixed address belongs to another container."""

    action = "Another container on the servers' network holds this address; remove it, or restart the Docker Engine."


class Engine:
    """Calls of docker-py in threads.

    A docker-py client must not be shared between threads at the same time, so each call takes one out of a pool and
    gives it back.
    """

    def __init__(self, base_url: str = "", *, threads: int = 32, timeout_s: float = 60.0) -> None:
        self.base_url = base_url
        self.timeout_s = timeout_s
        self._threads = threads
        self._limiters: tuple[CapacityLimiter, CapacityLimiter] | None = None
        self._lock = threading.Lock()
        self._idle: list[docker.APIClient] = []
        self._generation = 0
        self._closed = False
        self._version: str | None = None

    async def run(
        self, call: Callable[..., T], *args: Any, timeout_s: float | None = None, slow: bool = False,
    ) -> T:
        """Return call(client, *args), run in a thread. Raises only errors of appliance.errors.

        A task that is cancelled leaves the thread behind; see ServerLocks. slow: it mostly waits, and must not keep
        others from their threads.
        """
        if self._limiters is None:  # a limiter belongs to the event loop it was made in
            self._limiters = (CapacityLimiter(self._threads), CapacityLimiter(self._threads))
        return await anyio.to_thread.run_sync(
            lambda: self.call(call, *args, timeout_s=timeout_s), abandon_on_cancel=True, limiter=self._limiters[slow])

    def call(self, call: Callable[..., T], *args: Any, timeout_s: float | None = None) -> T:
        """The same from a thread."""
        try:
            client, generation = self._take()
        except ENGINE_ERRORS as error:
            raise translate(error) from error
        client.timeout = timeout_s or self.timeout_s
        try:
            return call(client, *args)
        except ENGINE_ERRORS as error:
            translated = translate(error)
            if isinstance(translated, EngineDown):
                generation = -1  # its connections are no good any more
            raise translated from error
        finally:
            self._give_back(client, generation)

    def client(self, timeout_s: float | None = None) -> docker.APIClient:
        """Return a client that is the caller's alone, to close after use. Raises EngineDown."""
        try:
            return self._new(timeout_s)
        except ENGINE_ERRORS as error:
            raise translate(error) from error

    def close(self) -> None:
        """Keep no client from now on; calls still work."""
        self._closed = True
        self.forget()

    def forget(self) -> None:
        """Close idle clients; those at work are closed when they come back."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._generation += 1
            self._version = None
        for client in idle:
            client.close()

    def _take(self) -> tuple[docker.APIClient, int]:
        with self._lock:
            generation = self._generation
            client = self._idle.pop() if self._idle else None
        if client is not None:
            try:
                self._knock()
            except EngineDown:
                client.close()
                raise
            return client, generation
        return self._new(None), generation

    def _give_back(self, client: docker.APIClient, generation: int) -> None:
        with self._lock:
            if generation == self._generation and not self._closed:
                self._idle.append(client)
                return
        client.close()

    def _new(self, timeout_s: float | None) -> docker.APIClient:
        self._knock()
        options = {"base_url": self.base_url} if self.base_url else docker.utils.kwargs_from_env()
        # "auto" asks the engine; once is enough
        client = docker.APIClient(version=self._version or "auto", timeout=timeout_s or self.timeout_s, **options)
        self._version = client.api_version
        return client

    def _knock(self) -> None:
        """Raises EngineDown where nobody listens on a Unix socket: docker-py loses a socket with each such try."""
        url = self.base_url or os.environ.get("DOCKER_HOST") or docker.constants.DEFAULT_UNIX_SOCKET
        scheme, _, path = url.partition("://")
        if scheme not in ("unix", "http+unix"):
            return
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(_KNOCK_S)
            try:
                door.connect("/" + path.lstrip("/"))
            except OSError as error:
                raise EngineDown(evidence=f"{path}: {error}") from error


def translate(error: Exception) -> ApplianceError:
    """Return the error of ours that stands for one of docker-py, requests or urllib3."""
    words = evidence_of(error)
    low = words.lower()
    if isinstance(error, docker.errors.APIError):  # which is one of requests' errors, too
        return _translate_answer(error, words, low)
    if isinstance(error, (requests.RequestException, urllib3.exceptions.HTTPError)):
        return EngineDown(evidence=words)
    if isinstance(error, (docker.errors.InvalidVersion, docker.errors.TLSParameterError,
                          docker.errors.InvalidConfigFile, docker.errors.ContextException,
                          docker.errors.MissingContextParameter, docker.errors.ContextAlreadyExists,
                          docker.errors.ContextNotFound, docker.errors.DeprecatedMethod)):
        return EngineUnsuitable("The box's container engine cannot be used as it is configured.", evidence=words,
                                action="Check DOCKER_HOST, the Docker context and the engine's version.")
    if isinstance(error, (docker.errors.InvalidArgument, docker.errors.InvalidRepository,
                          docker.errors.NullResource)):
        return BadOption("The container engine does not understand that option.", evidence=words)
    if isinstance(error, (docker.errors.ContainerError, docker.errors.BuildError, docker.errors.ImageLoadError)):
        return SpawnError(evidence=words)
    # StreamParseError, and the bare DockerException with which a client fails to reach its engine
    return EngineDown(evidence=words)


def _translate_answer(error: docker.errors.APIError, words: str, low: str) -> ApplianceError:
    if "disk quota exceeded" in low:  # a mount point that had to be made in the home
        return HomeFull(evidence=words)
    if "no space left on device" in low:
        return DiskFull(evidence=words)
    if isinstance(error, docker.errors.ImageNotFound) or "no such image" in low:
        return ImageMissing(evidence=words)
    if "network" in low and "not found" in low:
        return NetworkGone(evidence=words)
    if isinstance(error, docker.errors.NotFound):
        return NotFound(evidence=words)
    if "address already in use" in low:
        return AddressTaken(evidence=words)
    if "docker-init" in low:
        return SpawnError(action="The engine's init is missing; install tini (apt install tini).", evidence=words)
    if "exec:" in low or "exec format error" in low or "no command specified" in low:
        return ImageBroken(evidence=words)
    if "runtime create failed" in low and ("executable file not found" in low or "permission denied" in low):
        return ImageBroken(evidence=words)
    return SpawnError(evidence=words)


def evidence_of(error: Exception) -> str:
    """Return the engine's own words, bounded."""
    explanation = getattr(error, "explanation", None)
    if isinstance(explanation, bytes):
        explanation = explanation.decode(errors="replace")
    return str(explanation or error)[:_EVIDENCE]
