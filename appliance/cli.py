"""The command `appliance`, which also answers to the name `jupyterhub`."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from traitlets.config import Configurable

from appliance import __version__, commands, config, plugins
from appliance.errors import ApplianceError, BadInput, BadOption, Misconfigured, NotFound

_EPILOG = """\
Any option of the configuration can be set as --Class.option=VALUE, for example
--DockerSpawner.image=my/image; --help-all lists them.
"""
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, or 1 with a sentence on stderr."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(argv)
    except ApplianceError as error:
        if "--debug" in argv:
            raise
        print(f"{_program()}: {_sentences(error)}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at its end
    except PermissionError as error:
        if "--debug" in argv:
            raise
        print(f"{_program()}: {error.filename} may not be used by this user; run it as root, with sudo.", file=sys.stderr)
    except Exception as error:  # the program's root: nobody at a terminal reads tracebacks
        if "--debug" in argv:
            raise
        print(f"{_program()}: This should not have happened ({type(error).__name__}: {error}). "
              "Run it again with --debug to see where.", file=sys.stderr)
    return 1


def _run(argv: list[str]) -> int:
    rest, options = config.split_options(argv)
    parsed = _parser().parse_args(rest)
    file = getattr(parsed, "config", None)
    if parsed.help_all:
        print(_parser().format_help() + "\n" + "\n\n".join(cls.class_get_help() for cls in configurable_classes()))
        return 0
    if parsed.generate_config:
        return commands.generate_config(
            Path(file or config.DEFAULT_FILE), configurable_classes(), replace=hasattr(parsed, "yes"))
    settings = config.settings_from(file, config.overrides(parsed, options))
    command = getattr(parsed, "command", None)
    return int(command(settings, parsed)) if command else commands.run(settings)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Misconfigured(f"{message[0].upper()}{message[1:]}; see “{self.prog} --help”.")


def _program() -> str:
    name = Path(sys.argv[0]).name
    return name if name in ("appliance", "jupyterhub") else "appliance"


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=_program(), allow_abbrev=False, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="A classroom box: people sign in with a browser and each gets a server of their own. "
                    "Without a\ncommand this runs the Hub.")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--help-all", action="store_true", help="also show every option of the configuration")
    parser.add_argument("--generate-config", action="store_true",
                        help=f"write {config.DEFAULT_FILE} with every option as a comment")
    _yes(parser, "replace a file that is there")
    config.add_arguments(parser)
    commanding = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)

    def add(where: Any, name: str, does: Any, text: str, **more: Any) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = where.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False, **more)
        sub.set_defaults(command=does)
        config.add_arguments(sub, {"--db"})
        return sub

    stop = add(commanding, "stop", commands.stop, "end the Hub and Traefik; servers go on")
    stop.add_argument("--servers", action="store_true", help="end the servers too; files stay")
    add(commanding, "prepare", commands.prepare,
        "make the folders and write what a Traefik reads that something else starts, as compose.yaml does")
    add(commanding, "upgrade-db", commands.upgrade_db, "bring the database to this program's version")
    one = add(commanding, "downgrade-db", commands.downgrade_db, "take the database back to an older schema, data kept")
    one.add_argument("revision", metavar="SCHEMA", help="the schema that the older program knows, like 0001")
    one.add_argument("--database", metavar="COPY", default="", help="work on this copy instead")
    one = add(commanding, "trial", commands.trial, "start on a copy of the database, ask for the first pages, and end")
    one.add_argument("--database", metavar="COPY", required=True, help="the copy; it is brought to this program's version")
    add(commanding, "facts", commands.facts, "print what the box's own tools ask for, as JSON")
    user = commanding.add_parser("user", help="add, list, archive and delete accounts, set passwords", allow_abbrev=False)
    users = user.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    one = add(users, "add", commands.user_add, "add an account; prints a password unless one is given")
    _name(one)
    one.add_argument("--admin", action="store_true", help="make it an admin's")
    _password(one)
    one = add(users, "list", commands.user_list, "list the accounts")
    one.add_argument("--json", action="store_true", help="for programs")
    one = add(users, "passwd", commands.user_passwd, "set a password; prints one unless one is given")
    _name(one)
    _password(one)
    one = add(users, "archive", commands.user_archive,
              "put an account away: nobody signs in, nothing runs, files and name stay")
    _name(one)
    one = add(users, "unarchive", commands.user_unarchive, "bring an archived account back")
    _name(one)
    one = add(users, "delete", commands.user_delete, "delete an account; its files stay")
    _name(one)
    _yes(one, "do not ask")
    add(users, "ensure-admin", commands.user_ensure_admin,
        "add the account “admin” unless there is an admin; APPLIANCE_ADMIN_PASSWORD may hold its password")
    roster = commanding.add_parser("roster", help="a whole class at once", allow_abbrev=False)
    rosters = roster.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    one = add(rosters, "apply", commands.roster_apply, "make the accounts what a list says; never deletes one")
    one.add_argument("file", metavar="FILE", help="the list; - is standard input")
    one.add_argument("--format", choices=("csv", "json"), help="of the list (default: as it looks)")
    one.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")
    one.add_argument("--archive-missing", action="store_true", help="archive accounts that are not on the list; admins' stay")
    one.add_argument("--sheet", metavar="FILE.html", help="write new passwords as cards to print; - is standard output")
    one.add_argument("--address", metavar="URL", help="the address on the cards (default: c.JupyterHub.public_url)")
    one.add_argument("--json", action="store_true", help="for programs")
    _yes(one, "also archive everybody, or take the last admin's rights")
    one = add(commanding, "import-jupyterhub", commands.import_jupyterhub,
              "bring accounts, groups and shares of an original JupyterHub here; its file is only read")
    one.add_argument("file", metavar="FILE", help="its database, usually jupyterhub.sqlite; - is standard input")
    one.add_argument("--dry-run", action="store_true", help="say what would come, and change nothing")
    one.add_argument("--sheet", metavar="FILE.html", help="write new passwords as cards to print; - is standard output")
    one.add_argument("--without-passwords", action="store_true", help="give new accounts no password yet")
    one.add_argument("--without-tokens", action="store_true", help="leave the API tokens of people's scripts behind")
    one.add_argument("--homes", metavar="FOLDER", help="also say which folder in it is whose, and the command that copies it")
    one.add_argument("--json", action="store_true", help="for programs")
    smoke = add(commanding, "smoke", commands.smoke, "try the whole box as a student uses it; cleans up after itself")
    smoke.add_argument("--url", default="", help="the box's address (default: the one it shows)")
    smoke.add_argument("--ca-file", default="", metavar="FILE", help="trust this authority's certificate, too")
    smoke.add_argument("--json", action="store_true", help="for programs")
    token = add(commanding, "token", commands.token, "print a new API token of an account")
    _name(token)
    token.add_argument("--note", default="from the command line", help="what it is for")
    token.add_argument("--expires-in", type=duration_s, metavar="TIME", help="like 3600, 12h or 30d (default: never)")
    token.add_argument("--scope", action="append", metavar="SCOPE",
                       help="what it may do, like read:users or servers!user; may be given several times (default: all that "
                            "the account may)")
    return parser


def _name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME")


def _yes(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("-y", "--yes", action="store_true", default=argparse.SUPPRESS, help=text)


def _password(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--password-stdin", action="store_true", help="read the password from the first line of input")


def duration_s(text: str) -> int:
    """Return seconds of "3600", "12h", "30d". Raises BadOption; none, nothing and less than nothing are no duration."""
    match = re.fullmatch(r"(\d{1,9})([smhdw]?)", text.strip())
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < seconds <= 100 * 365 * 86400:
        raise BadOption(f"“{text}” is not a time.", action="Write it like 3600, 12h or 30d.")
    return seconds


def configurable_classes() -> Iterator[type[Configurable]]:
    """Yield every class with options, parents first: the box, then all drivers that are there."""
    seen: set[type] = set()
    classes: list[type[Any]] = [config.JupyterHub]
    classes += [plugins.find(kind, name) for kind in plugins.KINDS for name in kind.builtin]
    for cls in classes:
        for parent in reversed(cls.mro()):
            if parent not in seen and issubclass(parent, Configurable) and parent.class_own_traits(config=True):
                seen.add(parent)
                yield parent


def _sentences(error: ApplianceError) -> str:
    """What to do is said where the error knows better than its class, whose words are for people at a browser."""
    general = error.action == type(error).action and isinstance(error, (BadInput, Misconfigured, NotFound))
    return error.sentence if general or error.action in error.sentence else f"{error.sentence} {error.action}"


if __name__ == "__main__":
    sys.exit(main())
