"""What is told of each connection once it is open, such as `rapsqlite.opentelemetry`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

observers: list[Callable[[Any], object]] = []
"""Functions that get each `Connection` after it was opened, before its ``init_hook``."""
