"""Resources of the process that a connection needs and may not get: descriptors, threads, address space.

wasmtime sets up WASI output when it is first needed, and aborts the process if it cannot. So this is done early, and
only if there is enough of everything. Any other shortage becomes an error that names it.
"""

from __future__ import annotations

import errno
import os
import threading

from rapsqlite import _constants as sqlite
from rapsqlite.errors import OperationalError

DESCRIPTORS_TO_WRITE = 16
"""More than the three that wasmtime needs, because other threads may open files at the same time."""

_TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)


def has_descriptors(count: int) -> bool:
    """Try whether so many more files can be opened."""
    taken: list[int] = []
    try:
        while len(taken) < count:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return False
    else:
        return True
    finally:
        for descriptor in taken:
            os.close(descriptor)


def has_threads(count: int) -> bool:
    """Try whether so many more threads can be started."""
    enough = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=enough.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError:
        return False
    else:
        return True
    finally:
        enough.set()
        for thread in started:
            thread.join()


def explained(failure: BaseException, name: str) -> BaseException:
    """Return the error for what kept a guest from starting: which resource is short, and what to do about it."""
    if isinstance(failure, OSError) and failure.errno in _TOO_MANY_FILES:
        return too_many_files(name, failure)
    if "failed to set stdout" in str(failure):  # the guest's end of the bell, which was there a moment before
        return too_many_files(name, failure)
    if "failed to reserve" in str(failure):
        return _error(
            name,
            "each connection needs 4 GiB of address space, most of which never becomes memory: raise the limit"
            " (ulimit -v), or close connections",
            failure,
        )
    if (isinstance(failure, OSError) and failure.errno == errno.ENOMEM) or f"(os error {errno.ENOMEM})" in str(failure):
        return _error(
            name,
            "each connection needs address space and some 15 memory mappings: raise the limits (ulimit -v, and on"
            " Linux vm.max_map_count), or close connections",
            failure,
        )
    return failure


def too_many_files(name: str, failure: BaseException | None = None) -> OperationalError:
    """Return the error for a process that has reached its limit of open files."""
    reason = "too many open files: raise the limit of the process (ulimit -n), or close connections and files"
    return _error(name, reason, failure)


def too_many_threads(name: str, failure: BaseException) -> OperationalError:
    """Return the error for a process that cannot start another thread."""
    advice = "" if "shutdown" in str(failure) else ": raise the limit (ulimit -u, or the container's)"
    return _error(name, f"each connection needs a thread, and {failure}{advice}", failure)


def _error(name: str, reason: str, failure: BaseException | None) -> OperationalError:
    error = OperationalError(f"unable to open database {name!r}: {reason}")
    error.sqlite_errorcode = sqlite.SQLITE_CANTOPEN
    error.sqlite_errorname = "SQLITE_CANTOPEN"
    error.__cause__ = failure
    return error
