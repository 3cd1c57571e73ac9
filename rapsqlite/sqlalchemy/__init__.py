"""The SQLAlchemy dialect ``sqlite+rapsqlite``, and async engines and sessions for asyncio and Trio.

    engine = create_async_engine("sqlite+rapsqlite:///shop.db")

SQLAlchemy's own ``create_async_engine``, ``AsyncSession`` and ``async_sessionmaker`` work under asyncio. The ones here
are the same and work under Trio too. docs/sqlalchemy.md has examples.
"""

from rapsqlite.sqlalchemy.dialect import RapsqliteDialect
from rapsqlite.sqlalchemy.engine import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

__all__ = [
    "AsyncConnection",
    "AsyncEngine",
    "AsyncSession",
    "RapsqliteDialect",
    "async_sessionmaker",
    "create_async_engine",
]
