"""The guest's memory, table and imports as bytes and addresses: rings, control block, linking."""
