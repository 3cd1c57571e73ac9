"""Objects that represent something open in the guest: a copy would share it, and close it when it is dropped."""

from __future__ import annotations

from typing import Any, NoReturn


class Uncopied:
    """Base of classes that can be neither copied nor pickled, like the classes of `sqlite3`."""

    __slots__ = ()

    def __reduce__(self) -> NoReturn:
        cls = type(self)
        raise TypeError(f"cannot copy or pickle a {cls.__module__}.{cls.__qualname__}: it is open in this process only")

    def __copy__(self) -> NoReturn:
        self.__reduce__()

    def __deepcopy__(self, _memo: dict[int, Any]) -> NoReturn:
        self.__reduce__()
