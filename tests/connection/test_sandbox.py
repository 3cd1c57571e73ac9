"""Untrusted SQL reaches, uses and changes only what ``limits`` allow; without them, the same as in sqlite3."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from rapsqlite import _constants as abi
from rapsqlite import connect
from rapsqlite._files.file_table import FileTable
from rapsqlite._guest.guest import Guest
from rapsqlite._values.limits import LEAST_MEMORY_BYTES
from rapsqlite._wasm.rings import Request
from tests.played_time import let_killed_guests_end_late, play_time_limits

if TYPE_CHECKING:
    from pathlib import Path

    from rapsqlite import Limits

NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n {}) SELECT {} FROM n"
ENDLESS = NUMBERS.format("", "sum(i)")
# One step of SQLite's virtual machine that takes practically forever: millions of comparisons of megabytes.
ENDLESS_STEP = "SELECT instr(hex(zeroblob(10000000)), hex(zeroblob(4000000)) || '1')"


def make(path: Path, value: str) -> None:
    """Create a database with one row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as native:
        native.execute("CREATE TABLE t (v)")
        native.execute("INSERT INTO t VALUES (?)", (value,))


def make_folder(folder: Path) -> Path:
    """Create a tenant's directory, a directory off limits to the tenant, links between them, and one to work in."""
    make(folder / "tenant" / "main.db", "main")
    make(folder / "tenant" / "deeper" / "below.db", "below")
    make(folder / "tenant-two" / "secret.db", "secret")
    (folder / "tenant" / "link.db").symlink_to("../tenant-two/secret.db")
    (folder / "tenant" / "out").symlink_to("../tenant-two")
    (folder / "work").mkdir()
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directories of `make_folder`, with the third as the working directory."""
    made = make_folder(tmp_path / "folder")
    monkeypatch.chdir(made / "work")
    return made


def tree(root: Path) -> dict[str, bytes]:
    """Return the content of every file below a directory."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


OUTSIDE = [
    pytest.param("{folder}/tenant-two/secret.db", id="absolute"),
    pytest.param("{folder}/tenant/link.db", id="link to a file"),
    pytest.param("{folder}/tenant/out/secret.db", id="link to a directory"),
    pytest.param("../tenant-two/secret.db", id="up and down"),
    pytest.param("../tenant/deeper/../../tenant-two/secret.db", id="in and out"),
    pytest.param("../tenant-two/new.db", id="new"),
    pytest.param("new.db", id="new in the working directory"),
    pytest.param("file:{folder}/tenant-two/secret.db?mode=rwc", id="URI"),
    pytest.param("file:../tenant/%2e%2e/tenant-two/secret%2edb", id="URI with escapes"),
    pytest.param("file://localhost{folder}/tenant-two/secret.db?immutable=1&nolock=1", id="URI without locks"),
]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("verb", ["ATTACH", "VACUUM INTO"])
async def test_without_limits_names_mean_the_same_as_in_sqlite3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, verb: str
) -> None:
    """Programs written for aiosqlite attach arbitrary files."""
    outcomes = []
    for library in ("native", "ours"):
        here = make_folder(tmp_path / library)
        monkeypatch.chdir(here / "work")
        connection = connect(here / "tenant" / "main.db", uri=True, isolation_level=None)
        with closing(sqlite3.connect(here / "tenant" / "main.db", uri=True, isolation_level=None)) as native:
            async with connection as ours:
                rows: list[Any] = []
                try:
                    for sql, parameters in _statements(verb, name.format(folder=here)):
                        if library == "ours":
                            rows += await ours.execute_fetchall(sql, parameters)
                        else:
                            rows += native.execute(sql, parameters).fetchall()
                except sqlite3.Error as error:
                    rows.append(str(error).partition(" (")[0])
        outcomes.append((rows, tree(here).keys()))

    assert outcomes[0] == outcomes[1]


def _statements(verb: str, name: str) -> list[tuple[str, tuple[str, ...]]]:
    if verb == "VACUUM INTO":
        return [("VACUUM INTO ?", (name,))]
    return [
        ("ATTACH ? AS other", (name,)),
        ("SELECT count(*) FROM other.sqlite_schema", ()),
        ("CREATE TABLE IF NOT EXISTS other.u (v)", ()),
        ("SELECT name FROM other.sqlite_schema", ()),
    ]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("verb", ["ATTACH", "VACUUM INTO"])
async def test_limits_keep_files_outside_the_granted_directories_unreachable(
    folder: Path, name: str, verb: str
) -> None:
    before = tree(folder)
    limits: Limits = {"directories": [folder / "tenant"]}

    async with connect(folder / "tenant" / "main.db", uri=True, isolation_level=None, limits=limits) as conn:
        sql, parameters = _statements(verb, name.format(folder=folder))[0]
        with pytest.raises(rapsqlite.OperationalError, match=r"not granted.*directories") as caught:
            await conn.execute(sql, parameters)
        assert caught.value.sqlite_errorcode & 0xFF == rapsqlite.SQLITE_CANTOPEN
        assert await conn.fetch_all("SELECT v FROM t") == [["main"]]

    assert tree(folder) == before


@pytest.mark.parametrize("name", ["deeper/below.db", "main.db-journal", "main.db-wal", "main.db-shm", "other.db"])
async def test_limits_without_directories_grant_only_the_database(folder: Path, name: str) -> None:
    """Not even neighbouring files: they may belong to other tenants."""
    before = tree(folder)

    async with connect(folder / "tenant" / "main.db", isolation_level=None, limits={}) as conn:
        for verb in ("ATTACH ? AS other", "VACUUM INTO ?"):
            with pytest.raises(rapsqlite.OperationalError, match="not granted"):
                await conn.execute(verb, (str(folder / "tenant" / name),))
        await conn.execute("ATTACH ? AS same", (str(folder / "tenant" / "main.db"),))
        await conn.execute("ATTACH ':memory:' AS scratch")
        await conn.execute("CREATE TABLE scratch.u (v)")

    assert tree(folder) == before


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
async def test_transaction_may_span_databases_in_granted_directories(folder: Path, mode: str) -> None:
    """The super-journal lies next to the main database, whose directory is not granted."""
    make(folder / "shared" / "other.db", "other")
    limits: Limits = {"directories": [folder / "shared"]}
    async with connect(folder / "tenant" / "main.db", isolation_level=None, limits=limits) as conn:
        await conn.execute("ATTACH ? AS other", (str(folder / "shared" / "other.db"),))
        await conn.execute(f"PRAGMA main.journal_mode = {mode}")
        await conn.execute("BEGIN")
        await conn.execute("UPDATE main.t SET v = 1")
        await conn.execute("UPDATE other.t SET v = 1")
        await conn.execute("COMMIT")

    for path in (folder / "tenant" / "main.db", folder / "shared" / "other.db"):
        with closing(sqlite3.connect(path)) as native:
            assert native.execute("SELECT v FROM t").fetchall() == [(1,)]


async def test_read_only_limit_changes_nothing_on_disk(folder: Path) -> None:
    before = tree(folder)
    limits: Limits = {"read_only": True, "directories": [folder]}

    async with connect(folder / "tenant" / "main.db", uri=True, isolation_level=None, limits=limits) as conn:
        await conn.execute("ATTACH ? AS other", (str(folder / "tenant-two" / "secret.db"),))
        assert await conn.fetch_all("SELECT v FROM other.t") == [["secret"]]
        for sql in (
            "INSERT INTO t VALUES (1)",
            "INSERT INTO other.t VALUES (1)",
            "CREATE TABLE u (v)",
            "PRAGMA user_version = 5",
            "VACUUM",
            f"VACUUM INTO '{folder}/tenant/copy.db'",
            f"ATTACH '{folder}/tenant/new.db' AS new",
            f"ATTACH 'file:{folder}/tenant-two/secret.db?mode=rwc' AS writable",
        ):
            with pytest.raises(rapsqlite.OperationalError):
                await conn.execute(sql)
        await conn.execute("CREATE TEMP TABLE scratch AS SELECT * FROM t")

    assert tree(folder) == before


def rights_of_mappings(name: str) -> set[str]:
    """Return the access rights with which files of that name are mapped into this process."""
    with open("/proc/self/maps") as maps:
        return {line.split()[1] for line in maps if name in line}


READS_ALONE: Limits = {"read_only": True}


async def test_read_only_limit_follows_what_others_write_to_a_wal(database: Path) -> None:
    """The host opens the WAL and its index read-only, which SQLite supports."""
    with closing(sqlite3.connect(database, isolation_level=None)) as native:
        native.execute("PRAGMA journal_mode = WAL")
        native.execute("CREATE TABLE t (v)")
        async with connect(database, isolation_level=None, limits=READS_ALONE) as conn:
            for number in range(20):
                native.execute("INSERT INTO t VALUES (?)", (number,))
                assert await conn.fetch_scalar("SELECT count(*) FROM t") == number + 1
                if number % 5 == 4:
                    native.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            await conn.execute("BEGIN")
            assert await conn.fetch_scalar("SELECT count(*) FROM t") == 20
            native.execute("INSERT INTO t VALUES (20)")
            assert native.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[0] == 0
            native.execute("INSERT INTO t VALUES (21)")
            assert await conn.fetch_scalar("SELECT count(*) FROM t") == 20
            await conn.execute("COMMIT")
            assert await conn.fetch_scalar("SELECT count(*) FROM t") == 22


async def test_read_only_limit_reads_a_wal_that_no_process_has_open(folder: Path) -> None:
    """For a database in WAL mode SQLite needs a WAL and an index: they may be created, and stay empty."""
    path = folder / "work" / "wal.db"
    make(path, "old")
    with closing(sqlite3.connect(path, isolation_level=None)) as native:
        native.execute("PRAGMA journal_mode = WAL")
    before = tree(folder)

    async with connect(path, isolation_level=None, limits=READS_ALONE) as conn:
        assert await conn.fetch_all("SELECT v FROM t") == [["old"]]
        for sql in ("INSERT INTO t VALUES (1)", "PRAGMA journal_mode = DELETE", "PRAGMA user_version = 5"):
            with pytest.raises(rapsqlite.OperationalError):
                await conn.execute(sql)
        assert tree(folder) == before | {"work/wal.db-wal": b"", "work/wal.db-shm": b""}
        with closing(sqlite3.connect(path, isolation_level=None)) as native:
            native.execute("UPDATE t SET v = 'new'")
            assert await conn.fetch_all("SELECT v FROM t") == [["new"]]


async def test_read_only_limit_reads_a_wal_left_by_a_crash(folder: Path) -> None:
    path = folder / "work" / "wal.db"
    make(path, "old")
    with closing(sqlite3.connect(path, isolation_level=None)) as native:
        native.execute("PRAGMA journal_mode = WAL")
        native.execute("UPDATE t SET v = 'committed'")
        left = {end: path.with_name(path.name + end).read_bytes() for end in ("", "-wal")}
    for end, content in left.items():
        (folder / "work" / ("left.db" + end)).write_bytes(content)
    before = tree(folder)

    async with connect(folder / "work" / "left.db", isolation_level=None, limits=READS_ALONE) as conn:
        assert await conn.fetch_all("SELECT v FROM t") == [["committed"]]
        assert rights_of_mappings("left.db") <= {"r--s"}

    assert tree(folder) == before | {"work/left.db-shm": b""}


async def test_read_only_connection_can_be_copied(folder: Path) -> None:
    async with (
        connect(folder / "tenant" / "main.db", limits={"read_only": True}) as conn,
        connect(folder / "work" / "copy.db") as target,
    ):
        await conn.backup(target)

        assert await target.fetch_all("SELECT v FROM t") == [["main"]]
        assert len(await conn.serialize()) == (folder / "tenant" / "main.db").stat().st_size


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
async def test_no_file_grows_beyond_its_limit(database: Path, mode: str) -> None:
    async with connect(database, isolation_level=None, limits={"file_bytes": 200_000}) as conn:
        await conn.execute(f"PRAGMA journal_mode = {mode}")
        await conn.execute("CREATE TABLE t (v)")
        await conn.execute("INSERT INTO t VALUES ('kept')")
        for sql in (
            "INSERT INTO t VALUES (randomblob(1000000))",
            "CREATE TEMP TABLE u AS " + NUMBERS.format("LIMIT 2000000", "i"),
        ):
            with pytest.raises(rapsqlite.OperationalError, match=r"full.*file_bytes") as caught:
                await conn.execute(sql)
            assert caught.value.sqlite_errorcode == rapsqlite.SQLITE_FULL
        await conn.execute("CREATE TEMP TABLE small AS SELECT * FROM t")
        assert await conn.fetch_all("SELECT v FROM t") == [["kept"]]
        assert await conn.fetch_all("PRAGMA integrity_check") == [["ok"]]

    assert len(tree(database.parent)[database.name]) <= 200_000


async def test_temporary_files_need_no_grant(database: Path) -> None:
    async with connect(database, isolation_level=None, limits={}) as conn:
        await conn.execute("PRAGMA cache_size = 5")
        ordered = await conn.fetch_all(NUMBERS.format("LIMIT 30000", "i, hex(i)") + " ORDER BY 2 DESC, 1 LIMIT 2")

    assert ordered == [[9999, "39393939"], [9998, "39393938"]]
    assert [path.name for path in database.parent.iterdir()] == [database.name]


async def test_statement_beyond_its_time_limit_is_a_data_error(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = play_time_limits(monkeypatch)
    async with connect(":memory:", limits={"statement_seconds": 0.05}) as conn:
        with clock.running(), pytest.raises(rapsqlite.DataError, match="statement_seconds"):
            await conn.fetch_all(ENDLESS)

        assert await conn.fetch_scalar("SELECT 1") == 1


async def test_endless_step_breaks_only_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite calls its progress handler only between steps."""
    clock = play_time_limits(monkeypatch)
    let_killed_guests_end_late(monkeypatch)
    guest = Guest(":memory:", FileTable(b":memory:"), 5.0, statement_limit_s=0.05, grace_period_s=0.05)
    guest.start()
    await guest.call(Request(abi.OP_OPEN, b":memory:"))

    with clock.running(), pytest.raises(rapsqlite.OperationalError, match=r"took longer than 0\.05 seconds"):
        await guest.call(Request(abi.OP_FETCH, ENDLESS_STEP.encode()))

    assert guest.state == "broken"
    await guest.close()
    async with connect(":memory:") as conn:
        assert await conn.fetch_scalar("SELECT 1") == 1


async def test_memory_beyond_its_limit_is_refused() -> None:
    async with connect(":memory:", limits={"memory_bytes": 32 << 20}) as conn:
        with pytest.raises(rapsqlite.OutOfMemoryError):
            await conn.fetch_scalar("SELECT length(zeroblob(200000000) || 'x')")

        assert await conn.fetch_scalar("SELECT 1") == 1


async def test_smallest_memory_is_enough_to_open_a_database_and_use_it(database: Path) -> None:
    async with connect(database, limits={"memory_bytes": LEAST_MEMORY_BYTES}) as conn:
        await conn.execute("CREATE TABLE smallest (a)")
        await conn.executemany("INSERT INTO smallest VALUES (?)", [(n,) for n in range(1000)])
        await conn.commit()
        assert await conn.fetch_scalar("SELECT sum(a) FROM smallest") == sum(range(1000))


async def test_result_beyond_the_byte_limit_is_a_data_error() -> None:
    async with connect(":memory:", limits={"max_bytes": 10_000}) as conn:
        with pytest.raises(rapsqlite.DataError):
            await conn.fetch_all(NUMBERS.format("", "i"))

        assert await conn.fetch_scalar("SELECT 1") == 1


@pytest.mark.parametrize(
    "limits, error",
    [
        ({"directories": "/one/path"}, TypeError),
        ({"directories": 5}, TypeError),
        ({"directories": [5]}, TypeError),
        ({"statement_seconds": "1"}, TypeError),
        ({"memory_bytes": LEAST_MEMORY_BYTES - 1}, ValueError),
        ({"statement_seconds": -0.5}, ValueError),
        ({"statement_seconds": float("nan")}, ValueError),
        ({"statement_seconds": float("inf")}, ValueError),
        ({"file_bytes": 1.5}, TypeError),
        ({"file_bytes": True}, TypeError),
        ({"read_only": "no"}, TypeError),
    ],
)
def test_invalid_limit_is_refused(limits: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        connect(":memory:", limits=limits)


async def test_directory_in_limits_must_exist(database: Path) -> None:
    """This is checked when the connection opens, on its own thread, because the file system may be slow."""
    with pytest.raises(rapsqlite.OperationalError, match=r"nowhere.*it does not exist"):
        await connect(database, limits={"directories": [str(database.parent / "nowhere")]})
