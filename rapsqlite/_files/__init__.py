"""Files, locks and memory mappings of the operating system, for SQLite's VFS."""

try:
    import fcntl as fcntl
except ImportError as missing:
    raise ImportError("rapsqlite does not run on Windows yet: see docs/durability.md, Platforms") from missing
