"""Collations and hooks on changes cannot fail in SQLite: their exceptions fail the statement, and undo it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

HOOKS = ["set_update_hook", "set_preupdate_hook"]
each_hook = pytest.mark.parametrize("setter", HOOKS)


def fail(*_: object) -> Any:
    raise ZeroDivisionError("on purpose")


class FailsOnce:
    """A callback that raises at its n-th call, and counts."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.calls = 0

    def __call__(self, *_: object) -> Any:
        self.calls += 1
        if self.calls == self.at:
            raise ZeroDivisionError("on purpose")


@pytest.fixture
async def conn(database: Path) -> AsyncIterator[rapsqlite.Connection]:
    async with rapsqlite.connect(database, isolation_level=None) as connection:
        await connection.executescript("CREATE TABLE t (a INTEGER PRIMARY KEY, b); INSERT INTO t VALUES (1, 'one')")
        yield connection


async def assert_only_the_first_row(conn: rapsqlite.Connection, database: Path) -> None:
    """Check this connection, another one, and the state after the next commit."""
    assert not conn.in_transaction
    await conn.execute("CREATE TABLE other (a)")
    for reader in (conn, await rapsqlite.connect(database)):
        assert await reader.fetch_all("SELECT a, b FROM t") == [[1, "one"]]
        assert await reader.fetch_scalar("PRAGMA integrity_check") == "ok"
    await reader.close()


@each_hook
@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t VALUES (2, 'two')",
        "INSERT INTO t VALUES (2, 'two') RETURNING a",
        "INSERT INTO t SELECT value, value FROM json_each('[2, 3, 4, 5]')",
        "UPDATE t SET b = 'changed'",
        "DELETE FROM t WHERE a = 1",
        "REPLACE INTO t VALUES (1, 'changed')",
    ],
)
@pytest.mark.parametrize("verb", ["execute", "fetch_all"])
async def test_statement_that_is_its_own_transaction_is_undone(
    conn: rapsqlite.Connection, database: Path, setter: str, sql: str, verb: str
) -> None:
    await getattr(conn, setter)(fail)

    with pytest.raises(rapsqlite.OperationalError, match=r"user-defined (pre)?update hook raised exception") as caught:
        await getattr(conn, verb)(sql)

    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    await getattr(conn, setter)(None)
    await assert_only_the_first_row(conn, database)


@each_hook
@pytest.mark.parametrize("many", [1, 5000], ids=["one row", "many rows"])
async def test_transaction_of_the_statement_is_rolled_back(
    conn: rapsqlite.Connection, database: Path, setter: str, many: int
) -> None:
    """As SQLite does with every interrupted change; the statement alone cannot be undone."""
    await conn.begin()
    await conn.execute("INSERT INTO t VALUES (-2, 'before')")
    hook = FailsOnce(1)
    await getattr(conn, setter)(hook)
    rows = f"WITH c(x) AS (SELECT 2 UNION ALL SELECT x + 1 FROM c LIMIT {many}) SELECT x, x FROM c"
    with pytest.raises(rapsqlite.OperationalError, match="update hook raised exception"):
        await conn.execute(f"INSERT INTO t {rows}")

    assert hook.calls == 1
    await getattr(conn, setter)(None)
    await assert_only_the_first_row(conn, database)


@each_hook
async def test_none_of_the_sets_of_executemany_is_kept(conn: rapsqlite.Connection, database: Path, setter: str) -> None:
    hook = FailsOnce(3)
    await getattr(conn, setter)(hook)
    await conn.begin()
    with pytest.raises(rapsqlite.OperationalError, match="update hook raised exception"):
        await conn.executemany("INSERT INTO t VALUES (?, 0)", [(key,) for key in range(10, 20)])

    assert hook.calls == 3
    await getattr(conn, setter)(None)
    await assert_only_the_first_row(conn, database)


@each_hook
async def test_script_ends_where_the_hook_raises(conn: rapsqlite.Connection, database: Path, setter: str) -> None:
    await getattr(conn, setter)(fail)
    with pytest.raises(rapsqlite.OperationalError, match="update hook raised exception"):
        await conn.executescript("BEGIN; INSERT INTO t VALUES (2, 2); COMMIT; CREATE TABLE never (a)")

    await getattr(conn, setter)(None)
    assert await conn.get_tables() == ["t"]
    await assert_only_the_first_row(conn, database)


async def test_index_is_not_built_from_arbitrary_comparisons(conn: rapsqlite.Connection, database: Path) -> None:
    """SQLite continues with an arbitrary result for a collation that raised: the index would be damaged permanently."""

    def compare(left: str, right: str) -> int:
        if fails:
            raise ZeroDivisionError("on purpose")
        return (left > right) - (left < right)

    fails = False
    await conn.create_collation("c", compare)
    await conn.executescript("CREATE TABLE words (w TEXT COLLATE c UNIQUE); INSERT INTO words VALUES ('b'), ('d')")
    for sql in ("INSERT INTO words VALUES ('c')", "UPDATE words SET w = w || 'x'", "REINDEX words"):
        fails = True
        with pytest.raises(rapsqlite.OperationalError, match="user-defined collation raised exception") as caught:
            await conn.execute(sql)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)

        fails = False
        assert not conn.in_transaction
        assert await conn.fetch_all("SELECT w FROM words ORDER BY w") == [["b"], ["d"]]
        assert await conn.fetch_scalar("PRAGMA integrity_check") == "ok"
    await conn.execute("INSERT INTO words VALUES ('a')")
    await conn.execute("DROP TABLE words")
    await assert_only_the_first_row(conn, database)


async def test_failed_query_does_not_roll_back_the_transaction(conn: rapsqlite.Connection) -> None:
    await conn.create_collation("c", fail)
    await conn.begin()
    await conn.execute("INSERT INTO t VALUES (2, 'two')")
    with pytest.raises(rapsqlite.OperationalError, match="collation raised exception"):
        await conn.fetch_all("SELECT b FROM t ORDER BY b COLLATE c")

    assert conn.in_transaction
    await conn.commit()
    assert await conn.fetch_all("SELECT a FROM t") == [[1], [2]]


async def test_statement_with_rows_left_continues(conn: rapsqlite.Connection, database: Path) -> None:
    """Only the failed statement ends."""
    count = "WITH c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 20000) SELECT x FROM c"
    await conn.create_collation("c", fail)
    await conn.set_update_hook(fail)
    rows = conn.stream(count)
    first = await anext(rows)

    with pytest.raises(rapsqlite.OperationalError, match="collation raised exception"):
        await conn.fetch_all('SELECT value FROM json_each(\'["b", "a"]\') ORDER BY value COLLATE c')
    with pytest.raises(rapsqlite.OperationalError, match="update hook raised exception"):
        await conn.execute("INSERT INTO t VALUES (2, 2)")

    assert [first, *[row async for row in rows]] == [[number] for number in range(1, 20_001)]
    await conn.set_update_hook(None)
    await assert_only_the_first_row(conn, database)


@pytest.mark.parametrize("begins", [False, True], ids=["on its own", "in a transaction"])
async def test_write_to_a_blob_is_undone(conn: rapsqlite.Connection, database: Path, begins: bool) -> None:
    if begins:
        await conn.begin()
    blob = await conn.blobopen("t", "b", 1)
    await conn.set_preupdate_hook(fail)
    with pytest.raises(rapsqlite.OperationalError, match="preupdate hook raised exception"):
        await blob.write(b"!!!")

    await conn.set_preupdate_hook(None)
    await blob.close()
    await assert_only_the_first_row(conn, database)
    async with conn.blobopen("t", "b", 1) as again:
        await again.write(b"two")
    assert await conn.fetch_scalar("SELECT b FROM t") == "two"


async def test_authorizer_that_denies_rollback_does_not_keep_the_change(
    conn: rapsqlite.Connection, database: Path
) -> None:
    await conn.set_update_hook(fail)
    await conn.begin()
    await conn.set_authorizer(lambda _action, first, *_: int(first == "ROLLBACK"))
    with pytest.raises(rapsqlite.OperationalError, match="update hook raised exception"):
        await conn.execute("INSERT INTO t VALUES (2, 2)")

    assert conn.in_transaction
    with pytest.raises(rapsqlite.IntegrityError, match="refused the commit"):
        await conn.commit()
    await conn.set_authorizer(None)
    await conn.set_update_hook(None)
    await assert_only_the_first_row(conn, database)


async def test_rollback_hook_is_called(conn: rapsqlite.Connection) -> None:
    """SQLite calls it for the rollback that a hook's exception causes, as for any other."""
    seen: list[str] = []
    await conn.set_rollback_hook(lambda: seen.append("rolled back"))
    await conn.set_update_hook(fail)

    for begins in (False, True):
        if begins:
            await conn.begin()
        with pytest.raises(rapsqlite.OperationalError, match="update hook raised exception"):
            await conn.execute("INSERT INTO t VALUES (2, 2)")

    assert seen == ["rolled back"] * 2
