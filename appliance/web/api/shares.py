"""Shares and share codes: what is shared with whom, giving and taking it, and links that give it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from starlette.responses import Response

from appliance.domain.server import Server
from appliance.domain.share import (
    CODE_EXPIRES_IN_LEAST_S,
    CODE_EXPIRES_IN_MOST_S,
    CODE_EXPIRES_IN_S,
    Share,
    ShareCode,
)
from appliance.errors import BadInput, NotFound
from appliance.hub.shares import Place, With
from appliance.web.api.models import time
from appliance.web.api.operation import Call, Operation, Query, Target, answer, done
from appliance.web.api.paging import LIMIT, OFFSET, Page, paged
from appliance.web.api.schema import COUNT, FLAG, NAME, TEXT, TIME, Schema, array, nullable, obj
from appliance.web.visit import Visit

_CODE_ID = re.compile(r"sc_(\d{1,18})")


# -- what is shared with somebody --------------------------------------------------------------------------------------
async def shared_with_user(call: Call) -> Response:
    page = _page(call)
    found, total = await call.hub.shares.with_user(call.owner.user.name, offset=page.offset, limit=page.limit)
    return paged(call, page, _shares(call, found), total)


async def shared_with_group(call: Call) -> Response:
    page = _page(call)
    found, total = await call.hub.shares.with_group(call.group.name, offset=page.offset, limit=page.limit)
    return paged(call, page, _shares(call, found), total)


async def get_share(call: Call) -> Response:
    return answer(share_model(call.visit, await call.hub.shares.find(_of_owner(call), _holder(call))))


async def leave_share(call: Call) -> Response:
    await call.hub.shares.leave(_of_owner(call), _holder(call), actor=call.requester.name)
    return done()


# -- what somebody shares ----------------------------------------------------------------------------------------------
async def list_of_owner(call: Call) -> Response:
    page = _page(call)
    found, total = await call.hub.shares.of_owner(call.owner.user.name, offset=page.offset, limit=page.limit)
    return paged(call, page, _shares(call, found), total)


async def list_of_server(call: Call) -> Response:
    page = _page(call)
    found, total = await call.hub.shares.of_server(_place(call), offset=page.offset, limit=page.limit)
    return paged(call, page, _shares(call, found), total)


async def add_share(call: Call) -> Response:
    """Add to what a user or a group may do with a server; what they may already stays."""
    share = await call.hub.shares.grant(
        _place(call), _said_with(call), call.body.get("scopes") or (), by=call.requester.rights, actor=call.requester.name)
    return answer(share_model(call.visit, share))


async def take_share(call: Call) -> Response:
    """Take scopes away from a user or a group, without a list all of them; answers with what is left, {} for nothing."""
    left = await call.hub.shares.revoke(
        _place(call), _said_with(call), call.body.get("scopes") or None, actor=call.requester.name)
    return answer(share_model(call.visit, left) if left is not None else {})


async def take_all_shares(call: Call) -> Response:
    await call.hub.shares.revoke_all(_place(call), actor=call.requester.name)
    return done()


# -- codes -------------------------------------------------------------------------------------------------------------
async def list_codes_of_owner(call: Call) -> Response:
    page = _page(call)
    found, total = await call.hub.shares.codes_of_owner(call.owner.user.name, offset=page.offset, limit=page.limit)
    return paged(call, page, [code_model(call.visit, code) for code in found], total)


async def list_codes_of_server(call: Call) -> Response:
    page = _page(call)
    found, total = await call.hub.shares.codes_of_server(_place(call), offset=page.offset, limit=page.limit)
    return paged(call, page, [code_model(call.visit, code) for code in found], total)


async def add_code(call: Call) -> Response:
    """Make a code, which is shown this once."""
    body = call.body or {}
    record, code = await call.hub.shares.add_code(
        _place(call), body.get("scopes") or (), expires_in_s=body.get("expires_in", CODE_EXPIRES_IN_S),
        by=call.requester.rights, actor=call.requester.name)
    link = call.visit.hub_url("accept-share", code=code)
    public = call.visit.public_origin
    return answer(code_model(call.visit, record) | {
        "code": code, "accept_url": link, "full_accept_url": public + link if public else None})


async def delete_codes(call: Call) -> Response:
    """Delete one code, by itself or by its id; with neither all codes of the server."""
    code, said = call.query("code"), call.query("id")
    match = _CODE_ID.fullmatch(said)
    if said and not code and match is None:
        raise NotFound("There is no such share code.")
    await call.hub.shares.delete_codes(_place(call), code=code, code_id=int(match[1]) if match and not code else None,
                                       actor=call.requester.name)
    return done()


# -- who and which -----------------------------------------------------------------------------------------------------
def _page(call: Call) -> Page:
    """Shares come in the wrapping of a page whatever a client says it takes."""
    return replace(Page.of(call), wrapped=True)


def _place(call: Call) -> Place:
    return Place(call.owner.user.name, call.server_name)


def _of_owner(call: Call) -> Place:
    return Place(call.visit.param("owner"), call.visit.param("server"))


def _holder(call: Call) -> With:
    return With(user=call.person.user.name) if call.person is not None else With(group=call.group.name)


def _said_with(call: Call) -> With:
    user, group = call.body.get("user"), call.body.get("group")
    if (user is None) == (group is None):
        raise BadInput("Name either a “user” or a “group”.")
    return With(user or "", group or "")


# -- JupyterHub's shapes -----------------------------------------------------------------------------------------------
def _shares(call: Call, found: Sequence[Share]) -> list[dict[str, Any]]:
    return [share_model(call.visit, share) for share in found]


def share_model(visit: Visit, share: Share) -> dict[str, Any]:
    return {
        "server": _server_model(visit, share.server), "scopes": share.scopes,
        "user": {"name": share.user_name} if share.user_name is not None else None,
        "group": {"name": share.group_name} if share.group_name is not None else None,
        "kind": "group" if share.group_name is not None else "user", "created_at": time(share.created_at),
    }


def code_model(visit: Visit, code: ShareCode) -> dict[str, Any]:
    return {
        "server": _server_model(visit, code.server), "scopes": code.scopes, "id": f"sc_{code.id}",
        "created_at": time(code.created_at), "expires_at": time(code.expires_at), "exchange_count": code.exchange_count,
        "last_exchanged_at": time(code.last_exchanged_at),
    }


def _server_model(visit: Visit, server: Server) -> dict[str, Any]:
    """As much of a server as somebody has to know whom it is shared with."""
    url, public = visit.urls.server(server.user_name, server.name), visit.public_origin
    return {"user": {"name": server.user_name}, "name": server.name, "url": url,
            "full_url": public + url if public else None, "ready": server.ready}


_WHO = obj({"name": TEXT}, required=("name",))
_SERVER = obj({"user": _WHO, "name": TEXT, "url": TEXT, "full_url": nullable(TEXT), "ready": FLAG},
              required=("user", "name", "url", "full_url", "ready"))
_SHARE = obj({
    "server": _SERVER, "scopes": array(TEXT), "user": nullable(_WHO), "group": nullable(_WHO),
    "kind": {**TEXT, "enum": ["user", "group"]}, "created_at": TIME,
}, required=("server", "scopes", "user", "group", "kind", "created_at"))
_CODE_PARTS: dict[str, Schema] = {
    "server": _SERVER, "scopes": array(TEXT), "id": TEXT, "created_at": TIME, "expires_at": nullable(TIME),
    "exchange_count": COUNT, "last_exchanged_at": nullable(TIME),
}
_CODE = obj(_CODE_PARTS, required=tuple(_CODE_PARTS))
_NEW_CODE_PARTS = _CODE_PARTS | {"code": TEXT, "accept_url": TEXT, "full_accept_url": nullable(TEXT)}
_NEW_CODE = obj(_NEW_CODE_PARTS, required=tuple(_NEW_CODE_PARTS))
_NEXT = obj({"offset": COUNT, "limit": COUNT, "url": TEXT}, required=("offset", "limit", "url"))
_PAGE = obj({"offset": COUNT, "limit": COUNT, "total": COUNT, "next": nullable(_NEXT)},
            required=("offset", "limit", "total", "next"))
_SCOPES = nullable(array(TEXT, maxItems=100))
_WITH = obj({"user": nullable(NAME), "group": nullable(NAME), "scopes": _SCOPES})
_CODE_WISH = obj({"scopes": _SCOPES, "expires_in": {
    "type": "integer", "minimum": CODE_EXPIRES_IN_LEAST_S, "maximum": CODE_EXPIRES_IN_MOST_S, "default": CODE_EXPIRES_IN_S,
    "description": "Seconds."}})
_BY_CODE = Query("code", "The code to delete."), Query("id", "The id of the code to delete, like sc_1.")
_ONE_PAGE = (OFFSET, LIMIT)


def _list(shape: Schema) -> Schema:
    return obj({"items": array(shape), "_pagination": _PAGE}, required=("items", "_pagination"))


def _shared(whose: str, path: str, target: Target, kind: str, which: str) -> tuple[Operation, ...]:
    """Return the operations on one share of a user or group. which: the end of the address."""
    path = f"{path}/shared/{{owner}}/{which}"
    server = "server" if which else "default server"
    return (
        Operation("GET", path, get_share, f"Read what {whose} may do with somebody's {server}", (f"read:{kind}:shares",),
                  "shares", target, responses={200: _SHARE}),
        Operation("DELETE", path, leave_share, f"Give up what {whose} may do with somebody's {server}", (f"{kind}:shares",),
                  "shares", target, responses={204: None}),
    )


def _given(which: str) -> tuple[Operation, ...]:
    """Return the operations on the shares and codes of one server. which: the end of the address."""
    shares, codes, target, tag = f"shares/{{name}}/{which}", f"share-codes/{{name}}/{which}", Target.SERVER, "shares"
    server = "a server" if which else "a user's default server"
    return (
        Operation("GET", shares, list_of_server, f"List with whom {server} is shared", ("read:shares",), tag, target,
                  query=_ONE_PAGE, responses={200: _list(_SHARE)}),
        Operation("POST", shares, add_share, f"Share {server} with a user or a group", ("shares",), tag, target, body=_WITH,
                  body_needed=True, responses={200: _SHARE}),
        Operation("PATCH", shares, take_share, f"Share less of {server}, or not at all, with a user or a group", ("shares",),
                  tag, target, body=_WITH, body_needed=True, responses={200: {"anyOf": [_SHARE, obj({})]}}),
        Operation("DELETE", shares, take_all_shares, f"Share {server} with nobody any more", ("shares",), tag, target,
                  responses={204: None}),
        Operation("GET", codes, list_codes_of_server, f"List the share codes of {server}", ("read:shares",), tag, target,
                  query=_ONE_PAGE, responses={200: _list(_CODE)}),
        Operation("POST", codes, add_code, f"Make a share code for {server}", ("shares",), tag, target, body=_CODE_WISH,
                  responses={200: _NEW_CODE}),
        Operation("DELETE", codes, delete_codes, f"Delete one share code of {server}, or all", ("shares",), tag, target,
                  query=_BY_CODE, responses={204: None}),
    )


OPERATIONS = (
    Operation("GET", "users/{name}/shared", shared_with_user, "List what is shared with a user", ("read:users:shares",),
              "shares", Target.USER, query=_ONE_PAGE, responses={200: _list(_SHARE)}),
    *_shared("a user", "users/{name}", Target.USER, "users", ""),
    *_shared("a user", "users/{name}", Target.USER, "users", "{server}"),
    Operation("GET", "groups/{group}/shared", shared_with_group, "List what is shared with a group", ("read:groups:shares",),
              "shares", Target.GROUP, query=_ONE_PAGE, responses={200: _list(_SHARE)}),
    *_shared("a group", "groups/{group}", Target.GROUP, "groups", ""),
    *_shared("a group", "groups/{group}", Target.GROUP, "groups", "{server}"),
    Operation("GET", "shares/{name}", list_of_owner, "List with whom a user's servers are shared", ("read:shares",), "shares",
              Target.USER, query=_ONE_PAGE, responses={200: _list(_SHARE)}),
    Operation("GET", "share-codes/{name}", list_codes_of_owner, "List the share codes of a user's servers", ("read:shares",),
              "shares", Target.USER, query=_ONE_PAGE, responses={200: _list(_CODE)}),
    *_given(""), *_given("{server}"),
)
