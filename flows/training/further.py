"""Training further in a store: from its promoted checkpoint, on simulated heads and its images; the result is kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import distributed

from flows.maps.weights import Promotion, chosen_weights, resident_checkpoint
from flows.progress import Progress, quiet
from flows.training.goals import fit_goal, goal_of
from qmri_core.mapping.checkpoint import checkpoint_bytes, content_digest, write_whole
from qmri_core.training.loop import TrainingSettings
from storage.store.checkpoints import register
from storage.store.cohort import Cohort

if TYPE_CHECKING:
    from qmri_core.mapping.checkpoint import Checkpoint
    from qmri_core.mapping.network import MapNetwork
    from qmri_core.simulation.atlas import Atlas

STEPS = 1000
"""Most steps of training further; from scratch they are those of `TrainingSettings`."""
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
    steps: int = STEPS,
    minutes: float | None = None,
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
    steps, minutes, seed
        Of the training, at most; the default seed follows from the checkpoint, so that each run sees new heads.
    image_share
        Of the batches, from the store's images; 0 for simulated heads alone, 1 for images alone.
    out
        File for the checkpoint as well; optional. A picture of the learning curves is written beside it.
    settings, atlas, n_batches
        For other sizes and anatomies.

    Raises
    ------
    StoreError, CheckpointError, TrainingError, ValueError
        If the store, its promoted checkpoint, the number of processes or the share cannot be used.
    """
    if not 0 <= image_share <= 1:
        raise ValueError(f"a share of images of {image_share:g}; it must lie between 0 and 1")
    cohort = Cohort.open(store)
    before = resident_checkpoint(chosen_weights(cohort))
    sizes = _sizes(settings or TrainingSettings(learning_rate=RATE), steps, seed, before)
    goal = goal_of(cohort, sizes, image_share, atlas, n_batches, progress)
    state = _state_file(store, before.digest, sizes, goal.image_share, minutes)
    network, record = fit_goal(goal, sizes, minutes, before, state, progress)
    progress(steps, steps, "score")
    score, score_before = (goal.score(each) for each in (network, before.network))
    is_better = score["nll"] <= score_before["nll"]
    is_promoted = promote is Promotion.ALWAYS or (promote is Promotion.IF_BETTER and is_better)
    record |= {"score": score, "score_before": score_before, "batches": n_batches}
    record |= {"image_share": goal.image_share, "images": goal.images}
    digest = _keep(store, network, record, out=out, promote=is_promoted, state=state)
    return Trained(
        digest=digest,
        started_from=before.digest,
        score=score,
        score_before=score_before,
        is_promoted=is_promoted,
        images=goal.images,
    )


def _keep(
    store: str, network: MapNetwork, record: dict[str, Any], *, out: Path | None, promote: bool, state: Path
) -> str:
    """Register the checkpoint, write it to a file too if asked to; one process of those that train together."""
    content = checkpoint_bytes(network, record)
    digest = content_digest(content, name="the trained checkpoint")
    if is_first_process():
        if out is not None:
            write_whole(out, content)
            write_curves(out, record)
        register(store, content, record=record, promote=promote, digest=digest)
        state.unlink(missing_ok=True)
    return digest


def write_curves(out: Path, record: Mapping[str, object]) -> None:
    """Draw the learning curves beside a checkpoint file, as PNG."""
    from flows.pictures.curves import curves_picture

    out.with_suffix(".png").write_bytes(curves_picture(record))


def is_first_process() -> bool:
    """Whether this process is the one that writes, of those that train together."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def _sizes(settings: TrainingSettings, steps: int, seed: int | None, before: Checkpoint) -> TrainingSettings:
    if seed is None:
        seed = int(before.digest[:6], 16) % 1900 + 2
    return replace(settings, n_steps=steps, seed=seed, widths=before.network.settings.widths)


def _state_file(store: str, start: str, settings: TrainingSettings, share: float, minutes: float | None) -> Path:
    """Where a run keeps its state, in the user's cache: found again by the same run alone."""
    name = hashlib.sha256(repr((store, start, settings, share, minutes)).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qmri" / "training"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.state"
