"""Which threads of this process may be the package's."""

from __future__ import annotations

import threading


def threads_but_trios() -> set[threading.Thread]:
    """Return all threads except Trio's: in guest mode, in which anyio runs tests, it may start one for each wait."""
    return {thread for thread in threading.enumerate() if not thread.name.startswith("Trio thread")}
