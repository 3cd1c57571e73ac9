"""The signals that make wasmtime trap wasm code, and other code's handlers for them.

wasmtime installs its handlers with the first engine. If other code replaces them later, a fault of wasm code ends the
process. Python's faulthandler does so when it is enabled later. (Enabled before, it keeps working: wasmtime passes on
faults that are not its own.) Its handlers are replaced again, because they only describe a fault that ends the process.
Any other handlers stay, and a warning is logged.

https://docs.python.org/3/library/faulthandler.html, https://man7.org/linux/man-pages/man2/sigaction.2.html
"""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import signal
import sys

_ACTION_BYTES = 256  # more than any libc's struct sigaction
_ADDRESS_BYTES = ctypes.sizeof(ctypes.c_void_p)
_NO_HANDLERS = (0, 1)  # SIG_DFL, SIG_IGN

logger = logging.getLogger("rapsqlite")
_libc = ctypes.PyDLL(None)
_installed: dict[int, bytes] = {}  # by signal: sigaction(2)'s result after wasmtime had installed its handler
_warned: set[int] = set()  # other code's handlers for which a warning was logged


class _Symbol(ctypes.Structure):
    """The result of dladdr(3) for an address."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def unblock() -> None:
    """Let faults of the calling thread reach the handlers: where a program blocks all signals, they end the process."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE))


def note() -> None:
    """Remember wasmtime's handlers. Called when its first engine was created; later calls do nothing."""
    segv = _action(signal.SIGSEGV)
    if _installed or _handler(segv) in _NO_HANDLERS:
        return
    for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE):  # SIGBUS on macOS
        action = _action(number)
        if _handler(action) == _handler(segv):
            _installed[number] = action


def extend_to(number: int) -> bool:
    """Let wasmtime's handler for SIGSEGV handle this signal too; False if that is impossible. Cheap."""
    action = _installed.get(signal.SIGSEGV)
    if action is None:
        return False
    if number not in _installed:
        if _libc.sigaction(number, action, None):
            return False
        _installed[number] = action
    return True


def mend() -> bool:
    """Restore wasmtime's handlers if Python's faulthandler has replaced them; False if other code has. Cheap."""
    is_whole = True
    for number, action in list(_installed.items()):
        found = _handler(_action(number))
        if found == _handler(action):
            continue
        if _is_faulthandler(number, found) and not _libc.sigaction(number, action, None):
            _report(
                found,
                "faulthandler was enabled after the first connection: its handlers were replaced again where wasmtime"
                " needs the same signals; enable it before the first connection to have both",
            )
            continue
        is_whole = False
        _report(
            found,
            f"a handler for {signal.Signals(number).name} was installed after the first connection: a fault in the"
            " engine, which would be an error of its connection, may end the process",
        )
    return is_whole


def _report(handler: int, message: str) -> None:
    if handler not in _warned:
        _warned.add(handler)
        logger.warning(message)


def _is_faulthandler(number: int, handler: int) -> bool:
    """Return True if this is Python's own handler and none that the program has set with `signal.signal`."""
    if not faulthandler.is_enabled() or callable(signal.getsignal(number)):
        return False
    python = ctypes.cast(ctypes.pythonapi.Py_IsInitialized, ctypes.c_void_p).value or 0
    base = _base_of(python)
    return base is not None and base == _base_of(handler)


def _base_of(address: int) -> int | None:
    """Return the load address of the library or program that contains an address."""
    symbol = _Symbol()
    is_found = _libc.dladdr(ctypes.c_void_p(address), ctypes.byref(symbol))
    return symbol.base if is_found else None


def _action(number: int) -> bytes:
    buffer = ctypes.create_string_buffer(_ACTION_BYTES)
    _libc.sigaction(number, None, buffer)
    return buffer.raw


def _handler(action: bytes) -> int:
    # The handler comes first in Linux's and every libc's structure; the rest is partly undefined.
    return int.from_bytes(action[:_ADDRESS_BYTES], sys.byteorder)
