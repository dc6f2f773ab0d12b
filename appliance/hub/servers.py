"""Servers as people ask for them: one row is written, the reconciler does the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import exp

from appliance.domain.capability import Capability, verify
from appliance.domain.names import validate_servername
from appliance.domain.server import Phase, Server, Wanted
from appliance.domain.user import Session, User
from appliance.errors import AppGone, BadInput, BadName, Exists, NotFound, NotYours
from appliance.hub.changes import Changes
from appliance.hub.reconciler import Reconciler
from appliance.hub.routes import Routes
from appliance.hub.specs import Specs
from appliance.ports import Proxy, Spawner, Usage
from appliance.store import servers as store
from appliance.store import sessions as session_store
from appliance.store import users
from appliance.store.database import Database

TYPICAL_BOOT_S = 3.0


class Servers:
    """capability_key: 32 bytes."""

    def __init__(self, db: Database, spawner: Spawner, proxy: Proxy, reconciler: Reconciler, routes: Routes,
                 specs: Specs, changes: Changes, capability_key: bytes) -> None:
        self._db, self._spawner, self._proxy, self._reconciler = db, spawner, proxy, reconciler
        self._routes, self._specs, self._changes, self._key = routes, specs, changes, capability_key
        self.offers = specs.offers

    async def view(self, user_name: str, server_name: str = "") -> Server | None:
        """Return a user's server, one that never ran included (its id is ""); None if there is no such user."""
        user = await self._db.read(lambda t: users.find(t, user_name))
        if user is None:
            return None
        server = await self._db.read(lambda t: store.find(t, user.id, server_name))
        return server or _never_ran(user, server_name)

    async def of_user(self, user: User) -> list[Server]:
        """Return a user's servers, the default one first, also if it never ran (its id is "")."""
        found = await self._db.recall(("servers", user.id), lambda t: tuple(store.of_users(t, [user.id])))
        return list(found) if found and not found[0].name else [_never_ran(user, ""), *found]

    async def of_users(self, users: Sequence[User]) -> list[Server]:
        return await self._db.read(lambda t: store.of_users(t, [user.id for user in users]))

    async def count_ready(self) -> int:
        return await self._db.read(store.count_ready)

    async def by_id(self, server_id: str) -> Server | None:
        return await self._db.read(lambda t: store.get(t, server_id))

    async def start(self, user: User, server_name: str = "", *, image: str = "",
                    options: Mapping[str, object] | None = None, display_name: str | None = None, actor: str) -> Server:
        """Want a server running and return at once; a named one that is not there is made.

        options: None is what was chosen the last time. Raises BadName, BadOption, BadInput where there are no named servers,
        TooManyServers, ImageNotAllowed, ImageMissing, NoAddress.
        """
        found = await self._find(user, server_name)
        if found is not None and found.wanted is Wanted.RUNNING:
            return found
        offer = await self.offers.of(user, found)
        name, most = await self.offers.check_name(offer, server_name, exists=found is not None)
        shown = self.offers.check_display_name(display_name)
        chosen, kept = await self.offers.choose(offer, options, image=image)
        server = await self._db.transact(lambda t: store.want_running(
            t, user.id, name, image=chosen, addresses=self._spawner.addresses(), actor=actor, display_name=shown,
            options=kept, most_named=most))
        self._reconciler.wake(server.id)
        self._changes.notify(server.id)
        if name and found is None:
            await self._reconciler.refresh_default_route(user.id)
        return server

    async def create(self, user: User, server_name: str, *, options: Mapping[str, object] | None = None,
                     display_name: str | None = None, actor: str) -> Server:
        """Make a named server that does not run yet. Raises Exists, and what `start` raises."""
        found = await self._find(user, server_name)
        if found is not None or not server_name:
            raise Exists("There is a server of that name already.")
        offer = await self.offers.of(user)
        name, most = await self.offers.check_name(offer, server_name, exists=False)
        shown = self.offers.check_display_name(display_name)
        _, kept = await self.offers.choose(offer, options or {})
        server = await self._db.transact(lambda t: store.create(
            t, user.id, name, addresses=self._spawner.addresses(), actor=actor, display_name=shown, options=kept,
            most_named=most))
        await self._reconciler.refresh_default_route(user.id)
        return server

    async def update(self, user: User, server_name: str, *, new_name: str | None = None, display_name: str | None = None,
                     options: Mapping[str, object] | None = None, actor: str) -> Server:
        """Change a server that does not run; None leaves a thing as it is. Raises NotFound, Exists, and what `start` raises."""
        found = await self._find(user, server_name)
        if found is None:
            raise NotFound("There is no such server.")
        offer, name, most = await self.offers.of(user), None, 0
        if new_name is not None and new_name != found.name:
            name, most = await self.offers.check_name(offer, new_name, exists=False)
            if not name:
                raise BadName("A server needs a name; only the default one has none.")
        shown = None if display_name is None else self.offers.check_display_name(display_name)
        kept = None if options is None else (await self.offers.choose(offer, options))[1]
        server = await self._db.transact(lambda t: store.update(
            t, found.id, actor=actor, name=name, display_name=shown, options=kept, most_named=most))
        if name:
            await self._reconciler.refresh_default_route(user.id)
        return server

    async def delete(self, user: User, server_name: str, *, actor: str) -> Server | None:
        """Delete a named server, once it is stopped; None if it is gone already. Files stay: they are its owner's.

        Raises BadInput for the default server, NotFound.
        """
        if not server_name:
            raise BadInput("The default server cannot be deleted.", action="Stop it instead.")
        found = await self._find(user, server_name)
        if found is None:
            raise NotFound("There is no such server.")
        server = await self._db.transact(lambda t: store.want_deleted(t, found.id, actor=actor))
        self._reconciler.wake(found.id)
        self._changes.notify(found.id)
        await self._reconciler.refresh_default_route(user.id)
        return server

    async def _find(self, user: User, server_name: str) -> Server | None:
        """Raises BadName."""
        name = validate_servername(server_name)
        return await self._db.read(lambda t: store.find(t, user.id, name))

    async def stop(self, user: User, server_name: str = "", *, actor: str) -> Server | None:
        """Want a server stopped and return at once."""
        found = await self._db.read(lambda t: store.find(t, user.id, server_name))
        if found is None:
            return None
        server = await self._db.transact(lambda t: store.want_stopped(t, found.id, actor=actor))
        if server is not None:
            self._reconciler.wake(server.id)
            self._changes.notify(server.id)
        return server

    async def enter(self, session: Session, server: Server) -> str:
        """Return the capability cookie's value for a ready server; when this returns, the proxy lets it in.

        Raises NotYours, AppGone when it does not run, ProxyDown.
        """
        if session.user.id != server.user_id:
            raise NotYours()
        if not server.ready:
            raise AppGone()
        await self._reconciler.refresh_route(server.id)
        return self._routes.value(session, server)

    async def check_capability(self, server_id: str, value: str) -> tuple[Session, Server, Capability] | None:
        """Return what a cookie stands for if its MAC holds and its session lives and owns the server; the server may
        be in any phase, and at a later start."""
        capability = verify(self._key, server_id, value)
        if capability is None:
            return None
        session = await self._db.read(lambda t: session_store.find(t, capability.session_id))
        server = await self.by_id(server_id)
        if session is None or server is None or session.user.id != server.user_id:
            return None
        return session, server, capability

    async def end_rights(self, server_id: str) -> None:
        """After a session ended: its capability goes from the route, then its open connections are cut."""
        server = await self.by_id(server_id)
        if server is None or not server.url:
            return
        await self._reconciler.refresh_route(server_id)
        await self._proxy.close_connections(server.url)

    async def usage(self, server_id: str) -> Usage | None:
        return await self._spawner.usage(server_id)

    def queue_position(self, server_id: str) -> int | None:
        return self._reconciler.queue_position(server_id)

    def progress(self, server: Server) -> float:
        """Return how far a start is, 0 to 1: by its phase, and while the app boots by the time it has taken so far."""
        if server.phase is Phase.BOOTING:
            return 0.4 + 0.55 * (1 - exp(-(datetime.now(UTC) - server.phase_at).total_seconds() / TYPICAL_BOOT_S))
        return {Phase.QUEUED: 0.05, Phase.STARTING: 0.2, Phase.READY: 1.0}.get(server.phase, 0.0)

    def landing(self, server: Server) -> str:
        return self._specs.landing(server)

    def injected_authorization(self, server: Server) -> str | None:
        """Return the Authorization header for a request that may enter, None where the image must not get one."""
        token = self._routes.token(server)
        return f"token {token}" if token else None


def _never_ran(user: User, name: str) -> Server:
    return Server(id="", user_id=user.id, user_name=user.name, uid=user.uid, name=name, wanted=Wanted.STOPPED,
                  phase=Phase.STOPPED, start_no=0, address="", url="", image="", spec_hash="",
                  phase_at=datetime.now(UTC), deadline_at=None, started_at=None, ready_at=None, last_activity_at=None,
                  failure=None)
