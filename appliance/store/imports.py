"""What coming from another Hub needs and nothing else does: API tokens whose hash is known, and what there is already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session as Transaction

from appliance.store.rows import ApiTokenRow, GroupRow


def hashes(t: Transaction) -> set[str]:
    """Return the salted hashes of all API tokens."""
    return set(t.scalars(select(ApiTokenRow.hashed)))


def add_token(t: Transaction, user_id: int, *, prefix: str, salt: str, digest: str, note: str, scopes: Sequence[str],
              created_at: datetime | None, expires_at: datetime | None, last_used_at: datetime | None) -> None:
    """Add a token that its owner has already. prefix: its first letters, as many as the other Hub kept."""
    t.add(ApiTokenRow(user_id=user_id, service_name=None, prefix=prefix, hashed=f"{salt}:{digest}", note=note,
                      scopes=list(scopes), client_id="", session_id="", created_at=created_at or datetime.now(UTC),
                      expires_at=expires_at, last_used_at=last_used_at))


def properties(t: Transaction) -> dict[str, Mapping[str, Any]]:
    """Return the properties of every group, by its name."""
    return {name: said or {} for name, said in t.execute(select(GroupRow.name, GroupRow.properties))}
