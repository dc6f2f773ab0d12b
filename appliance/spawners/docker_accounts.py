"""The /etc/passwd and /etc/group a container sees: its image's, with its user in them, so that `whoami` says their name.

They are files on the host that are mounted read-only: copying them into each new container would cost a start 50 ms.
"""

from __future__ import annotations

import errno
import io
import os
import tarfile
import tempfile
import threading
from pathlib import Path
from typing import Any

import docker.errors
from docker import APIClient

from appliance.errors import DiskFull, SpawnError
from appliance.ports import ServerSpec
from appliance.spawners.docker_container import PROBE, account_files

_FILES = ("passwd", "group")
_LARGEST = 1 << 20


class AccountFiles:
    """Keeps them in `folder`, by image and uid. Blocking."""

    def __init__(self, folder: Path, namespace: str, learning: threading.Lock) -> None:
        self.folder = folder.absolute()
        self.namespace = namespace
        self._learning = learning  # a class that starts at once asks for a new image once

    def learn(self, client: APIClient, image: str, image_id: str) -> Path:
        """Read the image's own files, once ever, and return the folder they are kept in."""
        kept = self.folder / image_id.rpartition(":")[2][:24]
        if all((kept / name).exists() for name in _FILES):
            return kept
        with self._learning:
            if not all((kept / name).exists() for name in _FILES):
                self._copy(client, image, kept)
        return kept

    def _copy(self, client: APIClient, image: str, kept: Path) -> None:
        made = client.create_container_from_config(
            {"Image": image, "Cmd": ["true"], "Labels": {PROBE: self.namespace}, "HostConfig": {"NetworkMode": "none"}},
        )["Id"]
        try:
            for name in _FILES:
                _write(kept / name, _read(client, made, f"/etc/{name}"))
        finally:
            client.remove_container(made, force=True)

    def mounts(
        self, client: APIClient, spec: ServerSpec, *, image: str, image_id: str, home: str, shell: str,
    ) -> list[dict[str, Any]]:
        """Write one user's files and return the engine's mounts for them."""
        kept = self.learn(client, image, image_id)
        texts = account_files(
            *((kept / name).read_text(errors="replace") for name in _FILES),
            name=spec.user_name, uid=spec.uid, home=home, shell=shell)
        made = []
        for name, text in zip(_FILES, texts, strict=True):
            path = kept / f"u{spec.uid}.{name}"
            if not path.exists() or path.read_text(errors="replace") != text:
                _write(path, text)
            made.append({"Type": "bind", "Source": str(path), "Target": f"/etc/{name}", "ReadOnly": True})
        return made


def _read(client: APIClient, container: str, path: str) -> str:
    """Return a file of a container's image, "" where it has none."""
    try:
        chunks, _ = client.get_archive(container, path)
        packed = b"".join(chunks)
    except docker.errors.NotFound:
        return ""
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                return content.read(_LARGEST).decode(errors="replace")
    return ""


def _write(path: Path, text: str) -> None:
    """Replace a file in one step. A container that runs keeps the one it was started with."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(evidence=str(error)) from error
        raise SpawnError("A file of the box could not be written, so your server could not start.",
                         evidence=str(error)) from error
