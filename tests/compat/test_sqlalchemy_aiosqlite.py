"""SQLAlchemy's aiosqlite dialect, and Alembic on it, with this package as its driver: the same as with aiosqlite."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import sqlite3
from typing import TYPE_CHECKING, Any

import aiosqlite
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy.dialects.sqlite.aiosqlite import AsyncAdapt_aiosqlite_dbapi
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload

import rapsqlite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path
    from types import ModuleType


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(50), unique=True)
    born: Mapped[dt.date | None]
    portrait: Mapped[bytes] = mapped_column(sa.LargeBinary, default=b"")
    books: Mapped[list[Book]] = relationship(back_populates="author")


class Book(Base):
    __tablename__ = "book"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author_id: Mapped[int] = mapped_column(sa.ForeignKey("author.id"), index=True)
    author: Mapped[Author] = relationship(back_populates="books")


@contextlib.asynccontextmanager
async def engine_on(driver: ModuleType, url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(url, module=AsyncAdapt_aiosqlite_dbapi(driver, sqlite3))
    try:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        yield engine
    finally:
        await engine.dispose()


async def orm(engine: AsyncEngine) -> Any:
    async with AsyncSession(engine) as session:
        ada = Author(name="Ada", born=dt.date(1815, 12, 10), portrait=b"\0\xff", books=[Book(title="Notes")])
        session.add_all([ada, *(Author(name=f"author {number}") for number in range(300))])
        await session.commit()
        with contextlib.suppress(sa.exc.IntegrityError):
            async with session.begin_nested():
                session.add(Author(name="Ada"))
        session.add(Author(name="after the savepoint"))
        await session.commit()
        found = await session.scalars(sa.select(Author).options(selectinload(Author.books)).order_by(Author.id))
        return [(each.id, each.name, each.born, each.portrait, [book.title for book in each.books]) for each in found]


async def core(engine: AsyncEngine) -> Any:
    table = sa.table("author", sa.column("id"), sa.column("name"))
    async with engine.begin() as connection:
        result = await connection.execute(
            sa.insert(Author).returning(Author.id), [{"name": f"name {number}"} for number in range(50)]
        )
        ids = list(result.scalars())
    async with engine.connect() as connection:
        changed = (
            await connection.execute(sa.update(Author).where(Author.id < 10).values(name=Author.name + "!"))
        ).rowcount
        await connection.rollback()
        streamed = [row async for row in await connection.stream(sa.select(table).order_by(table.c.id))]
    return ids, changed, [tuple(row) for row in streamed]


async def reflection(engine: AsyncEngine) -> Any:
    def described(connection: sa.Connection) -> Any:
        inspector = sa.inspect(connection)
        return {
            name: (
                [(column["name"], str(column["type"]), column["nullable"]) for column in inspector.get_columns(name)],
                inspector.get_pk_constraint(name),
                inspector.get_foreign_keys(name),
                inspector.get_indexes(name),
                inspector.get_unique_constraints(name),
            )
            for name in inspector.get_table_names()
        }

    async with engine.connect() as connection:
        return await connection.run_sync(described)


async def isolation(engine: AsyncEngine) -> Any:
    """AUTOCOMMIT is set through the queue of aiosqlite's thread."""
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    async with autocommit.connect() as connection:
        await connection.execute(sa.insert(Author).values(name="kept"))
        await connection.rollback()
        level = await connection.get_isolation_level()
    async with engine.connect() as connection:
        await connection.execute(sa.insert(Author).values(name="lost"))
        await connection.rollback()
        names = (await connection.scalars(sa.select(Author.name))).all()
    return level, list(names)


async def errors(engine: AsyncEngine) -> Any:
    raised = []
    for statement in ("SELECT * FROM missing", "INSERT INTO author (id, name) VALUES (1, NULL)", "nonsense"):
        async with engine.connect() as connection:
            try:
                await connection.execute(sa.text(statement))
            except sa.exc.DBAPIError as error:
                raised.append((type(error).__name__, str(error.orig), isinstance(error.orig, sqlite3.Error)))
    return raised


def revise(connection: sa.Connection) -> Any:
    """Two revisions as Alembic generates them for SQLite, then the remaining differences that autogeneration finds."""
    context = MigrationContext.configure(connection, opts={"render_as_batch": True})
    operations = Operations(context)
    operations.create_table("note", sa.Column("id", sa.Integer, primary_key=True), sa.Column("body", sa.Text))
    operations.bulk_insert(sa.table("note", sa.column("body")), [{"body": "one"}, {"body": "two"}])
    with operations.batch_alter_table("note") as batch:
        batch.add_column(sa.Column("seen", sa.Boolean, server_default=sa.false(), nullable=False))
        batch.alter_column("body", new_column_name="text", existing_type=sa.Text, nullable=False)
        batch.create_unique_constraint("uq_text", ["text"])
    differences = compare_metadata(context, Base.metadata)
    return [each[0] for each in differences], list(map(tuple, connection.execute(sa.text("SELECT * FROM note"))))


async def migration(engine: AsyncEngine) -> Any:
    async with engine.begin() as connection:
        done = await connection.run_sync(revise)
    return done, await reflection(engine)


async def concurrency(engine: AsyncEngine) -> Any:
    async def write(number: int) -> None:
        async with engine.begin() as connection:
            await connection.execute(sa.insert(Author).values(name=f"task {number}"))

    await asyncio.gather(*(write(number) for number in range(20)))
    async with engine.connect() as connection:
        return await connection.scalar(sa.select(sa.func.count()).select_from(Author))


ON_ONE_CONNECTION = [orm, core, reflection, isolation, errors, migration]
CASES = [(scenario, where) for scenario in ON_ONE_CONNECTION for where in ("file", "memory")]


@pytest.mark.parametrize(
    "scenario, where",
    [pytest.param(*case, id=f"{case[0].__name__}-{case[1]}") for case in [*CASES, (concurrency, "file")]],
)
def test_only_the_driver_differs(scenario: Callable[[AsyncEngine], Awaitable[Any]], where: str, tmp_path: Path) -> None:
    """The same program has the same outcome with aiosqlite and with this package."""
    outcomes = []

    async def run(driver: ModuleType, url: str) -> None:
        async with engine_on(driver, url) as engine:
            outcomes.append(await scenario(engine))

    for driver in (aiosqlite, rapsqlite):
        path = f"/{tmp_path / driver.__name__}.db" if where == "file" else ""
        asyncio.run(run(driver, f"sqlite+aiosqlite://{path}"))

    theirs, ours = outcomes
    assert ours == theirs
    assert ours
