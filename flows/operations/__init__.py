"""What a person asks about a running cohort: one session, two states, figures, and whether all is ready."""
