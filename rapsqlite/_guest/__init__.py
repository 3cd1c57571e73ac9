"""One guest: its thread, its requests and replies, and how it is woken, limited and stopped."""
