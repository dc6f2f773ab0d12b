"""Puts users and servers that are on this box but not in its database back into it.

Homes say whose they are, containers carry labels; so a lost database, or one restored from an older backup, costs
nobody a running server or a file. People sign in again; local passwords are set anew by an admin.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from appliance.domain.names import validate_username
from appliance.errors import BadName
from appliance.ports import ActualServer, ActualState, Home, Homes, Spawner
from appliance.store import servers, users
from appliance.store.database import Database, Transaction

log = logging.getLogger(__name__)


async def adopt_unknown(db: Database, spawner: Spawner, homes: Homes) -> None:
    """Run once at the Hub's start, before anything is ended for having no owner."""
    found = [server for server in await spawner.list() if server.state in (ActualState.RUNNING, ActualState.PAUSED)]
    known = {server.id for server in await db.read(servers.list_all)}
    unknown = [server for server in found if server.server_id not in known]
    empty = await db.read(users.count) == 0
    if not unknown and not empty:
        return
    all_homes = {home.uid: home for home in await homes.list()}
    restore = list(all_homes.values()) if empty else [all_homes[s.uid] for s in unknown if s.uid in all_homes]
    await db.transact(lambda t: _put_back(t, restore, unknown))


def _put_back(t: Transaction, homes: Sequence[Home], running: Sequence[ActualServer]) -> None:
    for home in homes:
        _ensure_user(t, home)
    for server in running:
        if _adopt(t, server):
            log.warning("Server %s of %s runs but was not in the database; it was put back.",
                        server.server_id, server.user_name)


def _ensure_user(t: Transaction, home: Home) -> None:
    try:
        name = validate_username(home.user_name)
    except BadName:
        return
    if users.find(t, name) is None and not users.uid_taken(t, home.uid):
        users.add(t, name, uid=home.uid)
        log.warning("The home of %s was found; the user was put back into the database.", name)


def _adopt(t: Transaction, server: ActualServer) -> bool:
    user = users.find(t, server.user_name)
    if user is None or user.uid != server.uid or servers.find(t, user.id, server.server_name) is not None:
        return False
    if server.address and server.address in servers.addresses_in_use(t):
        return False
    servers.adopt(t, server_id=server.server_id, user_id=user.id, name=server.server_name, address=server.address,
                  start_no=server.start_no, url=server.url, spec_hash=server.spec_hash)
    return True
