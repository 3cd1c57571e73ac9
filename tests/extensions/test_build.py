"""The script that builds the bundled extensions: its inputs, and what it does with older modules."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rapsqlite._client.extension_loader import DIRECTORY, SHIPPED
from tests.extensions.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

MODULES = sorted(f"{name}.wasm" for name in SHIPPED)
pytestmark = pytest.mark.timeout(300)  # seven modules are compiled, which takes a while on a busy machine
SOURCE = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / "extensions" / "sqlite3_3.40.1.orig.tar.xz"


class Checkout:
    """A copy of what the script reads, in a private directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.modules = root / "rapsqlite" / "extension_modules"
        self.bin = root / "bin"

    def command(self, name: str, script: str) -> None:
        """Shadow one of the machine's commands."""
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)

    def build(self, *arguments: str, expected: int = 0, **variables: str) -> str:
        """Run the script; return its output."""
        environment: Mapping[str, str] = {
            **os.environ,
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "CARGO_TARGET_DIR": str(self.root / "target"),
            "RAPSQLITE_SQLITE_SOURCE": str(SOURCE),
            **variables,
        }
        command = ["bash", str(self.root / "scripts" / "build_extensions.sh"), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == expected, done.stdout + done.stderr
        return done.stderr

    def names(self) -> list[str]:
        return sorted(path.name for path in self.modules.glob("*.wasm"))

    def take_source_away(self) -> None:
        """Remove archives of an earlier build, and hide apt's mirrors."""
        shutil.rmtree(self.root / "target")
        self.command("apt-get", "exit 1")


@pytest.fixture(scope="session")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout that was built once."""
    root = tmp_path_factory.mktemp("pattern")
    shutil.copytree(ROOT / "wasm" / "extensions", root / "wasm" / "extensions")
    shutil.copy(ROOT / "wasm" / "Cargo.lock", root / "wasm")
    for directory in ("scripts", "bin"):
        (root / directory).mkdir()
    shutil.copy(ROOT / "scripts" / "build_extensions.sh", root / "scripts")
    assert "built" in Checkout(root).build()
    return root


@pytest.fixture
def built(pattern: Path, tmp_path: Path) -> Checkout:
    """A built checkout, for a test to change."""
    return Checkout(shutil.copytree(pattern, tmp_path / "checkout"))


def test_builds_in_any_directory_give_the_same_bytes_and_are_not_repeated(built: Checkout) -> None:
    assert built.names() == MODULES
    for name in MODULES:
        assert (built.modules / name).read_bytes() == (DIRECTORY / name).read_bytes()

    assert built.build() == ""
    assert "built" in built.build("--force")


def test_stale_modules_are_removed_if_the_source_is_unavailable(built: Checkout) -> None:
    """They would be shipped in the wheel, and loaded, as if they belonged to this version."""
    with (built.root / "wasm" / "extensions" / "prelude.h").open("a", encoding="utf-8") as header:
        header.write("/* changed */\n")
    built.take_source_away()

    assert "are left out" in built.build(RAPSQLITE_SQLITE_SOURCE="")

    assert built.names() == []


def test_stale_modules_are_removed_if_there_is_no_compiler(built: Checkout) -> None:
    with (built.root / "wasm" / "Cargo.lock").open("a", encoding="utf-8") as lock:
        lock.write("# changed\n")

    said = built.build(RAPSQLITE_TOOLCHAIN="sdk", WASI_SDK_PATH=str(built.root / "nowhere"))

    assert "are left out" in said
    assert built.names() == []


def test_stale_modules_are_removed_if_the_source_differs(built: Checkout) -> None:
    other = built.root / "other.tar.xz"
    other.write_bytes(b"no archive")

    assert "SHA-256 differs" in built.build("--force", expected=1, RAPSQLITE_SQLITE_SOURCE=str(other))

    assert built.names() == []


def test_unchanged_modules_are_kept_even_if_they_could_not_be_built(built: Checkout) -> None:
    """A wheel is built on a machine without a compiler, from a checkout that has the modules."""
    built.take_source_away()
    nowhere = str(built.root / "nowhere")

    assert built.build(RAPSQLITE_SQLITE_SOURCE="", RAPSQLITE_TOOLCHAIN="sdk", WASI_SDK_PATH=nowhere) == ""

    assert built.names() == MODULES


def test_another_compiler_rebuilds(built: Checkout) -> None:
    compiler = shutil.which("clang-22")
    built.command("clang-22", f'[ "$1" != --version ] || {{ echo clang version 22.99; exit; }}\nexec {compiler} "$@"')

    assert "built" in built.build()

    assert built.names() == MODULES
    assert built.build() == ""


@pytest.mark.parametrize("damage", ["gone", "changed", "one more"])
def test_missing_changed_or_foreign_modules_are_rebuilt(built: Checkout, damage: str) -> None:
    if damage == "gone":
        (built.modules / "csv.wasm").unlink()
    else:
        (built.modules / ("csv.wasm" if damage == "changed" else "old.wasm")).write_bytes(b"\0asm")

    assert "built" in built.build()

    assert built.names() == MODULES
    assert (built.modules / "csv.wasm").read_bytes() == (DIRECTORY / "csv.wasm").read_bytes()
