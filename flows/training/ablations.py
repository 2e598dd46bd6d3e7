"""Ablations: each variant of the method is trained and scored elsewhere.

``python -m flows.training.ablations --labels DIR --out FILE.csv``

Held-out heads come from label maps of other people, with protocols that training does not draw.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
import typer

from flows.progress import Progress, reporting
from flows.tables.text import text_table
from flows.training.train import RATE
from qmri_core.mapping.checkpoint import load_checkpoint
from qmri_core.simulation.atlas import atlas_from_labels, atlas_from_templates
from qmri_core.training.ablations import VARIANTS, ablation
from qmri_core.training.held_out import held_out_batches, held_out_score
from qmri_core.training.loop import TrainingSettings, simulated_batches
from qmri_core.training.simulated_batches import Batch
from storage.simulated.templates import label_maps, read_label_map, tissue_templates

_COLUMNS = {
    "nll": ".2f", "t1": ".1%", "t2": ".1%", "pd": ".1%", "slope_wm_t1": ".2f", "slope_wm_t2": ".2f",
    "slope_gm_t1": ".2f", "slope_gm_t2": ".2f",
}  # fmt: skip


def held_out_heads(labels: Path, n: int, settings: TrainingSettings, progress: Progress) -> list[Batch]:
    """``n`` batches, taken from the label maps in turn."""
    maps = label_maps(labels)
    batches = []
    for k, path in enumerate(maps):
        atlas = atlas_from_labels(read_label_map(path), resolution=1.0)
        for number in range(k, n, len(maps)):
            progress(number, n, "making what is held out")
            batches += held_out_batches(atlas, n=1, first=number, size=settings.size, slices=settings.slices)
    return batches


def main() -> None:
    """Train all variants, one after the other, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=Path, required=True, help="folder of FreeSurfer-coded label maps")
    parser.add_argument("--out", type=Path, required=True, help="table to write, .csv")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--held-out", type=int, default=48, help="heads to score on")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--start", type=Path, default=None, help="checkpoint to train on from; default: random weights")
    arguments = parser.parse_args()
    start = None if arguments.start is None else load_checkpoint(arguments.start)
    torch.set_num_threads(1)
    settings = replace(TrainingSettings(), n_steps=arguments.steps, n_protocols=12, n_slabs=60, missing_contrast=0.0)
    if start is not None:
        settings = replace(settings, learning_rate=RATE)
    atlas = atlas_from_templates(tissue_templates(), resolution=1.0)
    make = simulated_batches(atlas, settings)
    rows: list[dict[str, object]] = []
    with reporting("ablations") as progress:
        held_out = held_out_heads(arguments.labels, arguments.held_out, settings, progress)
        batches = []
        for number in range(arguments.steps):
            progress(number, arguments.steps, "making batches")
            batches.append(make(number))
        rows.append({"variant": "voxelwise", "text": "before training", "steps": 0, **held_out_score(None, held_out)})
        for name in arguments.variants:
            rows.append(ablation(name, batches, held_out, settings, start=start, progress=_named(name, progress)))
            pd.DataFrame(rows).to_csv(arguments.out, index=False)
    cells = [[str(row["variant"]), *(format(row[name], form) for name, form in _COLUMNS.items())] for row in rows]
    typer.echo(text_table(["variant", *_COLUMNS], cells))


def _named(name: str, progress: Progress) -> Progress:
    def told(done: int, total: int, text: str = "") -> None:
        progress(done, total, f"{name}: {text}")

    return told


if __name__ == "__main__":
    main()
