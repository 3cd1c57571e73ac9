"""Side modules compiled by the tests, with the commands of docs/extensions.md."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rapsqlite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ROOT = Path(__file__).resolve().parent.parent.parent
SAMPLE = Path(__file__).with_name("sample.c")


def sqlite_headers() -> Path:
    """The directory with the headers of the engine's SQLite."""
    lock = (ROOT / "wasm" / "Cargo.lock").read_text(encoding="utf-8")
    [version] = re.findall(r'name = "libsqlite3-sys"\nversion = "([^"]+)"', lock)
    cargo = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    [header] = (cargo / "registry" / "src").glob(f"*/libsqlite3-sys-{version}/sqlite3/sqlite3ext.h")
    return header.parent


def documented_command() -> str:
    """The command line for building an extension, from the documentation."""
    page = (ROOT / "docs" / "extensions.md").read_text(encoding="utf-8")
    [command] = re.findall(r"```sh\n(clang.*?)```", page, re.DOTALL)
    return str(command)


def documented_command_of_a_package() -> str:
    """The command lines for a Python package's compiler, from the documentation."""
    page = (ROOT / "docs" / "extensions.md").read_text(encoding="utf-8")
    [command] = re.findall(r"```sh\n(python -m ziglang.*?)```", page, re.DOTALL)
    return str(command).replace("python -m ziglang", f"{shlex.quote(sys.executable)} -m ziglang")


def documented_source() -> str:
    """The extension shown in the documentation."""
    page = (ROOT / "docs" / "extensions.md").read_text(encoding="utf-8")
    [source] = re.findall(r"```c\n(.*?)```", page, re.DOTALL)
    return str(source)


@pytest.fixture
async def plain() -> AsyncIterator[rapsqlite.Connection]:
    """A connection that may load nothing."""
    async with rapsqlite.connect(":memory:", isolation_level=None) as connection:
        yield connection


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that builds C source into a side module, as documented except for its arguments."""

    def run(name: str, source: str, *, replace: tuple[str, str] = ("", ""), command: str = "") -> Path:
        directory = tmp_path_factory.mktemp(name)
        (directory / f"{name}.c").write_text(source, encoding="utf-8")
        line = (command or documented_command()).replace("myextension", name).replace(*replace)
        environment = {**os.environ, "SQLITE": str(sqlite_headers()), "RAPSQLITE": str(ROOT)}
        done = subprocess.run(
            ["bash", "-ec", line], cwd=directory, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return directory / f"{name}.wasm"

    return run


@pytest.fixture(scope="session")
def sample(build: Callable[..., Path]) -> Path:
    """The sample extension, with a second entry point besides the one derived from its name."""
    second = ("-Wl,--export=sqlite3_sample_init", "-Wl,--export=sqlite3_sample_init -Wl,--export=other_entry")
    return build("sample", SAMPLE.read_text(encoding="utf-8"), replace=second)


@pytest.fixture
async def conn() -> AsyncIterator[rapsqlite.Connection]:
    """A connection that may load extensions."""
    async with rapsqlite.connect(":memory:", isolation_level=None) as connection:
        await connection.enable_load_extension(True)
        yield connection
