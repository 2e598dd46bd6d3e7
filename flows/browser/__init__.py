"""The cohort browser: pages in which outliers, drift and bad sessions are seen, and decided on."""
