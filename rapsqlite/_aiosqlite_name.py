"""The name ``aiosqlite`` for `rapsqlite.aiosqlite`."""

from __future__ import annotations

import sys


def install_as_aiosqlite() -> None:
    """Make ``import aiosqlite`` import `rapsqlite.aiosqlite` in this process.

    Call it before anything imports aiosqlite. Raises RuntimeError if aiosqlite itself has been imported: some of its
    connections may be in use.
    """
    # It imports the package's public names, of which this is one.
    from rapsqlite import aiosqlite
    from rapsqlite.aiosqlite import context, core, cursor

    if sys.modules.get("aiosqlite") not in {None, aiosqlite}:
        raise RuntimeError("aiosqlite has been imported already: call install_as_aiosqlite() before that")
    sys.modules.update(
        {
            "aiosqlite": aiosqlite,
            "aiosqlite.context": context,
            "aiosqlite.core": core,
            "aiosqlite.cursor": cursor,
        }
    )
