"""What a training minimises, and what decides when it stops: simulated heads, and images where a store has some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from flows.training.images import stored_images
from qmri_core.devices import fastest
from qmri_core.preprocessing.template.brain import tissue_templates
from qmri_core.simulation.atlas import Atlas, atlas_from_templates
from qmri_core.training.held_out import held_out_batches, held_out_score
from qmri_core.training.loop import (
    Loss,
    Score,
    TrainingSettings,
    fit,
    simulated_batches,
    simulated_loss,
    undetermined_by,
)
from qmri_core.training.self_supervision import image_loss, image_score, mixed_loss

if TYPE_CHECKING:
    from pathlib import Path

    from flows.progress import Progress
    from qmri_core.mapping.checkpoint import Checkpoint
    from qmri_core.mapping.network import MapNetwork
    from qmri_core.training.self_supervision import Images
    from qmri_core.training.simulated_batches import Batch
    from storage.store.cohort import Cohort


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a training minimises, what decides when it stops, and for the record what it sees."""

    loss: Loss
    score: Score
    image_share: float = 0.0
    images: Mapping[str, int]


def goal_of(
    cohort: Cohort | None,
    settings: TrainingSettings,
    image_share: float,
    atlas: Atlas | None,
    n_batches: int,
    progress: Progress,
) -> Goal:
    """Simulated heads, and the images of a cohort where one is given and has some, as what to train on.

    ``atlas`` is that of the packaged templates if it is None; ``n_batches`` are held out.
    """
    atlas = atlas or atlas_from_templates(tissue_templates(), resolution=1.0)
    device, precision = fastest()
    images: list[Images] = []
    held_out: list[Images] = []
    counts: Mapping[str, int] = {}
    if cohort is not None and image_share:
        images, held_out, counts = stored_images(cohort, seed=settings.seed, progress=progress)
    share = image_share if images else 0.0
    loss = simulated_loss(simulated_batches(atlas, settings, device=device), settings, precision=precision)
    if images:
        sizes = {"seed": settings.seed, "slices": settings.slices, "size": settings.size}
        loss = mixed_loss(loss, image_loss(images, **sizes, device=device, precision=precision), share)
    progress(0, settings.n_steps, "making what is held out")
    batches = held_out_batches(atlas, n=n_batches, size=settings.size, slices=settings.slices)
    return Goal(loss=loss, score=held_out_by(batches, held_out, share), image_share=share, images=counts)


def fit_goal(
    goal: Goal,
    settings: TrainingSettings,
    minutes: float | None,
    start: Checkpoint | None,
    state: Path,
    progress: Progress,
) -> tuple[MapNetwork, dict[str, Any]]:
    """Train on the fastest device here; the network says what this left open. See `qmri_core.training.loop.fit`."""
    device, precision = fastest()
    network, record = fit(
        goal.loss,
        settings,
        progress=progress,
        deadline=None if minutes is None else 60 * minutes,
        start=start,
        device=device,
        precision=precision,
        score=goal.score,
        state=state,
    )
    network.settings = replace(network.settings, undetermined=undetermined_by(settings))
    return network, record


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
