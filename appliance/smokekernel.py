"""The smoke test's own kernel, and what runs in it."""

from __future__ import annotations

import contextlib
import json
import ssl
import time
import uuid

import httpx
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

ANSWER_S = 15.0          # an address that answers later than this does not answer
CELL_S = 30.0


class Failed(Exception):
    """A part that failed."""

    def __init__(self, sentence: str, action: str, code: str = "") -> None:
        super().__init__(sentence)
        self.sentence, self.action, self.code = sentence, action, code


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
        self._socket: ClientConnection = connect(
            f"{origin.replace('http', 'ws', 1)}{path}", origin=Origin(site),
            additional_headers={"Cookie": request.headers.get("Cookie", "")}, proxy=None, compression=None, max_size=None,
            open_timeout=ANSWER_S, close_timeout=2, ssl=context if secure else None)

    def run(self, code: str, timeout_s: float = CELL_S) -> str:
        """Return what the code prints or is worth. Raises Failed where it raises."""
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
            try:
                message = json.loads(self._socket.recv(timeout=max(0.0, end - time.monotonic())))
            except TimeoutError:
                raise Failed(f"The kernel said nothing for {timeout_s:.0f} s.",
                             "The box is very busy, or the kernel in the image does not start; look at the server's log."
                             ) from None
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
        with contextlib.suppress(WebSocketException, OSError):
            self._socket.close()


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
