"""What a disk may hold after a crash: every change to files is recorded, then replayed in part.

There are two kinds of crash. A *killed process* leaves every change up to some point. A *power loss* leaves what was
synced, and of every later change all, nothing, or some sectors, independently; a name that was created or deleted since
its directory was synced may or may not have appeared or gone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from rapsqlite import _constants as sqlite
from rapsqlite._files.file_table import FileTable

if TYPE_CHECKING:
    import random
    from pathlib import Path

SECTOR = 512


class Change(NamedTuple):
    """One recorded event. ``kind``: write, truncate, sync, create, delete, sync_directory, acknowledge."""

    kind: str
    name: str = ""
    offset: int = 0  # of a write; size of a truncation; number of an acknowledged transaction
    data: bytes = b""


class RecordingFiles(FileTable):
    """A file table that records every change to named files."""

    def __init__(self, database: bytes) -> None:
        super().__init__(database)
        self.changes: list[Change] = []

    def acknowledge(self, number: int) -> None:
        """Record that the transaction with that number was reported as committed."""
        self.changes.append(Change("acknowledge", offset=number))

    def _note(self, handle: int, kind: str, offset: int = 0, data: bytes = b"") -> None:
        file = self._file(handle)
        if file.name:
            self.changes.append(Change(kind, os.fsdecode(file.name), offset, data))

    def open(self, name: bytes, flags: int) -> tuple[int, int]:
        is_new = bool(name) and not os.path.exists(name)
        handle, granted = super().open(name, flags)
        if is_new:
            self._note(handle, "create")
        return handle, granted

    def write(self, handle: int, data: memoryview | bytes, offset: int) -> None:
        self._note(handle, "write", offset, bytes(data))
        super().write(handle, data, offset)

    def truncate(self, handle: int, size_bytes: int) -> None:
        self._note(handle, "truncate", size_bytes)
        super().truncate(handle, size_bytes)

    def sync(self, handle: int, flags: int) -> None:
        super().sync(handle, flags)
        self._note(handle, "sync")
        if flags & sqlite.SYNC_DIRECTORY:
            self.changes.append(Change("sync_directory"))

    def delete(self, name: bytes, sync_directory: bool) -> None:
        super().delete(name, sync_directory)
        self.changes.append(Change("delete", os.path.basename(os.fsdecode(name))))
        if sync_directory:
            self.changes.append(Change("sync_directory"))


@dataclass
class _File:
    """The content of one file: what is certain to survive, and the changes since."""

    durable: bytearray = field(default_factory=bytearray)
    now: bytearray = field(default_factory=bytearray)
    pending: list[Change] = field(default_factory=list)


@dataclass
class Disk:
    """The files after the changes so far. A file may have been deleted and recreated under the same name."""

    named: dict[str, _File] = field(default_factory=dict)
    durable_names: dict[str, _File] = field(default_factory=dict)
    acknowledged: int = 0

    def apply(self, change: Change) -> None:
        """Apply one more change."""
        if change.kind == "acknowledge":
            self.acknowledged = change.offset
        elif change.kind == "create":
            self.named[change.name] = _File()
        elif change.kind == "delete":
            del self.named[change.name]
        elif change.kind == "sync_directory":
            self.durable_names = dict(self.named)
        else:
            self._apply_to_file(self.named[change.name], change)

    def _apply_to_file(self, file: _File, change: Change) -> None:
        if change.kind == "sync":
            file.durable[:] = file.now
            file.pending.clear()
        else:
            _perform(file.now, change)
            file.pending.append(change)

    def after_kill(self) -> dict[str, bytes]:
        """Return the files as a killed process leaves them."""
        return {name: bytes(file.now) for name, file in self.named.items()}

    def after_power_loss(self, chance: random.Random) -> dict[str, bytes]:
        """Return one of the many states in which a power loss may leave the files."""
        names = dict(self.durable_names)
        for name in {*self.named, *self.durable_names}:
            if self.named.get(name) is not self.durable_names.get(name) and chance.random() < 0.5:
                names.pop(name, None)
                if name in self.named:
                    names[name] = self.named[name]
        return {name: _survivor(file, chance) for name, file in names.items()}


def _perform(content: bytearray, change: Change) -> None:
    if change.kind == "truncate":
        del content[change.offset :]
        content.extend(bytes(change.offset - len(content)))
    else:
        content.extend(bytes(max(0, change.offset - len(content))))
        content[change.offset : change.offset + len(change.data)] = change.data


def _survivor(file: _File, chance: random.Random) -> bytes:
    content = bytearray(file.durable)
    mood = chance.choice(["all", "nothing", "mixed"])
    for change in file.pending:
        fate = {"all": "kept", "nothing": "lost"}.get(mood) or chance.choice(["kept", "lost", "torn"])
        if fate == "kept":
            _perform(content, change)
        elif fate == "torn" and change.kind == "write":
            for start in range(0, len(change.data), SECTOR):
                if chance.random() < 0.5:
                    part = change.data[start : start + SECTOR]
                    _perform(content, Change("write", offset=change.offset + start, data=part))
    return bytes(content)


def lay_out(files: dict[str, bytes], directory: Path) -> None:
    """Write the files to an empty directory."""
    for old in directory.iterdir():
        old.unlink()
    for name, content in files.items():
        (directory / name).write_bytes(content)
