"""Async SQLite for asyncio and Trio: SQLite and its query engine in one WebAssembly module.

import asyncio
from rapsqlite import connect

async def main():
    async with connect("example.db") as conn:
        await conn.execute("CREATE TABLE IF NOT EXISTS test (id INTEGER PRIMARY KEY, value TEXT)")
        await conn.execute("INSERT INTO test (value) VALUES ('hello')")
        print(await conn.fetch_all("SELECT * FROM test"))

asyncio.run(main())
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

__version__: str = "1.0.0.dev0"

# Public modules, and internal ones that are imported by name only.
_MODULES = frozenset(
    "aiosqlite backup blob cache changeset connection cursor dbapi dump errors extensions functions hooks memory"
    " opentelemetry pages pool prepared pytest_plugin recipes retries rows runtime savepoint schema session"
    " sqlalchemy stream transaction types".split()
)

if TYPE_CHECKING:
    from rapsqlite import _public
    from rapsqlite._public import *  # noqa: F403
    from rapsqlite._sqlite_names import *  # noqa: F403

    __all__ = ["__version__"]
    __all__ += _public.__all__  # type: ignore[has-type]  # of one knot of imports
else:

    def __getattr__(name: str) -> object:
        """Import a public name on first use (PEP 562), so that importing only the package costs almost nothing."""
        if name in _MODULES:
            return _import_module(f"rapsqlite.{name}")
        if name.startswith("_") and name != "__all__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            public = _import_module("rapsqlite._public")
        except ImportError:
            _import_module("rapsqlite._wasm.requirements").check()  # what it uses may not load in this interpreter
            raise
        names = {found: getattr(public, found) for found in public.__all__}
        globals().update(names, __all__=["__version__", *names])
        if name in globals():
            return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        """Return the public names, whether imported yet or not."""
        return sorted({*globals(), *__getattr__("__all__"), *_MODULES})
