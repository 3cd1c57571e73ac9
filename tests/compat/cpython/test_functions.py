"""CPython's scenarios for functions, aggregates and window functions written in Python."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from rapsqlite._client import registration
from tests.compat.cpython.scenario import NOTHING, agree, column, told

if TYPE_CHECKING:
    from collections.abc import Callable

RAISED = ("OperationalError", "user-defined function raised exception")
TOO_BIG = ("DataError", "string or blob too big")
SINCE = (3, 11)  # sqlite3 of Python 3.10 has one class and one message for most errors


def raising(error: BaseException) -> Callable[..., Any]:
    def function(*_: object) -> None:
        raise error

    return function


async def called(function: Any, *given: Any, sql: str = "SELECT f({})") -> Any:
    """Return a function's result in SQL, or the error."""

    async def scenario(connection: Any) -> Any:
        await connection.create_function("f", -1, function)
        statement = sql.format(", ".join("?" * len(given)))
        error = await told(column, connection, statement, given)
        return error if error != NOTHING else await column(connection, statement, given)

    return await agree(scenario, since=SINCE)


@pytest.mark.parametrize("value", ["foo", "1\x002", "b\xe4r", 42, 3.14, None, b"blob", b"", 1 << 31, True])
async def test_result_of_a_function_is_returned(value: Any) -> None:
    assert await called(lambda: value) == [value]


async def test_nan_result_is_null() -> None:
    assert await called(lambda: float("nan")) == [None]


@pytest.mark.parametrize("error, expected", [
    (ZeroDivisionError(), RAISED), (MemoryError(), ("MemoryError", "")), (OverflowError(), TOO_BIG),
])  # fmt: skip
async def test_exception_in_a_function_has_the_class_of_sqlite3(error: Exception, expected: Any) -> None:
    async def scenario(connection: Any) -> Any:
        await connection.create_function("f", 0, raising(error))
        try:
            return await column(connection, "SELECT f()")
        except MemoryError:
            return "MemoryError", ""
        except Exception as raised:  # noqa: BLE001  the outcome to compare
            return type(raised).__name__, str(raised)

    assert await agree(scenario, since=SINCE) == expected


@pytest.mark.parametrize("value, expected", [
    (2**63, TOO_BIG), (-(2**63) - 1, TOO_BIG), (2**64, TOO_BIG), (object(), RAISED),
    (memoryview(b"blob")[::2], RAISED), (chr(0xD8FF), RAISED), (chr(0xDCFF), RAISED),
])  # fmt: skip
async def test_result_that_cannot_be_stored_is_an_error(value: Any, expected: Any) -> None:
    assert await called(lambda: value) == expected


@pytest.mark.parametrize("value", [
    42, -1, 1234567890123456789, 4611686018427387905, 3.14, float("inf"), "text", "1\x002", "\u02e2q\u02e1", b"blob",
    bytearray(range(2)), memoryview(b"blob"), None, b"",
])  # fmt: skip
async def test_argument_is_the_bound_value(value: Any) -> None:
    seen: list[Any] = []
    await called(seen.append, value)

    stored = bytes(value) if isinstance(value, bytearray | memoryview) else value
    assert seen
    assert all(type(each) is type(stored) and each == stored for each in seen)


async def test_nan_argument_is_none() -> None:
    assert await called(lambda value: value is None, float("nan")) == [1]


@pytest.mark.parametrize("value, error", [
    (1 << 65, "OverflowError"), (memoryview(b"blob")[::2], "BufferError"), ("\ud803\ude6d", "UnicodeEncodeError"),
])  # fmt: skip
async def test_argument_that_cannot_be_bound_is_refused(value: Any, error: str) -> None:
    assert (await called(len, value))[0] == error


async def test_function_with_any_number_of_arguments() -> None:
    """-1 as the number of arguments accepts any number of them."""
    assert await called(lambda *given: len(given), 1, 2) == [2]


@pytest.mark.parametrize("make", [
    lambda connection: connection.create_function("f", -100, abs),
    lambda connection: connection.create_aggregate("f", -100, dict),
])  # fmt: skip
async def test_out_of_range_number_of_arguments_is_refused(make: Any) -> None:
    async def scenario(connection: Any) -> Any:
        return (await told(make, connection))[0]

    assert await agree(scenario) == ("ProgrammingError" if sys.version_info >= (3, 14) else "OperationalError")


@pytest.mark.parametrize("verb, name", [
    ("create_function", "narg"), ("create_aggregate", "n_arg"), ("create_window_function", "num_params"),
])  # fmt: skip
async def test_python_314_names_the_valid_range_of_arguments(
    verb: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "_CHECKS_COUNTS", True)

    async def scenario(connection: Any) -> Any:
        await connection.setlimit(rapsqlite.SQLITE_LIMIT_FUNCTION_ARG, 2)
        return [await told(getattr(connection, verb), "f", count, Window) for count in (-2, -1, 0, 2, 3)]

    def refused(count: int) -> tuple[str, str]:
        return "ProgrammingError", f"{name!r} must be between -1 and 2, not {count}"

    assert await agree(scenario, since=(3, 14)) == [refused(-2), NOTHING, NOTHING, NOTHING, refused(3)]


async def test_more_arguments_than_the_limit_are_refused() -> None:
    async def scenario(connection: Any) -> Any:
        await connection.setlimit(rapsqlite.SQLITE_LIMIT_FUNCTION_ARG, 1)
        return await told(connection.execute, "SELECT abs(-1)"), await told(connection.execute, "SELECT max(1, 2)")

    refused = ("OperationalError", "too many arguments on function max")
    assert await agree(scenario, since=SINCE) == (NOTHING, refused)


@pytest.mark.parametrize("deterministic", [True, False])
async def test_deterministic_function_may_be_indexed(deterministic: bool) -> None:
    async def scenario(connection: Any) -> Any:
        await connection.execute("CREATE TABLE t (t)")
        await connection.create_function("f", 0, lambda: None, deterministic=deterministic)
        return (await told(connection.execute, "CREATE INDEX i ON t (t) WHERE f() IS NOT NULL"))[0]

    assert await agree(scenario) == ("nothing" if deterministic else "OperationalError")


async def test_deterministic_is_keyword_only() -> None:
    async def scenario(connection: Any) -> Any:
        return (await told(connection.create_function, "f", 0, int, True))[0]

    assert await agree(scenario) == "TypeError"


# -- aggregates ------------------------------------------------------------------------------------


class Total:
    def __init__(self) -> None:
        self.total = 0.0

    def step(self, value: float) -> None:
        self.total += value

    def finalize(self) -> float:
        return self.total


class Text:
    def __init__(self) -> None:
        self.text = ""

    def step(self, text: str) -> None:
        self.text += text

    def finalize(self) -> str:
        return self.text


class Types:
    def __init__(self) -> None:
        self.names: list[str] = []

    def step(self, *values: Any) -> None:
        self.names += [type(value).__name__ for value in values]

    def finalize(self) -> str:
        return " ".join(self.names)


class NoStep:
    def finalize(self) -> int:
        return 1


class NoFinalize:
    def step(self, value: Any) -> None:
        pass


class FailingInit(Total):
    def __init__(self) -> None:
        raise ZeroDivisionError


class FailingStep(Total):
    def step(self, value: float) -> None:
        raise ZeroDivisionError


class FailingFinalize(Total):
    def finalize(self) -> float:
        raise ZeroDivisionError


async def aggregated(cls: Any, sql: str, *given: Any) -> Any:
    async def scenario(connection: Any) -> Any:
        await connection.executescript("CREATE TABLE t (i INTEGER); INSERT INTO t VALUES (10), (20), (30)")
        await connection.create_aggregate("agg", -1, cls)
        error = await told(column, connection, sql, given)
        return error if error != NOTHING else await column(connection, sql, given)

    return await agree(scenario, since=SINCE)


@pytest.mark.parametrize("cls, message", [
    (NoStep, "'step' method not defined"), (NoFinalize, "'finalize' method not defined"),
    (FailingInit, "'__init__' method raised error"), (FailingStep, "'step' method raised error"),
    (FailingFinalize, "'finalize' method raised error"),
])  # fmt: skip
async def test_missing_or_raising_method_is_named(cls: Any, message: str) -> None:
    name, words = await aggregated(cls, "SELECT agg(i) FROM t")

    assert (name, words) == ("OperationalError", f"user-defined aggregate's {message}")


@pytest.mark.parametrize("cls, sql, given, expected", [
    (Total, "SELECT agg(i) FROM t", (), 60.0), (Total, "SELECT agg(i) FROM t WHERE i == 0", (), None),
    (Text, "SELECT agg(?) FROM t WHERE i == 10", ("foo",), "foo"),
    (Text, "SELECT agg(?) FROM t WHERE i == 10", ("1\x002",), "1\x002"),
    (Types, "SELECT agg(?, ?) FROM t WHERE i == 10", ("foo", ""), "str str"),
    (Types, "SELECT agg(?, ?) FROM t WHERE i == 10", (42, 3.14), "int float"),
    (Types, "SELECT agg(?, ?) FROM t WHERE i == 10", (None, memoryview(b"blob")), "NoneType bytes"),
])  # fmt: skip
async def test_aggregate_returns_what_finalize_returns(cls: Any, sql: str, given: Any, expected: Any) -> None:
    assert await aggregated(cls, sql, *given) == [expected]


# -- window functions ------------------------------------------------------------------------------


class Window:
    factor = 1

    def __init__(self) -> None:
        self.count = 0

    def step(self, value: int) -> None:
        self.count += value * self.factor

    def inverse(self, value: int) -> None:
        self.count -= value * self.factor

    def value(self) -> int:
        return self.count

    def finalize(self) -> int:
        return self.count


class Doubled(Window):
    factor = 2


OVER = """
    SELECT agg(y) OVER (ORDER BY x ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING) FROM t ORDER BY x
"""
SUMS = [9, 12, 16, 12, 9]


async def windowed(*classes: Any) -> Any:
    """Return the results of the last of the classes registered under one name."""

    async def scenario(connection: Any) -> Any:
        await connection.executescript(
            "CREATE TABLE t (x, y); INSERT INTO t VALUES ('a', 4), ('b', 5), ('c', 3), ('d', 8), ('e', 1)"
        )
        for cls in classes:
            await connection.create_window_function("agg", 1, cls)
        error = await told(column, connection, OVER)
        return error if error != NOTHING else await column(connection, OVER)

    return await agree(scenario, since=SINCE)


async def test_window_function_slides() -> None:
    assert await windowed(Window) == SUMS


async def test_window_function_is_replaced() -> None:
    assert await windowed(Window, Doubled) == [2 * total for total in SUMS]


async def test_removed_window_function_is_unknown() -> None:
    assert (await windowed(Window, None))[0] == "OperationalError"


async def test_window_function_with_a_wrong_number_of_arguments_is_refused() -> None:
    async def scenario(connection: Any) -> Any:
        return (await told(connection.create_window_function, "f", -100, Window))[0]

    assert await agree(scenario, since=SINCE) == "ProgrammingError"


@pytest.mark.parametrize("method", ["__init__", "step", "value", "inverse"])
async def test_window_method_that_raises_is_named(method: str) -> None:
    failing = type("Failing", (Window,), {method: raising(KeyError())})

    assert await windowed(failing) == ("OperationalError", f"user-defined aggregate's '{method}' method raised error")


@pytest.mark.parametrize("method", ["step", "value", "inverse"])
async def test_missing_window_method_is_named(method: str) -> None:
    members = {name: member for name, member in vars(Window).items() if name != method and not name.startswith("__")}
    lacking = type("Lacking", (), {**members, "__init__": Window.__init__})

    answer = await windowed(lacking)

    assert answer == ("OperationalError", f"user-defined aggregate's '{method}' method not defined")


@pytest.mark.parametrize("finalize", [None, raising(KeyError())])
async def test_exception_in_finalize_of_a_window_function_is_ignored(finalize: Any) -> None:
    """SQLite has used the last ``value`` by then, and ignores the rest."""
    members = {name: member for name, member in vars(Window).items() if name != "finalize"}
    failing = type("Failing", (), members if finalize is None else {**members, "finalize": finalize})

    assert await windowed(failing) == SUMS


async def test_value_of_a_window_that_cannot_be_stored_is_an_error() -> None:
    class Huge(Window):
        def value(self) -> int:
            return 1 << 65

    assert await windowed(Huge) == TOO_BIG
