"""Static files, held in memory; the address carries the content's hash, so a browser may keep them for ever."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from starlette.responses import Response

from appliance.domain.urls import Urls
from appliance.errors import NotFound

if TYPE_CHECKING:
    from appliance.web.visit import Visit

_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FOR_EVER = "public, max-age=31536000, immutable"


class StaticFile(NamedTuple):
    content: bytes
    media_type: str
    digest: str


@cache
def files() -> dict[str, StaticFile]:
    """Return every static file by its name."""
    found = {}
    for path in sorted((Path(__file__).parent / "static").iterdir()):
        if path.suffix in _TYPES:
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()[:16]
            found[path.name] = StaticFile(content, _TYPES[path.suffix], digest)
    return found


def url(urls: Urls, name: str) -> str:
    return f"{urls.hub}static/{files()[name].digest}/{name}"


async def serve(visit: Visit) -> Response:
    file = files().get(visit.param("name"))
    if file is None:
        raise NotFound()
    # a page of an earlier version still gets the file, but must not keep it under the old hash
    current = visit.param("digest") == file.digest
    return Response(file.content, media_type=file.media_type,
                    headers={"Cache-Control": _FOR_EVER if current else "no-cache"})


async def logo(visit: Visit) -> Response:
    file = files()["logo.svg"]
    return Response(file.content, media_type=file.media_type, headers={"Cache-Control": "public, max-age=3600"})


async def robots(visit: Visit) -> Response:
    return Response("User-agent: *\nDisallow: /\n", media_type="text/plain")
