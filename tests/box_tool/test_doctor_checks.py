"""What the doctor says of boxes in all states: well, half dead, and not there at all."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from box_machine import GIB, NOW, FakeBox, by_code

from appliance.box import check_data, doctor
from appliance.box.__main__ import main
from appliance.box.checks import Check
from appliance.box.machine import Disk
from appliance.box.paths import Paths
from appliance.box.plan import Plan
from appliance.box.shell import Result

pytestmark = pytest.mark.unit

HEALTH = "http://127.0.0.1:8081/hub/health"
FRONT = "https://127.0.0.1/hub/health"
WELL = (200, '{"status": "ok", "version": "0.2.0", "problems": []}')
IMAGES = {"hub": "sha256:hub", "traefik": "sha256:traefik", "notebook": "sha256:notebook"}


def database(file: Path, *failures: tuple[str, timedelta], schema: str = "0002") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(file)
    db.executescript("""
        CREATE TABLE appliance_schema (version_num TEXT);
        CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT);
        CREATE TABLE events (id INTEGER PRIMARY KEY, at DATETIME, kind TEXT, user_name TEXT, data JSON);
    """)
    db.execute("INSERT INTO appliance_schema VALUES (?)", (schema,))
    for code, age in failures:
        at = datetime.fromtimestamp(NOW, UTC) - age
        db.execute("INSERT INTO events (at, kind, user_name, data) VALUES (?, 'server.failed', 'ada', ?)",
                   (at.strftime("%Y-%m-%d %H:%M:%S.%f"), json.dumps({"code": code, "sentence": "…"})))
    db.commit()
    db.close()


@pytest.fixture
def box(tmp_path: Path) -> FakeBox:
    """A box that is installed and well."""
    box = FakeBox(tmp_path)
    box.write("/opt/appliance/current/release.json", json.dumps(
        {"id": "0.2.0-abc", "version": "0.2.0", "schema": "0002", "images": IMAGES, "made_at": "2026-11-01T08:00:00+00:00"}))
    box.write("/proc/self/mounts", "/dev/loop0 /var/lib/appliance/homes btrfs rw 0 0\n")
    (box.root / "var/lib/appliance/homes").mkdir(parents=True)
    box.docker()
    box.container("hub")
    for service in ("traefik", "holding"):
        box.container(service)
    for image in IMAGES.values():
        box.programs[f"docker image inspect --format '{{{{.Id}}}}' {image}"] = image
    box.pages |= {HEALTH: WELL, FRONT: WELL}
    box.programs["nft list tables"] = "table inet appliance\ntable ip nat\n"
    box.write("/sys/fs/cgroup/appliance.slice/memory.max", str(12 * GIB))
    box.programs["btrfs qgroup show --raw -re /var/lib/appliance/homes"] = "qgroupid rfer excl\n"
    box.programs["systemctl list-units --failed --plain --no-legend --no-pager 'appliance*' 'docker*' 'containerd*' "
                 "'*appliance*.mount'"] = ""
    database(box.paths.database)
    box.write("/var/lib/appliance/backup-status.json", json.dumps(
        {"at": "2026-11-23T02:00:00+00:00", "ok": True, "sentence": "", "snapshot": "1"}))
    box.certificate = ("PEM", "self-signed certificate in certificate chain")
    ends(box, 300)
    return box


def ends(box: FakeBox, days: float) -> None:
    at = datetime.fromtimestamp(NOW, UTC) + timedelta(days=days)
    box.programs["openssl x509 -noout -enddate"] = f"notAfter={at.strftime('%b %d %H:%M:%S %Y')} GMT\n"


def look(box: FakeBox, **plan: Any) -> dict[str, Check]:
    return by_code(doctor.check(box.machine, Plan.of(plan)))


def test_a_box_that_is_well(box: FakeBox) -> None:
    found = look(box)
    assert {code: each.sentence for code, each in found.items() if each.status != "ok"} == {}
    assert {"installed", "container-hub", "container-traefik", "images", "hub", "isolation", "front-door", "certificate",
            "certificate-chain", "firewall-rules", "students-limit", "memory-now", "homes-mounted", "quota", "homes-full",
            "database", "schema", "failures", "backup", "secrets", "units", "live-restore", "reboot", "clock"} <= set(found)


def test_nothing_installed_is_said_once(tmp_path: Path) -> None:
    found = look(FakeBox(tmp_path))
    assert found["installed"].status == "fail"
    assert [code for code, each in found.items() if each.status == "fail"] == ["installed"]


def test_an_empty_machine_without_any_program_still_gets_an_answer(tmp_path: Path) -> None:
    box = FakeBox(tmp_path)
    box.programs.clear()
    (box.root / "opt/appliance/current").mkdir(parents=True)
    found = look(box)
    assert len(found) > 20
    assert found["installed"].status == found["containers"].status == found["hub"].status == "fail"
    assert all(bool(each.remedy) == (each.status != "ok") for each in found.values())


@pytest.mark.parametrize(("journal", "word"), [("switch.json", "switch"), ("restore.json", "restore")])
def test_a_switch_or_restore_that_was_not_ended(box: FakeBox, journal: str, word: str) -> None:
    box.write(f"/opt/appliance/{journal}", "{}")
    found = look(box)["installed"]
    assert (found.status, word in found.sentence, "appliance switch --finish" in found.remedy) == ("fail", True, True)


def test_docker_that_is_down(box: FakeBox) -> None:
    box.programs["docker info --format '{{json .}}'"] = Result(1, "", "Cannot connect to the Docker daemon")
    box.pages[HEALTH] = (200, '{"status": "ok", "problems": ["engine-down"]}')
    found = look(box)
    assert found["containers"].status == "fail"
    assert "systemctl start docker" in found["containers"].remedy
    assert "engine-down" in found["hub"].sentence
    assert found["isolation"].status == "warn"
    assert found["database"].status == "ok"


@pytest.mark.parametrize(("changes", "status", "word"), [
    ({"State": {"Status": "exited", "ExitCode": 3}}, "fail", "status 3"),
    ({"State": {"Status": "exited", "OOMKilled": True}}, "fail", "memory"),
    ({"State": {"Status": "running", "Health": {"Status": "unhealthy"}}}, "fail", "health"),
    ({"State": {"Status": "running", "Health": {"Status": "starting"}}}, "warn", "just started"),
    ({"RestartCount": 17}, "warn", "17 times"),
])
def test_containers_that_are_not_well(box: FakeBox, changes: dict[str, Any], status: str, word: str) -> None:
    box.container("hub", **changes)
    found = look(box)["container-hub"]
    assert found.status == status
    assert word in found.sentence
    assert ("docker logs appliance-hub" in found.remedy) == (word != "just started")


def test_another_image_than_the_release_says(box: FakeBox) -> None:
    box.container("hub", Image="sha256:other")
    assert look(box)["image-hub"].status == "warn"
    del box.programs["docker image inspect --format '{{.Id}}' sha256:notebook"]
    found = look(box)["images"]
    assert found.status == "fail"
    assert "notebook" in found.sentence


def test_what_the_hub_says_comes_with_its_remedy(box: FakeBox) -> None:
    box.pages[HEALTH] = (200, '{"status": "ok", "problems": ["isolation-unproven"]}')
    found = look(box)
    assert found["isolation"].status == found["hub"].status == "fail"
    box.pages[HEALTH] = (0, "Connection refused")
    found = look(box)
    assert "Connection refused" in found["hub"].sentence
    assert "isolation" not in found  # nobody knows


def test_the_front_door(box: FakeBox) -> None:
    box.pages[FRONT] = (502, "")
    assert "502" in look(box)["front-door"].sentence
    del box.pages[FRONT]
    assert look(box)["front-door"].status == "fail"
    box.pages["http://127.0.0.1:8080/hub/health"] = WELL
    found = look(box, tls="off", http_port=8080)
    assert found["front-door"].status == "ok"
    assert found["certificate"].sentence == "Encryption is off, as it was set."


def test_an_old_nft_that_crashes_on_newer_rules(box: FakeBox) -> None:
    box.programs["nft list tables"] = Result(-11)
    found = look(box)["firewall-rules"]
    assert found.status == "warn"
    assert "crashed" in found.sentence
    box.programs["docker exec appliance-hub nft list tables"] = "table inet appliance\n"
    assert look(box)["firewall-rules"].status == "ok"


def test_rules_that_somebody_flushed(box: FakeBox) -> None:
    box.programs["nft list tables"] = "table ip nat\n"
    found = look(box)
    assert found["firewall-rules"].status == "fail"
    assert "firewall-host" not in found  # whoever left that role out has no such table
    box.programs["systemctl is-enabled appliance-firewall.service"] = "enabled\n"
    assert look(box)["firewall-host"].status == "fail"
    box.programs["nft list tables"] = "table inet appliance\ntable inet appliance_host\n"
    assert look(box)["firewall-rules"].status == "ok"
    assert "firewall-host" not in look(box)


@pytest.mark.parametrize(("limit", "status"), [("max", "fail"), (str(12 * GIB), "ok"), (str(16_700_000_000), "warn")])
def test_the_limit_of_all_students(box: FakeBox, limit: str, status: str) -> None:
    box.write("/sys/fs/cgroup/appliance.slice/memory.max", limit)
    assert look(box)["students-limit"].status == status


def test_the_limit_under_cgroups_v1_and_before_the_first_student(box: FakeBox) -> None:
    box.remove("/sys/fs/cgroup/appliance.slice/memory.max")
    assert look(box)["students-limit"].status == "fail"
    box.programs["systemctl show appliance.slice --property=MemoryMax --value"] = f"{12 * GIB}\n"
    assert look(box)["students-limit"].status == "ok"
    box.write("/sys/fs/cgroup/memory/appliance.slice/memory.limit_in_bytes", "9223372036854771712\n")
    assert look(box)["students-limit"].status == "fail"


def test_homes_that_are_not_mounted_or_not_limited_or_full(box: FakeBox) -> None:
    box.disks["/var/lib/appliance/homes"] = Disk(7, 100 * GIB, 2 * GIB)
    assert look(box)["homes-full"].status == "fail"
    box.disks["/var/lib/appliance/homes"] = Disk(7, 100 * GIB, 12 * GIB)
    assert look(box)["homes-full"].status == "warn"
    del box.programs["btrfs qgroup show --raw -re /var/lib/appliance/homes"]
    assert look(box)["quota"].status == "fail"
    box.programs["btrfs qgroup show --raw -re /var/lib/appliance/homes"] = Result(
        0, "", "WARNING: qgroup data inconsistent, rescan recommended")
    assert look(box)["quota"].status == "warn"
    box.write("/proc/self/mounts", "")
    assert look(box)["homes-mounted"].status == "fail"
    assert look(box, homes_kind="directory", quota="")["homes-mounted"].status == "ok"


# ---------------------------------------------------------------------------------------------------------- database --
def test_failures_are_grouped_by_cause_and_old_ones_forgotten(box: FakeBox) -> None:
    box.paths.database.unlink()
    database(box.paths.database, ("out-of-memory", timedelta(hours=1)), ("out-of-memory", timedelta(days=2)),
             ("strange", timedelta(days=6)), ("image-missing", timedelta(days=8)))
    found = look(box)
    assert found["failures-out-of-memory"].sentence.startswith("2 servers failed in the last 7 days")
    assert found["failures-strange"].status == "warn"
    assert "failures-image-missing" not in found
    assert "ada" not in found["failures-out-of-memory"].sentence


@pytest.mark.parametrize(("schema", "word"), [("0003", "newer"), ("0001", "older")])
def test_a_schema_that_is_not_the_releases(box: FakeBox, schema: str, word: str) -> None:
    box.paths.database.unlink()
    database(box.paths.database, schema=schema)
    found = look(box)["schema"]
    assert found.status == "fail"
    assert word in found.sentence


def test_a_database_that_the_hub_made(box: FakeBox) -> None:
    from appliance.domain.user import User
    from appliance.store import database as store
    from appliance.store import events, users

    box.paths.database.unlink()
    db = store.Database(str(box.paths.database))
    db.upgrade()

    def fill(t: store.Transaction) -> User:
        events.append(t, "server.failed", data={"code": "disk-full", "sentence": "…"})
        return users.add(t, "ada")

    db.run(fill)
    db.close()
    found = look(box)
    assert found["database"].status == "ok"
    assert store.HEAD in found["schema"].sentence
    box.now += 30 * 365 * 86400  # whenever this test runs, its failure is of today, which is long ago by then
    assert "failures-disk-full" not in look(box)
    box.now = datetime.now(UTC).timestamp()
    assert look(box)["failures-disk-full"].status == "warn"
    from appliance.box.support import _students

    assert "ada" in _students(box.machine)


def test_a_damaged_database(box: FakeBox) -> None:
    box.paths.database.write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    found = look(box)["database"]
    assert found.status == "fail"
    assert "appliance restore" in found.remedy


def test_the_database_is_only_read_while_the_hub_writes(box: FakeBox) -> None:
    hub = sqlite3.connect(box.paths.database)
    hub.execute("PRAGMA journal_mode=WAL")
    hub.execute("BEGIN IMMEDIATE")
    hub.execute("INSERT INTO users (name) VALUES ('bob')")
    assert look(box)["database"].status == "ok"
    hub.commit()
    hub.close()


def test_postgresql_is_asked_through_the_hub(box: FakeBox) -> None:
    box.container("postgres")
    answer = json.dumps({"schema": "0002", "failures": [[{"code": "disk-full"}, "2026-11-22"]]})
    machine = box.machine
    run = machine.run_

    def asked(argv: Any, timeout_s: float, text: str) -> Result:
        return Result(0, answer) if list(argv[:3]) == ["docker", "exec", "appliance-hub"] else run(argv, timeout_s, text)

    object.__setattr__(machine, "run_", asked)
    found = by_code(doctor.check(machine, Plan(database="postgres")))
    assert found["container-postgres"].status == found["database"].status == found["schema"].status == "ok"
    assert found["failures-disk-full"].status == "warn"
    assert look(box, database="postgres")["database"].status == "fail"


def test_the_query_in_the_hub_s_container_works_on_its_database(tmp_path: Path) -> None:
    database(tmp_path / "jupyterhub.sqlite", ("disk-full", timedelta(hours=1)))
    import appliance

    done = subprocess.run(
        [sys.executable, "-c", check_data.HUB_QUERY, "2026-11-20T00:00:00+00:00", "/nonexistent.py"], cwd=tmp_path,
        env={"PYTHONPATH": str(Path(appliance.__file__).parent.parent)}, capture_output=True, text=True, check=False,
        timeout=60)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["schema"] == "0002"
    assert said["failures"][0][0]["code"] == "disk-full"


# --------------------------------------------------------------------------------------------- backup and certificate --
@pytest.mark.parametrize(("status", "expected"), [
    ({}, "warn"), ({"at": "2026-11-23T02:00:00+00:00", "ok": True, "warnings": ["One home was left out."]}, "warn"),
    ({"at": "2026-11-23T02:00:00+00:00", "ok": False, "sentence": "The disk is full."}, "fail"),
    ({"at": "2026-11-21T02:00:00Z", "ok": True}, "warn"), ({"at": "2026-11-01T02:00:00+00:00", "ok": True}, "fail"),
    ({"at": "yesterday", "ok": True}, "warn"), ({"at": "2026-11-23T02:00:00", "ok": True}, "ok"),
])
def test_backups(box: FakeBox, status: dict[str, Any], expected: str) -> None:
    box.write("/var/lib/appliance/backup-status.json", json.dumps(status))
    assert look(box)["backup"].status == expected


@pytest.mark.parametrize(("days", "status"), [(300, "ok"), (5, "warn"), (-3, "fail")])
def test_a_certificate_that_ends(box: FakeBox, days: float, status: str) -> None:
    ends(box, days)
    assert look(box)["certificate"].status == status


def test_a_certificate_that_is_not_trusted_or_for_another_name(box: FakeBox) -> None:
    assert look(box, tls="files")["certificate-chain"].status == "warn"
    box.certificate = ("PEM", "")
    assert look(box, tls="files")["certificate-chain"].status == "ok"
    box.names["box.school.example"] = ["192.0.2.2"]
    box.programs["openssl x509 -noout -checkhost box.school.example"] = \
        "Hostname box.school.example does NOT match certificate\n"
    assert look(box, tls="files", name="box.school.example")["certificate-name"].status == "fail"
    box.certificate = None
    assert look(box)["certificate"].status == "fail"


def test_a_real_certificate(box: FakeBox, tmp_path: Path) -> None:
    from appliance.box.machine import Machine

    pem, key = tmp_path / "box.crt", tmp_path / "box.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-days", "40",
                    "-subj", "/CN=box", "-addext", "subjectAltName=DNS:box.school.example", "-keyout", key, "-out", pem],
                   check=True, capture_output=True)
    from appliance.box.check_homes import check_certificate_files

    def judge(name: str, certificate: Path = pem) -> list[str]:
        plan = Plan(tls="files", tls_certificate=str(certificate), tls_key=str(key), name=name)
        return [each.status for each in check_certificate_files(Machine(), plan)]

    assert judge("box.school.example") == ["ok"]
    assert judge("other.school.example") == ["ok", "fail"]
    assert judge("", key) == ["fail"]
    assert judge("", tmp_path / "none") == ["fail"]


def test_what_lets_encrypt_said_last(box: FakeBox) -> None:
    assert look(box, tls="letsencrypt", name="b.example.org")["acme"].status == "warn"
    from appliance.proxies.acme import AcmeStatus

    def said(status: AcmeStatus) -> Check:
        box.write("/var/lib/appliance/state/traefik/acme-status.json", json.dumps(vars(status)))
        return look(box, tls="letsencrypt", name="b.example.org")["acme"]

    names = ("b.example.org",)
    assert said(AcmeStatus("staging", names)).status == "warn"
    refused = said(AcmeStatus("staging", names, "Port 80 could not be reached. Open it.", retry_at="2026-11-23T11:00:00+00:00"))
    assert refused.status == "fail"
    assert "Port 80 could not be reached. Open it. It is tried again at 2026" in refused.sentence
    assert said(AcmeStatus("valid", names, expires_at="2027-01-01T00:00:00+00:00")).status == "ok"
    assert said(AcmeStatus("production", names, "Too many.", expires_at="2027-01-01T00:00:00+00:00")).status == "warn"


def test_a_certificate_trouble_keeps_no_server_from_starting(box: FakeBox) -> None:
    box.pages[HEALTH] = (200, '{"status": "ok", "version": "1", "problems": ["certificate"]}')
    assert look(box)["hub"].status == "ok"


def test_a_service_that_failed_is_a_warning(box: FakeBox) -> None:
    box.pages[HEALTH] = (200, '{"status": "ok", "version": "1", "problems": ["service-failed"]}')
    found = look(box)["hub"]
    assert (found.status, "/hub/services" in found.remedy) == ("warn", True)


def test_secrets_that_others_may_read(box: FakeBox) -> None:
    file = box.write("/etc/appliance/secrets/postgres_password", "x")
    file.parent.chmod(0o700)
    file.chmod(0o600)
    assert look(box)["secrets"].status == "ok"
    file.chmod(0o644)
    assert "postgres_password" in look(box)["secrets"].sentence


def test_failed_services_and_a_waiting_reboot(box: FakeBox) -> None:
    box.programs["systemctl list-units --failed --plain --no-legend --no-pager 'appliance*' 'docker*' 'containerd*' "
                 "'*appliance*.mount'"] = "appliance-backup.service loaded failed failed Backup\n"
    box.write("/run/reboot-required", "")
    box.write("/run/reboot-required.pkgs", "linux-image-amd64\n")
    found = look(box)
    assert "appliance-backup.service" in found["units"].sentence
    assert "linux-image-amd64" in found["reboot"].sentence


# ------------------------------------------------------------------------------------------------------- the command --
def test_figures_for_prometheus(box: FakeBox) -> None:
    plan = Plan()
    text = doctor.metrics(box.machine, plan, doctor.check(box.machine, plan))
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values["appliance_certificate_days_left"]) == pytest.approx(300, abs=0.1)
    assert float(values["appliance_backup_age_seconds"]) == 8 * 3600
    assert values["appliance_backup_ok"] == "1"
    assert values["appliance_checks_failed"] == "0"
    assert values['appliance_check{code="hub"}'] == "0"
    assert float(values["appliance_homes_bytes_total"]) == 200 * GIB
    for line in text.splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) appliance_\w+ .+|appliance_\w+(\{code=\"[a-z0-9-]+\"\})? [0-9.e+-]+", line), line
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))


def test_the_command_on_a_machine_without_a_box(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = Paths(tmp_path / "empty")
    metrics = tmp_path / "textfile" / "appliance.prom"
    assert main(["doctor", "--json", "--metrics", str(metrics)], paths) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["checks"][0]["code"] == "installed"
    assert "appliance_checks_failed" in metrics.read_text()
    assert metrics.stat().st_mode & 0o777 == 0o644
    assert list(metrics.parent.iterdir()) == [metrics]
    assert main(["doctor", "--quiet"], paths) == 1
    said = capsys.readouterr().out
    assert "FAIL  installed" in said
    assert "\nok " not in said


def test_smoke_at_the_end(box: FakeBox) -> None:
    found = list(doctor._check_smoke(box.machine))
    assert found[0].status == "fail"
    box.programs["docker exec appliance-hub appliance smoke"] = "all well\n"
    assert next(iter(doctor._check_smoke(box.machine))).status == "ok"
