"""`appliance roster apply FILE --sheet FILE` and `appliance import-jupyterhub FILE --sheet FILE` on the box: both are files of
this machine, of which the Hub sees neither.

The first goes in as standard input. The sheet is written in the data folder, which the Hub sees under the same path, before
any account is, and goes from there to where it was asked for.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from appliance.box import shell
from appliance.box.paths import Paths
from appliance.box.shell import BoxError

# Commands that are given a file, and their options that are followed by a value; a test holds them against the Hub's own
# command line.
WITH_VALUE = {
    ("roster", "apply"): ("-f", "--config", "--db", "--format", "--sheet", "--address"),
    ("import-jupyterhub",): ("-f", "--config", "--db", "--sheet", "--homes"),
}


def takes_file(argv: Sequence[str]) -> bool:
    return any(tuple(argv[:len(words)]) == words for words in WITH_VALUE)


def hand_in(paths: Paths, argv: Sequence[str], command: Callable[[Sequence[str]], list[str]]) -> int:
    """Return the exit status. command: the words that run the Hub's command line with its own. Raises BoxError."""
    words = list(argv)
    at, sheet_at = _positions(words)
    target = Path(words[sheet_at].removeprefix("--sheet=")).absolute() if sheet_at else None
    if at is None or str(target) == str(Path("-").absolute()):
        target = None
    with _opened(words[at] if at else "-") as people:
        if at:
            words[at] = "-"
        if target is None or sheet_at is None:
            return shell.stream(command(words), stdin=people)
        _refuse_existing(target)
        between = paths.data / f".cards-{secrets.token_hex(6)}.html"
        inside = str(Path("/") / between.relative_to(paths.root))
        words[sheet_at] = f"--sheet={inside}" if words[sheet_at].startswith("--sheet=") else inside
        with tempfile.TemporaryFile() as said:
            status = shell.stream(command(words), stdin=people, stdout=said)
            said.seek(0)
            sys.stdout.write(said.read().decode(errors="replace").replace(inside, str(target)))
            sys.stdout.flush()
        if between.exists():
            _bring(between, target)
        return status


def _positions(words: Sequence[str]) -> tuple[int | None, int | None]:
    """Return where the file is and where the sheet's name is; None where they are not said."""
    file = sheet = None
    number, with_value = next((len(name), options) for name, options in WITH_VALUE.items() if tuple(words[:len(name)]) == name)
    while number < len(words):
        word = words[number]
        if word in with_value:
            number += 1
            if word == "--sheet" and number < len(words):
                sheet = number
        elif word.startswith("--sheet="):
            sheet = number
        elif (not word.startswith("-") or word == "-") and file is None:
            file = number
        number += 1
    return file, sheet


@contextmanager
def _opened(name: str) -> Iterator[IO[bytes] | None]:
    if name == "-":
        yield None
        return
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(name, "rb"))
        except OSError as error:
            raise BoxError(f"The file {name} cannot be read: {error.strerror or error}.",
                           "Check its name; - reads standard input.") from None
        yield file


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        raise BoxError(f"{target} is there already and was left alone, because passwords may be in it. Nothing was changed.",
                       "Name another file with --sheet, or delete that one.")
    if not os.access(target.parent, os.W_OK) or not target.parent.is_dir():
        raise BoxError(f"The sheet {target} cannot be written: there is no folder {target.parent} to write to.",
                       "Name another file with --sheet. Nothing was changed.")


def _bring(source: Path, target: Path) -> None:
    """Move the cards to where they were asked for; where that fails, they stay where they are and are not lost."""
    try:
        with open(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(source.read_bytes())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if not isinstance(error, FileExistsError):
            with contextlib.suppress(OSError):
                target.unlink()
        raise BoxError(f"The accounts are made, but the cards could not be written to {target}: {error.strerror or error}.",
                       f"They are in {source}: print them, then delete the file.") from error
    source.unlink()
