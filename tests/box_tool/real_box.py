"""A box below a folder of its own, with a real engine's containers, and releases to put on it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.box import compose, release, shell, switch
from appliance.box.paths import Paths

REPO = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def docker(*words: str) -> str:
    return shell.run(["docker", *words], check=False).stdout.strip()


def tree(target: Path, version: str, *, broken: bool = False) -> Path:
    """A folder of this program that says it is another version; a broken one passes its trial and then does not run."""
    shutil.copytree(REPO, target, symlinks=True, ignore=shutil.ignore_patterns(
        ".*_cache", "__pycache__", ".git", ".venv", "artifacts", "tests", "bench", ".hypothesis", ".benchmarks"))
    for name in ("pyproject.toml", "appliance/__init__.py"):
        file = target / name
        text = file.read_text()
        file.write_text("\n".join(f'{line.split("=")[0]}= "{version}"' if line.startswith(("version =", "__version__ ="))
                                  else line for line in text.split("\n")))
    if broken:
        file = target / "appliance/main.py"
        text = file.read_text()
        assert text.count("    log.setup(settings.log_level)\n    _give") == 1
        file.write_text(text.replace("    log.setup(settings.log_level)\n    _give",
                                     '    raise SystemExit("broken on purpose")\n    _give'))
    return target


class Real:
    """A box below a folder of its own. Its data folder has one path inside and outside, as on a box.

    number: of its network, another one for each that runs at the same time.
    """

    def __init__(self, root: Path, number: int, *settings: str) -> None:
        self.root, self.name = root, f"rel{number}x{os.getpid()}"
        self.paths = Paths(root)
        data, config = root / "var/lib/appliance", root / "etc/appliance"
        (config / "config.d").mkdir(parents=True)
        (config / "secrets").mkdir(mode=0o700)
        (data / "homes").mkdir(parents=True, mode=0o711)
        # Paths puts its root before every path, and compose does not: below this root, the machine's paths lead to the same
        (root / root.parts[1]).symlink_to(Path("/", root.parts[1]))
        self.port = free_port()
        (config / "appliance.env").write_text("\n".join([
            f"APPLIANCE_NAME={self.name}", f"APPLIANCE_DATA={data}", f"APPLIANCE_CONFIG={config}",
            f"APPLIANCE_SUBNET=10.200.{number}.0/24", f"APPLIANCE_HTTP_PORT={self.port}", f"APPLIANCE_HUB_PORT={free_port()}",
            f"APPLIANCE_HOLDING_PORT={free_port()}",
            "APPLIANCE_PROPAGATION=rprivate", "APPLIANCE_OOM_SCORE_ADJ=0", *settings]) + "\n")
        (config / "config.d/10-box.py").write_text('c.JupyterHub.authenticator_class = "local"\n')

    def switch(self, release_id: str) -> switch.Outcome:
        with release.alone(self.paths):
            return switch.Switch(self.paths).to(release_id)

    def hub(self, *words: str, stdin: str = "") -> str:
        done = subprocess.run(["docker", "exec", "--interactive", f"{self.name}-hub", "appliance", *words], input=stdin,
                              capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def remove(self) -> None:
        print(compose.logs(self.paths, "hub", 40))  # pytest shows it where a test has failed
        for service in ("hub", "traefik", "holding", "prepare", "postgres"):  # the Hub first, or it starts servers again
            docker("rm", "--force", f"{self.name}-{service}")
        for label in ("namespace", "probe"):
            for name in docker("ps", "--all", "--quiet", "--filter", f"label=org.appliance.{label}={self.name}").split():
                docker("rm", "--force", "--volumes", name)
        for network in docker("network", "ls", "--quiet", "--filter", f"label=org.appliance.namespace={self.name}").split():
            docker("network", "rm", network)
        shell.run(["nft", "delete", "table", "inet", f"appliance_{self.name}"], check=False)
        shutil.rmtree(f"/run/{self.name}", ignore_errors=True)


@contextmanager
def real_box(root: Path, number: int, *settings: str) -> Iterator[Real]:
    """Yield a box; nothing is left of it at the end, and `latest` means what it did."""
    before = {name: release.image_id(f"appliance/{name}:latest") for name in release.image_names(REPO)}
    for folder in (root, *root.parents[:-2]):
        folder.chmod(folder.stat().st_mode | 0o111)  # Traefik is another user
    box = Real(root, number, *settings)
    try:
        yield box
    finally:
        box.remove()
        for each in release.staged(box.paths):
            for name in each.images:
                docker("image", "rm", f"appliance/{name}:{each.id}")
        for name, image in before.items():
            if image:
                docker("tag", image, f"appliance/{name}:latest")
