"""Values of healthy tissue from the literature, with their sources and how far each was checked."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from qmri_core.calibration.population import FIELD_TOLERANCE


@dataclass(frozen=True, slots=True, kw_only=True)
class LiteratureValue:
    """One reported interval of a tissue, in the unit of the store; ``checked`` says against what it was compared."""

    field_strength: float
    tissue: str
    map: str
    value: float
    low: float
    high: float
    method: str
    citation: str
    doi: str
    checked: str
    note: str


def literature(field_strength: float = 3.0) -> tuple[LiteratureValue, ...]:
    """All values that the package knows at a field strength (tesla)."""
    return tuple(entry for entry in _everything() if abs(entry.field_strength - field_strength) <= FIELD_TOLERANCE)


@lru_cache(maxsize=1)
def _everything() -> tuple[LiteratureValue, ...]:
    text = files("qmri_core.evaluation").joinpath("literature.csv").read_text(encoding="utf-8")
    return tuple(
        LiteratureValue(
            field_strength=float(row["field_strength"]),
            tissue=row["tissue"],
            map=row["map"],
            value=float(row["value"] or math.nan),
            low=float(row["low"]),
            high=float(row["high"]),
            method=row["method"],
            citation=row["citation"],
            doi=row["doi"],
            checked=row["checked"],
            note=row["note"],
        )
        for row in csv.DictReader(text.splitlines())
    )


def interval(tissue: str, name: str) -> tuple[float, float] | None:
    """Lowest and highest value of a tissue at 3 T in the map ``name``; None if the package knows none."""
    entries = [entry for entry in literature() if (entry.tissue, entry.map) == (tissue, name)]
    return (min(entry.low for entry in entries), max(entry.high for entry in entries)) if entries else None
