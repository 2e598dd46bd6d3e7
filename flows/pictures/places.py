"""Pictures of maps of z in template space."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from flows.pictures.volumes import png_of
from flows.tables.text import MAP_FORMATS
from qmri_core.series.geometry import Affine
from qmri_core.tissues import MAPS

_HEIGHTS = (-40.0, -20.0, 0.0, 20.0, 40.0)
"""Millimetres of Montreal of the slices."""
_WHITEST = 5.0
"""Deviates at the ends of the colour scale."""


def places_picture(title: str, maps: Mapping[str, NDArray[np.float32]], affine: Affine) -> bytes:
    """Draw z in axial slices as PNG, a row for each of T1map, T2map and PDmap; the person's right is on the left.

    Parameters
    ----------
    maps
        By T1map, T2map and PDmap, shape (z, y, x), NaN where nothing is said.
    affine
        From voxel index x, y, z to RAS mm of the template, along its axes.
    """
    from matplotlib.figure import Figure

    x, y, z = ((affine[k, 3] + affine[k, k] * np.arange(maps[MAPS[0]].shape[2 - k])) for k in range(3))
    figure = Figure(figsize=(2.0 * len(_HEIGHTS), 2.3 * len(MAPS)), layout="constrained", facecolor="white")
    panels = figure.subplots(len(MAPS), len(_HEIGHTS), squeeze=False)
    for row, name in zip(panels, MAPS, strict=True):
        for axes, height in zip(row, _HEIGHTS, strict=True):
            section = maps[name][int(np.abs(z - height).argmin())]
            axes.set_facecolor("#30363c")
            image = axes.imshow(
                section[:, np.argsort(-x)],
                cmap="RdBu_r",
                vmin=-_WHITEST,
                vmax=_WHITEST,
                origin="lower" if y[-1] > y[0] else "upper",
                extent=(float(x.max()), float(x.min()), float(y.min()), float(y.max())),
                interpolation="nearest",
            )
            axes.set_title(f"{MAP_FORMATS[name][0]}, z = {height:.0f} mm", fontsize=7)
            axes.text(0.03, 0.5, "R", color="white", va="center", fontsize=8, transform=axes.transAxes)
            axes.set_xticks([])
            axes.set_yticks([])
    figure.colorbar(image, ax=panels, fraction=0.02).set_label("z within this cohort, no norm", fontsize=8)
    figure.suptitle(title, fontsize=9)
    return png_of(figure)
