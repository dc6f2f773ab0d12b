"""What every command of the box needs: running programs, saying sentences, writing files that are whole or not there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from appliance.errors import ApplianceError

# The command of the box. The link is followed once, so that a release that is switched to meanwhile does not mix its
# modules with this one's; -I keeps the caller's environment out; a release's folder is never written to.
WRAPPER = '''\
#!/usr/bin/python3 -I
"""The command "appliance": runs the current release's own code. Part of the classroom box."""
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.realpath("/opt/appliance/current/source"))
try:
    from appliance.box.__main__ import main
except ImportError as error:
    sys.exit(f"appliance: There is no whole release at /opt/appliance/current ({error}). Run the playbook again.")
sys.exit(main())
'''

# Programs of an admin's machine, whatever PATH the caller has (cron's and sudo's lack sbin).
_SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class BoxError(ApplianceError):
    """A command of the box cannot go on. Printed as its two sentences; exit status 1."""

    code = "box"
    sentence = "This could not be done on the box."
    action = "Run “appliance doctor” to see what is wrong."

    def __init__(self, sentence: str | None = None, action: str | None = None, *, evidence: str = "") -> None:
        super().__init__(sentence, action=action, evidence=evidence)


@dataclass(frozen=True)
class Result:
    """How a program ended. 127: it is not there; 124: it took too long."""

    returncode: int
    stdout: str = ""
    stderr: str = ""

    @property
    def ok(self) -> bool:
        return self.returncode == 0

    @property
    def words(self) -> str:
        """The last line the program said, for a sentence."""
        lines = (self.stderr.strip() or self.stdout.strip()).splitlines()
        if lines:
            return lines[-1].strip()
        return f"it ended with status {self.returncode}" if self.returncode >= 0 else f"it crashed (signal {-self.returncode})"


def find(program: str) -> str | None:
    """Return where a program is, or None."""
    return shutil.which(program) or shutil.which(program, path=_SEARCH)


def run(argv: Sequence[str | Path], *, input: str | None = None, check: bool = True, timeout_s: float | None = None,
        env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Result:
    """Run a program and return what it said, in the language C. `env` is added to this process's own.

    Raises BoxError unless `check` is off; then a program that is missing or takes too long is a Result too.
    """
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            [find(words[0]) or words[0], *words[1:]], input=input or "", capture_output=True, text=True, errors="replace",
            timeout=timeout_s, check=False, cwd=cwd, env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})})
        result = Result(done.returncode, done.stdout, done.stderr)
    except FileNotFoundError:
        result = Result(127, stderr=f"{words[0]} is not installed")
    except subprocess.TimeoutExpired:
        result = Result(124, stderr=f"{words[0]} did not answer within {timeout_s:g} seconds")
    except OSError as error:
        result = Result(126, stderr=f"{words[0]} could not be run: {error.strerror or error}")
    if check and not result.ok:
        raise BoxError(f"“{' '.join(words[:3])}” failed: {result.words.rstrip('.')}.", evidence=result.stderr[-4000:])
    return result


def stream(argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None,
           stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None) -> int:
    """Run a program on this terminal, with its input and output unless others are given, and return its exit status."""
    words = [str(word) for word in argv]
    try:
        return subprocess.run([find(words[0]) or words[0], *words[1:]], check=False, cwd=cwd,
                              stdin=stdin, stdout=stdout, env={**os.environ, **(env or {})}).returncode
    except FileNotFoundError:
        raise BoxError(f"The program {words[0]} is not installed.", "Run the playbook again.") from None


def say(text: str) -> None:
    """Print a sentence for whoever runs the command."""
    print(text, flush=True)


def step(text: str) -> None:
    """Say on stderr what is being done now: never in the way of `--json` or `$(…)`."""
    print(f"· {text}", file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False), flush=True)


def is_root() -> bool:
    return os.geteuid() == 0


def require_root(command: str) -> None:
    """Raises BoxError."""
    if not is_root():
        raise BoxError(f"“appliance {command}” has to be run as root.", f"Run: sudo appliance {command}")


def write_file(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Write a file that is whole or not there at all, even if the machine loses power meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Let what was renamed in a folder outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object out of a file; an empty one where there is none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def size(count: float) -> str:
    """Return bytes for people: "1.5 GiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def counted(number: int, one: str, many: str = "") -> str:
    """Return "1 home", "2 homes"; `many` where it is not just one "s" more."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def ask(question: str, yes: bool) -> None:
    """Raises BoxError unless somebody says yes."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise BoxError("This needs a yes.", "Add --yes where nobody can be asked.")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise BoxError("Nothing was changed.", "Nothing was changed.")


@contextmanager
def undisturbed() -> Iterator[None]:
    """A lost connection does not end a switch; SIGTERM ends it as Ctrl-C does, and it goes back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before[0])
        signal.signal(signal.SIGTERM, before[1])


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
