"""What each part of the method contributes: networks trained without it, scored on the same held-out batches.

All variants see the same simulated batches in the same order and start from the same weights, so that they differ in
nothing but what is taken away. ``voxelwise`` is the estimate before any training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qmri_core.baseline.published_recipe import textbook_signal
from qmri_core.mapping.checkpoint import Checkpoint
from qmri_core.mapping.inference import run_network
from qmri_core.mapping.voxelwise import VoxelwiseEstimator, estimator
from qmri_core.series.acquisition import Acquisition
from qmri_core.training.held_out import held_out_score
from qmri_core.training.loop import Loss, Report, TrainingSettings, fit, simulated_loss
from qmri_core.training.self_supervision import evidence, mixed_loss
from qmri_core.training.simulated_batches import TRAINING_REGIONS, Batch

_LEAST_WHITE = 20
"""Number of voxels of white matter that a batch needs for its median."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What a training does without.

    ``changed`` is applied to every batch, of training and of what is held out; ``settings`` replace those of the
    training; ``images`` is the share of batches that are trained on without their truth.
    """

    text: str
    changed: Callable[[Batch], Batch] = lambda batch: batch
    settings: Mapping[str, Any]
    images: float = 0.0


def without_calibration(batch: Batch) -> Batch:
    """Every image divided by the median of its own white matter, as if its scale and its person were usual ones."""
    white = batch.regions[:, TRAINING_REGIONS.index("wm")] > 0
    if int(white.sum()) < _LEAST_WHITE:
        return batch
    medians = torch.stack([plane[white].median() for plane in batch.relative.unbind(1)])
    return replace(batch, relative=batch.relative / medians.clamp_min(1e-3)[:, None, None])


def without_conditions(batch: Batch) -> Batch:
    """The network is not told the protocol; the voxelwise estimate that it starts from still knows it."""
    return replace(batch, physics=replace(batch.physics, conditions=np.zeros_like(batch.physics.conditions)))


def without_levels(batch: Batch) -> Batch:
    """Nothing is told of the session's tissues: all are expected to be the population's."""
    return of_physics(batch, estimator(batch.nominal))


def without_voxelwise(batch: Batch) -> Batch:
    """The network starts from constant maps instead of the voxelwise estimate."""
    return replace(batch, physics=replace(batch.physics, coefficients=np.zeros_like(batch.physics.coefficients)))


def with_textbook(batch: Batch) -> Batch:
    """The estimate and the conditions follow textbook equations; the signals do not."""
    return replace(batch, physics=estimator(batch.nominal, _textbook, expected=batch.physics.expected))


def of_physics(batch: Batch, physics: VoxelwiseEstimator) -> Batch:
    """The same images and truth over the white matter that another estimator expects."""
    old, new = (torch.tensor(each.white_matter) for each in (batch.physics, physics))
    units = [a / b for a, b in zip(batch.physics.white_matter_signal, physics.white_matter_signal, strict=True)]
    relative = batch.relative * torch.tensor(units)[:, None, None]
    truth = batch.truth + torch.log(old / new)[:, None, None] * batch.mask[:, None]
    return replace(batch, relative=relative, truth=truth, physics=physics)


VARIANTS: Mapping[str, Variant] = {
    "full": Variant(text="as shipped", settings={}),
    "no calibration": Variant(
        text="images divided by their own white matter", changed=without_calibration, settings={}
    ),
    "no conditions": Variant(text="network not told the protocol", changed=without_conditions, settings={}),
    "no levels": Variant(text="nothing told of the person", changed=without_levels, settings={}),
    "no voxelwise estimate": Variant(
        text="network starts from constant maps", changed=without_voxelwise, settings={}
    ),
    "neither": Variant(
        text="images only: neither conditions nor voxelwise estimate",
        changed=lambda batch: without_voxelwise(without_conditions(batch)),
        settings={},
    ),
    "textbook equations": Variant(text="textbook signals in place of phase graphs", changed=with_textbook, settings={}),
    "no tissue means": Variant(text="loss without errors of tissue means", settings={"regional_weight": 0.0}),
    "half self-supervised": Variant(text="half of the batches without truth", settings={}, images=0.5),
    "self-supervised only": Variant(text="no truth at all: no simulation pretraining", settings={}, images=1.0),
}  # fmt: skip


def ablation(
    name: str,
    batches: Sequence[Batch],
    held_out: Sequence[Batch],
    settings: TrainingSettings,
    *,
    start: Checkpoint | None = None,
    progress: Report | None = None,
) -> dict[str, object]:
    """Train one variant on the batches, one per step and over again, and score it.

    Parameters
    ----------
    start
        Weights to train on from, which had everything: what a variant then loses, a long training had used. ``None``
        starts from random ones.

    Returns
    -------
    dict
        ``variant``, ``text``, ``steps``, and the figures of `qmri_core.training.held_out.held_out_score`.

    Raises
    ------
    KeyError
        If there is no variant of this name.
    """
    variant = VARIANTS[name]
    sizes = replace(settings, **variant.settings)
    changed = [variant.changed(batch) for batch in batches]
    known = simulated_loss(lambda number: changed[number % len(changed)], sizes)
    loss = mixed_loss(known, unknown_loss(changed), variant.images)
    network, record = fit(loss, sizes, start=start, progress=progress)
    figures = held_out_score(network, [variant.changed(batch) for batch in held_out])
    return {"variant": name, "text": variant.text, "steps": record["steps"], **figures}


def unknown_loss(batches: Sequence[Batch]) -> Loss:
    """Self-supervised loss on simulated batches: their truth is not looked at."""

    def loss(network: nn.Module, number: int) -> tuple[Tensor, Mapping[str, float]]:
        batch = batches[number % len(batches)]
        log_maps, log_sd = run_network(network, batch.relative, batch.mask, batch.physics)
        rng = np.random.default_rng([number, 8])
        drawn = torch.from_numpy(rng.standard_normal(tuple(log_maps.shape), dtype=np.float32))
        value = evidence(log_maps, log_sd, batch.relative, batch.mask, batch.nominal, batch.physics, drawn)
        return value, {"images": value.item()}

    return loss


def _textbook(
    acquisition: Acquisition, pd: Tensor, t1: Tensor, t2: Tensor, *, transmit_scale: Tensor | float = 1.0
) -> Tensor:
    del transmit_scale  # the textbook has no transmit field
    return textbook_signal(acquisition, pd, t1, t2)
