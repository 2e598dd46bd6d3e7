"""Simulated anatomies and acquisitions with known truth."""
