"""A session's maps as a picture, with the side of the person that each edge shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from qmri_core.tissues import MAPS
from storage.store.repository import StoreError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINDOWS: Mapping[str, tuple[float, float, float, str]] = {
    "T1map": (1000.0, 300.0, 2500.0, "T1 [ms]"),
    "T2map": (1000.0, 30.0, 200.0, "T2 [ms]"),
    "PDmap": (1.0, 0.55, 1.05, "PD, CSF = 1"),
}
"""Factor from the stored unit, lowest and highest value of the colour scale, and its label."""


def session_figure(session: xr.Dataset, title: str, names: Sequence[str] = MAPS, z: float | None = None) -> Figure:
    """Draw an axial slice of some variables of one session, as radiologists look: the person's right is on the left.

    Parameters
    ----------
    session
        Variables of dims (z, y, x) on the grid's axes, which run to the person's right (x) and front (y).
    z
        Height of the slice [mm]; default: the middle of the brain.

    Raises
    ------
    StoreError
        If a variable is no volume of the session.
    """
    from matplotlib.figure import Figure

    if unknown := [name for name in names if name not in session or session[name].dims != ("z", "y", "x")]:
        raise StoreError(f"{unknown[0]}: no volume of a session; there are T1map, T2map, PDmap, T1w, tissue and others")
    heights = session["z"].to_numpy()
    place = int(np.abs(heights - z).argmin()) if z is not None else _middle(session)
    height, width = (abs(float(np.ptp(session[axis].to_numpy()))) or 1.0 for axis in "yx")
    figure = Figure(figsize=(3.0 * len(names), 3.0 * height / width + 1.0), layout="constrained", facecolor="white")
    figure.suptitle(f"{title}, z = {heights[place]:.0f} mm", fontsize=10)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        _draw(figure, axes, name, session[name].isel(z=place))
    return figure


def _middle(session: xr.Dataset) -> int:
    """Index of the slice at the median height of the brain."""
    heights = np.nonzero((session["brain_mask"] == 1).to_numpy())[0]
    return int(np.median(heights)) if heights.size else session.sizes["z"] // 2


def _draw(figure: Figure, axes: Any, name: str, section: xr.DataArray) -> None:  # noqa: ANN401 - matplotlib's Axes
    factor, low, high, label = WINDOWS.get(name, (1.0, None, None, section.attrs.get("units", "")))
    x, y = section["x"].to_numpy(), section["y"].to_numpy()
    edges = (float(x.max()), float(x.min()), float(y.min()), float(y.max()))  # x falls from left to right
    axes.set_facecolor("black")
    image = axes.imshow(
        factor * section.to_numpy()[:, ::-1],
        cmap="magma" if name in WINDOWS else "gray",
        vmin=low,
        vmax=high,
        origin="lower",
        extent=edges,
        interpolation="nearest",
    )
    axes.set_title(name, fontsize=10)
    for side, where in (("R", 0.03), ("L", 0.97)):
        axes.text(where, 0.5, side, color="white", ha="center", va="center", fontsize=10, transform=axes.transAxes)
    axes.tick_params(labelsize=7)
    axes.set_xlabel("mm", fontsize=7)
    figure.colorbar(image, ax=axes, orientation="horizontal", fraction=0.05, pad=0.03).set_label(label, fontsize=8)
