"""CPython's scenarios for collations, authorizer, progress and trace handlers, and the tracebacks of callbacks."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from rapsqlite._callbacks import tracebacks as _tracebacks
from tests.compat.cpython.scenario import NOTHING, agree, column, told

if TYPE_CHECKING:
    from collections.abc import Iterator

LETTERS = "SELECT x FROM (SELECT 'a' AS x UNION SELECT 'b' AS x UNION SELECT 'c' AS x) ORDER BY x COLLATE mycoll"
UNKNOWN = ("OperationalError", "no such collation sequence: mycoll")


def forwards(left: str, right: str) -> int:
    return (left > right) - (left < right)


def backwards(left: str, right: str) -> int:
    return -forwards(left, right)


def far_backwards(left: str, right: str) -> int:
    return backwards(left, right) * 2**32


class Stubborn(str):
    """A name whose upper() fails."""

    __slots__ = ()

    def upper(self) -> str:
        return None  # type: ignore[return-value]


# -- collations ------------------------------------------------------------------------------------


@pytest.mark.parametrize("registered", [[backwards], [far_backwards], [forwards, backwards]])
@pytest.mark.parametrize("name", ["mycoll", Stubborn("mycoll")])
async def test_last_collation_registered_under_a_name_is_used(registered: Any, name: str) -> None:
    async def scenario(connection: Any) -> Any:
        for collation in registered:
            await connection.create_collation(name, collation)
        return await column(connection, LETTERS)

    assert await agree(scenario) == ["c", "b", "a"]


async def test_removed_collation_is_unknown() -> None:
    async def scenario(connection: Any) -> Any:
        await connection.create_collation("mycoll", backwards)
        await column(connection, LETTERS)
        await connection.create_collation("mycoll", None)
        return await told(column, connection, LETTERS)

    assert await agree(scenario) == UNKNOWN


@pytest.mark.parametrize("name, function, error", [
    (None, forwards, "TypeError"), ("X", 42, "TypeError"), ("\udc80", forwards, "UnicodeEncodeError"),
    ("coll\xe4", forwards, "nothing"),
])  # fmt: skip
async def test_invalid_collation_is_refused(name: Any, function: Any, error: str) -> None:
    async def scenario(connection: Any) -> Any:
        return (await told(connection.create_collation, name, function))[0]

    assert await agree(scenario, since=(3, 11)) == error


async def test_collation_must_be_callable() -> None:
    async def scenario(connection: Any) -> Any:
        return await told(connection.create_collation, "X", 42)

    assert await agree(scenario) == ("TypeError", "parameter must be callable")


# -- progress --------------------------------------------------------------------------------------


async def test_progress_handler_is_called_more_often_for_fewer_steps() -> None:
    async def scenario(connection: Any) -> Any:
        calls = []
        for steps in (1, 2):
            seen: list[None] = []
            await connection.set_progress_handler(lambda seen=seen: seen.append(None), steps)
            await connection.execute(f"CREATE TABLE t{steps} (a, b)")
            calls.append(len(seen))
        return calls[0] >= calls[1] > 0

    assert await agree(scenario) is True


class Undecided:
    def __bool__(self) -> bool:
        raise ZeroDivisionError


@pytest.mark.parametrize("handler, error", [
    (lambda: 0, "nothing"), (lambda: 1, "OperationalError"), (lambda: 1 / 0, "OperationalError"),
    (Undecided, "OperationalError"), (lambda unexpected: None, "OperationalError"),
])  # fmt: skip
async def test_progress_handler_decides_whether_to_continue(handler: Any, error: str) -> None:
    async def scenario(connection: Any) -> Any:
        await connection.set_progress_handler(handler, 1)
        return (await told(connection.execute, "CREATE TABLE foo (a, b)"))[0]

    assert await agree(scenario) == error


# -- trace -----------------------------------------------------------------------------------------


async def test_trace_is_called_with_the_sql() -> None:
    text = "\xf6\xe4\xfc\xd6\xc4\xdc\xdf\u20ac"

    async def scenario(connection: Any) -> Any:
        traced: list[str] = []
        await connection.set_trace_callback(traced.append)
        await connection.execute("CREATE TABLE foo (x)")
        await connection.execute(f"INSERT INTO foo VALUES ('{text}')")
        await connection.commit()
        await connection.set_trace_callback(None)
        await connection.execute("DROP TABLE foo")
        return traced

    assert await agree(scenario) == ["CREATE TABLE foo (x)", "BEGIN ", f"INSERT INTO foo VALUES ('{text}')", "COMMIT"]


async def test_trace_reports_a_statement_once_although_it_is_prepared_again(database: Any) -> None:
    traced: list[str] = []
    statements = ["CREATE TABLE foo (x)", "INSERT INTO foo VALUES (1)"]
    async with (
        rapsqlite.connect(database, isolation_level=None) as first,
        rapsqlite.connect(database) as second,
    ):
        await first.set_trace_callback(traced.append)
        await first.execute(statements[0])
        await second.execute("CREATE TABLE bar (x)")
        await first.execute(statements[1])
        await first.set_trace_callback(None)

    assert traced == statements


@pytest.mark.parametrize("size, expected", [(1, "SELECT 1 AS a WHERE a='a'"), (128, "SELECT 1 AS a WHERE a=?")])
async def test_trace_leaves_out_values_that_are_too_long(size: int, expected: str) -> None:
    async def scenario(connection: Any) -> Any:
        traced: list[str] = []
        await connection.setlimit(rapsqlite.SQLITE_LIMIT_LENGTH, 128)
        await connection.set_trace_callback(traced.append)
        await connection.execute("SELECT 1 AS a WHERE a=?", ("a" * size,))
        return traced

    assert await agree(scenario, since=(3, 11)) == [expected]


async def test_trace_callback_with_a_wrong_signature_changes_nothing() -> None:
    async def scenario(connection: Any) -> Any:
        await connection.set_trace_callback(lambda first, second: None)
        return await column(connection, "SELECT 5")

    assert await agree(scenario) == [5]


async def test_authorizer_with_a_wrong_signature_denies() -> None:
    async def scenario(connection: Any) -> Any:
        await connection.set_authorizer(lambda: None)
        return await told(connection.execute, "SELECT 1")

    assert await agree(scenario, since=(3, 11)) == ("DatabaseError", "not authorized")


async def test_handlers_can_be_set_twice_and_removed() -> None:
    async def scenario(connection: Any) -> Any:
        for set_handler in (
            connection.set_trace_callback,
            lambda handler: connection.set_progress_handler(handler, 1),
            connection.set_authorizer,
        ):
            for _ in range(2):
                await set_handler(lambda *_: 0)
            await connection.execute("SELECT 1")
            await set_handler(None)
        return await column(connection, "SELECT 2")

    # set_authorizer(None) denies everything in Python 3.10.
    assert await agree(scenario, since=(3, 11)) == [2]


# -- authorizer ------------------------------------------------------------------------------------

TABLES = (
    "CREATE TABLE t1 (c1, c2); CREATE TABLE t2 (c1, c2); INSERT INTO t1 VALUES (1, 2); INSERT INTO t2 VALUES (4, 5)"
)


def raise_value_error() -> int:
    raise ValueError


@pytest.mark.parametrize("deny", [
    lambda: rapsqlite.SQLITE_DENY, raise_value_error, lambda: 0.0, lambda: 2**32,
], ids=["deny", "raise", "float", "large"])  # fmt: skip
@pytest.mark.parametrize("sql", ["SELECT * FROM t2", "SELECT c2 FROM t1"])
async def test_authorizer_denies(deny: Any, sql: str) -> None:
    """Any other value from the authorizer than a known code denies the statement, as in sqlite3."""

    def authorize(action: int, first: Any, second: Any, *_: object) -> Any:
        if action != rapsqlite.SQLITE_SELECT or first == "t2" or second == "c2":
            return deny()
        return rapsqlite.SQLITE_OK

    async def scenario(connection: Any) -> Any:
        await connection.executescript(TABLES)
        await connection.set_authorizer(authorize)
        name, message = await told(connection.execute, sql)
        await connection.set_authorizer(None)
        return name, "prohibited" in message, await told(connection.execute, sql)

    assert await agree(scenario, since=(3, 11)) == ("DatabaseError", True, NOTHING)


# -- tracebacks ------------------------------------------------------------------------------------


class Failing:
    """An aggregate whose step raises."""

    def step(self, *_: object) -> None:
        raise ZeroDivisionError

    def finalize(self) -> int:
        return 1


def failing(*_: object) -> int:
    raise ZeroDivisionError


@pytest.fixture
def tracebacks() -> Iterator[None]:
    rapsqlite.enable_callback_tracebacks(True)
    yield
    rapsqlite.enable_callback_tracebacks(False)


def details_of(unraisable: Any) -> Any:
    return unraisable.exc_type, unraisable.err_msg, unraisable.object


async def alone(scenario: Any) -> Any:
    """Run a scenario on ours, whatever sqlite3 would do."""
    async with rapsqlite.connect(":memory:") as connection:
        return await scenario(connection)


REGISTRATIONS = [
    (lambda c: c.create_function("f", 0, failing), "SELECT f()", failing),
    (lambda c: c.create_aggregate("f", 0, Failing), "SELECT f()", Failing),
    (lambda c: c.set_progress_handler(failing, 1), "CREATE TABLE t (a)", failing),
    (lambda c: c.set_authorizer(failing), "SELECT 1", failing),
    (lambda c: c.set_trace_callback(failing), "SELECT 1", failing),
]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 prints them")
@pytest.mark.usefixtures("tracebacks")
@pytest.mark.parametrize("register, sql, registered", REGISTRATIONS)
async def test_traceback_of_a_callback_is_unraisable(
    register: Any, sql: str, registered: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda *given: seen.append(details_of(*given)))

    async def scenario(connection: Any) -> Any:
        seen.clear()
        await register(connection)
        await told(connection.execute, sql)
        return seen[0]

    # The message names the callback from Python 3.14 on, and differs before.
    named = (ZeroDivisionError, f"Exception ignored on sqlite3 callback {registered!r}", None)
    given = (ZeroDivisionError, None, registered)
    running = sys.version_info >= (3, 14)
    assert await agree(scenario) == (named if running else given)
    monkeypatch.setattr(_tracebacks, "_HAS_MESSAGE", not running)
    assert await alone(scenario) == (given if running else named)


@pytest.mark.skipif(sys.version_info >= (3, 11), reason="Python 3.11 has a hook for them")
@pytest.mark.usefixtures("tracebacks")
@pytest.mark.parametrize("register, sql, registered", REGISTRATIONS)
async def test_traceback_of_a_callback_is_printed(
    register: Any, sql: str, registered: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    async with rapsqlite.connect(":memory:") as connection:
        await register(connection)
        await told(connection.execute, sql)

    assert "ZeroDivisionError" in capsys.readouterr().err


class Unspeakable:
    """A callback that cannot even be named."""

    def __call__(self) -> None:
        raise ZeroDivisionError

    def __repr__(self) -> str:
        raise RuntimeError("no name")


@pytest.mark.usefixtures("tracebacks")
@pytest.mark.parametrize("message", [True, False])
async def test_callback_without_a_printable_name_fails_only_its_statement(
    message: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error while reporting once replaced the exception that was to be reported."""
    monkeypatch.setattr(_tracebacks, "_HAS_MESSAGE", message)
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    async with rapsqlite.connect(":memory:") as connection:
        await connection.create_function("f", 0, Unspeakable())
        with pytest.raises(rapsqlite.OperationalError, match="user-defined function raised exception") as caught:
            await connection.execute("SELECT f()")

        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert await connection.fetch_scalar("SELECT 1") == 1
    assert "RuntimeError: no name" in capsys.readouterr().err


async def test_tracebacks_are_printed_only_if_enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    async with rapsqlite.connect(":memory:") as connection:
        await connection.create_function("f", 0, failing)
        await told(connection.execute, "SELECT f()")

    assert seen == []
