"""Notes each call by which the package could block an event loop: a file operation on the thread of a running loop.

A file system may hang, and another process may keep a file's lock. So files are used only on a guest's thread, or on a
thread of ``rapsqlite._loops.worker``. Functions of ``os``, ``fcntl`` and ``open`` are replaced, once for the process,
by wrappers that check which thread they run on and who calls. Calls that tests make themselves do not count.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import io
import os
import stat
import sys
import traceback
from asyncio import _get_running_loop as running_asyncio_loop
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rapsqlite

if TYPE_CHECKING:
    from types import FrameType, ModuleType

FUNCTIONS: dict[ModuleType, str] = {
    os: "access chmod chown close copy_file_range fchmod fchown fdatasync fstat fsync ftruncate link listdir lseek "
    "lstat mkdir open posix_fallocate pread preadv pwrite pwritev read readlink readv remove rename replace rmdir "
    "scandir sendfile stat statvfs symlink truncate unlink utime write writev",
    builtins: "open",
    io: "open",
}
with contextlib.suppress(ImportError):  # Windows
    import fcntl

    FUNCTIONS[fcntl] = "fcntl flock lockf"
# The kernel answers these from memory. Descriptors of pipes and events, such as the bell's, never block either.
KERNEL = ("/proc/", "/sys/", "/dev/null")
# "file function" of the package, and why it may.
KNOWN = {
    "_cli/transfer.py _opened": "the shell's loop runs nothing else",
    "_cli/transfer.py _replaced": "as above",
    "_client/private_directory.py __init__": "for a database in memory: in /dev/shm, if there is one, nothing blocks",
    "_client/private_directory.py acquire_new": "as above",
    "_platform/_posix.py lock_whole_file": "as above",
    "_client/shared_memory.py __init__": "as above",
}

PACKAGE = str(Path(rapsqlite.__file__).parent)
LIBRARY = str(Path(os.__file__).parent)
_fstat = os.fstat
_noted: list[str] = []


def watch() -> None:
    """Start recording; once per process."""
    for module, names in FUNCTIONS.items():
        for name in names.split():
            if hasattr(module, name):
                setattr(module, name, _watched(getattr(module, name)))


def take() -> list[str]:
    """Return what was noted since the last time: the stack of each call."""
    noted, _noted[:] = _noted[:], []
    return noted


def _watched(function: Any) -> Any:
    @functools.wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        if running_asyncio_loop() is not None or _in_trio():
            _look(function.__name__, args)
        return function(*args, **kwargs)

    for supported in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks, os.supports_effective_ids):
        if function in supported:
            supported.add(watched)
    return watched


def _in_trio() -> bool:
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_run())


def _look(name: str, args: tuple[Any, ...]) -> None:
    caller = _caller(sys._getframe(2))
    if caller is None or not args or _is_harmless(args[0]):
        return
    code = caller.f_code
    origin = f"{os.path.relpath(code.co_filename, PACKAGE)} {code.co_name}"
    if origin not in KNOWN:
        stack = "".join(traceback.format_stack(caller, 12))
        _noted.append(f"{name}{args!r:.200} on the event loop's thread, by {origin}:\n{stack}")


def _caller(frame: FrameType | None) -> FrameType | None:
    """Return the package's frame if it called, directly or through the standard library; else None."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(PACKAGE):
            return frame
        is_library = file.startswith((LIBRARY, "<frozen ")) and "site-packages" not in file
        # An import reads modules, and a warning reads its line.
        if not is_library or "importlib" in file or file.endswith("linecache.py"):
            return None
        frame = frame.f_back
    return None


def _is_harmless(file: Any) -> bool:
    if isinstance(file, int):
        try:
            mode = _fstat(file).st_mode
        except OSError:
            return True
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    return os.fsdecode(file).startswith(KERNEL)
