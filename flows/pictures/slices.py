"""Slices as grey levels: windowed as in the report, and small."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.pictures.volumes import MAP_WINDOWS
from qmri_core.series.acquisition import CONTRASTS

LABELS = ("brain_mask", "tissue")


def grey_levels(section: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Levels 1 to 255 of a slice of an image or map, 0 where nothing was computed."""
    low, high = window(section, name)
    known = np.isfinite(section)
    share = np.clip((np.where(known, section, low) - low) / ((high - low) or 1.0), 0, 1)
    return np.where(known, 1 + np.round(254 * share), 0).astype(np.uint8)


def fitted(levels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Levels with the longer side of ``size`` at most, its proportions kept; none are made larger."""
    from PIL import Image

    if max(levels.shape) <= size:
        return levels
    rows, columns = fitted_shape(levels.shape[0], levels.shape[1], size)
    is_known = Image.fromarray(255 * (levels > 0).astype(np.uint8)).resize((columns, rows), Image.Resampling.BOX)
    small = Image.fromarray(levels).resize((columns, rows), Image.Resampling.BOX)
    return np.where(np.asarray(is_known) >= 128, np.maximum(np.asarray(small), 1), 0).astype(np.uint8)


def fitted_shape(rows: int, columns: int, size: int) -> tuple[int, int]:
    """Shape of a slice after `fitted`."""
    factor = min(1.0, size / max(rows, columns))
    return max(1, round(rows * factor)), max(1, round(columns * factor))


def window(section: NDArray[Any], name: str) -> tuple[float, float]:
    """Values that are black and white: those of the report for maps, from 0 to nearly the brightest for images."""
    if name in MAP_WINDOWS:
        factor, low, high, _ = MAP_WINDOWS[name]
        return low / factor, high / factor
    if name in LABELS:
        return 0.0, 3.0
    known = section[np.isfinite(section)]
    known = known[known > 0] if name in CONTRASTS else known
    return 0.0, float(np.percentile(known, 99.5)) if known.size else 1.0
