"""Files, locks and memory mappings of the operating system: what SQLite's VFS asks of the host."""
