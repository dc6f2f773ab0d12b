"""What each command of the command line does and prints. The work itself is `main`'s and `admin`'s, imported when needed."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from traitlets.config import Configurable

from appliance.config import Settings
from appliance.errors import BadInput, Exists, Misconfigured

ADMIN = "admin"
PASSWORD_VARIABLE = "APPLIANCE_ADMIN_PASSWORD"


def run(settings: Settings) -> int:
    from appliance import main

    return main.run_hub(settings)


def stop(settings: Settings, parsed: argparse.Namespace) -> int:
    from appliance import main

    return main.stop(settings, servers=parsed.servers)


def prepare(settings: Settings, parsed: argparse.Namespace) -> int:
    from appliance import main

    return main.prepare(settings)


def upgrade_db(settings: Settings, parsed: argparse.Namespace) -> int:
    from appliance import main

    print(main.upgrade_db(settings))
    return 0


def downgrade_db(settings: Settings, parsed: argparse.Namespace) -> int:
    from appliance import upkeep

    print(upkeep.downgrade_db(settings, parsed.revision, parsed.database))
    return 0


def trial(settings: Settings, parsed: argparse.Namespace) -> int:
    from appliance import upkeep

    print("The trial went well: " + "; ".join(upkeep.trial(settings, parsed.database)) + ".")
    return 0


def facts(settings: Settings, parsed: argparse.Namespace) -> int:
    from appliance import upkeep

    print(upkeep.as_json(upkeep.facts(settings)))
    return 0


def generate_config(path: Path, classes: Iterable[type[Configurable]], *, replace: bool) -> int:
    """Write a file in which every option stands as a comment with its default."""
    classes = list(classes)
    lines = ["# Configuration of the classroom box. Each option is shown with its default; take the # away to change it.", "",
             "c = get_config()  # noqa", ""]
    text = "\n".join([*lines, *(_section(cls, classes) for cls in classes)])
    try:
        with path.open("w" if replace else "x", encoding="utf-8") as file:
            file.write(text + "\n")
    except FileExistsError:
        raise Misconfigured(f"{path} is there already and was left alone. Give -y to replace it.") from None
    except OSError as error:
        raise Misconfigured(f"{path} cannot be written: {error.strerror or error}.") from error
    print(f"Wrote {path}, with every option as a comment.")
    return 0


def _section(cls: type[Configurable], classes: list[type[Configurable]]) -> str:
    probe = cls.__new__(cls)  # with traits, but without whatever its __init__ does
    return re.sub(
        r"(?m)^(#  Default: )traitlets\.Undefined\n(# c\.\w+\.(\w+) = )traitlets\.Undefined$",  # a Union's, until asked
        lambda found: f"{found[1]}{getattr(probe, found[3])!r}\n{found[2]}{getattr(probe, found[3])!r}",
        cls.class_config_section(classes))


# ------------------------------------------------------------------------------------------------------------ accounts --
def user_add(settings: Settings, parsed: argparse.Namespace) -> int:
    from appliance.admin import Admin

    with Admin(settings) as admin:
        given = _password_of(parsed, admin)
        password = given or (_generate() if admin.manages_passwords else None)
        user = admin.add_user(parsed.name, admin=parsed.admin, password=password)
    print(f"Added {user.name}{', an admin' if user.admin else ''}.")
    if password is None:
        print("Passwords of these accounts are kept elsewhere; there is none to set here.")
    else:
        _show(user.name, password, generated=given is None)
    return 0


def user_passwd(settings: Settings, parsed: argparse.Namespace) -> int:
    from appliance.admin import Admin

    with Admin(settings) as admin:
        given = _password_of(parsed, admin)
        if not admin.manages_passwords:
            raise BadInput("Passwords of these accounts are kept elsewhere and cannot be changed here.",
                           action="Change it where it is kept; for a user of this machine, with passwd.")
        password = given or _generate()
        admin.set_password(parsed.name, password, must_change=True)
    print(f"Set the password of {parsed.name}.")
    _show(parsed.name, password, generated=given is None)
    return 0


def user_list(settings: Settings, parsed: argparse.Namespace) -> int:
    from appliance.admin import Admin

    with Admin(settings) as admin:
        users, groups = sorted(admin.list_users(), key=lambda user: user.name), admin.groups()
    if parsed.json:
        print(json.dumps([
            {"name": user.name, "admin": user.admin, "uid": user.uid, "created": _iso(user.created_at),
             "last_activity": _iso(user.last_activity_at), "must_change_password": user.must_change_password,
             "display_name": user.display_name, "groups": list(groups.get(user.id, ())), "archived": user.archived}
            for user in users], indent=2))
        return 0
    rows = [("NAME", "DISPLAY NAME", "GROUPS", "ADMIN", "CREATED", "LAST SEEN")]
    rows += [(user.name, user.display_name, ", ".join(groups.get(user.id, ())), "yes" if user.admin else "",
              _local(user.created_at), "archived" if user.archived else _local(user.last_activity_at)) for user in users]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows if users else ():
        print("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())
    if not users:
        print("There are no accounts yet; add one with: appliance user add NAME")
    return 0


def user_archive(settings: Settings, parsed: argparse.Namespace) -> int:
    from appliance.admin import Admin

    with Admin(settings) as admin:
        done = admin.archive_user(parsed.name)
    print(f"Archived {parsed.name}. Nobody can sign in with it; its files stay." if done
          else f"{parsed.name} is archived already.")
    return 0


def user_unarchive(settings: Settings, parsed: argparse.Namespace) -> int:
    from appliance.admin import Admin

    with Admin(settings) as admin:
        done = admin.unarchive_user(parsed.name)
    print(f"{parsed.name} can be used again, with the password it had." if done else f"{parsed.name} is not archived.")
    return 0


def roster_apply(settings: Settings, parsed: argparse.Namespace) -> int:
    from appliance.rostercommand import apply

    return apply(settings, parsed)


def import_jupyterhub(settings: Settings, parsed: argparse.Namespace) -> int:
    from appliance.importcommand import run

    return run(settings, parsed)


def user_delete(settings: Settings, parsed: argparse.Namespace) -> int:
    from appliance.admin import Admin

    if not hasattr(parsed, "yes"):
        if not sys.stdin.isatty():
            raise BadInput(f"Deleting {parsed.name!r} needs a yes.", action="Add --yes where nobody can be asked.")
        if input(f"Delete the account {parsed.name}? Its files stay. [y/N] ").strip().lower() not in ("y", "yes"):
            print("Nothing was deleted.")
            return 1
    with Admin(settings) as admin:
        admin.delete_user(parsed.name)
    print(f"Deleted {parsed.name}. The files of that account stay in {settings.homes_dir}.")
    return 0


def user_ensure_admin(settings: Settings, parsed: argparse.Namespace) -> int:
    """A password from the environment is for machines and stays; one that was printed has to be changed."""
    from appliance.admin import Admin

    with Admin(settings) as admin:
        if admin.has_admin():
            print("There is an admin already.")
            return 0
        if not admin.manages_passwords:
            print("Passwords are kept elsewhere, so no account was made; name admins in c.Authenticator.admin_users.")
            return 0
        given = os.environ.get(PASSWORD_VARIABLE) or None
        password = given or _generate()
        try:
            admin.add_user(ADMIN, admin=True, password=password, must_change=given is None)
        except Exists:  # put back from its home after the database was lost
            admin.set_password(ADMIN, password, must_change=given is None)
            admin.make_admin(ADMIN)
    if given:
        print(f"Added the admin “{ADMIN}” with the password from {PASSWORD_VARIABLE}.")
    else:
        print(f"Added the admin “{ADMIN}”. Password, shown only this once: {password}")
    return 0


def token(settings: Settings, parsed: argparse.Namespace) -> int:
    from appliance.admin import Admin

    with Admin(settings) as admin:
        print(admin.create_token(parsed.name, parsed.note, parsed.expires_in, parsed.scope or ["inherit"]))  # alone, for $(…)
    return 0


def smoke(settings: Settings, parsed: argparse.Namespace) -> int:
    from appliance import smoke

    def tell(part: smoke.Part) -> None:
        mark = "skip" if part.ok is None else "ok" if part.ok else "FAILED"
        print(f"{mark:>6}  {part.name:<10} {part.seconds:6.2f} s  {part.sentence}", flush=True)
        if part.action and part.ok is False:
            print(f"{'':8}→ {part.action}", flush=True)

    result = smoke.run(settings, url=parsed.url, ca_file=parsed.ca_file, told=(lambda part: None) if parsed.json else tell)
    if parsed.json:
        print(json.dumps(result.as_json(), indent=2, ensure_ascii=False))
    else:
        print(f"The box {'works' if result.ok else 'does not work as it should'} at {result.url} ({result.seconds:.1f} s).")
    return 0 if result.ok else 1


def _password_of(parsed: argparse.Namespace, admin: object) -> str | None:
    if not parsed.password_stdin:
        return None
    if not getattr(admin, "manages_passwords", True):
        raise BadInput("Passwords of these accounts are kept elsewhere, so none can be given here.",
                       action="Leave --password-stdin away.")
    try:
        password = sys.stdin.readline().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise BadInput("The password on standard input is not UTF-8 text.") from error
    if not password:
        raise BadInput("There was no password on standard input.", action="Give it as the first line.")
    return password


def _show(name: str, password: str, *, generated: bool) -> None:
    if generated:
        print(f"Password of {name}, shown only this once: {password}")
    print("It has to be changed at the first sign-in.")


def _generate() -> str:
    from appliance.authenticators.local import generate_password

    return generate_password()


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def _local(at: datetime | None) -> str:
    return at.astimezone().strftime("%Y-%m-%d %H:%M") if at else "never"
