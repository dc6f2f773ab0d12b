"""The box's test of itself: what a student does, at the address a student uses, through Traefik.

It runs beside a class, as an account of its own that exists only meanwhile: at its end, however that comes, the server is
stopped, the password forgotten and the account archived.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx
from websockets.exceptions import WebSocketException

from appliance.config import Settings
from appliance.cookiesecret import load_cookie_secret
from appliance.domain.capability import derive_key
from appliance.domain.limits import format_bytes
from appliance.domain.names import SMOKE_USER
from appliance.domain.server import Phase, Server
from appliance.domain.user import Session
from appliance.errors import ApplianceError, BadInput, BoxFull
from appliance.jwt import SessionTokens
from appliance.main import make_authenticator, make_spawner, open_database, open_store, own_address, shown_url
from appliance.ports import Authenticator, Homes, LoginRequest, Spawner
from appliance.smokekernel import ANSWER_S, FILES, QUOTA_CODE, REACH_CODE, Failed, Kernel
from appliance.store import servers, sessions, users
from appliance.store.database import Database
from appliance.store.servers import new_id
from appliance.web import cookies

ACTOR = "appliance smoke"
START_S = 180.0          # a busy box may let it wait for a place
STOP_S = 60.0
QUOTA_S = 120.0
SESSION_S = 600
_STEPS = 16              # a quota is filled in so many steps, and then some
_NAVIGATION = {"Accept": "text/html,application/xhtml+xml", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document",
               "Sec-Fetch-Site": "same-origin"}
_METADATA = "169.254.169.254"


@dataclass(frozen=True)
class Part:
    """One thing that was tried. ok: None if it does not apply here. action: what to do where it failed."""

    name: str
    ok: bool | None
    seconds: float
    sentence: str
    action: str = ""
    code: str = ""


@dataclass
class Result:
    url: str
    seconds: float = 0.0
    parts: list[Part] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return bool(self.parts) and all(part.ok is not False for part in self.parts)

    def as_json(self) -> dict[str, object]:
        return {"ok": self.ok, "url": self.url, "seconds": round(self.seconds, 2), "full": any(
            part.code == BoxFull.code for part in self.parts), "parts": [
            {"name": part.name, "ok": part.ok, "skipped": part.ok is None, "seconds": round(part.seconds, 2),
             "sentence": part.sentence, "action": part.action, "code": part.code} for part in self.parts]}


class Skipped(Exception):
    """A part that does not apply here."""


def run(settings: Settings, *, url: str = "", ca_file: str = "", told: Callable[[Part], None] = lambda part: None) -> Result:
    """Try everything and clean up. told: called after each part. Raises BadInput, Misconfigured, DatabaseDown."""
    address = _address(url or shown_url(settings))
    own_authority = settings.state_dir / "tls" / "ca.crt"      # beside the system's
    if not ca_file and settings.tls == "selfsigned" and own_authority.exists():
        ca_file = str(own_authority)
    context = _context(ca_file)
    db = open_database(settings)
    try:
        homes: Homes = settings.make(settings.homes_class, root=settings.homes_dir)
        anyio.run(open_store, db, homes)
        with _alone(settings.state_dir / "smoke.lock"), _ended_by_signals():
            return _Smoke(settings, db, homes, address, context, told).run()
    finally:
        db.close()


class _Smoke:
    def __init__(self, settings: Settings, db: Database, homes: Homes, url: str, context: ssl.SSLContext,
                 told: Callable[[Part], None]) -> None:
        self.settings, self.db, self.homes, self.told = settings, db, homes, told
        self.authenticator: Authenticator = make_authenticator(settings, db)
        self.spawner: Spawner = make_spawner(settings)
        self.result = Result(url)
        parts = urlsplit(url)
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self.site = settings.public_origin or self.origin   # what a browser there would say
        self.base = parts.path
        self.prefix = f"{self.base}user/{SMOKE_USER}/"
        self.context = context
        self.client = self._client()
        self.password = ""
        self.kernel: Kernel | None = None
        self.limit_bytes = getattr(homes, "quota", None)

    def run(self) -> Result:
        began_at = time.monotonic()
        try:
            # each needs those before it; what is only looked at does not stop the rest
            needed = (("account", self.account), ("sign-in", self.sign_in), ("start", self.start), ("enter", self.enter),
                      ("cell", self.cell))
            if all(self._try(name, work) for name, work in needed):
                for name, work in (("quota", self.quota), ("isolation", self.isolation), ("strangers", self.strangers)):
                    self._try(name, work)
                self._try("stop", self.stop)
        finally:
            self._try("clean-up", self.clean_up)
            self.client.close()
            self.result.seconds = time.monotonic() - began_at
        return self.result

    def _try(self, name: str, work: Callable[[], str]) -> bool:
        began_at = time.monotonic()

        def part(ok: bool | None, sentence: str, action: str = "", code: str = "") -> Part:
            return Part(name, ok, time.monotonic() - began_at, sentence, action, code)

        try:
            done = part(True, work())
        except Skipped as why:
            done = part(None, str(why))
        except Failed as error:
            done = part(False, error.sentence, error.action, error.code)
        except ApplianceError as error:
            done = part(False, error.sentence, error.action, error.code)
        except (httpx.HTTPError, WebSocketException, OSError, TimeoutError) as error:
            done = part(False, *_explain(error, self.result.url))
        except (KeyError, ValueError, TypeError) as error:   # an answer of another shape
            done = part(False, f"The answer could not be understood ({type(error).__name__}).",
                        "Look at the server's log; the image may hold something else than a Jupyter server.")
        self.result.parts.append(done)
        self.told(done)
        return done.ok is not False

    # -- the parts ---------------------------------------------------------------------------------------------------
    def account(self) -> str:
        """Make the account usable for this run."""
        password = secrets.token_urlsafe(24)
        user = self.db.run(lambda t: users.find(t, SMOKE_USER))
        if user is None:
            user = self.db.run(lambda t: users.add(t, SMOKE_USER, actor=ACTOR))
        self.db.run(lambda t: users.unarchive(t, SMOKE_USER, actor=ACTOR))
        left = self.db.run(lambda t: servers.find(t, user.id), write=False)
        if left is not None and left.phase not in Phase.down():    # of a run that was killed
            self.db.run(lambda t: servers.want_stopped(t, left.id, actor=ACTOR))
            self._wait_stopped()
        if self.authenticator.manages_passwords:
            anyio.run(lambda: self.authenticator.set_password(SMOKE_USER, password, must_change=False))
            with contextlib.suppress(ApplianceError):  # lists of names may leave it out
                anyio.run(lambda: self.authenticator.get_authenticated_user(
                    LoginRequest(), {"username": SMOKE_USER, "password": password}))
                self.password = password
        return f"The account {SMOKE_USER} is ready."

    def sign_in(self) -> str:
        page = self._get("hub/login")
        if page.status_code != 200 or not self._xsrf():
            raise Failed(f"{self.result.url} answers {page.status_code} where the sign-in page should be.",
                         "Something else answers at this address; check the host name and the ports, or give --url.")
        if not self.password:
            self._put_session()
        else:
            page = self._post("hub/login?next=" + f"{self.base}hub/home", username=SMOKE_USER, password=self.password)
        home = self._get("hub/home")
        if home.status_code != 200 or home.url.path != f"{self.base}hub/home":
            raise Failed(f"The sign-in was not taken ({page.status_code}): {_words(page)}",
                         "Look at the Hub's log; where TLS ends before the box, set c.JupyterHub.public_url.")
        return "The sign-in page let it in." if self.password else "It is signed in; its password is not asked here."

    def start(self) -> str:
        asked = self._post("hub/spawn", follow=False)
        if asked.status_code >= 400:
            raise Failed(f"The server could not be asked for ({asked.status_code}): {_words(asked)}", "Look at the Hub's log.")
        seen: list[str] = []
        try:
            with self.client.stream("GET", f"{self.base}hub/api/users/{SMOKE_USER}/server/progress", headers={
                    "Accept": "text/event-stream"}, timeout=httpx.Timeout(ANSWER_S)) as events:
                if events.status_code != 200:
                    raise Failed(f"The progress of the start cannot be followed ({events.status_code}).",
                                 "Look at the Hub's log.")
                end = time.monotonic() + START_S
                for line in events.iter_lines():
                    if not line.startswith("data: "):
                        continue
                    said = json.loads(line.removeprefix("data: "))
                    seen.append(str(said.get("message", "")))
                    if said.get("ready"):
                        return f"The server started; {len(set(seen))} steps were told."
                    if said.get("failed") or time.monotonic() > end:
                        break
        finally:
            self._why_not()
        server = self._server()
        raise Failed(f"The server is not there after {START_S:.0f} s: {seen[-1] if seen else 'nothing was told'}",
                     f"The box may be very busy; its phase is {server.phase if server else 'unknown'}. Try again.")

    def _why_not(self) -> None:
        """Raises Failed with the Hub's own words where the start has failed."""
        server = self._server()
        if server is not None and server.phase is Phase.FAILED and server.failure is not None:
            failure = server.failure
            if failure.code == BoxFull.code:
                raise Failed("The box is full: all its places are taken, so no server was started for the test.",
                             "Try again when somebody has finished; nobody was disturbed.", failure.code)
            raise Failed(failure.sentence, failure.action, failure.code)

    def enter(self) -> str:
        self._get(f"hub/enter?next={self.prefix}", follow=False)
        answer = self.client.get(f"{self.prefix}api/status", headers={"Accept": "application/json"})
        if answer.status_code != 200 or "kernels" not in answer.json():
            raise Failed(f"The server answers {answer.status_code} to its own student.",
                         "Look at Traefik's log and at the routes; “appliance doctor” names what is wrong.")
        return "Traefik leads to the server."

    def cell(self) -> str:
        self.kernel = Kernel(
            self.client, self.context, prefix=self.prefix, origin=self.origin, site=self.site)
        said = self.kernel.run("6 * 7")
        if said != "42":
            raise Failed(f"6 * 7 is “{said[:60]}” here.", "Look at the kernel in the image; it does not compute.")
        return "6 * 7 is 42, over the websocket."

    def quota(self) -> str:
        """Fill the home past its quota, first by reserving and then by writing."""
        limit = self.limit_bytes
        if not isinstance(limit, int) or limit <= 0:
            raise Skipped("Homes have no quota here.")
        assert self.kernel is not None
        said = json.loads(self.kernel.run(QUOTA_CODE.format(limit=limit, steps=_STEPS), QUOTA_S).strip().splitlines()[-1])
        if said["error"] == "ENOSPC":
            raise Failed(f"The disk is full before the quota of {format_bytes(limit)} was reached.",
                         "Free space on the file system of the homes, or make it larger.")
        if said["error"] not in ("EDQUOT", "EDQUOT-write"):
            raise Failed(f"{format_bytes(said['bytes'])} were written into a home whose quota is {format_bytes(limit)}"
                         f"{'' if not said['error'] else ' (' + said['error'] + ')'}.",
                         "The quota is not enforced: check that the homes are Btrfs with quotas on (btrfs qgroup show).")
        return f"The quota of {format_bytes(limit)} refused after {format_bytes(said['bytes'])}."

    def isolation(self) -> str:
        """A port of the host that is nobody's business, and the cloud's metadata."""
        host = self.spawner.hub_host()
        if host.startswith("127."):
            raise Skipped("Servers are processes of this machine here, with its network.")
        assert self.kernel is not None
        with socket.create_server(("0.0.0.0", 0)) as private:
            port = private.getsockname()[1]
            with contextlib.closing(socket.create_connection((host, port), timeout=3)):
                pass   # the machine itself gets there, so that a refusal means something
            ways = {"hub": (host, self.settings.hub_port), "port": (host, port), "metadata": (_METADATA, 80)}
            own = own_address()
            ways |= {"own": (own, port)} if own else {}
            said = json.loads(self.kernel.run(REACH_CODE.format(ways=json.dumps(ways))).strip().splitlines()[-1])
        if not said["hub"]:
            raise Failed("The server does not reach the Hub's API, so nothing can be said of what else it reaches.",
                         f"Check the firewall for {host}, port {self.settings.hub_port}.")
        if said["port"] or said.get("own"):
            raise Failed(f"The server reached port {port} of the host, which is nobody's business.",
                         "Another firewall lets it through: “appliance doctor” and “nft list ruleset” show which.")
        if said["metadata"]:
            raise Failed(f"The server reached the metadata address {_METADATA}.",
                         "Check DockerSpawner's list of allowed networks and “nft list ruleset”.")
        return "The server reaches neither other ports of the host nor the metadata address."

    def strangers(self) -> str:
        """The same address without the cookie, from another site, and past Traefik."""
        path = f"{self.prefix}api/status"
        accept = {"Accept": "application/json"}
        with self._client() as stranger:
            if _let_in(stranger.get(path, headers=accept, follow_redirects=False)):
                raise Failed("The server answers somebody who has no cookie.", "Look at the routes: “appliance doctor”.")
        if _let_in(self.client.get(path, headers=accept | {"Origin": "https://elsewhere.invalid"}, follow_redirects=False)):
            raise Failed("The server answers another site's page.", "Look at the routes: “appliance doctor”.")
        server = self._server()
        if server is not None and server.url and self.spawner.options(server.image).inject_token and _let_in(
                httpx.get(server.url + path, headers=accept, timeout=ANSWER_S, trust_env=False)):
            raise Failed("The server answers without its secret to whoever reaches its address.",
                         "The image switches Jupyter's own authentication off; remove that.")
        return "Without the cookie nobody gets in."

    def stop(self) -> str:
        if self.kernel is not None:
            self.kernel.close()
        asked = self._post(f"hub/stop/{SMOKE_USER}", follow=False)
        if asked.status_code >= 400:
            raise Failed(f"The server could not be stopped ({asked.status_code}): {_words(asked)}", "Look at the Hub's log.")
        self._wait_stopped()
        return "The server has stopped."

    def clean_up(self) -> str:
        """Idempotent, and right after a part that failed in the middle."""
        if self.kernel is not None:
            self.kernel.close()
        user = self.db.run(lambda t: users.find(t, SMOKE_USER), write=False)
        if user is None:
            return "There was nothing to clean up."
        self.db.run(lambda t: users.set_password(t, SMOKE_USER, None, must_change=False, actor=ACTOR))
        self.db.run(lambda t: users.archive(t, SMOKE_USER, actor=ACTOR))
        self._wait_stopped()
        for home in anyio.run(self.homes.list):   # of a kernel that was ended in the middle
            if home.uid == user.uid:
                for name in FILES:
                    (home.path / name).unlink(missing_ok=True)
        return "The account is archived and its password forgotten."

    # -- the way there -----------------------------------------------------------------------------------------------
    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=self.origin, timeout=ANSWER_S, follow_redirects=True, trust_env=False,
                            verify=self.context)

    def _get(self, path: str, *, follow: bool = True) -> httpx.Response:
        return self.client.get(self.base + path, headers=_NAVIGATION, follow_redirects=follow)

    def _post(self, path: str, *, follow: bool = True, **fields: str) -> httpx.Response:
        return self.client.post(self.base + path, data={"_xsrf": self._xsrf(), **fields},
                                headers=_NAVIGATION | {"Origin": self.site}, follow_redirects=follow)

    def _xsrf(self) -> str:
        return next((cookie.value or "" for cookie in self.client.cookies.jar if cookie.name == "_xsrf"), "")

    def _put_session(self) -> None:
        """Sign in where the Authenticator keeps passwords elsewhere: a session made in the store, and its cookie."""
        secret = load_cookie_secret(self.settings.cookie_secret_file)
        user = self.db.run(lambda t: users.find(t, SMOKE_USER), write=False)
        assert user is not None
        session: Session = self.db.run(lambda t: sessions.add(
            t, new_id(20), user.id, origin=self.site, address="", user_agent=ACTOR, lifetime_s=SESSION_S))
        tokens = SessionTokens(derive_key(secret, "session"), self.settings.cookie_max_age)
        name = cookies.session_name(derive_key(secret, "session cookie"), session.id)
        self.client.cookies.set(name, tokens.issue(session.id, user.id, expires_at=session.expires_at),
                                urlsplit(self.origin).hostname or "", f"{self.base}hub/")
        self.client.cookies.delete("_xsrf", path=f"{self.base}hub/", domain=urlsplit(self.origin).hostname or "")

    def _server(self) -> Server | None:
        def read(t: Any) -> Server | None:
            user = users.find(t, SMOKE_USER)
            return servers.find(t, user.id) if user else None

        return self.db.run(read, write=False)

    def _wait_stopped(self) -> None:
        end = time.monotonic() + STOP_S
        while True:
            server = self._server()
            if server is None or server.phase in Phase.down():
                return
            if time.monotonic() > end:
                raise Failed(f"The server does not stop: it is {server.phase} after {STOP_S:.0f} s.",
                             "Check that the Hub runs and that the container engine answers.")
            time.sleep(0.1)


# ------------------------------------------------------------------------------------------------------ small things --
def _address(url: str) -> str:
    """Return "https://box.school/" with its base path. Raises BadInput."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise BadInput(f"“{url}” is not an address of a box.", action="Write it like https://box.school/.")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}/"


def _context(ca_file: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context()
        if ca_file:
            context.load_verify_locations(ca_file)
        return context
    except (OSError, ssl.SSLError) as error:
        raise BadInput(f"The certificates in {ca_file} cannot be read: {error}.",
                       action="Give the file of the authority that signed the box's certificate, in PEM format.") from error


def _explain(error: Exception, url: str) -> tuple[str, str]:
    words = str(error)
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in words:
        why = getattr(cause, "verify_message", "") or "it is not trusted here"
        return (f"The certificate of {url} is not good: {why}.",
                "Give --ca-file for an authority of your own; else look at its names and its end with “appliance doctor”.")
    if cause is not None:
        return f"{url} does not speak TLS as it should: {words}.", "Check that the port is the one for HTTPS."
    if isinstance(error, (httpx.ConnectError, ConnectionRefusedError)):
        return (f"Nothing answers at {url}: {words}.",
                "Check that Traefik runs (docker ps), that the name leads to this machine, and the firewall.")
    if isinstance(error, (httpx.TimeoutException, TimeoutError)):
        return f"{url} does not answer in time.", "Check that the Hub and Traefik run, and how busy the box is."
    return f"The connection to {url} broke: {type(error).__name__} {words}".rstrip() + ".", "Look at Traefik's log; try again."


def _let_in(response: httpx.Response) -> bool:
    return response.is_success


def _words(response: httpx.Response) -> str:
    """The words of a page, without its tags."""
    main = re.search(r"<main.*?>(.*)</main>", response.text, re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", main[1] if main else response.text).split())[:300] or "no words"


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Two at once would end each other's server. Raises BadInput."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput("Another smoke test is running.", action="Wait for its end.") from None
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """A SIGTERM cleans up as Ctrl-C does."""
    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
