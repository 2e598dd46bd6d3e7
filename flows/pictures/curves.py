"""Picture of a training: its losses and errors, on batches it trains on and on what is held out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from flows.pictures.volumes import png_of

LOSSES = {"nll": "known maps (tempered)", "images": "stored images"}
_HELD_OUT = {"nll": "all", "simulated": "simulated heads", "images": "stored images"}
PERCENT = {"t1": "T1", "t2": "T2", "pd": "PD", "regional": "means of regions"}
"""Figures of the curve by the names that the picture gives them."""

PER_LINE = 2
"""Trainings that a line of the title names."""


def curves_picture(record: Mapping[str, Any]) -> bytes:
    """Draw the learning curves of a training record as PNG: losses, what is held out, and relative errors.

    Lines are means over the batches of an entry; points are what is held out. The trainings that a training went on
    from stand before it, a dotted line between two. The loss of known maps is tempered
    (`qmri_core.training.losses.negative_log_likelihood`); what is held out is not, so that the two do not compare.

    Parameters
    ----------
    record
        From `qmri_core.training.loop.fit`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 3.6), layout="constrained", facecolor="white")
    panels = figure.subplots(1, 3)
    stages = _stages(record)
    for axes, names, part, factor in (
        (panels[0], LOSSES, "curve", 1.0),
        (panels[1], _HELD_OUT, "held_out", 1.0),
        (panels[2], PERCENT, "curve", 100.0),
    ):
        for number, (name, label) in enumerate(names.items()):
            if points := _series(stages, part, name, factor):
                axes.plot(*points, color=f"C{number}", linewidth=0.8, marker="o" if part == "held_out" else "",
                          markersize=3, label=label)  # fmt: skip
            if axes is panels[2] and (points := _series(stages, "held_out", name, factor)):
                axes.plot(*points, "o", color=f"C{number}", markersize=3, label=f"{label}, held out")
        for first, _ in stages[1:]:
            axes.axvline(first, color="#888888", linewidth=0.8, linestyle=":")
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7, frameon=False)
    for axes, title in zip(
        panels, ("loss of batches", "loss held out", "mean absolute error of log maps"), strict=True
    ):
        axes.set_title(title, fontsize=9)
    panels[0].set_ylabel("nat per voxel and map", fontsize=8)
    panels[2].set_ylabel("%", fontsize=8)
    texts = [_text(record) for _, record in stages]
    lines = ["; then ".join(texts[k : k + PER_LINE]) for k in range(0, len(texts), PER_LINE)]
    figure.set_figheight(3.6 + 0.15 * (len(lines) - 1))
    figure.suptitle(";\nthen ".join(lines), fontsize=9)
    return png_of(figure)


def _stages(record: Mapping[str, Any]) -> list[tuple[int, Mapping[str, Any]]]:
    """Trainings one after the other, each with the step at which it began."""
    before = (record.get("started_from") or {}).get("training") or {}
    earlier = _stages(before) if before.get("curve") else []
    first = earlier[-1][0] + int(earlier[-1][1]["best_step"]) if earlier else 0
    return [*earlier, (first, record)]


def _text(record: Mapping[str, Any]) -> str:
    return (
        f"{record['steps']} steps in {record['seconds'] / 60:.0f} min ({record['processes']} process(es), "
        f"{record['device']}, {record['precision']}), best at {record['best_step']}"
    )


def _series(
    stages: Sequence[tuple[int, Mapping[str, Any]]], part: str, name: str, factor: float
) -> tuple[list[int], list[float]] | None:
    points = [
        (first + int(entry["step"]), factor * float(entry[name]))
        for first, record in stages
        for entry in record[part]
        if entry.get(name) is not None and math.isfinite(entry[name])
    ]
    return ([step for step, _ in points], [value for _, value in points]) if points else None
