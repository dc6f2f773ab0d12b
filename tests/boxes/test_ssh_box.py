"""A machine of the school's that runs Docker for something else already, made a box over SSH with images from an archive.

The tests of this file stand on each other, in this order. Meanwhile alice works, as far as her origin stays the same.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import ssl
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from at_work import AtWork
from box import wait_for
from fresh_box import REPOSITORY, FreshBox
from played import VARIABLES, Played, play_over_ssh
from student import Kernel, Student

from appliance.box import release
from appliance.box.paths import Paths
from appliance.proxies.certificates import Pair, ensure_leaf

pytestmark = pytest.mark.box

SUITES = os.environ.get("APPLIANCE_TEST_SUITES", "bookworm").split()
# as somebody wrote it by hand
DAEMON_JSON = '{"log-driver":   "local",\n "default-address-pools": [{"base": "10.230.0.0/16", "size": 24}]}\n'
NAME = "box.school.example"
DATA = "/var/lib/appliance"
OWN_PASSWORD = "chosen by its owner 1"
CSV = "name,display_name,group,password\nalice,Alice Ångström,biology,\ncarol,Carol,physics,three words for carol\n{more}"


@dataclass(frozen=True)
class Release:
    """The program as it is now, so that nobody's edit meanwhile makes another one of it, and its images in one file."""

    tree: Path
    archive: Path


@dataclass
class Place:
    box: FreshBox
    release: Release
    folder: Path            # of the machine that Ansible runs on
    variables: dict[str, object] = field(default_factory=dict)

    def play(self, *words: str, ok: bool = True, **changes: Any) -> Played:
        played = play_over_ssh(self.box, self.variables | changes, self.folder, *words, ok=ok, tree=self.release.tree)
        print(f"{self.box.suite}: {' '.join([*words, *changes])}: {played.seconds:.0f} s, changed={played.changed}")
        return played

    @property
    def sheet(self) -> Path:
        return self.folder / "passwords.html"

    @property
    def listed(self) -> dict[str, Any]:
        """Accounts as a list in a file."""
        return {"appliance_users": [], "appliance_users_file": str(self.folder / "class.csv")}

    def address(self, scheme: str = "https") -> str:
        return f"{scheme}://{self.box.address}"

    def authority(self) -> str:
        return self.box.read(f"{DATA}/state/tls/ca.crt")

    def hub_started(self) -> str:
        return self.box.run("docker inspect --format '{{.State.StartedAt}}' appliance-hub")

    def traefik_started(self) -> str:
        return self.box.run("docker inspect --format '{{.Id}} {{.State.StartedAt}}' appliance-traefik")

    def servers(self) -> str:
        """Every student's container, and since when it runs."""
        return self.box.run("docker ps --all --quiet --filter label=org.appliance.namespace | "
                            "xargs --no-run-if-empty docker inspect --format '{{.Id}} {{.State.StartedAt}} {{.State.Status}}'")

    def school(self) -> str:
        """What is not ours."""
        return self.box.run("docker inspect --format '{{.State.StartedAt}} {{.State.Status}} {{.RestartCount}}' school; "
                            "docker network inspect --format '{{.Id}} {{.IPAM}}' school; sha256sum /etc/docker/daemon.json; "
                            "stat --format %y /etc/docker/daemon.json; systemctl show docker -p ActiveEnterTimestamp")

    def everything(self) -> str:
        """Whatever a run could have changed: files with their times, packages, units, containers, rules."""
        return self.box.run(
            "find /etc /opt /usr/local /usr/share/appliance /var/cache/appliance -xdev "
            "! -path '*/__pycache__*' ! -path /etc/ssh ! -path '/etc/ssh/*' -printf '%p %T@ %m %s\\n' 2>/dev/null | sort; "
            f"find {DATA} -xdev -maxdepth 1 ! -name '*sqlite*' ! -path {DATA} -printf '%p %m\\n' 2>/dev/null; "
            "dpkg-query -W -f '${Package} ${db:Status-Status}\\n'; systemctl list-unit-files --no-legend; "
            "docker ps --all --no-trunc --format '{{.ID}} {{.Names}}'; docker images --quiet --no-trunc; "
            "nft list tables 2>/dev/null; findmnt -rno TARGET,SOURCE -t btrfs; ls /run/appliance 2>/dev/null || true")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    folder = tmp_path_factory.mktemp("release")
    tree = folder / "tree"
    for name in subprocess.run(["git", "-c", "safe.directory=*", "-C", REPOSITORY, "ls-files", "-z", "--cached", "--others",
                                "--exclude-standard"], check=True, stdout=subprocess.PIPE, text=True).stdout.split("\0"):
        if name and (REPOSITORY / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, tree / name, follow_symlinks=False)
    names = release.wanted_images(Paths(folder / "no-box"), tree)
    subprocess.run([tree / "images/build", *names], check=True, timeout=1200)
    _, release_id = release.pack(tree, folder / "release.tar.gz")
    tags = [f"appliance/{name}:{release_id}" for name in names]
    for tag in tags:
        subprocess.run(["docker", "tag", f"{tag.partition(':')[0]}:latest", tag], check=True)
    try:
        subprocess.run(["docker", "save", "--output", folder / "images.tar", *tags], check=True, timeout=600)
        yield Release(tree, folder / "images.tar")
    finally:
        subprocess.run(["docker", "rmi", "--no-prune", *tags], check=False, stdout=subprocess.DEVNULL)
        shutil.rmtree(folder)


@pytest.fixture(scope="module", params=SUITES)
def place(request: pytest.FixtureRequest, packed: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with FreshBox(request.param) as box:
        box.run("apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends docker.io ufw",
                timeout_s=300)
        box.write("/etc/docker/daemon.json", DAEMON_JSON)
        box.run("systemctl restart docker")
        box.load_images(["appliance/hello:latest"])
        # an image that has nothing of ours but a web server
        box.run("made=$(docker create appliance/hello:latest) && docker export $made | docker import --change "
                "'CMD [\"/busybox\", \"httpd\", \"-f\", \"-p\", \"8080\", \"-h\", \"/www\"]' - school/site:1 && "
                "docker rm $made && docker rmi appliance/hello:latest && docker network create school && "
                "docker run --detach --restart always --name school --network school school/site:1")
        place = Place(box, packed, tmp_path_factory.mktemp("controller"))
        place.variables = {**VARIABLES, "images_source": "load", "images_archive": str(packed.archive),
                                       "hub_password_sheet": str(place.sheet)}
        yield place


@pytest.fixture(scope="module")
def school(place: Place) -> str:
    return place.school()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, place: Place) -> Pair:
    """A certificate of the school's, for traefik_tls files."""
    return ensure_leaf(tmp_path_factory.mktemp("own"), (place.box.address,))[0]


@pytest.fixture(scope="module")
def alice(place: Place, own: Pair) -> Iterator[AtWork]:
    def student(password: str) -> Student:
        return student_of(place, "alice", password, also=own.certificate.with_name("ca.crt").read_text())

    with student("correct horse alice staple") as first:
        first.sign_in()
        first.post("/hub/change-password", old=first.password, new=OWN_PASSWORD, again=OWN_PASSWORD)
    with AtWork(student(OWN_PASSWORD)) as alice:
        yield alice


def student_of(place: Place, name: str, password: str, scheme: str = "https", also: str = "") -> Student:
    return Student(place.address(scheme), name, password, authority=f"{place.authority()}\n{also}" if scheme == "https" else "")


class Door:
    """Knocks at a port of the box until closed; `longest_s` is how long it opened to nobody."""

    def __init__(self, address: str, port: int) -> None:
        self.longest_s, self._door, self._over = 0.0, (address, port), threading.Event()
        self._thread = threading.Thread(target=self._knock, daemon=True)

    def __enter__(self) -> Door:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _knock(self) -> None:
        opened_at = time.monotonic()
        while not self._over.wait(0.02):
            try:
                socket.create_connection(self._door, timeout=2).close()
            except OSError:
                continue
            finally:
                self.longest_s = max(self.longest_s, time.monotonic() - opened_at)
            opened_at = time.monotonic()


# -- the first runs ----------------------------------------------------------------------------------------------------
def test_a_check_of_a_box_without_anything_runs_through_and_changes_nothing(place: Place, school: str) -> None:
    before = place.everything()
    played = place.play("--check", "--diff")
    assert played.changed > 0
    assert "all accounts of the list would be made" in played.output
    assert place.everything() == before
    assert place.school() == school


def test_the_playbook_makes_a_box_and_leaves_what_was_there(place: Place, school: str) -> None:
    played = place.play()
    assert "6 * 7 is 42, over the websocket" in played.output
    assert "The quota of 200 MB refused" in played.output
    assert place.school() == school
    said = " ".join(played.output.split())
    assert "1 other container (school). They are left alone, and Docker is not restarted" in said
    assert re.search(r"daemon\.json is somebody else's and is not changed\. It lacks .*live-restore", said)


def test_new_passwords_are_on_a_sheet_on_the_machine_that_ansible_runs_on(place: Place) -> None:
    sheet = place.sheet.read_text()
    assert stat.S_IMODE(place.sheet.stat().st_mode) == 0o600
    assert "correct horse alice staple" in sheet     # a card for everybody who is new
    assert place.box.run(f"ls {DATA}/new-passwords* 2>/dev/null || true") == ""
    with student_of(place, "bob", password_on(sheet, "bob")) as bob:
        bob.sign_in()


def password_on(sheet: str, name: str) -> str:
    found = re.search(rf">{name}<.*?Password.*?<(?:dd|td|code)[^>]*>([^<]+)<", sheet, re.DOTALL)
    assert found, sheet
    return found[1].strip()


def test_a_second_run_changes_nothing_and_makes_no_sheet(place: Place, school: str, alice: AtWork) -> None:
    written = place.sheet.stat().st_mtime_ns
    played = place.play()
    assert played.changed == 0, played.changes
    assert place.sheet.stat().st_mtime_ns == written
    assert place.school() == school
    alice.check()


def test_a_check_shows_who_would_come_and_changes_nothing(place: Place, alice: AtWork) -> None:
    before = place.everything()
    more = [*VARIABLES["appliance_users"], {"name": "zoe", "display_name": "Zoë"}]
    played = place.play("--check", "--diff", appliance_users=more, hub_student_memory="900M")
    assert played.changed > 0
    assert re.search(r'"added": \[\s*"zoe"\s*\]', played.output)
    assert place.everything() == before
    assert "zoe" not in place.box.run("appliance user list")
    alice.check()


# -- what an admin gets wrong ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("text", "named"), [
    ("c.JupyterHub.active_server_limit = = 40", "line"),
    ("c.JupyterHub.active_server_limit = 'many'", "active_server_limit"),
    ("c.JupyterHub.spawner_class = 'no.such.Spawner'", "no.such.Spawner"),
])
def test_a_configuration_that_the_hub_cannot_load_changes_nothing(place: Place, alice: AtWork, text: str, named: str) -> None:
    before = place.everything(), place.hub_started()
    played = place.play("--tags", "hub", ok=False, hub_config=text)
    assert played.failed == 1
    said = re.search(r"The Hub cannot load this configuration, so the one it has stays: (.*)", played.output)
    assert said, played
    assert named in said[1]
    assert "Traceback" not in said[1]
    assert (place.everything(), place.hub_started()) == before
    alice.check()


def test_two_lists_that_would_archive_each_others_are_refused(place: Place) -> None:
    (place.folder / "class.csv").write_text(CSV.format(more=""))
    both = {**place.listed, "appliance_users": VARIABLES["appliance_users"]}
    played = place.play("--tags", "hub", ok=False, appliance_archive_missing_users=True, **both)
    assert played.failed == 1
    assert "each list would archive the other's" in " ".join(played.output.split())
    assert "TASK [preflight" not in played.output


# -- encryption ---------------------------------------------------------------------------------------------------------
def test_the_schools_own_certificate_and_a_list_as_csv_interrupt_nobody(place: Place, alice: AtWork, own: Pair) -> None:
    """And back: no Traefik ends, no request fails, and who is not on the list stays until told otherwise."""
    (place.folder / "class.csv").write_text(CSV.format(more="dave,Dave,physics,\n"))
    sheet = place.folder / "class.html"
    before, servers = place.traefik_started(), place.servers()
    with Door(place.box.address, 443) as door:
        played = place.play("--tags", "hub", traefik_tls="files", traefik_tls_certificate=str(own.certificate),
                            traefik_tls_key=str(own.key), hub_password_sheet=str(sheet), **place.listed)
    assert played.changed > 0
    assert shown_to(place.box.address, own.certificate.with_name("ca.crt").read_text()) == own.certificate.read_text()[:400]
    print(f"{place.box.suite}: selfsigned → files, no connection taken for at most {door.longest_s:.2f} s")
    assert (place.traefik_started(), place.servers()) == (before, servers)
    alice.check()
    assert stat.S_IMODE(sheet.stat().st_mode) == 0o600
    assert all(name in sheet.read_text() for name in ("Carol", "Dave"))
    assert "Alice" not in sheet.read_text()     # has one of her own, which nobody knows
    people = place.box.run("appliance user list")
    assert all(name in people for name in ("alice", "bob", "carol", "dave"))


def shown_to(address: str, authority: str) -> str:
    """Return the beginning of the certificate that the box shows to whoever trusts an authority."""
    context = ssl.create_default_context(cadata=authority)
    with socket.create_connection((address, 443), timeout=10) as plain, \
            context.wrap_socket(plain, server_hostname=address) as tls:
        der = tls.getpeercert(binary_form=True)
    assert der
    return ssl.DER_cert_to_PEM_cert(der)[:400]


def test_without_encryption_servers_go_on_and_people_sign_in_again(place: Place, alice: AtWork) -> None:
    """And back. Traefik is restarted: these seconds are what it takes from everybody. Who is missing goes when told."""
    alice.check()
    servers = place.servers()
    count = alice.check()
    for tls in ("off", "selfsigned"):
        before = place.traefik_started()
        with Door(place.box.address, 80) as door:
            place.play("--tags", "hub,smoke", traefik_tls=tls, appliance_archive_missing_users=tls == "off", **place.listed)
        print(f"{place.box.suite}: → {tls}, no connection taken for at most {door.longest_s:.2f} s")
        assert place.traefik_started() != before
        assert door.longest_s < 10
        assert place.servers() == servers
        with student_of(place, "alice", OWN_PASSWORD, "http" if tls == "off" else "https") as again:
            again.sign_in()
            again.to_server()
            with Kernel(again, alice.kernel.id) as kernel:
                now = int(kernel.run("print(count)"))
        assert now > count
        count = now
    accounts = place.box.run("appliance user list")
    assert re.search(r"^bob\b.*archived", accounts, re.MULTILINE) or not re.search(r"^bob\b", accounts, re.MULTILINE)
    assert re.search(r"^admin\b", accounts, re.MULTILINE)


# -- bad days -----------------------------------------------------------------------------------------------------------
def test_after_a_reboot_both_are_back_and_a_run_changes_nothing(place: Place) -> None:
    took = place.box.reboot()
    began = time.monotonic()
    wait_for("the Hub to answer", lambda: hub_answers(place), 120)
    hub = time.monotonic() - began
    print(f"{place.box.suite}: reboot {took:.1f} s, the Hub {hub:.1f} s later")
    assert " running " in place.school()
    with student_of(place, "alice", OWN_PASSWORD) as alice:
        alice.sign_in()
        alice.wait_ready(120)
    played = place.play(**place.listed)
    assert played.changed == 0, played.changes


def hub_answers(place: Place) -> bool:
    return place.box.run("python3 -c \"import urllib.request as u; print(u.urlopen('http://127.0.0.1:8081/hub/health', "
                         "timeout=5).status)\" 2>/dev/null || true").strip() == "200"


@contextmanager
def lets_encrypt(place: Place) -> Iterator[tuple[str, Path]]:
    """Let's Encrypt's own test server, on this machine; the name of the box leads to the box."""
    missing = [program for program in ("pebble", "pebble-challtestsrv") if shutil.which(program) is None]
    if missing:
        pytest.fail(f"{' and '.join(missing)} of Debian's package pebble are missing: ./bootstrap test engine installs it.")
    here = place.box.run("ip -j route show default | grep -o '\"gateway\":\"[0-9.]*' | cut -d'\"' -f4").strip()
    folder = place.folder / "pebble"
    pair, _ = ensure_leaf(folder / "tls", (here,))
    port, management, dns, names = (free_port() for _ in range(4))
    (folder / "pebble.json").write_text(json.dumps({"pebble": {
        "listenAddress": f"{here}:{port}", "managementListenAddress": f"127.0.0.1:{management}", "httpPort": 80, "tlsPort": 1,
        "certificate": str(pair.certificate), "privateKey": str(pair.key), "ocspResponderURL": "",
        "externalAccountBindingRequired": False, "certificateValidityPeriod": 90 * 24 * 3600}}))
    commands = (
        ("pebble-challtestsrv", "-dns01", f"127.0.0.1:{dns}", "-http01", "", "-https01", "", "-tlsalpn01", "",
         "-management", f"127.0.0.1:{names}", "-defaultIPv6", "", "-defaultIPv4", place.box.address),
        ("pebble", "-config", str(folder / "pebble.json"), "-dnsserver", f"127.0.0.1:{dns}"))
    with ExitStack() as stack, open(folder / "log", "wb") as log:
        for command in commands:
            process = stack.enter_context(subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}))
            stack.callback(process.kill)
        wait_for("the authority to listen", lambda: is_open(here, port), 30)
        try:
            yield f"https://{here}:{port}/dir", folder / "tls/ca.crt"
        finally:
            print("The authority said:\n", (folder / "log").read_text(errors="replace")[-6000:])
            print("The Hub said:\n", place.box.run("docker logs --tail 60 appliance-hub 2>&1"))


def is_open(address: str, port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((address, port)) == 0


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("", 0))
        return int(server.getsockname()[1])


def test_the_boxs_name_gets_a_certificate_of_an_authority_that_speaks_acme(place: Place) -> None:
    variables: dict[str, Any] = {"traefik_tls": "letsencrypt", "appliance_name": NAME,
                                 "traefik_acme_email": "it@school.example", **place.listed}
    refused = place.play("--tags", "hub", ok=False, **variables)
    assert refused.failed == 1
    assert f"The name {NAME} leads nowhere" in " ".join(refused.output.split())
    place.box.run(f"echo {place.box.address} {NAME} >> /etc/hosts")
    before = place.traefik_started()
    with lets_encrypt(place) as (server, authority):
        played = place.play("--tags", "hub", traefik_acme_server=server, traefik_acme_ca=str(authority), **variables)
        wait_for("the certificate", lambda: said_valid(place), 120)
    assert f"The name {NAME} leads to this machine" in " ".join(played.output.split())
    assert f"The box is at https://{NAME}/" in played.output
    assert place.traefik_started() == before
    wait_for("the certificate to be shown", lambda: "Pebble" in certificate_shown(place), 60)
    assert NAME in certificate_shown(place)


def certificate_shown(place: Place) -> str:
    return place.box.run(f"echo | openssl s_client -connect {NAME}:443 -servername {NAME} 2>/dev/null | "
                         "openssl x509 -noout -issuer -ext subjectAltName")


def said_valid(place: Place) -> bool:
    said = status(place)
    assert not said.get("error"), said      # the next attempt is an hour away
    return said.get("stage") == "valid"


def status(place: Place) -> dict[str, object]:
    return dict(json.loads(place.box.run(f"cat {DATA}/state/traefik/acme-status.json 2>/dev/null || echo '{{}}'")))


# -- and off again ------------------------------------------------------------------------------------------------------
def test_ufw_lets_the_box_through_and_forgets_it_when_it_is_taken_off(place: Place) -> None:
    place.box.run("ufw allow 22/tcp comment mine && ufw --force enable")
    played = place.play("--tags", "firewall,hub", **place.listed)
    print(place.box.run("ufw status"))
    assert played.changed > 0
    assert is_open(place.box.address, 443)
    again = place.play("--tags", "firewall,hub", **place.listed)
    assert again.changed == 0, again.changes
    with student_of(place, "carol", "three words for carol") as carol:
        carol.sign_in()
    said = place.box.run("appliance uninstall --yes", timeout_s=300)
    print(said)
    rules = place.box.run("ufw show added")
    assert "appliance" not in rules
    assert "mine" in rules
    assert " running " in place.school()
    assert place.box.read("/etc/docker/daemon.json") == DAEMON_JSON
    assert place.box.run("docker ps --all --format '{{.Names}}'") == "school\n"
