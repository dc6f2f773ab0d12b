"""The support bundle holds what helps and nothing that is secret: a sentinel is planted wherever a secret can be."""

from __future__ import annotations

import base64
import gzip
import io
import json
import sqlite3
import tarfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from box_machine import FakeBox

from appliance.box import support
from appliance.box.__main__ import main
from appliance.box.paths import Paths
from appliance.box.redaction import Redactor
from appliance.box.shell import Result

pytestmark = pytest.mark.unit


class Sentinels:
    """Secrets that appear nowhere else. Some look random, some are words, one has letters that encoders change."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self.told: list[str] = []   # those that the box can know to be secret, wherever they turn up
        self._numbers = count(1)

    def new(self, shape: str = "Zq{}sentinel", *, told: bool = True) -> str:
        self.all.append(shape.format(next(self._numbers) + 100))
        self.told += self.all[-1:] * told
        return self.all[-1]

    def spellings(self) -> Iterator[str]:
        for each in self.all:
            yield from (each, quote(each, safe=""), json.dumps(each)[1:-1],
                        base64.b64encode(each.encode()).decode().rstrip("="),
                        each.encode().hex())


CONFIG = """
c = get_config()  # noqa: F821
# the old password was {comment}
c.JupyterHub.tls = "selfsigned"
c.Authenticator.allowed_users = {{"hedy", "ada"}}
c.GenericOAuthenticator.client_id = "classroom"
c.GenericOAuthenticator.client_secret = "{client_secret}"
c.LDAPAuthenticator.lookup_dn_search_password = '{ldap}'
c.JupyterHub.db_url = "postgresql://hub:{db}@db.school/hub"
c.JupyterHub.api_tokens = {{"{api_token}": "ada"}}
c.JupyterHub.services = [{{"name": "culler", "api_token": "{service}"}}]
c.DockerSpawner.environment = {{"AWS_ID": "{environment}"}}
import os
os.environ["SOME_TOKEN"] = "{environ}"
os.environ.setdefault("OTHER_PASSWORD", "{setdefault}")
password = f"{formatted}{{c}}"
settings.update(passphrase="{keyword}")
c.Custom.pin = 123456
def hook(spawner):
    connect(spawner, password=b"{inside}")
    set_token("{argument}")
c.Custom.helper = "{random}"
"""


@pytest.fixture
def planted(tmp_path: Path) -> tuple[FakeBox, Sentinels]:
    """A box with a secret of its own in every place that can hold one, and logs that repeat them."""
    box, new = FakeBox(tmp_path), Sentinels()
    s = {"comment": new.new(told=False)} | {name: new.new() for name in (
        "client_secret", "ldap", "db", "api_token", "service", "environment", "environ", "setdefault", "formatted",
        "keyword", "inside", "argument")}
    s["random"] = new.new("a8F3kd02Lq{}xPq71mZ0w9uTr")
    box.write("/etc/appliance/config.d/10-box.py", CONFIG.format(**s))
    box.write("/etc/appliance/config.d/90-broken.py", f"c.X.password = '{new.new()}' (")
    strange, random = new.new('Zq ü&{}"sentinel'), new.new("x8F3kd02Lq{}xPq71mZ0w9uTr")
    box.write("/etc/appliance/appliance.env",
              f"# was {new.new(told=False)}\nAPPLIANCE_ADMIN_PASSWORD='{new.new()}'\nAPPLIANCE_HTTP_PORT=80\n"
              f"RESTIC_PASSWORD={strange}\nAPPLIANCE_EXTRA={random}\n")
    box.write("/etc/appliance/secrets/postgres_password", new.new() + "\n")
    box.write("/etc/appliance/secrets/metrics_token", new.new())
    box.write("/etc/appliance/secrets/acme.env", f"CLOUDFLARE_ZONE={new.new()}\nHETZNER_API_KEY=\"{new.new()}\"\n")
    box.write("/etc/appliance/secrets/backup.env", f"export AWS_SECRET_ACCESS_KEY={new.new()}\n")
    key_line = new.new("MHcCAQEEIZq{}sentinelq0NhY7wJ")
    pem = f"-----BEGIN EC PRIVATE KEY-----\n{key_line}\n-----END EC PRIVATE KEY-----\n"
    box.write("/etc/appliance/tls/box.key", pem)
    box.write("/var/lib/appliance/jupyterhub_cookie_secret", new.new())
    capability, injected = new.new("k3f9.7.Zq{}sentinel"), new.new()
    api = new.new("q0NhY7Zq{}sentinelwJk3mVb1")
    box.write("/var/lib/appliance/state/traefik/routes/server-k3f9.json", json.dumps({"http": {
        "routers": {"s": {"rule": rf"HeaderRegexp(`Cookie`, `(^|;\s*)appliance-server-k3f9={capability}\s*(;|$)`)"}},
        "middlewares": {"t": {"headers": {"customRequestHeaders": {"Authorization": f"token {injected}"}}}}}}))
    box.write("/var/lib/appliance/state/traefik/fixed.json", json.dumps({"basicAuth": {"users": [f"hub:{{SHA}}{api}=="]}}))
    box.write("/var/lib/appliance/state/traefik/acme.json", json.dumps({"le": {"Account": {"PrivateKey": new.new()}}}))
    box.write("/etc/docker/daemon.json", json.dumps({"proxies": {"http-proxy": f"http://me:{new.new()}@proxy.school:3128"}}))
    box.docker()
    env = [f"JUPYTERHUB_API_TOKEN={new.new()}", f"DB_PASS={new.new()}", "PATH=/usr/bin"]
    command_line = new.new()
    box.container("hub", Config={"Env": env, "Cmd": ["hub", f"--token={command_line}"], "Labels": {}}, Args=[command_line])
    box.programs["docker ps --all --quiet --no-trunc --filter label=org.appliance.namespace=appliance"] = "s1\n"
    box.programs["docker inspect s1"] = json.dumps([{
        "Id": "s1", "Name": "/appliance-k3f9", "State": {"Status": "running", "Error": ""}, "Args": [new.new(told=False)],
        "Config": {"Image": "appliance/notebook", "Env": [f"JPY_API_TOKEN={new.new()}"], "Cmd": ["lab"],
                   "Labels": {"org.appliance.user": "grace", "org.appliance.server": "k3f9", "note": new.new(told=False)}}}])
    # whatever logs may say of them, in all the ways they say it
    lines = [f"strange line with {each} in it" for each in new.told]
    lines += [f"?q={quote(each, safe='')}&next=/user/ada/lab {json.dumps({'value': each})}" for each in new.told]
    lines += [f"basic {base64.b64encode(f':{each}'.encode()).decode()} {each.encode().hex()}"
              for each in [s["ldap"], s["api_token"]]]
    unknown = [new.new() for _ in range(9)]
    lines += [
        f"Authorization: Bearer {unknown[0]}", f"GET /hub/api?token={unknown[1]}", f"Set-Cookie: session={unknown[2]}; Path=/",
        f'"appliance_admin_password": "{unknown[3]}"', f"appliance_admin_password: {unknown[4]}", f"X_API_KEY={unknown[5]}",
        f"postgresql://hub:{unknown[6]}@db/hub", f"--client-secret={unknown[7]}",
        f"-----BEGIN PRIVATE KEY-----\n{unknown[8]}\n-----END PRIVATE KEY-----",
        "ada and Ada Lovelace opened /user/ada/lab; /user/zoe.old/tree; bob@school.example failed; josé",
    ]
    text = "\n".join(lines) + "\n"
    box.programs["docker logs --timestamps --tail 3000 appliance-hub"] = Result(0, text, text)
    box.programs["docker logs --timestamps --tail 3000 appliance-traefik"] = text
    box.programs["journalctl --no-pager --lines 3000 -u docker -u containerd"] = text
    box.programs["docker info"] = text
    box.programs["nft list ruleset"] = "table inet appliance {\n}\n"
    box.write("/var/log/appliance/ansible.log", text)
    box.write("/var/lib/appliance/state/traefik/traefik.log", text)
    db = sqlite3.connect(box.paths.database)
    db.executescript("""
        CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, display_name TEXT, password_hash TEXT);
        CREATE TABLE events (id INTEGER PRIMARY KEY, at DATETIME, kind TEXT, user_name TEXT, data JSON);
        CREATE TABLE appliance_schema (version_num TEXT);
        INSERT INTO appliance_schema VALUES ('0002');
        INSERT INTO users (name, display_name, password_hash) VALUES ('ada', 'Ada Lovelace', '$argon2id$x'), ('josé', '', '');
        INSERT INTO events (at, kind, user_name, data) VALUES ('2026-11-22 08:00:00', 'login', 'bob@school.example', '{}');
    """)
    db.commit()
    db.close()
    box.write("/var/lib/appliance/homes/u20001/owner.json", json.dumps({"user_name": "grace", "uid": 20001}))
    box.write("/var/lib/appliance/homes/u20001/home/essay.txt", new.new(told=False))
    return box, new


def unpack(content: bytes) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {member.name.removeprefix("appliance-support/"): (tar.extractfile(member) or io.BytesIO()).read().decode()
                for member in tar}


def test_no_secret_is_in_the_bundle(planted: tuple[FakeBox, Sentinels]) -> None:
    box, sentinels = planted
    content = support.bundle(box.machine)
    assert len(sentinels.all) > 45
    for raw in (content, gzip.decompress(content)):
        leaks = [each for each in sentinels.spellings() if each.encode() in raw]
        assert leaks == [], leaks
    files = unpack(content)
    leaks = [(name, part) for name, text in files.items() for part in ("sentinel", "Lq1", "123456") if part in text]
    assert leaks == []


def test_the_test_would_notice(planted: tuple[FakeBox, Sentinels], monkeypatch: pytest.MonkeyPatch) -> None:
    box, sentinels = planted
    monkeypatch.setattr(Redactor, "clean", lambda self, text: text)
    raw = gzip.decompress(support.bundle(box.machine))
    assert sum(each.encode() in raw for each in sentinels.all) > 40


def test_no_name_of_a_student_is_in_the_bundle(planted: tuple[FakeBox, Sentinels]) -> None:
    files = unpack(support.bundle(planted[0].machine))
    for name in ("ada", "Lovelace", "bob@school", "josé", "jos\\u00e9", "grace", "zoe.old", "hedy"):
        assert [file for file, text in files.items() if name in text] == [], name
    again = unpack(support.bundle(planted[0].machine))
    assert files["logs/hub.txt"] == again["logs/hub.txt"]  # the same pseudonym each time
    line = next(line for line in files["logs/hub.txt"].splitlines() if "opened" in line)
    assert line.split()[0] == line.split("/user/")[1].split("/")[0]  # one person, one pseudonym


def test_while_the_hub_is_down_the_box_s_own_postgresql_is_asked(planted: tuple[FakeBox, Sentinels]) -> None:
    box, _ = planted
    box.remove("/var/lib/appliance/jupyterhub.sqlite")
    box.container("postgres")
    asked = []
    run = box._run

    def answer(argv: Any, timeout_s: float, text: str) -> Result:
        if "psql" not in " ".join(argv):
            return run(argv, timeout_s, text)
        asked.append(text)
        assert text.strip() not in " ".join(argv)  # no list of processes shows the password
        return Result(0, "zoroaster\nZoë Roaster\n\n")

    box._run = answer  # type: ignore[method-assign]
    assert {"zoroaster", "Zoë Roaster", "Roaster"} <= support._students(box.machine)
    assert asked == [(box.root / "etc/appliance/secrets/postgres_password").read_text()]


def test_with_postgresql_the_hub_is_asked_who_is_there(planted: tuple[FakeBox, Sentinels]) -> None:
    box, _ = planted
    box.paths.database.unlink()
    box.programs["docker exec appliance-hub appliance user list --json"] = json.dumps(
        [{"name": "ada", "display_name": "Ada Lovelace"}, {"name": "josé", "display_name": ""}])
    log = unpack(support.bundle(box.machine))["logs/hub.txt"]
    assert [name for name in ("ada", "Lovelace", "josé", "grace") if name in log] == []


def test_names_stay_when_they_are_wanted(planted: tuple[FakeBox, Sentinels]) -> None:
    box, sentinels = planted
    content = support.bundle(box.machine, with_names=True)
    assert "Ada Lovelace opened /user/ada/lab" in unpack(content)["logs/hub.txt"]
    raw = gzip.decompress(content)
    assert [each for each in sentinels.spellings() if each.encode() in raw] == []


def test_it_still_helps(planted: tuple[FakeBox, Sentinels]) -> None:
    files = unpack(support.bundle(planted[0].machine))
    assert "APPLIANCE_HTTP_PORT=80" in files["config/appliance.env"]
    assert "APPLIANCE_ADMIN_PASSWORD=[redacted]" in files["config/appliance.env"]
    config = files["config/config.d/10-box.py"]
    assert "c.JupyterHub.tls = 'selfsigned'" in config
    assert "c.GenericOAuthenticator.client_secret = '[redacted]'" in config
    assert "postgresql://hub:[redacted]@db.school/hub" in config
    assert "secrets/postgres_password 14 bytes" in files["config/secrets.txt"]
    assert files["routes.txt"] == "server-k3f9.json\n"
    assert "container-hub" in {each["code"] for each in json.loads(files["doctor.json"])["checks"]}
    containers = json.loads(files["docker/containers.json"])
    assert containers[0]["EnvironmentNames"] == ["DB_PASS", "JUPYTERHUB_API_TOKEN", "PATH"]
    assert "table inet appliance" in files["network/nft.txt"]
    assert "strange line with [redacted] in it" in files["logs/traefik.txt"]
    assert "strange line" in files["logs/files/ansible.log"]
    assert "proxy.school:3128" in files["config/daemon.json"]
    assert not [name for name in files if name.startswith("missing/")]


def test_a_machine_with_nothing_still_gives_a_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out" / "x.tar.gz"
    assert main(["support-bundle", "--output", str(output)], Paths(tmp_path / "empty")) == 0
    assert output.stat().st_mode & 0o777 == 0o600
    assert "Wrote" in capsys.readouterr().out
    assert "doctor.json" in unpack(output.read_bytes())


def test_one_part_that_breaks_costs_that_part_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Iterator[tuple[str, str]]:
        yield "half.txt", "half"
        raise OSError("no more")

    monkeypatch.setattr(support, "_logs", broken)
    broken.__name__ = "_logs"
    files = unpack(support.bundle(FakeBox(tmp_path).machine))
    assert files["half.txt"] == "half"
    assert "no more" in files["missing/logs.txt"]
    assert "doctor.json" in files


def test_a_folder_is_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["support-bundle", "--output", str(tmp_path)], Paths(tmp_path / "empty")) == 1
    assert "is a folder" in capsys.readouterr().err
