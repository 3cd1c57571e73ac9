"""The WAL index of one database: its ``-shm`` file, mapped into the guest, and its locks.

The file, its format and its locks match SQLite's own VFS for Unix (https://sqlite.org/walformat.html), so any SQLite
may use the database at the same time. Regions are mapped, never copied: SQLite reads the index between lock calls and
relies on seeing other connections' writes.
"""

from __future__ import annotations

import contextlib
import functools
import os

from rapsqlite import _constants as sqlite
from rapsqlite._files import descriptors, mapping
from rapsqlite._files.file_error import FileError
from rapsqlite._platform import system
from rapsqlite._platform.interface import FIRST_INDEX_LOCK, ReadOnlyIndexError

REGION_BYTES = 32_768
_MAX_REGIONS = 4096  # 128 MiB of index: a WAL of about 16 million frames


@functools.cache
def _bits(word: int) -> tuple[int, ...]:
    return tuple(bit for bit in range(word.bit_length()) if word >> bit & 1)


class WalIndex:
    """One connection's use of a WAL index, until ``close``."""

    def __init__(
        self,
        database: bytes,
        database_fd: int,
        directory: int,
        name: bytes,
        *,
        read_only: bool = False,
        create: bool = True,
    ) -> None:
        """Open the ``-shm`` file of the database; read-only if it is not writable or if requested.

        ``create``: create it, empty, if it does not exist.
        """
        self.path = database + b"-shm"
        self._regions: dict[int, int] = {}  # number to address
        self._directory = directory
        self._name = name + b"-shm"
        self._fd, self.writable = self._open(self._stat(database_fd), read_only=read_only, create=create)
        self._is_user = False  # holds the dead man switch
        self.held = 0  # locks of either kind, one bit each

    def _stat(self, database_fd: int) -> os.stat_result:
        """Return the status of the database, if its file system can share an index."""
        try:
            if mapping.is_shared_by_all(database_fd):
                return os.fstat(database_fd)
        except OSError as error:
            raise FileError(sqlite.SQLITE_IOERR_SHMOPEN, "find the file system of", self.path, error) from None
        raise FileError(
            sqlite.SQLITE_IOERR_SHMOPEN,
            "share",
            self.path,
            "WAL mode needs a local file system; use another journal mode, or PRAGMA locking_mode=EXCLUSIVE first",
        )

    def _open(self, database: os.stat_result, *, read_only: bool, create: bool) -> tuple[int, bool]:
        mode = database.st_mode & descriptors.PERMISSION_BITS
        how = (os.O_RDONLY if read_only else os.O_RDWR) | (os.O_CREAT if create else 0)
        try:
            fd = descriptors.open_file(self._name, how, mode, self._directory)
        except OSError as error:
            if error.errno in descriptors.NOT_WRITABLE and create:
                with contextlib.suppress(OSError):
                    return descriptors.open_file(self._name, os.O_RDONLY, mode, self._directory), False
            raise FileError(sqlite.SQLITE_CANTOPEN, "open", self.path, error) from None
        if create:
            system.give(fd, mode, database)
        return fd, not read_only

    def _enter(self) -> None:
        """Share-lock the dead man switch. If no one held it, the file may be from before a crash, and is emptied.

        Raises FileError: SQLITE_BUSY while another connection does that; SQLITE_READONLY_CANTINIT if the file would
        have to be emptied but is read-only: SQLite then makes its own index, and tries again the next time.
        """
        try:
            system.enter_index(self._fd, writable=self.writable)
            self._is_user = True
        except ReadOnlyIndexError:
            reason = "it is read-only and not in use"
            raise FileError(sqlite.SQLITE_READONLY_CANTINIT, "initialise", self.path, reason) from None
        except BlockingIOError as error:
            raise FileError(sqlite.SQLITE_BUSY, "lock", self.path, error) from None
        except OSError as error:
            raise FileError(sqlite.SQLITE_IOERR_SHMOPEN, "initialise", self.path, error) from None

    @property
    def region_count(self) -> int:
        """Number of mapped regions."""
        return len(self._regions)

    def map_region(self, number: int, view: memoryview, *, extend: bool) -> bool:
        """Map region ``number`` over the guest's bytes; False if it does not exist and ``extend`` is not set."""
        if not 0 <= number < _MAX_REGIONS or len(view) != REGION_BYTES:
            raise FileError(sqlite.SQLITE_IOERR_SHMMAP, "map", self.path, "the guest requested an impossible region")
        if number in self._regions:
            raise FileError(sqlite.SQLITE_IOERR_SHMMAP, "map", self.path, "the guest requested the same region twice")
        if not self._is_user:
            self._enter()
        offset = number * REGION_BYTES
        try:
            if os.fstat(self._fd).st_size < offset + REGION_BYTES:
                if not extend:
                    return False
                # Real blocks: a full disk must be an error here, not a fault when the memory is touched.
                system.allocate(self._fd, os.fstat(self._fd).st_size, offset + REGION_BYTES)
        except OSError as error:
            raise FileError(sqlite.SQLITE_IOERR_SHMSIZE, "extend", self.path, error) from None
        address = mapping.address_of(view)
        try:
            mapping.map_at(address, self._fd, offset, REGION_BYTES, writable=self.writable)
        except (OSError, ValueError) as error:
            reason = error if isinstance(error, OSError) else str(error)
            raise FileError(sqlite.SQLITE_IOERR_SHMMAP, "map", self.path, reason) from None
        self._regions[number] = address
        return True

    def lock(self, first: int, count: int, flags: int) -> None:
        """Take ``count`` locks. Raises FileError with SQLITE_BUSY if another lock is in the way."""
        if first < 0 or count < 1 or first + count > sqlite.SQLITE_SHM_NLOCK:
            raise FileError(sqlite.SQLITE_IOERR_SHMLOCK, "lock", self.path, "the guest requested an impossible lock")
        kind = system.READ if flags & sqlite.SQLITE_SHM_SHARED else system.WRITE
        try:
            if count == 1 and self.held >> first & 1:
                system.convert_lock(self._fd, kind, FIRST_INDEX_LOCK + first)
            else:
                system.set_lock(self._fd, kind, FIRST_INDEX_LOCK + first, count)
        except OSError as error:
            raise FileError(sqlite.SQLITE_BUSY, "lock", self.path, error) from None
        self.held |= ((1 << count) - 1) << first

    def try_lock(self, locks: int) -> int:
        """Take the locks that are free and return them: shared ones in bits 0 to 7, exclusive ones in 8 to 15."""
        taken = 0
        for bit in _bits(locks & 0xFFFF):
            number = bit & 7
            try:
                system.set_lock(self._fd, system.READ if bit < 8 else system.WRITE, FIRST_INDEX_LOCK + number, 1)
            except OSError:
                continue
            self.held |= 1 << number
            taken |= 1 << bit
        return taken

    def unlock(self, locks: int) -> None:
        """Release locks, one bit each."""
        try:
            for number in _bits(locks & 0xFF):
                system.set_lock(self._fd, system.NONE, FIRST_INDEX_LOCK + number, 1)
                self.held &= ~(1 << number)
        except OSError as error:
            raise FileError(sqlite.SQLITE_IOERR_UNLOCK, "unlock", self.path, error) from None

    def is_used_by_others(self) -> bool:
        try:
            return system.is_index_used_by_others(self._fd)
        except OSError:
            return True

    def close(self, *, delete: bool) -> None:
        """Unmap all regions, release all locks and close the file.

        Raises FileError if a region stays mapped, which keeps the file open, but none of its locks.
        """
        try:
            try:
                while self._regions:
                    number, address = next(iter(self._regions.items()))
                    mapping.clear(address)
                    del self._regions[number]
                delete = delete and self.writable
                if delete and system.can_delete_open_files:
                    self._delete()
            finally:
                system.leave_index(self._fd, self.held, entered=self._is_user)
            descriptors.release(self._fd, writable=self.writable)
            if delete and not system.can_delete_open_files:
                self._delete()
        except OSError as error:
            raise FileError(sqlite.SQLITE_IOERR_SHMMAP, "close", self.path, error) from None

    def _delete(self) -> None:
        # Left behind it does no harm: its next user finds that no one else uses it, and empties it.
        with contextlib.suppress(OSError):
            system.delete_at(self._name, self._directory)
