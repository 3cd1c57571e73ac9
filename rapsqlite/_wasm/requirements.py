"""Requirements on the interpreter and the machine, and the errors raised if they are not met.

It is imported first, also where the rest of the package cannot be imported, so it uses no compiled modules.
"""

from __future__ import annotations

import sys
from importlib import import_module

from rapsqlite.errors import NotSupportedError


def check() -> None:
    """Raise NotSupportedError if a guest cannot run in this interpreter; docs/platforms.md lists the reasons."""
    if sys.implementation.name != "cpython":
        raise _needs("CPython", f"this is {sys.implementation.name}, whose ctypes cannot run the engine's callbacks")
    if sys.maxsize < 1 << 32:
        raise _needs("a 64-bit Python", "each connection reserves 4 GiB of address space, which this one does not have")
    if sys.byteorder != "little":
        raise _needs("a little-endian processor", "WebAssembly's memory is shared with the engine as it is")
    if not _is_main_interpreter():
        raise _needs(
            "the main interpreter", "this is a subinterpreter, which the compiled modules it uses do not support"
        )


def no_runtime(reason: BaseException) -> NotSupportedError:
    """Return the error for a machine on which wasmtime's library does not load."""
    machine = f"{sys.platform}, {'64' if sys.maxsize >= 1 << 32 else '32'} bits"
    return NotSupportedError(f"no WebAssembly runtime for this machine ({machine}): {reason}")


def _needs(what: str, reason: str) -> NotSupportedError:
    return NotSupportedError(f"rapsqlite needs {what}: {reason}")


def _is_main_interpreter() -> bool:
    name = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
    interpreters = import_module(name)
    return bool(interpreters.get_current() == interpreters.get_main())
