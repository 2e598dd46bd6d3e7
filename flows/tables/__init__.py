"""Rows and text that every command prints."""
