"""The command `appliance` on a box. What it does not know itself is the Hub's, and is handed to the Hub's container."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType
from typing import NoReturn

from appliance import __version__
from appliance.box import handed, shell
from appliance.box.paths import Paths
from appliance.box.shell import BoxError
from appliance.errors import ApplianceError


@dataclass(frozen=True)
class Command:
    """A module of this package with `add_arguments(parser)` and `run(paths, parsed) -> int`, imported on use."""

    module: str
    help: str
    root: bool = True   # False: it works for anybody, or says itself what it needs root for


COMMANDS = {
    "preflight": Command("preflight", "check a machine before anything is changed on it", root=False),
    "doctor": Command("doctor", "check the whole box, and say what to do", root=False),
    "upgrade": Command("switchcommands", "put a new release in place; back to the old one by itself if it fails"),
    "rollback": Command("switchcommands", "go back to the release before"),
    "switch": Command("switchcommands", "take over a changed configuration, or make a staged release the current one"),
    "stage": Command("release", "unpack a release beside the current one and make its images"),
    "pack": Command("release", "make a release file out of a folder of this program", root=False),
    "backup": Command("backup", "back up database, homes, configuration and secrets"),
    "restore": Command("restore", "put a backup back, also on a new box"),
    "support-bundle": Command("support", "collect what support needs into one file without secrets"),
    "offline-bundle": Command("offline", "collect what a box without the internet needs into one file", root=False),
    "uninstall": Command("uninstall", "take the box off this machine; homes stay unless told twice"),
}
# What the Hub's own command line has, for --help; it is the one that knows.
HANDED_OVER = {
    "user": "add, list and delete accounts, set passwords",
    "roster": "make accounts out of a list, or show what that would change",
    "import-jupyterhub": "bring accounts, groups and shares of an original JupyterHub here",
    "token": "print a new API token of an account",
    "smoke": "sign in, start a server, run a cell, stop: the whole box, as a student uses it",
    "upgrade-db": "bring the database to this program's version",
}
ON_BOX = "APPLIANCE_HANDED_OVER"      # the Hub's command line shows its help as that of this machine
# Options of the Hub's command line that make sense without a command.
_HUB_OPTIONS = ("--help-all", "--generate-config")


class Parser(argparse.ArgumentParser):
    """Says what is wrong in a sentence."""

    def error(self, message: str) -> NoReturn:
        raise BoxError(f"{message[0].upper()}{message[1:]}.", f"See “{self.prog} --help”.")


def main(argv: Sequence[str] | None = None, paths: Paths | None = None) -> int:
    """Run one command and return its exit status: 0, or 1 with a sentence on stderr."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    try:
        return _run(paths or Paths(), argv)
    except ApplianceError as error:
        if debug:
            raise
        said = error.sentence if error.action in error.sentence else f"{error.sentence} {error.action}"
        print(f"appliance: {said}", file=sys.stderr)
        if error.evidence.strip() and error.evidence.strip() not in said:
            print("\n".join(f"    {line}" for line in error.evidence.strip().splitlines()[-15:]), file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at its end
    except PermissionError as error:
        if debug:
            raise
        print(f"appliance: {error.filename} may not be used by this user; run it as root, with sudo.", file=sys.stderr)
    except Exception as error:  # the program's root: nobody at a terminal reads tracebacks
        if debug:
            raise
        print(f"appliance: This should not have happened ({type(error).__name__}: {error}). "
              "Run it again with --debug to see where.", file=sys.stderr)
    return 1


def _run(paths: Paths, argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if argv[0] == "--version":
        print(__version__)
        return 0
    name = argv[0]
    command = COMMANDS.get(name)
    if command is None:
        if name.startswith("-") and name not in _HUB_OPTIONS:
            raise BoxError(f"There is no option {name}.", "See “appliance --help”.")
        near = get_close_matches(name, [*COMMANDS, *HANDED_OVER], n=1)
        if near and near[0] in COMMANDS:   # the Hub's own command line says the same of its own
            raise BoxError(f"There is no command {name}.", f"Did you mean: appliance {near[0]}")
        return hand_over(paths, argv)
    module = _module(name, command)
    parsed = parser_of(name).parse_args(argv[1:])
    if command.root and paths.root == Paths().root:
        shell.require_root(name)
    run = getattr(module, f"run_{name.replace('-', '_')}", None) or module.run
    return int(run(paths, parsed))


def parser_of(name: str) -> Parser:
    """Return what parses the words after one of COMMANDS. Raises BoxError."""
    command = COMMANDS[name]
    module = _module(name, command)
    parser = Parser(prog=f"appliance {name}", description=f"{command.help[0].upper()}{command.help[1:]}.",
                    allow_abbrev=False)
    parser.set_defaults(command=name)
    # a module with several commands gives each its own arguments
    add_arguments = getattr(module, f"add_{name.replace('-', '_')}_arguments", None) or module.add_arguments
    add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    return parser


def _module(name: str, command: Command) -> ModuleType:
    try:
        return import_module(f"appliance.box.{command.module}")
    except ModuleNotFoundError as error:
        if error.name != f"appliance.box.{command.module}":
            raise
        raise BoxError(f"This release has no command “{name}”.", "See “appliance --help”.") from None


def help_text() -> str:
    width = max(map(len, {*COMMANDS, *HANDED_OVER})) + 2
    host = "\n".join(f"  {name.ljust(width)}{command.help}" for name, command in COMMANDS.items())
    hub = "\n".join(f"  {name.ljust(width)}{text}" for name, text in HANDED_OVER.items())
    return (f"usage: appliance COMMAND …\n\nThe classroom box, version {__version__}.\n\nthis machine:\n{host}\n\n"
            f"the Hub, in its container (and whatever else its own command line has):\n{hub}\n\n"
            "“appliance COMMAND --help” says more about each.")


def hand_over(paths: Paths, argv: Sequence[str]) -> int:
    """Run a command of the Hub's own command line in its container, on this terminal; return its exit status."""
    if paths.root == Paths().root:
        shell.require_root(argv[0])
    file = handed.takes_file(argv)
    # a file of this machine takes the terminal's place
    terminal = sys.stdin.isatty() and sys.stdout.isatty() and not file
    running = shell.run(["docker", "container", "inspect", "--format", "{{.State.Running}}", paths.container("hub")],
                        check=False, timeout_s=20)
    if running.returncode == 127:
        raise BoxError(f"“{argv[0]}” is no command of this machine's side, and there is no Docker here to ask the Hub.",
                       "See “appliance --help”; if the box is not installed yet, run the playbook.")
    # its own options for another configuration are none of this command's
    told = ("--env", f"{ON_BOX}=yes")
    if running.stdout.strip() == "true":
        before = ["docker", "exec", "--interactive", *told, *(["--tty"] if terminal else []), paths.container("hub")]
    elif not paths.release_env.exists():
        raise BoxError(f"“{argv[0]}” is a command of the Hub, and no box is installed here.",
                       "Run the playbook first; “appliance --help” lists what works without.")
    else:
        from appliance.box import compose

        before = [*compose.command(paths), "run", "--rm", "--no-deps", *told, *([] if terminal else ["--no-TTY"]), "hub"]
    if file:
        return handed.hand_in(paths, argv, lambda words: [*before, "appliance", *words])
    return shell.stream([*before, "appliance", *argv])


if __name__ == "__main__":
    sys.exit(main())
