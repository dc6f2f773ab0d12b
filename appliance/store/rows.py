"""The tables. Nothing above the store sees a row: functions of the store return the frozen dataclasses of the domain."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, ForeignKey, Index, MetaData, String, Text, TypeDecorator, UniqueConstraint, text
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


class Utc(TypeDecorator[datetime]):
    """An aware UTC time; SQLite keeps no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        """Of long lists of times, most of the cost is in reading them: SQLite's text goes through one function of C."""
        if dialect.name != "sqlite":
            return super().result_processor(dialect, coltype)
        return lambda text: None if text is None else datetime.fromisoformat(f"{text}+00:00")

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = {datetime: Utc, dict[str, Any]: JSON, str: String(255)}  # noqa: RUF012 (SQLAlchemy's API)


class UserRow(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    uid: Mapped[int] = mapped_column(unique=True)
    admin: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]
    last_activity_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]
    password_hash: Mapped[str | None] = mapped_column(Text)
    must_change_password: Mapped[bool] = mapped_column(default=False)
    display_name: Mapped[str] = mapped_column(default="", server_default="")
    archived_at: Mapped[datetime | None]
    roster_hash: Mapped[str | None] = mapped_column(Text)   # of the last password that a roster gave

    __table_args__ = (
        # a deleted user's row stays, because its uid and its home do; the name is free again
        Index("uq_users_name_live", "name", unique=True,
              sqlite_where=text("deleted_at IS NULL"), postgresql_where=text("deleted_at IS NULL")),
    )


class GroupRow(Base):
    __tablename__ = "groups"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    properties: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")


class UserGroupRow(Base):
    __tablename__ = "user_groups"

    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True)
    group_id: Mapped[int] = mapped_column(ForeignKey("groups.id"), primary_key=True, index=True)


class SessionRow(Base):
    __tablename__ = "sessions"

    id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    origin: Mapped[str]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    last_seen_at: Mapped[datetime]
    address: Mapped[str]
    user_agent: Mapped[str]

    user: Mapped[UserRow] = relationship(lazy="joined", innerjoin=True)


class ServerRow(Base):
    __tablename__ = "servers"

    id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str] = mapped_column(default="")
    address: Mapped[str | None] = mapped_column(unique=True)
    wanted: Mapped[str]
    phase: Mapped[str] = mapped_column(index=True)
    start_no: Mapped[int] = mapped_column(default=0)
    url: Mapped[str] = mapped_column(default="")
    image: Mapped[str] = mapped_column(default="")
    spec_hash: Mapped[str] = mapped_column(default="")
    phase_at: Mapped[datetime]
    deadline_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    ready_at: Mapped[datetime | None]
    last_activity_at: Mapped[datetime | None]
    failure_code: Mapped[str] = mapped_column(default="")
    failure_sentence: Mapped[str] = mapped_column(Text, default="")
    failure_action: Mapped[str] = mapped_column(Text, default="")
    failure_evidence: Mapped[str] = mapped_column(Text, default="")
    user_options: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    display_name: Mapped[str] = mapped_column(default="", server_default="")
    delete_when_stopped: Mapped[bool] = mapped_column(default=False, server_default=text("false"))

    user: Mapped[UserRow] = relationship(lazy="joined", innerjoin=True)

    __table_args__ = (UniqueConstraint("user_id", "name"),)


class ServiceRow(Base):
    """A service that was made through the REST API; those of the configuration are in the configuration."""

    __tablename__ = "services"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    admin: Mapped[bool] = mapped_column(default=False)
    url: Mapped[str] = mapped_column(Text, default="")
    data: Mapped[dict[str, Any]]      # everything else that was given, as JupyterHub names it
    created_at: Mapped[datetime]


class ApiTokenRow(Base):
    """Of a user or of a service (by name: it may be one of the configuration's), exactly one of the two."""

    __tablename__ = "api_tokens"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"), index=True)
    service_name: Mapped[str | None] = mapped_column(index=True)
    prefix: Mapped[str] = mapped_column(String(8), index=True)
    hashed: Mapped[str] = mapped_column(String(160))
    note: Mapped[str] = mapped_column(default="")
    scopes: Mapped[list[str]] = mapped_column(JSON, default=lambda: ["inherit"], server_default='["inherit"]')
    client_id: Mapped[str] = mapped_column(default="", server_default="", index=True)     # of OAuth: whom it was given to
    session_id: Mapped[str] = mapped_column(default="", server_default="", index=True)    # of OAuth: it ends with this session
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]

    user: Mapped[UserRow | None] = relationship(lazy="joined")


class OAuthCodeRow(Base):
    """A code that a client may exchange once for a token; it ends with its session, or after minutes. token_id: what it was
    exchanged for, so that a second use can end that too."""

    __tablename__ = "oauth_codes"

    id: Mapped[int] = mapped_column(primary_key=True)
    hashed: Mapped[str] = mapped_column(String(64), unique=True)      # SHA-256 of 256 random bits needs no salt
    client_id: Mapped[str]
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    session_id: Mapped[str] = mapped_column(index=True)
    redirect_uri: Mapped[str] = mapped_column(Text)
    scopes: Mapped[list[str]] = mapped_column(JSON)
    challenge: Mapped[str] = mapped_column(default="")
    challenge_method: Mapped[str] = mapped_column(String(16), default="")
    expires_at: Mapped[datetime]
    token_id: Mapped[int | None] = mapped_column(ForeignKey("api_tokens.id", ondelete="CASCADE"), index=True)

    user: Mapped[UserRow] = relationship(lazy="joined", innerjoin=True)


class ShareRow(Base):
    """What one user or one group may do with somebody's server, by ids: a rename changes nothing."""

    __tablename__ = "shares"

    id: Mapped[int] = mapped_column(primary_key=True)
    server_id: Mapped[str] = mapped_column(ForeignKey("servers.id"), index=True)
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"), index=True)
    group_id: Mapped[int | None] = mapped_column(ForeignKey("groups.id"), index=True)
    scopes: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]

    server: Mapped[ServerRow] = relationship(lazy="joined", innerjoin=True)
    user: Mapped[UserRow | None] = relationship(lazy="joined")
    group: Mapped[GroupRow | None] = relationship(lazy="joined")

    __table_args__ = (UniqueConstraint("server_id", "user_id", "group_id"),)


class ShareCodeRow(Base):
    """Whoever shows the code gets a share; only its hash is kept."""

    __tablename__ = "share_codes"

    id: Mapped[int] = mapped_column(primary_key=True)
    server_id: Mapped[str] = mapped_column(ForeignKey("servers.id"), index=True)
    prefix: Mapped[str] = mapped_column(String(8), index=True)
    hashed: Mapped[str] = mapped_column(String(160))
    scopes: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    exchange_count: Mapped[int] = mapped_column(default=0)
    last_exchanged_at: Mapped[datetime | None]

    server: Mapped[ServerRow] = relationship(lazy="joined", innerjoin=True)


class EventRow(Base):
    """Append-only: rows are never changed."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    kind: Mapped[str] = mapped_column(String(64))
    actor: Mapped[str] = mapped_column(default="hub")
    user_name: Mapped[str] = mapped_column(default="")
    server_id: Mapped[str] = mapped_column(default="", index=True)
    start_no: Mapped[int] = mapped_column(default=0)
    data: Mapped[dict[str, Any]]


class CounterRow(Base):
    """Numbers that only grow, so that a uid is never given twice."""

    __tablename__ = "counters"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    value: Mapped[int]
