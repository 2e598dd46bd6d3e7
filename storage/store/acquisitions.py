"""Acquisition parameters as per-session values of the store, and back, without loss."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from qmri_core.series.acquisition import CONTRASTS, Acquisition, Contrast, PulseSequence

_NUMBERS = ("repetition_time", "echo_time", "inversion_time", "flip_angle", "echo_train_length")
_COUNTS = ("echo_train_length", "centre_index", "slices")
_DEFAULTS = {field.name: field.default for field in fields(Acquisition)}


def acquisition_values(acquisition: Acquisition) -> dict[str, object]:
    """Per-session values of one acquisition: names as in the schema, prefixed by the contrast.

    The parameters that an analyst selects by are numbers of their own; the rest is one compact JSON object that
    leaves out what has its default.
    """
    prefix = acquisition.contrast
    rest: dict[str, object] = {}
    for field in fields(Acquisition):
        value = getattr(acquisition, field.name)
        if field.name not in {"contrast", "sequence", *_NUMBERS} and value != _DEFAULTS[field.name]:
            rest[field.name] = value
    return {
        f"{prefix}_sequence": str(acquisition.sequence),
        **{f"{prefix}_{name}": _number(getattr(acquisition, name)) for name in _NUMBERS},
        f"{prefix}_model_parameters": json.dumps(rest, separators=(",", ":"), sort_keys=True),
    }


def acquisition_of(values: Mapping[str, Any], contrast: Contrast) -> Acquisition | None:
    """Rebuild the acquisition of one contrast from a session's stored values; ``None`` if it lacks the contrast.

    ``values`` is a mapping or a row of `storage.store.cohort.sessions`.
    """
    sequence = values.get(f"{contrast}_sequence", "")
    if not sequence:
        return None
    parameters: dict[str, Any] = json.loads(str(values[f"{contrast}_model_parameters"]))
    for name in _NUMBERS:
        value = float(values[f"{contrast}_{name}"])
        if not math.isnan(value):
            parameters[name] = value
    for name in _COUNTS:
        if name in parameters:
            parameters[name] = int(parameters[name])
    if "flip_train" in parameters:
        parameters["flip_train"] = tuple(parameters["flip_train"])
    if "marks" in parameters:
        parameters["marks"] = tuple((name, mark) for name, mark in parameters["marks"])
    return Acquisition(contrast=Contrast(contrast), sequence=PulseSequence(str(sequence)), **parameters)


def acquisitions_of(values: Mapping[str, Any]) -> dict[Contrast, Acquisition]:
    """All acquisitions of a session from its stored values."""
    found = {contrast: acquisition_of(values, contrast) for contrast in CONTRASTS}
    return {contrast: acquisition for contrast, acquisition in found.items() if acquisition is not None}


def scales_of(values: Mapping[str, Any]) -> dict[Contrast, float]:
    """Scales that a session's maps were made with, of the contrasts it has, from its stored values."""
    return {contrast: float(values[f"{contrast}_scale"]) for contrast in acquisitions_of(values)}


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
