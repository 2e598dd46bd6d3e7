"""What kind of objects maps become."""

from __future__ import annotations

from enum import StrEnum


class Form(StrEnum):
    """What the objects are."""

    PARAMETRIC_MAP = "parametric-map"
    MR = "mr"


MODALITIES = {Form.PARAMETRIC_MAP: "OT", Form.MR: "MR"}
"""Parametric Maps are of another modality, as highdicom makes them."""
