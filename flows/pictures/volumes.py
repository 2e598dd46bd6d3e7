"""Pictures: of one session, an axial slice of each image and map; of an evaluation, medians on true ones, or maps."""

from __future__ import annotations

import base64
import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flows.tables.text import MAP_FORMATS, labels_of
from qmri_core.series.acquisition import CONTRASTS
from qmri_core.tissues import MAPS

if TYPE_CHECKING:
    from storage.store.cohort import Cohort
    from storage.store.slots import Slot

MAP_WINDOWS: dict[str, tuple[float, float, float, str]] = {
    "T1map": (1000.0, 300.0, 2500.0, "T1 [ms]"),
    "T2map": (1000.0, 30.0, 200.0, "T2 [ms]"),
    "PDmap": (1.0, 0.55, 1.05, "PD, CSF = 1"),
    "T1map_sd": (1000.0, 0.0, 200.0, "standard uncertainty of T1 [ms]"),
}
"""Factor from the stored unit, lowest and highest value of the colour scale, and its label."""

PICTURED_MODELS = ("network", "published recipe", "null model")
"""Models of an evaluation that are drawn, in this order."""

REGION_MARKS = {"wm": "o", "gm": "s", "thalamus": "^", "caudate": "v", "putamen": "<", "pallidum": ">", "lesion": "*"}

_MARGIN = 6
"""Voxels shown around the brain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture as a data URI, with the text that stands for it."""

    uri: str
    alt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSession:
    """A session of a cohort to be drawn: what is shown of its volumes is read when it is drawn.

    ``row`` is its row of the catalogue.
    """

    cohort: Cohort
    slot: Slot
    row: Mapping[str, Any]

    def section(self, name: str, *place: int | slice) -> NDArray[Any]:
        """Part of a variable, by its z, y and x; default: the whole."""
        return self.cohort.read_part(self.slot, name, place)

    @property
    def spacing(self) -> tuple[float, float]:
        """Millimetres between rows and between columns."""
        return self._step("y"), self._step("x")

    def _step(self, axis: str) -> float:
        places = np.asarray(self.cohort.nodes.array(self.slot.group, axis)[:2])
        return float(np.diff(places)[0]) if places.size > 1 else 1.0


def session_picture(session: StoredSession, title: str) -> Picture:
    """Draw the slice through the middle of the brain mask of one stored session, seen from below (radiological).

    Variables that hold nothing stay empty frames.
    """
    from matplotlib.figure import Figure

    mask = session.section("brain_mask") == 1
    index, rows, columns = _section(mask)
    shown = mask[index, rows, columns]
    spacing = session.spacing
    names = (*CONTRASTS, *MAPS)
    height = 2.3 * shown.shape[0] * spacing[0] / (shown.shape[1] * spacing[1])
    figure = Figure(figsize=(2.3 * len(names), height + 1.1), layout="constrained", facecolor="white")
    quality, marks = quality_text(session.row)
    figure.suptitle(quality, fontsize=8, color="#b00020" if marks else "#222222")
    for axes, name in zip(figure.subplots(1, len(names)), names, strict=True):
        section = session.section(name, index, rows, columns)
        _draw(figure, axes, name, section, shown, spacing)
    what = ", ".join(name for name in names)
    return Picture(
        uri="data:image/png;base64," + base64.b64encode(png_of(figure)).decode("ascii"),
        alt=f"{title}: one axial slice of {what}, with the outline of the brain mask; {quality}",
    )


def maps_picture(sessions: Sequence[StoredSession]) -> bytes:
    """Draw the middle axial slice of some stored sessions as PNG: a row each, with its pseudonym beside it.

    Columns are FLAIR (T2w where it holds nothing in the slice), the maps, and the standard uncertainty of T1, with
    their units.
    """
    from matplotlib.figure import Figure

    places = [_section(session.section("brain_mask") == 1) for session in sessions]
    columns = (*MAPS, "T1map_sd")
    figure = Figure(figsize=(2.3 * (1 + len(columns)), 3.6 * len(sessions)), layout="constrained", facecolor="white")
    rows = figure.subfigures(len(sessions), 1, squeeze=False)[:, 0]
    for row, session, place in zip(rows, sessions, places, strict=True):
        sections = {column: session.section(column, *place) for column in ("FLAIR", "T2w", "brain_mask", *columns)}
        image = "FLAIR" if np.isfinite(sections["FLAIR"]).any() else "T2w"
        row.supylabel(session.slot.session, fontsize=9)
        for axes, column in zip(row.subplots(1, 1 + len(columns)), (image, *columns), strict=True):
            _draw(row, axes, column, sections[column], sections["brain_mask"] == 1, session.spacing)
    return png_of(figure)


def medians_picture(medians: pd.DataFrame, labels: Mapping[str, str], note: str = "") -> bytes:
    """Draw estimated against true regional medians as PNG: a row per map, a column per model, a colour per group.

    Parameters
    ----------
    medians
        One row per session, model, map and region, with the columns group, estimated and true (in the unit of the
        store). Of its models those of `PICTURED_MODELS` are drawn; each panel's estimated axis holds the true range
        too.
    labels
        The store's labels of the groups.
    note
        Text below.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    known = medians[np.isfinite(medians["estimated"]) & np.isfinite(medians["true"])]
    models = [model for model in PICTURED_MODELS if (known["model"] == model).any()]
    labels = labels_of(medians["group"], labels)
    colours = dict(zip(labels, colormaps["turbo"](np.linspace(0.05, 0.95, len(labels))), strict=True))
    regions = [region for region in REGION_MARKS if (known["region"] == region).any()]
    figure = Figure(figsize=(3.2 * max(1, len(models)) + 1.5, 9.0), layout="constrained", facecolor="white")
    panels = figure.subplots(len(MAPS), max(1, len(models)), squeeze=False)
    for row, (name, (short, unit, factor)) in zip(panels, MAP_FORMATS.items(), strict=True):
        of_map = known[(known["map"] == name) & known["model"].isin(models)]
        across = _limits(factor * of_map["true"].to_numpy())
        for axes, model in zip(row, models, strict=False):
            shown = of_map[of_map["model"] == model]
            for (group, region), members in shown.groupby(["group", "region"]):
                axes.plot(
                    factor * members["true"],
                    factor * members["estimated"],
                    REGION_MARKS.get(str(region), "x"),
                    color=colours[str(group)],
                    markersize=4,
                    alpha=0.8,
                )
            axes.axline((across[0], across[0]), slope=1, color="#888888", linewidth=0.8)
            axes.set(xlim=across, ylim=_limits(np.append(factor * shown["estimated"].to_numpy(), across)))
            axes.set_title(f"{short}, {model}", fontsize=10)
            axes.tick_params(labelsize=7)
            axes.set_xlabel(f"true {short}" + (f" [{unit}]" if unit else ""), fontsize=8)
            axes.set_ylabel(f"estimated {short}" + (f" [{unit}]" if unit else ""), fontsize=8)
    handles = [Line2D([], [], marker="o", linestyle="", color=colours[group], label=labels[group]) for group in labels]
    handles += [
        Line2D([], [], marker=REGION_MARKS[region], linestyle="", color="#444444", label=region) for region in regions
    ]
    figure.legend(handles=handles, loc="outside right center", fontsize=8, frameon=False)
    figure.suptitle("Medians of regions, one point per session and region; the line: as true", fontsize=10)
    figure.supxlabel("\n".join(textwrap.wrap(note, 45 * max(1, len(models)))), fontsize=7)
    return png_of(figure)


def png_of(figure: Any) -> bytes:  # noqa: ANN401 - matplotlib's Figure, imported when it is needed
    """A figure as PNG; equal figures are equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _limits(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    margin = 0.05 * (high - low) or 0.1
    return low - margin, high + margin


def quality_text(row: Mapping[str, Any]) -> tuple[str, str]:
    """Quality figures of one session in one line, and the names of those that are marked, from the catalogue."""

    def shown(name: str, form: str) -> str:
        value = float(row[name])
        return format(value, form) if math.isfinite(value) else "-"

    marks = str(row["quality_marks"])
    parts = [
        f"brain {shown('brain_volume', '.2f')} l",
        f"coverage {shown('coverage', '.2f')}",
        f"alignment residual {shown('alignment_residual', '.2f')} mm",
    ]
    for title, name, form in (
        ("SNR", "snr", ".0f"),
        ("contrast", "contrast", ".2f"),
        ("sharpness", "sharpness", ".2f"),
        ("artefacts", "artefacts", ".3f"),
    ):
        parts.append(f"{title} " + "/".join(shown(f"{contrast}_{name}", form) for contrast in CONTRASTS))
    return ", ".join(parts) + (f"; marked: {marks}" if marks else ""), marks


def _draw(
    figure: Any,  # noqa: ANN401 - matplotlib's Figure, imported when it is needed
    axes: Any,  # noqa: ANN401
    name: str,
    section: NDArray[np.float32],
    mask: NDArray[np.bool_],
    spacing: tuple[float, float],
) -> None:
    factor, low, high, label = MAP_WINDOWS.get(name, (1.0, 0.0, 0.0, "arbitrary unit"))
    if name in CONTRASTS:
        inside = section[mask & np.isfinite(section)]
        low, high = (0.0, float(np.percentile(inside, 99.5))) if inside.size else (0.0, 1.0)
    options: dict[str, Any] = {"origin": "lower", "interpolation": "nearest", "aspect": spacing[0] / spacing[1]}
    colours = "gray" if name in CONTRASTS else "magma"
    axes.set_facecolor("black")
    image = axes.imshow(factor * section[:, ::-1], cmap=colours, vmin=low, vmax=high, **options)
    if mask.any() and not mask.all():
        axes.contour(mask[:, ::-1].astype(float), levels=[0.5], colors="#4cc9f0", linewidths=0.9)
    if not np.isfinite(section).any():
        axes.text(0.5, 0.5, "not computed", color="white", ha="center", va="center", transform=axes.transAxes)
    axes.set_title(name, fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])
    bar = figure.colorbar(image, ax=axes, orientation="horizontal", fraction=0.05, pad=0.03, extend="max")
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)


def _section(mask: NDArray[np.bool_]) -> tuple[int, slice, slice]:
    """Slice at the median height of the brain, and the rows and columns that show all of it."""
    if not mask.any():
        return mask.shape[0] // 2, slice(None), slice(None)
    z, y, x = np.nonzero(mask)
    index = int(np.median(z))
    rows = slice(max(0, int(y.min()) - _MARGIN), int(y.max()) + _MARGIN + 1)
    columns = slice(max(0, int(x.min()) - _MARGIN), int(x.max()) + _MARGIN + 1)
    return index, rows, columns
