"""Shares and share codes: who else may do what with a server. Everything goes by ids; names are for those who read them."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, or_, select
from sqlalchemy.orm import Session as Transaction
from sqlalchemy.orm import aliased

from appliance.domain.scopes import SCOPES, Scope
from appliance.domain.share import Share, ShareCode, for_server
from appliance.errors import BadInput, NotFound
from appliance.store import events
from appliance.store.hashes import PREFIX_LENGTH, hashed, matches
from appliance.store.rows import ServerRow, ShareCodeRow, ShareRow, UserRow
from appliance.store.servers import to_server

MOST_CODES = 1000      # of one server, living ones
UNKNOWN_CODE, ASK_ANEW = "That share code is not known, or it has expired.", "Ask for a new one."
OWN_CODE, SEND_ON = "That server is yours already.", "Send the link to somebody else."
Known = Mapping[str, Scope]


def grant(t: Transaction, server_id: str, names: Collection[str], *, user_id: int | None = None, group_id: int | None = None,
          actor: str) -> Share:
    """Add scopes, by name, to what a user or a group may do with a server. Raises NotFound."""
    server = _locked(t, server_id)
    row = _find(t, server_id, user_id, group_id)
    before = set(row.scopes) if row is not None else set()
    if row is None:
        row = ShareRow(server_id=server_id, user_id=user_id, group_id=group_id, scopes=[], created_at=datetime.now(UTC),
                       expires_at=None)
        t.add(row)
    if set(names) - before:
        row.scopes = sorted(before | set(names))
        t.flush()
        _tell(t, server, "share.granted", actor, row)
    return to_share(row)


def revoke(t: Transaction, server_id: str, names: Collection[str] | None, *, user_id: int | None = None,
           group_id: int | None = None, actor: str) -> Share | None:
    """Take scopes away, all of them for None; return what is left, None for nothing."""
    server = _locked(t, server_id)
    row = _find(t, server_id, user_id, group_id)
    if row is None:
        return None
    left = sorted(set(row.scopes) - set(names)) if names is not None else []
    if left == row.scopes:
        return to_share(row)
    row.scopes = left
    _tell(t, server, "share.revoked", actor, row)
    if left:
        return to_share(row)
    t.delete(row)
    t.flush()
    return None


def revoke_all(t: Transaction, server_id: str, *, actor: str) -> int:
    """Return how many shares of the server there were."""
    server = _locked(t, server_id)
    rows = t.scalars(select(ShareRow).where(ShareRow.server_id == server_id)).all()
    for row in rows:
        row.scopes = []
        _tell(t, server, "share.revoked", actor, row)
        t.delete(row)
    t.flush()
    return len(rows)


def find(t: Transaction, server_id: str, *, user_id: int | None = None, group_id: int | None = None) -> Share | None:
    row = _find(t, server_id, user_id, group_id)
    return to_share(row) if row is not None and row.server.user.deleted_at is None else None


def list_all(t: Transaction) -> list[Share]:
    return [to_share(row) for row in t.scalars(select(ShareRow)) if row.server.user.deleted_at is None]


def page(t: Transaction, *, server_id: str | None = None, owner_id: int | None = None, user_id: int | None = None,
         group_ids: Collection[int] = (), offset: int, limit: int) -> tuple[list[Share], int]:
    """Return some shares and how many there are: of a server, of an owner's servers, or with a user or any of the groups."""
    owner = aliased(UserRow)
    query = (select(ShareRow).join(ServerRow, ServerRow.id == ShareRow.server_id).join(owner, owner.id == ServerRow.user_id)
             .where(owner.deleted_at.is_(None)))
    if server_id is not None:
        query = query.where(ShareRow.server_id == server_id)
    elif owner_id is not None:
        query = query.where(ServerRow.user_id == owner_id)
    else:
        query = query.where(_with(user_id, group_ids))
    total = t.scalar(select(func.count()).select_from(query.subquery())) or 0
    return [to_share(row) for row in t.scalars(query.order_by(ShareRow.id).offset(offset).limit(limit))], total


def scopes_of(t: Transaction, user_id: int, group_ids: Collection[int], known: Known = SCOPES) -> list[str]:
    """Return the scopes that shares give a user, by themselves and by these groups, with the servers' present names."""
    rows = t.execute(
        select(ShareRow.scopes, UserRow.name, ServerRow.name).join(ServerRow, ServerRow.id == ShareRow.server_id)
        .join(UserRow, UserRow.id == ServerRow.user_id).where(_with(user_id, group_ids), UserRow.deleted_at.is_(None)))
    return sorted({scope for names, owner, server in rows for scope in for_server(names, owner, server, known)})


# -- codes -------------------------------------------------------------------------------------------------------------
def add_code(t: Transaction, server_id: str, names: Collection[str], *, expires_in_s: int, actor: str
             ) -> tuple[ShareCode, str]:
    """Return a new code's record and the code, which is not kept and cannot be shown again. Raises BadInput, NotFound."""
    server, now = _locked(t, server_id), datetime.now(UTC)
    t.execute(delete(ShareCodeRow).where(ShareCodeRow.server_id == server_id, ShareCodeRow.expires_at <= now))
    if (t.scalar(select(func.count(ShareCodeRow.id)).where(ShareCodeRow.server_id == server_id)) or 0) >= MOST_CODES:
        raise BadInput(f"This server has {MOST_CODES} share codes already.", action="Delete those that are not needed.")
    code = secrets.token_urlsafe(32)
    row = ShareCodeRow(server_id=server_id, prefix=code[:PREFIX_LENGTH], hashed=hashed(code), scopes=sorted(names),
                       created_at=now, expires_at=now + timedelta(seconds=expires_in_s), exchange_count=0,
                       last_exchanged_at=None)
    t.add(row)
    t.flush()
    events.append(t, "share-code.created", actor=actor, user_name=server.user.name, server_id=server_id,
                  server_name=server.name, data={"code": f"sc_{row.id}", "scopes": row.scopes})
    return to_code(row), code


def find_code(t: Transaction, code: str) -> ShareCode | None:
    """Return the record of a living code."""
    row = _code(t, code)
    return to_code(row) if row is not None else None


def page_codes(t: Transaction, *, server_id: str | None = None, owner_id: int | None = None, offset: int, limit: int
               ) -> tuple[list[ShareCode], int]:
    """Return some living codes and how many there are, of a server or of all of an owner's."""
    query = select(ShareCodeRow).join(ServerRow, ServerRow.id == ShareCodeRow.server_id).where(_living())
    query = query.where(ServerRow.user_id == owner_id if server_id is None else ServerRow.id == server_id)
    total = t.scalar(select(func.count()).select_from(query.subquery())) or 0
    return [to_code(row) for row in t.scalars(query.order_by(ShareCodeRow.id).offset(offset).limit(limit))], total


def delete_codes(t: Transaction, server_id: str, *, code: str = "", code_id: int | None = None, actor: str) -> int:
    """Delete one of a server's codes, by itself or by its id, or all; return how many there were."""
    server = _locked(t, server_id)
    if code:
        found = _code(t, code)
        rows: Sequence[ShareCodeRow] = [found] if found is not None and found.server_id == server_id else []
    else:
        query = select(ShareCodeRow).where(ShareCodeRow.server_id == server_id)
        rows = t.scalars(query.where(ShareCodeRow.id == code_id) if code_id is not None else query).all()
    for row in rows:
        t.delete(row)
    if rows:
        events.append(t, "share-code.deleted", actor=actor, user_name=server.user.name, server_id=server_id,
                      server_name=server.name, data={"codes": [f"sc_{row.id}" for row in rows][:20]})
    t.flush()
    return len(rows)


def exchange(t: Transaction, code: str, user_id: int, *, actor: str) -> Share:
    """Give a user what a living code gives, and count it. Raises NotFound, BadInput for the owner of the server."""
    row = _code(t, code)
    if row is None:
        raise NotFound(UNKNOWN_CODE, action=ASK_ANEW)
    if row.server.user_id == user_id:
        raise BadInput(OWN_CODE, action=SEND_ON)
    row.exchange_count += 1
    row.last_exchanged_at = datetime.now(UTC)
    return grant(t, row.server_id, row.scopes, user_id=user_id, actor=actor)


# -- rows --------------------------------------------------------------------------------------------------------------
def to_share(row: ShareRow) -> Share:
    return Share(row.id, to_server(row.server), row.user.name if row.user else None, row.group.name if row.group else None,
                 for_server(row.scopes, row.server.user.name, row.server.name), row.created_at)


def to_code(row: ShareCodeRow) -> ShareCode:
    return ShareCode(row.id, to_server(row.server), for_server(row.scopes, row.server.user.name, row.server.name),
                     row.created_at, row.expires_at, row.exchange_count, row.last_exchanged_at)


def _locked(t: Transaction, server_id: str) -> ServerRow:
    """Return the server's row, held until the end of the transaction: two grants at once must not make two shares."""
    row = t.scalar(select(ServerRow).where(ServerRow.id == server_id).with_for_update(of=ServerRow))
    if row is None:
        raise NotFound("There is no such server.")
    return row


def _find(t: Transaction, server_id: str, user_id: int | None, group_id: int | None) -> ShareRow | None:
    assert (user_id is None) != (group_id is None)
    return t.scalar(select(ShareRow).where(
        ShareRow.server_id == server_id, ShareRow.user_id == user_id, ShareRow.group_id == group_id))


def _with(user_id: int | None, group_ids: Collection[int]) -> ColumnElement[bool]:
    mine: list[ColumnElement[bool]] = [ShareRow.group_id.in_(group_ids)]
    if user_id is not None:
        mine.append(ShareRow.user_id == user_id)
    return and_(or_(*mine), or_(ShareRow.expires_at.is_(None), ShareRow.expires_at > datetime.now(UTC)))


def _living() -> ColumnElement[bool]:
    return or_(ShareCodeRow.expires_at.is_(None), ShareCodeRow.expires_at > datetime.now(UTC))


def _code(t: Transaction, code: str) -> ShareCodeRow | None:
    if not 16 <= len(code) <= 128:
        return None
    rows = t.scalars(select(ShareCodeRow).where(ShareCodeRow.prefix == code[:PREFIX_LENGTH], _living()).with_for_update(
        of=ShareCodeRow))
    return next((row for row in rows if matches(row.hashed, code) and row.server.user.deleted_at is None), None)


def _tell(t: Transaction, server: ServerRow, kind: str, actor: str, row: ShareRow) -> None:
    data: dict[str, Any] = {"scopes": list(row.scopes)}
    if row.group_id is not None:
        data["group"] = row.group.name if row.group else ""
    else:
        data["user"] = row.user.name if row.user else ""
    events.append(t, kind, actor=actor, user_name=server.user.name, server_id=server.id, server_name=server.name,
                  start_no=server.start_no, data=data)
