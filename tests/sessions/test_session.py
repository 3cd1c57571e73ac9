"""Sessions and changesets: recording, applying, conflicts, bad bytes, bounded memory."""

from __future__ import annotations

from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from rapsqlite import NO_CHANGE, Conflict

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMA = """CREATE TABLE t (id INTEGER PRIMARY KEY, a, b);
    CREATE TABLE u (k TEXT, n, v, PRIMARY KEY (k, n)) WITHOUT ROWID;
    INSERT INTO t VALUES (1, 'one', x'01'), (2, 'two', NULL), (3, 'three', 3.5);
    INSERT INTO u VALUES ('x', 1, 'old');"""
CHANGES = """INSERT INTO t VALUES (4, 'four', NULL); UPDATE t SET a = 'TWO' WHERE id = 2; DELETE FROM t WHERE id = 3;
    UPDATE u SET v = 'new'; INSERT INTO u VALUES ('x', 2, 'more');"""
ROWS = "SELECT * FROM t ORDER BY id"


def made(script: str = SCHEMA) -> rapsqlite.Connection:
    """Return an unopened connection to a database that the script creates."""
    return rapsqlite.connect(":memory:", isolation_level=None, init_hook=lambda conn: conn.executescript(script))


async def contents(conn: rapsqlite.Connection) -> list[object]:
    return [await conn.fetch_all(ROWS), await conn.fetch_all("SELECT * FROM u ORDER BY k, n")]


async def recorded(conn: rapsqlite.Connection, changes: str, *tables: str) -> bytes:
    async with conn.session(*tables) as session:
        await conn.executescript(changes)
        return await session.changeset()


def held(conn: rapsqlite.Connection) -> int:
    return len(conn._state.guest.callbacks)


async def test_changeset_makes_the_same_changes_in_another_database() -> None:
    async with made() as conn, made() as other:
        changeset = await recorded(conn, CHANGES)

        await other.apply_changeset(changeset)

        assert await contents(other) == await contents(conn)
        assert not other.in_transaction
        assert held(conn) == held(other) == 0


@pytest.mark.parametrize("stays_prepared", [True, False])
async def test_statement_prepared_before_the_session_is_recorded(stays_prepared: bool) -> None:
    """Without a session SQLite compiles a DELETE of all rows so that it visits none of them."""
    async with made() as conn, made() as other:
        statement = conn.prepare("DELETE FROM t") if stays_prepared else None

        async def delete() -> None:
            await (conn.execute("DELETE FROM t") if statement is None else statement.execute())

        async with conn.transaction():
            await delete()
            await conn.execute("INSERT INTO t VALUES (1, 'one', x'01'), (2, 'two', NULL), (3, 'three', 3.5)")
        async with conn.session("t") as session:
            await delete()
            changeset = await session.changeset()
        await other.apply_changeset(changeset)

        assert await other.fetch_all(ROWS) == []
        if statement is not None:
            await statement.close()


async def test_inverted_changeset_undoes_it() -> None:
    async with made() as conn:
        before = await contents(conn)
        changeset = await recorded(conn, CHANGES)

        await conn.apply_changeset(await conn.invert_changeset(changeset))

        assert await contents(conn) == before
        await conn.apply_changeset(changeset)
        await conn.apply_changeset(changeset, invert=True)
        assert await contents(conn) == before


async def test_patchset_is_smaller_and_applies_too() -> None:
    async with made() as conn, made() as other, conn.session() as session:
        await conn.executescript(CHANGES)
        patchset = await session.patchset()

        assert len(patchset) < len(await session.changeset())
        await other.apply_changeset(patchset)

        assert await contents(other) == await contents(conn)
        with pytest.raises(rapsqlite.DatabaseError) as caught:
            await conn.invert_changeset(patchset)
        assert caught.value.sqlite_errorname == "SQLITE_CORRUPT"


async def test_combined_changesets_have_the_effect_of_both() -> None:
    async with made() as conn, made() as other:
        first = await recorded(conn, "INSERT INTO t VALUES (9, 'a', 1)")
        second = await recorded(conn, "UPDATE t SET a = 'b' WHERE id = 9; DELETE FROM t WHERE id = 1")

        combined = await conn.combine_changesets(first, second)

        await other.apply_changeset(combined)
        assert await contents(other) == await contents(conn)
        assert await conn.combine_changesets() == b""
        async with conn.session() as session:
            await conn.execute("DELETE FROM t")
            with pytest.raises(rapsqlite.OperationalError):
                await conn.combine_changesets(first, await session.patchset())


async def test_only_changes_of_attached_tables_are_recorded_and_only_while_enabled() -> None:
    async with made() as conn, conn.session("u") as session:
        assert await session.is_empty()
        await conn.execute("DELETE FROM t WHERE id = 1")
        assert await session.is_empty()
        assert await session.changeset() == b""
        await session.attach("t")
        assert await session.enable(False) is False
        await conn.execute("DELETE FROM t WHERE id = 2")
        assert await session.is_empty()
        assert await session.enable() is False
        assert await session.enable(True) is True
        await conn.execute("DELETE FROM t WHERE id = 3")

        assert not await session.is_empty()
        assert await session.memory_used() > 0
        async with made() as other:
            await other.apply_changeset(await session.changeset())
            assert [row[0] for row in await other.fetch_all(ROWS)] == [1, 2]


async def test_rolled_back_changes_are_not_recorded() -> None:
    async with made() as conn, conn.session() as session:
        await conn.executescript("BEGIN; DELETE FROM t; ROLLBACK")

        assert await session.changeset() == b""


async def test_difference_of_two_tables_turns_one_into_the_other() -> None:
    async with made() as conn:
        await conn.executescript("""ATTACH ':memory:' AS old; CREATE TABLE old.t (id INTEGER PRIMARY KEY, a, b);
            INSERT INTO old.t VALUES (1, 'one', x'01'), (2, 'other', NULL), (7, 'gone', NULL)""")
        async with conn.session("u") as session:
            await session.diff("old", "t")
            changeset = await session.changeset()
        async with made("CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)") as other:
            await other.executemany("INSERT INTO t VALUES (?, ?, ?)", await conn.fetch_all("SELECT * FROM old.t"))
            await other.apply_changeset(changeset)
            assert await other.fetch_all(ROWS) == await conn.fetch_all(ROWS)
        async with conn.session() as session:
            with pytest.raises(rapsqlite.OperationalError):
                await session.diff("nowhere", "t")
            with pytest.raises(rapsqlite.OperationalError):
                await session.diff("old", "u")


async def conflicts_of(conn: rapsqlite.Connection, changeset: bytes, answer: int) -> list[Conflict]:
    seen: list[Conflict] = []

    def note(conflict: Conflict) -> int:
        seen.append(conflict)
        return answer

    await conn.apply_changeset(changeset, conflict=note)
    return seen


CASES: dict[str, tuple[str, str, Conflict]] = {
    "other values": (
        "UPDATE t SET a = 'new' WHERE id = 1", "UPDATE t SET a = 'mine' WHERE id = 1",
        Conflict(rapsqlite.SQLITE_CHANGESET_DATA, rapsqlite.SQLITE_UPDATE, "t", False, [1, "one", NO_CHANGE],
                 [NO_CHANGE, "new", NO_CHANGE], [1, "mine", b"\x01"], 0),
    ),
    "gone": (
        "DELETE FROM t WHERE id = 3", "DELETE FROM t WHERE id = 3",
        Conflict(rapsqlite.SQLITE_CHANGESET_NOTFOUND, rapsqlite.SQLITE_DELETE, "t", False, [3, "three", 3.5], None,
                 None, 0),
    ),
    "same key": (
        "INSERT INTO t VALUES (5, 'theirs', NULL)", "INSERT INTO t VALUES (5, 'mine', 1)",
        Conflict(rapsqlite.SQLITE_CHANGESET_CONFLICT, rapsqlite.SQLITE_INSERT, "t", False, None, [5, "theirs", None],
                 [5, "mine", 1], 0),
    ),
    "constraint": (
        "INSERT INTO t VALUES (6, 'theirs', NULL)",
        "CREATE UNIQUE INDEX i ON t (a); INSERT INTO t VALUES (8, 'theirs', 1)",
        Conflict(rapsqlite.SQLITE_CHANGESET_CONSTRAINT, rapsqlite.SQLITE_INSERT, "t", False, None, [6, "theirs", None],
                 None, 0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CASES))
async def test_conflict_is_described_and_omitted_if_the_handler_says_so(name: str) -> None:
    theirs, mine, expected = CASES[name]
    async with made() as conn, made() as other:
        changeset = await recorded(conn, f"{theirs}; INSERT INTO t VALUES (99, 'fits', 0)")
        await other.executescript(mine)
        before = await other.fetch_all(ROWS)

        assert await conflicts_of(other, changeset, rapsqlite.SQLITE_CHANGESET_OMIT) == [expected]

        assert await other.fetch_all(ROWS) == [*before, [99, "fits", 0]]


@pytest.mark.parametrize("name", sorted(CASES))
async def test_conflict_aborts_without_a_handler_or_if_it_says_so(name: str) -> None:
    theirs, mine, _ = CASES[name]
    async with made() as conn, made() as other:
        changeset = await recorded(conn, f"INSERT INTO t VALUES (98, 'fits', 0); {theirs}")
        await other.executescript(mine)
        before = await contents(other)

        with pytest.raises(rapsqlite.OperationalError, match=r"conflicts at an .* of t") as caught:
            await other.apply_changeset(changeset)
        with pytest.raises(rapsqlite.OperationalError, match="nothing was applied"):
            await other.apply_changeset(changeset, conflict=lambda _: rapsqlite.SQLITE_CHANGESET_ABORT)

        assert caught.value.sqlite_errorname == "SQLITE_ABORT"
        assert await contents(other) == before
        assert not other.in_transaction


async def test_replace_overwrites_the_conflicting_row() -> None:
    async with made() as conn, made() as other:
        changeset = await recorded(conn, CASES["other values"][0] + ";" + CASES["same key"][0])
        await other.executescript(CASES["other values"][1] + ";" + CASES["same key"][1])

        assert len(await conflicts_of(other, changeset, rapsqlite.SQLITE_CHANGESET_REPLACE)) == 2

        assert await other.fetch_all(ROWS) == await conn.fetch_all(ROWS)


async def test_violated_foreign_keys_are_a_separate_kind_of_conflict() -> None:
    schema = """PRAGMA foreign_keys = ON; CREATE TABLE p (id INTEGER PRIMARY KEY);
        CREATE TABLE c (id INTEGER PRIMARY KEY, p REFERENCES p); INSERT INTO p VALUES (1)"""
    async with made(schema) as conn, made(schema) as other:
        changeset = await recorded(conn, "INSERT INTO c VALUES (1, 1)")
        await other.execute("DELETE FROM p")

        with pytest.raises(rapsqlite.IntegrityError, match="foreign keys"):
            await other.apply_changeset(changeset)
        assert await other.fetch_all("SELECT * FROM c") == []

        (seen,) = await conflicts_of(other, changeset, rapsqlite.SQLITE_CHANGESET_OMIT)
        assert seen == Conflict(rapsqlite.SQLITE_CHANGESET_FOREIGN_KEY, 0, None, False, None, None, None, 1)
        assert await other.fetch_all("SELECT * FROM c") == [[1, 1]]


async def test_filter_selects_tables() -> None:
    async with made() as conn, made() as other:
        changeset = await recorded(conn, CHANGES)
        asked: list[str] = []

        def choose(table: str) -> bool:
            asked.append(table)
            return table == "u"

        await other.apply_changeset(changeset, filter=choose)

        assert sorted(asked) == ["t", "u"]
        assert (await contents(other))[1] == (await contents(conn))[1]
        assert (await contents(other))[0] != (await contents(conn))[0]


def raising(*_: object) -> int:
    raise ZeroDivisionError("on purpose")


@pytest.mark.parametrize(
    "options, error",
    [
        ({"filter": raising}, ZeroDivisionError),
        ({"conflict": raising}, ZeroDivisionError),
        ({"conflict": lambda _: 7}, ValueError),
        ({"conflict": lambda _: None}, TypeError),
        ({"conflict": lambda _: rapsqlite.SQLITE_CHANGESET_REPLACE}, ValueError),
    ],
    ids=["filter", "conflict", "unknown answer", "no answer", "impossible answer"],
)
async def test_exception_in_a_handler_undoes_everything_and_is_the_cause(
    options: dict[str, Callable[..., int]], error: type[Exception]
) -> None:
    async with made() as conn, made() as other:
        changeset = await recorded(conn, "INSERT INTO t VALUES (50, 1, 1); DELETE FROM t WHERE id = 3")
        await other.execute("DELETE FROM t WHERE id = 3")
        before = await contents(other)

        with pytest.raises(rapsqlite.OperationalError, match="raised exception") as caught:
            await other.apply_changeset(changeset, **options)  # type: ignore[arg-type]

        assert isinstance(caught.value.__cause__, error)
        assert await contents(other) == before
        assert held(other) == 0


async def test_changeset_within_a_transaction_is_part_of_it() -> None:
    async with made() as conn, made() as other:
        changeset = await recorded(conn, CHANGES)
        before = await contents(other)
        async with other.transaction():
            await other.execute("INSERT INTO t VALUES (70, 1, 1)")
            await other.apply_changeset(changeset)
            with pytest.raises(rapsqlite.OperationalError):
                await other.apply_changeset(changeset)
            assert await other.fetch_scalar("SELECT count(*) FROM t") == 4
            assert other.in_transaction
            await other.rollback()
        assert await contents(other) == before


@pytest.mark.parametrize("damage", ["cut", "garbage", "flipped", "zeros"])
async def test_bytes_that_are_not_a_changeset_are_refused(damage: str) -> None:
    async with made() as conn, made() as other:
        good = await recorded(conn, CHANGES)
        bad = {"cut": good[:-3], "garbage": b"no changeset", "flipped": b"\xff" + good[1:], "zeros": bytes(100)}[damage]
        before = await contents(other)

        for action in (other.apply_changeset, other.invert_changeset, other.combine_changesets):
            with pytest.raises(rapsqlite.DatabaseError) as caught:
                await action(bad)
            assert caught.value.sqlite_errorname == "SQLITE_CORRUPT"

        assert await contents(other) == before
        await other.apply_changeset(good)


async def test_missing_or_different_tables_are_skipped() -> None:
    async with made() as conn, made("CREATE TABLE t (id INTEGER PRIMARY KEY)") as other:
        await other.apply_changeset(await recorded(conn, CHANGES))

        assert await other.fetch_all(ROWS) == []


async def test_closed_session_and_bad_arguments_are_refused() -> None:
    async with made() as conn:
        session = await conn.session()
        await session.close()
        await session.close()
        for method in (session.changeset, session.patchset, session.is_empty, session.attach, session.enable):
            with pytest.raises(rapsqlite.ProgrammingError, match="closed session"):
                await method()
        with pytest.raises(rapsqlite.OperationalError, match="unknown database"):
            await conn.session(name="nowhere")
        with pytest.raises(rapsqlite.ProgrammingError, match="null character"):
            await conn.session("a\0b")
        with pytest.raises(TypeError):
            await conn.apply_changeset(b"", conflict=1)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            await conn.apply_changeset("text")  # type: ignore[arg-type]
        left_open = await conn.session()
    with pytest.raises(rapsqlite.ProgrammingError):
        await left_open.changeset()
    with pytest.raises(rapsqlite.ProgrammingError):
        await conn.session()


@pytest.mark.parametrize("name", [5, b"t", None])
async def test_names_that_are_not_texts_are_refused(name: Any) -> None:
    """They must not count as none: that would record every table."""
    async with made() as conn:
        with pytest.raises(TypeError, match="table must be str"):
            await conn.session("t", name)
        with pytest.raises(TypeError, match="name must be str"):
            await conn.session(name=name)
        async with conn.session("t") as session:
            for arguments in (("main", name), (name, "t")):
                with pytest.raises(TypeError, match="must be str"):
                    await session.diff(*arguments)
            if name is not None:
                with pytest.raises(TypeError, match="table must be str"):
                    await session.attach(name)


async def test_temporary_tables_are_recorded_from_the_first_one_on() -> None:
    """Before it, SQLite has no database "temp"."""
    async with rapsqlite.connect(":memory:", isolation_level=None) as conn:
        async with conn.session(name="Temp") as session:
            await conn.execute("CREATE TEMP TABLE t (a PRIMARY KEY)")
            await conn.execute("INSERT INTO t VALUES (1)")
            changeset = await session.changeset()
        await conn.executescript("DROP TABLE t; CREATE TABLE t (a PRIMARY KEY)")

        await conn.apply_changeset(changeset)

        assert await conn.fetch_all("SELECT * FROM t") == [[1]]


async def test_session_and_preupdate_hook_exclude_each_other() -> None:
    """SQLite has one slot for both and would take the one for the other."""
    async with made() as conn:
        async with conn.session(), conn.session():
            with pytest.raises(rapsqlite.ProgrammingError, match="session"):
                await conn.set_preupdate_hook(lambda *_: None)
            await conn.set_preupdate_hook(None)
            await conn.execute("DELETE FROM t WHERE id = 1")
        await conn.set_preupdate_hook(lambda *_: None)
        with pytest.raises(rapsqlite.ProgrammingError, match="preupdate hook"):
            await conn.session()
        await conn.execute("DELETE FROM t WHERE id = 2")
        await conn.set_preupdate_hook(None)
        assert await recorded(conn, "DELETE FROM t WHERE id = 3")


async def test_indirect_changes_are_marked() -> None:
    async with made() as conn, made() as other, conn.session() as session:
        assert await session.indirect() is False
        assert await session.indirect(True) is True
        await conn.execute("DELETE FROM t WHERE id = 3")
        await other.execute("DELETE FROM t WHERE id = 3")

        (seen,) = await conflicts_of(other, await session.changeset(), rapsqlite.SQLITE_CHANGESET_OMIT)

        assert seen.indirect is True


async def test_large_changeset_is_streamed() -> None:
    """Neither guest ever holds it as a whole: 40 MB pass through memories that grow by less than half of that."""
    schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)"
    async with made(schema) as conn, made(schema) as other, conn.session() as session:
        await conn.execute(
            "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 40) "
            "INSERT INTO t SELECT i, zeroblob(1000000), i FROM n"
        )
        before = (await conn.statistics())["memory_bytes"]

        changeset = await session.changeset()

        assert len(changeset) > 40_000_000
        assert (await conn.statistics())["memory_bytes"] - before < 20_000_000
        await other.execute("CREATE TABLE copied (id INTEGER PRIMARY KEY, size)")
        await other.execute(
            "CREATE TRIGGER g AFTER INSERT ON t BEGIN INSERT INTO copied VALUES (new.id, length(new.a)); "
            "DELETE FROM t WHERE id = new.id; END"
        )
        await other.apply_changeset(changeset, conflict=lambda _: rapsqlite.SQLITE_CHANGESET_OMIT)
        assert await other.fetch_scalar("SELECT sum(size) FROM copied") == 40_000_000
        assert (await other.statistics())["memory_bytes"] < 30_000_000


async def test_interrupted_apply_changes_nothing() -> None:
    async with made() as conn, made() as other:
        changeset = await recorded(conn, "DELETE FROM t WHERE id = 3; DELETE FROM t WHERE id = 1; DELETE FROM t")
        await other.execute("DELETE FROM t WHERE id = 3")
        before = await contents(other)

        def interrupt(_: Conflict) -> int:
            other._state.guest.interrupt()
            return rapsqlite.SQLITE_CHANGESET_OMIT

        with pytest.raises(rapsqlite.OperationalError) as caught:
            await other.apply_changeset(changeset, conflict=interrupt)

        assert caught.value.sqlite_errorname == "SQLITE_INTERRUPT"
        assert await contents(other) == before


@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
async def test_changeset_is_applied_or_interrupted_never_both(for_good: bool) -> None:
    """It was reported as interrupted after it was committed, or left a transaction open."""
    async with made("CREATE TABLE t (id INTEGER PRIMARY KEY)") as conn:
        changeset = await recorded(conn, "INSERT INTO t VALUES (1)")
    is_applied, allowed = False, 0
    while not is_applied:
        async with made("CREATE TABLE t (id INTEGER PRIMARY KEY)") as conn:
            answers = chain(repeat(False, allowed), [True], repeat(for_good))
            await conn.set_progress_handler(answers.__next__, 1)
            try:
                await conn.apply_changeset(changeset)
                is_applied = True
            except rapsqlite.OperationalError:
                allowed += 1
            await conn.set_progress_handler(None, 1)

            assert await conn.fetch_scalar("SELECT count(*) FROM t") == is_applied
            assert not conn.in_transaction
    assert allowed > 10
