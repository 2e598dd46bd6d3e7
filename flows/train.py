"""Train networks on simulated heads from the packaged templates, and keep them in a store.

`train_model` trains on from the checkpoint that a store has promoted, scores both on held-out simulated batches, and
registers the result. It uses no image of the store; self-supervised training on the stored images is not there yet.
``python -m flows.train --out FILE`` trains the shipped weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from flows.progress import Progress, quiet, reporting
from flows.weights import Promotion, chosen_weights, resident_checkpoint
from qmri_core.checkpoint import checkpoint_bytes, load_checkpoint, save_checkpoint
from qmri_core.held_out import held_out_score
from qmri_core.inference import fastest
from qmri_core.simulation.atlas import Atlas, atlas_from_templates
from qmri_core.training import TrainingSettings, train
from storage.checkpoints import register
from storage.templates import tissue_templates

RATE = 5e-4
"""Learning rate of training further; from scratch it is that of `TrainingSettings`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A registered checkpoint, and the held-out scores of it and of the one that it started from."""

    digest: str
    started_from: str
    score: Mapping[str, float]
    score_before: Mapping[str, float]
    is_promoted: bool

    def text(self) -> str:
        """Tell the scores, lower is better, and what was decided."""
        scores = [
            f"{name} {digest[:12]}: loss {score['nll']:.3f}, error T1 {score['t1']:.1%} T2 {score['t2']:.1%} "
            f"PD {score['pd']:.1%}"
            for name, digest, score in (
                ("before", self.started_from, self.score_before),
                ("trained", self.digest, self.score),
            )
        ]
        decision = "promoted: maps of other weights are stale now" if self.is_promoted else "registered, not promoted"
        return "\n".join([*scores, decision])


def train_model(
    store: str,
    *,
    steps: int = 1000,
    seed: int | None = None,
    promote: Promotion = Promotion.IF_BETTER,
    out: Path | None = None,
    settings: TrainingSettings | None = None,
    atlas: Atlas | None = None,
    n_batches: int = 24,
    progress: Progress = quiet,
) -> Trained:
    """Train on from the promoted (else the shipped) checkpoint, on simulated data alone, and register the result.

    Both are scored on the same held-out simulated batches. The trained one is promoted if its loss is not higher, or as
    ``promote`` says.

    Parameters
    ----------
    store
        Keeps the checkpoint with its record, and names the promoted one.
    steps, seed
        Of the training; the default seed follows from the checkpoint that is trained on, so that each run sees new
        heads.
    out
        File for the checkpoint as well; optional.
    settings, atlas, n_batches
        For other sizes and anatomies (tests).

    Raises
    ------
    StoreError, CheckpointError
        If the store or its promoted checkpoint cannot be used.
    """
    before = resident_checkpoint(chosen_weights(store))
    atlas = atlas or atlas_from_templates(tissue_templates(), resolution=1.0)
    sizes = settings or TrainingSettings(learning_rate=RATE)
    network, record = train(
        atlas,
        TrainingSettings(
            **{
                **asdict(sizes),
                "n_steps": steps,
                "seed": int(before.digest[:6], 16) % 1900 + 2 if seed is None else seed,
                "widths": before.network.settings.widths,
            }
        ),
        progress=progress,
        start=before,
        device=fastest()[0],
    )
    progress(steps, steps, "score")
    score, score_before = (
        held_out_score(each, atlas, n_batches=n_batches, settings=sizes) for each in (network, before.network)
    )
    is_better = score["nll"] <= score_before["nll"]
    is_promoted = promote is Promotion.ALWAYS or (promote is Promotion.IF_BETTER and is_better)
    record |= {"score": score, "score_before": score_before, "batches": n_batches}
    content = checkpoint_bytes(network, record)
    if out is not None:
        out.write_bytes(content)
    digest = register(store, content, record=record, promote=is_promoted)
    return Trained(
        digest=digest,
        started_from=before.digest,
        score=score,
        score_before=score_before,
        is_promoted=is_promoted,
    )


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
            device=fastest()[0],
        )
    save_checkpoint(arguments.out, network, record)


if __name__ == "__main__":
    main()
