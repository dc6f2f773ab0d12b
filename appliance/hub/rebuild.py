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
    all_homes = await homes.list()
    found = [server for server in await spawner.list() if server.state in (ActualState.RUNNING, ActualState.PAUSED)]
    known = {server.id for server in await db.read(servers.list_all)}
    unknown = [server for server in found if server.server_id not in known]
    if all_homes or unknown:
        default = next((choice.image for choice in spawner.image_choices()), "")
        await db.transact(lambda t: _put_back(t, all_homes, unknown, default))


def put_users_back(t: Transaction, homes: Sequence[Home]) -> None:
    """Add the owner of every home that no account has, deleted accounts included; no uid of a home is given again."""
    for home in homes:
        _ensure_user(t, home)


def _put_back(t: Transaction, homes: Sequence[Home], running: Sequence[ActualServer], default: str) -> None:
    """default: the image of a server that asks for no other; "" where there is none to choose."""
    put_users_back(t, homes)
    for server in running:
        # how a server is reached depends on its image
        if _adopt(t, server, server.image if default and server.image != default else ""):
            log.warning("Server %s of %s runs but was not in the database; it was put back.",
                        server.server_id, server.user_name)


def _ensure_user(t: Transaction, home: Home) -> None:
    if users.uid_taken(t, home.uid):
        return
    users.reserve_uid(t, home.uid)
    try:
        name = validate_username(home.user_name)
    except BadName:
        return
    if users.find(t, name) is None:
        users.add(t, name, uid=home.uid)
        log.warning("The home of %s was found; the user was put back into the database.", name)


def _adopt(t: Transaction, server: ActualServer, image: str) -> bool:
    user = users.find(t, server.user_name)
    if user is None or user.archived or user.uid != server.uid or servers.find(t, user.id, server.server_name) is not None:
        return False
    if server.address and server.address in servers.addresses_in_use(t):
        return False
    servers.adopt(t, server_id=server.server_id, user_id=user.id, name=server.server_name, address=server.address,
                  start_no=server.start_no, url=server.url, spec_hash=server.spec_hash, image=image)
    return True
