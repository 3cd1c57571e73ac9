"""Files, locks and memory mappings of the operating system, for SQLite's VFS."""
