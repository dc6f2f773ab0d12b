"""Servers: what is wanted of each and in which phase it is. Every change of phase is an event in the same transaction."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import delete as sql_delete
from sqlalchemy import func, select
from sqlalchemy.orm import Session as Transaction

from appliance.domain.names import SMOKE_USER
from appliance.domain.oauth import server_client_id
from appliance.domain.server import Failure, Phase, Server, Wanted
from appliance.errors import Archived, BadInput, Exists, NoAddress, NotFound, TooManyServers
from appliance.store import events, tokens
from appliance.store.database import among
from appliance.store.rows import ServerRow, ShareCodeRow, ShareRow, UserRow

_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
QUEUE_TIMEOUT_S = 1800
_SERVER, _OWNER = ServerRow.__table__, UserRow.__table__.alias("owner")
_LIST = (select(*_SERVER.c, _OWNER.c.name.label("user_name"), _OWNER.c.uid, _OWNER.c.deleted_at)
         .join_from(_SERVER, _OWNER, _OWNER.c.id == _SERVER.c.user_id).order_by(_SERVER.c.user_id, _SERVER.c.name))
_LIST_UP = _LIST.where(_SERVER.c.phase.not_in(Phase.down()))
_OVER = (Phase.QUEUED, Phase.STOPPING, Phase.STOPPED, Phase.FAILED)    # what the last start was given as OAuth client ends


def new_id(length: int = 12) -> str:
    """Return a random id, 60 bits, of letters that cannot be mistaken for one another."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def to_server(row: ServerRow) -> Server:
    return _server(row, row.user.name, row.user.uid, row.user.deleted_at is not None)


def _server(row: Any, user_name: str, uid: int, user_deleted: bool) -> Server:
    """row: of the mapped class, or what a question for its columns returns."""
    failure = None
    if row.failure_code:
        failure = Failure(row.failure_code, row.failure_sentence, row.failure_action, row.failure_evidence)
    return Server(
        id=row.id, user_id=row.user_id, user_name=user_name, uid=uid, name=row.name,
        wanted=Wanted(row.wanted), phase=Phase(row.phase), start_no=row.start_no, address=row.address or "", url=row.url,
        image=row.image, spec_hash=row.spec_hash, phase_at=row.phase_at, deadline_at=row.deadline_at,
        started_at=row.started_at, ready_at=row.ready_at, last_activity_at=row.last_activity_at, failure=failure,
        user_deleted=user_deleted, user_options=_options(row), display_name=row.display_name,
        delete_when_stopped=row.delete_when_stopped)


def _options(row: Any) -> Mapping[str, Any]:
    # one row that somebody wrote by hand must not take a whole list along
    return row.user_options if isinstance(row.user_options, dict) else {}


def get(t: Transaction, server_id: str) -> Server | None:
    row = t.get(ServerRow, server_id)
    return to_server(row) if row else None


def find(t: Transaction, user_id: int, name: str = "") -> Server | None:
    row = t.scalar(select(ServerRow).where(ServerRow.user_id == user_id, ServerRow.name == name))
    return to_server(row) if row else None


def list_all(t: Transaction) -> list[Server]:
    return [to_server(row) for row in t.scalars(select(ServerRow).order_by(ServerRow.started_at))]


def up(t: Transaction) -> list[Server]:
    """Return the servers that run or are on their way; there may be many more that are stopped."""
    rows = t.scalars(select(ServerRow).where(ServerRow.phase.not_in(Phase.down())).order_by(ServerRow.started_at))
    return [to_server(row) for row in rows]


def count_ready(t: Transaction) -> int:
    return t.scalar(select(func.count()).select_from(ServerRow).where(ServerRow.phase == Phase.READY)) or 0


def count_phases(t: Transaction) -> dict[Phase, int]:
    """Return how many servers of people are in each phase."""
    rows = t.execute(select(ServerRow.phase, func.count()).join(ServerRow.user).where(UserRow.name != SMOKE_USER)
                     .group_by(ServerRow.phase)).all()
    return dict.fromkeys(Phase, 0) | {Phase(phase): count for phase, count in rows}


def of_users(t: Transaction, user_ids: Sequence[int], *, up: bool = False) -> list[Server]:
    """up: only those that run or are on their way. Without the mapped classes, which cost more than all the rest of a list."""
    if not user_ids:
        return []
    query = (_LIST_UP if up else _LIST).where(among(_SERVER.c.user_id, user_ids))
    wanted = set(user_ids)
    return [_server(row, row.user_name, row.uid, row.deleted_at is not None)
            for row in t.execute(query) if row.user_id in wanted]


def unsettled(t: Transaction) -> list[Server]:
    """Return the servers with work to do, first come first."""
    settled = (Phase.STOPPED, Phase.READY, Phase.FAILED)
    rows = t.scalars(select(ServerRow).join(ServerRow.user).where(
        ServerRow.phase.not_in(settled)
        | ((ServerRow.wanted == Wanted.STOPPED) & (ServerRow.phase == Phase.READY))
        | ((ServerRow.wanted == Wanted.RUNNING) & (ServerRow.phase != Phase.READY))
        | ServerRow.delete_when_stopped
        | UserRow.deleted_at.is_not(None)).order_by(ServerRow.started_at))
    return [to_server(row) for row in rows]


def names_of_named(t: Transaction, user_ids: Iterable[int] | None = None) -> dict[int, tuple[str, ...]]:
    """Return the names of the named servers of these users, or of all; who has none is left out."""
    query = select(ServerRow.user_id, ServerRow.name).where(ServerRow.name != "")
    if user_ids is not None:
        query = query.where(ServerRow.user_id.in_(user_ids))
    found: dict[int, list[str]] = {}
    for user_id, name in t.execute(query.order_by(ServerRow.name)):
        found.setdefault(user_id, []).append(name)
    return {user_id: tuple(names) for user_id, names in found.items()}


def create(t: Transaction, user_id: int, name: str, *, addresses: Iterable[str], actor: str, display_name: str = "",
           options: Mapping[str, Any] | None = None, most_named: int = 0) -> Server:
    """Add a server that is not to run yet.

    addresses: every address a server may get, in order; it takes the first free one. most_named: how many named servers a
    user may have, 0 for any number. Raises Exists, TooManyServers, NoAddress, NotFound for a deleted user, Archived.
    """
    if find(t, user_id, name) is not None:
        raise Exists("There is a server of that name already.")
    return to_server(_add(t, user_id, name, addresses=addresses, actor=actor, display_name=display_name,
                          options=options or {}, most_named=most_named))


def want_running(t: Transaction, user_id: int, name: str, *, image: str, addresses: Iterable[str], actor: str,
                 display_name: str = "", options: Mapping[str, Any] | None = None, most_named: int = 0) -> Server:
    """Want a server running; one that already is, or is on its way, is left as it is. One that is not there is made, as by
    `create`, with the same errors. options, display_name: None and "" leave those of the last start."""
    row = t.scalar(select(ServerRow).where(ServerRow.user_id == user_id, ServerRow.name == name).with_for_update())
    if row is None:
        row = _add(t, user_id, name, addresses=addresses, actor=actor, display_name=display_name, options={},
                   most_named=most_named)
    elif row.wanted == Wanted.RUNNING:
        return to_server(row)
    _refuse_archived(row.user)
    row.wanted = Wanted.RUNNING
    row.delete_when_stopped = False
    row.image = image
    if options is not None:
        row.user_options = dict(options)
    row.display_name = display_name or row.display_name
    row.started_at = row.last_activity_at = datetime.now(UTC)      # whoever starts it uses it
    row.ready_at = None
    if row.phase != Phase.STOPPING:  # one that is stopping first ends, then is queued by the reconciler
        _queue(t, row, actor)
    t.flush()
    return to_server(row)


def update(t: Transaction, server_id: str, *, actor: str, name: str | None = None, display_name: str | None = None,
           options: Mapping[str, Any] | None = None, most_named: int = 0) -> Server:
    """Change a server that is down; None leaves a thing as it is. Raises NotFound, BadInput for one that is not down, Exists,
    TooManyServers where the default server gets a name."""
    row = t.get(ServerRow, server_id)
    if row is None:
        raise NotFound("There is no such server.")
    if row.phase not in Phase.down() or row.wanted == Wanted.RUNNING:
        raise BadInput("That server runs; stop it before it is changed.")
    if name is not None and name != row.name:
        if find(t, row.user_id, name) is not None:
            raise Exists("There is a server of that name already.")
        if not row.name:
            _refuse_more(t, row.user_id, most_named)
        events.append(t, "server.renamed", actor=actor, user_name=row.user.name, server_id=row.id, server_name=name,
                      data={"from": row.name, "to": name})
        row.name = name
    if display_name is not None:
        row.display_name = display_name
    if options is not None:
        row.user_options = dict(options)
    t.flush()
    return to_server(row)


def want_deleted(t: Transaction, server_id: str, *, actor: str) -> Server | None:
    """Want a server stopped and then gone; None if it is gone at once."""
    row = t.get(ServerRow, server_id)
    if row is None:
        return None
    if row.phase in Phase.down() and row.wanted == Wanted.STOPPED:
        events.append(t, "server.deleted", actor=actor, user_name=row.user.name, server_id=row.id, server_name=row.name,
                      data={"name": row.name})
        delete(t, server_id)
        return None
    row.delete_when_stopped = True
    return want_stopped(t, server_id, actor=actor)


def queue(t: Transaction, server_id: str) -> Server | None:
    """Queue a server that is wanted but neither runs nor is on its way."""
    row = t.get(ServerRow, server_id)
    if row is None or row.wanted != Wanted.RUNNING:
        return None
    _queue(t, row, "hub")
    return to_server(row)


def restart(t: Transaction, server_ids: Iterable[str], *, why: str) -> list[Server]:
    """Queue servers anew that ended although they are wanted, those first whose users did something last."""
    found = [row for server_id in server_ids if (row := t.get(ServerRow, server_id)) and row.wanted == Wanted.RUNNING]
    found.sort(key=lambda row: row.last_activity_at or row.user.last_activity_at or row.phase_at, reverse=True)
    now = datetime.now(UTC)
    for place, row in enumerate(found):
        row.started_at = now + timedelta(microseconds=place)  # the order in which they get a place
        row.ready_at = None
        _queue(t, row, "hub", data={"why": why})
    t.flush()
    return [to_server(row) for row in found]


def want_stopped(t: Transaction, server_id: str, *, actor: str) -> Server | None:
    """Want a server stopped; its failure, if it has one, is forgotten."""
    row = t.get(ServerRow, server_id)
    if row is None:
        return None
    row.wanted = Wanted.STOPPED
    if row.phase == Phase.FAILED:
        _forget_failure(row)
        _enter(t, row, Phase.STOPPED, actor=actor)
    elif row.phase == Phase.QUEUED:
        _enter(t, row, Phase.STOPPED, actor=actor)
    else:
        events.append(t, "server.stop-wanted", actor=actor, user_name=row.user.name, server_id=row.id,
                      server_name=row.name, start_no=row.start_no)
    t.flush()
    return to_server(row)


def want_all_stopped(t: Transaction, *, actor: str) -> None:
    for row in t.scalars(select(ServerRow).where(ServerRow.wanted == Wanted.RUNNING)):
        want_stopped(t, row.id, actor=actor)


def enter_phase(t: Transaction, server_id: str, phase: Phase, *, start_no: int, deadline_s: float | None = None,
                url: str | None = None, spec_hash: str | None = None) -> Server | None:
    """Move a server on; None if it was meanwhile deleted or started anew (another start number)."""
    row = t.get(ServerRow, server_id)
    if row is None or row.start_no != start_no:
        return None
    if url is not None:
        row.url = url
    if spec_hash is not None:
        row.spec_hash = spec_hash
    if phase is Phase.STOPPED:
        row.url = ""
    if phase is Phase.READY:
        row.ready_at = datetime.now(UTC)
    _enter(t, row, phase, deadline_s=deadline_s)
    t.flush()
    return to_server(row)


def fail(t: Transaction, server_id: str, failure: Failure, *, start_no: int) -> Server | None:
    """Settle a server as failed: it is no longer wanted, so nothing tries again by itself."""
    row = t.get(ServerRow, server_id)
    if row is None or row.start_no != start_no:
        return None
    row.wanted = Wanted.STOPPED
    row.url = ""
    row.failure_code, row.failure_sentence = failure.code, failure.sentence
    row.failure_action, row.failure_evidence = failure.action, failure.evidence[-8000:]
    _enter(t, row, Phase.FAILED, data={"code": failure.code, "sentence": failure.sentence})
    t.flush()
    return to_server(row)


def adopt(t: Transaction, *, server_id: str, user_id: int, name: str, address: str, start_no: int, url: str,
          spec_hash: str, image: str = "") -> None:
    """Add the row of a server that runs but is not in this (new) database. image: "" is the spawner's default one."""
    now = datetime.now(UTC)
    t.add(ServerRow(id=server_id, user_id=user_id, name=name, address=address or None, wanted=Wanted.RUNNING,
                    phase=Phase.READY, start_no=start_no, url=url, image=image, spec_hash=spec_hash, phase_at=now,
                    started_at=now, ready_at=now, failure_code="", failure_sentence="", failure_action="",
                    failure_evidence="", user_options={"image": image} if image else {}))
    events.append(t, "server.adopted", user_name=t.get_one(UserRow, user_id).name, server_id=server_id, server_name=name,
                  start_no=start_no)


def delete(t: Transaction, server_id: str) -> None:
    row = t.get(ServerRow, server_id)
    if row is not None:
        for shared in (ShareRow, ShareCodeRow):
            t.execute(sql_delete(shared).where(shared.server_id == server_id))
        t.delete(row)


def delete_stopped(t: Transaction, server_id: str) -> None:
    """Do what `want_deleted` asked for, unless the server was meanwhile started anew."""
    row = t.get(ServerRow, server_id)
    if row is not None and row.delete_when_stopped:
        want_deleted(t, server_id, actor="hub")


def set_image(t: Transaction, server_id: str, image: str) -> None:
    row = t.get(ServerRow, server_id)
    if row is not None:
        row.image = image


def addresses_in_use(t: Transaction) -> Sequence[str | None]:
    return t.scalars(select(ServerRow.address)).all()


def _add(t: Transaction, user_id: int, name: str, *, addresses: Iterable[str], actor: str, display_name: str,
         options: Mapping[str, Any], most_named: int) -> ServerRow:
    user = t.get(UserRow, user_id)
    if user is None or user.deleted_at is not None:
        raise NotFound("There is no such user.")
    _refuse_archived(user)
    if name:
        _refuse_more(t, user_id, most_named)
    row = ServerRow(id=new_id(), user_id=user_id, name=name, address=_free_address(t, addresses), wanted=Wanted.STOPPED,
                    phase=Phase.STOPPED, start_no=0, phase_at=datetime.now(UTC), url="", image="", spec_hash="",
                    failure_code="", failure_sentence="", failure_action="", failure_evidence="",
                    user_options=dict(options), display_name=display_name)
    row.user = user
    t.add(row)
    if name:
        events.append(t, "server.made", actor=actor, user_name=user.name, server_id=row.id, server_name=name,
                      data={"name": name})
    t.flush()
    return row


def _refuse_more(t: Transaction, user_id: int, most_named: int) -> None:
    if most_named and len(names_of_named(t, [user_id]).get(user_id, ())) >= most_named:
        raise TooManyServers(f"There are {most_named} named servers already, which is as many as one person may have."
                             if most_named > 1 else "One person may have one named server.")


def _refuse_archived(user: UserRow) -> None:
    if user.archived_at is not None:
        raise Archived()


def _free_address(t: Transaction, addresses: Iterable[str]) -> str | None:
    taken = set(addresses_in_use(t))
    some = False
    for address in addresses:
        some = True
        if address not in taken:
            return address
    if some:
        raise NoAddress()
    return None


def _queue(t: Transaction, row: ServerRow, actor: str, *, data: dict[str, str] | None = None) -> None:
    row.start_no += 1
    row.url = ""
    _forget_failure(row)
    _enter(t, row, Phase.QUEUED, deadline_s=QUEUE_TIMEOUT_S, actor=actor, data=data)


def _forget_failure(row: ServerRow) -> None:
    row.failure_code = row.failure_sentence = row.failure_action = row.failure_evidence = ""


def _enter(t: Transaction, row: ServerRow, phase: Phase, *, deadline_s: float | None = None, actor: str = "hub",
           data: dict[str, str] | None = None) -> None:
    now = datetime.now(UTC)
    row.phase = phase
    row.phase_at = now
    row.deadline_at = now + timedelta(seconds=deadline_s) if deadline_s is not None else None
    events.append(t, f"server.{phase}", actor=actor, user_name=row.user.name, server_id=row.id, server_name=row.name,
                  start_no=row.start_no, data=data)
    if phase in _OVER:
        tokens.end_of_client(t, server_client_id(row.user.name, row.name))
