"""Versions of what makes results: raised when results change, which makes stored ones stale, failures included."""

from importlib.metadata import version

CODE_VERSION = version("qmri-cohort")
"""Of the package: recorded with every session, and no reason to make anything again."""
PREPROCESSING = 9
"""Of what ingest makes of a session, from its headers to the signals of its tissues: images are made anew."""
INFERENCE = 10
"""Of what inference makes of images, scales and weights: maps are made anew."""
