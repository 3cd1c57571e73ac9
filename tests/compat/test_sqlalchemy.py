"""The dialect ``sqlite+rapsqlite``: what SQLAlchemy's own suite (scripts/sqlalchemy_suite.sh) does not test."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gc
import inspect
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload
from sqlalchemy.pool import NullPool
from sqlalchemy.util.queue import Full

import rapsqlite
from rapsqlite.sqlalchemy.dialect import _GROUPS, _OPTIONS, RapsqliteDialect
from rapsqlite.sqlalchemy.pools import FilePool, MemoryPool, WaitQueue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from pathlib import Path


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """SQLAlchemy's own classes need asyncio; test_sqlalchemy_loops.py tests the others."""
    return "asyncio", {"use_uvloop": request.param}


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(50), unique=True)
    books: Mapped[list[Book]] = relationship(back_populates="author")


class Book(Base):
    __tablename__ = "book"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author_id: Mapped[int] = mapped_column(sa.ForeignKey("author.id"))
    author: Mapped[Author] = relationship(back_populates="books")


def url_of(database: Path) -> str:
    return f"sqlite+rapsqlite:///{database}"


@contextlib.asynccontextmanager
async def engine_on(url: str, **options: Any) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(url, **options)
    try:
        yield engine
    finally:
        await engine.dispose()


@contextlib.asynccontextmanager
async def library(url: str, **options: Any) -> AsyncIterator[AsyncEngine]:
    async with engine_on(url, **options) as engine:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        yield engine


async def driver_of(connection: Any) -> rapsqlite.Connection:
    driver: rapsqlite.Connection = (await connection.get_raw_connection()).driver_connection
    return driver


async def requests(connection: Any) -> int:
    """Return how many requests have been sent through a connection's driver."""
    return (await driver_of(connection))._state.guest.sent_count


# -- transactions ----------------------------------------------------------------------------------


async def test_savepoint_nests_in_the_transaction(database: Path) -> None:
    """With pysqlite's defaults a SAVEPOINT before any INSERT is a transaction that ROLLBACK does not undo."""
    async with library(url_of(database)) as engine, AsyncSession(engine) as session:
        async with session.begin_nested():
            session.add(Author(name="released"))
        with contextlib.suppress(ZeroDivisionError):
            async with session.begin_nested():
                session.add(Author(name="undone"))
                await session.flush()
                raise ZeroDivisionError
        inside = (await session.scalars(sa.select(Author.name))).all()
        await session.rollback()

        assert inside == ["released"]
        assert (await session.scalars(sa.select(Author.name))).all() == []


async def test_schema_change_is_rolled_back(database: Path) -> None:
    """With pysqlite's defaults CREATE TABLE commits."""
    async with engine_on(url_of(database)) as engine, engine.connect() as connection:
        await connection.execute(sa.text("CREATE TABLE t (a)"))
        await connection.execute(sa.text("CREATE INDEX i ON t (a)"))
        await connection.rollback()

        assert (await connection.execute(sa.text("SELECT name FROM sqlite_schema"))).all() == []


DETACHING = [
    "ATTACH ':memory:' AS other", "CREATE TABLE other.t (a)", "DROP TABLE other.t", "DETACH other",
]  # fmt: skip


async def work_in_one_transaction(engine: AsyncEngine) -> list[Any]:
    """Change schema and data and roll back; return whether a transaction was open after each step, and what is left."""
    found: list[Any] = []
    async with engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        for statement in (*DETACHING, "CREATE TABLE t (a)"):
            await connection.execute(sa.text(statement))
            found.append(driver.in_transaction)
        async with connection.begin_nested():
            await connection.execute(sa.text("INSERT INTO t VALUES ('released')"))
        found.append(driver.in_transaction)
        await connection.execute(sa.text("INSERT INTO t VALUES ('lost')"))
        found.append(driver.in_transaction)
        await connection.rollback()
        found += (await connection.execute(sa.text("SELECT a FROM t"))).scalars()
    return found


@pytest.mark.parametrize("given", ["URL", "connect_args"])
async def test_legacy_transaction_control_begins_transactions_where_aiosqlite_does(given: str, tmp_path: Path) -> None:
    """Programs written for pysqlite's defaults may depend on schema changes that commit by themselves."""
    url, stock = url_of(tmp_path / "ours.db"), f"sqlite+aiosqlite:///{tmp_path}/theirs.db"
    connect_args: dict[str, Any] = {"autocommit": rapsqlite.LEGACY_TRANSACTION_CONTROL}
    opened = engine_on(f"{url}?autocommit=-1") if given == "URL" else engine_on(url, connect_args=connect_args)
    async with opened as engine, engine_on(stock) as theirs:
        found = await work_in_one_transaction(engine)

        assert found == [False, False, False, False, False, False, True, "released"]
        assert found == await work_in_one_transaction(theirs)


async def test_legacy_transaction_control_is_restored_after_other_levels(database: Path) -> None:
    async with engine_on(f"{url_of(database)}?autocommit=-1") as engine:
        seen = []
        for level in ("SNAPSHOT", "AUTOCOMMIT", "SERIALIZABLE"):
            async with engine.connect() as connection:
                await connection.execution_options(isolation_level=level)
                await connection.execute(sa.text(f"CREATE TABLE {level.lower()} (a)"))
                seen.append((await driver_of(connection)).in_transaction)
            async with engine.connect() as connection:
                await connection.execute(sa.text(f"CREATE TABLE next_{level.lower()} (a)"))
                seen.append((await driver_of(connection)).in_transaction)

        assert seen == [True, False, False, False, False, False]


async def test_database_changed_in_the_open_transaction_is_not_detached_by_default(database: Path) -> None:
    """SQLite refuses it; committing before it without being asked would end the program's transaction."""
    async with engine_on(url_of(database)) as engine, engine.connect() as connection:
        for statement in DETACHING[:-1]:
            await connection.execute(sa.text(statement))
        with pytest.raises(sa.exc.OperationalError, match="database other is locked"):
            await connection.execute(sa.text(DETACHING[-1]))
        await connection.commit()

        await connection.execute(sa.text(DETACHING[-1]))


async def test_drivers_cursor_of_a_whole_result_is_closed(database: Path) -> None:
    """SQLAlchemy's own adapters have it in ``_cursor``, where programs and SQLAlchemy's tests look for it."""
    async with engine_on(url_of(database)) as engine, engine.connect() as connection:
        result = await connection.exec_driver_sql("SELECT 1")
        cursor = result.context.cursor._cursor

        assert isinstance(cursor, rapsqlite.Cursor)
        with pytest.raises(rapsqlite.ProgrammingError, match="closed"):
            await cursor.execute("SELECT 2")
        assert result.scalar_one() == 1


async def test_snapshot_level_keeps_what_was_read(database: Path) -> None:
    """SNAPSHOT is SERIALIZABLE as the standard means it; without it each SELECT sees the newest commit."""
    async with library(url_of(database), connect_args={"pragmas": {"journal_mode": "wal"}}) as engine:
        count = sa.select(sa.func.count()).select_from(Author)
        seen = []
        for level in ("SNAPSHOT", "SERIALIZABLE"):
            async with engine.connect() as reader, engine.connect() as writer:
                await reader.execution_options(isolation_level=level)
                before = await reader.scalar(count)
                await writer.execute(sa.insert(Author).values(name=level))
                await writer.commit()
                seen.append((await reader.get_isolation_level(), await reader.scalar(count) == before))

        assert seen == [("SNAPSHOT", True), ("SERIALIZABLE", False)]


async def test_autocommit_level_and_back(database: Path) -> None:
    """The level is set back when the connection returns to its pool: the next borrower gets transactions."""
    async with library(url_of(database)) as engine:
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(sa.insert(Author).values(name="kept"))
            modes = [(await driver_of(connection)).autocommit]
            await connection.rollback()
            levels = [await connection.get_isolation_level()]
        async with engine.connect() as connection:
            modes.append((await driver_of(connection)).autocommit)
            levels.append(await connection.get_isolation_level())
            await connection.execute(sa.insert(Author).values(name="lost"))
            await connection.rollback()
            names = (await connection.scalars(sa.select(Author.name))).all()

        assert modes == [True, rapsqlite.LEGACY_TRANSACTION_CONTROL]
        assert (levels, names) == (["AUTOCOMMIT", "SERIALIZABLE"], ["kept"])


@pytest.mark.parametrize("end", ["commit", "rollback", "return", "cancel"])
@pytest.mark.parametrize("option", ["isolation_level", "autocommit"])
async def test_transaction_that_sql_begins_at_autocommit_level_ends_as_asked(
    end: str, option: str, database: Path
) -> None:
    """As with pysqlite and aiosqlite. It stayed open: the next borrower took part in it, and it was lost in the end."""
    options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT"}
    if option == "autocommit":
        options = {"connect_args": {"autocommit": True}}
    async with library(url_of(database)) as engine:
        pass
    async with engine_on(url_of(database), pool_size=1, max_overflow=0, **options) as engine:
        async with engine.connect() as connection:
            driver = await driver_of(connection)
            await connection.execute(sa.text("BEGIN IMMEDIATE"))
            await connection.execute(sa.insert(Author).values(name="Ada"))
            if end == "cancel":
                task = asyncio.create_task(connection.execute(ENDLESS))
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
            elif end != "return":
                await getattr(connection, end)()
        async with engine.connect() as connection:
            is_same, is_open = await driver_of(connection) is driver, driver.in_transaction
            names = (await connection.scalars(sa.select(Author.name))).all()

    assert (is_same, is_open, names) == (True, False, ["Ada"] if end == "commit" else [])


async def test_concurrent_immediate_transactions_never_fail(database: Path) -> None:
    """40 tasks read and then write: with BEGIN IMMEDIATE they queue; DEFERRED ones would mostly fail."""
    async with library(f"{url_of(database)}?isolation_level=IMMEDIATE&pragma_journal_mode=wal") as engine:
        async with engine.begin() as connection:
            await connection.execute(sa.insert(Author).values(id=1, name="0"))

        async def add_one() -> None:
            snapshots = engine.execution_options(isolation_level="SNAPSHOT")
            async with snapshots.begin() as connection:
                name = await connection.scalar(sa.select(Author.name).where(Author.id == 1))
                await connection.execute(sa.update(Author).where(Author.id == 1).values(name=str(int(name or "") + 1)))

        await asyncio.gather(*(add_one() for _ in range(40)))
        async with engine.connect() as connection:
            assert await connection.scalar(sa.select(Author.name)) == "40"


# -- one statement, one request --------------------------------------------------------------------


async def test_result_that_fits_a_batch_takes_one_request(database: Path) -> None:
    async with library(url_of(database)) as engine, engine.connect() as connection:
        await connection.execute(sa.insert(Author), [{"name": str(number)} for number in range(200)])
        before = await requests(connection)
        rows = (await connection.execute(sa.select(Author))).all()

        assert (len(rows), await requests(connection) - before) == (200, 1)


async def test_commit_and_rollback_without_a_transaction_send_nothing(database: Path) -> None:
    async with library(url_of(database)) as engine, engine.connect() as connection:
        await connection.scalar(sa.select(Author.id))
        before = await requests(connection)
        await connection.commit()
        await connection.scalar(sa.select(Author.id))
        await connection.rollback()

        assert await requests(connection) - before == 1


async def test_objects_are_inserted_by_the_thousand(database: Path) -> None:
    """Without the implicit sentinel each object that needs its id back would take a separate statement."""
    async with library(url_of(database)) as engine, AsyncSession(engine) as session:
        before = await requests(await session.connection())
        authors = [Author(name=f"author {number}") for number in range(3000)]
        session.add_all(authors)
        await session.flush()
        sent = await requests(await session.connection()) - before

        assert sent <= 5
        assert [author.id for author in authors] == list(range(1, 3001))
        assert all(author.name == f"author {author.id - 1}" for author in authors)


async def test_ids_that_do_not_ascend_are_refused(database: Path) -> None:
    """Beyond the largest row id SQLite picks ids at random, and objects could get each other's ids."""
    async with library(url_of(database)) as engine:
        async with engine.begin() as connection:
            await connection.execute(sa.insert(Author).values(id=(1 << 63) - 1, name="last"))
        async with AsyncSession(engine) as session:
            session.add_all([Author(name=f"author {number}") for number in range(50)])
            with pytest.raises(sa.exc.InvalidRequestError, match="ascending"):
                await session.flush()
            await session.rollback()

            assert (await session.scalars(sa.select(Author.name))).all() == ["last"]


async def test_stream_is_one_running_statement(database: Path) -> None:
    """Memory stays bounded: rows are read as they are wanted, not all at first."""
    async with library(url_of(database)) as engine, AsyncSession(engine) as session:
        await session.execute(sa.insert(Author), [{"name": str(number)} for number in range(5000)])
        result = await session.stream_scalars(sa.select(Author.id).order_by(Author.id).execution_options(yield_per=10))
        first = [await anext(aiter(result)) for _ in range(3)]
        driver = await driver_of(await session.connection())
        running = (await driver.statistics())["open_statements"]
        rest = [number async for number in result]

        assert (first, running, len(rest)) == ([1, 2, 3], 1, 4997)
        assert (await driver.statistics())["open_statements"] == 0


# -- values ----------------------------------------------------------------------------------------

KINDS = sa.Table(
    "kinds",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("blob", sa.LargeBinary),
    sa.Column("json", sa.JSON),
    sa.Column("moment", sa.DateTime),
    sa.Column("day", sa.Date),
    sa.Column("time", sa.Time),
    sa.Column("uuid", sa.Uuid),
    sa.Column("price", sa.Numeric(10, 2, asdecimal=False)),
    sa.Column("flag", sa.Boolean),
    sa.Column("span", sa.Interval),
)


async def test_values_are_read_back_unchanged() -> None:
    values = {
        "id": 1,
        "blob": b"\0\xff" * 1000,
        "json": {"a": [1, None, "é"]},
        "moment": dt.datetime(2024, 2, 29, 23, 59, 59, 123456),  # noqa: DTZ001 - SQLite has no time zones
        "day": dt.date(1, 1, 1),
        "time": dt.time(1, 2, 3, 4),
        "uuid": uuid.UUID(int=1 << 127),
        "price": 1.25,
        "flag": True,
        "span": dt.timedelta(days=3, microseconds=1),
    }
    async with engine_on("sqlite+rapsqlite://") as engine, engine.begin() as connection:
        await connection.run_sync(KINDS.metadata.create_all)
        returned = (await connection.execute(sa.insert(KINDS).values(values).returning(KINDS))).one()
        selected = (await connection.execute(sa.select(KINDS))).one()

        assert returned._asdict() == selected._asdict() == values


async def test_regexp_operator_uses_pythons_re() -> None:
    """SQLite has the operator, but no function for it. SQLAlchemy's other dialects for SQLite add the same."""
    async with engine_on("sqlite+rapsqlite://") as engine, engine.connect() as connection:
        asked = [sa.literal(text).regexp_match(r"^\d{3}(?!\d)") for text in ("123x", "1234", None)]

        assert tuple((await connection.execute(sa.select(*asked))).one()) == (1, 0, None)


@pytest.mark.parametrize("module", ["fts3", "fts4", "fts5"])
async def test_match_operator_searches_full_text(module: str) -> None:
    """SQLAlchemy's own tests of it need FTS3."""
    note = sa.table("note", sa.column("title"), sa.column("body"))
    async with engine_on("sqlite+rapsqlite://") as engine, engine.connect() as connection:
        await connection.execute(sa.text(f"CREATE VIRTUAL TABLE note USING {module}(title, body)"))
        rows = [{"title": "a", "body": "red fish"}, {"title": "b", "body": "blue fish"}, {"title": "c", "body": "bird"}]
        await connection.execute(sa.insert(note), rows)
        search = sa.select(note.c.title).where(sa.or_(note.c.body.match("blue"), note.c.title.match("c")))
        both = sa.select(note.c.title).where(note.c.body.match("fish")).order_by(note.c.title)

        assert (await connection.scalars(both)).all() == ["a", "b"]
        assert (await connection.scalars(both.where(note.c.title == "b"))).all() == ["b"]
        assert sorted((await connection.scalars(search)).all()) == ["b", "c"]


@pytest.mark.filterwarnings("always::RuntimeWarning")
async def test_statement_outside_of_sqlalchemys_greenlet_raises_without_a_warning(
    database: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """A lazy load in the wrong place is a common mistake. A coroutine that was never awaited would distract from it."""
    async with library(url_of(database)) as engine:
        async with AsyncSession(engine) as session:
            author = Author(name="a", books=[Book(title="b")])
            session.add(author)
            await session.flush()
            session.expire(author)

            with pytest.raises(sa.exc.MissingGreenlet):
                _ = author.books
        with engine.sync_engine.connect() as connection, pytest.raises(sa.exc.MissingGreenlet):
            connection.execute(sa.text("SELECT 1"))
        gc.collect()

    assert [str(warning.message) for warning in recwarn] == []


async def test_errors_carry_the_original_exception(database: Path) -> None:
    async with library(url_of(database)) as engine, engine.connect() as connection:
        await connection.execute(sa.insert(Author).values(name="Ada"))
        with pytest.raises(sa.exc.IntegrityError) as caught:
            await connection.execute(sa.insert(Author).values(name="Ada"))
        with pytest.raises(sa.exc.OperationalError, match="no such table"):
            await connection.execute(sa.text("SELECT * FROM missing"))

        assert isinstance(caught.value.orig, rapsqlite.IntegrityError)
        assert caught.value.orig.sqlite_errorname == "SQLITE_CONSTRAINT_UNIQUE"


async def test_relations_load_and_reflect(database: Path) -> None:
    """By the loaders and the inspection that SQLAlchemy has for SQLite."""
    async with library(url_of(database)) as engine:
        async with AsyncSession(engine) as session, session.begin():
            session.add(Author(name="Ada", books=[Book(title="Notes"), Book(title="Letters")]))
        async with AsyncSession(engine) as session:
            author = (await session.scalars(sa.select(Author).options(selectinload(Author.books)))).one()
        metadata = sa.MetaData()
        async with engine.connect() as connection:
            await connection.run_sync(metadata.reflect)

        assert [book.title for book in author.books] == ["Notes", "Letters"]
        assert {name: table.columns.keys() for name, table in metadata.tables.items()} == {
            "author": ["id", "name"],
            "book": ["id", "title", "author_id"],
        }


# -- URLs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url, kind",
    [
        ("sqlite+rapsqlite://", MemoryPool),
        ("sqlite+rapsqlite:///:memory:", MemoryPool),
        ("sqlite+rapsqlite:///file:x?mode=memory&uri=true", MemoryPool),
        ("sqlite+rapsqlite:///file:x?mode=memory&cache=shared&uri=true", FilePool),
        ("sqlite+rapsqlite:///file::memory:?cache=shared&uri=true", FilePool),
        ("sqlite+rapsqlite:///a.db", FilePool),
    ],
)
def test_pool_class_depends_on_the_kind_of_database(url: str, kind: type[Any]) -> None:
    assert type(create_async_engine(url).sync_engine.pool) is kind


def test_url_accepts_the_options_of_connect(tmp_path: Path) -> None:
    url = sa.make_url(
        f"sqlite+rapsqlite:///{tmp_path}/a.db?timeout=1.5&isolation_level=IMMEDIATE&read_only=yes&cached_statements=7"
        "&strict_strings=1&autocommit=legacy&pragma_foreign_keys=on&limit_max_rows=9&limit_statement_seconds=0.5"
    )

    assert RapsqliteDialect().create_connect_args(url) == (
        [f"{tmp_path}/a.db"],
        {
            "timeout": 1.5,
            "isolation_level": "IMMEDIATE",
            "read_only": True,
            "cached_statements": 7,
            "strict_strings": True,
            "autocommit": -1,
            "pragmas": {"foreign_keys": "on"},
            "limits": {"max_rows": 9, "statement_seconds": 0.5},
        },
    )


def test_every_option_of_connect_is_a_url_option_or_takes_an_object() -> None:
    objects = {"row_factory", "text_factory", "init_hook", "loop", "factory"}
    options = {name for name in inspect.signature(rapsqlite.connect).parameters if name != "database"}

    assert options == _OPTIONS.keys() | set(_GROUPS.values()) | objects


@pytest.mark.parametrize(
    "url, reason",
    [
        ("sqlite+rapsqlite://host/a.db", "sqlite\\+rapsqlite:///relative"),
        ("sqlite+rapsqlite:///a.db?time_out=1", "unknown options time_out"),
        ("sqlite+rapsqlite:///a.db?timeout=soon", "timeout='soon'"),
        ("sqlite+rapsqlite:///a.db?timeout=1&timeout=2", "more than once"),
        ("sqlite+rapsqlite:///a.db?mode=ro", "uri=true"),
    ],
)
def test_url_with_invalid_options_is_refused(url: str, reason: str) -> None:
    with pytest.raises(sa.exc.ArgumentError, match=reason):
        RapsqliteDialect().create_connect_args(sa.make_url(url))


async def test_uri_and_connect_args_reach_the_driver(database: Path) -> None:
    async with (
        engine_on(f"sqlite+rapsqlite:///file:{database}?mode=rwc&uri=true", connect_args={"timeout": 0.25}) as engine,
        engine.connect() as connection,
    ):
        await connection.execute(sa.text("CREATE TABLE t (a)"))
        driver = await driver_of(connection)

        assert (driver.path, driver.timeout) == (f"file:{database}?mode=rwc", 0.25)


async def test_engine_has_one_in_memory_database() -> None:
    """Tasks that connect at the same time must not open a database each."""
    async with engine_on("sqlite+rapsqlite://") as first, engine_on("sqlite+rapsqlite://") as second:

        async def driver(engine: AsyncEngine) -> rapsqlite.Connection:
            async with engine.connect() as connection:
                return await driver_of(connection)

        drivers = await asyncio.gather(*(driver(engine) for engine in [first] * 10 + [second] * 10))

        assert [len(set(drivers[:10])), len(set(drivers[10:])), len(set(drivers))] == [1, 1, 2]


async def test_shared_memory_has_a_connection_per_task() -> None:
    url = "sqlite+rapsqlite:///file:shared_by_tasks?mode=memory&cache=shared&uri=true"
    async with library(url) as engine, engine.connect() as first, engine.connect() as second:
        await first.execute(sa.insert(Author).values(name="Ada"))
        await first.commit()

        assert await driver_of(first) is not await driver_of(second)
        assert await second.scalar(sa.select(Author.name)) == "Ada"


# -- cancellation, loss, ends ----------------------------------------------------------------------

ENDLESS = sa.text("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n")


async def is_running_endlessly(driver: rapsqlite.Connection) -> bool:
    """Return True if a request stays unanswered for a few iterations of the loop."""
    queue = driver._state.guest._queue
    for _ in range(50):
        if not queue._pending:
            return False
        await asyncio.sleep(0)
    return True


async def started(request: Coroutine[Any, Any, None], drivers: list[rapsqlite.Connection]) -> asyncio.Task[None]:
    """Start a request and wait until its endless statement runs on the connection that it adds to ``drivers``."""
    task = asyncio.create_task(request)
    # Nothing signals that the guest is at work.
    while not drivers or not await is_running_endlessly(drivers[0]):  # noqa: ASYNC110
        await asyncio.sleep(0)
    return task


async def insert_and_never_end(engine: AsyncEngine, drivers: list[rapsqlite.Connection]) -> None:
    """Begin a transaction, insert a row, and run an endless statement."""
    async with engine.begin() as connection:
        drivers.append(await driver_of(connection))
        await connection.execute(sa.insert(Author).values(name="lost"))
        await connection.execute(ENDLESS)


@pytest.mark.parametrize("where", ["file", "memory"])
async def test_cancelled_request_leaves_its_connection_in_the_pool(where: str, database: Path) -> None:
    """SQLAlchemy drops the connection of a cancelled task, and an in-memory database with it."""
    async with library(url_of(database) if where == "file" else "sqlite+rapsqlite://") as engine:
        drivers: list[rapsqlite.Connection] = []
        task = await started(insert_and_never_end(engine, drivers), drivers)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with engine.connect() as connection:
            drivers.append(await driver_of(connection))
            names = (await connection.scalars(sa.select(Author.name))).all()

        assert drivers[0] is drivers[1]
        assert names == []


@pytest.mark.parametrize("turns", range(8))
async def test_second_cancellation_loses_no_connection(turns: int, database: Path) -> None:
    """It comes while the first one is handled: in the rollback, or while the connection goes back to its pool."""
    async with library(url_of(database), pool_size=1, max_overflow=0, pool_timeout=5) as engine:
        drivers: list[rapsqlite.Connection] = []
        task = await started(insert_and_never_end(engine, drivers), drivers)
        task.cancel()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with engine.connect() as connection:
            assert (await connection.scalars(sa.select(Author.name))).all() == []
            assert await driver_of(connection) is drivers[0]


async def test_request_whose_coroutine_is_closed_closes_its_connection(database: Path) -> None:
    """The coroutine of a task that is destroyed gets a GeneratorExit, after which nothing can wait."""
    async with library(url_of(database)) as engine:
        drivers: list[rapsqlite.Connection] = []

        async def request() -> None:
            async with engine.connect() as connection:
                drivers.append(await driver_of(connection))
                await connection.execute(ENDLESS)

        task = await started(request(), drivers)
        coroutine: Any = task.get_coro()
        with contextlib.suppress(RuntimeError):  # SQLAlchemy's own context manager waits nevertheless
            coroutine.close()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert not drivers[0].is_alive()


async def test_lost_connection_is_replaced(database: Path) -> None:
    """SQLAlchemy learns of it by `is_disconnect`, and opens another one for the next borrower."""
    async with library(url_of(database)) as engine:
        async with engine.connect() as connection:
            lost = await driver_of(connection)
            lost._state.guest.kill()
            with pytest.raises(sa.exc.DBAPIError) as caught:
                await connection.execute(sa.select(Author))
            invalidated = connection.invalidated
        async with engine.connect() as connection:
            assert (await connection.execute(sa.select(Author))).all() == []
            assert await driver_of(connection) is not lost

        assert (caught.value.connection_invalidated, invalidated) == (True, True)


async def test_pre_ping_replaces_a_closed_connection_before_it_is_used(database: Path) -> None:
    async with library(url_of(database), pool_pre_ping=True) as engine:
        async with engine.connect() as connection:
            closed = await driver_of(connection)
        await closed.close()
        async with engine.connect() as connection:
            assert await connection.scalar(sa.select(sa.func.count()).select_from(Author)) == 0


@pytest.mark.filterwarnings("ignore:.*garbage collector is trying to clean up:sqlalchemy.exc.SAWarning")
def test_connection_is_terminated_without_a_loop(database: Path) -> None:
    """A finalizer may run when there is no event loop any more."""
    drivers = []

    async def leave_open() -> AsyncEngine:
        engine = create_async_engine(url_of(database), poolclass=NullPool)
        connection = await engine.connect()
        await connection.execute(sa.text("SELECT 1"))
        drivers.append(await driver_of(connection))
        return engine

    engine = asyncio.run(leave_open())
    gc.collect()
    del engine

    assert not drivers[0].is_alive()


def test_engine_works_in_one_loop_after_another(database: Path) -> None:
    """A connection belongs to no event loop, so a pool outlives ``asyncio.run``."""
    engine = create_async_engine(url_of(database))

    async def run(*, last: bool = False) -> Any:
        async with engine.begin() as connection:
            await connection.execute(sa.text("CREATE TABLE IF NOT EXISTS t (a)"))
            await connection.execute(sa.text("INSERT INTO t VALUES (1)"))
            count = await connection.scalar(sa.text("SELECT count(*) FROM t"))
        if last:
            await engine.dispose()
        return count

    assert [asyncio.run(run()), asyncio.run(run()), asyncio.run(run(last=True))] == [1, 2, 3]


async def test_tasks_get_connections_in_the_order_in_which_they_asked(database: Path) -> None:
    async with library(url_of(database), pool_size=1, max_overflow=0, pool_timeout=20) as engine:
        served = []

        async def request(number: int) -> None:
            async with engine.connect() as connection:
                await connection.scalar(sa.select(Author.id))
                served.append(number)

        await asyncio.gather(*(request(number) for number in range(20)))

        assert served == list(range(20))


async def test_item_handed_to_a_cancelled_task_is_kept() -> None:
    """Even if the queue has filled up meanwhile: a connection that finds no space would be lost."""
    queue = WaitQueue(maxsize=1)
    waiting = asyncio.create_task(queue._wait(None))
    await asyncio.sleep(0)
    queue.put_nowait("first")
    queue.put_nowait("second")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(Full):
        queue.put_nowait("third")

    assert [queue.get_nowait(), queue.get_nowait(), queue.empty()] == ["second", "first", True]


@pytest.mark.parametrize("gives", [None, "asyncio", "trio"])
@pytest.mark.parametrize("waits", ["asyncio", "trio"])
def test_item_given_in_another_thread_wakes_the_task_that_waits(waits: str, gives: str | None) -> None:
    """Events of asyncio and Trio may be set in their own thread only: Trio's raised, and asyncio's loop slept on."""
    queue = WaitQueue()
    items = []

    async def wait() -> None:
        items.append(await queue._wait(None))

    async def give() -> None:
        queue.put_nowait("an item")

    thread = threading.Thread(target=anyio.run, args=(wait,), kwargs={"backend": waits}, daemon=True)
    thread.start()
    while not queue._waiting:
        time.sleep(0.001)
    if gives is None:
        queue.put_nowait("an item")
    else:
        anyio.run(give, backend=gives)
    thread.join(20)

    assert items == ["an item"]


async def test_event_handlers_reach_the_connections_methods(database: Path) -> None:
    """Handlers of SQLAlchemy's "connect" event run in its greenlet and cannot await."""
    engine = create_async_engine(url_of(database))

    @sa.event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()
        connection.create_function("twice", 1, lambda value: 2 * value)
        connection.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (21)")
        connection.executemany("INSERT INTO t VALUES (?)", [(1,), (2,)])
        seen.append(connection.execute_fetchall("SELECT count(*) FROM t"))
        seen.append(connection.in_transaction)
        connection.commit()

    seen: list[Any] = []
    async with engine.connect() as connection:
        assert (await connection.execute(sa.text("SELECT twice(max(a)) FROM t"))).scalar_one() == 42
        assert (await connection.execute(sa.text("PRAGMA foreign_keys"))).scalar_one() == 1
    await engine.dispose()

    assert seen == [[(3,)], True]


async def test_wait_for_a_connection_times_out(database: Path) -> None:
    async with library(url_of(database), pool_size=1, max_overflow=0, pool_timeout=0.01) as engine:
        async with engine.connect():
            with pytest.raises(sa.exc.TimeoutError):
                await engine.connect()
        async with engine.connect() as connection:
            assert await connection.scalar(sa.select(sa.literal(1))) == 1
