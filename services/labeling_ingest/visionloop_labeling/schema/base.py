"""The types and naming rules that all tables share.

A session writes the new rows of two tables in the order of their names, not of their references:
whoever gives it both writes the first (`flush`) before the second, or has `new_rows` do it.
"""

from datetime import UTC, datetime
from typing import cast

from sqlalchemy import BigInteger, DateTime, Dialect, Integer, MetaData, TypeDecorator
from sqlalchemy import Table as SqlTable
from sqlalchemy.orm import DeclarativeBase

# SQLite hands out row ids only for INTEGER PRIMARY KEY, Postgres needs the wide type named.
RowId = BigInteger().with_variant(Integer, "sqlite")


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime on every database."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """In: UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """Out: aware, also where the database forgot the zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Table(DeclarativeBase):
    """Base of all tables; constraints get stable names, so that migrations can address them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


def plain(table: type[Table]) -> SqlTable:
    """The table without its class, for rows that are written and not wanted back as objects.

    A third of the cost; and a session does not write what waits in it first.
    """
    return cast(SqlTable, table.__table__)
