"""A box whose accounts are in PostgreSQL: made, upgraded, taken back, restored, and cut off from power in the middle of it.

The tests of this file stand on each other, in this order. Images come from this machine's engine.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from at_work import AtWork
from box import wait_for
from fresh_box import REPOSITORY, FreshBox
from played import VARIABLES, Played, play_over_ssh
from student import Student

from appliance.box import release
from appliance.box.paths import Paths

pytestmark = pytest.mark.long

DATA = "/var/lib/appliance"
OWN_PASSWORD = "chosen by its owner 1"
ASK = ("docker exec -e PGPASSWORD=$(cat /etc/appliance/secrets/postgres_password) -u 65531 appliance-postgres "
       f"psql -h {DATA}/postgres/socket -U appliance -qtA -c")
MIGRATION = '''
"""A column more."""
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "9001", "{head}", None, None

def upgrade() -> None:
    with op.batch_alter_table("users") as table:
        table.add_column(sa.Column("shoe_size", sa.Integer(), nullable=True))

def downgrade() -> None:
    with op.batch_alter_table("users") as table:
        table.drop_column("shoe_size")
'''
# The release's tree on top of the Hub's image that is there: seconds, where a build takes minutes.
DERIVE = """
FROM appliance/hub:{old}
COPY source/appliance /new
RUN place=$(echo /opt/hub/lib/python3*/site-packages/appliance) && rm -rf $place && mv /new $place
"""
# Holds what works at a journal's step, so that the power goes at that very moment.
FREEZE = """
import json, os, re, signal, sys, time
journal, wanted = sys.argv[1:]
end = time.monotonic() + 240
while time.monotonic() < end:
    try:
        with open(f"/opt/appliance/{journal}") as file:
            step = json.load(file)["step"]
    except (OSError, ValueError):
        continue
    if step == wanted:
        with open("/opt/appliance/lock") as file:
            os.kill(int(re.search(r"process (\\d+)", file.read())[1]), signal.SIGSTOP)
        sys.exit(0)
sys.exit(f"{journal} never said {wanted}")
"""


@dataclass
class Place:
    box: FreshBox
    tree: Path
    folder: Path
    variables: dict[str, object] = field(default_factory=dict)

    def play(self, *, ok: bool = True, **changes: object) -> Played:
        return play_over_ssh(self.box, self.variables | changes, self.folder, ok=ok, tree=self.tree)

    def ask(self, statement: str) -> str:
        return self.box.run(f"{ASK} \"{statement}\" appliance").strip()

    def columns(self) -> list[str]:
        return self.ask("SELECT column_name FROM information_schema.columns WHERE table_name = 'users'").splitlines()

    @property
    def current(self) -> str:
        return self.box.run("basename $(readlink /opt/appliance/current)").strip()

    def student(self, name: str = "alice", password: str = OWN_PASSWORD) -> Student:
        return Student(f"https://{self.box.address}", name, password, authority=self.box.read(f"{DATA}/state/tls/ca.crt"))

    def newer(self, name: str, extra: str = "") -> str:
        """Bring a release with another version and a migration; return its file on the box, which has its images."""
        tree = self.folder / name
        shutil.copytree(self.tree, tree, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        edit(tree / "appliance/__init__.py", r"^__version__ = .*", f'__version__ = "9.0+{name}"')
        edit(tree / "pyproject.toml", r"^version = .*", f'version = "9.0+{name}"')
        database = tree / "appliance/store/database.py"
        head = re.search(r'HEAD = "(\w+)"', database.read_text())
        assert head
        edit(database, r"^HEAD = .*", 'HEAD = "9001"')
        (tree / "appliance/store/migrations/versions/9001_shoes.py").write_text(MIGRATION.format(head=head[1]))
        if extra:
            with (tree / "appliance/hub/reconciler.py").open("a") as file:
                file.write(extra + "\n")
        file, release_id = release.pack(tree, self.folder / f"{name}.tar.gz")
        at = f"/root/{name}"
        self.box.run(f"mkdir {at}")
        self.box.copy_in(file, f"{at}/release.tar.gz")
        self.box.write(f"{at}/Dockerfile", DERIVE.format(old=self.current))
        self.box.run(f"cd {at} && tar -xzf release.tar.gz && "
                     f"DOCKER_BUILDKIT=0 docker build -q -t appliance/hub:{release_id} . && "
                     f"for other in $(docker images --format '{{{{.Repository}}}}:{{{{.Tag}}}}' | grep ':{self.current}$' | "
                     f"grep -v /hub:); do docker tag $other ${{other%:*}}:{release_id}; done", timeout_s=300)
        return f"{at}/release.tar.gz"


def edit(file: Path, pattern: str, text: str) -> None:
    file.write_text(re.sub(pattern, text, file.read_text(), flags=re.MULTILINE))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("postgres")
    tree = folder / "tree"
    names = subprocess.run(["git", "-c", "safe.directory=*", "-C", REPOSITORY, "ls-files", "-z", "--cached", "--others",
                            "--exclude-standard"], check=True, stdout=subprocess.PIPE, text=True).stdout.split("\0")
    for name in names:
        if name and (REPOSITORY / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, tree / name, follow_symlinks=False)
    images = release.wanted_images(Paths(folder / "no-box"), tree, ["postgres"])
    subprocess.run([tree / "images/build", *images], check=True, timeout=1500)
    _, release_id = release.pack(tree, folder / "release.tar.gz")
    tags = [f"appliance/{name}:{release_id}" for name in images]
    try:
        for tag in tags:
            subprocess.run(["docker", "tag", f"{tag.partition(':')[0]}:latest", tag], check=True)
        subprocess.run(["docker", "save", "--output", folder / "images.tar", *tags], check=True, timeout=600)
    finally:
        subprocess.run(["docker", "rmi", "--no-prune", *tags], check=False, stdout=subprocess.DEVNULL)
    with FreshBox("trixie") as box:
        yield Place(box, tree, folder, VARIABLES | {
            "hub_database": "postgres", "images_source": "load", "images_archive": str(folder / "images.tar")})


def health(box: FreshBox) -> str:
    return box.run("docker inspect --format '{{.State.Health.Status}}' appliance-hub", check=False).strip()


def ensure_well(place: Place) -> None:
    """The doctor finds nothing, and alice's accounts and files are hers."""
    report = json.loads(place.box.run("appliance doctor --json", check=False))
    assert [check for check in report["checks"] if check["status"] == "fail"] == []


# ---------------------------------------------------------------------------------------------------------------- made --
def test_the_playbook_makes_it_and_a_second_run_changes_nothing(place: Place) -> None:
    played = place.play()
    print(f"The first run took {played.seconds:.0f} s.")
    assert "Sign in, start a server, run a cell" in played.output
    made = json.loads(place.box.read("/opt/appliance/current/release.json"))
    assert "postgres" in made["images"]
    assert "hello" not in made["images"]
    secret = place.box.run("stat -c '%a %Y' /etc/appliance/secrets/postgres_password")
    assert secret.startswith("600 ")
    assert int(place.ask("SELECT count(*) FROM users")) >= 3
    assert not place.box.exists(f"{DATA}/jupyterhub.sqlite")
    ensure_well(place)
    again = place.play()
    print(f"The second run took {again.seconds:.0f} s.")
    assert again.changed == 0, again.changes
    assert place.box.run("stat -c '%a %Y' /etc/appliance/secrets/postgres_password") == secret


def test_another_kind_of_database_is_refused(place: Place) -> None:
    before = place.box.run("docker ps --no-trunc --format '{{.ID}}'; sha256sum /etc/appliance/appliance.env")
    played = place.play(ok=False, hub_database="sqlite")
    assert played.failed == 1
    assert "keeps its accounts in PostgreSQL, and is to use SQLite" in played.output
    assert place.box.run("docker ps --no-trunc --format '{{.ID}}'; sha256sum /etc/appliance/appliance.env") == before
    # nor by hand
    place.box.run("cp /etc/appliance/appliance.env /root/; sed -i /COMPOSE_PROFILES/d /etc/appliance/appliance.env")
    said = place.box.run("appliance switch; echo status $?", timeout_s=120)
    place.box.run("mv /root/appliance.env /etc/appliance/")
    assert "names another database than before" in said
    assert "status 1" in said
    assert "nothing was changed" in place.box.run("appliance switch")


# ------------------------------------------------------------------------------------------------------------ releases --
@pytest.fixture(scope="module")
def shoes(place: Place) -> str:
    return place.newer("shoes")


def test_releases_take_turns_while_alice_works(place: Place, shoes: str) -> None:
    old = place.current
    with place.student(password="correct horse alice staple") as first:
        first.sign_in()
        first.post("/hub/change-password", old=first.password, new=OWN_PASSWORD, again=OWN_PASSWORD)
    # only a Hub that really runs comes this far: the trial does not
    broken = place.newer("broken", "Reconciler.run = None  # type: ignore")
    with AtWork(place.student()) as alice:
        alice.kernel.run("open('kept.txt', 'w').write('hers')")
        said = place.box.run(f"appliance upgrade {broken}; echo status $?", timeout_s=600)
        assert "status 1" in said
        assert "runs again with everything as it was" in said
        assert place.current == old
        assert "shoe_size" not in place.columns()
        alice.check()

        print(place.box.run(f"appliance upgrade --smoke {shoes}", timeout_s=600))
        assert "shoes" in place.current
        assert "shoe_size" in place.columns()
        alice.check()
        place.box.run("appliance user add carol --password-stdin", stdin="correct horse carol staple\n")

        print(place.box.run("appliance rollback --yes", timeout_s=300))
        assert place.current == old
        assert "shoe_size" not in place.columns()
        assert "carol" in place.box.run("appliance user list")
        alice.check()
        assert alice.student.get("/hub/home").status_code == 200
    ensure_well(place)


def test_a_backup_brings_accounts_and_homes_back(place: Place) -> None:
    print(place.box.run("appliance backup", timeout_s=300))
    assert "PostgreSQL takes it" in place.box.run("appliance backup --verify", timeout_s=120)
    place.box.run("appliance user add dave --password-stdin", stdin="correct horse dave staple\n")
    home = place.box.run(f"ls -d {DATA}/homes/u*/home/kept.txt").strip()
    place.box.run(f"rm {home}")
    print(place.box.run("appliance restore --yes", timeout_s=300))
    assert "dave" not in place.box.run("appliance user list")
    assert place.box.read(home) == "hers"
    with place.student() as alice:
        alice.sign_in()


# --------------------------------------------------------------------------------------------------------- power cuts --
def cut(place: Place, command: str, journal: str, step: str) -> float:
    """Pull the plug when a journal says a step; return the seconds from the power's return until all is put right."""
    place.box.write("/root/freeze.py", FREEZE)
    place.box.start(command, "/var/log/cut.log")
    said = place.box.run(f"python3 /root/freeze.py {journal} {step}", timeout_s=300, check=False)
    assert not said, f"{said}\n{place.box.read('/var/log/cut.log')}"
    place.box.power_off_hard()
    began = time.monotonic()
    place.box.power_on()
    wait_for("the unit to end", lambda: place.box.run(
        "systemctl show -P ActiveState appliance-switch.service").strip() in ("inactive", "failed"), 180)
    print(f"cut at {step}: " + place.box.run("journalctl -b -u appliance-switch.service -o cat --no-pager | tail -8"))
    assert place.box.run("systemctl show -P Result appliance-switch.service").strip() == "success"
    assert place.box.run("ls /opt/appliance/*.json").split() == ["/opt/appliance/applied.json"]
    wait_for("the Hub", lambda: health(place.box) == "healthy", 120)
    return time.monotonic() - began


@pytest.mark.parametrize("step", ["tried", "stopping", "saved", "started", "well", "checked"])
def test_a_power_cut_in_an_upgrade_leaves_the_old_or_the_new(place: Place, shoes: str, step: str) -> None:
    old = place.current
    text = f"written before the cut at {step}"
    with place.student() as alice:
        alice.sign_in()
        alice.to_server(120)
        alice.run_cell(f"import os; f = open('kept.txt', 'w'); f.write({text!r}); f.flush(); os.fsync(f.fileno())")
    took = cut(place, f"appliance upgrade {shoes}", "switch.json", step)
    is_new = step == "checked"
    assert (place.current != old, "shoe_size" in place.columns()) == (is_new, is_new)
    version = place.box.run("docker exec appliance-hub appliance --version")
    assert ("9.0+shoes" in version) == is_new
    with place.student() as alice:
        alice.sign_in()
        alice.to_server(120)
        assert alice.read("kept.txt") == text
    ensure_well(place)
    print(f"All was well {took:.1f} s after the power came back.")
    if is_new:
        place.box.run("appliance rollback --yes", timeout_s=300)


def test_a_power_cut_in_a_restore_is_ended_with_the_restore(place: Place) -> None:
    place.box.run("appliance user add erin --password-stdin", stdin="correct horse erin staple\n")
    print(f"{cut(place, 'appliance restore --yes', 'restore.json', 'fetched'):.1f} s")
    assert "erin" not in place.box.run("appliance user list")
    with place.student() as alice:
        alice.sign_in()
        alice.to_server(120)
        assert alice.read("kept.txt") == "hers"
    ensure_well(place)


# ---------------------------------------------------------------------------------------------------------------- gone --
def test_support_gets_no_names_and_no_password_of_the_database(place: Place, tmp_path: Path) -> None:
    password = place.box.read("/etc/appliance/secrets/postgres_password").strip()
    place.box.run("docker stop appliance-hub; appliance support-bundle -o /root/bundle.tar.gz; docker start appliance-hub",
                  timeout_s=300)
    place.box.copy_out("/root/bundle.tar.gz", tmp_path / "bundle.tar.gz")
    with tarfile.open(tmp_path / "bundle.tar.gz") as tar:
        texts = {entry.name: file.read().decode(errors="replace") for entry in tar if (file := tar.extractfile(entry))}
    assert any(name.endswith("logs/postgres.txt") for name in texts)
    for name, text in texts.items():
        assert password not in text, name
        assert "Ångström" not in text, name
        assert "carol" not in text, name


def test_uninstall_takes_postgresql_off(place: Place) -> None:
    place.box.run("appliance uninstall --yes", timeout_s=300)
    assert not place.box.exists(f"{DATA}/postgres")
    assert not place.box.exists("/etc/systemd/system/appliance-switch.service")
    assert place.box.run("docker ps -aq; docker images -q") == ""
