"""The block of the guest's memory through which a callback's arguments and result pass: docs/abi.md, "Callbacks".

What the guest wrote is untrusted: ``view`` checks addresses, msgspec decodes arrays. Used only on the guest's thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rapsqlite import _constants as abi
from rapsqlite._callbacks.results import storable
from rapsqlite._values.bounds import MOST_BODY_BYTES, check_values
from rapsqlite._values.pieces import copy_of, fill
from rapsqlite._values.wire import decode_arguments
from rapsqlite.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Callable

_VALUE, _FORM = abi.ARGUMENT_BLOCK_VALUE, abi.ARGUMENT_BLOCK_FORM
_MOST_KEPT = 256


class _Starts(dict[int, memoryview]):
    """The first bytes of a buffer, by their number: slicing it for each call takes longer than decoding."""

    __slots__ = ("_memory",)

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory

    def __missing__(self, length: int) -> memoryview:
        start = self._memory[:length]
        if 0 <= length <= _MOST_KEPT:
            self[length] = start
        return start


class ArgumentBlock:
    """One guest's argument block; ``words`` and ``floats`` are the same memory, followed by the buffer ``room``.

    ``starts[length]`` are the first bytes of the buffer.
    """

    __slots__ = ("_large", "_view", "floats", "room", "starts", "words")

    def __init__(self, view: Callable[[int, int], memoryview], address: int) -> None:
        """Take the guest's memory and the block's address."""
        if address % 8:
            raise InternalError("the guest's argument block is not aligned")
        whole = view(address, abi.ARGUMENT_BLOCK_HEAD + abi.ARGUMENT_BLOCK_ROOM)
        head = whole[: abi.ARGUMENT_BLOCK_HEAD]
        self.words: memoryview[int] = head.cast("q")
        self.floats: memoryview[Any] = head.cast("d")
        self.room: memoryview[int] = whole[abi.ARGUMENT_BLOCK_HEAD :]
        self.starts = _Starts(self.room)
        self._view = view
        self._large = b""

    def arguments(self, form: int) -> list[Any]:
        """Return arguments of any form except numbers, which are handled elsewhere."""
        words = self.words
        if form == abi.FORM_NULL:
            return [None]
        if form >= abi.FORM_FAR:
            data = self._view(words[abi.ARGUMENT_BLOCK_ADDRESS], words[_VALUE])
            if len(data) > MOST_BODY_BYTES:
                raise InternalError("the guest passed more arguments than a callback can take")
        else:
            data = self.room[: words[_VALUE]]
        kind = form & ~abi.FORM_FAR
        if kind == abi.FORM_ARRAY:
            check_values(data)
            return decode_arguments(data)
        return [str(data, "utf-8") if kind == abi.FORM_TEXT else copy_of(data)]

    def put(self, value: Any) -> None:
        """Write a result; raises as `storable` does."""
        words = self.words
        if value is None:
            words[_FORM] = abi.FORM_NULL
            return
        if value is True or value is False:  # the result of a condition, which needs no checks
            words[_VALUE] = value
            words[_FORM] = abi.FORM_INTEGER
            return
        value = storable(value)
        if isinstance(value, float):
            self.floats[_VALUE] = value
            words[_FORM] = abi.FORM_FLOAT
        elif isinstance(value, int):
            words[_VALUE] = value
            words[_FORM] = abi.FORM_INTEGER
        elif isinstance(value, str):
            self._put_bytes(abi.FORM_TEXT, value.encode())
        else:
            self._put_bytes(abi.FORM_BLOB, value)

    def _put_bytes(self, form: int, data: bytes) -> None:
        """Write a text or blob, or keep it for `fetch` if it does not fit."""
        length = len(data)
        if length <= len(self.room):
            self.room[:length] = data
        else:
            self._large = data
        self.words[_VALUE] = length
        self.words[_FORM] = form

    def fetch(self, target: memoryview) -> int:
        """Copy the last result, which did not fit, once; 1 if it has another length."""
        large, self._large = self._large, b""
        if len(large) != len(target):
            return 1
        fill(target, large)
        return 0
