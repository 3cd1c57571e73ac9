"""Functions, aggregates, window functions and collations in Python: the same calls on sqlite3, results compared."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import rapsqlite

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio

RAISED = "user-defined function raised exception"


class Sum:
    """An aggregate and window function."""

    def __init__(self) -> None:
        self.total = 0

    def step(self, value: int) -> None:
        self.total += value

    def inverse(self, value: int) -> None:
        self.total -= value

    def value(self) -> int:
        return self.total

    def finalize(self) -> int:
        return self.total


def failing(method: str) -> type[Sum]:
    """Return the class with a method that raises."""

    def fail(*_: object) -> Any:
        raise ZeroDivisionError(method)

    return type("Failing", (Sum,), {method: fail})


def lacking(*methods: str) -> type:
    """Return the class without these methods."""
    return type("Lacking", (), {name: item for name, item in vars(Sum).items() if name not in methods})


def held(conn: rapsqlite.Connection) -> int:
    """Return how many objects the guest holds."""
    return len(conn._state.guest.callbacks)


async def compare(sql: str, register: Callable[[Any], Any]) -> None:
    """Run ``sql`` here and in sqlite3; the rows, or the class and message of the error, must be the same."""
    with sqlite3.connect(":memory:") as theirs:
        register(theirs)
        try:
            expected: Any = theirs.execute(sql).fetchall()
        except sqlite3.Error as error:
            expected = error
    theirs.close()
    async with rapsqlite.connect(":memory:") as conn:
        await register(conn)
        if isinstance(expected, list):
            rows = await conn.execute_fetchall(sql)
            assert rows == expected
            assert [[type(value) for value in row] for row in rows] == [[type(v) for v in row] for row in expected]
            return
        with pytest.raises(type(expected)) as caught:
            await conn.fetch_all(sql)
        assert str(caught.value) == str(expected)
        assert await conn.fetch_scalar("SELECT 1") == 1


@pytest.mark.parametrize("letter", ["a", "é"])
async def test_texts_of_every_length_arrive_whole_in_immediate_calls(letter: str) -> None:
    """Around the lengths at which the encoding changes; each more than once, because the first call takes another
    path.
    """
    texts = [letter * length for length in (0, 1, 15, 16, 31, 32, 127, 128, 255, 256, 510, 511, 1020, 1021, 1024, 3000)]
    seen: list[str] = []

    def reverse(text: str) -> str:
        seen.append(text)
        return text[::-1]

    async with rapsqlite.connect(":memory:") as conn:
        await conn.create_function("reverse", 1, reverse)
        await conn.execute("CREATE TABLE texts (text)")
        await conn.executemany("INSERT INTO texts VALUES (?)", [[text] for text in texts * 3])

        count = await conn.fetch_scalar("SELECT count(*) FROM texts WHERE reverse(text) = text")

    assert count == len(seen)
    assert seen == texts * 3


@pytest.mark.parametrize(
    "value",
    [
        None, 0, -1, 127, 1 << 31, (1 << 63) - 1, -(1 << 63), 1.5, float("inf"), float("nan"), "", "é\0\U0001f600",
        b"", b"\0\xff", bytearray(b"ab"), memoryview(b"cd"), True, "x" * 100_000, b"y" * 1024, b"z" * 1021,
        type("I", (int,), {})(5), type("F", (float,), {})(2.5), type("S", (str,), {})("s"),
    ],
    ids=lambda value: f"{type(value).__name__}-{str(value)[:8]!r}",
)  # fmt: skip
async def test_results_match_sqlite3(value: object) -> None:
    await compare("SELECT f(), typeof(f())", lambda conn: conn.create_function("f", 0, lambda: value))


@pytest.mark.parametrize(
    "literal", ["NULL", "0", "-9223372036854775808", "1.0", "9e999", "''", "'aé'", "x''", "x'00ff'", "zeroblob(3000)"]
)
async def test_arguments_match_sqlite3(literal: str) -> None:
    def describe(*arguments: object) -> str:
        return repr([(type(argument), argument) for argument in arguments])

    await compare(f"SELECT f({literal}, {literal})", lambda conn: conn.create_function("f", -1, describe))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="3.10 tells no overflow from other exceptions")
@pytest.mark.parametrize(
    "value", [1 << 63, object(), [1], "\ud800", 1j], ids=["too-large", "object", "list", "surrogate", "complex"]
)
async def test_values_that_cannot_be_stored_raise_as_in_sqlite3(value: object) -> None:
    await compare("SELECT f()", lambda conn: conn.create_function("f", 0, lambda: value))


async def test_exception_is_the_cause_of_the_error() -> None:
    raised = ValueError("the very object")

    def fail() -> None:
        raise raised

    async with rapsqlite.connect(":memory:") as conn:
        await conn.create_function("f", 0, fail)
        with pytest.raises(rapsqlite.OperationalError, match=RAISED) as caught:
            await conn.fetch_scalar("SELECT f()")

        assert caught.value.__cause__ is raised
        assert await conn.fetch_scalar("SELECT 1") == 1
        with pytest.raises(rapsqlite.OperationalError) as later:
            await conn.fetch_scalar("SELECT nothing")
        assert later.value.__cause__ is None


@pytest.mark.parametrize(
    "exception", [KeyboardInterrupt, SystemExit, GeneratorExit, RecursionError, asyncio.CancelledError]
)
async def test_exception_ends_only_its_statement(exception: type[BaseException]) -> None:
    def fail() -> None:
        raise exception

    async with rapsqlite.connect(":memory:") as conn:
        await conn.create_function("f", 0, fail)
        with pytest.raises(rapsqlite.OperationalError, match=RAISED) as caught:
            await conn.fetch_scalar("SELECT f()")

        assert isinstance(caught.value.__cause__, exception)
        assert await conn.fetch_scalar("SELECT 1") == 1


async def test_each_of_many_tasks_gets_its_own_exception() -> None:
    """Replies are drained together; the cause is found by its number, not by order."""
    causes: dict[int, BaseException | None] = {}

    def fail(number: int) -> None:
        raise ValueError(number)

    async with rapsqlite.connect(":memory:") as conn:
        await conn.create_function("f", 1, fail)

        async def ask(number: int) -> None:
            with pytest.raises(rapsqlite.OperationalError) as caught:
                await conn.fetch_scalar("SELECT f(?)", (number,))
            causes[number] = caught.value.__cause__

        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(ask, number)

        assert {number: getattr(cause, "args", None) for number, cause in causes.items()} == {
            number: (number,) for number in range(200)
        }


async def test_memory_error_and_overflow_error_keep_their_meaning() -> None:
    def fail(kind: str) -> None:
        raise {"memory": MemoryError, "overflow": OverflowError}[kind]

    async with rapsqlite.connect(":memory:") as conn:
        await conn.create_function("f", 1, fail)

        with pytest.raises(MemoryError):
            await conn.fetch_scalar("SELECT f('memory')")
        with pytest.raises(rapsqlite.DataError):
            await conn.fetch_scalar("SELECT f('overflow')")


async def test_invalid_text_is_an_error_with_its_reason() -> None:
    async with rapsqlite.connect(":memory:") as conn:
        await conn.create_function("f", 1, lambda text: text)
        with pytest.raises(rapsqlite.OperationalError, match=RAISED) as caught:
            await conn.fetch_scalar("SELECT f(CAST(x'ff' AS TEXT))")

        assert caught.value.__cause__ is not None


async def test_deterministic_functions_may_be_indexed_and_others_not() -> None:
    async with rapsqlite.connect(":memory:") as conn:
        await conn.execute("CREATE TABLE t (a)")
        await conn.create_function("d", 1, abs, deterministic=True)
        await conn.create_function("n", 1, abs)

        await conn.execute("CREATE INDEX i ON t (d(a))")
        with pytest.raises(rapsqlite.OperationalError, match="non-deterministic"):
            await conn.execute("CREATE INDEX j ON t (n(a))")


async def test_replaced_function_is_called_by_cached_statements() -> None:
    async with rapsqlite.connect(":memory:") as conn:
        for answer in (1, 2):
            await conn.create_function("f", 0, lambda answer=answer: answer)
            assert await conn.fetch_scalar("SELECT f()") == answer
        assert held(conn) == 1

        await conn.create_function("f", 0, None)
        with pytest.raises(rapsqlite.OperationalError, match="no such function"):
            await conn.fetch_scalar("SELECT f()")
        assert held(conn) == 0


async def test_function_in_use_is_not_replaced() -> None:
    async with rapsqlite.connect(":memory:") as conn:
        await conn.create_function("f", 1, lambda value: value)
        rows = conn.stream(
            "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 100000) SELECT f(x) FROM c"
        )
        assert await rows.__anext__() == [1]

        with pytest.raises(rapsqlite.OperationalError, match="active statements"):
            await conn.create_function("f", 1, None)
        assert held(conn) == 1
        await rows.aclose()
        await conn.create_function("f", 1, None)
        assert held(conn) == 0


@pytest.mark.parametrize("method", ["create_function", "create_aggregate", "create_window_function"])
@pytest.mark.parametrize("narg", [-100, 100_000])
async def test_invalid_number_of_arguments_is_refused(method: str, narg: int) -> None:
    """As in sqlite3; no handle is kept for a rejected one."""
    if not hasattr(sqlite3.Connection, method):
        pytest.skip("this Python's sqlite3 has no such method")
    theirs = sqlite3.connect(":memory:")
    with pytest.raises(sqlite3.Error) as expected:
        getattr(theirs, method)("f", narg, Sum)
    theirs.close()
    async with rapsqlite.connect(":memory:") as conn:
        with pytest.raises(expected.type) as caught:
            await getattr(conn, method)("f", narg, Sum)

        assert str(caught.value) == str(expected.value)
        assert held(conn) == 0


async def test_invalid_name_number_or_callable_is_refused() -> None:
    wrong: list[tuple[tuple[Any, ...], type[Exception]]] = [
        ((1, 0, abs), TypeError), (("f\0g", 0, abs), ValueError), (("\ud800", 0, abs), ValueError),
        (("f", "0", abs), TypeError), (("f", 1 << 40, abs), OverflowError), (("f", 0, 5), TypeError),
    ]  # fmt: skip
    async with rapsqlite.connect(":memory:") as conn:
        for arguments, error in wrong:
            with pytest.raises(error):
                await conn.create_function(*arguments)
        assert held(conn) == 0
    with pytest.raises(rapsqlite.ProgrammingError):
        await conn.create_function("f", 0, abs)


async def test_callback_that_uses_its_connection_gets_an_error_not_a_deadlock() -> None:
    async with rapsqlite.connect(":memory:") as conn:
        await conn.create_function("f", 0, lambda: asyncio.run(_ask(conn)))
        with pytest.raises(rapsqlite.OperationalError, match=RAISED) as caught:
            await conn.fetch_scalar("SELECT f()")

        assert isinstance(caught.value.__cause__, rapsqlite.ProgrammingError)
        assert await conn.fetch_scalar("SELECT 1") == 1


async def _ask(conn: rapsqlite.Connection) -> object:
    return await conn.fetch_scalar("SELECT 1")


async def test_event_loop_runs_while_a_callback_waits() -> None:
    entered, go_on = threading.Event(), threading.Event()
    answers = []

    def wait() -> str:
        entered.set()
        go_on.wait(20)
        return "done"

    async with rapsqlite.connect(":memory:") as conn, anyio.create_task_group() as tasks:
        await conn.create_function("f", 0, wait)

        async def ask() -> None:
            answers.append(await conn.fetch_scalar("SELECT f()"))

        tasks.start_soon(ask)
        await anyio.to_thread.run_sync(entered.wait, 20)
        assert not answers
        go_on.set()
    assert answers == ["done"]


async def test_cancelled_while_a_callback_runs_leaves_the_connection_usable() -> None:
    entered, go_on = threading.Event(), threading.Event()

    def wait(_: int) -> int:
        entered.set()
        return int(go_on.wait(20))

    async with rapsqlite.connect(":memory:") as conn:
        await conn.create_function("f", 1, wait)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(
                conn.fetch_all, "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT f(x) FROM c"
            )
            await anyio.to_thread.run_sync(entered.wait, 20)
            tasks.cancel_scope.cancel()
            go_on.set()

        assert await conn.fetch_scalar("SELECT 1") == 1
        assert conn.is_alive()


async def test_twenty_thousand_registrations_leak_nothing() -> None:
    """A leak of forty bytes each would be noticed."""

    class Function:
        def __call__(self) -> int:
            return 7

    async with rapsqlite.connect(":memory:") as conn:
        first = Function()
        gone = weakref.ref(first)
        await conn.create_function("f", 0, first)
        del first
        before = (await conn.statistics())["memory_bytes"]
        for _ in range(10):
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(_register_many, conn, Function, 100)
        assert held(conn) == 1
        gc.collect()
        assert gone() is None
        assert await conn.fetch_scalar("SELECT f()") == 7
        assert (await conn.statistics())["memory_bytes"] - before < 20_000 * 40


async def _register_many(conn: rapsqlite.Connection, kind: type, times: int) -> None:
    for _ in range(times):
        await conn.create_function("f", 0, kind())


async def test_closing_frees_functions_and_instances() -> None:
    class Function:
        def __call__(self) -> int:
            return 1

    functions = [Function() for _ in range(3)]
    alive = [weakref.ref(function) for function in functions]
    conn = await rapsqlite.connect(":memory:")
    await conn.create_function("f", 0, functions[0])
    await conn.create_collation("c", functions[1])  # type: ignore[arg-type]
    await conn.set_trace_callback(functions[2])  # type: ignore[arg-type]
    callbacks = conn._state.guest.callbacks
    functions.clear()

    await conn.close()

    gc.collect()
    assert len(callbacks) == 0
    assert [ref() for ref in alive] == [None] * 3


# -- aggregates and window functions -----------------------------------------------------------------

VALUES = "(SELECT 1 AS a UNION ALL SELECT 2 UNION ALL SELECT 5)"


@pytest.mark.parametrize(
    "cls",
    [Sum, failing("__init__"), failing("step"), failing("finalize"), lacking("step"), lacking("finalize")],
    ids=["sum", "init", "step", "finalize", "no-step", "no-finalize"],
)
@pytest.mark.parametrize("source", [VALUES, f"{VALUES} WHERE a > 9"], ids=["rows", "no-rows"])
@pytest.mark.skipif(sys.version_info < (3, 11), reason="3.10 has one message for all")
async def test_aggregates_match_sqlite3(cls: type, source: str) -> None:
    await compare(f"SELECT total(a), s(a) FROM {source}", lambda conn: conn.create_aggregate("s", 1, cls))


async def test_aggregate_has_an_instance_for_each_group() -> None:
    await compare(
        f"SELECT a % 2, s(a) FROM {VALUES} GROUP BY 1 ORDER BY 1", lambda conn: conn.create_aggregate("s", 1, Sum)
    )


@pytest.mark.parametrize("method", ["__init__", "step", "finalize"])
async def test_exception_in_an_aggregate_is_the_cause_and_leaks_no_instance(method: str) -> None:
    async with rapsqlite.connect(":memory:") as conn:
        await conn.create_aggregate("s", 1, failing(method))
        with pytest.raises(rapsqlite.OperationalError, match=method) as caught:
            await conn.fetch_all(f"SELECT s(a) FROM {VALUES}")

        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert held(conn) == 1


@pytest.mark.skipif(sys.version_info < (3, 11), reason="sqlite3 has window functions since 3.11")
@pytest.mark.parametrize(
    "cls",
    [Sum, *(failing(name) for name in ("__init__", "step", "inverse", "value", "finalize")),
     *(lacking(name) for name in ("step", "inverse", "value", "finalize"))],
)  # fmt: skip
async def test_window_functions_match_sqlite3(cls: type) -> None:
    await compare(
        f"SELECT a, s(a) OVER (ORDER BY a ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING) FROM {VALUES}",
        lambda conn: conn.create_window_function("s", 1, cls),
    )


async def test_window_function_works_on_every_python() -> None:
    async with rapsqlite.connect(":memory:") as conn:
        await conn.create_window_function("s", 1, Sum)

        rows = await conn.fetch_all(f"SELECT s(a) OVER (ORDER BY a ROWS 1 PRECEDING) FROM {VALUES}")

        assert rows == [[1], [3], [7]]
        assert held(conn) == 1


# -- collations --------------------------------------------------------------------------------------

WORDS = "(SELECT 'b' AS w UNION ALL SELECT '' UNION ALL SELECT 'ä' UNION ALL SELECT 'Ba')"


@pytest.mark.parametrize("factor", [1, -1, 1 << 70])
async def test_collations_sort_as_in_sqlite3(factor: int) -> None:
    def order(left: str, right: str) -> int:
        return factor * ((left > right) - (left < right))

    await compare(f"SELECT w FROM {WORDS} ORDER BY w COLLATE c", lambda conn: conn.create_collation("c", order))


async def test_removed_collation_is_unknown() -> None:
    async with rapsqlite.connect(":memory:") as conn:
        await conn.create_collation("c", lambda *_: 0)
        await conn.create_collation("c", None)

        with pytest.raises(rapsqlite.OperationalError, match="no such collation sequence: c"):
            await conn.fetch_all(f"SELECT w FROM {WORDS} ORDER BY w COLLATE c")
        assert held(conn) == 0


@pytest.mark.parametrize("answer", [None, "1", 0.5])
async def test_collation_that_fails_ends_its_statement(answer: object) -> None:
    """Otherwise rows would be sorted, and indexes built, by arbitrary results."""
    async with rapsqlite.connect(":memory:") as conn:
        await conn.create_collation("c", lambda *_: answer)  # type: ignore[arg-type]
        for sql in (f"SELECT w FROM {WORDS} ORDER BY w COLLATE c", "SELECT 'a' < 'b' COLLATE c"):
            with pytest.raises(rapsqlite.OperationalError, match="user-defined collation raised exception") as caught:
                await conn.fetch_all(sql)
            assert isinstance(caught.value.__cause__, TypeError)
        assert await conn.fetch_scalar("SELECT 1") == 1
