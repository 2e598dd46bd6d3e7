"""Statistics of people's values: comparisons, repeats, harmonisation, centiles; models are those of statsmodels."""
