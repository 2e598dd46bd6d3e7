"""Versions of what makes results: raised when results change, which makes stored ones stale."""

from importlib.metadata import version

CODE_VERSION = version("qmri-cohort")
"""Of the package."""
PREPROCESSING = 8
"""Of `qmri_core.preprocessing.session.preprocess` and the signals of tissues: images are made anew."""
INFERENCE = 7
"""Of `qmri_core.mapping.inference.session_maps`: maps are made anew."""
