"""Questions that analysts ask of a cohort: from its tables to answers, tables and pictures."""
