"""Versions of what makes results: raised when results change, which makes stored ones stale."""

PREPROCESSING = 5
"""Of `qmri_core.preprocessing.session.preprocess`: images are made anew."""
INFERENCE = 5
"""Of `qmri_core.inference.infer_maps`: maps are made anew."""
