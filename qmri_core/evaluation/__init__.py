"""Maps against a truth, and without one."""
