"""CPython's scenarios for cursors: statements, parameters, counters, fetching."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from tests.compat.cpython.scenario import NOTHING, agree, column, told

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Step = Callable[[Any, Any], Awaitable[Any]]

SETUP = "CREATE TABLE test (id INTEGER PRIMARY KEY, name TEXT, income NUMBER, unique_test TEXT UNIQUE)"
SEVERAL = ("ProgrammingError", "You can only execute one statement at a time.")
SINCE_311 = pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 differs from later ones")


async def with_cursor(step: Step, **options: Any) -> Any:
    """Run a step with a connection and one of its cursors, on a table with one row."""

    async def scenario(connection: Any) -> Any:
        cursor = await connection.cursor()
        await cursor.execute(SETUP)
        await cursor.execute("INSERT INTO test (name) VALUES (?)", ("foo",))
        return await step(connection, cursor)

    return await agree(scenario, **options)


# -- statements ------------------------------------------------------------------------------------


@SINCE_311
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1; SELECT 2",
        "SELECT 1; // c++ comments are not allowed",
        "SELECT 1; *not a comment",
        "SELECT 1; -*not a comment",
        "SELECT 1; /* */ a",
        "SELECT 1; /**/a",
        "SELECT 1; -",
        "SELECT 1; /",
        "SELECT 1; -\n- SELECT 2",
        "SELECT 1;\n -- comment\n SELECT 2",
    ],
)
async def test_more_than_one_statement_is_refused(sql: str) -> None:
    async def step(connection: Any, cursor: Any) -> Any:
        return await told(cursor.execute, sql), await told(connection.execute, sql)

    assert await with_cursor(step) == (SEVERAL, SEVERAL)


@pytest.mark.parametrize(
    "sql", ["SELECT 1; -- foo", "SELECT 1; --", "SELECT 1; /*", "\n SELECT 5+4;\n\n /*\n foo\n */\n"]
)
async def test_comments_after_the_statement_are_accepted(sql: str) -> None:
    async def step(connection: Any, cursor: Any) -> Any:
        await cursor.execute(sql)
        return len(await cursor.fetchall())

    assert await with_cursor(step) == 1


async def test_statement_without_parameters_runs_and_a_wrong_one_raises() -> None:
    async def step(connection: Any, cursor: Any) -> Any:
        return await told(cursor.execute, "DELETE FROM test"), await told(cursor.execute, "SELECT asdf")

    assert await with_cursor(step) == (NOTHING, ("OperationalError", "no such column: asdf"))


@pytest.mark.parametrize("sql", ["\0SELECT 1", "SELECT 1\0"])
async def test_null_character_in_a_statement_is_refused(sql: str) -> None:
    async def step(connection: Any, cursor: Any) -> Any:
        return await told(cursor.execute, sql), await told(connection.execute, sql)

    error = "ProgrammingError" if sys.version_info >= (3, 11) else "ValueError"
    assert await with_cursor(step) == ((error, "the query contains a null character"),) * 2


@pytest.mark.parametrize("text", [chr(0xD8FF), chr(0xDCFF)])
@pytest.mark.parametrize("verb", ["execute", "executemany", "executescript"])
async def test_lone_surrogates_in_a_statement_are_refused(verb: str, text: str) -> None:
    async def step(connection: Any, cursor: Any) -> Any:
        given: Any = (f"SELECT '{text}'", []) if verb == "executemany" else (f"SELECT '{text}'",)
        return [(await told(getattr(owner, verb), *given))[0] for owner in (connection, cursor)]

    assert await with_cursor(step, since=(3, 11)) == ["UnicodeEncodeError"] * 2


async def test_null_character_in_a_script_is_a_value_error() -> None:
    async def step(connection: Any, cursor: Any) -> Any:
        return await told(cursor.executescript, "CREATE TABLE a (i);\0 INSERT INTO a VALUES (5)")

    # Python 3.10 runs what comes before it.
    assert await with_cursor(step, since=(3, 11)) == ("ValueError", "embedded null character")


@pytest.mark.parametrize(
    "script", ["CREATE TABLE u (x); asdf; CREATE TABLE v (x)", "CREATE TABLE u (x); SELECT foo FROM hurz;"]
)
async def test_script_with_an_error_raises_and_keeps_what_ran_before(script: str) -> None:
    async def step(connection: Any, cursor: Any) -> Any:
        raised = await told(cursor.executescript, script)
        return raised[0], await column(connection, "SELECT name FROM sqlite_master WHERE name IN ('u', 'v')")

    assert await with_cursor(step) == ("OperationalError", ["u"])


async def test_script_runs_comments_and_statements() -> None:
    async def step(connection: Any, cursor: Any) -> Any:
        await cursor.executescript("-- bla\n /* a comment */ CREATE TABLE a (i); INSERT INTO a VALUES (5);")
        return await column(connection, "SELECT i FROM a")

    assert await with_cursor(step) == [5]


async def test_script_steps_through_all_rows_of_a_select() -> None:
    async def scenario(connection: Any) -> Any:
        seen: list[Any] = []
        await connection.executescript("CREATE TABLE t (t); INSERT INTO t VALUES (0), (1), (2), (3), (4)")
        await connection.create_function("step", 1, seen.append)
        await connection.executescript("SELECT step(t) FROM t")
        return seen

    assert await agree(scenario) == [0, 1, 2, 3, 4]


# -- parameters ------------------------------------------------------------------------------------


class Sequence:
    """What sqlite3 considers a sequence: a length and items."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class Immeasurable(Sequence):
    def __len__(self) -> int:
        return 1 // 0


class Making(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "foo"


@pytest.mark.parametrize("value", [42, 2500.32, "Hugo", "Hu\0go", None, b"blob", "\xd6sterreich"])
async def test_value_is_stored_and_read(value: Any) -> None:
    async def step(connection: Any, cursor: Any) -> Any:
        await cursor.execute("INSERT INTO test (unique_test) VALUES (?)", (value,))
        return await column(connection, "SELECT unique_test FROM test WHERE id = ?", (cursor.lastrowid,))

    expected = str(value) if isinstance(value, int | float) else value
    assert await with_cursor(step) == [expected]


@pytest.mark.parametrize("sql, given", [
    ("name = ?", ["foo"]), ("name = ?", Sequence(["foo"])), ("name = :name", {"name": "foo"}),
    ("name = :name", Making()),
])  # fmt: skip
async def test_parameters_are_a_sequence_or_a_mapping(sql: str, given: Any) -> None:
    async def step(connection: Any, cursor: Any) -> Any:
        return await column(connection, f"SELECT name FROM test WHERE {sql}", given)

    assert await with_cursor(step) == ["foo"]


@pytest.mark.parametrize("sql, given", [
    ("id = ?", (17, "Egon")), ("id = ?", ()), ("id = ?", None), ("name = :name AND id = :id", {"name": "foo"}),
    ("name = :name", None), ("name = ?", {"name": "foo"}),
])  # fmt: skip
async def test_parameters_that_do_not_fit_the_statement_are_refused(sql: str, given: Any) -> None:
    async def step(connection: Any, cursor: Any) -> Any:
        arguments = () if given is None else (given,)
        return await told(cursor.execute, f"SELECT * FROM test WHERE {sql}", *arguments)

    assert (await with_cursor(step))[0] == "ProgrammingError"


async def test_parameters_must_be_a_sequence() -> None:
    async def step(connection: Any, cursor: Any) -> Any:
        return await told(cursor.execute, "INSERT INTO test (id) VALUES (?)", 42)

    error = "ProgrammingError" if sys.version_info >= (3, 11) else "ValueError"
    assert await with_cursor(step) == (error, "parameters are of unsupported type")


async def test_exception_of_a_sequence_is_propagated() -> None:
    async def step(connection: Any, cursor: Any) -> Any:
        return (await told(cursor.execute, "SELECT name FROM test WHERE name = ?", Immeasurable(["foo"])))[0]

    assert await with_cursor(step) == "ZeroDivisionError"


@pytest.mark.parametrize("sql, expected", [("SELECT ?1, ?2", (1, 2)), ("SELECT ?2, ?1", (2, 1))])
async def test_numbered_placeholders_are_not_names(sql: str, expected: Any) -> None:
    async def step(connection: Any, cursor: Any) -> Any:
        await cursor.execute(sql, (1, 2))
        return await cursor.fetchall()

    # The first releases of Python 3.12 treat ?1 as a name, and warn.
    has_rule = sys.version_info < (3, 12) or sys.version_info >= (3, 13)
    assert await with_cursor(step, since=(3, 10) if has_rule else (3, 13)) == [expected]


async def test_more_variables_than_the_limit_are_refused() -> None:
    async def step(connection: Any, cursor: Any) -> Any:
        await connection.setlimit(rapsqlite.SQLITE_LIMIT_VARIABLE_NUMBER, 1)
        one = await told(cursor.execute, "SELECT * FROM test WHERE id = ?", (1,))
        return one, await told(cursor.execute, "SELECT * FROM test WHERE id != ? AND id != ?", (1, 2))

    assert await with_cursor(step, since=(3, 11)) == (NOTHING, ("OperationalError", "too many SQL variables"))


async def test_subclass_of_str_is_text() -> None:
    class Text(str):
        __slots__ = ()

    async def step(connection: Any, cursor: Any) -> Any:
        return await column(connection, "SELECT ?", (Text("abc"),))

    assert await with_cursor(step) == ["abc"]


async def test_list_that_an_adapter_empties_is_an_index_error() -> None:
    parameters: list[Any] = []

    class Emptying:
        def __conform__(self, protocol: object) -> str:
            parameters.clear()
            return "..."

    async def step(connection: Any, cursor: Any) -> Any:
        parameters[:] = [Emptying(), 0]
        return (await told(cursor.execute, "INSERT INTO test (name, income) VALUES (?, ?)", parameters))[0]

    assert await with_cursor(step) == "IndexError"


# -- executemany -----------------------------------------------------------------------------------


class Counting:
    def __init__(self) -> None:
        self.value = 5

    def __iter__(self) -> Counting:
        return self

    def __next__(self) -> tuple[int]:
        if self.value == 10:
            raise StopIteration
        self.value += 1
        return (self.value,)


@pytest.mark.parametrize("make", [
    lambda: [(number,) for number in range(6, 11)], Counting, lambda: ((number,) for number in range(6, 11)),
])  # fmt: skip
async def test_executemany_takes_sequences_iterators_and_generators(make: Callable[[], Any]) -> None:
    async def step(connection: Any, cursor: Any) -> Any:
        await cursor.executemany("INSERT INTO test (income) VALUES (?)", make())
        return cursor.rowcount, await column(connection, "SELECT income FROM test WHERE income > 0")

    assert await with_cursor(step) == (5, [6, 7, 8, 9, 10])


async def test_connection_has_the_execute_methods_of_a_cursor() -> None:
    async def scenario(connection: Any) -> Any:
        await connection.executescript("CREATE TABLE test (foo); INSERT INTO test VALUES (5);")
        await connection.executemany("INSERT INTO test VALUES (?)", [(3,), (4,)])
        return await column(connection, "SELECT foo FROM test ORDER BY foo")

    assert await agree(scenario) == [3, 4, 5]


# -- counters --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sql, expected", [
    ("UPDATE test SET name = 'bar'", 3), ("SELECT 5 UNION SELECT 6", -1), ("DELETE FROM test", 3),
    ("-- foo\n INSERT INTO test (name) VALUES ('foo'), ('foo')", 2),
    ("/* -- messy *r /* /* ** *- *--\n */ /* one more */ INSERT INTO test (name) VALUES ('messy')", 1),
    ("/* bar */ UPDATE test SET name = 'bar' WHERE name = 'foo'", 3), ("VACUUM", -1),
])  # fmt: skip
async def test_rowcount_counts_the_rows_a_statement_changed(sql: str, expected: int) -> None:
    async def step(connection: Any, cursor: Any) -> Any:
        await cursor.executemany("INSERT INTO test (name) VALUES (?)", [("foo",), ("foo",)])
        after_many = cursor.rowcount
        await connection.commit()
        await cursor.execute(sql)
        return after_many, cursor.rowcount

    assert await with_cursor(step, since=(3, 11)) == (2, expected)


async def test_rowcount_of_returning_is_known_after_the_last_row() -> None:
    async def step(connection: Any, cursor: Any) -> Any:
        await cursor.execute("UPDATE test SET name = 'bar' WHERE name = 'foo' RETURNING 1")
        row = await cursor.fetchone()
        return row, await cursor.fetchone(), cursor.rowcount

    assert await with_cursor(step, since=(3, 11)) == ((1,), None, 1)


async def test_total_changes_counts_every_change() -> None:
    async def step(connection: Any, cursor: Any) -> Any:
        await cursor.execute("INSERT INTO test (name) VALUES ('foo')")
        await cursor.execute("INSERT INTO test (name) VALUES ('foo')")
        return connection.total_changes

    assert await with_cursor(step) == 3


@pytest.mark.parametrize("statement", ["INSERT OR REPLACE", "REPLACE"])
async def test_replace_sets_lastrowid(statement: str) -> None:
    async def step(connection: Any, cursor: Any) -> Any:
        await cursor.execute(f"{statement} INTO test (id, unique_test) VALUES (?, ?)", (1, "foo"))
        return cursor.lastrowid

    assert await with_cursor(step) == 1


async def test_ignored_insert_leaves_lastrowid_unchanged() -> None:
    async def step(connection: Any, cursor: Any) -> Any:
        seen = []
        for _ in range(2):
            await cursor.execute("INSERT OR IGNORE INTO test (unique_test) VALUES (?)", ("test",))
            seen.append(cursor.lastrowid)
        return seen

    assert await with_cursor(step) == [2, 2]


@pytest.mark.parametrize("conflict", ["FAIL", "ABORT", "ROLLBACK"])
async def test_failed_insert_leaves_lastrowid_unchanged(conflict: str) -> None:
    async def step(connection: Any, cursor: Any) -> Any:
        sql = f"INSERT OR {conflict} INTO test (unique_test) VALUES (?)"
        await cursor.execute(sql, (conflict,))
        first = cursor.lastrowid
        raised = await told(cursor.execute, sql, (conflict,))
        return first, raised[0], cursor.lastrowid

    assert await with_cursor(step) == (2, "IntegrityError", 2)


# -- fetching --------------------------------------------------------------------------------------


async def test_arraysize_is_the_default_of_fetchmany() -> None:
    async def step(connection: Any, cursor: Any) -> Any:
        default, cursor.arraysize = cursor.arraysize, 2
        await cursor.executescript("INSERT INTO test (name) VALUES ('A'), ('B'), ('C')")
        await cursor.execute("SELECT name FROM test")
        return default, [len(await cursor.fetchmany()) for _ in range(3)]

    assert await with_cursor(step) == (1, [2, 2, 0])


async def test_fetching_past_the_end_returns_no_rows() -> None:
    async def step(connection: Any, cursor: Any) -> Any:
        seen: list[Any] = []
        for fetch in (
            cursor.fetchone,
            cursor.fetchall,
            lambda: cursor.fetchmany(100),
            lambda: cursor.fetchmany(size=9),
        ):
            await cursor.execute("SELECT name FROM test")
            seen.append((await fetch(), await fetch()))
        return seen

    row, rows = ("foo",), [("foo",)]
    assert await with_cursor(step) == [(row, None), (rows, []), (rows, []), (rows, [])]


async def test_setinputsizes_and_setoutputsize_do_nothing() -> None:
    async def step(connection: Any, cursor: Any) -> Any:
        return cursor.setinputsizes([3, 4, 5]), cursor.setoutputsize(5, 0), cursor.setoutputsize(42)

    assert await with_cursor(step) == (None, None, None)


async def test_description_follows_the_table_of_a_cached_statement() -> None:
    async def step(connection: Any, cursor: Any) -> Any:
        counts = []
        for sql in ("SELECT 1", "ALTER TABLE test ADD newcol"):
            await cursor.execute(sql)
            counts.append(len((await connection.execute("SELECT * FROM test")).description))
        return counts

    assert await with_cursor(step) == [4, 5]


async def test_same_statement_runs_in_several_cursors() -> None:
    async def step(connection: Any, cursor: Any) -> Any:
        cursors = [await connection.execute("SELECT 1") for _ in range(3)]
        return [await each.fetchall() for each in cursors]

    assert await with_cursor(step) == [[(1,)]] * 3


async def test_cursor_belongs_to_its_connection() -> None:
    async with rapsqlite.connect(":memory:") as connection:
        assert (await connection.cursor()).connection is connection
        with pytest.raises((TypeError, AttributeError)):
            rapsqlite.Cursor(object())  # type: ignore[arg-type]


@pytest.mark.parametrize("verb, given", [
    ("execute", ("SELECT 4 UNION SELECT 5",)), ("executemany", ("INSERT INTO test (name) VALUES (?)", [(3,), (4,)])),
    ("executescript", ("SELECT 4",)), ("fetchall", ()), ("fetchmany", ()), ("fetchone", ()),
])  # fmt: skip
async def test_closed_cursor_refuses_every_verb(verb: str, given: Any) -> None:
    async def step(connection: Any, cursor: Any) -> Any:
        await cursor.close()
        return await told(getattr(cursor, verb), *given)

    assert await with_cursor(step) == ("ProgrammingError", "Cannot operate on a closed cursor.")


# -- ON CONFLICT -----------------------------------------------------------------------------------


@pytest.mark.parametrize("begins", [True, False])
@pytest.mark.parametrize("conflict, expected", [
    ("ROLLBACK", []), ("ABORT", [("kept", None), (None, "foo")]), ("FAIL", [("kept", None), (None, "foo")]),
    ("IGNORE", [("kept", None), (None, "foo")]), ("REPLACE", [("kept", None), (None, "foo")]),
])  # fmt: skip
async def test_conflict_clause_decides_what_is_kept(conflict: str, expected: Any, begins: bool) -> None:
    async def scenario(connection: Any) -> Any:
        await connection.execute("CREATE TABLE test (id INTEGER PRIMARY KEY, name TEXT, unique_name TEXT UNIQUE)")
        if begins:
            connection.isolation_level = None
            await connection.execute("BEGIN")
        await connection.execute("INSERT INTO test (name) VALUES ('kept')")
        insert = f"INSERT OR {conflict} INTO test (unique_name) VALUES ('foo')"
        raised = [(await told(connection.execute, insert))[0] for _ in range(2)]
        await connection.commit()
        cursor = await connection.execute("SELECT name, unique_name FROM test ORDER BY name IS NULL")
        return raised, await cursor.fetchall()

    second = "nothing" if conflict in ("IGNORE", "REPLACE") else "IntegrityError"
    assert await agree(scenario) == (["nothing", second], expected)
