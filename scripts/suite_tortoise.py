"""The fixtures of tortoise-orm's tests that its sdist lacks, as a pytest plugin: a database in memory per test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest_asyncio
from tortoise.context import tortoise_test_context  # type: ignore[import-not-found]

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def database() -> AsyncIterator[Any]:
    """Make a database for the models of the tests."""
    async with tortoise_test_context(["tests.testmodels"], connection_label="models") as context:
        yield context


db, db_isolated, db_simple, db_truncate = (
    pytest_asyncio.fixture(database, name=name) for name in ("db", "db_isolated", "db_simple", "db_truncate")
)
