"""The compiled module on disk is used only if it belongs to this user and is complete, and is never required."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rapsqlite import runtime
from rapsqlite._files import module_cache
from rapsqlite._platform import system
from rapsqlite._wasm import c_functions
from rapsqlite._wasm.c_functions import WasmtimeError
from rapsqlite.errors import NotSupportedError
from tests.guest.played import PARK_FOR_EVER, module
from tests.systems import not_on_windows

if TYPE_CHECKING:
    from io import BufferedReader

KEY = "module.compiled"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "cache"
    monkeypatch.setenv("RAPSQLITE_CACHE_DIR", str(directory))
    return directory


def test_stored_module_is_loaded(cache: Path) -> None:
    assert module_cache.read(KEY) is None

    assert module_cache.store(KEY, b"payload")

    assert module_cache.read(KEY) == b"payload"
    assert (cache / KEY).read_bytes().startswith(b"payload")
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert [entry.name for entry in cache.iterdir()] == [KEY]


@pytest.mark.parametrize("cut", [0, 7, 20, 41, 46])
def test_truncated_file_counts_as_absent(cache: Path, cut: int) -> None:
    module_cache.store(KEY, b"payload")
    file = cache / KEY
    file.write_bytes(file.read_bytes()[:cut])

    assert module_cache.read(KEY) is None


@pytest.mark.parametrize("position", range(0, 47, 3))
def test_file_with_a_flipped_bit_counts_as_absent(cache: Path, position: int) -> None:
    module_cache.store(KEY, b"payload")
    file = cache / KEY
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)

    assert module_cache.read(KEY) is None


@not_on_windows("directories cannot be opened there")
def test_directory_in_place_of_a_module_stays_not_open(cache: Path) -> None:
    """Each connection left a descriptor of it open."""
    module_cache.store("other.compiled", b"payload")
    (cache / KEY).mkdir()
    before = set(os.listdir("/dev/fd"))

    assert module_cache.read(KEY) is None
    module_cache.store("other.compiled", b"payload")

    assert set(os.listdir("/dev/fd")) <= before  # what earlier tests have left may be closed meanwhile


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_file_writable_by_others_counts_as_absent(cache: Path, mode: int) -> None:
    module_cache.store(KEY, b"payload")
    (cache / KEY).chmod(mode)

    assert module_cache.read(KEY) is None


def test_directory_writable_by_others_is_not_used(cache: Path) -> None:
    module_cache.store(KEY, b"payload")
    cache.chmod(0o777)

    assert module_cache.read(KEY) is None
    with pytest.warns(RuntimeWarning, match="writable by other users"):
        assert not module_cache.store(KEY, b"payload")


def test_symbolic_link_is_not_followed(cache: Path, tmp_path: Path) -> None:
    module_cache.store(KEY, b"payload")
    elsewhere = tmp_path / "elsewhere"
    (cache / KEY).rename(elsewhere)
    (cache / KEY).symlink_to(elsewhere)

    assert module_cache.read(KEY) is None


def replaced(cache: Path) -> None:
    """Put another directory into the place of the cache, as a user can who may write to the one above."""
    cache.rename(cache.with_name("moved"))
    cache.mkdir(mode=0o700)
    module_cache.store(KEY, b"evil")


@pytest.mark.skipif(not system.has_bells, reason="only Linux has names for open files")
def test_file_that_was_verified_is_the_one_that_is_mapped(cache: Path) -> None:
    module_cache.store(KEY, b"payload")

    with module_cache.load(KEY) as name:
        replaced(cache)
        assert name is not None
        assert Path(name).read_bytes().startswith(b"payload")


def test_file_that_was_verified_is_the_one_that_is_read(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module_cache.store(KEY, b"payload")
    digest_of = module_cache._digest_of

    def verify(file: BufferedReader, size: int) -> bytes:
        found = digest_of(file, size)
        monkeypatch.undo()
        monkeypatch.setenv("RAPSQLITE_CACHE_DIR", str(cache))
        replaced(cache)
        return found

    monkeypatch.setattr(module_cache, "_digest_of", verify)

    assert module_cache.read(KEY) == b"payload"
    assert module_cache.read(KEY) == b"evil"


def test_directory_that_cannot_be_created_is_one_warning_and_no_error(cache: Path) -> None:
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


def test_module_that_cannot_be_mapped_is_copied_and_not_compiled_again(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system may forbid to map files as code; every start of a program took seconds then."""

    def refuse(*_: object) -> None:
        raise WasmtimeError("not permitted")

    runtime.Engine(module(PARK_FOR_EVER))
    monkeypatch.setattr(runtime.Engine, "_map_compiled", refuse)
    monkeypatch.setattr(runtime.Engine, "_compile", refuse)

    runtime.Engine(module(PARK_FOR_EVER))


def test_same_library_elsewhere_finds_the_same_module(cache: Path, tmp_path: Path) -> None:
    """Every new virtual environment has a copy of the library; compiling again would take seconds and 5 MB. This runs
    in a separate process, because the copy replaces the fault handlers that raise traps.
    """
    runtime.Engine(module(PARK_FOR_EVER))
    copy = tmp_path / "other environment" / "_libwasmtime.so"
    copy.parent.mkdir()
    shutil.copyfile(c_functions.library_path(), copy)
    code = f"""
from rapsqlite import runtime
runtime.library_path = lambda: {str(copy)!r}
runtime.Engine({module(PARK_FOR_EVER)!r})
"""

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

    assert len(list(cache.glob("*.compiled"))) == 1


def test_digest_of_a_file_is_computed_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the 30 MB of the library would double the time to the first row."""
    library = tmp_path / "library"
    library.write_bytes(b"a" * 10_000_000)
    found = module_cache.digest_of_file(str(library))
    read: list[int] = []
    real = module_cache._digest_of

    def counted(file: BufferedReader, size: int) -> bytes:
        read.append(size)
        return real(file, size)

    monkeypatch.setattr(module_cache, "_digest_of", counted)

    again = module_cache.digest_of_file(str(library))

    assert found == again == hashlib.sha256(library.read_bytes()).hexdigest()
    assert sum(read) < 1000


def test_digest_changes_with_the_content_even_if_size_and_time_do_not(cache: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.write_bytes(b"one")
    status = library.stat()
    before = module_cache.digest_of_file(str(library))

    library.write_bytes(b"two")
    os.utime(library, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert module_cache.digest_of_file(str(library)) != before


def test_digest_needs_no_cache(cache: Path, tmp_path: Path) -> None:
    cache.write_text("a file is in the way")
    library = tmp_path / "library"
    library.write_bytes(b"one")

    assert module_cache.digest_of_file(str(library)) == module_cache.digest(b"one")


def _age(file: Path, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(file, (then, then))


def test_least_recently_used_files_beyond_the_maximum_are_removed(cache: Path) -> None:
    for number in range(module_cache._MOST_FILES + 5):
        module_cache.store(f"{number}.compiled", b"payload")
        _age(cache / f"{number}.compiled", 20 - number / 10)
    assert module_cache.read("5.compiled") is not None  # used today

    module_cache.store("new.compiled", b"payload")

    left = {entry.name for entry in cache.iterdir()}
    assert len(left) == module_cache._MOST_FILES
    assert {"new.compiled", "5.compiled"} <= left
    assert "6.compiled" not in left


def test_only_unused_and_unfinished_files_are_removed_after_a_time(cache: Path) -> None:
    cache.mkdir(mode=0o700)
    days = {"old.compiled": 31, "kept.compiled": 29, "old.trial": 31, ".compiled-killed": 2, ".compiled-busy": 0.5}
    for name in days:
        module_cache.store(name, b"payload")
    for name, age in days.items():
        _age(cache / name, age)
    (cache / "notes.txt").write_text("somebody's")
    _age(cache / "notes.txt", 1000)

    module_cache.store("new.compiled", b"payload")

    left = {entry.name for entry in cache.iterdir()}
    assert left == {"new.compiled", "kept.compiled", "old.trial", ".compiled-busy", "notes.txt"}


@pytest.mark.parametrize("content", [b"", b"x", b"of the user's own, and longer than a digest with its mark"])
def test_foreign_files_with_the_same_suffix_are_never_removed(cache: Path, content: bytes) -> None:
    """RAPSQLITE_CACHE_DIR may be a directory with the user's own files."""
    cache.mkdir(mode=0o700)
    for number in range(module_cache._MOST_FILES + 1):
        (cache / f"{number}.trial").write_bytes(content)
        _age(cache / f"{number}.trial", 1000)

    module_cache.store("new.trial", b"payload")

    assert len(list(cache.iterdir())) == module_cache._MOST_FILES + 2


def test_file_that_another_process_removes_while_it_is_read_counts_as_absent(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file unused for a month is removed, unless a reader recorded its use in time."""
    library = tmp_path / "library"
    library.write_bytes(b"one")
    module_cache.digest_of_file(str(library))
    (known,) = cache.iterdir()
    _age(known, 31)
    monkeypatch.setattr(os, "utime", lambda path: path.unlink())

    assert module_cache.digest_of_file(str(library)) == module_cache.digest(b"one")


def test_interrupt_right_after_a_file_was_stored_is_not_lost(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = type(cache).replace

    def interrupted(self: Path, target: Path) -> None:
        replace(self, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(type(cache), "replace", interrupted)

    with pytest.raises(KeyboardInterrupt):
        module_cache.store(KEY, b"payload")
    assert module_cache.read(KEY) == b"payload"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_pipe_instead_of_a_cache_file_does_not_block(cache: Path) -> None:
    cache.mkdir(mode=0o700)
    os.mkfifo(cache / KEY, 0o600)
    code = f"import sys; from rapsqlite._files import module_cache; sys.exit(module_cache.read({KEY!r}) is not None)"

    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)


def test_payload_that_wasmtime_refuses_is_compiled_again(cache: Path) -> None:
    runtime.Engine(module(PARK_FOR_EVER))
    (entry,) = cache.glob("*.compiled")
    assert module_cache.store(entry.name, b"\x7fELF but not a module")

    runtime.Engine(module(PARK_FOR_EVER))

    stored = module_cache.read(entry.name)
    assert stored is not None
    assert len(stored) > 1000


def test_unsupported_wasmtime_is_refused_by_name(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "SUPPORTED_WASMTIME", (7,))

    with pytest.raises(NotSupportedError, match=r"wasmtime \d+\.\S+ is installed; .* works with wasmtime 7"):
        runtime.Engine(module(PARK_FOR_EVER))


def test_package_is_imported_without_wasmtime() -> None:
    code = "import sys, rapsqlite; sys.exit('wasmtime' in sys.modules)"

    subprocess.run([sys.executable, "-c", code], check=True)
