"""Who may be on the way up at once; the others wait, first come first served."""

from __future__ import annotations


class Admission:
    """limit: how many places there are."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside: set[str] = set()
        self._queue: list[str] = []

    def __len__(self) -> int:
        return len(self._inside)

    def waiting(self) -> int:
        return len(self._queue)

    def admit(self, server_id: str) -> bool:
        """Give a place if it is this server's turn, else put it in the queue."""
        if server_id in self._inside:
            return True
        if server_id not in self._queue:
            self._queue.append(server_id)
        if self._queue.index(server_id) >= self._free():
            return False
        self._queue.remove(server_id)
        self._inside.add(server_id)
        return True

    def enlist(self, server_id: str) -> None:
        """Keep a turn for one that will ask later."""
        if server_id not in self._inside and server_id not in self._queue:
            self._queue.append(server_id)

    def enter(self, server_id: str) -> None:
        """Take a place without waiting: an earlier Hub gave it."""
        if server_id in self._queue:
            self._queue.remove(server_id)
        self._inside.add(server_id)

    def leave(self, server_id: str) -> list[str]:
        """Give a place or a turn back; return those whose turn it is now."""
        if server_id in self._queue:
            self._queue.remove(server_id)
        elif server_id in self._inside:
            self._inside.remove(server_id)
        else:
            return []
        return self._queue[:self._free()]

    def position(self, server_id: str) -> int | None:
        """Return 1 for the next one, None for one that does not wait."""
        return self._queue.index(server_id) + 1 if server_id in self._queue else None

    def _free(self) -> int:
        return max(0, self._limit - len(self._inside))
