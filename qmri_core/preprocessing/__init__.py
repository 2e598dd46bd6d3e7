"""Alignment, bias field, brain mask and tissue segmentation of one session."""
