"""A student's browser as far as HTTP and websockets go: cookies by path, redirects, notebooks' kernels through Traefik."""

from __future__ import annotations

import json
import re
import ssl
import time
import uuid
from contextlib import ExitStack
from types import TracebackType
from urllib.parse import quote

import httpx
from websockets.sync.client import ClientConnection, connect

PATIENCE_S = 60.0
NAVIGATION = {"Accept": "text/html,application/xhtml+xml", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document",
              "Sec-Fetch-Site": "same-origin"}
SCRIPT = {"Accept": "*/*", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty", "Sec-Fetch-Site": "same-origin"}


class Student:
    """Nothing is sent before a method is called. Close it, or use `with`. authority: a PEM certificate to trust as well."""

    def __init__(self, url: str, name: str, password: str, *, authority: str = "") -> None:
        self.url, self.name, self.password = url, name, password
        self.prefix = f"/user/{quote(name)}/"
        self.tls = ssl.create_default_context(cadata=authority or None) if url.startswith("https:") else None
        self.client = httpx.Client(base_url=url, timeout=PATIENCE_S, follow_redirects=True, trust_env=False,
                                   verify=self.tls or True)
        self._kernel: Kernel | None = None

    def __enter__(self) -> Student:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self._kernel is not None:
            self._kernel.close()
        self.client.close()

    # -- pages --------------------------------------------------------------------------------------------------------
    def get(self, path: str, *, follow: bool = True) -> httpx.Response:
        """Open a page as a person does."""
        return self.client.get(path, headers=NAVIGATION, follow_redirects=follow)

    def post(self, path: str, *, follow: bool = True, **fields: str) -> httpx.Response:
        """Send a form of one of the Hub's pages."""
        return self.client.post(path, data={"_xsrf": self.xsrf, **fields}, headers=NAVIGATION | {"Origin": self.url},
                                follow_redirects=follow)

    def script(self, method: str, path: str, **more: object) -> httpx.Response:
        """Send what a page's script would; nothing is followed."""
        headers = SCRIPT | ({} if method == "GET" else {"Origin": self.url})
        return self.client.request(method, path, headers=headers, follow_redirects=False, **more)  # type: ignore[arg-type]

    @property
    def xsrf(self) -> str:
        return next((cookie.value or "" for cookie in self.client.cookies.jar if cookie.name == "_xsrf"), "")

    @property
    def cookies(self) -> dict[str, str]:
        """By name, whatever their path."""
        return {cookie.name: cookie.value or "" for cookie in self.client.cookies.jar}

    @property
    def capability(self) -> tuple[str, str]:
        """Name and value of the cookie that opens the server; empty without one."""
        return next(((name, value) for name, value in self.cookies.items() if name.startswith("appliance-server-")), ("", ""))

    def cookie_header(self, path: str) -> str:
        """Return what is sent to a path."""
        request = self.client.build_request("GET", path)
        self.client.cookies.set_cookie_header(request)
        return request.headers.get("Cookie", "")

    # -- the way to the server -----------------------------------------------------------------------------------------
    def sign_in(self, next_path: str = "/hub/home") -> httpx.Response:
        """Fill in the login form; starts no server unless next_path is empty. Returns the page it leads to."""
        self.get("/hub/login")
        response = self.post(f"/hub/login?next={quote(next_path)}" if next_path else "/hub/login",
                             username=self.name, password=self.password)
        let_in = any(name.startswith("jupyterhub-hub-login") for name in self.cookies)
        assert let_in, f"{self.name} was not let in: {response.status_code} {response.text}"
        return response

    def sign_out(self) -> httpx.Response:
        return self.post("/hub/logout")

    def start(self) -> httpx.Response:
        """Click "Start"; returns the page that follows, without waiting."""
        return self.post("/hub/spawn")

    def stop(self) -> httpx.Response:
        return self.post(f"/hub/stop/{quote(self.name)}")

    def state(self) -> tuple[str, str]:
        """Return what the progress page says now: "ready", "pending", "failed" or "stopped", and the page's text.

        A Hub that is down is "down".
        """
        try:
            response = self.get(f"/hub/spawn-pending/{quote(self.name)}", follow=False)
        except httpx.TransportError as error:
            return "down", str(error)
        if response.status_code >= 500:
            return "down", response.text
        if response.is_redirect:
            assert "/hub/enter" in response.headers["Location"], response.headers["Location"]
            return "ready", ""
        text = text_of(response)
        if "data-progress" in response.text:
            return "pending", text
        return "failed" if "role=\"alert\"" in response.text else "stopped", text

    def wait_ready(self, timeout_s: float = PATIENCE_S) -> None:
        """Wait until the server is ready, then enter it: from here on the browser holds its capability."""
        state, text = self._wait("pending", "down", timeout_s=timeout_s)
        assert state == "ready", f"{self.name}'s server is {state}: {text}"
        response = self.get(f"/hub/enter?next={self.prefix}", follow=False)
        assert response.headers.get("Location", "").startswith(self.prefix), f"{response.status_code} {response.text}"
        assert self.capability != ("", "")

    def wait_failed(self, timeout_s: float = PATIENCE_S) -> str:
        """Wait until the start has failed; return what the page says."""
        state, text = self._wait("pending", "down", timeout_s=timeout_s)
        assert state == "failed", f"{self.name}'s server is {state}: {text}"
        return text

    def wait_stopped(self, timeout_s: float = PATIENCE_S) -> None:
        end = time.monotonic() + timeout_s
        while (said := self.state())[0] != "stopped" or "being stopped" in said[1]:
            assert time.monotonic() < end, f"{self.name}'s server is {said}"
            time.sleep(0.1)

    def _wait(self, *states: str, timeout_s: float) -> tuple[str, str]:
        end = time.monotonic() + timeout_s
        while (said := self.state())[0] in states:
            assert time.monotonic() < end, f"{self.name}'s server is {said[0]} after {timeout_s:.0f} s: {said[1]}"
            time.sleep(0.1)
        return said

    def to_server(self, timeout_s: float = PATIENCE_S) -> None:
        """Start the server and wait until it lets this browser in."""
        self.start()
        self.wait_ready(timeout_s)

    # -- in the server -------------------------------------------------------------------------------------------------
    def api(self, method: str, path: str, **more: object) -> httpx.Response:
        """Ask the student's own Jupyter server: api("GET", "contents")."""
        return self.script(method, f"{self.prefix}api/{path}", **more)

    def write(self, name: str, text: str) -> None:
        response = self.api("PUT", f"contents/{quote(name)}", json={"type": "file", "format": "text", "content": text})
        assert response.is_success, f"{response.status_code} {response.text}"

    def read(self, name: str) -> str:
        response = self.api("GET", f"contents/{quote(name)}")
        assert response.is_success, f"{response.status_code} {response.text}"
        return str(response.json()["content"])

    def kernel(self) -> Kernel:
        """Start a kernel and open its websocket. Close it, or use `with`."""
        response = self.api("POST", "kernels", json={"name": "python3"})
        assert response.is_success, f"{response.status_code} {response.text}"
        return Kernel(self, response.json()["id"])

    def run_cell(self, code: str) -> str:
        """Run code in this student's kernel, which lives on from call to call; return what it prints."""
        if self._kernel is None:
            self._kernel = self.kernel()
        return self._kernel.run(code)


class Kernel:
    """One kernel and its websocket, as a notebook's page has it. It never reconnects by itself."""

    def __init__(self, student: Student, kernel_id: str) -> None:
        self.student, self.id = student, kernel_id
        self._session = uuid.uuid4().hex
        self._open = ExitStack()
        self.socket = self._connect()

    def _connect(self) -> ClientConnection:
        path = f"{self.student.prefix}api/kernels/{self.id}/channels?session_id={self._session}"
        return self._open.enter_context(connect(
            f"{self.student.url.replace('http', 'ws', 1)}{path}", origin=self.student.url,  # type: ignore[arg-type]
            additional_headers={"Cookie": self.student.cookie_header(path)}, proxy=None, compression=None, max_size=None,
            open_timeout=PATIENCE_S, ping_interval=None, ssl=self.student.tls))

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._open.close()

    def reconnect(self) -> None:
        self._open.close()
        self.socket = self._connect()

    def run(self, code: str, timeout_s: float = PATIENCE_S) -> str:
        """Return what the code prints, its value and its error. Raises websockets' ConnectionClosed, TimeoutError."""
        asked = uuid.uuid4().hex
        header = {"msg_id": asked, "msg_type": "execute_request", "username": "", "session": self._session,
                  "date": "2026-01-01T00:00:00Z", "version": "5.3"}
        content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False,
                   "stop_on_error": True}
        self.socket.send(json.dumps({"header": header, "parent_header": {}, "metadata": {}, "content": content,
                                     "channel": "shell", "buffers": []}))
        said: list[str] = []
        end = time.monotonic() + timeout_s
        while True:
            message = json.loads(self.socket.recv(timeout=max(0.0, end - time.monotonic())))
            if message["parent_header"].get("msg_id") != asked:
                continue
            match message["msg_type"]:
                case "stream":
                    said.append(message["content"]["text"])
                case "execute_result":
                    said.append(message["content"]["data"]["text/plain"])
                case "error":
                    said.append("{ename}: {evalue}".format(**message["content"]))
                case "status" if message["content"]["execution_state"] == "idle":
                    return "".join(said)


def text_of(response: httpx.Response) -> str:
    """Return the words of a page's <main>, without its tags."""
    main = re.search(r"<main.*?>(.*)</main>", response.text, re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", main[1] if main else response.text).split())
