"""Display names, archived accounts and groups.

What the first schema has no place for waits in the table kept_0002 for the way back up. Its program knows no archive, so
on the way down an archived account loses what it could sign in with: its password waits too, its API tokens end.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

KEPT = sa.table(
    "kept_0002", sa.column("user_id", sa.Integer), sa.column("display_name", sa.String),
    sa.column("archived_at", sa.DateTime(timezone=True)), sa.column("password_hash", sa.Text),
    sa.column("roster_hash", sa.Text), sa.column("groups", sa.JSON))
USERS = sa.table(
    "users", sa.column("id", sa.Integer), sa.column("display_name", sa.String),
    sa.column("archived_at", sa.DateTime(timezone=True)), sa.column("password_hash", sa.Text),
    sa.column("roster_hash", sa.Text))
GROUPS = sa.table("groups", sa.column("id", sa.Integer), sa.column("name", sa.String))
MEMBERS = sa.table("user_groups", sa.column("user_id", sa.Integer), sa.column("group_id", sa.Integer))


def upgrade() -> None:
    op.add_column("users", sa.Column("display_name", sa.String(length=255), nullable=False, server_default=""))
    op.add_column("users", sa.Column("archived_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("users", sa.Column("roster_hash", sa.Text(), nullable=True))
    op.create_table(
        "groups",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_groups")),
        sa.UniqueConstraint("name", name=op.f("uq_groups_name")),
    )
    op.create_table(
        "user_groups",
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("group_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_user_groups_user_id")),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"], name=op.f("fk_user_groups_group_id")),
        sa.PrimaryKeyConstraint("user_id", "group_id", name=op.f("pk_user_groups")),
    )
    op.create_index(op.f("ix_user_groups_group_id"), "user_groups", ["group_id"])
    connection = op.get_bind()
    if sa.inspect(connection).has_table("kept_0002"):
        _put_back(connection)
        op.drop_table("kept_0002")


def downgrade() -> None:
    connection = op.get_bind()
    op.create_table(
        "kept_0002",
        sa.Column("user_id", sa.Integer(), nullable=False, primary_key=True),
        sa.Column("display_name", sa.String(length=255), nullable=False),
        sa.Column("archived_at", sa.DateTime(timezone=True)),
        sa.Column("password_hash", sa.Text()),
        sa.Column("roster_hash", sa.Text()),
        sa.Column("groups", sa.JSON(), nullable=False),
    )
    groups: dict[int, list[str]] = {}
    members = sa.select(MEMBERS.c.user_id, GROUPS.c.name).join_from(MEMBERS, GROUPS, MEMBERS.c.group_id == GROUPS.c.id)
    for user_id, name in connection.execute(members.order_by(GROUPS.c.name)):
        groups.setdefault(user_id, []).append(name)
    for user in connection.execute(sa.select(USERS)).all():
        archived = user.archived_at is not None
        if archived or user.display_name or user.roster_hash or user.id in groups:
            connection.execute(KEPT.insert().values(
                user_id=user.id, display_name=user.display_name, archived_at=user.archived_at, roster_hash=user.roster_hash,
                password_hash=user.password_hash if archived else None, groups=groups.get(user.id, [])))
        if archived:
            connection.execute(USERS.update().where(USERS.c.id == user.id).values(password_hash=None))
            for table in ("api_tokens", "sessions"):
                connection.execute(sa.text(f"DELETE FROM {table} WHERE user_id = :id"), {"id": user.id})
    op.drop_table("user_groups")
    op.drop_table("groups")
    for column in ("roster_hash", "archived_at", "display_name"):
        op.drop_column("users", column)


def _put_back(connection: sa.Connection) -> None:
    ids: dict[str, int] = {}
    deleted = set(connection.scalars(sa.text("SELECT id FROM users WHERE deleted_at IS NOT NULL")))
    for kept in connection.execute(sa.select(KEPT)).all():
        changes = {"display_name": kept.display_name, "archived_at": kept.archived_at, "roster_hash": kept.roster_hash}
        here = USERS.c.id == kept.user_id
        connection.execute(USERS.update().where(here).values(**changes))
        if kept.password_hash and kept.user_id not in deleted:  # unless one was set meanwhile
            connection.execute(USERS.update().where(here & USERS.c.password_hash.is_(None)).values(
                password_hash=kept.password_hash))
        for name in kept.groups:
            if name not in ids:
                ids[name] = len(ids) + 1
                connection.execute(GROUPS.insert().values(id=ids[name], name=name))
            connection.execute(MEMBERS.insert().values(user_id=kept.user_id, group_id=ids[name]))
    if ids and connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT setval(pg_get_serial_sequence('groups', 'id'), (SELECT max(id) FROM groups))"))
