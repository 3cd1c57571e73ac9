"""The compiled module on disk: used only if it is this user's and complete, and never required."""

from __future__ import annotations

import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from rapsqlite import runtime
from rapsqlite._files import module_cache
from rapsqlite.errors import NotSupportedError
from tests.guest.played import PARK_FOR_EVER, module

if TYPE_CHECKING:
    from pathlib import Path

KEY = "module.compiled"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "cache"
    monkeypatch.setenv("RAPSQLITE_CACHE_DIR", str(directory))
    return directory


def test_what_was_stored_is_loaded(cache: Path) -> None:
    assert module_cache.load(KEY) is None

    assert module_cache.store(KEY, b"payload")

    assert module_cache.load(KEY) == cache / KEY
    assert (cache / KEY).read_bytes().startswith(b"payload")
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert [entry.name for entry in cache.iterdir()] == [KEY]


@pytest.mark.parametrize("cut", [0, 7, 20, 41, 46])
def test_truncated_file_is_absent(cache: Path, cut: int) -> None:
    module_cache.store(KEY, b"payload")
    file = cache / KEY
    file.write_bytes(file.read_bytes()[:cut])

    assert module_cache.load(KEY) is None


@pytest.mark.parametrize("position", range(0, 47, 3))
def test_file_with_one_bit_flipped_is_absent(cache: Path, position: int) -> None:
    module_cache.store(KEY, b"payload")
    file = cache / KEY
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)

    assert module_cache.load(KEY) is None


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_file_that_others_may_write_is_absent(cache: Path, mode: int) -> None:
    module_cache.store(KEY, b"payload")
    (cache / KEY).chmod(mode)

    assert module_cache.load(KEY) is None


def test_directory_that_others_may_write_is_not_used(cache: Path) -> None:
    module_cache.store(KEY, b"payload")
    cache.chmod(0o777)

    assert module_cache.load(KEY) is None
    with pytest.warns(RuntimeWarning, match="writable by other users"):
        assert not module_cache.store(KEY, b"payload")


def test_symbolic_link_is_not_followed(cache: Path, tmp_path: Path) -> None:
    module_cache.store(KEY, b"payload")
    elsewhere = tmp_path / "elsewhere"
    (cache / KEY).rename(elsewhere)
    (cache / KEY).symlink_to(elsewhere)

    assert module_cache.load(KEY) is None


def test_directory_that_cannot_be_made_gives_one_warning_and_no_error(cache: Path) -> None:
    cache.write_text("a file is in the way")

    with pytest.warns(RuntimeWarning, match="RAPSQLITE_CACHE_DIR") as caught:
        runtime.Engine(module(PARK_FOR_EVER))

    assert len(caught) == 1


def test_module_is_compiled_once_and_then_loaded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("compiled")

    runtime.Engine(module(PARK_FOR_EVER))
    monkeypatch.setattr(runtime.Engine, "_compile", refuse)

    runtime.Engine(module(PARK_FOR_EVER))

    with pytest.raises(AssertionError, match="compiled"):
        runtime.Engine(module("(i32.const 1)"))


def test_payload_that_wasmtime_refuses_is_compiled_again(cache: Path) -> None:
    runtime.Engine(module(PARK_FOR_EVER))
    (entry,) = cache.iterdir()
    assert module_cache.store(entry.name, b"\x7fELF but not a module")

    runtime.Engine(module(PARK_FOR_EVER))

    stored = module_cache.load(entry.name)
    assert stored is not None
    assert stored.stat().st_size > 1000


def test_unsupported_wasmtime_is_refused_by_name(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "SUPPORTED_WASMTIME", (7,))

    with pytest.raises(NotSupportedError, match=r"wasmtime \d+\.\S+ is installed; .* works with wasmtime 7"):
        runtime.Engine(module(PARK_FOR_EVER))


def test_package_is_imported_without_wasmtime() -> None:
    code = "import sys, rapsqlite; sys.exit('wasmtime' in sys.modules)"

    subprocess.run([sys.executable, "-c", code], check=True)
