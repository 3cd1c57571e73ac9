"""A process whose working directory has been deleted: names that do not depend on it work."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rapsqlite
from rapsqlite import _constants as abi
from rapsqlite import connect, connect_memory
from tests.programs import run_python

ROOT = Path(__file__).resolve().parents[2]

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(autouse=True)
def gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a deleted directory."""
    directory = tmp_path / "gone"
    directory.mkdir()
    monkeypatch.chdir(directory)
    directory.rmdir()


NAMES: dict[str, Callable[[Path], str]] = {
    "in memory": lambda _: ":memory:",
    "temporary": lambda _: "",
    "absolute": str,
    "URI": lambda path: f"file:{path}",
    "URI in memory": lambda _: "file:name?mode=memory",
}


@pytest.mark.parametrize("kind", NAMES)
async def test_absolute_name_is_opened_without_a_working_directory(database: Path, kind: str) -> None:
    async with connect(NAMES[kind](database), uri="URI" in kind, isolation_level=None) as conn:
        await conn.execute("CREATE TABLE t (a)")
        await conn.execute("ATTACH ? AS other", [f"{database}-other"])
        await conn.execute(f"VACUUM INTO '{database}-copy'")

        assert await conn.fetch_all("SELECT * FROM t") == []


async def test_shared_memory_and_copies_work_without_a_working_directory(database: Path) -> None:
    async with connect_memory(name="shared") as conn, connect(database) as target:
        await conn.execute("CREATE TABLE t (a)")
        await conn.backup(target)

        assert await target.fetch_all("SELECT * FROM t") == []


async def test_relative_name_is_refused_with_the_reason() -> None:
    with pytest.raises(rapsqlite.OperationalError, match=r"working directory.*no longer exists") as caught:
        await connect("test.db")
    assert caught.value.sqlite_errorcode == abi.SQLITE_CANTOPEN

    async with connect(":memory:") as conn:
        with pytest.raises(rapsqlite.OperationalError, match=r"working directory.*no longer exists"):
            await conn.execute("ATTACH 'test.db' AS other")
        with pytest.raises(rapsqlite.OperationalError, match=r"working directory.*no longer exists"):
            await conn.execute("VACUUM INTO 'test.db'")
        assert await conn.fetch_scalar("SELECT 1") == 1


async def test_relative_directory_in_limits_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"working directory.*no longer exists"):
        connect(":memory:", limits={"directories": ["data"]})


def test_first_connection_opens_without_a_working_directory(database: Path, tmp_path: Path) -> None:
    """It compiles the engine and checks what this machine supports."""
    directory = tmp_path / "also gone"
    directory.mkdir()
    program = """
        import asyncio, os, sys
        sys.path.insert(0, sys.argv[2])
        os.chdir(sys.argv[3])
        os.rmdir(sys.argv[3])
        import rapsqlite

        async def main():
            async with rapsqlite.connect(sys.argv[1]) as conn:
                await conn.execute("CREATE TABLE t (a)")
                print(await conn.fetch_all("SELECT * FROM t"))

        asyncio.run(main())
    """
    done = run_python("-c", textwrap.dedent(program), database, ROOT, directory, cwd=tmp_path)

    assert (done.stdout, done.stderr) == ("[]\n", "")
