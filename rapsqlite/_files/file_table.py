"""The files of one connection: open, read, write, sync, delete. Plain callables, usable without wasm.

One descriptor per file and connection, opened relative to a granted directory. Result codes follow SQLite's own VFS for
Unix (https://sqlite.org/c3ref/io_methods.html). A table belongs to the thread that runs its guest, except for the locks
that `prelocks` takes and releases; ``close`` is called when that thread has ended.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from rapsqlite import _constants as sqlite
from rapsqlite._files import descriptors, opening
from rapsqlite._files.file_error import FileError, code_of_read, code_of_write
from rapsqlite._files.grants import EVERYWHERE, Grants, database_path, is_journal
from rapsqlite._files.open_file import OpenFile
from rapsqlite._files.open_files import OpenFiles
from rapsqlite._files.waiters import Waiter
from rapsqlite._platform import system
from rapsqlite._values.bounds import MOST_OPEN_FILES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# Results that need no message of their own.
_EVERYDAY = (sqlite.SQLITE_BUSY, sqlite.SQLITE_IOERR_DELETE_NOENT, sqlite.SQLITE_IOERR_MMAP)
# Errors if the file system, or our permissions, do not allow syncing a directory.
_CANNOT_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EACCES)
# No file has a name that is too long, but a journal's name may be if its database's name just fits.
_CANNOT_BE_THERE = (errno.ENOENT, errno.ENAMETOOLONG)
_READ_ONLY = "limits={'read_only': True} forbids writing and creating databases"
# Flags that change an existing file, without SQLITE_OPEN_CREATE.
_CHANGING = sqlite.SQLITE_OPEN_READWRITE | sqlite.SQLITE_OPEN_EXCLUSIVE | sqlite.SQLITE_OPEN_DELETEONCLOSE


class FileTable(OpenFiles):
    """All files of one connection, by the small integers that the guest uses.

    ``failure`` is the last error worth reporting, for the message of the exception it leads to.
    """

    def __init__(
        self,
        database: bytes,
        *,
        uri: bool = False,
        directories: Iterable[bytes] = EVERYWHERE,
        maps_reads: bool = True,
        read_only: bool = False,
        file_bytes: int = 0,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        """Take the database and limits passed to `connect`.

        ``directories`` can be reached in addition to the database itself. Under ``read_only`` no named file is written,
        created or deleted, whatever the guest requests. No file grows beyond ``file_bytes`` (0: no limit). ``on_close``
        is called when all files are closed, in the thread that closed them.
        """
        super().__init__(maps_reads=maps_reads)
        self._grants = Grants(database_path(database, uri=uri), directories, self._uses_directory)
        self._read_only = read_only
        self._file_bytes = file_bytes
        self._on_close = on_close
        self._last_handle = 0
        self.waiter = Waiter()
        self.failure: FileError | None = None
        self.explanations: dict[int, str] = {}  # of errors that are this connection's own, by result code
        self.bytes_read = 0
        self.bytes_written = 0
        self.sync_count = 0

    def grant(self, directory: bytes) -> None:
        """Let the guest reach one more directory, by its real name, until `revoke`. Any thread."""
        self._grants.grant(system.internal(directory))

    def revoke(self, directory: bytes) -> None:
        """Undo `grant`; open files stay open. Any thread."""
        self._grants.revoke(system.internal(directory))

    def statistics(self) -> dict[str, int]:
        """Return the bytes read and written by calls (not mappings), and the syncs of files and directories."""
        return {"bytes_read": self.bytes_read, "bytes_written": self.bytes_written, "syncs": self.sync_count}

    def note(self, error: FileError) -> None:
        """Keep an error for a later message, unless it is an ordinary result."""
        if error.code not in _EVERYDAY:
            self.failure = error

    def explain(self, code: int, reason: str) -> None:
        """Append ``reason`` to this connection's errors with this result code; "" appends nothing."""
        self.explanations[code] = reason

    def take_failure(self, code: int) -> FileError | None:
        """Return, once, the error that caused a statement's failure with ``code``, if it came from here."""
        failure = self.failure
        if failure is None:
            return None
        # What the file system itself calls broken, SQLite reports as a damaged database.
        cause = sqlite.SQLITE_CORRUPT if failure.code == sqlite.SQLITE_IOERR_CORRUPTFS else failure.code & 0xFF
        if code & 0xFF not in (cause, failure.code & 0xFF):
            return None
        self.failure = None
        return failure

    def full_path(self, name: bytes) -> tuple[bytes, bool]:
        """Return the absolute form of a name, and whether it contains symbolic links."""
        real, followed = self._grants.resolve(name)
        return system.external(real), followed

    def read_whole(self, name: bytes, most_bytes: int) -> tuple[bytes, bytes | None]:
        """Return the real name of a granted file and its content, as `opening.read_whole`.

        It is opened like any other file, so changes after the check of its name lead nowhere else.
        """
        real, _ = self._grants.resolve(name)
        directory, last = self._grants.locate(real)
        return real, opening.read_whole(real, directory, last, most_bytes)

    def open(self, name: bytes, flags: int) -> tuple[int, int]:
        """Open a file, or an anonymous temporary one if there is no name; return handle and granted flags.

        As SQLite expects, a file that is not writable is opened read-only. The name may be followed by a NUL and the
        name of another file, whose permission bits a new file gets.
        """
        reads_index = bool(flags & sqlite.OPEN_INDEX_READONLY)
        flags &= ~sqlite.OPEN_INDEX_READONLY
        name, _, model = name.partition(b"\0")
        name = system.internal(name)
        if len(self._files) >= MOST_OPEN_FILES:
            raise FileError(sqlite.SQLITE_CANTOPEN, "open", name, "this connection has too many files open")
        protected = bool(name) and self._is_protected(name)
        if name:
            directory, last = self._grants.locate(name)
            if flags & sqlite.SQLITE_OPEN_MAIN_DB:
                descriptors.sweep()
                self._grants.refuse_as_database(name)
            if protected:
                flags = self._flags_for_reading(name, flags)
            mode = opening.bits_of(model, *self._grants.locate(self._grants.resolve(model)[0])) if model else 0
            fd, flags = opening.open_named(name, directory, last, flags, mode)
        else:
            directory, last, fd = -1, b"", opening.open_temporary()
        writable = bool(flags & sqlite.SQLITE_OPEN_READWRITE)
        self._last_handle += 1
        self._files[self._last_handle] = OpenFile(
            self.waiter,
            fd,
            name,
            directory,
            last,
            writable,
            reads_index=reads_index,
            protected=protected,
            # By its name, too: the guest could say anything, and closing a database may drop other libraries' locks.
            is_database=bool(flags & sqlite.SQLITE_OPEN_MAIN_DB) or (bool(name) and not is_journal(last)),
        )
        file = self._files[self._last_handle]
        if file.is_database and not file.is_local:
            flags |= sqlite.OPEN_REMOTE
        if name and flags & sqlite.SQLITE_OPEN_DELETEONCLOSE:
            system.delete_once_closed(last, directory)
        return self._last_handle, flags

    def _is_protected(self, name: bytes) -> bool:
        """Return True if this file must neither be changed nor created."""
        return self._read_only and not self._grants.is_lent(name)

    def _flags_for_reading(self, name: bytes, flags: int) -> int:
        """Return the flags to open a protected file with; raises FileError if it was to be written or created.

        An open database in WAL mode may get an empty WAL, because SQLite does not read it without one.
        """
        if flags & sqlite.SQLITE_OPEN_WAL and any(file.is_database_of_wal(name) for file in self._files.values()):
            return flags & ~_CHANGING | sqlite.SQLITE_OPEN_READONLY | sqlite.SQLITE_OPEN_CREATE
        if flags & (_CHANGING | sqlite.SQLITE_OPEN_CREATE):
            raise FileError(sqlite.SQLITE_CANTOPEN, "write", name, _READ_ONLY)
        return flags

    def close_file(self, handle: int) -> None:
        file = self._file(handle)
        with self.prelocks.guard:
            del self._files[handle]
            file.close()

    def read_into(self, handle: int, data: memoryview, offset: int) -> int:
        """Fill ``data``; bytes beyond the end of the file become zeros, with SQLITE_IOERR_SHORT_READ."""
        file = self._file(handle)
        wanted, got = len(data), 0
        try:
            while got < wanted:
                count = system.read_at(file.fd, data[got:] if got else data, offset + got)
                if not count:
                    break
                got += count
        except OSError as error:
            raise FileError(code_of_read(error), "read", file.path, error) from None
        self.bytes_read += got
        if got == wanted:
            return sqlite.SQLITE_OK
        data[got:] = bytes(wanted - got)
        return sqlite.SQLITE_IOERR_SHORT_READ

    def write(self, handle: int, data: memoryview | bytes, offset: int) -> None:
        file = self._file(handle)
        wanted, done = len(data), 0
        if self._file_bytes:
            self._check_size(file, offset + wanted)
        try:
            while done < wanted:
                count = system.write_at(file.fd, data[done:] if done else data, offset + done)
                if not count:
                    raise FileError(sqlite.SQLITE_FULL, "write", file.path, "no space is left")
                done += count
        except OSError as error:
            raise FileError(code_of_write(error), "write", file.path, error) from None
        self.bytes_written += wanted

    def _check_size(self, file: OpenFile, end: int) -> None:
        if end > self._file_bytes:
            reason = f"it would be larger than limits={{'file_bytes': {self._file_bytes}}} allows"
            raise FileError(sqlite.SQLITE_FULL, "write", file.path, reason)

    def truncate(self, handle: int, size_bytes: int) -> None:
        file = self._file(handle)
        if self._file_bytes:
            self._check_size(file, size_bytes)
        try:
            system.truncate(file.fd, size_bytes)
        except OSError as error:
            raise FileError(sqlite.SQLITE_IOERR_TRUNCATE, "truncate", file.path, error) from None

    def sync(self, handle: int, flags: int) -> None:
        """Make written data durable; with ``SYNC_DIRECTORY`` also the file's existence."""
        file = self._file(handle)
        self.sync_count += 1
        try:
            system.sync(file.fd, full=flags & 0x0F == sqlite.SQLITE_SYNC_FULL)
        except OSError as error:
            raise FileError(sqlite.SQLITE_IOERR_FSYNC, "sync", file.path, error) from None
        if flags & sqlite.SYNC_DIRECTORY:
            self._sync_directory(file.directory, file.path)

    def _sync_directory(self, directory: int, path: bytes) -> None:
        self.sync_count += 1
        try:
            system.sync_directory(directory)
        except OSError as error:
            if error.errno not in _CANNOT_SYNC:
                raise FileError(sqlite.SQLITE_IOERR_DIR_FSYNC, "sync the directory of", path, error) from None

    def delete(self, name: bytes, sync_directory: bool) -> None:
        name = system.internal(name)
        directory, last = self._grants.locate(name)
        if self._is_protected(name):
            raise FileError(sqlite.SQLITE_IOERR_DELETE, "delete", name, _READ_ONLY)
        try:
            system.delete_at(last, directory)
        except OSError as error:
            missing = error.errno in _CANNOT_BE_THERE
            code = sqlite.SQLITE_IOERR_DELETE_NOENT if missing else sqlite.SQLITE_IOERR_DELETE
            raise FileError(code, "delete", name, error) from None
        if sync_directory:
            self._sync_directory(directory, name)

    def access(self, name: bytes, flags: int) -> bool:
        """Return whether the file exists and is not empty, or with SQLITE_ACCESS_READWRITE is readable and writable.

        A name outside the granted directories is an error, not absent: SQLite would consider a journal whose
        super-journal is absent finished, and not roll back.
        """
        name = system.internal(name)
        directory, last = self._grants.locate(name)
        is_use = flags == sqlite.SQLITE_ACCESS_READWRITE
        try:
            status = system.stat_at(last, directory)
        except OSError as error:
            if is_use or error.errno in _CANNOT_BE_THERE:
                return False
            raise FileError(sqlite.SQLITE_IOERR_ACCESS, "examine", name, error) from None
        if is_use:
            if stat.S_ISLNK(status.st_mode) or self._is_protected(name):  # a link would be followed
                return False
            return system.access_at(last, os.R_OK | os.W_OK, directory)
        return not stat.S_ISREG(status.st_mode) or status.st_size > 0

    def has_moved(self, handle: int) -> bool:
        """Return whether the file has lost its name: writes to it would be lost, or belong elsewhere."""
        file = self._file(handle)
        if not file.name:
            return False
        try:
            named = system.stat_at(file.name, file.directory)
            return not os.path.samestat(named, os.fstat(file.fd))
        except FileNotFoundError:
            return True
        except OSError as error:
            raise FileError(sqlite.SQLITE_IOERR_FSTAT, "examine", file.path, error) from None

    def close(self) -> None:
        """Release every lock and close every file, even if the guest has died. Errors are in ``failure``."""
        self.waiter.give_up()
        with self.prelocks.guard:
            while self._files:  # each forgotten first: a child that is forked meanwhile closes what it finds
                self._close_noting(self._files.pop(next(iter(self._files))))
        self._grants.close()
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()

    def _close_noting(self, file: OpenFile) -> None:
        try:
            file.close()
        except FileError as error:
            self.note(error)
        except OSError as error:
            self.note(FileError(sqlite.SQLITE_IOERR_CLOSE, "close", file.path, error))

    def abandon(self) -> None:
        """Forget all files, in a forked child: the locks belong to the parent, and stay.

        ``descriptors`` has closed the child's copies of all but the temporary files.
        """
        for file in self._files.values():
            if file.is_temporary:
                os.close(file.fd)
        self._files.clear()
        self._grants.close()
