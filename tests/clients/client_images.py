"""Images that only these tests need, made once for each state of what goes into them."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from box import REPOSITORY

PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "PIP_INDEX_URL",
             "PIP_EXTRA_INDEX_URL")


def ensure_image(name: str, context: Path, below: str, arguments: Mapping[str, str] | None = None) -> str:
    """Build the image of a folder unless it is there and up to date; return its whole name.

    below: the image of ours that it stands on, "notebook". What earlier states of it left is removed.
    """
    digest = hashlib.sha256(f"{_id_of(below)} {sorted((arguments or {}).items())}".encode())
    for path in sorted(context.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(context)}\0".encode() + path.read_bytes())
    tag = digest.hexdigest()[:12]
    whole = f"appliance-test/{name}:{tag}"
    if _docker("image", "inspect", whole).returncode != 0:
        words = [word for key in PASSED_ON if os.environ.get(key) for word in ("--build-arg", key)]
        words += [word for key, value in (arguments or {}).items() for word in ("--build-arg", f"{key}={value}")]
        # the host's network: behind a proxy, or with a resolver on loopback, the bridge's reaches nothing
        built = _docker("build", "--quiet", "--force-rm", "--network", "host", *words, "--tag", whole, str(context))
        assert built.returncode == 0, f"{whole}: {built.stdout[-3000:]}"
    for other in _docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", f"appliance-test/{name}").stdout.split():
        if other != whole:
            _docker("image", "rm", other)      # refused while a container of another run stands on it
    return whole


def _id_of(below: str) -> str:
    found = _docker("image", "inspect", "--format", "{{.Id}}", f"appliance/{below}:latest")
    if found.returncode != 0:
        subprocess.run(["images/build", below], check=True, cwd=REPOSITORY)
        return _id_of(below)
    return found.stdout.strip()


def _docker(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *words], env={"DOCKER_BUILDKIT": "0", **os.environ}, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
