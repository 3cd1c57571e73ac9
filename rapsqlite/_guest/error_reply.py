"""Turns an error reply into an exception, adding the file and reason that only the host knows."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

from rapsqlite import _constants as abi
from rapsqlite._callbacks.async_exception import CallbackInterrupted
from rapsqlite._files.file_error import EXPLANATIONS
from rapsqlite.errors import InternalError, error_from_reply

if TYPE_CHECKING:
    from rapsqlite._files.file_table import FileTable
    from rapsqlite._guest.request import PendingRequest

_ERROR = msgspec.msgpack.Decoder(tuple[int, str, int, int, int])


def reported_error(body: bytes, pending: PendingRequest, files: FileTable) -> Exception:
    """Return the exception for an error in a reply to ``pending``; layout: docs/abi.md, "Errors"."""
    try:
        code, message, offset, klass, row = _ERROR.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        return InternalError(f"the guest's error message is malformed: {exc}")
    if pending.overdue and (code == abi.SQLITE_INTERRUPT or isinstance(pending.cause, CallbackInterrupted)):
        message, klass = "the statement took longer than limits={'statement_seconds': ...} allows", abi.ERROR_DATA
    elif reason := files.take_failure(code) or files.explanations.get(code) or EXPLANATIONS.get(code):
        message = f"{message} ({reason})"
    text = pending.request.sql.decode("utf-8", "replace") or None
    if pending.request.op not in (abi.OP_OPEN, abi.OP_BACKUP_OPEN):
        return error_from_reply(code, message, offset, klass, row, text)
    # The text is a file name; an image's name would mean nothing to the user.
    error = error_from_reply(code, message, offset, klass, row, None)
    if sys.version_info >= (3, 11) and pending.request.op == abi.OP_OPEN:
        error.add_note(f"database: {text}")
    return error
