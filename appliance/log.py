"""The Hub's log: one line an event, and no secret in it."""

from __future__ import annotations

import logging
import re
import sys
from typing import TextIO

_NAMES = r"token|access_token|api_token|_xsrf|code_verifier|client_secret|password|new_password|secret"
_SECRETS = (
    # token=…, "password": "…", 'code': '…', in an address, a form, a dict or JSON
    re.compile(rf"""(?i)((?<![\w-])["']?(?:{_NAMES})["']?\s*[=:]\s*["']?)[^\s"'&;,)\]}}]+"""),
    # code=… of OAuth, but not "exit code: 137"
    re.compile(r"""(?i)((?<![\w-])["']?(?:code|state)(?:=|["']\s*[=:]\s*)["']?)[^\s"'&;,)\]}]+"""),
    # Authorization: Bearer …, Authorization: token …, Basic …; also as ASGI has it: (b'authorization', b'token …')
    re.compile(r"""(?i)((?:proxy-)?authorization\b["']?\s*[:=,]\s*b?["']?)(?:\w+\s+)?[^\s"',;)\]}]+"""),
    re.compile(r"""(?i)(\b(?:bearer|token)\s+)[A-Za-z0-9._~+/=-]{8,}"""),
    # Cookie: a=b; c=d and Set-Cookie: a=b; Path=/ up to the end of the line or of the quoted text
    re.compile(r"""(?i)(\b(?:set-)?cookie\b["']?\s*[:=,]\s*b?["']?)[^"'\r\n]+"""),
    re.compile(r"(appliance-server-[a-z0-9]+=)[^\s;\"',]+"),
    # what old clients ask whose it is
    re.compile(r"(authorizations/(?:token|cookie/[^/\s\"']+)/)[^\s\"'?&]+"),
    # user:password@host in a database's address
    re.compile(r"(\w://[^\s:/@]+:)[^\s@/]+(?=@)"),
    re.compile(r"()\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"),
)
_QUIET = ("uvicorn", "uvicorn.error", "httpx", "httpcore", "urllib3", "docker", "asyncio", "alembic", "traitlets")
_COLOURS = {logging.WARNING: "\x1b[33m", logging.ERROR: "\x1b[31m", logging.CRITICAL: "\x1b[31;1m"}


def redact(text: str) -> str:
    """Return `text` without tokens, cookies, passwords and the like."""
    for pattern in _SECRETS:
        text = pattern.sub(r"\1[redacted]", text)
    return text


class Formatter(logging.Formatter):
    """Time, level, where from, message, in one line; a traceback follows on lines of its own."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S")
        self._colour = colour

    def formatMessage(self, record: logging.LogRecord) -> str:
        # whoever writes a line break into a user name does not write a line of our log
        record.message = "".join(char if char.isprintable() else repr(char)[1:-1] for char in record.message)
        line = super().formatMessage(record)
        colour = _COLOURS.get(record.levelno) if self._colour else None
        return f"{colour}{line}\x1b[0m" if colour else line

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def get(name: str) -> logging.Logger:
    """Return the logger of a module: `log.get(__name__)`."""
    return logging.getLogger(name)


def setup(level: int, stream: TextIO | None = None) -> None:
    """Send everything to `stream`, which is stderr unless given. Idempotent."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Formatter(colour=stream.isatty()))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old.formatter, Formatter)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    # Even under --debug: their debug lines are many, and hold headers.
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    # warns twice of every websocket of a stopped server's open tab, which the Hub answers as it should
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    logging.getLogger("uvicorn.access").disabled = True
    logging.captureWarnings(True)
