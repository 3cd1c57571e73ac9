"""The functions the guest may call: name, signature, plain callable (docs/abi.md, "Imports").

They run on the guest's own thread with the GIL. Addresses and lengths come from the guest: each callable takes its
bytes through ``view``, which raises outside the memory. An exception here traps the guest and so ends the connection;
it never crosses the wasm frames.

https://github.com/WebAssembly/WASI/blob/main/legacy/preview1/docs.md
"""

from __future__ import annotations

MODULE = "rapsqlite"

# Parameters and result, one letter each: i is i32, I is i64. Functions without any are called in a cheaper way.
SIGNATURES: dict[str, tuple[str, str]] = {
    "park": ("i", "i"),
    "bell": ("", ""),
    "payload": ("iii", "i"),
    "spill": ("ii", "i"),
    "busy": ("i", "i"),
    "busy_timeout": ("i", "i"),
    "sleep": ("i", ""),
    "localtime": ("I", "I"),
    "log": ("ii", ""),
    "path_full": ("iiii", "i"),
    "file_open": ("iiii", "i"),
    "file_close": ("i", "i"),
    "file_read": ("iiiI", "i"),
    "file_write": ("iiiI", "i"),
    "file_truncate": ("iI", "i"),
    "file_sync": ("ii", "i"),
    "file_size": ("ii", "i"),
    "file_delete": ("iii", "i"),
    "file_access": ("iiii", "i"),
    "file_lock": ("iii", "i"),
    "file_unlock": ("ii", "i"),
    "file_reserved": ("ii", "i"),
    "file_moved": ("ii", "i"),
    "shm_map": ("iiiii", "i"),
    "shm_lock": ("iiiii", "i"),
    "shm_unlock": ("ii", "i"),
    "shm_unmap": ("ii", "i"),
    "unlock": ("iii", ""),
    "window_map": ("iiiI", "i"),
    "window_unmap": ("ii", "i"),
    "memory_unused": ("ii", ""),
    "callback": ("", ""),
    "callback_answer": ("ii", "i"),
}

WASI = "wasi_snapshot_preview1"
WASI_FUNCTIONS = frozenset(
    {"clock_time_get", "environ_get", "environ_sizes_get", "fd_write", "proc_exit", "random_get"},
)
"""The WASI functions a guest may import; none waits, because a guest waiting there cannot be woken."""
