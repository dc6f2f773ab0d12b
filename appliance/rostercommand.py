"""`appliance roster apply`: reads the list, shows the difference, writes the sheet, makes it true."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import suppress
from pathlib import Path

from appliance import rosterfile, sheet
from appliance.admin import Admin
from appliance.config import Settings
from appliance.errors import BadInput, BadOption
from appliance.main import shown_url
from appliance.roster import Applying, Plan, WrongRoster
from appliance.rosterfile import Person, Problem

SHOWN = 40       # lines of a kind


def apply(settings: Settings, parsed: argparse.Namespace) -> int:
    """Return the exit status. With --json everything, mistakes too, is one object on standard output."""
    if parsed.sheet == "-" and parsed.json:
        raise BadOption("--sheet - and --json would both use standard output.", action="Name a file with --sheet.")
    warnings: list[str] = []
    try:
        return _apply(settings, parsed, warnings)
    except WrongRoster as error:
        if not parsed.json:
            raise
        print(json.dumps({"changed": False, "errors": [
            {"line": problem.line, "error": problem.sentence} for problem in error.problems], "warnings": warnings}))
        return 1


def _apply(settings: Settings, parsed: argparse.Namespace, warnings: list[str]) -> int:
    roster = rosterfile.read(_content(parsed.file), parsed.format or "")
    warnings += roster.warnings
    if roster.problems:
        raise WrongRoster(roster.problems)
    with Admin(settings) as admin:
        applying = admin.roster(roster.people, archive_missing=parsed.archive_missing, yes=hasattr(parsed, "yes"))
        plan = applying.plan()
        written = ""
        if not parsed.dry_run:
            written = _carry_out(settings, parsed, applying, plan, roster.people)
    if parsed.json:
        print(json.dumps(_as_json(plan, warnings, dry_run=parsed.dry_run, sheet=written), indent=2))
    else:
        out = sys.stderr if parsed.sheet == "-" else sys.stdout
        for warning in warnings:
            print(f"Note: {warning}", file=out)
        print(_as_text(plan, dry_run=parsed.dry_run, sheet=written), file=out)
    return 0


def _carry_out(settings: Settings, parsed: argparse.Namespace, applying: Applying, plan: Plan,
               people: tuple[Person, ...]) -> str:
    """Return the sheet's name, "" if there is none. The sheet is safe on the disk before any account is written."""
    if plan.generated and not parsed.sheet:
        lines = [Problem(person.line, f"{person.name} has no password, and there is no sheet to print a new one on.")
                 for person in people if person.name in plan.generated]
        raise WrongRoster([*lines[:3], Problem(0, f"{len(plan.generated)} new accounts need a password: name a file for the "
                                                  "cards with --sheet FILE.html, or give passwords in the list.")])
    hashes = applying.hash(plan)
    if not plan.changed:
        return ""
    path = Path(parsed.sheet).absolute() if parsed.sheet and parsed.sheet != "-" and plan.cards else None
    page = sheet.render(plan.cards, parsed.address or shown_url(settings))
    if path is not None:
        sheet.write(path, page)
    try:
        applying.apply(plan, hashes)
    except BaseException:
        if path is not None:
            with suppress(OSError):
                path.unlink()
        raise
    if parsed.sheet == "-" and plan.cards:
        print(page)
        return "-"
    return str(path) if path is not None else ""


def _content(name: str) -> bytes:
    try:
        if name == "-":
            return sys.stdin.buffer.read(rosterfile.MAX_BYTES + 1)
        with open(name, "rb") as file:
            return file.read(rosterfile.MAX_BYTES + 1)
    except OSError as error:
        raise BadInput(f"The list {name} cannot be read: {error.strerror or error}.",
                       action="Check its name; - reads standard input.") from error


def _as_json(plan: Plan, warnings: list[str], *, dry_run: bool, sheet: str) -> dict[str, object]:
    return {
        "changed": plan.changed, "dry_run": dry_run,
        "added": [{"name": name, "password": "generated" if name in plan.generated else
                   "given" if name in plan.passwords else "none"} for name in plan.names("added")],
        "updated": {name: {change.what: {"before": change.before, "after": change.after} for change in changes}
                    for name, changes in plan.updated().items()},
        "archived": plan.names("archived"), "missing": list(plan.missing), "missing_admins": list(plan.missing_admins),
        "unchanged": plan.unchanged, "sheet": sheet or None, "warnings": warnings, "errors": [],
    }


def _as_text(plan: Plan, *, dry_run: bool, sheet: str) -> str:
    lines: list[str] = []
    added = [f"{change.name} ({change.after})" if change.after else change.name
             for change in plan.changes if change.what == "added"]
    updated = [f"{name}: {'; '.join(_told(change.what, change.before, change.after) for change in changes)}"
               for name, changes in plan.updated().items()]
    would = "would be " if dry_run else ""
    for title, entries in ((f"New, {would}added", added), (f"Changed, {would}updated", updated),
                           (f"Not on the list, {would}archived", plan.names("archived")),
                           ("Not on the list, left as they are (--archive-missing archives them)", plan.missing),
                           ("Admins who are not on the list, left as they are", plan.missing_admins)):
        if entries:
            lines.append(f"{title}: {len(entries)}")
            lines += [f"  {entry}" for entry in entries[:SHOWN]]
            lines += [f"  … and {len(entries) - SHOWN} more"] if len(entries) > SHOWN else []
    if plan.unchanged:
        lines.append(f"Unchanged: {plan.unchanged}")
    if not plan.changed:
        lines.append("Nothing to do.")
    elif dry_run:
        lines.append("This was a dry run: nothing was changed.")
    if sheet and sheet != "-":
        lines.append(f"The cards with {len(plan.cards)} new password{'' if len(plan.cards) == 1 else 's'} are in {sheet}. "
                     "Print them, then delete the file.")
    return "\n".join(lines)


def _told(what: str, before: str, after: str) -> str:
    if what == "password":
        return "a new password"
    if what == "unarchived":
        return "back from the archive"
    return f"{what} “{before}” → “{after}”"
