"""`appliance import-jupyterhub`: reads the file, shows what would come, makes it true, says what is left to do."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from appliance import importhomes, jupyterhubfile, sheet
from appliance.admin import Admin
from appliance.config import Settings
from appliance.errors import BadInput, BadOption
from appliance.importer import Importing, people_of
from appliance.importhomes import HomesReport
from appliance.importplan import Plan
from appliance.jupyterhubfile import OldHub
from appliance.main import shown_url

SHOWN = 40       # lines of a kind


def run(settings: Settings, parsed: argparse.Namespace) -> int:
    """Return the exit status."""
    if parsed.sheet == "-" and parsed.json:
        raise BadOption("--sheet - and --json would both use standard output.", action="Name a file with --sheet.")
    old = _read(settings, parsed.file, parsed.dry_run)
    with tempfile.TemporaryDirectory(prefix="import-") as folder, Admin(
            _elsewhere(settings, Path(folder)) if parsed.dry_run else settings) as admin:
        importing = admin.importing(old, with_tokens=not parsed.without_tokens)
        plan = importing.plan()
        done = plan.changed and not parsed.dry_run
        written = _carry_out(settings, parsed, admin, importing, plan) if done else ""
        uids = {user.name: user.uid for user in admin.list_users()}
        homes = importhomes.report(Path(parsed.homes), plan.names, uids, settings.homes_dir) if parsed.homes else None
        without = plan.users and admin.manages_passwords and not written
    if parsed.json:
        print(json.dumps(_as_json(old, plan, homes, dry_run=parsed.dry_run, sheet=written), indent=2, default=str))
        return 0
    lines = _as_text(old, plan, homes)
    lines.append("Nothing to do." if not plan.changed else "All of this is here now." if done else
                 "This was a dry run: nothing was changed.")
    if done and without:
        lines.append("The new accounts have no password yet. Give each one: appliance user passwd NAME")
    elif written not in ("", "-"):
        lines.append(f"The cards with the new passwords are in {written}. Print them, then delete the file.")
    print("\n".join(lines), file=sys.stderr if parsed.sheet == "-" else sys.stdout)
    return 0


def _carry_out(settings: Settings, parsed: argparse.Namespace, admin: Admin, importing: Importing, plan: Plan) -> str:
    """Return the sheet's name, "" if there is none. The sheet is safe on the disk before any account is written."""
    roster = admin.roster(people_of(plan))
    listed = roster.plan()
    if listed.generated and not parsed.sheet and not parsed.without_passwords:
        raise BadInput(f"There is no password for {_counted(len(listed.generated), 'new account')}. Nothing was changed.",
                       action="Name a file for cards to print with --sheet FILE.html, or give them none for now with "
                              "--without-passwords.")
    if not parsed.sheet or not listed.cards:
        importing.apply(plan, {})
        return ""
    hashes = roster.hash(listed)
    page = sheet.render(listed.cards, shown_url(settings))
    if parsed.sheet == "-":
        importing.apply(plan, hashes)
        print(page)
        return "-"
    path = Path(parsed.sheet).absolute()
    sheet.write(path, page)
    try:
        importing.apply(plan, hashes)
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise
    return str(path)


def _elsewhere(settings: Settings, folder: Path) -> Settings:
    """Return settings with which a dry run leaves nothing behind where there is no box yet."""
    scheme, _, path = settings.db_url.partition(":///")
    if scheme != "sqlite" or Path(path).exists():
        return settings
    homes = settings.homes_dir if settings.homes_dir.is_dir() else folder / "homes"
    return replace(settings, db_url=f"sqlite:///{folder}/new.sqlite", homes_dir=homes, event_log_file=None)


def _read(settings: Settings, name: str, dry_run: bool) -> OldHub:
    """name: of a file; - is standard input, which is kept for as long as it is read."""
    if name != "-":
        return jupyterhubfile.read(Path(name))
    if not dry_run:
        settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix="old-hub-", dir=None if dry_run else settings.state_dir) as folder:
        copy = Path(folder) / "jupyterhub.sqlite"
        with copy.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        return jupyterhubfile.read(copy, "What came on standard input")


def _as_text(old: OldHub, plan: Plan, homes: HomesReport | None) -> list[str]:
    version = {"?": ""}.get(old.version, f" {old.version}")
    lines = [f"A database of JupyterHub{version}: {_counted(len(old.users), 'account')}, {_counted(len(old.groups), 'group')}, "
             f"{_counted(len(old.shares), 'share')}."]
    new = [_new_user(user.name, user.was, user.display_name, user.admin) for user in plan.users]
    for title, entries in (
            ("New accounts", new), ("Accounts here that become admins'", plan.new_admins),
            ("Accounts that get a display name", [f"{name}: {shown}" for name, shown in plan.shown_names]),
            ("New groups", plan.groups), ("Properties of groups", [name for name, _ in plan.properties]),
            ("Members of groups", [f"{group}: {name}" for name, group in plan.members]),
            ("Servers", [_server(server.user, server.name) + (f" ({server.display_name})" if server.display_name else "")
                         for server in plan.servers]),
            ("Shares", [f"{_server(share.owner, share.server)} with {share.user or f'the group {share.group}'}: "
                        f"{', '.join(share.names)}" for share in plan.shares]),
            ("API tokens that go on to work", [f"{each.user}: {_printable(each.token.note) or 'without a note'}"
                                               for each in plan.tokens]),
            ("Cannot come", [f"{problem.what}\n      → {problem.action}" for problem in plan.problems]),
            ("Stays behind", _left_behind(old)), ("Note", old.notes)):
        lines += _listed(title, entries)
    return lines + (_homes(homes) if homes is not None else [])


def _left_behind(old: OldHub) -> list[str]:
    found = []
    if old.passwords:
        found.append(f"{_counted(old.passwords, 'password')} of NativeAuthenticator: they are hashes of another kind, which "
                     "nothing here can check. Everybody gets a new one.")
    if old.other_tokens:
        found.append(f"{_counted(old.other_tokens, 'API token')} of services, or chosen by hand: a service's stands in the "
                     "configuration; for others make a new one with: appliance token NAME")
    if old.share_codes:
        found.append(f"{_counted(old.share_codes, 'share code')}: whoever shares makes a new link.")
    if old.services:
        found.append(f"Services made through the REST API ({', '.join(map(_printable, old.services))}): write them into "
                     "c.JupyterHub.services.")
    found += [f"The role {_printable(name)} ({', '.join(map(_printable, holders)) or 'nobody has it'}): write it into "
              "c.JupyterHub.load_roles." for name, holders in old.roles.items()]
    return [*found, "Sessions, running servers and what the sign-in remembered: everybody signs in anew."]


def _homes(homes: HomesReport) -> list[str]:
    lines = _listed("No folder found for", homes.missing)
    lines += _listed("More than one folder could be of", homes.doubtful)
    lines += _listed("Folders of nobody in the file", homes.others)
    later = [f"{home.name}: {home.source}" for home in homes.found if not home.command]
    lines += _listed("Homes whose commands are told once the accounts are here (run this again then)", later)
    commands = [home.command for home in homes.found if home.command]
    if commands:
        lines += [f"Copy the homes, as root, while their servers are stopped: {len(commands)}", *commands]
    return lines


def _listed(title: str, entries: Sequence[str]) -> list[str]:
    if not entries:
        return []
    more = [f"  … and {len(entries) - SHOWN} more"] if len(entries) > SHOWN else []
    return [f"{title}: {len(entries)}", *(f"  {entry}" for entry in entries[:SHOWN]), *more]


def _new_user(name: str, was: str, display_name: str, admin: bool) -> str:
    said = [display_name, f"there as {_printable(was)}" if was != name else "", "an admin" if admin else ""]
    more = ", ".join(word for word in said if word)
    return f"{name} ({more})" if more else name


def _server(owner: str, name: str) -> str:
    return f"{owner}'s server “{name}”" if name else f"{owner}'s default server"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)[:80]


def _as_json(old: OldHub, plan: Plan, homes: HomesReport | None, *, dry_run: bool, sheet: str) -> dict[str, object]:
    return {
        "changed": plan.changed, "dry_run": dry_run, "version": old.version, "sheet": sheet or None,
        "users": [asdict(user) for user in plan.users], "new_admins": list(plan.new_admins),
        "display_names": dict(plan.shown_names), "groups": list(plan.groups), "properties": dict(plan.properties),
        "members": [{"user": name, "group": group} for name, group in plan.members],
        "servers": [asdict(server) for server in plan.servers], "shares": [asdict(share) for share in plan.shares],
        "tokens": [{"user": each.user, "note": each.token.note, "scopes": list(each.token.scopes)} for each in plan.tokens],
        "problems": [asdict(problem) for problem in plan.problems], "left_behind": _left_behind(old), "notes": list(old.notes),
        "homes": None if homes is None else asdict(homes),
    }
