"""Pictures of answers: differences with their intervals, and two methods beside each other."""

from __future__ import annotations

import pandas as pd

from flows.pictures.volumes import png_of
from flows.tables.text import MAP_FORMATS, records
from qmri_core.calibration.reliability import TELLS_APART

_SURE, _WEAK = "#0b5c7d", "#b4bac1"


def effects_picture(table: pd.DataFrame, factor: str) -> bytes:
    """Draw the differences of a comparison with their intervals as PNG; grey what tells no people apart.

    Parameters
    ----------
    table
        `flows.analysis.compare.Comparison.table`.
    """
    from matplotlib.figure import Figure

    rows = records(table)[::-1]
    figure = Figure(figsize=(7.5, 1.4 + 0.32 * len(rows)), layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.axvline(0.0, color="#888888", linewidth=0.8)
    labels = []
    for place, row in enumerate(rows):
        is_weak = float(row["determined"]) < TELLS_APART
        colour = _WEAK if is_weak else _SURE
        estimate, low, high = (100 * float(row[name]) for name in ("estimate", "low", "high"))
        axes.plot([low, high], [place, place], color=colour, linewidth=1.6)
        axes.plot([estimate], [place], "o" if row["p_corrected"] < 0.05 else "s", color=colour, markersize=5)
        beside = f" - {row['reference']}" if row["reference"] else ""
        share = "?" if pd.isna(row["determined"]) else f"{float(row['determined']):.0%}"
        labels.append(f"{row['region']} {MAP_FORMATS[row['map']][0]}, {row['term']}{beside} ({share} determined)")
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("difference [%] with its 95 % interval; round: corrected p below 0.05", fontsize=8)
    n_people = max((int(row["n_people"]) for row in rows), default=0)
    axes.set_title(f"{factor}, {n_people} people; grey: the values tell no people apart", fontsize=9)
    return png_of(figure)
