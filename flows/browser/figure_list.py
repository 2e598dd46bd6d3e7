"""Which figures of a session the pages show, with their titles and units."""

from __future__ import annotations

from dataclasses import dataclass

from flows.tables.text import MAP_FORMATS, quantities
from qmri_core.series.acquisition import CONTRASTS

QUALITY = ("snr", "contrast", "sharpness", "artefacts", "ghosts", "focus")
WHOLE = {
    "brain_volume": ("brain volume", "l"),
    "coverage": ("coverage", ""),
    "alignment_residual": ("alignment residual", "mm"),
    "synthesis_residual": ("residual of re-synthesis", ""),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number of every session: its column, title and unit for people, and to which sort it belongs."""

    name: str
    title: str
    unit: str
    sort: str
    factor: float = 1.0
    tissue: str = ""
    quantity: str = ""


def figure_list() -> tuple[Figure, ...]:
    """All figures, tissue values first."""
    of_tissues = [
        Figure(
            name=f"{tissue}_{name}_{what}",
            title=f"{tissue} {MAP_FORMATS[name][0]}, {what}",
            unit=MAP_FORMATS[name][1],
            sort="tissue",
            factor=MAP_FORMATS[name][2],
            tissue=tissue,
            quantity=MAP_FORMATS[name][0].lower(),
        )
        for what in ("median", "mode")
        for tissue, name, _ in quantities()
    ]
    of_images = [
        Figure(
            name=f"{contrast}_{what}",
            title=f"{contrast} {what.upper() if what == 'snr' else what}",
            unit=unit,
            sort="quality",
        )
        for what in QUALITY
        for contrast in CONTRASTS
        for unit in ["mm⁻¹" if what == "sharpness" else ""]
    ]
    scales = [
        Figure(name=f"{contrast}_scale", title=f"{contrast} scale", unit="", sort="scale") for contrast in CONTRASTS
    ]
    whole = [Figure(name=name, title=title, unit=unit, sort="quality") for name, (title, unit) in WHOLE.items()]
    return (*of_tissues, *whole, *of_images, *scales)
