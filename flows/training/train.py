"""Train networks on simulated heads from the packaged templates and on a store's images, and keep them in the store.

`train_model` trains on from the checkpoint that a store has promoted, scores both on what is held out, and registers
the result. ``python -m flows.training.train --out FILE`` trains the shipped weights; with ``--store`` it does
what `train_model` does; under ``torchrun`` all processes train together.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import distributed

from flows.maps.weights import Promotion, chosen_weights, resident_checkpoint
from flows.progress import Progress, quiet, reporting
from flows.training.images import stored_images
from qmri_core.mapping.checkpoint import checkpoint_bytes, content_digest, load_checkpoint, save_checkpoint, write_whole
from qmri_core.mapping.inference import fastest
from qmri_core.simulation.atlas import Atlas, atlas_from_templates
from qmri_core.training.held_out import held_out_batches, held_out_score
from qmri_core.training.loop import Score, TrainingSettings, fit, simulated_batches, simulated_loss, undetermined_by
from qmri_core.training.self_supervision import image_loss, image_score, mixed_loss
from storage.simulated.templates import tissue_templates
from storage.store.checkpoints import register
from storage.store.cohort import Cohort

if TYPE_CHECKING:
    from qmri_core.mapping.network import MapNetwork
    from qmri_core.training.self_supervision import Images
    from qmri_core.training.simulated_batches import Batch

RATE = 5e-4
"""Learning rate of training further; from scratch it is that of `TrainingSettings`."""
IMAGE_SHARE = 0.2
"""Of the batches, from the store's images where it has any: in ablations, half made what is held out worse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A registered checkpoint, and the held-out scores of it and of the one that it started from.

    ``images``: how many sessions, people and groups were trained on and held out; empty if none were.
    """

    digest: str
    started_from: str
    score: Mapping[str, float]
    score_before: Mapping[str, float]
    is_promoted: bool
    images: Mapping[str, int]

    def text(self) -> str:
        """Tell the scores, lower is better, and what was decided."""
        scores = [
            f"{name} {digest[:12]}: loss {score['nll']:.3f}, error T1 {score['t1']:.1%} T2 {score['t2']:.1%} "
            f"PD {score['pd']:.1%}" + (f", on images {score['images']:.3f}" if "images" in score else "")
            for name, digest, score in (
                ("before", self.started_from, self.score_before),
                ("trained", self.digest, self.score),
            )
        ]
        decision = "promoted: maps of other weights are stale now" if self.is_promoted else "registered, not promoted"
        return "\n".join([self._data(), *scores, decision])

    def rows(self) -> list[dict[str, object]]:
        """Both scores, one row each."""
        return [
            {"checkpoint": self.started_from[:12], "": "before", **self.score_before},
            {"checkpoint": self.digest[:12], "": "trained", **self.score},
        ]

    def _data(self) -> str:
        if not self.images:
            return "simulated heads alone: the images of two people with a calibration are needed for more"
        return (
            "simulated heads and the images of {train_sessions} sessions of {train_people} people in {train_groups} "
            "groups; held out: {held_out_sessions} sessions of {held_out_people} others in {held_out_groups} groups"
        ).format(**self.images)


def train_model(
    store: str,
    *,
    steps: int = 1000,
    seed: int | None = None,
    image_share: float = IMAGE_SHARE,
    promote: Promotion = Promotion.IF_BETTER,
    out: Path | None = None,
    settings: TrainingSettings | None = None,
    atlas: Atlas | None = None,
    n_batches: int = 24,
    progress: Progress = quiet,
) -> Trained:
    """Train on from the promoted (else the shipped) checkpoint, and register the result.

    Batches are of simulated heads with known maps and, without any truth, of the store's images: of its training
    split, by person (`flows.training.images.split`). Both checkpoints are scored on the same held-out batches and
    images; the trained one is promoted if its loss is not higher, or as ``promote`` says. Training stops early, and
    keeps the best weights, by the same score. A run that was killed goes on when it is started again.

    Parameters
    ----------
    store
        Keeps the checkpoint with its record, and names the promoted one.
    steps, seed
        Of the training; the default seed follows from the checkpoint that is trained on, so that each run sees new
        heads.
    image_share
        Of the batches, from the store's images; 0 for simulated heads alone, 1 for images alone.
    out
        File for the checkpoint as well; optional. A picture of the learning curves is written beside it.
    settings, atlas, n_batches
        For other sizes and anatomies (tests).

    Raises
    ------
    StoreError, CheckpointError
        If the store or its promoted checkpoint cannot be used.
    TrainingError
        If the processes do not divide the batches of a step.
    ValueError
        If ``image_share`` is not a share.
    """
    if not 0 <= image_share <= 1:
        raise ValueError(f"a share of images of {image_share:g}; it must lie between 0 and 1")
    cohort = Cohort.open(store)
    before = resident_checkpoint(chosen_weights(cohort))
    atlas = atlas or atlas_from_templates(tissue_templates(), resolution=1.0)
    sizes = replace(
        settings or TrainingSettings(learning_rate=RATE),
        n_steps=steps,
        seed=int(before.digest[:6], 16) % 1900 + 2 if seed is None else seed,
        widths=before.network.settings.widths,
    )
    device, precision = fastest()
    images, held_out, counts = (
        stored_images(cohort, seed=sizes.seed, progress=progress) if image_share else ([], [], {})
    )
    share = image_share if images else 0.0
    loss = simulated_loss(simulated_batches(atlas, sizes, device=device), sizes, precision=precision)
    if images:
        of_images = image_loss(
            images, seed=sizes.seed, slices=sizes.slices, size=sizes.size, device=device, precision=precision
        )
        loss = mixed_loss(loss, of_images, share)
    progress(0, steps, "making what is held out")
    score = held_out_by(held_out_batches(atlas, n=n_batches, size=sizes.size, slices=sizes.slices), held_out, share)
    state = _state_file(store, before.digest, sizes, share)
    network, record = fit(
        loss, sizes, progress=progress, start=before, device=device, precision=precision, score=score, state=state
    )
    progress(steps, steps, "score")
    found, found_before = (score(each) for each in (network, before.network))
    is_better = found["nll"] <= found_before["nll"]
    is_promoted = promote is Promotion.ALWAYS or (promote is Promotion.IF_BETTER and is_better)
    record |= {"score": found, "score_before": found_before, "batches": n_batches, "image_share": share}
    record |= {"images": counts}
    network.settings = replace(network.settings, undetermined=undetermined_by(sizes))
    content = checkpoint_bytes(network, record)
    digest = content_digest(content, name="the trained checkpoint")
    if is_first_process():
        if out is not None:
            write_whole(out, content)
            write_curves(out, record)
        register(store, content, record=record, promote=is_promoted, digest=digest)
        state.unlink(missing_ok=True)
    return Trained(
        digest=digest,
        started_from=before.digest,
        score=found,
        score_before=found_before,
        is_promoted=is_promoted,
        images=counts,
    )


def held_out_by(batches: Sequence[Batch], images: Sequence[Images], share: float) -> Score:
    """Score on held-out simulated batches and images; ``nll`` weighs both as the training does."""

    def score(network: MapNetwork) -> dict[str, float]:
        figures = held_out_score(network, batches)
        if not images:
            return figures
        of_images = image_score(network, images)
        return {
            **figures,
            "nll": (1 - share) * figures["nll"] + share * of_images,
            "simulated": figures["nll"],
            "images": of_images,
        }

    return score


def write_curves(out: Path, record: Mapping[str, object]) -> None:
    """Draw the learning curves beside a checkpoint file, as PNG."""
    from flows.pictures.curves import curves_picture

    out.with_suffix(".png").write_bytes(curves_picture(record))


def is_first_process() -> bool:
    """Whether this process is the one that writes, of those that train together."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def _state_file(store: str, start: str, settings: TrainingSettings, share: float) -> Path:
    """Where a run keeps its state, in the user's cache: found again by the same run alone."""
    name = hashlib.sha256(repr((store, start, settings, share)).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qmri" / "training"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.state"


def main() -> None:
    """Train from scratch, or further, and write a checkpoint; a run that was killed goes on where it was."""
    defaults = TrainingSettings()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help=".safetensors; the run's state is beside it")
    parser.add_argument("--store", default=None, help="train the promoted checkpoint further, on its images too")
    parser.add_argument("--minutes", type=float, default=None, help="stop after this long; default: all steps")
    parser.add_argument("--steps", type=int, default=defaults.n_steps)
    parser.add_argument("--batches", type=int, default=defaults.batches_per_step, help="per step, over all processes")
    parser.add_argument("--rate", type=float, default=None)
    parser.add_argument("--start", type=Path, default=None, help="checkpoint to go on from")
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    if distributed.is_torchelastic_launched():
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        if torch.cuda.is_available():
            torch.cuda.set_device(distributed.get_node_local_rank())
    torch.set_num_threads(1)
    rate = arguments.rate or (RATE if arguments.store else defaults.learning_rate)
    settings = replace(defaults, n_steps=arguments.steps, batches_per_step=arguments.batches, learning_rate=rate)
    with reporting("train") as progress:
        if arguments.store:
            result = train_model(
                arguments.store,
                steps=arguments.steps,
                seed=arguments.seed,
                out=arguments.out,
                settings=settings,
                progress=progress,
            )
            progress(arguments.steps, arguments.steps, result.text())
            return
        _train_alone(arguments, replace(settings, seed=arguments.seed or defaults.seed), progress)


def _train_alone(arguments: argparse.Namespace, settings: TrainingSettings, progress: Progress) -> None:
    atlas = atlas_from_templates(tissue_templates(), resolution=1.0)
    device, precision = fastest()
    state = arguments.out.with_name(arguments.out.name + ".state")
    progress(0, settings.n_steps, "making what is held out")
    batches = held_out_batches(atlas, size=settings.size, slices=settings.slices)
    network, record = fit(
        simulated_loss(simulated_batches(atlas, settings, device=device), settings, precision=precision),
        settings,
        progress=progress,
        deadline=None if arguments.minutes is None else 60 * arguments.minutes,
        start=None if arguments.start is None else load_checkpoint(arguments.start),
        device=device,
        precision=precision,
        score=held_out_by(batches, [], 0.0),
        state=state,
    )
    if is_first_process():
        network.settings = replace(network.settings, undetermined=undetermined_by(settings))
        save_checkpoint(arguments.out, network, record)
        write_curves(arguments.out, record)
        state.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
