"""What people decide on sessions and groups: codes, the append-only table, what stands, and what it changes."""
