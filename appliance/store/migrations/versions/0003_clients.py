"""Scopes of tokens, services, OAuth codes, shares, options of servers, properties of groups.

What the second schema has no place for waits in the table kept_0003 for the way back up. Its program knows no scopes, so
on the way down a token that may do less than its owner, or is a service's, waits there too instead of becoming one that
may do everything.
"""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

TIME = sa.DateTime(timezone=True)
# what waits, parents first: the table, its times, and what each row has to refer to that may be gone by then
WAITING: tuple[tuple[str, tuple[str, ...], dict[str, str]], ...] = (
    ("services", ("created_at",), {}),
    ("api_tokens", ("created_at", "expires_at", "last_used_at"), {"user_id": "users"}),
    ("shares", ("created_at", "expires_at"), {"server_id": "servers", "user_id": "users", "group_id": "groups"}),
    ("share_codes", ("created_at", "expires_at", "last_exchanged_at"), {"server_id": "servers"}),
)
CHANGED = (("groups", "id", ("properties",)), ("servers", "id", ("user_options", "display_name")))
KEPT = sa.table("kept_0003", sa.column("id", sa.Integer), sa.column("name", sa.String), sa.column("data", sa.JSON))


def upgrade() -> None:
    op.add_column("groups", sa.Column("properties", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("servers", sa.Column("user_options", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("servers", sa.Column("display_name", sa.String(length=255), nullable=False, server_default=""))
    op.add_column("servers", sa.Column("delete_when_stopped", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "services",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("admin", sa.Boolean(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_services")),
        sa.UniqueConstraint("name", name=op.f("uq_services_name")),
    )
    with op.batch_alter_table("api_tokens") as table:
        table.alter_column("user_id", existing_type=sa.Integer(), nullable=True)
        table.add_column(sa.Column("service_name", sa.String(length=255), nullable=True))
        table.add_column(sa.Column("scopes", sa.JSON(), nullable=False, server_default='["inherit"]'))
        table.add_column(sa.Column("client_id", sa.String(length=255), nullable=False, server_default=""))
        table.add_column(sa.Column("session_id", sa.String(length=255), nullable=False, server_default=""))
    for column in ("service_name", "client_id", "session_id"):
        op.create_index(op.f(f"ix_api_tokens_{column}"), "api_tokens", [column])
    op.create_table(
        "oauth_codes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("hashed", sa.String(length=64), nullable=False),
        sa.Column("client_id", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("session_id", sa.String(length=255), nullable=False),
        sa.Column("redirect_uri", sa.Text(), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("challenge", sa.String(length=255), nullable=False),
        sa.Column("challenge_method", sa.String(length=16), nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("token_id", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_oauth_codes_user_id")),
        sa.ForeignKeyConstraint(["token_id"], ["api_tokens.id"], name=op.f("fk_oauth_codes_token_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_oauth_codes")),
        sa.UniqueConstraint("hashed", name=op.f("uq_oauth_codes_hashed")),
    )
    op.create_index(op.f("ix_oauth_codes_user_id"), "oauth_codes", ["user_id"])
    op.create_index(op.f("ix_oauth_codes_token_id"), "oauth_codes", ["token_id"])
    op.create_index(op.f("ix_oauth_codes_session_id"), "oauth_codes", ["session_id"])
    op.create_table(
        "shares",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("server_id", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("group_id", sa.Integer(), nullable=True),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["server_id"], ["servers.id"], name=op.f("fk_shares_server_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_shares_user_id")),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"], name=op.f("fk_shares_group_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shares")),
        sa.UniqueConstraint("server_id", "user_id", "group_id", name=op.f("uq_shares_server_id_user_id_group_id")),
    )
    for column in ("server_id", "user_id", "group_id"):
        op.create_index(op.f(f"ix_shares_{column}"), "shares", [column])
    op.create_table(
        "share_codes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("server_id", sa.String(length=255), nullable=False),
        sa.Column("prefix", sa.String(length=8), nullable=False),
        sa.Column("hashed", sa.String(length=160), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=True),
        sa.Column("exchange_count", sa.Integer(), nullable=False),
        sa.Column("last_exchanged_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["server_id"], ["servers.id"], name=op.f("fk_share_codes_server_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_share_codes")),
    )
    op.create_index(op.f("ix_share_codes_server_id"), "share_codes", ["server_id"])
    op.create_index(op.f("ix_share_codes_prefix"), "share_codes", ["prefix"])
    connection = op.get_bind()
    servers = _table(connection, "servers")
    for row in connection.execute(sa.select(servers.c.id, servers.c.image).where(servers.c.image != "")).all():
        connection.execute(servers.update().where(servers.c.id == row.id).values(user_options={"image": row.image}))
    if sa.inspect(connection).has_table("kept_0003"):
        _put_back(connection)
        op.drop_table("kept_0003")


def downgrade() -> None:
    connection = op.get_bind()
    op.create_table(
        "kept_0003",
        sa.Column("id", sa.Integer(), nullable=False, primary_key=True),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
    )
    for name, _, _ in WAITING:
        for row in connection.execute(sa.select(_table(connection, name))).mappings().all():
            if name != "api_tokens" or row["scopes"] != ["inherit"] or row["user_id"] is None or row["client_id"]:
                _keep(connection, name, dict(row))
    for name, key, columns in CHANGED:
        table = _table(connection, name)
        for row in connection.execute(sa.select(table)).mappings().all():
            if any(row[column] for column in columns):
                _keep(connection, name, {column: row[column] for column in (key, *columns)})
    tokens = _table(connection, "api_tokens")
    for waiting in connection.execute(sa.select(KEPT).where(KEPT.c.name == "api_tokens")).all():
        connection.execute(tokens.delete().where(tokens.c.id == waiting.data["id"]))
    for name in ("share_codes", "shares", "oauth_codes", "services"):
        op.drop_table(name)
    for column in ("service_name", "client_id", "session_id"):
        op.drop_index(op.f(f"ix_api_tokens_{column}"), "api_tokens")
    with op.batch_alter_table("api_tokens") as batch:
        for column in ("session_id", "client_id", "scopes", "service_name"):
            batch.drop_column(column)
        batch.alter_column("user_id", existing_type=sa.Integer(), nullable=False)
    op.drop_column("servers", "delete_when_stopped")
    op.drop_column("servers", "display_name")
    op.drop_column("servers", "user_options")
    op.drop_column("groups", "properties")


def _keep(connection: sa.Connection, name: str, row: dict[str, Any]) -> None:
    data = {key: value.isoformat() if isinstance(value, datetime) else value for key, value in row.items()}
    connection.execute(KEPT.insert().values(name=name, data=data))


def _put_back(connection: sa.Connection) -> None:
    kept = [(row.name, row.data) for row in connection.execute(sa.select(KEPT).order_by(KEPT.c.id)).all()]
    for name, key, _ in CHANGED:
        table = _table(connection, name)
        for data in (data for found, data in kept if found == name):
            values = {column: value for column, value in data.items() if column != key}
            connection.execute(table.update().where(table.c[key] == data[key]).values(**values))
    for name, times, references in WAITING:
        table = _table(connection, name)
        taken, waiting = set(connection.scalars(sa.select(table.c.id))), [data for found, data in kept if found == name]
        following = max(taken | {data["id"] for data in waiting}, default=0) + 1
        for data in waiting:
            if not all(_is_there(connection, other, data[column]) for column, other in references.items()):
                continue
            values = data | {column: datetime.fromisoformat(data[column]) if data[column] else None for column in times}
            if values["id"] in taken:       # given to another one meanwhile
                values["id"], following = following, following + 1
            connection.execute(table.insert().values(**values))
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text(
                f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), greatest(1, (SELECT max(id) FROM {name})))"))


def _is_there(connection: sa.Connection, name: str, value: object) -> bool:
    if value is None:
        return True
    table = _table(connection, name)
    return connection.scalar(sa.select(table.c.id).where(table.c.id == value)) is not None


def _table(connection: sa.Connection, name: str) -> sa.Table:
    return sa.Table(name, sa.MetaData(), autoload_with=connection)
