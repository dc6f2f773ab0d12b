"""Alembic's entry: one connection, one transaction, batch mode for SQLite."""

from alembic import context
from sqlalchemy import create_engine

from appliance.store.database import VERSION_TABLE
from appliance.store.rows import Base

engine = create_engine(context.config.attributes["url"])
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata, version_table=VERSION_TABLE,
                      render_as_batch=True, compare_type=True)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
