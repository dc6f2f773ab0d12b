"""A bare Debian 13, the playbook on it, and a year of what an admin does, while a student works on.

The tests of this file stand on each other, in this order: one box, from nothing to nothing.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Iterator

import pytest
from at_work import AtWork
from box import wait_for
from fresh_box import CLONE, FreshBox
from played import VARIABLES, play_inside
from student import Student

pytestmark = pytest.mark.box

DATA = "/var/lib/appliance"
OWN_PASSWORD = "chosen by its owner 1"


@pytest.fixture(scope="module")
def box() -> Iterator[FreshBox]:
    with FreshBox("trixie") as box:
        box.clone()
        yield box


@pytest.fixture(scope="module")
def bare(box: FreshBox) -> frozenset[str]:
    """What there was before anything was installed."""
    return frozenset(everything_on(box))


@pytest.fixture(scope="module")
def alice(box: FreshBox) -> Iterator[AtWork]:
    with student_of(box, "alice", "correct horse alice staple") as first:
        first.sign_in()
        first.post("/hub/change-password", old=first.password, new=OWN_PASSWORD, again=OWN_PASSWORD)
    with AtWork(student_of(box, "alice")) as alice:
        yield alice


def student_of(box: FreshBox, name: str, password: str = OWN_PASSWORD) -> Student:
    return Student(f"https://{box.address}", name, password, authority=box.read(f"{DATA}/state/tls/ca.crt"))


def everything_on(box: FreshBox) -> list[str]:
    """What an install adds to: packages, units, files outside of logs and caches, rules, users."""
    return box.run(
        "dpkg-query -W -f 'package ${Package}\\n'; "
        "find /etc /opt /usr/local /srv -xdev ! -path '*/__pycache__*' ! -path '/opt/clone/*' ! -path '/etc/ssl/certs/*' "
        "-printf 'file %p\\n'; "
        "find /var/lib /var/log /run -xdev -maxdepth 2 -path '*appliance*' -printf 'file %p\\n'; "
        "nft list tables 2>/dev/null || true; cut -d: -f1 /etc/passwd | sed 's/^/user /'; "
        "findmnt -rnt btrfs -o TARGET | sed 's/^/mount /'; "
        "ip -br link | awk '{print \"link \" $1}' | grep -v eth0").splitlines()


# -- before ------------------------------------------------------------------------------------------------------------
REFUSED = {
    "an unknown variable": ({"storage_hoems": "loop"}, "", "storage_homes"),
    "a wrong type": ({"storage_quota": ["much"]}, "", "storage_quota"),
    "a value that is none of the allowed": ({"traefik_tls": "yes please"}, "", "selfsigned"),
    "a taken port": ({}, "python3 -m http.server 443", "443"),
    "a network of the school's": ({"appliance_subnet": "10.213.0.0/24"}, "", "10.213.0.0/24"),
    "a disk that is too small": ({"storage_homes_size": "900T"}, "", "900"),
    "a name that is not in the DNS": ({"traefik_tls": "letsencrypt", "appliance_name": "box.invalid",
                                       "traefik_acme_email": "admin@school.example"}, "", "box.invalid"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_a_sentence_before_anything_is_changed(box: FreshBox, bare: frozenset[str], case: str) -> None:
    variables, meanwhile, named = REFUSED[case]
    # what running Ansible itself needs, is there from the first refusal on
    play_inside(box, VARIABLES | {"storage_hoems": "loop"}, ok=False)
    before = everything_on(box)
    if meanwhile:
        box.start(f"echo $BASHPID >/tmp/meanwhile.pid; exec {meanwhile}", "/tmp/meanwhile.log")
        time.sleep(0.5)
    try:
        played = play_inside(box, VARIABLES | variables, ok=False)
    finally:
        if meanwhile:
            box.run("kill $(cat /tmp/meanwhile.pid)")
    assert played.failed == 1, played
    assert named in played.output
    assert "Traceback" not in played.output
    assert everything_on(box) == before


# -- installed ----------------------------------------------------------------------------------------------------------
def test_an_interrupted_run_is_completed_by_the_next(box: FreshBox) -> None:
    box.write("/root/box.json", json.dumps(VARIABLES), "0600")
    box.start(f"cd {CLONE} && exec ./bootstrap box -- -e @/root/box.json", "/var/log/interrupted.log")
    log = "/var/log/interrupted.log"
    wait_for("the playbook to build images", lambda: re.search("TASK .images|ended with", box.read(log)), 300)
    assert "ended with" not in box.read(log), box.read(log)[-4000:]
    time.sleep(5)
    box.run("pkill -9 -f '[a]nsible-playbook'; pkill -9 -f '[a]ppliance.box'; sleep 1; pkill -9 -f '[i]mages/build'; true")
    played = play_inside(box, VARIABLES)
    print(played)
    assert VARIABLES["appliance_admin_password"] not in played.output  # type: ignore[operator]
    report = json.loads(box.run("appliance doctor --json"))
    assert [check for check in report["checks"] if check["status"] == "fail"] == []


def test_a_second_run_changes_nothing_and_interrupts_nobody(box: FreshBox, alice: AtWork) -> None:
    played = play_inside(box, VARIABLES)
    print(f"The second run took {played.seconds:.0f} s.")
    assert played.changed == 0, played.changes
    alice.check()


def test_nobody_notices_a_changed_configuration(box: FreshBox, alice: AtWork) -> None:
    before = box.run("docker inspect --format '{{.State.StartedAt}}' appliance-hub")
    played = play_inside(box, VARIABLES | {"hub_student_memory": "900M"})
    assert played.changed > 0
    assert box.run("docker inspect --format '{{.State.StartedAt}}' appliance-hub") != before
    alice.check()


def test_nobody_notices_that_hub_and_engine_are_restarted(box: FreshBox, alice: AtWork) -> None:
    box.run("kill -9 $(docker inspect --format '{{.State.Pid}}' appliance-hub)")
    wait_for("the Hub to be back", lambda: "200" in health(box))
    alice.check()
    box.run("systemctl restart docker", timeout_s=120)
    wait_for("the Hub to be back", lambda: "200" in health(box))
    alice.check()


def health(box: FreshBox) -> str:
    url = f"https://{box.address}/hub/health"
    return box.run(f"python3 -c 'import ssl, urllib.request as u; print(u.urlopen(\"{url}\", timeout=5, "
                   "context=ssl._create_unverified_context()).status)' 2>&1 | tail -1", check=False)


def test_no_student_can_fill_what_the_hub_needs(box: FreshBox, alice: AtWork) -> None:
    said = alice.kernel.run("""
import subprocess
print(subprocess.run("for place in ~ /tmp /var/tmp /dev/shm / /etc /opt /run /var /var/log /mnt /srv; do "
                     "head -c 3G /dev/zero > $place/fill 2>/dev/null; "
                     "echo $place $(stat -c %s $place/fill 2>/dev/null || echo none); rm -f $place/fill; done",
                     shell=True, capture_output=True, text=True, timeout=100).stdout)
""", timeout_s=120)
    sizes = dict(line.split() for line in said.splitlines() if line.strip())
    print(sizes)
    assert all(size == "none" or int(size) < 1_000_000_000 for size in sizes.values()), sizes
    assert int(sizes["/home/alice"]) < 220_000_000
    alice.check()


# -- a new release ----------------------------------------------------------------------------------------------------
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


def newer(box: FreshBox, name: str, extra: str) -> str:
    """Make a release out of the clone, with another version and a migration; return its folder."""
    folder = f"/root/{name}"
    box.run(f"cp -a {CLONE} {folder} && rm -rf {folder}/.git && cd {folder} && "
            f"sed -i 's/^__version__ = .*/__version__ = \"9.0+{name}\"/' appliance/__init__.py && "
            f"sed -i 's/^version = .*/version = \"9.0+{name}\"/' pyproject.toml")
    head = re.search(r'HEAD = "(\w+)"', box.read(f"{folder}/appliance/store/database.py"))
    assert head
    box.write(f"{folder}/appliance/store/migrations/versions/9001_shoes.py", MIGRATION.format(head=head[1]))
    box.run(f"sed -i 's/^HEAD = .*/HEAD = \"9001\"/' {folder}/appliance/store/database.py")
    if extra:
        box.run(f"printf '%s\\n' {shlex.quote(extra)} >> {folder}/appliance/hub/reconciler.py")
    return folder


def columns(box: FreshBox) -> str:
    return box.run(f"python3 -c 'import sqlite3; print([row[1] for row in "
                   f"sqlite3.connect(\"{DATA}/jupyterhub.sqlite\").execute(\"pragma table_info(users)\")])'")


def test_a_release_that_does_not_start_is_rolled_back_by_itself(box: FreshBox, alice: AtWork) -> None:
    current = box.run("readlink /opt/appliance/current")
    # only a Hub that really runs comes this far: the trial does not
    folder = newer(box, "broken", "Reconciler.run = None  # type: ignore")
    said = box.run(f"appliance upgrade {folder}; echo status $?", timeout_s=900)
    print(said)
    assert "status 1" in said
    assert "9.0_broken" in said
    assert box.run("readlink /opt/appliance/current") == current
    assert "shoe_size" not in columns(box)
    alice.check()
    assert "200" in health(box)


def test_an_upgrade_and_a_rollback_lose_no_session_and_no_request(box: FreshBox, alice: AtWork) -> None:
    old = box.run("readlink /opt/appliance/current")
    folder = newer(box, "shoes", "")
    print(box.run(f"appliance upgrade {folder}", timeout_s=900))
    assert "shoe_size" in columns(box)
    assert "9.0+shoes" in box.run("docker exec appliance-hub appliance --version")
    alice.check()
    with student_of(box, "alice") as again:  # an account made now must outlive the rollback
        again.sign_in()
    box.run("appliance user add carol --password-stdin", stdin="correct horse carol staple\n")
    print(box.run("appliance rollback --yes", timeout_s=300))
    assert box.run("readlink /opt/appliance/current") == old
    assert "shoe_size" not in columns(box)
    assert "carol" in box.run("appliance user list")
    alice.check()
    assert alice.student.get("/hub/home").status_code == 200


# -- bad days ---------------------------------------------------------------------------------------------------------
def test_after_a_reboot_everything_is_back(box: FreshBox, alice: AtWork) -> None:
    alice.kernel.run("open('kept.txt', 'w').write('before the reboot')")
    took = box.reboot()
    began = time.monotonic()
    wait_for("the Hub", lambda: "200" in health(box), 120)
    hub = time.monotonic() - began
    with student_of(box, "alice") as again:
        again.sign_in()
        # until the Hub has looked around, the server's own address says that it waits
        wait_for("alice's server", lambda: again.state()[0] == "ready" and entered(again), 120)
        server = time.monotonic() - began
        assert again.read("kept.txt") == "before the reboot"
    print(f"Reboot {took:.1f} s; then the Hub after {hub:.1f} s, alice's server after {server:.1f} s.")
    report = json.loads(box.run("appliance doctor --json"))
    assert [check for check in report["checks"] if check["status"] == "fail"] == []


# What Debian's packages leave when they are removed, and what Ansible and ./bootstrap need to run at all.
LEFT_BY_OTHERS = ("file /etc/cni", "file /etc/docker", "link docker0", "user prometheus", "package python",
                  "package distro-info-data")


def entered(student: Student) -> bool:
    student.get(f"/hub/enter?next={student.prefix}", follow=False)
    return student.api("GET", "status").status_code == 200


def test_uninstall_leaves_nothing_but_what_it_says(box: FreshBox, bare: frozenset[str]) -> None:
    box.run("appliance backup", timeout_s=300)
    said = box.run("appliance uninstall --yes --packages", timeout_s=600)
    print(said)
    left = {line for line in everything_on(box) if line not in bare and not line.startswith(LEFT_BY_OTHERS)}
    assert box.run(f"cat {DATA}/homes/u*/home/kept.txt 2>/dev/null || true") == "" or "homes" in said
    # what opens homes and backups again, named to whoever reads what the command says
    unexpected = {line for line in left if not any(line.startswith(f"file {place}") for place in (DATA, "/etc/appliance"))}
    assert not unexpected, f"{sorted(unexpected)}\n{said}"
    assert DATA in said

    print(box.run("appliance uninstall --yes --purge-homes --yes-delete-all-homes 2>&1 || "
                  f"python3 -I -c 'import sys; sys.path.insert(0, \"{CLONE}\"); from appliance.box.__main__ import main; "
                  "sys.exit(main())' uninstall --yes --purge-homes --yes-delete-all-homes", timeout_s=300))
    left = {line for line in everything_on(box) if line not in bare and not line.startswith(LEFT_BY_OTHERS)}
    assert not left, sorted(left)
