"""API tokens as people and services ask for them: nobody hands out what they do not hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from appliance.domain.requester import USER, Requester
from appliance.domain.roles import TOKEN
from appliance.domain.scopes import INHERIT, Owner, Rights, check, expand
from appliance.domain.user import ApiToken, User
from appliance.errors import BadInput, BadScope, MissingScope, Refused
from appliance.hub.permissions import Permissions
from appliance.store import tokens as store
from appliance.store.database import Database

MOST_SCOPES = 500
MOST_TOKENS = 1000      # of one owner, living ones: a program that forgets its own does not fill the disk


@dataclass
class Tokens:
    """longest_s: 0 for the ten years that hold anyway."""

    db: Database
    permissions: Permissions
    longest_s: int = 0

    async def create(self, owner: User | str, *, note: str = "", expires_in_s: int | None = None,
                     scopes: Sequence[str] | None = None, by: Requester | None,
                     actor: str = "hub") -> tuple[str, ApiToken]:
        """Return a new token and its record. owner: a user, or a service's name. scopes: None for the role "token".

        by: who asks, None for the box itself, which calls itself `actor`. Raises BadOption, BadScope, BadInput, Refused,
        NotFound.
        """
        lifetime_s = self.lifetime(expires_in_s)
        given = list(dict.fromkeys(self.permissions.roles.scopes_of([TOKEN]) if scopes is None else map(self._check, scopes)))
        if len(given) > MOST_SCOPES:
            raise BadScope(f"A token has at most {MOST_SCOPES} scopes.")
        if not isinstance(note, str) or len(note) > store.MAX_NOTE:
            raise BadInput(f"A token's note has at most {store.MAX_NOTE} characters.")
        await self._check_held(owner, given, by)
        if len(await self.list(owner)) >= MOST_TOKENS:
            raise BadInput(f"There are {MOST_TOKENS} tokens of this owner already.",
                           action="Revoke those that are not needed, and let new ones expire.")
        user_id, service_name = (None, owner) if isinstance(owner, str) else (owner.id, "")
        return await self.db.transact(lambda t: store.add(
            t, user_id=user_id, service_name=service_name, scopes=given, note=note, expires_in_s=lifetime_s,
            actor=by.name if by else actor))

    async def list(self, owner: User | str) -> list[ApiToken]:
        if isinstance(owner, str):
            return await self.db.read(lambda t: store.of_service(t, owner))
        return await self.db.read(lambda t: store.of_user(t, owner.id))

    async def get(self, owner: User | str, api_id: str) -> ApiToken | None:
        """Return the owner's token of that id, "a12"; None if there is none or it is somebody else's."""
        if not (api_id[:1] == "a" and api_id[1:].isascii() and api_id[1:].isdecimal() and len(api_id) <= 16):
            return None
        found = await self.db.read(lambda t: store.get(t, int(api_id[1:])))
        if found is None:
            return None
        same = found.service_name == owner if isinstance(owner, str) else found.user is not None and found.user.id == owner.id
        return found if same else None

    async def revoke(self, token: ApiToken, *, actor: str) -> None:
        await self.db.transact(lambda t: store.revoke(t, [token.id], actor=actor))

    def lifetime(self, expires_in_s: int | None) -> int | None:
        """Return how long a token lives that asks for this long, None for no end. Raises BadOption."""
        if expires_in_s is None:
            return self.longest_s or None
        return store.check_lifetime(expires_in_s, self.longest_s or store.LONGEST_S)

    def _check(self, scope: object) -> str:
        if not isinstance(scope, str):
            raise BadScope("A scope is text.")
        return check(scope, self.permissions.roles.scopes)

    async def _check_held(self, owner: User | str, scopes: Sequence[str], by: Requester | None) -> None:
        """Raises Refused for what the owner or `by` does not hold."""
        whose = Owner(service=owner) if isinstance(owner, str) else Owner(user=owner.name)
        rights = self.permissions.of_service(owner) if isinstance(owner, str) else await self.permissions.of_user(owner)
        if INHERIT in scopes:
            wanted = rights.expanded
        else:
            wanted = expand(scopes, whose, self.permissions.roles.scopes)
            await self._refuse_missing(rights, scopes, whose, f"{owner if isinstance(owner, str) else owner.name} does")
        if by is None:
            return
        needed = f"admin:services!service={owner}" if isinstance(owner, str) else f"tokens!user={owner.name}"
        if await self.permissions.missing(by.rights, [needed]):
            raise MissingScope.of(needed)
        own = by.kind == USER and by.user is not None and not isinstance(owner, str) and by.user.id == owner.id
        if own and INHERIT in scopes and not by.inherits:
            raise Refused("This token may not make one that may do everything its owner may.",
                          action="Name the scopes that the new token is to have.")
        if INHERIT in scopes:
            self._refuse(await self.permissions.missing(by.rights, wanted), "you do")
        await self._refuse_missing(by.rights, scopes, whose, "you do")

    async def _refuse_missing(self, rights: Rights, scopes: Sequence[str], whose: Owner, who: str) -> None:
        """Name the scopes as they were asked for, and not all that they bring."""
        known = self.permissions.roles.scopes
        if await self.permissions.missing(rights, expand(scopes, whose, known)):
            self._refuse([scope for scope in scopes
                          if await self.permissions.missing(rights, expand([scope], whose, known))], who)

    @staticmethod
    def _refuse(missing: Sequence[str], who: str) -> None:
        if missing:
            shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise Refused(f"A token cannot have what {who} not hold: {shown}.", action="Leave these scopes out.")
