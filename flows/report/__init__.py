"""The report of a cohort: one HTML file with its tables and pictures inside."""
