"""SQLAlchemy's async engine, connection and session for asyncio and Trio.

SQLAlchemy's own classes close in a task of asyncio's, so that a cancellation cannot stop that. Under Trio these close
in a shielded scope; under asyncio they are SQLAlchemy's.
https://docs.sqlalchemy.org/en/21/orm/extensions/asyncio.html
"""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy.ext import asyncio as sa
from sqlalchemy.ext.asyncio.base import asyncstartablecontext

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def _in_trio() -> bool:
    trio = sys.modules.get("trio")
    return trio is not None and trio.lowlevel.in_trio_task()


class _ClosesAnywhere:
    """Something whose ``async with`` works under Trio too."""

    async def __aexit__(self: Any, *exc_info: Any) -> None:
        """Close, whatever cancels the task."""
        if not _in_trio():
            await super().__aexit__(*exc_info)  # type: ignore[misc]  # SQLAlchemy's
            return
        await _close_shielded(self)


async def _close_shielded(something: Any) -> None:
    import anyio

    with anyio.CancelScope(shield=True):
        await something.close()


class AsyncConnection(_ClosesAnywhere, sa.AsyncConnection):
    """A connection for asyncio and Trio."""

    def stream(self, *arguments: Any, **options: Any) -> Any:
        """Execute a statement; return its rows as they are fetched. Await it, or use it in ``async with``."""
        return self._streamed(*arguments, **options) if _in_trio() else super().stream(*arguments, **options)

    @asyncstartablecontext
    async def _streamed(self, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
        result = await super().stream(*arguments, **options)
        try:
            yield result
        except GeneratorExit:
            return  # it was awaited: the program closes it
        except BaseException:
            await _close_shielded(result)
            raise
        await _close_shielded(result)


class AsyncEngine(sa.AsyncEngine):
    """An engine for asyncio and Trio; made by `create_async_engine`."""

    _connection_cls = AsyncConnection

    def execution_options(self, **options: Any) -> AsyncEngine:
        """Return an engine with these options for its connections, and the same pool."""
        return AsyncEngine(super().execution_options(**options).sync_engine)


class AsyncSession(_ClosesAnywhere, sa.AsyncSession):
    """A session for asyncio and Trio."""

    async def connection(self, *arguments: Any, **options: Any) -> AsyncConnection:
        """Return the connection of the session's transaction."""
        connection = await super().connection(*arguments, **options)
        if isinstance(connection, AsyncConnection):
            return connection
        return AsyncConnection(connection.engine, connection.sync_connection)

    def _maker_context_manager(self) -> Any:
        """Return the block of ``async_sessionmaker.begin()``."""
        return self._begun() if _in_trio() else super()._maker_context_manager()

    @asynccontextmanager
    async def _begun(self) -> AsyncIterator[AsyncSession]:
        async with self, self.begin():
            yield self


def create_async_engine(url: Any, **options: Any) -> AsyncEngine:
    """Return an engine: as SQLAlchemy's function of this name, for asyncio and Trio."""
    return AsyncEngine(sa.create_async_engine(url, **options).sync_engine)


def async_sessionmaker(bind: Any = None, *, class_: type[Any] = AsyncSession, **options: Any) -> Any:
    """Return a factory of sessions: as SQLAlchemy's class of this name, for asyncio and Trio."""
    return sa.async_sessionmaker(bind, class_=class_, **options)
