"""Orchestration: stages, Dask clusters, Prefect flows, settings, command line, reports."""
