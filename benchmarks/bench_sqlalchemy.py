"""SQLAlchemy over a driver: Core and ORM selects, single-row selects, bulk inserts, each in its own engine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import registry
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from benchmarks.figures import Figures
    from benchmarks.peers import Peer


registry.register("sqlite.rapsqlite", "rapsqlite.sqlalchemy", "RapsqliteDialect")  # the checkout is not installed
DRIVERS = {"ours": "rapsqlite", "aiosqlite": "aiosqlite"}


class Base(DeclarativeBase):
    """The models."""


class Thing(Base):
    """A row with an id that the database assigns."""

    __tablename__ = "thing"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    size: Mapped[float]


class _Timed:
    """A database with ``size`` rows, and the time that operations on it take."""

    def __init__(self, peer: Peer, directory: Path, size: int) -> None:
        self.size = size
        self.path = directory / f"sqlalchemy_{peer.NAME}.db"
        self.path.unlink(missing_ok=True)
        self.engine = create_async_engine(f"sqlite+{DRIVERS[peer.NAME]}:///{self.path}")

    def things(self) -> list[dict[str, Any]]:
        """Return the rows without their ids."""
        return [{"name": f"thing {number}", "size": number / 7} for number in range(self.size)]

    async def run(self, work: Callable[[], Awaitable[object]], *, filled: bool) -> float:
        """Return the seconds that ``work`` takes on a new table, filled or empty."""
        async with self.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
            if filled:
                await connection.execute(sa.insert(Thing), self.things())
        try:
            start = time.perf_counter()
            await work()
            return time.perf_counter() - start
        finally:
            await self.engine.dispose()


async def core_select(peer: Peer, directory: Path, size: int) -> Figures:
    """Select ``size`` rows ten times."""
    timed = _Timed(peer, directory, size)

    async def work() -> None:
        async with timed.engine.connect() as connection:
            for _ in range(10):
                rows = (await connection.execute(sa.select(Thing.__table__))).all()
                assert len(rows) == size

    return {"rows_per_s": 10 * size / await timed.run(work, filled=True)}


async def orm_select(peer: Peer, directory: Path, size: int) -> Figures:
    """Select ``size`` objects five times."""
    timed = _Timed(peer, directory, size)

    async def work() -> None:
        for _ in range(5):
            async with AsyncSession(timed.engine) as session:
                assert len((await session.scalars(sa.select(Thing))).all()) == size

    return {"objects_per_s": 5 * size / await timed.run(work, filled=True)}


async def single_rows(peer: Peer, directory: Path, size: int) -> Figures:
    """Select one row by its key ``size`` times."""
    timed = _Timed(peer, directory, size)
    statement = sa.select(Thing.__table__).where(Thing.id == sa.bindparam("key"))

    async def work() -> None:
        async with timed.engine.connect() as connection:
            for key in range(1, size + 1):
                assert (await connection.execute(statement, {"key": key})).one().id == key

    return {"operations_per_s": size / await timed.run(work, filled=True)}


async def core_insert(peer: Peer, directory: Path, size: int) -> Figures:
    """Insert ``size`` rows with Core, in one transaction."""
    timed = _Timed(peer, directory, size)
    things = timed.things()

    async def work() -> None:
        async with timed.engine.begin() as connection:
            await connection.execute(sa.insert(Thing), things)

    return {"rows_per_s": size / await timed.run(work, filled=False)}


async def orm_insert(peer: Peer, directory: Path, size: int) -> Figures:
    """Add ``size`` objects to a session and commit."""
    timed = _Timed(peer, directory, size)

    async def work() -> None:
        async with AsyncSession(timed.engine) as session:
            session.add_all([Thing(**thing) for thing in timed.things()])
            await session.commit()

    return {"objects_per_s": size / await timed.run(work, filled=False)}
