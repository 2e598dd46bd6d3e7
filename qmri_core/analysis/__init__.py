"""Statistics of people's values: comparisons, repeats, harmonisation, centiles."""
