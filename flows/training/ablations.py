"""Ablations: each variant of the method is trained and scored elsewhere.

``python -m flows.training.ablations --labels DIR --out FILE.csv``

Held-out heads come from label maps of other people, with protocols that training does not draw.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer

from flows.errors import run_command
from flows.progress import Progress, reporting
from flows.tables.text import text_table
from flows.training.further import RATE
from qmri_core.mapping.checkpoint import load_checkpoint
from qmri_core.preprocessing.template.brain import tissue_templates
from qmri_core.simulation.atlas import atlas_from_labels, atlas_from_templates
from qmri_core.training.ablations import VARIANTS, ablation
from qmri_core.training.held_out import held_out_batches, held_out_score
from qmri_core.training.loop import TrainingSettings, simulated_batches
from qmri_core.training.simulated_batches import Batch
from storage.simulated.templates import label_maps, read_label_map

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


def train_variants(
    labels: Annotated[
        Path, typer.Option("--labels", help="Folder of FreeSurfer-coded label maps: the held-out heads.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Table to write, .csv.")],
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps of training each variant.")] = 800,
    n_held_out: Annotated[int, typer.Option("--held-out", min=1, help="Heads to score on.")] = 48,
    variants: Annotated[
        str, typer.Option("--variants", help=f"Which, with commas between them; default: all, {', '.join(VARIANTS)}.")
    ] = "",
    start: Annotated[
        Path | None, typer.Option("--start", help="Checkpoint to train on from; default: random weights.")
    ] = None,
) -> None:
    """Train the network without one part of the method after the other, and write a table of what each is worth."""
    names = [name.strip() for name in variants.split(",") if name.strip()] or list(VARIANTS)
    if unknown := [name for name in names if name not in VARIANTS]:
        raise typer.BadParameter(f"no variant {', '.join(unknown)}; there are {', '.join(VARIANTS)}")
    before = None if start is None else load_checkpoint(start)
    torch.set_num_threads(1)
    settings = replace(TrainingSettings(), n_steps=steps, n_protocols=12, n_slabs=60, missing_contrast=0.0)
    if before is not None:
        settings = replace(settings, learning_rate=RATE)
    make = simulated_batches(atlas_from_templates(tissue_templates(), resolution=1.0), settings)
    rows: list[dict[str, object]] = []
    with reporting("ablations") as progress:
        held_out = held_out_heads(labels, n_held_out, settings, progress)
        batches = []
        for number in range(steps):
            progress(number, steps, "making batches")
            batches.append(make(number))
        rows.append({"variant": "voxelwise", "text": "before training", "steps": 0, **held_out_score(None, held_out)})
        for name in names:
            rows.append(ablation(name, batches, held_out, settings, start=before, progress=_named(name, progress)))
            pd.DataFrame(rows).to_csv(out, index=False)
    cells = [[str(row["variant"]), *(format(row[name], form) for name, form in _COLUMNS.items())] for row in rows]
    typer.echo(text_table(["variant", *_COLUMNS], cells))


def _named(name: str, progress: Progress) -> Progress:
    def named(done: int, total: int, text: str = "") -> None:
        progress(done, total, f"{name}: {text}")

    return named


if __name__ == "__main__":
    run_command(train_variants, "python -m flows.training.ablations")
