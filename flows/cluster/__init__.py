"""Where work is done: Dask clusters, dispatch of sessions, and the boundary where a failed session becomes data."""
