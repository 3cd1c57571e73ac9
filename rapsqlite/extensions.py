"""Extensions of SQLite: what is built into the engine, by name, and why nothing else can be loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rapsqlite.errors import NotSupportedError, OperationalError

if TYPE_CHECKING:
    from rapsqlite._session import Session

# Names by which programs ask for what every connection here has from the start.
BUILT_IN = frozenset({"fts5", "rtree", "geopoly", "json", "json1", "math", "dbstat", "session"})


class Extensions:
    """What of `Connection` loads extensions."""

    _session: Session
    _may_load_extensions = False

    async def enable_load_extension(self, enable: bool, /) -> None:
        """Allow `load_extension`, or forbid it again."""
        self._session.guest.state  # noqa: B018 - raises if the connection is closed
        self._may_load_extensions = bool(enable)

    async def load_extension(self, name: str, /, *, entrypoint: str | None = None) -> None:  # noqa: ARG002
        """Make an extension available: one of those built into the engine, which always are; nothing is done for them.

        OperationalError if loading is not enabled or there is no such extension; NotSupportedError for a native
        library: SQLite runs in a sandbox here, which cannot run code of the machine it is on.
        """
        self._session.guest.state  # noqa: B018 - raises if the connection is closed
        if not self._may_load_extensions:
            raise OperationalError("not authorized")
        if name.lower() in BUILT_IN:
            return
        if _is_library(name):
            raise NotSupportedError(
                f"{name} is a native library, which SQLite cannot load from inside its sandbox: "
                "write the functions in Python with create_function(), or open the database with sqlite3 for this"
            )
        known = ", ".join(sorted(BUILT_IN))
        raise OperationalError(f"there is no extension {name!r}; these are built in: {known}")


def _is_library(name: str) -> bool:
    """Tell whether there is such a file; without a suffix the name stands for a library's, as in SQLite."""
    return any(Path(name + suffix).is_file() for suffix in ("", ".so", ".dylib", ".dll"))
