"""Deferred calls: their results, their exceptions, and other callbacks in between. All are as if the calls were made
immediately.
"""

from __future__ import annotations

import array
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import anyio
import pytest

import rapsqlite
from tests.callbacks.deferring import ROWS, SCAN, Log, both, crossings, keep_calls_single, logged, opened, outcome
from tests.callbacks.lingering import Endless, impatient_once, started

if TYPE_CHECKING:
    from collections.abc import Callable

FAR = 200 * 7 % 211  # `v` of row 200


class Number(int):
    """An int whose overrides claim another value."""

    def __int__(self) -> int:
        return -1


class Text(str):
    """A str with misleading overrides."""

    __slots__ = ()

    def __str__(self) -> str:
        return "another"


ANSWERS: dict[str, Any] = {
    "none": None,
    "true": True,
    "number": Number(7),
    "largest": 2**63 - 1,
    "least": -(2**63),
    "too large": 2**63,
    "far too large": -(2**90),
    "float": 0.1,
    "infinity": float("-inf"),
    "not a number": float("nan"),
    "empty text": "",
    "text": Text("own"),
    "text that begins with a number": "-7.5 apples",
    "text of zero": "0.0",
    "blob of digits": b"7",
    "long text": "é" * 5000,
    "text with NUL": "a\0b",
    "lone surrogate": "\ud800",
    "long lone surrogate": "x" * 5000 + "\ud800",
    "empty blob": b"",
    "blob": b"\0\xff",
    "bytearray": bytearray(b"abc"),
    "array": array.array("i", [1, 2]),
    "part of a buffer": memoryview(b"abcdef")[::2],
    "list": [1],
    "object": object(),
    "class": int,
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_every_kind_of_result_is_the_same_when_deferred(name: str) -> None:
    """Every kind of result comes out as it does without deferral, and so does an error late in the rows."""
    result, calls = await both(
        lambda value: ANSWERS[name] if value == FAR else value, lambda conn: conn.fetch_all(SCAN)
    )

    assert len(calls) == (ROWS if isinstance(result, str) else 200)


@pytest.mark.parametrize("error", [ZeroDivisionError, MemoryError, OverflowError, KeyboardInterrupt, StopIteration])
async def test_first_exception_is_raised_and_ends_the_calls(error: type[BaseException]) -> None:
    def fail(value: int) -> int:
        if value == FAR:
            raise error("at 200")
        return value

    result, calls = await both(fail, lambda conn: conn.fetch_all(SCAN))

    assert result[3] == repr(error("at 200"))
    assert len(calls) == 200


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT f(v), json('{' || id) FROM t",
        "SELECT f(v), CASE WHEN id < 60 THEN 1 ELSE json('{') END FROM t",
        "SELECT f(v), CASE WHEN id < 40 THEN 1 ELSE json('{') END FROM t",
        "SELECT f(v), abs(CASE WHEN id < 290 THEN 1 ELSE -9223372036854775808 END) FROM t",
    ],
)
async def test_error_of_another_function_comes_after_the_calls_before_it(sql: str) -> None:
    def fail(value: int) -> int:
        if value == FAR:
            raise ZeroDivisionError
        return value

    conns: list[tuple[Any, Log]] = []
    for single in (False, True):
        log: Log = []
        async with opened(logged(log)) as conn:
            await conn.fetch_all("SELECT f(v), abs(id) FROM t")
            if single:
                await keep_calls_single(conn)
            log.clear()
            harmless = await outcome(conn.fetch_all, sql)
            harmless_calls = list(log)
            log.clear()
            await conn.create_function("f", 1, logged(log, fail))
            conns.append(((harmless, await outcome(conn.fetch_all, sql)), [*harmless_calls, *log]))
    assert conns[0] == conns[1]


class Pair(NamedTuple):
    """A row."""

    id: int
    text: str


class Keyed(TypedDict):
    """A row."""

    id: int
    text: str


SHAPES: dict[str, Callable[[rapsqlite.Connection], Any]] = {
    "lists": lambda conn: conn.fetch_all("SELECT id, f(v), f(id, v) FROM t"),
    "named tuples": lambda conn: conn.fetch_all("SELECT id, f(v) AS text FROM t", into=Pair),
    "dicts": lambda conn: conn.fetch_all("SELECT id, f(v) AS text FROM t", into=Keyed),
    "parameters": lambda conn: conn.fetch_all("SELECT f(?, v), f(?2), id FROM t", [7, "two"]),
}


@pytest.mark.parametrize("name", SHAPES)
async def test_deferred_results_are_put_into_rows_of_every_shape(name: str) -> None:
    """The results are put in the right columns of rows of every shape."""
    result, _calls = await both(lambda *values: f"é{values}", SHAPES[name])

    assert "é(7" in result


async def test_text_factory_gets_deferred_results() -> None:
    async def use(conn: rapsqlite.Connection) -> Any:
        conn.text_factory = bytes
        as_bytes = await conn.execute_fetchall("SELECT f(v), id FROM t")
        conn.text_factory = lambda text: ("made", text)
        return as_bytes, await conn.execute_fetchall("SELECT f(v), id FROM t")

    result, _calls = await both(lambda value: f"é{value}", use)

    assert repr("é7".encode()) in result
    assert "'made'" in result


@pytest.mark.parametrize("limits", [{"max_rows": 120}, {"max_bytes": 2000}, {"max_rows": ROWS}])
async def test_limits_on_results_hold(limits: dict[str, int]) -> None:
    seen = []
    for single in (False, True):
        async with opened(logged([]), limits=limits) as conn:
            if single:
                await keep_calls_single(conn)
            seen.append([await outcome(conn.fetch_all, SCAN) for _ in range(2)])
    assert seen[0] == seen[1]


async def test_length_limit_holds_for_deferred_results() -> None:
    excess: set[int] = set()

    async def use(conn: rapsqlite.Connection) -> Any:
        excess.clear()
        seen = await conn.fetch_all(SCAN)
        await conn.setlimit(rapsqlite.SQLITE_LIMIT_LENGTH, 100)
        assert await conn.fetch_all(SCAN) == seen
        excess.add(FAR)
        return await conn.fetch_all(SCAN)

    result, calls = await both(lambda value: "x" * (100 + (value in excess)), use)

    assert result[0] is rapsqlite.DataError
    assert len(calls) == 2 * ROWS + 200


async def test_calls_are_made_as_the_cursor_fetches() -> None:
    """Nothing is called earlier than without deferral."""
    seen = []
    for single in (False, True):
        log: Log = []
        async with opened(logged(log)) as conn:
            await conn.fetch_all(SCAN)
            if single:
                await keep_calls_single(conn)
            log.clear()
            counts: list[Any] = []
            async with conn.execute(SCAN) as cursor:
                counts.append(len(log))
                counts += [(len(await cursor.fetchmany(size)), len(log)) for size in (1, 1, 10, 50)]
                counts.append((await cursor.fetchone(), len(log)))
            seen.append(counts)
    assert seen[0] == seen[1]


async def test_large_deferred_results_do_not_accumulate() -> None:
    """A few hundred of them would exceed the guest's memory, so each page makes only its own."""
    log: Log = []
    async with opened(logged(log, lambda value: bytes(1 << 20)), limits={"memory_bytes": 64 << 20}) as conn:
        total = 0
        async with conn.stream("SELECT f(v), id FROM t WHERE id <= 150") as rows:
            async for blob, _ in rows:
                total += len(blob)
                assert len(log) * (1 << 20) - total < 48 << 20
        assert total == 150 << 20


def growing(number: int) -> str:
    """Small results first, so that many rows are read ahead, and then large ones."""
    return "x" * (400_000 if number > 50 else 1)


async def test_removed_function_is_still_called_for_rows_already_read() -> None:
    """The statement is at its end, so SQLite releases the function, while rows wait for large results."""
    log: Log = []
    sql = "SELECT f(id), id FROM t WHERE id <= 100 ORDER BY id"
    async with opened(logged(log, growing)) as conn:
        expected = await conn.fetch_all(sql)
        held = len(conn._state.guest.callbacks)
        log.clear()
        async with conn.stream(sql) as rows:
            seen = [await anext(rows) for _ in range(55)]
            assert len(log) < 70
            await conn.create_function("f", 1, None)
            assert len(conn._state.guest.callbacks) == held
            seen += [row async for row in rows]
        assert seen == expected
        assert log == [(number,) for number in range(1, 101)]
        assert len(conn._state.guest.callbacks) == held - 1
        with pytest.raises(rapsqlite.OperationalError, match="wrong number of arguments"):
            await conn.fetch_all(sql)


async def test_no_calls_are_made_for_rows_that_are_not_fetched() -> None:
    log: Log = []
    sql = "SELECT f(id), id FROM t"
    async with opened(logged(log, growing)) as conn:
        await conn.fetch_all(sql)
        log.clear()
        async with conn.execute(sql) as cursor:
            await cursor.fetchone()
        called = len(log)
        assert called < 70
        assert len(await conn.fetch_all(sql)) == ROWS
        assert len(log) == called + ROWS


COMPANY = {
    "deterministic function": "SELECT f(v), d(id) FROM t",
    "function of another kind of use": "SELECT f(v), g(id) + 1 FROM t",
    "aggregate": "SELECT f(v), total(id) FROM t GROUP BY v",
    "aggregate beside": "SELECT f(v), (SELECT total(id) FROM u WHERE u.id = t.id) FROM t",
    "collation": "SELECT f(v), 'a' < (id || '') COLLATE c FROM t",
    "large argument": "SELECT f(v), f(zeroblob(40000 * (id = 50)), id) FROM t",
    "text that is none": "SELECT f(v), f(CAST(x'ff' AS TEXT), id) FROM t WHERE id < 50 OR id > 200",
    "text that is none, once": "SELECT f(v, CASE id WHEN 50 THEN CAST(x'ff' AS TEXT) END) FROM t",
}


async def heard(name: str, fails_at: int | None, *, single: bool) -> Log:
    """All callbacks that are called, of any kind, and the statement's outcome, twice."""
    log: Log = []

    def fail(*values: Any) -> Any:
        if values[0] == fails_at:
            raise ZeroDivisionError(values)
        return len(values)

    def noted(kind: str) -> Callable[..., int]:
        def function(*values: Any) -> int:
            log.append((kind, *values))
            return len(values)

        return function

    class Total:
        def step(self, value: object) -> None:
            log.append(("step", value))

        def finalize(self) -> int:
            log.append(("finalize",))
            return 7

    async with opened(logged(log, fail)) as conn:
        await conn.create_function("d", 1, noted("d"), deterministic=True)
        await conn.create_function("g", 1, noted("g"))
        await conn.create_aggregate("total", 1, Total)
        await conn.create_collation("c", noted("c"))
        if single:
            await keep_calls_single(conn)
        for _ in range(2):
            log.append((await outcome(conn.fetch_all, COMPANY[name]),))
    return log


@pytest.mark.parametrize("fails_at", [None, FAR])
@pytest.mark.parametrize("name", COMPANY)
async def test_calls_of_all_kinds_keep_their_order(name: str, fails_at: int | None) -> None:
    assert await heard(name, fails_at, single=False) == await heard(name, fails_at, single=True)


async def test_schema_change_between_executions_is_noticed() -> None:
    """What is known about a statement's program does not apply once it is compiled again."""

    async def use(conn: rapsqlite.Connection) -> Any:
        seen = [await conn.fetch_all("SELECT *, f(v) FROM t") for _ in range(2)]
        await conn.execute("ALTER TABLE t ADD COLUMN more DEFAULT 'more'")
        seen += [await conn.fetch_all("SELECT *, f(v) FROM t") for _ in range(2)]
        await conn.execute("DROP TABLE t")
        await conn.execute("CREATE VIEW t AS SELECT id AS v, f(id) + 1 AS w FROM u")
        return seen + [await conn.fetch_all("SELECT *, f(v) FROM t") for _ in range(2)]

    result, _calls = await both(lambda value: value, use)

    assert "'more', 7]" in result


@pytest.mark.parametrize("hook", ["authorizer", "trace", "progress"])
async def test_no_call_is_deferred_while_hooks_observe_the_statement(hook: str) -> None:
    log: Log = []
    heard: list[Any] = []

    def authorize(*what: Any) -> int:
        heard.append(what)
        return 0

    async with opened(logged(log)) as conn:
        await {
            "authorizer": lambda: conn.set_authorizer(authorize),
            "trace": lambda: conn.set_trace_callback(heard.append),
            "progress": lambda: conn.set_progress_handler(lambda: heard.append("progress"), 100_000),
        }[hook]()
        heard.clear()
        before = await crossings(conn)
        await conn.fetch_all(SCAN)
        await conn.fetch_all(SCAN)
        assert await crossings(conn) - before == len(log) + len(heard) == 2 * ROWS + len(heard)
        assert "bytecode" not in repr(heard)


async def test_user_table_named_bytecode_does_no_harm() -> None:
    log: Log = []
    async with opened(logged(log)) as conn:
        await conn.execute("CREATE VIRTUAL TABLE bytecode USING fts5(opcode, p1, p2, p3, p4, p5)")
        rows = await conn.fetch_all(SCAN)
        assert await crossings(conn) < ROWS / 2
        await conn.execute("CREATE TEMP TABLE bytecode (opcode, p1, p2, p3, p4, p5)")
        assert await conn.fetch_all(SCAN + " LIMIT 1000") == rows
    assert len(log) == 2 * ROWS


async def test_changes_that_return_rows_are_not_deferred() -> None:
    log: Log = []
    async with opened(logged(log)) as conn:
        rows = await conn.fetch_all("UPDATE t SET k = k + 1 RETURNING f(v)")
        assert len(rows) == len(log) == await crossings(conn) == ROWS


async def test_cancellation_ends_the_running_call_and_drops_the_rest() -> None:
    log: Log = []
    endless = Endless()

    def f(value: int) -> Any:
        return endless() if value == FAR and len(log) > ROWS else value

    async with opened(logged(log, f)) as conn:
        impatient_once(conn)
        await conn.fetch_all(SCAN)
        async with anyio.create_task_group() as tasks:

            async def run() -> None:
                with scope:
                    await conn.fetch_all(SCAN)
                assert scope.cancelled_caught

            scope = anyio.CancelScope()
            tasks.start_soon(run)
            await started(endless)
            scope.cancel()
        assert len(log) == ROWS + 200
        assert len(await conn.fetch_all("SELECT id FROM t")) == ROWS


async def fetch_twice_and_interrupt(sql: str, function: Callable[..., Any], endless: Endless) -> None:
    """Fetch the rows once, and again until ``function`` is in ``endless``; then interrupt the statement."""
    async with opened(function) as conn, anyio.create_task_group() as tasks:
        impatient_once(conn)
        await conn.fetch_all(sql)

        async def interrupt() -> None:
            await started(endless)
            await conn.interrupt()

        tasks.start_soon(interrupt)
        with pytest.raises(rapsqlite.OperationalError, match="interrupted"):
            await conn.fetch_all(sql)


async def test_function_that_swallows_the_interrupt_is_not_called_again() -> None:
    log: Log = []
    endless = Endless()

    def f(value: int) -> Any:
        if value == FAR and len(log) > ROWS:
            try:
                endless()
            except BaseException:  # noqa: BLE001 - what the test is about
                return 0
        return value

    await fetch_twice_and_interrupt(SCAN, logged(log, f), endless)

    assert len(log) == ROWS + 200


async def test_swallowed_interrupt_ends_calls_of_other_kinds_too() -> None:
    log: Log = []
    endless = Endless()

    def f(*values: int) -> Any:
        if values == (FAR,) and len(log) > 2 * ROWS:
            try:
                endless()
            except BaseException:  # noqa: BLE001 - what the test is about
                return 0
        return values[0]

    await fetch_twice_and_interrupt("SELECT f(v), f(v, id) FROM t NOT INDEXED", logged(log, f), endless)

    assert len(log) == 2 * ROWS + 399


async def test_no_object_is_held_after_all_calls() -> None:
    async with opened(lambda value: value) as conn:
        held = len(conn._state.guest.callbacks)
        for number in range(5):
            await conn.create_function("f", 1, lambda value: value)
            assert len(await conn.fetch_all(SCAN)) == ROWS, number
            assert len(conn._state.guest.callbacks) == held


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le", "UTF-16be"])
async def test_deferred_calls_work_in_databases_of_every_encoding(encoding: str) -> None:
    """SQLite converts text in UTF-16 databases; deferred calls get and give UTF-8 all the same."""
    log: Log = []
    async with rapsqlite.connect(":memory:") as conn:
        await conn.execute(f"PRAGMA encoding = '{encoding}'")
        await conn.create_function("f", 1, logged(log, lambda text: f"{text} für ☃"))
        await conn.execute("CREATE TABLE t (a)")
        await conn.executemany("INSERT INTO t VALUES (?)", [(f"straße {number}",) for number in range(ROWS)])

        rows = await conn.fetch_all("SELECT f(a), a FROM t")

        assert rows == [[f"straße {number} für ☃", f"straße {number}"] for number in range(ROWS)]
        assert await crossings(conn) < ROWS / 2
