"""Functions called with each connection once it is open; `rapsqlite.opentelemetry` registers one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

observers: list[Callable[[Any], object]] = []
"""Called with each newly opened `Connection`, before its ``init_hook``."""
