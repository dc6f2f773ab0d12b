"""The smoke test's own kernel, and what runs in it."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import httpx
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

ANSWER_S = 15.0          # an address that answers later than this does not answer
CELL_S = 30.0
GRACE_S = 5.0            # for the websocket library to keep its own timeouts

_T = TypeVar("_T")


class Failed(Exception):
    """A part that failed."""

    def __init__(self, sentence: str, action: str, code: str = "") -> None:
        super().__init__(sentence)
        self.sentence, self.action, self.code = sentence, action, code


def within(timeout_s: float, work: Callable[[], _T]) -> _T:
    """Return what `work` returns. Raises TimeoutError in any case, and leaves it to a thread that ends with the process.

    The websocket library joins a thread of its own without a timeout once a connection fails, which was seen to take minutes.
    """
    ended: Future[_T] = Future()

    def run() -> None:
        try:
            ended.set_result(work())
        except BaseException as error:
            ended.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return ended.result(timeout_s)


class Kernel:
    """A kernel of the test's own server, and its websocket."""

    def __init__(self, client: httpx.Client, context: ssl.SSLContext, *, prefix: str, origin: str, site: str) -> None:
        """prefix: the server's path. origin: where Traefik is asked; site: where browsers say they come from."""
        answer = client.post(f"{prefix}api/kernels", json={"name": "python3"},
                                   headers={"Origin": site}, timeout=CELL_S)
        if answer.status_code not in (200, 201):
            raise Failed(f"No kernel starts in the server ({answer.status_code}).",
                         "The image has no Python kernel (ipykernel), or it is broken; look at the server's log.")
        self._id, self._session = str(answer.json()["id"]), uuid.uuid4().hex
        path = f"{prefix}api/kernels/{self._id}/channels?session_id={self._session}"
        request = client.build_request("GET", path)
        client.cookies.set_cookie_header(request)
        secure = origin.startswith("https")
        try:
            self._socket: ClientConnection = within(ANSWER_S + GRACE_S, lambda: connect(
                f"{origin.replace('http', 'ws', 1)}{path}", origin=Origin(site),
                additional_headers={"Cookie": request.headers.get("Cookie", "")}, proxy=None, compression=None, max_size=None,
                open_timeout=ANSWER_S, close_timeout=2, ssl=context if secure else None))
        except TimeoutError:
            raise Failed(f"The websocket did not open within {ANSWER_S:.0f} s.",
                         "Look at the logs of Traefik and of the server.") from None

    def run(self, code: str, timeout_s: float = CELL_S) -> str:
        """Return what the code prints or is worth. Raises Failed where it raises, or where nothing comes in time."""
        try:
            return within(timeout_s + GRACE_S, lambda: self._run(code, timeout_s))
        except TimeoutError:
            raise Failed(f"The kernel said nothing for {timeout_s:.0f} s.",
                         "The box is very busy, or the kernel in the image does not start; look at the server's log."
                         ) from None

    def _run(self, code: str, timeout_s: float) -> str:
        asked = uuid.uuid4().hex
        header = {"msg_id": asked, "msg_type": "execute_request", "username": "", "session": self._session,
                  "date": "2026-01-01T00:00:00Z", "version": "5.3"}
        content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False,
                   "stop_on_error": True}
        self._socket.send(json.dumps({"header": header, "parent_header": {}, "metadata": {}, "content": content,
                                      "channel": "shell", "buffers": []}))
        said: list[str] = []
        end = time.monotonic() + timeout_s
        while True:
            message = json.loads(self._socket.recv(timeout=max(0.0, end - time.monotonic())))
            if message.get("parent_header", {}).get("msg_id") != asked:
                continue
            match message["msg_type"]:
                case "stream":
                    said.append(message["content"]["text"])
                case "execute_result":
                    said.append(message["content"]["data"]["text/plain"])
                case "error":
                    raise Failed("The cell failed: {ename}: {evalue}".format(**message["content"]), "Look at the image.")
                case "status" if message["content"]["execution_state"] == "idle":
                    return "".join(said)

    def close(self) -> None:
        with contextlib.suppress(WebSocketException, OSError):  # TimeoutError is one
            within(GRACE_S, self._socket.close)


FILES = (".appliance-smoke-reserved", ".appliance-smoke-written")
# What runs in the kernel. Each prints one line of JSON.
QUOTA_CODE = """\
import errno, json, os
def _fill(limit, steps):
    folder = os.path.expanduser("~")
    files, size, error = [], 0, ""
    step = max(1 << 20, limit // steps)
    try:
        path = os.path.join(folder, ".appliance-smoke-reserved")
        files.append(path)
        with open(path, "wb") as file:
            while size < limit + 2 * step:
                os.posix_fallocate(file.fileno(), size, step)
                size += step
    except OSError as problem:
        error = errno.errorcode.get(problem.errno, str(problem.errno))
    try:
        if error == "EDQUOT":
            path = os.path.join(folder, ".appliance-smoke-written")
            files.append(path)
            error = ""
            with open(path, "wb") as file:
                for _ in range(-(-2 * step // (1 << 20))):
                    file.write(os.urandom(1 << 20))
                    file.flush()
                    os.fsync(file.fileno())
                    size += 1 << 20
    except OSError as problem:
        error = errno.errorcode.get(problem.errno, str(problem.errno))
    finally:
        for path in files:
            try:
                os.unlink(path)      # Btrfs refuses to truncate in a full home, and lets go of a whole file
            except OSError:
                pass
    return {{"error": error, "bytes": size}}
print(json.dumps(_fill({limit}, {steps})))
"""
REACH_CODE = """\
import json, socket
from concurrent.futures import ThreadPoolExecutor
def _reaches(way):
    try:
        socket.create_connection(tuple(way), timeout=2).close()
        return True
    except OSError:
        return False
_ways = json.loads('{ways}')
with ThreadPoolExecutor() as _pool:
    print(json.dumps(dict(zip(_ways, _pool.map(_reaches, _ways.values())))))
"""
