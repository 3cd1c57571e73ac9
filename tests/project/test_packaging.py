"""Build artifacts: a wheel that runs anywhere, and an sdist that can build it."""

from __future__ import annotations

import os
import subprocess
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename

import rapsqlite
from rapsqlite._client.extension_loader import SHIPPED
from tests.programs import run_python

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import Message

ROOT = Path(__file__).resolve().parents[2]
MODULE = "rapsqlite/engine.wasm"
EXTENSIONS = [f"rapsqlite/extension_modules/{name}.wasm" for name in sorted(SHIPPED)]
# Building from the sdist compiles the crate in another directory, which takes minutes on a small machine.
BUILD_TIME_S = 900
pytestmark = [pytest.mark.sources, pytest.mark.timeout(BUILD_TIME_S)]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an sdist and the wheel that was built from this sdist, not from the checkout."""
    pytest.importorskip("hatchling", reason="the build backend is not installed")
    out = tmp_path_factory.mktemp("dist")
    build(out)
    return out


def build(out: Path, *options: str, umask: int = -1) -> None:
    """Build as a release does: with the time of the commit."""
    epoch = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    times = {"SOURCE_DATE_EPOCH": epoch} if epoch else {}
    # The compiled dependencies may come from the checkout's build directory; the crate is recompiled.
    environment = {"CARGO_TARGET_DIR": str(ROOT / "target"), **times, **os.environ}
    done = run_python(
        "-m", "build", "--no-isolation", "--outdir", out, *options, ROOT, env=environment, umask=umask, timeout=None
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def wheel(built: Path) -> Iterator[zipfile.ZipFile]:
    [path] = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="session")
def sdist_names(built: Path) -> set[str]:
    """The names of the sdist's files below its top directory."""
    [path] = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        return {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}


@pytest.fixture(scope="session")
def metadata(wheel: zipfile.ZipFile) -> Message:
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return HeaderParser().parsestr(wheel.read(name).decode())


def test_one_wheel_fits_every_platform(built: Path) -> None:
    [path] = built.glob("*.whl")

    name, version, _, tags = parse_wheel_filename(path.name)

    assert (name, str(version)) == ("rapsqlite", rapsqlite.__version__)
    assert {str(tag) for tag in tags} == {"py3-none-any"}


def test_another_build_of_the_commit_has_the_same_bytes(built: Path, tmp_path: Path) -> None:
    """The first was built from the sdist, this one from the checkout: anyone with the commit can verify the wheel."""
    [first] = built.glob("*.whl")

    build(tmp_path, "--wheel", umask=0o077)

    [second] = tmp_path.glob("*.whl")
    assert second.read_bytes() == first.read_bytes()


@pytest.mark.parametrize(
    "failure", [FileNotFoundError("no bash"), subprocess.CalledProcessError(1, "bash scripts/build_wasm.sh")]
)
def test_a_build_without_the_toolchain_says_what_is_missing(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Installing from the sdist compiles, which nobody may have expected."""
    pytest.importorskip("hatchling", reason="the build backend is not installed")
    from scripts import build_hook

    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(subprocess, "run", fail)

    with pytest.raises(SystemExit, match=r"needs bash, Rust .* pip install --only-binary rapsqlite rapsqlite"):
        build_hook.compile_modules(ROOT)


def test_wheel_holds_the_package_and_the_modules_only(wheel: zipfile.ZipFile) -> None:
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "rapsqlite").rglob("*.py")}

    files = {name for name in wheel.namelist() if ".dist-info/" not in name}

    assert files == expected | {MODULE, *EXTENSIONS, "rapsqlite/py.typed"}


@pytest.mark.parametrize("name", [MODULE, *EXTENSIONS])
def test_module_built_from_the_sdist_equals_the_checkouts(wheel: zipfile.ZipFile, name: str) -> None:
    """The same sources give the same bytes, wherever they are: otherwise a wheel's content cannot be verified."""
    module = wheel.read(name)

    assert module[:4] == b"\0asm"
    assert module == (ROOT / name).read_bytes()


@pytest.mark.parametrize("name", [MODULE, *EXTENSIONS])
def test_wheel_contains_no_path_of_the_build_machine(wheel: zipfile.ZipFile, name: str) -> None:
    """Paths in panic messages reveal who built it, and make builds differ."""
    module = wheel.read(name)
    places = [str(ROOT), str(Path.home()), os.environ.get("CARGO_HOME", "")]

    assert not [place for place in places if len(place) > 1 and place.encode() in module]


def test_sdist_holds_sources_and_nothing_compiled(sdist_names: set[str]) -> None:
    needed = {
        "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "rapsqlite/__init__.py", "rapsqlite/py.typed",
        "wasm/Cargo.toml", "wasm/Cargo.lock", "wasm/src/lib.rs", "wasm/sqlite_cold.csv", "wasm/sqlite_hot.proftext",
        "scripts/build_wasm.sh", "scripts/build_extensions.sh", "wasm/extensions/prelude.h", "wasm/sqlite_prelude.h",
        "scripts/build_hook.py", "scripts/record_profile.py", "tests/conftest.py", "docs/abi.md",
    }  # fmt: skip

    assert needed <= sdist_names
    assert not [name for name in sdist_names if name.endswith((".wasm", ".o", ".a", ".so", ".db", ".pyc"))]
    assert not [name for name in sdist_names if name.startswith(("target/", ".venv", ".work", "wasm/target/"))]


def test_metadata_names_python_and_dependencies(metadata: Message) -> None:
    requirements = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    plain = {requirement.name for requirement in requirements if requirement.marker is None}

    assert plain == {"wasmtime", "msgspec", "anyio"}
    assert metadata["Requires-Python"] == ">=3.10"
    classifiers = metadata.get_all("Classifier", [])
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 15)} <= set(classifiers)
    assert "Programming Language :: Python :: Implementation :: CPython" in classifiers
    assert metadata["License-Expression"] == "MIT"
    assert {"trio", "test", "dev"} <= set(metadata.get_all("Provides-Extra", []))


def test_wasmtime_is_pinned_to_the_tested_release(metadata: Message) -> None:
    """The host reads wasmtime's private structures: another release must be tested before it is allowed."""
    [line] = [line for line in metadata.get_all("Requires-Dist", []) if line.startswith("wasmtime")]
    pinned = (ROOT / "scripts" / "constraints.txt").read_text(encoding="utf-8")
    [tested] = [row.split("==")[1] for row in pinned.splitlines() if row.startswith("wasmtime==")]

    specifier = Requirement(line).specifier

    assert specifier.contains(tested)
    assert not specifier.contains(f"{int(tested.split('.')[0]) + 1}.0.0")


def test_metadata_shows_the_readme(metadata: Message) -> None:
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert str(metadata.get_payload()).lstrip() == (ROOT / "README.md").read_text(encoding="utf-8").lstrip()
