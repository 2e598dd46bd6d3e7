"""What we keep: the cohort store, its schema, its transactions and its life cycle."""
