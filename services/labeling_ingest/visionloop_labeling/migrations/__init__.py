"""Alembic migrations, run by `database.open_database` under a lock."""
