"""What the box's own tools ask of the Hub while releases change: facts, a trial on a copy, the way back of the schema."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import urllib.error
import urllib.request
from dataclasses import replace
from typing import Any

import anyio
import anyio.to_thread

from appliance import __version__, config
from appliance.config import Settings
from appliance.errors import BadInput, Misconfigured
from appliance.main import Box, _first, _listen, _serving
from appliance.store.database import HEAD, Database, beside, describe, known_revisions
from appliance.web.app import create_app

_TRIAL_S = 60


def facts(settings: Settings) -> dict[str, Any]:
    """Return what the host's side has to know, for JSON. Holds no password."""
    where = describe(settings.db_url)
    db = Database(settings.db_url)
    try:  # asking a file that is not there would make it
        schema = db.revision() if where["kind"] != "sqlite" or os.path.exists(where["path"]) else None
    finally:
        db.close()
    return {
        "version": __version__, "schema": schema, "head": HEAD, "database": where, "base_url": settings.base_url,
        "ip": settings.ip, "port": settings.port, "hub_port": settings.hub_port, "public_origin": settings.public_origin,
        "tls": settings.tls, "homes": str(settings.homes_dir), "homes_class": settings.homes_class.__name__,
        "warnings": config.warnings(settings)}


def trial(settings: Settings, database: str) -> list[str]:
    """Start this very program on a copy of the database and ask it for its pages; return what was seen.

    `database`: the URL of the copy, or the bare name of another PostgreSQL database beside the configured one. Touches
    neither the engine nor routes nor homes, takes no lock, and listens on a loopback port of its own. Raises
    ApplianceError.
    """
    copy = Database(beside(settings.db_url, database))
    if describe(copy.url) == describe(settings.db_url):
        raise BadInput("That is the database itself, not a copy of it.", action="Name a copy with --database.")
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        before = copy.revision()
        copy.upgrade()
    finally:
        copy.close()
    seen = [f"schema {before or 'none'} became {HEAD}"]
    return seen + anyio.run(_ask, replace(settings, db_url=copy.url, event_log_file=None))


async def _ask(settings: Settings) -> list[str]:
    box = Box(settings)
    seen = []
    sock = _listen("127.0.0.1", 0)
    port = sock.getsockname()[1]
    try:
        async with anyio.create_task_group() as tasks, _serving(tasks, create_app(box.hub), sock):
            for path in ("hub/health", "hub/login"):
                status = await anyio.to_thread.run_sync(_status, f"http://127.0.0.1:{port}{settings.base_url}{path}")
                if status != 200:
                    raise Misconfigured(f"The page {path} answers with {status} instead of 200.",
                                        action="Look at the last lines of the trial.")
                seen.append(f"{path} answers")
    except BaseExceptionGroup as group:
        error = _first(group)
        if error is None:
            raise
        raise error from None
    finally:
        with anyio.CancelScope(shield=True):
            for close in (box.spawner.close, box.proxy.close):
                with contextlib.suppress(asyncio.CancelledError):
                    await close()
        box.db.close()
    return seen


def _status(url: str) -> int:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay())
    try:
        with opener.open(url, timeout=_TRIAL_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError as error:
        raise Misconfigured(f"The Hub on trial does not answer: {error}.", action="Look at its last lines.") from error


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:  # a redirect is an answer; it is not 200
        return None


def downgrade_db(settings: Settings, revision: str, database: str = "") -> str:
    """Take the schema back to `revision`, data kept, for the release before. Returns a sentence."""
    if revision not in known_revisions():
        raise BadInput(f"There is no schema {revision}; this program knows {', '.join(sorted(known_revisions()))}.",
                       action="Name one of these.")
    db = Database(beside(settings.db_url, database))
    try:
        return f"The database {db.shown_url} has schema {db.downgrade(revision)}."
    finally:
        db.close()


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
