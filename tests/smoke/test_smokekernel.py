"""The smoke test's websocket keeps its time, whatever the library beneath it does."""

from __future__ import annotations

import threading
import time

import pytest
from websockets.exceptions import ConnectionClosedOK

from appliance import smokekernel
from appliance.smokekernel import Failed, Kernel, within

pytestmark = pytest.mark.unit


class Stuck:
    """A connection of a library that waits for a thread which never ends."""

    def __init__(self) -> None:
        self.never = threading.Event()

    def send(self, message: str) -> None:
        self.never.wait(60)

    def close(self) -> None:
        self.never.wait(60)


def test_a_connection_that_hangs_ends_the_part_in_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smokekernel, "GRACE_S", 0.1)
    kernel = Kernel.__new__(Kernel)
    kernel._session, kernel._socket = "s", Stuck()  # type: ignore[assignment]
    began = time.monotonic()
    with pytest.raises(Failed, match=r"The kernel said nothing for 0 s\."):
        kernel.run("6 * 7", timeout_s=0.2)
    kernel.close()
    assert time.monotonic() - began < 5
    kernel._socket.never.set()  # type: ignore[attr-defined]


def test_what_ends_in_time_is_as_if_it_was_called() -> None:
    assert within(5, lambda: 42) == 42
    with pytest.raises(ConnectionClosedOK):
        within(5, lambda: (_ for _ in ()).throw(ConnectionClosedOK(None, None)))
