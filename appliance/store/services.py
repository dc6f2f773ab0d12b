"""Services that were made through the REST API; those of the configuration are not here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session as Transaction

from appliance.errors import BadOption, Exists, NotFound
from appliance.store import events, tokens
from appliance.store.hashes import PREFIX_LENGTH, hashed
from appliance.store.rows import ApiTokenRow, ServiceRow


@dataclass(frozen=True)
class StoredService:
    """said: as it was given, without its API token."""

    name: str
    said: Mapping[str, Any]


def list_all(t: Transaction) -> list[StoredService]:
    return [StoredService(row.name, {**row.data, "name": row.name, "admin": row.admin, "url": row.url})
            for row in t.scalars(select(ServiceRow).order_by(ServiceRow.name))]


def add(t: Transaction, name: str, said: Mapping[str, Any], *, api_token: str, actor: str) -> None:
    """Keep a service, and its API token as a hash. Raises Exists, and BadOption for a token that is somebody's."""
    if t.scalar(select(ServiceRow.id).where(ServiceRow.name == name)) is not None:
        raise Exists(f"There is a service with the name “{name}”.")
    tokens.end_of_service(t, name)     # what another one of that name had is not its own
    if api_token and tokens.find(t, api_token) is not None:
        raise BadOption("“api_token” cannot be used: it is taken.")
    now = datetime.now(UTC)
    data = {key: value for key, value in said.items() if key not in ("name", "admin", "url", "api_token")}
    t.add(ServiceRow(name=name, admin=bool(said.get("admin")), url=said.get("url") or "", data=data, created_at=now))
    if api_token:
        t.add(ApiTokenRow(service_name=name, prefix=api_token[:PREFIX_LENGTH], hashed=hashed(api_token),
                          note="given when the service was made", scopes=["inherit"], created_at=now))
    events.append(t, "service.created", actor=actor, data={"service": name, "admin": bool(said.get("admin"))})
    t.flush()


def delete(t: Transaction, name: str, *, client_id: str, actor: str) -> None:
    """Take away a service with all its tokens, and with what it knows of its visitors. Raises NotFound."""
    row = t.scalar(select(ServiceRow).where(ServiceRow.name == name))
    if row is None:
        raise NotFound("There is no such service.")
    t.delete(row)
    tokens.end_of_service(t, name)
    tokens.end_of_client(t, client_id)
    events.append(t, "service.deleted", actor=actor, data={"service": name})
    t.flush()
