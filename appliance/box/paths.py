"""Where everything of a box lies. All tools agree on this one list."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_DATA = "/var/lib/appliance"
DEFAULT_NAME = "appliance"


@dataclass(frozen=True)
class Paths:
    """Every path of a box below `root`, which is another folder only in tests.

    The data folder and the containers' names are whatever `appliance.env` says at the moment of asking.
    """

    root: Path = Path("/")

    def at(self, path: str | Path) -> Path:
        """Return the absolute `path` of a box as a path below `root`."""
        return self.root / str(path).lstrip("/")

    # -- what the admin decides
    @property
    def config(self) -> Path:
        return self.at("/etc/appliance")

    @property
    def env_file(self) -> Path:
        return self.config / "appliance.env"

    @property
    def config_d(self) -> Path:
        return self.config / "config.d"

    @property
    def tls(self) -> Path:
        return self.config / "tls"

    @property
    def secrets(self) -> Path:
        return self.config / "secrets"

    @property
    def installed_file(self) -> Path:
        return self.config / "installed.json"

    def env(self) -> dict[str, str]:
        """Return what appliance.env sets; nothing where there is no such file."""
        return read_env(self.env_file)

    @property
    def name(self) -> str:
        """Prefix of the containers' names."""
        return self.env().get("APPLIANCE_NAME") or DEFAULT_NAME

    def container(self, service: str) -> str:
        """Return the name of the container of compose's `service`: hub, traefik, postgres."""
        return f"{self.name}-{service}"

    # -- releases
    @property
    def opt(self) -> Path:
        return self.at("/opt/appliance")

    @property
    def releases(self) -> Path:
        return self.opt / "releases"

    @property
    def current(self) -> Path:
        return self.opt / "current"

    @property
    def previous(self) -> Path:
        return self.opt / "previous"

    def release(self, release_id: str) -> Path:
        return self.releases / release_id

    @property
    def source(self) -> Path:
        return self.current / "source"

    @property
    def release_file(self) -> Path:
        return self.current / "release.json"

    @property
    def release_env(self) -> Path:
        return self.current / "release.env"

    @property
    def wrapper(self) -> Path:
        return self.at("/usr/local/sbin/appliance")

    # -- data
    @property
    def data(self) -> Path:
        return self.at(self.env().get("APPLIANCE_DATA") or DEFAULT_DATA)

    @property
    def database(self) -> Path:
        """Of a box with SQLite."""
        return self.data / "jupyterhub.sqlite"

    @property
    def cookie_secret(self) -> Path:
        return self.data / "jupyterhub_cookie_secret"

    @property
    def state(self) -> Path:
        return self.data / "state"

    @property
    def traefik(self) -> Path:
        return self.state / "traefik"

    @property
    def routes(self) -> Path:
        return self.traefik / "routes"

    @property
    def acme_status(self) -> Path:
        return self.traefik / "acme-status.json"

    @property
    def homes(self) -> Path:
        return self.data / "homes"

    @property
    def postgres(self) -> Path:
        return self.data / "postgres"

    @property
    def snapshots(self) -> Path:
        return self.data / "snapshots"

    @property
    def backups(self) -> Path:
        return self.data / "backups"

    @property
    def backup_status(self) -> Path:
        """What the last backup ended with. Beside the data wherever that is."""
        return self.data / "backup-status.json"

    # -- the running machine
    @property
    def run(self) -> Path:
        return self.at("/run/appliance")

    @property
    def log(self) -> Path:
        return self.at("/var/log/appliance")


def read_env(path: Path) -> dict[str, str]:
    """Return KEY=value lines of a file as compose reads them: comments, `export` and quotes are taken off. Lines of any
    other form say nothing, and neither does a file that cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    found: dict[str, str] = {}
    for line in lines:
        key, equals, value = line.strip().removeprefix("export ").partition("=")
        if not equals or not key.strip().isidentifier():
            continue
        value = value.strip()
        if value[:1] in ("'", '"') and value.count(value[0]) > 1:
            value = value[1:value.index(value[0], 1)]
        else:
            value = value.partition(" #")[0].rstrip()
        found[key.strip()] = value
    return found
