"""No secret in the log, and no line that is not ours."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from appliance.log import redact, setup

pytestmark = pytest.mark.unit

SECRET = "S3cretS3cretS3cret"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    setup(logging.INFO, stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.mark.parametrize("text", [
    f"GET /hub/api?token={SECRET}&x=1", f"/user/alice/lab?x=1&token={SECRET}", f"POST _xsrf={SECRET}&username=alice",
    f"/oauth_callback?code={SECRET}&state={SECRET}", f"Authorization: token {SECRET}",
    f"authorization: Bearer {SECRET}", f"{{'Authorization': 'token {SECRET}'}}",
    f"[(b'authorization', b'token {SECRET}')]",
    f"Authorization={SECRET}", f"Cookie: appliance-session={SECRET}; _xsrf={SECRET}", f"Set-Cookie: a={SECRET}; Path=/",
    f"(b'cookie', b'a={SECRET}')",
    f'{{"password": "{SECRET}"}}', f"appliance-server-k3f9abcd={SECRET}.1.owner.x", f"postgresql://hub:{SECRET}@db/hub",
    f"HeaderRegexp(`Cookie`, appliance-server-k3f9={SECRET})", f"eyJhbGciOiJIUzI1NiJ9.{SECRET}.abc", f"token {SECRET}",
])
def test_secrets_are_redacted(text: str) -> None:
    assert SECRET not in redact(text)


@pytest.mark.parametrize("text", [
    "server ended with exit code: 137", "exit_code=137", "status code 500",
    "alice: server k3f9 ready after 1.2 s", "/user/alice/lab/tree/state.ipynb",
    "PAM refused 'alice': Authentication failure", "Listening on http://0.0.0.0:8000/",
])
def test_plain_words_stay(text: str) -> None:
    assert redact(text) == text


def test_line_break_in_a_name_starts_no_line(log: io.StringIO) -> None:
    logging.getLogger("appliance").warning("refused %s", "eve\n2026-01-01 00:00:00 INFO appliance: admin\x1b[2J is in")
    assert log.getvalue().count("\n") == 1
    assert "\x1b" not in log.getvalue()


def test_secret_in_a_traceback_is_redacted(log: io.StringIO) -> None:
    try:
        raise ValueError(f"no answer from /hub/api?token={SECRET}")
    except ValueError:
        logging.getLogger("appliance").exception("failed")
    assert "Traceback" in log.getvalue()
    assert SECRET not in log.getvalue()


def test_other_libraries_are_quiet_and_twice_is_once(log: io.StringIO) -> None:
    setup(logging.DEBUG, log)
    logging.getLogger("httpx").info("GET http://127.0.0.1/")
    logging.getLogger("appliance").debug("mine")
    assert log.getvalue().count("\n") == 1
    assert "mine" in log.getvalue()
