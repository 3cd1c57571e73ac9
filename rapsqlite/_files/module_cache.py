"""The compiled module on disk: its location, whether it may be trusted, and how it is written.

Compiled code runs as it is, so a file is used only if it is a regular file of this user in a directory of this user,
neither writable by anyone else, and its content matches the digest after it. Anything else counts as absent, and the
module is compiled again. Knows nothing of wasmtime; the caller chooses the key and the payload.
"""

from __future__ import annotations

import os
import stat
import warnings
from pathlib import Path

from rapsqlite._platform import system

_MAGIC = b"RAPSQLC2"
_DIGEST_BYTES = 32  # SHA-256
_TRAILER_BYTES = len(_MAGIC) + 32  # and a SHA-256


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


def _digest(payload: bytes | memoryview) -> bytes:
    # Imports OpenSSL, which takes 4 ms, so not before the first connection.
    import hashlib

    return hashlib.sha256(payload).digest()


def load(key: str) -> Path | None:
    """Return the file whose start is the payload stored under ``key``, or None if there is no trustworthy one.

    It returns a path because wasmtime maps it: processes share its pages, and nothing is copied.
    """
    directory = cache_directory()
    try:
        if directory is None or not system.is_private(directory.stat()):
            return None
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(directory / key, flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or not system.is_private(status):
                return None
            content = memoryview(file.read())
    except OSError:
        return None
    payload, trailer = content[:-_TRAILER_BYTES], content[-_TRAILER_BYTES:]
    return directory / key if trailer == _MAGIC + _digest(payload) else None


def store(key: str, payload: bytes) -> bool:
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
        where = "" if directory is None else f" in {directory}"
        warnings.warn(
            f"the compiled module cannot be kept{where} ({exc}), so every process compiles it again, which"
            " takes a second or two; set RAPSQLITE_CACHE_DIR to a directory that only this user can write to",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def _write(directory: Path, key: str, payload: bytes) -> None:
    # Takes 4 ms to import, and only a first start ever writes.
    import tempfile

    descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".compiled-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(payload)
            file.write(_MAGIC + _digest(payload))
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(directory / key)
    except BaseException:
        Path(temporary).unlink()
        raise
