"""What a connection is made of: its state, transactions, batches, and the parts of its objects."""
