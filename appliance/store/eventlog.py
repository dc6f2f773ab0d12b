"""The event log as a file: a line of JSON for each event, of this process and of others with the same option."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import stat
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MODE = 0o600        # of a file that is made; one that is there already keeps what the admin gave it
LOCK_TIMEOUT_S = 2.0
OLDER = ".1"        # behind the name of the file before this one

logger = logging.getLogger(__name__)


class EventLog:
    """max_bytes: from this size on the file is put aside and a new one begun; 0: never.

    The file is opened for each write, so that others may move it or cut it whenever they like. The Hub writes in the thread
    of the transaction, never in its event loop.
    """

    def __init__(self, file: Path, max_bytes: int = 0) -> None:
        self._file, self._max_bytes = file, max_bytes
        self._lock = threading.Lock()       # for what is lost; the file itself has a lock between processes
        self._lost = 0

    def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append the records together. What fails is said once in the Hub's log, and again when it works again."""
        text = "".join(f"{json.dumps(record)}\n" for record in records).encode()
        with self._lock:
            try:
                self._append(text)
            except OSError as error:
                if not self._lost:
                    logger.warning("Events cannot be written to %s: %s. They are still in the database.",
                                   self._file, error.strerror or error)
                self._lost += len(records)
                return
            if self._lost:
                logger.warning("Events are written to %s again; %d are missing there.", self._file, self._lost)
                self._lost = 0

    def _append(self, text: bytes) -> None:
        handle = self._open()
        size = os.fstat(handle).st_size
        if self._max_bytes and size and size + len(text) > self._max_bytes:
            try:
                with contextlib.suppress(OSError):      # too big is better than lost
                    os.rename(self._file, f"{self._file}{OLDER}")
            finally:
                os.close(handle)
            handle = self._open()
        try:
            size = os.fstat(handle).st_size
            written = os.write(handle, text)
            if written < len(text):      # half a line would spoil the next one too
                os.ftruncate(handle, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(handle)

    def _open(self) -> int:
        """Open and lock the file, made if it is not there. What is none, like a pipe, is refused: it could block."""
        wait_s = 0.0 if self._lost else LOCK_TIMEOUT_S
        while True:
            handle = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, MODE)
            try:
                found = os.fstat(handle)
                if not stat.S_ISREG(found.st_mode):
                    raise OSError(errno.EINVAL, "that is not a file")
                _lock(handle, wait_s)
                if os.path.exists(self._file) and os.path.samestat(found, os.stat(self._file)):
                    return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)     # put aside by another process while this one waited


def _lock(handle: int, wait_s: float) -> None:
    """Raises OSError where another process holds it all the time."""
    until = time.monotonic() + wait_s
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise OSError(errno.EWOULDBLOCK, "another program has locked it") from None
            time.sleep(0.005)
