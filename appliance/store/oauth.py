"""Codes of OAuth: what a browser carries to a client, which exchanges it once for a token."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session as Transaction

from appliance.domain.user import Session
from appliance.store import sessions, tokens
from appliance.store.rows import ApiTokenRow, OAuthCodeRow

LIFETIME_S = 300


@dataclass(frozen=True)
class OAuthCode:
    id: int
    session: Session
    redirect_uri: str
    scopes: tuple[str, ...]
    challenge: str             # of PKCE, "" without one
    challenge_method: str


def add_code(t: Transaction, code: str, *, client_id: str, session: Session, redirect_uri: str, scopes: Sequence[str],
             challenge: str, challenge_method: str) -> None:
    """Keep the hash of `code`, and forget all codes that are over."""
    now = datetime.now(UTC)
    t.execute(delete(OAuthCodeRow).where(OAuthCodeRow.expires_at <= now))
    t.add(OAuthCodeRow(
        hashed=_hash(code), client_id=client_id, user_id=session.user.id, session_id=session.id, redirect_uri=redirect_uri,
        scopes=list(scopes), challenge=challenge, challenge_method=challenge_method,
        expires_at=now + timedelta(seconds=LIFETIME_S)))


def find_code(t: Transaction, code: str, client_id: str) -> OAuthCode | None:
    """Return a code that this client may exchange now. One that it has exchanged before takes what it got for it away."""
    row = t.scalar(select(OAuthCodeRow).where(
        OAuthCodeRow.hashed == _hash(code), OAuthCodeRow.client_id == client_id,
        OAuthCodeRow.expires_at > datetime.now(UTC)).with_for_update(of=OAuthCodeRow))
    if row is None:
        return None
    if row.token_id is not None:
        tokens.revoke(t, [row.token_id])
        return None
    session = sessions.find(t, row.session_id)
    if session is None or session.user.id != row.user_id:
        return None
    return OAuthCode(row.id, session, row.redirect_uri, tuple(row.scopes), row.challenge, row.challenge_method)


def exchange(t: Transaction, code: OAuthCode, *, client_id: str, expires_in_s: int, note: str) -> str:
    """Use a code up and return the token for it."""
    token, record = tokens.add(
        t, user_id=code.session.user.id, scopes=code.scopes, note=note, expires_in_s=expires_in_s, client_id=client_id,
        session_id=code.session.id, actor=code.session.user.name)
    t.get_one(OAuthCodeRow, code.id).token_id = record.id
    t.flush()
    return token


def agreed(t: Transaction, user_id: int, client_id: str, scopes: Collection[str]) -> bool:
    """Say whether a user has let this client do all of this before, and has not taken it back since."""
    return any(found.client_id == client_id and set(scopes) <= set(found.scopes)
               for found in tokens.of_user(t, user_id))


def end_of_clients_gone(t: Transaction, known: Collection[str]) -> None:
    """End what clients were given that there are no more. known: the ids of those that there are."""
    for client_id in t.scalars(select(ApiTokenRow.client_id).distinct().where(ApiTokenRow.client_id != "")).all():
        if client_id not in known:
            tokens.end_of_client(t, client_id)


def _hash(code: str) -> str:
    return hashlib.sha256(code.encode("utf-8", "replace")).hexdigest()
