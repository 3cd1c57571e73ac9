"""Cursors, as ``aiosqlite.cursor``."""

from rapsqlite.cursor import Cursor

__all__ = ["Cursor"]
