"""What was read once and still holds: asked again at every request, without a question to the database each time.

Nothing here has to be told of a change. SQLite itself says whether anybody, this process or another, has written since; a
PostgreSQL is believed for a second, less where this process has written.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST = 8000         # of what weighs one, which takes up to a kilobyte
TRUSTED_S = 1.0


@dataclass(frozen=True)
class Recalled:
    version: Hashable
    until: float        # time.monotonic()
    value: Any
    weight: int


class Recall:
    """sqlite_file: "" for another database."""

    def __init__(self, sqlite_file: str, most: int = MOST) -> None:
        self._file, self._most = sqlite_file, most
        self._entries: OrderedDict[Hashable, Recalled] = OrderedDict()
        self._watcher: sqlite3.Connection | None = None
        self._written = self._weight = 0
        self._lock = threading.Lock()

    def wrote(self) -> None:
        """Take note of a transaction of this process."""
        self._written += 1      # a lost count under two threads still makes another number

    def version(self) -> Hashable:
        """Return something that is another one as soon as anything may have changed."""
        if not self._file:
            return self._written, int(time.monotonic() / TRUSTED_S)
        try:
            with self._lock:
                if self._watcher is None:
                    # the pragma tells of what other connections wrote, so this one never writes; nor does it wait, because
                    # the event loop would
                    self._watcher = sqlite3.connect(f"{Path(self._file).absolute().as_uri()}?mode=rw", uri=True, timeout=0,
                                                    check_same_thread=False)
                return int(self._watcher.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error:
            return object()     # equal to nothing: whoever asks the database itself is told what is wrong

    def find(self, key: Hashable, version: Hashable) -> Recalled | None:
        found = self._entries.get(key)
        return found if found is not None and found.version == version and time.monotonic() < found.until else None

    def keep(self, key: Hashable, version: Hashable, value: Any, keep_s: float, weight: int = 1) -> None:
        """version: from before the value was read."""
        gone = self._entries.pop(key, None)
        self._entries[key] = Recalled(version, time.monotonic() + keep_s, value, weight)
        self._weight += weight - (gone.weight if gone is not None else 0)
        while self._weight > self._most:
            self._weight -= self._entries.popitem(last=False)[1].weight

    def close(self) -> None:
        with self._lock:
            if self._watcher is not None:
                self._watcher.close()
                self._watcher = None
        self._entries.clear()
        self._weight = 0
