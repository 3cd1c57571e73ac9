"""The parts of a connection: its state, transactions, batches, and the parts of its objects."""
