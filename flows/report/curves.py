"""Picture of a training: its losses and errors, on batches it trains on and on what is held out."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

PERCENT = {"t1": "T1", "t2": "T2", "pd": "PD", "regional": "tissue means"}
LOSSES = {"nll": "simulated heads", "images": "stored images", "resynthesis": "re-synthesis"}
"""Figures of the curve by the names that the picture gives them."""


def curves_picture(record: Mapping[str, Any]) -> bytes:
    """Draw the learning curves of a training record as PNG: losses on the left, relative errors on the right.

    Lines are means over the batches of an entry; points are what is held out, the best one marked.

    Parameters
    ----------
    record
        From `qmri_core.training.fit`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    for axes, names, factor in ((left, LOSSES, 1.0), (right, PERCENT, 100.0)):
        for number, (name, label) in enumerate(names.items()):
            colour = f"C{number}"
            steps, values = _series(record["curve"], name, factor)
            axes.plot(steps, values, color=colour, linewidth=0.8, label=label)
            steps, values = _series(record["held_out"], name, factor)
            axes.plot(steps, values, "o", color=colour, markersize=3.5, label=f"{label}, held out" if steps else None)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7)
        if axes.has_data():
            axes.legend(fontsize=7, frameon=False)
    if record["held_out"]:
        left.axvline(record["best_step"], color="#888888", linewidth=0.8, linestyle=":")
    left.set_ylabel("loss [nat per voxel and map]", fontsize=8)
    right.set_ylabel("mean absolute error of log maps [%]", fontsize=8)
    minutes = record["seconds"] / 60
    figure.suptitle(
        f"{record['steps']} steps in {minutes:.0f} min, {record['processes']} process(es), {record['device']}, "
        f"{record['precision']}; best at step {record['best_step']}",
        fontsize=9,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _series(entries: Sequence[Mapping[str, Any]], name: str, factor: float) -> tuple[list[int], list[float]]:
    found = [(int(each["step"]), factor * float(each[name])) for each in entries if name in each]
    finite = [(step, value) for step, value in found if math.isfinite(value)]
    return [step for step, _ in finite], [value for _, value in finite]
