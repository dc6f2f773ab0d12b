"""One thing at a time with each server, in threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakValueDictionary

from anyio import from_thread


class ServerLocks:
    """A task that is cancelled leaves its thread behind, which holds on to its server until it is through: whoever comes
    next waits for it. A thread that still waits when its task is cancelled does nothing any more."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
        self._lock = threading.Lock()

    @contextmanager
    def hold(self, server_id: str) -> Iterator[None]:
        """Only in a thread of anyio's."""
        with self._lock:
            lock = self._locks.setdefault(server_id, threading.Lock())
        with lock:
            still_wanted()
            yield


def still_wanted() -> None:
    """End this thread's work, by the exception of a cancelled task, if its task was cancelled."""
    from_thread.check_cancelled()
