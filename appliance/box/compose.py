"""The one place that calls `docker compose`, and what is asked of the engine about the box's own containers.

A `Release` here is a folder of /opt/appliance/releases; its own compose.yaml and image ids are used, so that an older
release runs as it was.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from appliance.box import shell
from appliance.box.paths import Paths, read_env
from appliance.box.shell import BoxError, Result

# What compose adds for homes on Btrfs (one more capability for the Hub), where a release has it.
BTRFS_FILE = "compose.btrfs.yaml"
HEALTHY_S = 120.0
RESTART_S = 5.0         # as long may a container be down that is restarted
# Set by whoever called us, they would win over both files.
_OURS = ("APPLIANCE_", "COMPOSE_")


@dataclass(frozen=True)
class Container:
    """What the engine says of one container. `health`: healthy, unhealthy, starting, or "" where it has no check."""

    id: str
    image: str
    running: bool
    status: str
    health: str
    restarts: int
    started_at: str
    test: tuple[str, ...] = ()      # its own health check, without "CMD"

    @property
    def well(self) -> bool:
        return self.running and self.health in ("healthy", "")


def command(paths: Paths, release: Path | None = None) -> list[str]:
    """Return the words before compose's own command, for the current release or another one. Raises BoxError."""
    folder = (release or paths.current).resolve()
    file = folder / "source" / "compose.yaml"
    if not file.exists():
        raise BoxError(f"There is no release at {release or paths.current}.", "Run the playbook, or: appliance upgrade FOLDER")
    files = [file]
    if uses_btrfs(paths) and (file.parent / BTRFS_FILE).exists():
        files.append(file.parent / BTRFS_FILE)
    words = ["env", *(f"--unset={key}" for key in os.environ if key.startswith(_OURS)),
             "docker", "compose", "--project-name", paths.name, "--project-directory", str(file.parent)]
    for env in (paths.env_file, folder / "release.env"):
        if env.exists():
            words += ["--env-file", str(env)]
    return words + [word for each in files for word in ("--file", str(each))] + profiles(paths)


def profiles(paths: Paths) -> list[str]:
    """Compose of some versions reads COMPOSE_PROFILES from the environment alone, so it is said in words."""
    said = paths.env().get("COMPOSE_PROFILES", "")
    return [word for name in said.split(",") if name.strip() for word in ("--profile", name.strip())]


def uses_postgres(paths: Paths) -> bool:
    return "postgres" in profiles(paths)


def uses_btrfs(paths: Paths) -> bool:
    return paths.env().get("APPLIANCE_HOMES", "").lower() == "btrfs"


def run(paths: Paths, *words: str, release: Path | None = None, timeout_s: float = 300, check: bool = True,
        what: str = "Docker Compose") -> Result:
    """Run `docker compose WORDS`. Raises BoxError with the program's last lines."""
    result = shell.run([*command(paths, release), *words], check=False, timeout_s=timeout_s)
    if check and not result.ok:
        raise BoxError(f"{what} failed: {result.words.rstrip('.')}.",
                       "Is the Docker Engine running? “appliance doctor” says what is missing.",
                       evidence=(result.stdout + result.stderr)[-4000:])
    return result


def up(paths: Paths, release: Path) -> None:
    """Let a release's containers run; only those that have to change are touched. Raises BoxError.

    One by one: a plain `up` makes Traefik anew whenever `prepare`, on which it depends, has another image (measured with
    2.26), and every connection of everybody would be cut by each upgrade. Where Traefik runs and stays as it is, the Hub comes
    first: it writes all that `prepare` does, which then is only made, and browsers wait for it alone.
    """
    what = f"Starting release {release.name}"
    first = [["postgres"]] if uses_postgres(paths) else []
    stays = _traefik_stays(paths, release)
    rest = [["hub"], ["traefik", "holding"]] if stays else [["prepare"], ["traefik"], ["hub", "holding"]]
    for names in [*first, *rest]:
        run(paths, "up", "--detach", "--no-deps", "--no-build", *names, release=release, timeout_s=600, what=what)
        name = names[0]
        if name == "postgres":
            wait_until_well(paths, [name])
        if name == "prepare":
            ended = shell.run(["docker", "wait", paths.container(name)], timeout_s=120).stdout.strip()
            if ended != "0":
                raise BoxError(f"{what} failed: the container {paths.container(name)} could not prepare what Traefik reads.",
                               "Its last lines say why.", evidence=logs(paths, name))
    if stays:
        run(paths, "up", "--no-start", "--no-deps", "--no-build", "prepare", release=release, what=what)


def _traefik_stays(paths: Paths, release: Path) -> bool:
    """Say whether Traefik runs out of the release's image."""
    wanted = read_env(release / "release.env").get("APPLIANCE_TRAEFIK_IMAGE")
    found = inspect(paths, "traefik")
    return found is not None and found.running and found.image == wanted


def hub(paths: Paths, *words: str, release: Path | None = None, timeout_s: float = 300, check: bool = True,
        what: str = "The Hub's command") -> Result:
    """Run a command of the Hub in a container of its own, out of the release's image. Raises BoxError."""
    result = run(paths, "run", "--rm", "--no-deps", "--no-TTY", "hub", "appliance", *words, release=release,
                 timeout_s=timeout_s, check=False)
    if check and not result.ok:
        raise BoxError(f"{what} failed: {result.words.removeprefix('appliance: ').rstrip('.')}.",
                       "Nothing was changed by it.", evidence=(result.stdout + result.stderr)[-4000:])
    return result


def inspect(paths: Paths, service: str) -> Container | None:
    """Return what the engine knows of a service's container, None where there is none. Raises BoxError: engine down."""
    name = paths.container(service)
    result = shell.run(["docker", "container", "inspect", name], check=False, timeout_s=30)
    if not result.ok:
        if "no such container" in result.stderr.lower():
            return None
        raise BoxError("The Docker Engine does not answer.", "Start it: systemctl start docker", evidence=result.stderr)
    said: dict[str, Any] = json.loads(result.stdout)[0]
    state = said["State"]
    return Container(said["Id"], said["Image"], bool(state["Running"]), state["Status"],
                     (state.get("Health") or {}).get("Status", ""), int(said.get("RestartCount", 0)), state["StartedAt"],
                     _test(said))


def _test(said: dict[str, Any]) -> tuple[str, ...]:
    kind, *words = (said["Config"].get("Healthcheck") or {}).get("Test") or [""]
    return ("/bin/sh", "-c", *words) if kind == "CMD-SHELL" else tuple(words) if kind == "CMD" else ()


def is_well(paths: Paths, service: str, found: Container) -> bool:
    """Say whether a container is well now. The engine asks only every 15 or 30 s, so a new one is asked by ourselves."""
    if found.health == "starting" and found.running and found.test:
        return shell.run(["docker", "exec", paths.container(service), *found.test], check=False, timeout_s=20).ok
    return found.well


def remove_leftovers(paths: Paths) -> None:
    """Remove what a compose that was killed leaves: the container of a single command, and one that was to replace another
    (it has an id before its name, and a later `up` would take it for the service's own)."""
    listed = shell.run(["docker", "ps", "--all", "--filter", f"label=com.docker.compose.project={paths.name}", "--format",
                        '{{.Names}}\t{{.Label "com.docker.compose.oneoff"}}'], timeout_s=60).stdout.splitlines()
    for name, _, oneoff in (line.partition("\t") for line in listed):
        if oneoff.lower() == "true" or re.match(r"[0-9a-f]{12}_", name):
            shell.run(["docker", "rm", "--force", "--volumes", name], check=False, timeout_s=60)


def logs(paths: Paths, service: str, lines: int = 15) -> str:
    """Return the last lines a service wrote, for evidence."""
    result = shell.run(["docker", "logs", "--tail", str(lines), paths.container(service)], check=False, timeout_s=30)
    return (result.stdout + result.stderr)[-4000:] if result.ok else ""


def wait_until_well(paths: Paths, services: Sequence[str], *, timeout_s: float = HEALTHY_S,
                    clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> None:
    """Wait until each service runs and says that it is well. Raises BoxError with the last lines of the one that is not.

    Compose's own --wait counts a one-shot service that has ended as a failure. One that is down for a moment may be in the
    middle of a restart: the Hub restarts Traefik for another configuration.
    """
    ends_at = clock() + timeout_s
    down_since: dict[str, float] = {}
    before = {service: found.restarts if (found := inspect(paths, service)) else 0 for service in services}
    while True:
        waiting = []
        for service in services:
            found = inspect(paths, service)
            if found is not None and found.status not in ("exited", "dead"):
                down_since.pop(service, None)
                has_ended = found.restarts >= before[service] + 3
            else:
                has_ended = clock() - down_since.setdefault(service, clock()) >= RESTART_S
            if has_ended:
                raise BoxError(f"The container {paths.container(service)} does not stay up.",
                               f"Its last lines say why; all of them: docker logs {paths.container(service)}",
                               evidence=logs(paths, service))
            if found is None or not is_well(paths, service, found):
                waiting.append(service)
        if not waiting:
            return
        if clock() >= ends_at:
            name = paths.container(waiting[0])
            raise BoxError(f"The container {name} is not well after {timeout_s:.0f} seconds.",
                           f"Its last lines say why; all of them: docker logs {name}", evidence=logs(paths, waiting[0]))
        sleep(0.25)


def services(paths: Paths) -> list[str]:
    """The services of this box that go on running."""
    return ["traefik", "hub", *(["postgres"] if uses_postgres(paths) else [])]


def parse_time(text: str) -> float:
    """Return the engine's "2026-11-23T07:18:51.123456789Z" as seconds since 1970; 0 for what is none."""
    try:
        return datetime.fromisoformat(text.strip()[:19] + "+00:00").timestamp()
    except ValueError:
        return 0.0
