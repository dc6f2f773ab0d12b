"""A student at work while something is done to the box: sees every interruption, as a browser would."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import httpx
from student import Kernel, Student
from websockets.exceptions import ConnectionClosed

COUNT = """
import threading, time
count = 0
def go_on():
    global count
    while True:
        count += 1
        time.sleep(0.1)
threading.Thread(target=go_on, daemon=True).start()
"""
PAUSE_S = 0.05


class AtWork:
    """A kernel that counts, a websocket that stays open, and a page that asks its server twenty times a second.

    Signs in and starts the server when entered. Afterwards `failed` holds (seconds since entering, what was seen).
    """

    def __init__(self, student: Student) -> None:
        self.student = student
        self.asked = 0
        self.failed: list[tuple[float, str]] = []
        self._end = threading.Event()
        self._polls = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self) -> AtWork:
        self.student.sign_in()
        self.student.to_server(120)
        self.kernel: Kernel = self.student.kernel()
        self.kernel.run(COUNT)
        self._last = 0
        # cookies of its own: what the Hub renews on another page must not help this one
        self._client = httpx.Client(base_url=self.student.url, timeout=10, verify=self.student.tls or True, trust_env=False,
                                    cookies=self.student.client.cookies)
        self._began = time.monotonic()
        self._polls.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end.set()
        self._polls.join()
        self._client.close()
        self.kernel.close()
        self.student.close()

    def _poll(self) -> None:
        path = f"{self.student.prefix}api/status"
        while not self._end.wait(PAUSE_S):
            self.asked += 1
            try:
                response = self._client.get(path)
                said = "" if response.status_code == 200 else f"{response.status_code}"
            except httpx.HTTPError as error:
                said = repr(error)
            if said:
                self.failed.append((round(time.monotonic() - self._began, 2), said))

    def check(self, *, requests_may_fail: bool = False) -> int:
        """Return how far the kernel has counted: over the websocket that was open from the beginning, and on from last time."""
        try:
            count = int(self.kernel.run("print(count)"))
        except ConnectionClosed as error:
            raise AssertionError(f"the websocket was closed: {error}") from error
        assert count > self._last, "the kernel does not count any more"
        self._last = count
        assert requests_may_fail or not self.failed, f"of {self.asked} requests these failed: {self.failed[:10]}"
        return count

    def down_s(self) -> float:
        """Return the seconds between the first and the last request that failed."""
        return self.failed[-1][0] - self.failed[0][0] + PAUSE_S if self.failed else 0.0
