"""Long lists come in pages, as JupyterHub's clients ask for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.responses import Response

from appliance.errors import BadInput
from appliance.web.api.operation import Call, Query, answer
from appliance.web.api.schema import COUNT, TEXT, Schema, array, nullable, obj

MEDIA_TYPE = "application/jupyterhub-pagination+json"
_MOST = 999_999_999
OFFSET = Query("offset", "How many to leave out at the beginning.", {"type": "integer", "minimum": 0, "maximum": _MOST})
LIMIT = Query("limit", "How many at most; what is above the box's own limit is taken for that.",
              {"type": "integer", "minimum": 0, "maximum": _MOST})


@dataclass(frozen=True)
class Page:
    """wrapped: the client asked for the answer that says where the next page is."""

    offset: int
    limit: int
    wrapped: bool
    limit_said: bool

    @classmethod
    def of(cls, call: Call) -> Page:
        """Raises BadInput."""
        accepted = {part.split(";")[0].strip().lower() for part in call.visit.request.headers.get("accept", "").split(",")}
        wrapped = MEDIA_TYPE in accepted
        usual, most = call.hub.directory.page_default_limit, call.hub.directory.page_max_limit
        # who does not know of pages would take the first one for everything, so it is as long as may be
        said = _number(call, "limit", usual if wrapped else most)
        return cls(_number(call, "offset", 0), max(1, min(said, most)), wrapped, bool(call.query("limit")))


def paged(call: Call, page: Page, items: Sequence[Any] | Mapping[str, Any], total: int) -> Response:
    """Answer with a page. total: how many there are in all pages."""
    if not page.wrapped:
        return answer(items)
    after = page.offset + page.limit
    following = None
    if after < total:
        said = parse_qsl(call.visit.request.url.query, keep_blank_values=True)
        query = [(name, value) for name, value in said if name not in ("offset", "limit")]
        query += [("offset", str(after)), ("limit", str(page.limit))]
        path = call.visit.here.partition("?")[0]
        following = {"offset": after, "limit": page.limit, "url": f"{call.visit.origin}{path}?{urlencode(query)}"}
    return answer({"items": items, "_pagination": {
        "offset": page.offset, "limit": page.limit, "total": total, "next": following}})


def paged_schema(items: Schema) -> Schema:
    """Return the schema of a list that comes whole, or in the wrapping of a page. items: of the list (or the object)."""
    following = obj({"offset": COUNT, "limit": COUNT, "url": TEXT}, required=("offset", "limit", "url"))
    page = obj({"offset": COUNT, "limit": COUNT, "total": COUNT, "next": nullable(following)},
               required=("offset", "limit", "total", "next"))
    return {"anyOf": [items, obj({"items": items, "_pagination": page}, required=("items", "_pagination"))]}


def list_schema(shape: Schema) -> Schema:
    return paged_schema(array(shape))


def _number(call: Call, name: str, default: int) -> int:
    if name not in call.visit.request.query_params:
        return default
    text = call.query(name)
    if not (text.isascii() and text.isdecimal()) or len(text) > 9:
        raise BadInput(f"“{name}” has to be a whole number from 0 to {_MOST}.")
    return int(text)
