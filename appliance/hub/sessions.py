"""Sessions and the tokens that stand for them."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

from appliance.domain.user import Session, User
from appliance.jwt import Claims, SessionTokens
from appliance.store import servers as server_store
from appliance.store import sessions as store
from appliance.store.database import Database
from appliance.store.servers import new_id

TOUCH_EVERY_S = 60
MOST_VERIFIED = 2000


class Sessions:
    """after_end is called with the id of each running server of a user whose session ended."""

    def __init__(self, db: Database, tokens: SessionTokens, *, cookie_max_age_s: int,
                 after_end: Callable[[str], Awaitable[None]]) -> None:
        self._db, self._tokens, self._after_end = db, tokens, after_end
        self.cookie_max_age_s = cookie_max_age_s
        self._verified: dict[bytes, Claims] = {}

    async def begin(self, user: User, *, origin: str, address: str, user_agent: str) -> tuple[Session, str]:
        """Return a new session and the JWT for its cookie."""
        session = await self._db.transact(lambda t: store.add(
            t, new_id(20), user.id, origin=origin, address=address, user_agent=user_agent,
            lifetime_s=self.cookie_max_age_s))
        return session, self._tokens.issue(session.id, user.id, expires_at=session.expires_at)

    async def find(self, tokens: Sequence[str]) -> Session | None:
        """Return the living session that a browser's cookies stand for.

        A page can toss cookies at us: those that do not verify do not count, and where sessions of two people verify
        nobody can say whose browser it is, so neither counts.
        """
        living = [session for token in tokens[:50] if (session := await self._of(token)) is not None]
        return living[0] if len({session.user.id for session in living}) == 1 else None

    async def _of(self, token: str) -> Session | None:
        claims = self._claims(token)
        if claims is None:
            return None
        session = await self._db.recall(("session", claims.session_id), lambda t: store.find(t, claims.session_id))
        now = datetime.now(UTC)
        if session is None or session.user.id != claims.user_id or min(session.expires_at, claims.expires_at) <= now:
            return None
        if (now - session.last_seen_at).total_seconds() > TOUCH_EVERY_S:
            await self._db.transact(lambda t: store.touch(t, session.id))
        return session

    def _claims(self, token: str) -> Claims | None:
        """Verify a token; one that did holds as long as its session, whose end is looked at each time."""
        digest = hashlib.sha256(token.encode()).digest()
        if digest not in self._verified:
            claims = self._tokens.read(token)
            if claims is None:
                return None
            self._verified[digest] = claims
            if len(self._verified) > MOST_VERIFIED:
                del self._verified[next(iter(self._verified))]
        return self._verified[digest]

    async def list(self, user: User) -> list[Session]:
        found = await self._db.recall(("sessions", user.id), lambda t: tuple(store.of_user(t, user.id)))
        now = datetime.now(UTC)
        return [session for session in found if session.expires_at > now]

    async def sign_out(self, session: Session) -> None:
        """End a session in every tab and on the server's side."""
        await self._end(session.user, [session.id])

    async def revoke(self, user: User, session_id: str) -> None:
        """End one of the user's sessions; somebody else's is left alone."""
        await self._end(user, [s.id for s in await self.list(user) if s.id == session_id])

    async def sign_out_everywhere(self, user: User) -> None:
        await self._end(user, [session.id for session in await self.list(user)])

    async def _end(self, user: User, session_ids: Sequence[str]) -> None:
        if not session_ids:
            return
        await self._db.transact(lambda t: store.end(t, session_ids, actor=user.name))
        for server in await self._db.read(lambda t: server_store.of_users(t, [user.id])):
            if server.url:
                await self._after_end(server.id)
