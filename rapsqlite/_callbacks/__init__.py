"""The user's Python callbacks: registration, calls by the guest, and exceptions."""
