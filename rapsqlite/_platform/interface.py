"""The interface that every operating system implements.

Descriptors and directories are small integers. Names are bytes with ``/`` between their parts on every system:
``absolute`` and ``internal`` make them, and ``external`` returns the system's own form, for SQLite and for messages.
Everything raises OSError if the system refuses. Nothing waits for a lock.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

from rapsqlite import _constants as sqlite

if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from pathlib import Path

# The bytes that SQLite locks (https://sqlite.org/lockingv3.html, https://sqlite.org/walformat.html#wal_locks).
PENDING_BYTE = 0x4000_0000
RESERVED_BYTE = PENDING_BYTE + 1
SHARED_FIRST = PENDING_BYTE + 2
SHARED_SIZE = 510
FIRST_INDEX_LOCK = 120
DEAD_MAN_SWITCH = FIRST_INDEX_LOCK + sqlite.SQLITE_SHM_NLOCK  # share-locked by every user of a WAL index


class ReadOnlyIndexError(Exception):
    """The WAL index would have to be emptied, but is read-only."""


class PipeWait(Protocol):
    """Waits for the end of a pipe, ``fd``; -1: not at all."""

    fd: int

    def wait(self, seconds: float) -> bool:
        """Return whether there is something to read, within ``seconds``, less than 1."""
        ...


class Parking(Protocol):
    """Where one guest's thread sleeps: in ``function``, a C function that is called with ``argument``.

    ``unlock(mutex)``, a C function, does what ``wake`` does.
    """

    function: int
    argument: int
    unlock: Callable[[Any], object]
    mutex: Any

    def works(self) -> bool:
        """Test the assumptions. Call in another thread than the one that created it, before the guest runs."""
        ...

    def wake(self) -> None:
        """End the sleep, or the next one immediately if there is none. Any thread."""
        ...


class System(ABC):
    """One operating system. Its instance has only process-wide state."""

    name: str
    lacks: dict[str, str]
    """Features that are missing here, and what is done instead."""

    # Locks: kinds of ``set_lock``.
    READ: int
    WRITE: int
    NONE: int

    # Files

    @abstractmethod
    def open_at(self, name: bytes, flags: int, mode: int, directory: int | None) -> int:
        """Open a file in ``directory``, or by its whole name; never wait for the other end of a pipe.

        ``flags`` are ``os.O_*``. A symbolic link as the last part is an error.
        """

    @abstractmethod
    def open_temporary(self, directory: bytes) -> int:
        """Open a new file without a name, or one that vanishes when it is closed."""

    @abstractmethod
    def open_shrinking_file(self) -> int:
        """Open a new, empty file that other programs could truncate while it is mapped, for a trial."""

    @abstractmethod
    def temporary_directories(self) -> tuple[bytes | None, ...]:
        """Return where temporary files may go, in order of preference: https://sqlite.org/tempfiles.html."""

    @abstractmethod
    def delete_once_closed(self, name: bytes, directory: int) -> None:
        """Delete a file that is open, at once or when it is closed."""

    @abstractmethod
    def stat_at(self, name: bytes, directory: int | None) -> os.stat_result:
        """Return the status of a file, or of a link itself."""

    @abstractmethod
    def access_at(self, name: bytes, mode: int, directory: int) -> bool:
        """Return whether a file may be accessed in this mode (``os.R_OK`` and so on)."""

    @abstractmethod
    def delete_at(self, name: bytes, directory: int) -> None:
        """Delete a file."""

    can_delete_open_files: bool

    @abstractmethod
    def read_at(self, fd: int, target: memoryview, offset: int) -> int:
        """Read bytes of a file into ``target``; return how many: fewer at the end of the file."""

    @abstractmethod
    def write_at(self, fd: int, data: memoryview | bytes, offset: int) -> int:
        """Write bytes into a file; return how many."""

    @abstractmethod
    def truncate(self, fd: int, size_bytes: int) -> None:
        """Cut a file off, or extend it with zeros."""

    @abstractmethod
    def sync(self, fd: int, *, full: bool) -> None:
        """Make the content of a file durable; ``full``: also against power loss of the drive."""

    @abstractmethod
    def sync_directory(self, directory: int) -> None:
        """Make names in a directory durable."""

    @abstractmethod
    def allocate(self, fd: int, start: int, end: int) -> None:
        """Extend a file from ``start`` to ``end`` with real blocks, so that no later store can lack space."""

    @abstractmethod
    def open_directory(self, name: bytes, parent: int | None) -> int:
        """Open a directory in another one without following a link, or by its whole name."""

    @abstractmethod
    def close_directory(self, directory: int) -> None:
        """Close a directory."""

    @abstractmethod
    def above_standard_streams(self, fd: int) -> int:
        """Move ``fd`` above the standard streams: output for a closed stdout must not be written to a database."""

    @abstractmethod
    def give(self, fd: int, mode: int, model: os.stat_result | None) -> None:
        """Give a new file the exact permission bits ``mode`` (0: unchanged) and the owner of ``model``, if possible."""

    @abstractmethod
    def closing_unlocks_others(self, fd: int, ours: Container[int]) -> bool:
        """Return whether closing ``fd`` would drop locks of other code in this process. ``ours`` are all of ours."""

    @abstractmethod
    def is_private(self, status: os.stat_result) -> bool:
        """Return whether a file or directory belongs to this user, and only this user can write to it."""

    @abstractmethod
    def cache_home(self) -> Path:
        """Return the directory for this user's caches; RuntimeError if it is unknown."""

    @abstractmethod
    def lock_whole_file(self, fd: int) -> None:
        """Lock a file that only this package uses, until it is closed."""

    # What SQLite checks as soon as it has locked a database, without releasing the GIL.

    @abstractmethod
    def size_at_once(self, fd: int) -> int:
        """Return the size of a local file."""

    @abstractmethod
    def may_exist_at_once(self, directory: int, name: bytes) -> bool:
        """Return whether a file in a local directory exists, or may exist."""

    # Names

    @abstractmethod
    def internal(self, name: bytes) -> bytes:
        """Return the internal form of an absolute name that SQLite got from ``external``."""

    @abstractmethod
    def external(self, name: bytes) -> bytes:
        """Return the system's own form of an internal name."""

    @abstractmethod
    def absolute(self, name: bytes) -> bytes:
        """Make a name absolute without accessing the disk; OSError if the working directory no longer exists."""

    @abstractmethod
    def real(self, name: bytes) -> bytes:
        """Return the internal form of a name, absolute and without links, as far as it exists."""

    @abstractmethod
    def link_target(self, name: bytes) -> bytes | None:
        """Return what a symbolic link refers to; None if it is none, or does not exist."""

    @abstractmethod
    def canonical(self, name: bytes) -> bytes:
        """Return the one spelling of an internal name without links, where a file can have several."""

    # SQLite's locks on a database, and on a WAL index

    @abstractmethod
    def set_lock(self, fd: int, kind: int, start: int, length: int) -> None:
        """Take or release (``NONE``) the lock on a byte range. BlockingIOError or EACCES: another lock conflicts.

        A range is released as it was taken. Where one is held, ``convert_lock`` changes its kind.
        """

    @abstractmethod
    def convert_lock(self, fd: int, kind: int, byte: int) -> None:
        """Change the kind of the lock that is held on a byte. After an error it is held as before."""

    @abstractmethod
    def take_shared(self, fd: int) -> None:
        """Go from no lock to SHARED."""

    @abstractmethod
    def take_reserved(self, fd: int) -> None:
        """Go from SHARED to RESERVED."""

    @abstractmethod
    def take_pending(self, fd: int) -> None:
        """Go from RESERVED to PENDING."""

    @abstractmethod
    def take_exclusive(self, fd: int, level: int) -> None:
        """Go from ``level`` (SHARED, RESERVED or PENDING) to EXCLUSIVE. After an error nothing has changed."""

    @abstractmethod
    def fall_to_shared(self, fd: int, level: int) -> None:
        """Go from ``level`` (``SQLITE_LOCK_*``) to SHARED."""

    @abstractmethod
    def fall_to_none(self, fd: int, level: int) -> None:
        """Release every lock of ``level``."""

    @abstractmethod
    def is_reserved(self, fd: int) -> bool:
        """Return whether another connection holds RESERVED or more."""

    @abstractmethod
    def enter_index(self, fd: int, *, writable: bool) -> None:
        """Share-lock the dead man switch of a WAL index. If no one held it, empty the index first.

        BlockingIOError: another connection is emptying it. ReadOnlyIndexError: it would have to be emptied.
        """

    @abstractmethod
    def is_index_used_by_others(self, fd: int) -> bool:
        """Return whether another connection holds the dead man switch; False where that cannot be known."""

    @abstractmethod
    def leave_index(self, fd: int, held: int, *, entered: bool) -> None:
        """Release the locks ``held``, one bit each, and with ``entered`` the dead man switch."""

    # Memory

    maps_reads: bool
    """Whether parts of databases may be mapped for reading."""

    @abstractmethod
    def configure(self, config: Any, functions: Any) -> None:
        """Set what this system needs in wasmtime's ``wasm_config_t``, by its C functions, before an engine exists."""

    @abstractmethod
    def library_of_wasmtime(self) -> tuple[str, str]:
        """Return the folder in the package ``wasmtime``, and the file, of its library for this machine."""

    @abstractmethod
    def map_file(self, address: int, fd: int, offset: int, length: int, *, writable: bool) -> None:
        """Map a part of a file, shared with everyone who has it open, over reserved memory."""

    @abstractmethod
    def unmap_file(self, address: int, length: int) -> None:
        """Turn mapped memory into reserved memory again."""

    @abstractmethod
    def make_readable(self, address: int) -> None:
        """Let a page of a guest's reserved memory be read, as zeros."""

    @abstractmethod
    def make_inaccessible(self, address: int) -> None:
        """Turn every access to such a page into a fault. Any thread."""

    def make_page_shareable(self, address: int) -> bool:  # noqa: ARG002
        """Make a page of plain memory one that ``share_page`` can map elsewhere; False if the system cannot."""
        return False

    def share_page(self, address: int, other: int) -> None:
        """Map such a page at ``other`` too."""
        raise NotImplementedError

    @abstractmethod
    def drop_pages(self, address: int, length: int) -> None:
        """Give whole pages back: plain memory loses its content, mapped files are read again. May do nothing."""

    @abstractmethod
    def is_local(self, fd: int) -> bool:
        """Return whether everyone who has this file open sees the same memory and locks: not on network drives."""

    @abstractmethod
    def note_fault_handlers(self) -> None:
        """Remember wasmtime's handlers for faults. Called once its first engine exists."""

    @abstractmethod
    def unblock_faults(self) -> None:
        """Let faults of the calling thread, which enters guests, reach the handlers, even if it inherited a mask."""

    @abstractmethod
    def mend_fault_handlers(self) -> bool:
        """Restore the handlers if Python's faulthandler has replaced them; False if other code has."""

    @abstractmethod
    def handle_faults_of_mapped_files(self) -> bool:
        """Let wasmtime turn faults of truncated files into traps too; False if that is impossible."""

    # Waiting. A system without bells or without parking inherits the methods below that it never needs.

    has_bells: bool
    """Whether a guest can wake an event loop by writing to a pipe."""

    def open_pipe(self) -> tuple[int, int]:
        """Open a pipe that does not block; return its ends for reading and for writing."""
        raise NotImplementedError

    def path_of(self, fd: int) -> str:
        """Return a name by which an open descriptor of this process can be opened once more."""
        raise NotImplementedError

    def new_pipe_wait(self) -> PipeWait:
        """Return an object that waits for a pipe."""
        raise NotImplementedError

    has_parking: bool
    """Whether a guest's thread can sleep in a C function."""

    def new_parking(self) -> Parking:
        """Return a new object on which a guest's thread can sleep."""
        raise NotImplementedError

    yield_processor: Callable[[], object]
    """Lets another thread run, without the GIL."""

    # The process

    @abstractmethod
    def machine(self) -> str:
        """Return the name of the processor's architecture, in lower case."""

    @abstractmethod
    def at_fork(
        self,
        *,
        before: Callable[[], object] | None = None,
        in_parent: Callable[[], object] | None = None,
        in_child: Callable[[], object] | None = None,
    ) -> None:
        """Register functions to call before and after every fork of this process, if it can fork."""

    def processor_count(self) -> int:
        """Return how many processors this process may use."""
        return os.cpu_count() or 1

    def may_lack_processors(self) -> bool:
        """Return False if no thread waits for a processor at this moment, True if one does or nobody knows."""
        return True

    @abstractmethod
    def involuntary_switches(self) -> int:
        """Return how often a processor was taken away from this process; 0 where it is not counted."""
