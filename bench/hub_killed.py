#!/usr/bin/env python3
"""The Hub killed with -9 under load and started again, seen by those who work.

Meanwhile wrk asks a running notebook for /api/status with the owner's cookie, and open websockets of a kernel carry
one kernel message after another. Counted are requests that failed, websockets that closed, messages that were not
answered, and the longest that one took; and the seconds until somebody can sign in again.
"""
from __future__ import annotations

import json
import threading
import time
import uuid

from common import Client, Load, Wrk, arguments, show, sign_in, to_lab, wait_for
from ours import Ours
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

ANSWER_WITHIN_S = 10


class Talk(threading.Thread):
    """One websocket to a kernel: asks for its info, waits for the reply, asks again, until `end`."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        super().__init__(daemon=True)
        self._url, self._headers = url, headers
        self._over = threading.Event()
        self.open = threading.Event()
        self.answered = 0
        self.longest_s = 0.0
        self.failure = ""

    def run(self) -> None:
        try:
            with connect(self._url, additional_headers=self._headers, max_size=None, ping_interval=None) as socket:
                self.open.set()
                while not self._over.is_set():
                    began = time.perf_counter()
                    self._ask(socket)
                    self.longest_s = max(self.longest_s, time.perf_counter() - began)
                    self.answered += 1
                    time.sleep(0.02)
        except (OSError, WebSocketException) as error:      # a TimeoutError is an OSError
            self.failure = repr(error)
            self.open.set()

    @staticmethod
    def _ask(socket: object) -> None:
        """Raises TimeoutError, ConnectionClosed."""
        asked = uuid.uuid4().hex
        socket.send(json.dumps({
            "header": {"msg_id": asked, "msg_type": "kernel_info_request", "version": "5.3", "username": "", "session": "b"},
            "parent_header": {}, "metadata": {}, "content": {}, "channel": "shell", "buffers": []}))
        until = time.monotonic() + ANSWER_WITHIN_S
        while True:
            said = json.loads(socket.recv(timeout=max(0, until - time.monotonic())))
            if said.get("msg_type") == "kernel_info_reply" and said["parent_header"].get("msg_id") == asked:
                return

    def end(self) -> None:
        self._over.set()
        self.join()


def main() -> None:
    parser = arguments(__doc__, pairs=None)
    parser.add_argument("--times", type=int, default=7, help="how often the Hub is killed (default: %(default)s)")
    parser.add_argument("--websockets", type=int, default=10)
    args = parser.parse_args()
    loads: list[Load] = []
    answered, dropped, longest, back = [], [], [], []
    with Ours() as hub:
        (name, password), (other, other_password) = hub.students(2)
        client = Client(hub.url)
        to_lab(client, name, password)
        prefix = f"/user/{name}/"
        cookie = {"Cookie": client.cookie_header(f"{prefix}api")}
        kernel = json.loads(client.post(f"{prefix}api/kernels", {}).body)["id"]
        channels = f"{hub.url.replace('http', 'ws', 1)}{prefix}api/kernels/{kernel}/channels"
        for _ in range(args.times):
            talks = [Talk(channels, cookie | {"Origin": hub.url}) for _ in range(args.websockets)]
            for talk in talks:
                talk.start()
            for talk in talks:
                talk.open.wait()
            load = Wrk(f"{hub.url}{prefix}api/status", 12, headers=cookie)
            time.sleep(2)
            hub.kill()
            killed = time.perf_counter()
            time.sleep(1)       # what stands in for whoever starts it again
            hub.start()
            wait_for("a sign-in", lambda: sign_in(Client(hub.url), other, other_password).location, pause_s=0.05)
            back.append(time.perf_counter() - killed - 1)
            result = load.result()
            for talk in talks:
                talk.end()
                if talk.failure:
                    print(f"  a websocket: {talk.failure}")
            loads.append(result)
            answered.append(sum(talk.answered for talk in talks))
            dropped.append(sum(bool(talk.failure) for talk in talks))
            longest.append(max(talk.longest_s for talk in talks))
            hub.stop_server(other)
    show("failed requests, Hub killed under load", [load.failed for load in loads], "", digits=0, target="0")
    print(f"  {sum(load.failed for load in loads)} of {sum(load.requests for load in loads)} requests")
    show("dropped websockets, Hub killed under load", dropped, "", digits=0, target="0")
    print(f"  {sum(dropped)} of {args.times * args.websockets} websockets; {sum(answered)} messages answered")
    show("  requests meanwhile", [load.per_second for load in loads], "per s", digits=0)
    show("  the longest answer on a websocket", longest)
    show("from starting the Hub again to a sign-in", back)


if __name__ == "__main__":
    main()
