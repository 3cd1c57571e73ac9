"""The script that builds the engine: when it builds, and what it recompiles after a change of the toolchain.

The toolchain consists of scripts here, which print their versions and copy the existing engine: only the build script's
decisions are tested. A test of packages checks that the real toolchain gives the same bytes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INPUTS = (
    "wasm/src", "wasm/Cargo.toml", "wasm/Cargo.lock", "wasm/sqlite_cold.csv", "wasm/sqlite_hot.proftext",
    "wasm/sqlite_prelude.h",
    "wasm/extensions/provided.txt", "docs/abi.md", "scripts/build_wasm.sh", "scripts/check_wasm.py",
)  # fmt: skip
ENGINE = "rapsqlite/engine.wasm"
STAMP = "rapsqlite/engine.wasm.inputs"
pytestmark = [
    pytest.mark.sources,
    pytest.mark.skipif(sys.platform == "win32", reason="the script is one of bash"),
    pytest.mark.skipif(not (ROOT / ENGINE).exists(), reason="the engine is not built"),
]

RUSTC = """case $* in
  *sysroot*) echo {sysroot} ;;
  *) echo "rustc {version}" ;;
esac"""
CARGO = """echo "$1 $*" >>{log}
case $1 in rustc) mkdir -p "$CARGO_TARGET_DIR/wasm32-wasip1/release" && cp {engine} \
  "$CARGO_TARGET_DIR/wasm32-wasip1/release/rapsqlite_engine.wasm" ;; esac"""
CLANG = """[ "$1" != --version ] || {{ echo "clang version {version}"; echo "InstalledDir: elsewhere"; }}"""


class Checkout:
    """A copy of what the script reads, and a toolchain."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin, self.sdk, self.log = root / "bin", root / "sdk", root / "cargo.log"
        for name in INPUTS:
            source, target = ROOT / name, root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target)
            else:
                shutil.copy(source, target)
        (root / "rapsqlite").mkdir()
        self.library = self.sdk / "share/wasi-sysroot/lib/wasm32-wasip1/libc.a"
        sysroot = root / "rust"
        for directory in ("wasm32-wasip1", "src/rust/library/std"):
            (sysroot / "lib/rustlib" / directory).mkdir(parents=True)
        self.library.parent.mkdir(parents=True)
        self.library.write_bytes(b"one")
        self.rustc("1.0")
        self.clang("22.0")
        self.script(self.bin / "cargo", CARGO.format(log=self.log, engine=ROOT / ENGINE))
        self.script(root / "scripts/build_extensions.sh", "echo extensions >&2")

    def script(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        path.chmod(0o755)

    def rustc(self, version: str) -> None:
        self.script(self.bin / "rustc", RUSTC.format(sysroot=self.root / "rust", version=version))

    def clang(self, version: str) -> None:
        self.script(self.sdk / "bin/clang", CLANG.format(version=version))

    def run(self, *arguments: str, expected: int = 0, toolchain: str = "sdk") -> str:
        """Run the script; return cargo's commands, one word each."""
        self.log.write_text("", encoding="utf-8")
        done = subprocess.run(
            ["bash", str(self.root / "scripts/build_wasm.sh"), *arguments],
            env={
                **os.environ,
                "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
                "RAPSQLITE_TOOLCHAIN": toolchain,
                "WASI_SDK_PATH": str(self.sdk),
                "CARGO_TARGET_DIR": str(self.root / "target"),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        self.said = done.stdout + done.stderr
        assert done.returncode == expected, self.said
        return " ".join(line.split()[0] for line in self.log.read_text(encoding="utf-8").splitlines())


@pytest.fixture
def built(tmp_path: Path) -> Checkout:
    """A built checkout."""
    checkout = Checkout(tmp_path)
    assert checkout.run() == "rustc"
    assert (tmp_path / ENGINE).read_bytes() == (ROOT / ENGINE).read_bytes()
    return checkout


def test_nothing_is_built_if_nothing_has_changed(built: Checkout) -> None:
    assert built.run() == ""
    assert built.said == "extensions\n"


def test_changed_input_is_compiled_incrementally(built: Checkout) -> None:
    with (built.root / "wasm/src/lib.rs").open("a", encoding="utf-8") as source:
        source.write("// changed\n")

    assert built.run() == "rustc"
    assert built.run() == ""


@pytest.mark.parametrize("part", ["rustc", "clang", "libc"])
def test_changed_toolchain_recompiles_what_cargo_considers_up_to_date(built: Checkout, part: str) -> None:
    """The module of an older compiler used to stay, and so did SQLite's object file, of which Cargo knows only the
    flags.
    """
    if part == "libc":
        built.library.write_bytes(b"two")
    else:
        getattr(built, part)("99.9")

    assert built.run() == "clean rustc"
    assert "libsqlite3-sys" in built.log.read_text(encoding="utf-8")
    assert built.run() == ""


def test_removed_module_is_rebuilt(built: Checkout) -> None:
    (built.root / ENGINE).unlink()

    assert built.run() == "rustc"


def test_stamp_without_a_toolchain_is_not_trusted(built: Checkout) -> None:
    """Such a stamp is from a version that did not check."""
    stamp = built.root / STAMP
    stamp.write_text(stamp.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")

    assert built.run() == "rustc"


def test_unchanged_module_is_kept_even_if_it_could_not_be_built(built: Checkout) -> None:
    """A wheel is built on a machine without a compiler, from a checkout that has the module."""
    shutil.rmtree(built.sdk)

    assert built.run() == ""
    assert (built.root / ENGINE).exists()
    assert built.run("--force", expected=1) == ""
    assert "not complete" in built.said


def test_stamp_records_the_toolchain(built: Checkout) -> None:
    inputs, *toolchain = (built.root / STAMP).read_text(encoding="utf-8").splitlines()

    assert re.fullmatch("[0-9a-f]{64}", inputs)
    assert toolchain[:3] == ["sdk", "rustc 1.0", "clang version 22.0"]
    assert re.fullmatch(r"[0-9a-f]{64}  \./lib/wasm32-wasip1/libc\.a", toolchain[3])
    built.run("--toolchain")
    assert built.said.splitlines() == toolchain


def test_engine_was_built_with_the_installed_toolchain() -> None:
    """Including Debian's packages: the script's report matches its stamp."""
    _, *stamped = (ROOT / STAMP).read_text(encoding="utf-8").splitlines()

    command = ["bash", str(ROOT / "scripts/build_wasm.sh"), "--toolchain"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    if done.returncode:
        pytest.skip("no toolchain is here: the engine was built elsewhere")
    assert done.stdout.splitlines() == stamped
    assert [line for line in stamped if line.startswith("rustc ")]
