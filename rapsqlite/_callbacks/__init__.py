"""The user's Python callbacks: registered, called by the guest, and what they raise."""
