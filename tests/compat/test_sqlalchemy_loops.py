"""SQLAlchemy on asyncio, uvloop and Trio with `rapsqlite.sqlalchemy`'s engine and session: Core, ORM, cancellation."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
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
    """SQLAlchemy's own classes need asyncio; the package's work under Trio too."""
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
    """The ORM's blocks end in a shielded scope under Trio."""
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
    """With one connection in the pool, a lost one would make the next task wait for ever."""
    async with notes(f"sqlite+rapsqlite:///{database}", pool_size=1, max_overflow=0) as engine:

        async def wait_in_vain() -> None:
            async with engine.connect():
                raise AssertionError

        async with engine.connect():
            with anyio.move_on_after(0.02):
                await wait_in_vain()
        with anyio.fail_after(20):
            assert await texts(engine) == []


@pytest.mark.parametrize("mode", ["wal", "delete"])
async def test_stream_that_is_left_early_ends_when_its_connection_is_returned(database: Path, mode: str) -> None:
    """A statement left running would keep its lock and its snapshot when the connection is used again."""
    url = f"sqlite+rapsqlite:///{database}?pragma_journal_mode={mode}"
    async with notes(url, pool_size=1, max_overflow=0) as engine:
        async with engine.begin() as connection:
            await connection.execute(sa.insert(Note), [{"text": "a note"} for _ in range(3000)])
        async with engine.connect() as connection:
            query = sa.select(Note.text).execution_options(yield_per=10)
            left = await connection.stream(query)
            assert await left.fetchmany(2) == [("a note",), ("a note",)]
        with contextlib.closing(sqlite3.connect(database, timeout=20)) as other, other:
            other.execute("INSERT INTO note (text) VALUES ('of another')")
        async with engine.begin() as connection:
            await connection.execute(sa.insert(Note).values(text="of the next borrower"))
        with pytest.raises(sa.exc.ProgrammingError, match="ended when its connection was returned"):
            await left.fetchall()

        assert (await texts(engine))[3000:] == ["of another", "of the next borrower"]


@pytest.mark.parametrize("end", [None, KeyError, "cancellation"])
@pytest.mark.parametrize("verb", ["stream", "stream_scalars"])
@pytest.mark.parametrize("owner", ["engine", "options", "session"])
async def test_block_of_a_stream_ends_it_on_every_loop(database: Path, owner: str, verb: str, end: Any) -> None:
    """SQLAlchemy closes it, and the connections of an engine with other options, in a task of asyncio's."""
    async with notes(f"sqlite+rapsqlite:///{database}", pool_size=1, max_overflow=0) as engine:
        async with engine.begin() as connection:
            await connection.execute(sa.insert(Note), [{"text": str(number)} for number in range(300)])
        async with contextlib.AsyncExitStack() as stack:
            if owner == "session":
                session = await stack.enter_async_context(async_sessionmaker(engine)())
                connection = await session.connection()
                assert connection is await session.connection()
            else:
                source = engine if owner == "engine" else engine.execution_options(isolation_level="AUTOCOMMIT")
                connection = await stack.enter_async_context(source.connect())
            query = sa.select(Note.text).execution_options(yield_per=10)
            with contextlib.suppress(KeyError), anyio.CancelScope() as scope:
                async with getattr(connection, verb)(query) as rows:
                    assert (await rows.fetchone() if verb == "stream" else (await rows.fetchmany(1))) in [("0",), ["0"]]
                    if end == "cancellation":
                        scope.cancel()
                        await anyio.lowlevel.checkpoint()
                    elif end is not None:
                        raise end
            awaited = await getattr(connection, verb)(query)

            assert len(await awaited.all()) == 300
            if end is None:  # SQLAlchemy leaves it open after an exception
                with pytest.raises(sa.exc.ResourceClosedError):
                    await rows.all()


async def test_stream_of_a_session_that_commits_says_why_it_ended(database: Path) -> None:
    """The session returns its connection then."""
    async with notes(f"sqlite+rapsqlite:///{database}") as engine, async_sessionmaker(engine)() as session:
        session.add_all([Note(text=str(number)) for number in range(3000)])
        await session.commit()
        stream = await session.stream_scalars(sa.select(Note).execution_options(yield_per=10))
        assert (await anext(aiter(stream))).text == "0"
        await session.commit()
        with pytest.raises(sa.exc.ProgrammingError, match=r"fetch its rows before the session .* commits"):
            await stream.all()


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "READ UNCOMMITTED", "SNAPSHOT"])
async def test_cancelled_statement_at_another_isolation_level_leaves_a_usable_pool(database: Path, level: str) -> None:
    """The level is set back while the connection is returned, which the cancellation must not prevent."""
    async with notes(f"sqlite+rapsqlite:///{database}", pool_size=1, max_overflow=0) as engine:
        async with engine.connect() as connection:
            first = (await connection.get_raw_connection()).driver_connection
        with anyio.move_on_after(0.05) as scope:
            async with engine.connect() as connection:
                await connection.execution_options(isolation_level=level)
                await connection.execute(ENDLESS)
        assert scope.cancelled_caught
        with anyio.fail_after(50):
            async with engine.connect() as connection:
                assert await connection.get_isolation_level() == "SERIALIZABLE"
                assert await connection.scalar(sa.text("PRAGMA read_uncommitted")) == 0
                assert (await connection.get_raw_connection()).driver_connection is first


async def test_connection_whose_return_fails_frees_its_place(database: Path) -> None:
    """What runs then may be a user's, and may be cancelled."""
    async with notes(f"sqlite+rapsqlite:///{database}", pool_size=1, max_overflow=0) as engine:
        connection = await engine.connect()
        record: Any = (await connection.get_raw_connection())._connection_record
        record.finalize_callback.append(fail)
        with pytest.raises(KeyError):
            await connection.close()
        with anyio.fail_after(50):
            assert await texts(engine) == []


def fail(_connection: object) -> None:
    raise KeyError


@pytest.mark.parametrize("end", ["cancelled", "failed"])
async def test_waiting_task_opens_the_connection_that_another_could_not_open(database: Path, end: str) -> None:
    """Nothing else would wake it: no connection is out that could be returned."""
    is_opening, may_fail = anyio.Event(), anyio.Event()
    openings: list[object] = []

    async def hook(connection: object) -> None:
        openings.append(connection)
        if len(openings) == 2:
            is_opening.set()
            await may_fail.wait()
            raise KeyError

    async def open_in_vain() -> None:
        with scope, contextlib.suppress(KeyError):
            await engine.connect()

    url, scope = f"sqlite+rapsqlite:///{database}", anyio.CancelScope()
    async with notes(url, pool_size=1, max_overflow=0, connect_args={"init_hook": hook}) as engine:
        await engine.dispose()
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(open_in_vain)
                await is_opening.wait()
                for _ in range(2):
                    tasks.start_soon(texts, engine)
                await anyio.wait_all_tasks_blocked()
                if end == "cancelled":
                    scope.cancel()
                else:
                    may_fail.set()
        assert len(openings) == 3
        assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
