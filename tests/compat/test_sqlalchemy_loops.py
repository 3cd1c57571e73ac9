"""SQLAlchemy on asyncio, uvloop and Trio with `rapsqlite.sqlalchemy`'s engine and session: Core, ORM, cancellation."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from rapsqlite.sqlalchemy import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


ENDLESS = sa.text("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n")


@contextlib.asynccontextmanager
async def notes(url: str, **options: Any) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(url, **options)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        yield engine
    finally:
        await engine.dispose()


async def texts(engine: AsyncEngine) -> list[str]:
    async with engine.connect() as connection:
        return list((await connection.scalars(sa.select(Note.text).order_by(Note.id))).all())


async def test_core_runs_on_every_loop(database: Path) -> None:
    async with notes(f"sqlite+rapsqlite:///{database}") as engine:
        async with engine.begin() as connection:
            assert isinstance(connection, AsyncConnection)
            await connection.execute(sa.insert(Note), [{"text": str(number)} for number in range(300)])
        async with engine.connect() as connection:
            await connection.execute(sa.insert(Note).values(text="lost"))
            await connection.rollback()
            streamed = [row.text async for row in await connection.stream(sa.select(Note.text).order_by(Note.id))]

        assert streamed == await texts(engine) == [str(number) for number in range(300)]


async def test_sessions_run_on_every_loop(database: Path) -> None:
    async with notes(f"sqlite+rapsqlite:///{database}") as engine:
        make_session = async_sessionmaker(engine, expire_on_commit=False)
        async with make_session.begin() as session:
            assert isinstance(session, AsyncSession)
            session.add(Note(text="first"))
        with contextlib.suppress(ZeroDivisionError):
            async with make_session.begin() as session:
                session.add(Note(text="undone"))
                await session.flush()
                raise ZeroDivisionError
        async with make_session() as session:
            async with session.begin_nested():
                session.add(Note(text="nested"))
            await session.commit()
            found = (await session.scalars(sa.select(Note).order_by(Note.id))).all()

        assert [note.text for note in found] == ["first", "nested"]


@pytest.mark.parametrize("where", ["file", "memory"])
async def test_cancelled_scope_leaves_a_usable_pool(where: str, database: Path) -> None:
    """Leaving ``async with`` must close and roll back although the scope around it is cancelled."""
    async with notes(f"sqlite+rapsqlite:///{database}" if where == "file" else "sqlite+rapsqlite://") as engine:
        for begin in (engine.begin, async_sessionmaker(engine).begin):
            with anyio.move_on_after(0.05) as scope:
                async with begin() as block:
                    await block.execute(sa.insert(Note).values(text="undone"))
                    await block.execute(ENDLESS)
            assert scope.cancelled_caught
        async with async_sessionmaker(engine).begin() as session:
            session.add(Note(text="kept"))

        assert await texts(engine) == ["kept"]
        assert getattr(engine.pool, "checkedout", lambda: 0)() == 0


async def test_concurrent_tasks_share_the_pool(database: Path) -> None:
    """Also while the first connection is examined, and while all connections are out."""
    engine = create_async_engine(f"sqlite+rapsqlite:///{database}", pool_size=2, max_overflow=1)
    seen: list[Any] = []

    async def ask(number: int) -> None:
        async with engine.connect() as connection:
            seen.append(await connection.scalar(sa.select(sa.literal(number))))

    async with anyio.create_task_group() as tasks:
        for number in range(30):
            tasks.start_soon(ask, number)
    await engine.dispose()

    assert sorted(seen) == list(range(30))


async def test_cancelled_wait_loses_no_connection(database: Path) -> None:
    async with notes(f"sqlite+rapsqlite:///{database}", pool_size=1, max_overflow=0) as engine:

        async def wait_in_vain() -> None:
            async with engine.connect():
                raise AssertionError

        async with engine.connect():
            with anyio.move_on_after(0.02):
                await wait_in_vain()
        with anyio.fail_after(20):
            assert await texts(engine) == []
