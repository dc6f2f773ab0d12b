"""Releases on a real engine: staged, switched, broken and taken back, while a student works."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from student import Student

from appliance.box import compose, release, shell, switch
from appliance.box.paths import Paths
from appliance.box.release import Release
from appliance.box.shell import BoxError

sys.path.insert(0, str(Path(__file__).parents[1] / "boxes"))
from at_work import AtWork

pytestmark = pytest.mark.engine

REPO = Path(__file__).parents[2]
SUBNET = "10.200.237.0/24"
PASSWORD = "releases-take-turns"


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
    """A box below a folder of its own. Its data folder has one path inside and outside, as on a box."""

    def __init__(self, root: Path) -> None:
        self.root, self.name = root, f"rel{os.getpid()}"
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
            f"APPLIANCE_SUBNET={SUBNET}", f"APPLIANCE_HTTP_PORT={self.port}", f"APPLIANCE_HUB_PORT={free_port()}",
            f"APPLIANCE_HOLDING_PORT={free_port()}",
            "APPLIANCE_PROPAGATION=rprivate", "APPLIANCE_OOM_SCORE_ADJ=0"]) + "\n")
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


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    names = release.image_names(REPO)
    before = {name: release.image_id(f"appliance/{name}:latest") for name in names}
    root = tmp_path_factory.mktemp("box")
    for folder in (root, *root.parents[:-2]):
        folder.chmod(folder.stat().st_mode | 0o111)  # Traefik is another user
    box = Real(root)
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


def test_releases_take_turns_while_a_student_works(real: Real, tmp_path: Path) -> None:
    paths = real.paths
    first = release.stage(paths, tree(tmp_path / "one", "0.2.1"))
    assert Release.read(paths.release(first)) is not None
    assert release.stage(paths, tmp_path / "one") == first

    assert real.switch(first).old is None
    began = time.monotonic()
    assert not real.switch(first).changed
    assert time.monotonic() - began < 1

    real.hub("user", "add", "alice", "--password-stdin", stdin=PASSWORD + "\n")
    student = Student(f"http://127.0.0.1:{real.port}", "alice", PASSWORD)
    student.sign_in()
    student.post("/hub/change-password", old=PASSWORD, new=PASSWORD + "!", again=PASSWORD + "!")
    with AtWork(student) as work:
        second = release.stage(paths, release.pack(tree(tmp_path / "two", "0.2.2"), tmp_path)[0])
        assert second != first
        runs = Release.read(paths.release(first))
        assert runs is not None
        assert release.image_id("appliance/hub:latest") == runs.images["hub"]  # what is staged is not yet what runs
        work.check()
        outcome = real.switch(second)
        print(f"\nupgrade: {outcome}")
        assert (outcome.old, outcome.release, outcome.traefik_gap_s) == (first, second, 0.0)
        assert json.loads(student.get("/hub/health").text)["version"] == "0.2.2"
        work.check()

        # one that does not start
        broken = release.stage(paths, tree(tmp_path / "three", "0.2.3", broken=True))
        with pytest.raises(BoxError, match=f"{broken} could not be put in place, so {second} runs again") as failed:
            real.switch(broken)
        assert "broken on purpose" in failed.value.evidence
        assert json.loads(student.get("/hub/health").text)["version"] == "0.2.2"
        assert student.get("/hub/home").status_code == 200
        work.check()

        # a configuration that cannot be loaded goes no further than its trial
        extra = paths.config_d / "90-mine.py"
        extra.write_text("c.JupyterHub.port = 'eighty'\n")
        with pytest.raises(BoxError, match="port"):
            real.switch(second)
        extra.write_text("c.JupyterHub.default_url = '/hub/home'\n")
        assert real.switch(second).changed
        assert not real.switch(second).changed
        work.check()

        # back, with the account that came later
        real.hub("user", "add", "late", "--password-stdin", stdin=PASSWORD + "\n")
        back = real.switch(first)
        print(f"rollback: {back}")
        assert release.linked(paths.previous) == second
        assert "late" in real.hub("user", "list")
        assert student.get("/hub/home").status_code == 200
        assert json.loads(student.get("/hub/health").text)["version"] == "0.2.1"
        work.check()

        # killed in the middle: the next command puts it right
        process = subprocess.Popen(
            [sys.executable, "-c", "import sys; from pathlib import Path; from appliance.box import switch; "
             "from appliance.box.paths import Paths; switch.Switch(Paths(Path(sys.argv[1]))).to(sys.argv[2])",
             str(real.root), second], cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        note = paths.opt / "switch.json"
        while shell.read_json(note).get("step") not in ("stopping", "saved", "migrated", "started"):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait()
        with release.alone(paths):
            assert f"{first} runs again" in switch.Switch(paths).repair()
        assert not note.exists()
        found = compose.inspect(paths, "hub")
        assert found is not None
        assert found.running
        work.check()
        assert not work.failed
