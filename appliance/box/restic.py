"""restic, as the box uses it: the repository and password of /etc/appliance, its words turned into sentences."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.box import shell
from appliance.box.paths import Paths, read_env
from appliance.box.shell import BoxError, Result

TAG = "appliance"
_OURS = ("APPLIANCE_",)


@dataclass(frozen=True)
class Repository:
    """Where backups go. `env`: whatever the target wants, from backup.env."""

    place: str
    password_file: Path
    env: dict[str, str]

    @property
    def folder(self) -> Path | None:
        """The repository's folder; None where it is on another machine."""
        place = self.place.removeprefix("local:")
        return Path(place) if place.startswith("/") else None

    @property
    def shown(self) -> str:
        """Without a password that stands in the address."""
        head, at, tail = self.place.rpartition("@")
        if at and ("://" in head or head.startswith("rest:")):
            scheme, slashes, _ = head.rpartition("://")
            return f"{scheme}{slashes}…@{tail}"
        return self.place


def open_repository(paths: Paths, place: str = "", password_file: Path | None = None) -> Repository:
    """Return the box's repository, or another one that was named. Raises BoxError."""
    settings = read_env(paths.secrets / "backup.env")
    place = place or settings.get("RESTIC_REPOSITORY") or str(paths.backups)
    password_file = password_file or paths.secrets / "restic_password"
    if not password_file.exists():
        raise BoxError(f"There is no password of the backups in {password_file}.",
                       "Put the one that you kept there; for a new box, run the playbook, which makes one.")
    if shell.find("restic") is None:
        raise BoxError("The program restic is not installed.", "Run the playbook, or: apt-get install restic")
    env = {key: value for key, value in settings.items() if not key.startswith(_OURS)}
    return Repository(place, password_file, {
        **env, "RESTIC_REPOSITORY": place, "RESTIC_PASSWORD_FILE": str(password_file),
        "RESTIC_CACHE_DIR": str(paths.at("/var/cache/appliance/restic"))})


def run(repository: Repository, *words: str, check: bool = True, timeout_s: float | None = None,
        cwd: Path | None = None) -> Result:
    """Run restic. Raises BoxError with what it means."""
    Path(repository.env["RESTIC_CACHE_DIR"]).mkdir(mode=0o700, parents=True, exist_ok=True)
    result = shell.run(["restic", "--quiet", *words], check=False, timeout_s=timeout_s, env=repository.env, cwd=cwd)
    if check and not result.ok:
        raise explain(repository, result)
    return result


def explain(repository: Repository, result: Result) -> BoxError:
    words = result.stderr
    for sign, sentence, action in (
            ("wrong password", f"The password does not open the backups in {repository.shown}.",
             "Put the password that this repository was made with into /etc/appliance/secrets/restic_password."),
            ("repository is already locked", f"Another backup works on {repository.shown} at this moment.",
             "Wait for it to end. If none runs, anywhere: restic unlock"),
            ("no space left", "The disk that backups go to is full.",
             "Make room there, or keep fewer backups (backup_keep_*)."),
            ("no such host", f"The machine that backups go to cannot be found ({repository.shown}).",
             "Check backup_repository and the network."),
            ("connection refused", f"The machine that backups go to refuses the connection ({repository.shown}).",
             "Check that its service runs."),
            ("Is there a repository", f"There is no backup in {repository.shown}.", "Check RESTIC_REPOSITORY in backup.env."),
            ("no matching ID", "There is no such backup.", "See them with: appliance backup --list"),
            ("no snapshot found", "There is no such backup.", "See them with: appliance backup --list")):
        if sign in words:
            return BoxError(sentence, action, evidence=words[-2000:])
    return BoxError(f"restic could not do its work in {repository.shown}: {result.words.removeprefix('Fatal: ').rstrip('.')}.",
                    "Mend that and run the same command again.", evidence=words[-2000:])


def ensure_repository(repository: Repository) -> bool:
    """Make the repository if there is none, and return whether that was done. Raises BoxError."""
    folder = repository.folder
    if folder is not None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        there = (folder / "config").exists()
        if not there and folder.exists() and any(folder.iterdir()):
            if {path.name for path in folder.iterdir()} - {"data", "index", "keys", "locks", "snapshots"}:
                raise BoxError(f"{folder} holds something else than backups.", "Name an empty folder as backup_repository.")
            shutil.rmtree(folder)  # an `init` that was cut off: without `config` nothing in it can be read
    else:
        found = run(repository, "cat", "config", check=False, timeout_s=120)
        there = found.ok
        if not there and "Is there a repository" not in found.stderr and "does not exist" not in found.stderr:
            raise explain(repository, found)
    if not there:
        run(repository, "init", timeout_s=300)
    return not there


def snapshots(repository: Repository) -> list[dict[str, Any]]:
    """Return the box's backups, the newest first."""
    said = json.loads(run(repository, "snapshots", "--json", "--no-lock", "--tag", TAG, timeout_s=600).stdout or "[]") or []
    return sorted(said, key=lambda each: str(each["time"]), reverse=True)


def find(repository: Repository, wanted: str) -> dict[str, Any]:
    """Return one backup by its id, or the latest. Raises BoxError."""
    found = snapshots(repository)
    if wanted != "latest":
        found = [each for each in found if str(each["id"]).startswith(wanted) and len(wanted) >= 4]
    if not found:
        raise BoxError(f"There is no backup {wanted} in {repository.shown}." if wanted != "latest"
                       else f"There is no backup in {repository.shown} yet.", "See them with: appliance backup --list")
    return found[0]


def dump(repository: Repository, snapshot_id: str, path: str) -> bytes:
    """Return one file of a backup."""
    done = subprocess.run([shell.find("restic") or "restic", "--quiet", "dump", "--no-lock", snapshot_id, path],
                          capture_output=True, check=False, env={**os.environ, **repository.env})
    if done.returncode != 0:
        raise explain(repository, Result(done.returncode, "", done.stderr.decode(errors="replace")))
    return done.stdout


def restore(repository: Repository, snapshot_id: str, target: Path, includes: Sequence[str]) -> None:
    """Put paths of a backup below `target`, under their whole names, owners and links as they were. Raises BoxError."""
    run(repository, "restore", "--no-lock", snapshot_id, "--target", str(target),
        *(word for each in includes for word in ("--include", _literal(each))))


def _literal(path: str) -> str:
    """A path for restic's patterns, with what would stand for anything else made plain."""
    return "".join(f"\\{char}" if char in "*?[]\\" else char for char in path)
