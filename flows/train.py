"""Train the shipped weights: ``python -m flows.train --out FILE``. Simulated heads from the packaged templates only."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from flows.progress import reporting
from qmri_core.checkpoint import load_checkpoint, save_checkpoint
from qmri_core.simulation.atlas import atlas_from_templates
from qmri_core.training import TrainingSettings, train
from storage.templates import tissue_templates


def main() -> None:
    """Train from scratch and write a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="file to write, .safetensors")
    parser.add_argument("--minutes", type=float, default=None, help="stop after this long; default: all steps")
    parser.add_argument("--steps", type=int, default=TrainingSettings().n_steps)
    parser.add_argument("--rate", type=float, default=TrainingSettings().learning_rate)
    parser.add_argument("--start", type=Path, default=None, help="checkpoint to go on from")
    parser.add_argument("--seed", type=int, default=TrainingSettings().seed)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    atlas = atlas_from_templates(tissue_templates(), resolution=1.0)
    settings = TrainingSettings(n_steps=arguments.steps, seed=arguments.seed, learning_rate=arguments.rate)
    with reporting("train") as progress:
        network, record = train(
            atlas,
            settings,
            progress=progress,
            deadline=None if arguments.minutes is None else 60 * arguments.minutes,
            start=None if arguments.start is None else load_checkpoint(arguments.start),
        )
    save_checkpoint(arguments.out, network, record)


if __name__ == "__main__":
    main()
