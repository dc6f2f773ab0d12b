"""What a switch does to the machine, a verb each; in which order, and what if one fails, is switch.py's."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
from pathlib import Path
from typing import Any

from appliance.box import compose, outside, release, shell, snapshot
from appliance.box.paths import DEFAULT_DATA, Paths
from appliance.box.release import Release
from appliance.box.shell import BoxError, step


class Machine:
    """What a switch does to the machine, a verb each. Raises BoxError."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self._problems: frozenset[str] | None = None    # of the old Hub; None: nobody knows

    def prepare(self, target: Release) -> None:
        """Let a PostgreSQL of ours run; asking the Hub anything needs the database."""
        if not compose.uses_postgres(self.paths):
            return
        found = compose.inspect(self.paths, "postgres")
        if found is None or not found.running:
            compose.run(self.paths, "up", "--detach", "--no-deps", "--no-build", "postgres", release=self._folder(target),
                        what="Starting PostgreSQL")
        compose.wait_until_well(self.paths, ["postgres"])

    def facts(self, target: Release) -> dict[str, Any]:
        return snapshot.facts(self.paths, self._folder(target))

    def take_snapshot(self, why: str, where: dict[str, str], schema: str | None) -> Path:
        return snapshot.take(self.paths, why, where, schema)

    def try_out(self, target: Release, where: dict[str, str], copies: Path, back_by: Release | None) -> None:
        """Let the target start on a copy of the database; `back_by` is the release that takes the schema back before."""
        if snapshot.is_elsewhere(self.paths, where):
            return step("The database is kept elsewhere, so there is no copy of it to try the new release on.")
        trial = copies / "trial"
        shutil.rmtree(trial, ignore_errors=True)
        trial.mkdir(mode=0o700)
        if where["kind"] == "sqlite":
            if (copies / snapshot.SQLITE_COPY).exists():
                shutil.copyfile(copies / snapshot.SQLITE_COPY, trial / snapshot.SQLITE_COPY)
            inside = Path(self.paths.env().get("APPLIANCE_DATA") or DEFAULT_DATA) / trial.relative_to(self.paths.data)
            database = str(inside / snapshot.SQLITE_COPY)
        else:
            database = snapshot.make_spare(self.paths, where, copies / snapshot.POSTGRES_COPY)
        try:
            if back_by is not None:
                compose.hub(self.paths, "downgrade-db", target.schema, "--database", database, release=self._folder(back_by),
                            what="Taking a copy of the database back")
            compose.hub(self.paths, "trial", "--database", database, release=self._folder(target),
                        what=f"Release {target.id}, tried on a copy of the database,")
        finally:
            shutil.rmtree(trial, ignore_errors=True)
            if where["kind"] != "sqlite":
                snapshot.drop_spare(self.paths, where)

    def stop_hub(self) -> None:
        """End whatever Hub runs; routes, Traefik and servers stay as they are."""
        name = self.paths.container("hub")
        done = shell.run(["docker", "stop", "--time", "20", name], check=False, timeout_s=90)
        if not done.ok and "no such container" not in done.stderr.lower():
            raise BoxError(f"The container {name} could not be stopped: {done.words.rstrip('.')}.",
                           "Does the Docker Engine answer? docker ps")

    def save(self, where: dict[str, str], folder: Path) -> None:
        """Copy the database and the cookie secret as they are now that no Hub runs."""
        partial = folder.with_name("stopping")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700, parents=True)
        snapshot.copy_database(self.paths, where, partial)
        snapshot.copy_secrets(self.paths, partial)
        shutil.rmtree(folder, ignore_errors=True)
        shell.sync_folder(partial)
        partial.rename(folder)
        shell.sync_folder(folder.parent)

    def clear(self) -> None:
        """Remove containers that something killed has left half made or at work."""
        compose.remove_leftovers(self.paths)

    def forget_boot(self) -> None:
        """Let the next Hub see that the machine was restarted, if it was: the one that is put away has already noted that
        down, and the servers it started again for it are not in the database that is put back."""
        for place in self.paths.at(f"/run/{self.paths.name}").glob("*"):
            shutil.rmtree(place, ignore_errors=True)

    def migrate(self, target: Release) -> None:
        compose.hub(self.paths, "upgrade-db", release=self._folder(target), what="Bringing the database up to date")

    def take_back(self, by: Release, schema: str) -> None:
        compose.hub(self.paths, "downgrade-db", schema, release=self._folder(by), what="Taking the database back")

    def put_database_back(self, where: dict[str, str], folder: Path) -> None:
        snapshot.put_database_back(self.paths, where, folder)

    def put_cookie_secret_back(self, folder: Path) -> None:
        snapshot.put_cookie_secret_back(self.paths, folder)

    def replace_cookie_secret(self) -> None:
        snapshot.replace_cookie_secret(self.paths)

    def up(self, target: Release) -> None:
        compose.up(self.paths, self._folder(target))

    def wait(self) -> None:
        compose.wait_until_well(self.paths, compose.services(self.paths))

    def check(self, target: Release, facts: dict[str, Any]) -> None:
        outside.check_pages(facts, target.version, before=self._problems)

    def smoke(self) -> None:
        done = shell.run(["docker", "exec", self.paths.container("hub"), "appliance", "smoke"], check=False, timeout_s=900)
        if not done.ok:
            raise BoxError(f"The smoke test failed: {done.words.removeprefix('appliance: ').rstrip('.')}.",
                           "appliance doctor", evidence=(done.stdout + done.stderr)[-4000:])

    def after(self, target: Release) -> list[str]:
        """What may be done when all is well, and repeated whenever."""
        release.name_latest(target)
        shell.write_file(self.paths.wrapper, shell.WRAPPER, 0o755)
        return release.remove_old(self.paths)

    def watch(self, facts: dict[str, Any]) -> outside.Watch:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            self._problems = frozenset(json.loads(outside.get(facts, "hub/health")[1])["problems"])
        return outside.Watch(outside.address(facts), int(facts["port"]), int(facts["hub_port"]))

    def _folder(self, target: Release) -> Path:
        return self.paths.release(target.id)
