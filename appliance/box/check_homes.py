"""Checks of what homes will be made of. A disk with anything on it is refused: nothing here is ever formatted."""

from __future__ import annotations

import csv
import io
import ssl
from collections.abc import Iterator
from typing import Any

from appliance.box.checks import Check, fail, ok, warn
from appliance.box.machine import Machine
from appliance.box.plan import Plan, parse_size
from appliance.box.shell import size

_NEVER = "The box never formats a disk that has something on it. "
_HEAD_BYTES = 1024 * 1024


def check_kind_of_database(machine: Machine, plan: Plan) -> Iterator[Check]:
    """Say nothing where there is no database yet."""
    data = machine.paths.at(plan.data)
    there = {"sqlite": (data / "jupyterhub.sqlite").exists(), "postgres": any((data / "postgres").glob("[0-9]*/PG_VERSION"))}
    other = "sqlite" if plan.database == "postgres" else "postgres"
    if there[other] and not there[plan.database]:
        yield fail("database-kind", f"This box keeps its accounts in {_DATABASES[other]}, and is to use "
                   f"{_DATABASES[plan.database]}: they are not moved from one to the other.",
                   f"Leave hub_database at {other}. Or begin anew, without the accounts: appliance uninstall (homes stay), "
                   "then the playbook.")
    elif there[plan.database]:
        yield ok("database-kind", f"The accounts are in {_DATABASES[plan.database]}.")


_DATABASES = {"sqlite": "SQLite", "postgres": "PostgreSQL"}


def check_homes(machine: Machine, plan: Plan) -> Iterator[Check]:
    limited = plan.quota not in ("", "0")
    if plan.homes_kind == "disk":
        yield _disk(machine, plan)
    elif plan.homes_kind == "mount":
        yield _mount(machine, plan, limited=limited)
    elif plan.homes_kind == "loop":
        yield _loop(machine, plan)
    elif limited:
        yield warn("homes", f"Homes are a plain folder ({plan.homes}), which knows no quota: one student can fill the disk "
                   "for all.",
                   "Use storage_homes: loop or disk for a quota, or set storage_quota to \"\" to say that this is meant.")
    else:
        yield ok("homes", f"Homes are a plain folder ({plan.homes}), without a quota.")


def _disk(machine: Machine, plan: Plan) -> Check:
    device = plan.homes_device
    if not device:
        return fail("homes", "Homes are to be on a disk of their own, but none is named.",
                    "Set storage_homes_device, best to a name under /dev/disk/by-id/. “lsblk” lists the disks.")
    if not machine.exists(device):
        return fail("homes", f"There is no disk {device}.", "“lsblk” lists the disks; set storage_homes_device.")
    found = machine.json_of("lsblk", "--json", "--bytes", "--output", "NAME,TYPE,FSTYPE,LABEL,SIZE,RO,MOUNTPOINT", device)
    try:
        entry: dict[str, Any] = found["blockdevices"][0]
    except (TypeError, KeyError, IndexError):
        return fail("homes", f"{device} is no disk.", "“lsblk” lists the disks; set storage_homes_device.")
    if entry.get("ro") in (True, "1", 1):
        return fail("homes", f"The disk {device} is read-only.", "Use another one.")
    kind, label = _signature(machine, device)
    ours = kind == "btrfs" and label == plan.homes_label
    mounted = entry.get("mountpoint")
    if ours:
        if mounted and mounted != plan.homes:
            return fail("homes", f"The disk {device} with the homes is mounted at {mounted}, not at {plan.homes}.",
                        f"Unmount it (umount {mounted}) and take it out of /etc/fstab.")
        return ok("homes", f"The disk {device} holds this box's homes already; they stay.")
    children = entry.get("children") or []
    if children:
        names = ", ".join(str(child.get("name")) for child in children)
        return fail("homes", f"The disk {device} has partitions or volumes on it ({names}).",
                    f"{_NEVER}Use an empty one; if nobody needs what is on it: wipefs --all {device}")
    if mounted:
        return fail("homes", f"The disk {device} is in use at {mounted}.", f"{_NEVER}Use an empty one.")
    if kind:
        return fail("homes", f"The disk {device} is not empty: there is a file system or table of the kind {kind} on it"
                    f"{f' (“{label}”)' if label else ''}.",
                    f"{_NEVER}Use an empty one; if nobody needs what is on it: wipefs --all {device}")
    try:
        with machine.paths.at(device).open("rb") as disk:
            used = any(disk.read(_HEAD_BYTES))
    except OSError as error:
        return fail("homes", f"The disk {device} cannot be read: {error.strerror or error}.", "Use another one.")
    if used:
        return fail("homes", f"The disk {device} is not empty: it begins with data of no known kind, perhaps encrypted.",
                    f"{_NEVER}Use an empty one; if nobody needs what is on it: blkdiscard -f {device}, or "
                    f"dd if=/dev/zero of={device} bs=1M count=16")
    total = int(entry.get("size") or 0)
    if total < 1024 ** 3:
        return fail("homes", f"The disk {device} has only {size(total)}.", "Use one of at least 1 GiB.")
    return ok("homes", f"The disk {device} is empty ({size(total)}); homes go there, with a quota for each.")


def _signature(machine: Machine, device: str) -> tuple[str, str]:
    """Return (kind, label) of what is on a disk; empty if blkid finds nothing. Reads the disk, not udev's notes."""
    said = machine.run("blkid", "--probe", "--output", "export", device)
    values = dict(line.partition("=")[::2] for line in said.stdout.splitlines())
    if said.returncode not in (0, 2):
        return said.words, ""  # 8: several signatures at once; anything else is a reason to refuse as well
    return values.get("TYPE") or values.get("PTTYPE") or "", values.get("LABEL", "")


def _mount(machine: Machine, plan: Plan, *, limited: bool) -> Check:
    mounted = machine.mounts.get(plan.homes.rstrip("/"))
    if mounted is None:
        return fail("homes", f"Nothing is mounted at {plan.homes}, where homes are to be.",
                    f"Mount it there and enter it in /etc/fstab: mkdir -p {plan.homes}; mount DISK {plan.homes}")
    if limited and mounted[1] != "btrfs":
        return fail("homes", f"What is mounted at {plan.homes} is {mounted[1]}, which gives no student a quota of their own; "
                    "only btrfs does.", "Use a btrfs file system, or set storage_quota to \"\".")
    if mounted[1] in ("nfs", "nfs4", "cifs", "fuse.sshfs"):
        return warn("homes", f"Homes are on another machine ({mounted[0]}). While it does not answer no server starts.",
                    "A disk of this machine is quicker and safer.")
    return ok("homes", f"Homes are on {mounted[0]} ({mounted[1]}), mounted at {plan.homes}.")


def _loop(machine: Machine, plan: Plan) -> Check:
    wanted, file = parse_size(plan.homes_size), machine.paths.at(plan.loop_file)
    if file.exists():
        kind, label = _signature(machine, plan.loop_file)
        if not file.is_file() or (kind, label) not in (("btrfs", plan.homes_label), ("", "")):
            return fail("homes", f"{plan.loop_file} is there already and does not hold this box's homes"
                        f"{f' ({kind})' if kind else ''}.", "Move it away; the box overwrites no file it did not make.")
        there = file.stat().st_size
        if there > wanted:
            return ok("homes", f"The homes' file {plan.loop_file} has {size(there)}, more than asked for; it is never made "
                      "smaller.")
        return ok("homes", f"The homes' file {plan.loop_file} holds this box's homes already; they stay.")
    if wanted < 1024 ** 3:
        return fail("homes", f"A file of {size(wanted)} is too small for homes.", "Set storage_homes_size to at least 1G.")
    foreign = machine.paths.at(plan.homes)
    if plan.homes.rstrip("/") not in machine.mounts and foreign.is_dir() and any(foreign.iterdir()):
        return fail("homes", f"{plan.homes} holds files, which a file system mounted there would hide.",
                    "Move them away, or set storage_homes: directory to go on with them.")
    limit = parse_size(plan.quota or "0")
    enough = f", enough for {wanted // limit} students who use all of their {size(limit)}" if limit else ""
    return ok("homes", f"Homes go into the file {plan.loop_file} of {size(wanted)}{enough}.")


def check_users_file(machine: Machine, plan: Plan) -> Iterator[Check]:
    """Only whether it is a list with names at all; what it would change is `appliance roster`'s to say."""
    if not plan.users_file:
        return
    try:
        text = machine.paths.at(plan.users_file).read_bytes().decode("utf-8-sig")
    except OSError as error:
        yield fail("users-file", f"The list of users {plan.users_file} cannot be read: {error.strerror or error}.",
                   "Correct appliance_users_file.")
        return
    except UnicodeDecodeError:
        yield fail("users-file", f"The list of users {plan.users_file} is not UTF-8 text.",
                   "Save it again as “CSV UTF-8”.")
        return
    lines = text.splitlines()
    delimiter = max(",;\t", key=lines[0].count) if lines else ","
    rows = list(csv.DictReader(io.StringIO(text), delimiter=delimiter))
    header = [str(each).strip().lower() for each in (rows[0] if rows else {})]
    if "name" not in header:
        yield fail("users-file", f"The list of users {plan.users_file} has no column “name” in its first line"
                   f"{f' (it has {chr(44).join(header)})' if header else ', or nobody in it'}.",
                   "Let the first line be: name,display_name,group,password")
        return
    names = [str(value or "").strip().lower() for row in rows for key, value in row.items()
             if str(key).strip().lower() == "name"]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        yield fail("users-file", f"The list of users has some names twice: {', '.join(twice[:5])}.",
                   "Give each a name of its own.")
    elif not all(names):
        yield fail("users-file", f"Line {names.index('') + 2} of the list of users has no name.",
                   "Fill it in or remove the line.")
    else:
        yield ok("users-file", f"The list of users has {len(names)} names.")


def check_certificate_files(machine: Machine, plan: Plan) -> Iterator[Check]:
    """Of TLS mode `files`."""
    if plan.tls != "files":
        return
    if not plan.tls_certificate or not plan.tls_key:
        yield fail("certificate", "Encryption is to use your own certificate, but its files are not named.",
                   "Set traefik_tls_certificate and traefik_tls_key.")
        return
    certificate, key = (machine.paths.at(path) for path in (plan.tls_certificate, plan.tls_key))
    for path in (certificate, key):
        if not path.is_file():
            yield fail("certificate", f"There is no file {path}.", "Correct traefik_tls_certificate and traefik_tls_key.")
            return
    try:
        # an empty password: without one OpenSSL asks at the terminal for that of an encrypted key
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key, password="")
    except (OSError, ssl.SSLError) as error:
        yield fail("certificate",
                   f"The certificate {plan.tls_certificate} cannot be used with the key {plan.tls_key} ({error}).",
                   "Give a certificate with those that signed it, and its key without a password, both as PEM.")
        return
    yield from judge_certificate(machine, machine.read(plan.tls_certificate), plan.name)


def judge_certificate(machine: Machine, pem: str, name: str) -> Iterator[Check]:
    """Whether it is still valid, for long enough, and for `name`. The first certificate in `pem` counts."""
    days = days_left(machine, pem)
    if days is None:
        yield warn("certificate", "When the certificate ends could not be read.", "Is the program openssl installed?")
        return
    if days < 0:
        yield fail("certificate", f"The certificate ended {-days:.0f} days ago; browsers refuse it.", "Put a new one in place.")
    elif days < 14:
        yield warn("certificate", f"The certificate ends in {days:.0f} days.", "Put a new one in place before that.")
    else:
        yield ok("certificate", f"The certificate is valid for {days:.0f} more days.")
    if name:
        question = "-checkip" if name.replace(".", "").isdigit() or ":" in name else "-checkhost"
        done = machine.run("openssl", "x509", "-noout", question, name, input=pem)
        if "does NOT match" in done.stdout:
            yield fail("certificate-name", f"The certificate is not for “{name}”; browsers refuse it.",
                       "Get one for that name, or correct appliance_name.")


def days_left(machine: Machine, pem: str) -> float | None:
    said = machine.run("openssl", "x509", "-noout", "-enddate", input=pem).stdout
    try:
        return (ssl.cert_time_to_seconds(said.partition("=")[2].strip()) - machine.now()) / 86400
    except ValueError:
        return None
