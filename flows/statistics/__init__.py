"""Tissue statistics of sessions, groups and the cohort."""
