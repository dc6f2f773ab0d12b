"""The Hub's memory: SQLAlchemy rows, transactions and Alembic migrations."""
