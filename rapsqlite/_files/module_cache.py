"""The compiled module on disk: its location, whether it may be trusted, how it is written, and when it is removed.

Compiled code runs as it is, so a file is used only if it is a regular file of this user in a directory of this user,
neither writable by anyone else, and its content matches the digest after it. Anything else counts as absent, and the
module is compiled again. Of each kind, recognised by the suffix of its key, the directory keeps the most recently used
files. Knows nothing of wasmtime; the caller chooses the key and the payload.
"""

from __future__ import annotations

import os
import stat
import time
import warnings
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rapsqlite._platform import system

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader

_MAGIC = b"RAPSQLC2"
_DIGEST_BYTES = 32  # SHA-256
_TRAILER_BYTES = len(_MAGIC) + _DIGEST_BYTES
_CHUNK_BYTES = 1 << 18
_MOST_FILES = 24  # of each kind; a compiled module takes 5 MB
_UNUSED_S = 30 * 24 * 3600.0  # how long a file may be unused before it is removed
_STALE_S = 24 * 3600.0  # how often its last use is recorded; an unfinished file this old is abandoned
_UNFINISHED = ".compiled-"
# Follow no link, and do not wait for a pipe's writer.
_READING: int = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))


def cache_directory() -> Path | None:
    """Return the directory for compiled modules: ``RAPSQLITE_CACHE_DIR``, or ``rapsqlite`` in the user's cache.

    None if it is unknown: HOME is not set, and the user is not in the list of users.
    """
    chosen = os.environ.get("RAPSQLITE_CACHE_DIR")
    if chosen:
        return Path(chosen)
    try:
        return system.cache_home() / "rapsqlite"
    except RuntimeError:
        return None


def digest(payload: bytes) -> str:
    """Return a digest of some content."""
    # Imports OpenSSL, which takes 4 ms, so not before the first connection.
    import hashlib

    return hashlib.sha256(payload).hexdigest()


def digest_of_file(path: str) -> str:
    """Return the `digest` of a file, which is computed again only if the file was replaced or changed since."""
    status = Path(path).stat()
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    key = f"{digest(repr(identity).encode())[:32]}.digest"
    known = read(key)
    if known is not None:
        return known.decode()
    with Path(path).open("rb") as file:
        found = _digest_of(file, status.st_size).hex()
    store(key, found.encode(), warns=False)
    return found


def _digest_of(file: BufferedReader, size: int) -> bytes:
    """Return the digest of the next ``size`` bytes, read piece by piece: allocating the whole takes longer."""
    # As in `digest`.
    import hashlib

    hashed, piece = hashlib.sha256(), memoryview(bytearray(_CHUNK_BYTES))
    while size > 0:
        count = file.readinto(piece[: min(size, _CHUNK_BYTES)])
        if not count:
            break
        hashed.update(piece[:count])
        size -= count
    return hashed.digest()


@contextmanager
def load(key: str) -> Iterator[str | None]:
    """Yield the name of a file that starts with the payload stored under ``key``; None if there is no trustworthy one.

    It yields a name because wasmtime maps the file: processes share its pages, and nothing is copied. On Linux the name
    means this very file, even if another user who may write above the directory has replaced it meanwhile.
    """
    with _verified(key) as file:
        directory = cache_directory()
        if file is None or directory is None:
            yield None
        else:
            yield system.path_of(file.fileno()) if system.has_bells else str(directory / key)


def read(key: str) -> bytes | None:
    """Return the payload stored under ``key``, or None if there is no trustworthy one."""
    with _verified(key) as file:
        return None if file is None else file.read()[:-_TRAILER_BYTES]


@contextmanager
def _verified(key: str) -> Iterator[BufferedReader | None]:
    """Yield the file stored under ``key``, at its start, if it may be trusted."""
    with ExitStack() as stack:
        try:
            file = _open_verified(key)
        except OSError:
            file = None
        yield None if file is None else stack.enter_context(file)


def _open_verified(key: str) -> BufferedReader | None:
    directory = cache_directory()
    if directory is None or not system.is_private(directory.stat()):
        return None
    path = directory / key
    file = _open(path)
    try:
        status = os.fstat(file.fileno())
        if stat.S_ISREG(status.st_mode) and system.is_private(status):
            found = _digest_of(file, status.st_size - _TRAILER_BYTES)
            if file.read() == _MAGIC + found:
                if time.time() - status.st_mtime > _STALE_S:
                    with suppress(OSError):  # a read-only file system
                        os.utime(path)
                file.seek(0)
                return file
    except BaseException:
        file.close()
        raise
    file.close()
    return None


def _open(path: Path) -> BufferedReader:
    # Not `os.fdopen`, which leaves the descriptor of a directory open.
    return open(path, "rb", opener=lambda name, _: os.open(name, _READING))


def store(key: str, payload: bytes, *, warns: bool = True) -> bool:
    """Write the payload under ``key``, whole or not at all. Warn and return False if it cannot be written."""
    directory = cache_directory()
    try:
        if directory is None:
            raise FileNotFoundError("the user has no home directory")
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not system.is_private(directory.stat()):
            raise PermissionError("the directory is writable by other users, or belongs to another user")
        _write(directory, key, payload)
    except OSError as exc:
        if not warns:
            return False
        where = "" if directory is None else f" in {directory}"
        warnings.warn(
            f"the compiled module cannot be kept{where} ({exc}), so every process compiles it again, which"
            " takes a second or two; set RAPSQLITE_CACHE_DIR to a directory that only this user can write to",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    with suppress(OSError):
        _prune(directory, Path(key).suffix)
    return True


def _write(directory: Path, key: str, payload: bytes) -> None:
    # Takes 4 ms to import, and only a first start ever writes.
    import tempfile

    descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=_UNFINISHED)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(payload)
            file.write(_MAGIC + bytes.fromhex(digest(payload)))
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(directory / key)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)  # an interrupt may have come after it was renamed
        raise


def _prune(directory: Path, suffix: str) -> None:
    """Remove files of one kind that are unused for long or too many, and those that killed processes left behind."""
    now = time.time()
    used: list[tuple[float, Path]] = []
    for path in directory.iterdir():
        with suppress(OSError):  # another process removes it too, or still maps it, which matters on Windows
            age_s = now - path.stat().st_mtime
            if path.name.startswith(_UNFINISHED):
                if age_s > _STALE_S:
                    path.unlink()
            elif path.suffix == suffix and _was_stored(path):
                used.append((age_s, path))
    used.sort()
    for number, (age_s, path) in enumerate(used):
        if number >= _MOST_FILES or age_s > _UNUSED_S:
            with suppress(OSError):
                path.unlink()


def _was_stored(path: Path) -> bool:
    """Return whether `store` wrote this file: a directory chosen by the user may contain others."""
    with _open(path) as file:
        file.seek(-_TRAILER_BYTES, os.SEEK_END)
        return file.read(len(_MAGIC)) == _MAGIC
