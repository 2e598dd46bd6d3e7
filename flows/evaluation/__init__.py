"""Stored maps judged, with a truth and without one."""
