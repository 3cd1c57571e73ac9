"""The files of one connection: open, read, write, sync, delete. Plain callables, usable without wasm.

One descriptor per file and connection, opened relative to a granted directory. The result codes are those of
SQLite's own VFS for Unix. A table belongs to the thread that runs its guest; ``close`` is called when that
has ended.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from rapsqlite import _constants as sqlite
from rapsqlite import _descriptors, _opening
from rapsqlite._fileerror import FileError, code_of_read, code_of_write
from rapsqlite._grants import Grants, database_path
from rapsqlite._openfile import OpenFile, sync_descriptor

if TYPE_CHECKING:
    from collections.abc import Iterable

# Answers that lead to no message of their own.
_EVERYDAY = (sqlite.SQLITE_BUSY, sqlite.SQLITE_IOERR_DELETE_NOENT, sqlite.SQLITE_IOERR_MMAP)
# A directory that the file system, or our right to it, does not let us sync.
_CANNOT_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EACCES)


class FileTable:
    """All files of one connection, by the small integers that the guest knows them by.

    ``failure`` is the last error that was worth telling, for the message of the exception it leads to.
    """

    def __init__(
        self,
        database: bytes,
        *,
        uri: bool = False,
        grants: Iterable[bytes] = (),
        maps_reads: bool = True,
        maps_writes: bool = True,
    ) -> None:
        self._grants = Grants(database_path(database, uri=uri), grants)
        self._maps_reads = maps_reads
        self._maps_writes = maps_writes
        self._files: dict[int, OpenFile] = {}
        self._last_handle = 0
        self.failure: FileError | None = None
        self.bytes_read = 0
        self.bytes_written = 0
        self.sync_count = 0
        _descriptors.sweep()

    def grant(self, directory: bytes) -> None:
        """Let the guest reach one more directory, by its real name, until `revoke`. Any thread."""
        self._grants.grant(directory)

    def revoke(self, directory: bytes) -> None:
        """Take back what `grant` gave; files that are open stay so. Any thread."""
        self._grants.revoke(directory)

    def note(self, error: FileError) -> None:
        """Keep an error for the message to come, unless it is an everyday answer."""
        if error.code not in _EVERYDAY:
            self.failure = error

    def take_failure(self, code: int) -> FileError | None:
        """Return, once, the error that a statement which failed with ``code`` came from, if it came from here."""
        failure = self.failure
        if failure is None or failure.code & 0xFF != code & 0xFF:
            return None
        self.failure = None
        return failure

    def full_path(self, name: bytes) -> tuple[bytes, bool]:
        """Return the absolute form of a name, and whether symbolic links lead to it."""
        return self._grants.resolve(name)

    def open(self, name: bytes, flags: int) -> tuple[int, int]:
        """Open a file, an anonymous temporary one if there is no name; return handle and flags as granted.

        A file that may only be read is opened so, as SQLite wants it.
        """
        if name:
            directory, last = self._grants.locate(name)
            fd, flags = _opening.open_named(name, directory, last, flags)
        else:
            directory, last, fd = -1, b"", _opening.open_temporary()
        writable = bool(flags & sqlite.SQLITE_OPEN_READWRITE)
        self._last_handle += 1
        self._files[self._last_handle] = OpenFile(fd, name, directory, last, writable)
        if name and flags & sqlite.SQLITE_OPEN_DELETEONCLOSE:
            os.unlink(last, dir_fd=directory)
        return self._last_handle, flags

    def _file(self, handle: int) -> OpenFile:
        try:
            return self._files[handle]
        except KeyError:
            raise FileError(sqlite.SQLITE_IOERR, "use", b"", "the guest has no such file open") from None

    def close_file(self, handle: int) -> None:
        file = self._file(handle)
        del self._files[handle]
        file.close()

    def read_into(self, handle: int, data: memoryview, offset: int) -> int:
        """Fill ``data``; what lies beyond the end of the file becomes zeros and SQLITE_IOERR_SHORT_READ."""
        file = self._file(handle)
        wanted, got = len(data), 0
        try:
            while got < wanted:
                count = os.preadv(file.fd, [data[got:] if got else data], offset + got)
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
        try:
            while done < wanted:
                count = os.pwrite(file.fd, data[done:] if done else data, offset + done)
                if not count:
                    raise FileError(sqlite.SQLITE_FULL, "write", file.path, "no room is left")
                done += count
        except OSError as error:
            raise FileError(code_of_write(error), "write", file.path, error) from None
        self.bytes_written += wanted

    def truncate(self, handle: int, size_bytes: int) -> None:
        file = self._file(handle)
        try:
            os.ftruncate(file.fd, size_bytes)
        except OSError as error:
            raise FileError(sqlite.SQLITE_IOERR_TRUNCATE, "truncate", file.path, error) from None

    def sync(self, handle: int, flags: int) -> None:
        """Make what was written durable; with ``SYNC_DIRECTORY`` also that the file exists."""
        file = self._file(handle)
        self.sync_count += 1
        try:
            sync_descriptor(file.fd, full=flags & 0x0F == sqlite.SQLITE_SYNC_FULL)
        except OSError as error:
            raise FileError(sqlite.SQLITE_IOERR_FSYNC, "sync", file.path, error) from None
        if flags & sqlite.SYNC_DIRECTORY:
            self._sync_directory(file.directory, file.path)

    def _sync_directory(self, directory: int, path: bytes) -> None:
        self.sync_count += 1
        try:
            os.fsync(directory)
        except OSError as error:
            if error.errno not in _CANNOT_SYNC:
                raise FileError(sqlite.SQLITE_IOERR_DIR_FSYNC, "sync the directory of", path, error) from None

    def size(self, handle: int) -> int:
        file = self._file(handle)
        try:
            size_bytes = os.fstat(file.fd).st_size
        except OSError as error:
            raise FileError(sqlite.SQLITE_IOERR_FSTAT, "measure", file.path, error) from None
        # SQLite on Unix takes a single byte for an empty database.
        return 0 if size_bytes == 1 else size_bytes

    def delete(self, name: bytes, sync_directory: bool) -> None:
        directory, last = self._grants.locate(name)
        try:
            os.unlink(last, dir_fd=directory)
        except FileNotFoundError as error:
            raise FileError(sqlite.SQLITE_IOERR_DELETE_NOENT, "delete", name, error) from None
        except OSError as error:
            raise FileError(sqlite.SQLITE_IOERR_DELETE, "delete", name, error) from None
        if sync_directory:
            self._sync_directory(directory, name)

    def access(self, name: bytes, flags: int) -> bool:
        """Whether the file exists and is not empty, or with SQLITE_ACCESS_READWRITE may be read and written.

        A name outside of the granted directories is an error, not absent: SQLite would take a journal whose
        super-journal is absent for settled, and not roll back.
        """
        directory, last = self._grants.locate(name)
        if flags == sqlite.SQLITE_ACCESS_READWRITE:
            return os.access(last, os.R_OK | os.W_OK, dir_fd=directory)
        try:
            status = os.stat(last, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise FileError(sqlite.SQLITE_IOERR_ACCESS, "look at", name, error) from None
        return not stat.S_ISREG(status.st_mode) or status.st_size > 0

    def has_moved(self, handle: int) -> bool:
        """Whether the file has lost its name: what is written to it would be lost, or belong elsewhere."""
        file = self._file(handle)
        if not file.name:
            return False
        try:
            named = os.stat(file.name, dir_fd=file.directory, follow_symlinks=False)
        except OSError:
            return True
        return not os.path.samestat(named, os.fstat(file.fd))

    def lock(self, handle: int, level: int) -> None:
        self._file(handle).take_lock(level)

    def unlock(self, handle: int, level: int) -> None:
        self._file(handle).lock.unlock(level)

    def is_reserved(self, handle: int) -> bool:
        return self._file(handle).lock.is_reserved()

    def map_index(self, handle: int, region: int, view: memoryview, *, extend: bool) -> int:
        """Lay a region of the WAL index over the guest's bytes: SQLITE_OK, READONLY, or NOTFOUND if there is none."""
        return self._file(handle).map_index(region, view, extend=extend)

    def lock_index(self, handle: int, first: int, count: int, flags: int) -> None:
        """Take or drop locks of the WAL index."""
        self._file(handle).lock_index(first, count, flags)

    def has_index_alone(self, handle: int) -> int:
        """Return 1 if no other connection, of whatever process, uses the WAL index, else 0."""
        index = self._file(handle).index
        return int(index is not None and not index.is_used_by_others())

    def unmap_index(self, handle: int, *, delete: bool) -> None:
        """Let go of the WAL index."""
        self._file(handle).unmap_index(delete=delete)

    def map_window(self, handle: int, view: memoryview, offset: int) -> None:
        """Lay a part of the file over the guest's bytes, read-only; less than asked for where the file ends."""
        file = self._file(handle)
        if not self._maps_reads:
            raise FileError(sqlite.SQLITE_IOERR_MMAP, "map", file.path, "mapped reads are turned off")
        file.windows.open(view, offset)

    def map_tail(self, handle: int, view: memoryview, offset: int) -> None:
        """Make the file reach to where ``view`` ends and lay that part of it over the guest's bytes, writable.

        Raises FileError: SQLITE_FULL if there is no room for it, SQLITE_IOERR_MMAP if such a file is not mapped.
        """
        file = self._file(handle)
        if not self._maps_writes:
            raise FileError(sqlite.SQLITE_IOERR_MMAP, "map", file.path, "mapped writes are turned off")
        file.windows.open_tail(view, offset, writable=file.writable)

    def unmap_window(self, view: memoryview) -> None:
        """Turn the guest's bytes that a window covered back into plain memory."""
        if not any(file.windows.close_at(view) for file in self._files.values()):
            raise FileError(sqlite.SQLITE_IOERR_MMAP, "unmap", b"", "the guest has no such window")

    def close(self) -> None:
        """Release every lock and close every file, also after the guest has died. What fails is in ``failure``."""
        files, self._files = self._files, {}
        for file in files.values():
            self._close_noting(file)
        self._grants.close()

    def _close_noting(self, file: OpenFile) -> None:
        try:
            file.close()
        except FileError as error:
            self.note(error)
        except OSError as error:
            self.note(FileError(sqlite.SQLITE_IOERR_CLOSE, "close", file.path, error))

    def abandon(self) -> None:
        """Forget all files, in a forked child: the locks are the parent's, and stay.

        ``_descriptors`` has closed the child's copies of all but the temporary files.
        """
        for file in self._files.values():
            if file.is_temporary:
                os.close(file.fd)
        self._files.clear()
        self._grants.close()
