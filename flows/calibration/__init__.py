"""Calibration of groups and sessions, as flows run it, and its tables and texts."""
