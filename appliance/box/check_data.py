"""Checks of what a box keeps: homes, database, backups, certificate, and the failures it remembers."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Generator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from appliance.box.check_homes import days_left, judge_certificate
from appliance.box.check_parts import remedies, uses_postgres
from appliance.box.checks import Check, fail, ok, warn
from appliance.box.machine import Machine
from appliance.box.plan import Plan
from appliance.box.shell import read_json, size

_HOUR_S = 3600
_DAYS = 7
# Runs in the Hub's container, which knows where the database is. Prints the schema and the failures since a time.
HUB_QUERY = """
import json, sys
from pathlib import Path
from sqlalchemy import create_engine, text
from appliance.config import load_settings
file = next((name for name in sys.argv[2:] if Path(name).is_file()), None)
url = load_settings(["-f", file] if file else []).db_url
with create_engine(url).connect() as c:
    schema = c.execute(text("SELECT version_num FROM appliance_schema")).scalar()
    rows = c.execute(text("SELECT data, at FROM events WHERE kind = 'server.failed' AND at >= :since"), {"since": sys.argv[1]})
    data = [[row[0] if isinstance(row[0], dict) else json.loads(row[0]), str(row[1])] for row in rows]
print(json.dumps({"schema": schema, "failures": data}))
"""
HUB_PYTHON = "/opt/hub/bin/python"
HUB_CONFIG = "/usr/share/appliance/jupyterhub_config.py"


# ------------------------------------------------------------------------------------------------------------- homes --
def check_homes_now(machine: Machine, plan: Plan) -> Iterator[Check]:
    place = machine.paths.at(plan.homes)
    mounted = machine.mounts.get(plan.homes.rstrip("/"))
    if not place.is_dir():
        yield fail("homes-mounted", f"The homes' folder {plan.homes} is not there; no server starts.",
                   f"Mount it (systemctl list-units '*.mount' --failed) or make it: mkdir {plan.homes}")
        return
    if mounted is None and plan.homes_kind != "directory":
        yield fail("homes-mounted", f"The homes are not mounted at {plan.homes}; no server starts, so that nobody meets an "
                   f"empty home.",
                   f"Mount them: mount {plan.homes}; if that fails: journalctl -b | grep -i mount")
        return
    kind = mounted[1] if mounted else "a plain folder"
    yield ok("homes-mounted", f"Homes are at {plan.homes} ({kind}).")
    if plan.quota in ("", "0"):
        yield ok("quota", "No student has a quota, as it was set.")
    elif kind != "btrfs":
        yield warn("quota", f"Homes on {kind} know no quota: one student can fill the disk for all.",
                   "Use storage_homes: loop or disk.")
    else:
        done = machine.run("btrfs", "qgroup", "show", "--raw", "-re", plan.homes)
        if not done.ok:
            yield fail("quota", f"No student's quota is enforced: {done.words}.",
                       f"Run: btrfs quota enable {plan.homes}; then restart the Hub (docker restart "
                       f"{machine.paths.container('hub')}).")
        elif "inconsistent" in done.stderr:
            yield warn("quota", "The quotas' figures are out of date.", f"Run: btrfs quota rescan {plan.homes}")
        else:
            yield ok("quota", f"Every student's quota ({plan.quota}) is enforced.")
    yield from _full(machine, plan)


def _full(machine: Machine, plan: Plan) -> Iterator[Check]:
    disk = machine.disk(machine.paths.at(plan.homes))
    used = 1 - disk.free / disk.total if disk.total else 0
    sentence = f"The homes' disk is {used:.0%} full ({size(disk.free)} are free)."
    if used > 0.97:
        yield fail("homes-full", sentence, "Raise storage_homes_size or use a larger disk; archived students' homes can go.")
    elif used > 0.85:
        yield warn("homes-full", sentence, "Raise storage_homes_size, or remove homes of students who left, before the next "
                   "term.")
    else:
        yield ok("homes-full", sentence)


# ---------------------------------------------------------------------------------------------------------- database --
def check_database(machine: Machine, plan: Plan) -> Iterator[Check]:
    """Integrity, schema, and what failed lately."""
    since = datetime.fromtimestamp(machine.now(), UTC) - timedelta(days=_DAYS)
    if uses_postgres(machine, plan):
        done = machine.run("docker", "exec", machine.paths.container("hub"), HUB_PYTHON, "-c", HUB_QUERY, since.isoformat(),
                           HUB_CONFIG,
                           timeout_s=60)
        try:
            said = json.loads(done.stdout)
        except ValueError:
            yield fail("database", f"The Hub could not read the database (PostgreSQL): {done.words}.",
                       f"Look at: docker logs --tail 50 {machine.paths.container('postgres')}")
            return
        yield ok("database", "The database (PostgreSQL) answers.")
        schema, failures = str(said["schema"]), [entry[0] for entry in said["failures"]]
    else:
        found = yield from _sqlite(machine, since)
        if found is None:
            return
        schema, failures = found
    yield from _schema(machine, schema)
    yield from _failures(failures)


def _sqlite(machine: Machine, since: datetime) -> Generator[Check, None, tuple[str, list[dict[str, Any]]] | None]:
    """Returns (schema, data of each failure), None if the file could not be read."""
    file = machine.paths.database
    if not file.exists():
        yield warn("database", f"There is no database yet ({file}).", "The Hub makes it at its first start; is it running?")
        return None
    try:
        # read-only: a doctor changes nothing, and the Hub goes on writing meanwhile
        with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=5)) as db:
            said = [str(row[0]) for row in db.execute("PRAGMA quick_check(5)")]
            if said != ["ok"]:
                yield fail("database", f"The database {file} is damaged: {said[0]}.",
                           "Put back the last good one: appliance restore. Homes are not affected.")
                return None
            schema = str((db.execute("SELECT version_num FROM appliance_schema").fetchone() or ("none",))[0])
            rows = db.execute("SELECT data FROM events WHERE kind = 'server.failed' AND at >= ?",
                              (since.strftime("%Y-%m-%d %H:%M:%S"),)).fetchall()
    except sqlite3.Error as error:
        yield fail("database", f"The database {file} cannot be read: {error}.",
                   "If it is damaged put back the last good one: appliance restore")
        return None
    yield ok("database", f"The database is whole ({size(file.stat().st_size)}).")
    return schema, [_parsed(row[0]) for row in rows]


def _parsed(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {}


def _schema(machine: Machine, schema: str) -> Iterator[Check]:
    wanted = str(read_json(machine.paths.release_file).get("schema") or "")
    if not wanted or schema == wanted:
        yield ok("schema", f"The database has the release's form ({schema}).")
    elif schema > wanted:
        yield fail("schema", f"The database ({schema}) is newer than the release ({wanted}).",
                   "Go to the newer release again (appliance switch), or restore the backup made before it.")
    else:
        yield fail("schema", f"The database ({schema}) is older than the release ({wanted}).",
                   "Run: appliance upgrade-db")


def _failures(failures: list[dict[str, Any]]) -> Iterator[Check]:
    """One line a cause, most frequent first. Who it happened to is on the Admin page, not here."""
    counts: dict[str, int] = {}
    for data in failures:
        code = str(data.get("code") or "internal")
        counts[code] = counts.get(code, 0) + 1
    if not counts:
        yield ok("failures", f"No server failed in the last {_DAYS} days.")
    for code, count in sorted(counts.items(), key=lambda each: (-each[1], each[0])):
        sentence, action = remedies().get(code, ("A failure of a kind this program does not know.", "Look at the Hub's log."))
        yield warn(f"failures-{code}", f"{count} server{'s' * (count > 1)} failed in the last {_DAYS} days ({code}): "
                   f"{sentence}", action)


# ------------------------------------------------------------------------------------------- backups and certificates --
def backup_age_s(machine: Machine) -> float | None:
    try:
        at = datetime.fromisoformat(str(read_json(machine.paths.backup_status).get("at")))
    except ValueError:
        return None
    return machine.now() - (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def check_backup(machine: Machine) -> Iterator[Check]:
    status, age = read_json(machine.paths.backup_status), backup_age_s(machine)
    if not status or age is None:
        yield warn("backup", "No backup was made yet.", "Make one: appliance backup. The role “backup” makes one every night.")
    elif not status.get("ok"):
        yield fail("backup", f"The last backup failed: {status.get('sentence') or 'no reason was written down.'}"
                   + (f" The last good one is of {status['last_ok_at']}." if status.get("last_ok_at") else ""),
                   "Correct the cause and run: appliance backup")
    elif age > 8 * 24 * _HOUR_S:
        yield fail("backup", f"The last backup is {age / 24 / _HOUR_S:.0f} days old.", "Run: appliance backup; then look at: "
                   "systemctl list-timers 'appliance*'")
    elif age > 30 * _HOUR_S:
        yield warn("backup", f"The last backup is {age / _HOUR_S:.0f} hours old.",
                   "Was the machine off? If not look at: systemctl list-timers 'appliance*'")
    elif status.get("warnings"):
        yield warn("backup", f"The last backup says: {'; '.join(map(str, status['warnings']))}",
                   "Mend what it says; for another place set backup_repository and run the playbook. Then: appliance backup")
    else:
        yield ok("backup", f"The last backup is {max(age, 0) / _HOUR_S:.0f} hours old and went well.")


def served(machine: Machine, plan: Plan) -> tuple[str, str] | None:
    """(PEM, why it is not trusted) of what browsers get; None if nothing speaks TLS."""
    if plan.tls == "off":
        return None
    try:
        return machine.served_certificate("127.0.0.1", plan.https_port, plan.name)
    except OSError:
        return None


def certificate_days(machine: Machine, plan: Plan) -> float | None:
    found = served(machine, plan)
    return days_left(machine, found[0]) if found else None


def check_certificate(machine: Machine, plan: Plan) -> Iterator[Check]:
    if plan.tls == "off":
        yield ok("certificate", "Encryption is off, as it was set.")
        return
    found = served(machine, plan)
    if found is None:
        yield fail("certificate", f"Nothing speaks TLS at port {plan.https_port}.",
                   f"Look at: docker logs --tail 50 {machine.paths.container('traefik')}")
        return
    pem, distrust = found
    yield from judge_certificate(machine, pem, plan.name)
    if not distrust:
        yield ok("certificate-chain", "Browsers trust the certificate.")
    elif plan.tls == "selfsigned":
        yield ok("certificate-chain", "The certificate is signed by the box itself; browsers trust it where the box's root "
                 "certificate "
                 "was installed (the sign-in page says how).")
    else:
        yield warn("certificate-chain", f"This machine does not trust the certificate the box serves: {distrust}.",
                   "Put the certificates of those who signed it behind it in the same file." if plan.tls == "files" else
                   "Let's Encrypt has given none yet, or the staging server is set (traefik_acme_staging_server).")


def check_acme(machine: Machine, plan: Plan) -> Iterator[Check]:
    if plan.tls != "letsencrypt":
        return
    said = read_json(machine.paths.acme_status)
    error, expires = str(said.get("error") or ""), str(said.get("expires_at") or "")
    again = f" It is tried again at {said['retry_at']}." if said.get("retry_at") else ""
    how = "Correct what it names; then: docker restart " + machine.paths.container("hub")
    if not said:
        yield warn("acme", "Nothing is known of Let's Encrypt yet.", "The Hub writes it down some minutes after the start.")
    elif error and expires:
        # the one in use still serves; “certificate” says for how long
        yield warn("acme", f"The certificate could not be renewed: {error.rstrip('.')}.{again}", how)
    elif error:
        yield fail("acme", f"Let's Encrypt gave no certificate: {error.rstrip('.')}.{again}", how)
    elif expires:
        yield ok("acme", f"Let's Encrypt gave a certificate for {', '.join(map(str, said.get('names') or []))}, until "
                 f"{expires}.")
    else:
        yield warn("acme", f"A certificate is being fetched from Let's Encrypt ({said.get('stage') or 'unknown'}).",
                   "Ask again in some minutes.")
