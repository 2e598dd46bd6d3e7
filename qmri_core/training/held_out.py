"""What a network is worth on simulated batches that no training run sees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from qmri_core.mapping.inference import run_network
from qmri_core.mapping.network import MapNetwork
from qmri_core.simulation.atlas import Atlas
from qmri_core.statistics import agreement
from qmri_core.training.losses import LEAST_VOXELS
from qmri_core.training.protocols import random_protocol
from qmri_core.training.simulated_batches import FIRST_HELD_OUT, TRAINING_REGIONS, Batch, make_batch, make_slab

LEAST_HEADS = 3
"""Number of heads that a region needs for its slope and bias."""


def held_out_batches(atlas: Atlas, *, n: int = 24, size: int = 96, slices: int = 6, first: int = 0) -> list[Batch]:
    """Heads, each with a protocol of its own, that are the same for every network and in no training set.

    ``first`` is the number of the first one: equal numbers are equal heads and protocols. Every third is at 1.5 T.
    """
    batches = []
    for number in range(first, first + n):
        rng = np.random.default_rng([FIRST_HELD_OUT, number])
        nominal, as_run = random_protocol(rng, field_strength=1.5 if number % 3 == 2 else 3.0)
        with torch.inference_mode():
            slab = make_slab(atlas, FIRST_HELD_OUT + number, size)
            batches.append(make_batch(slab, nominal, as_run, rng, slices=slices))
    return batches


def held_out_score(network: MapNetwork | None, batches: Sequence[Batch]) -> dict[str, float]:
    """Score a network, or with ``None`` the voxelwise estimate that it starts from.

    The batches come from the simulator that training uses: the score compares networks, and tells nothing about real
    images.

    Returns
    -------
    dict
        ``nll``: mean Gaussian negative log-likelihood of the true log maps under the stated uncertainty, in nat per
        voxel and map; ``t1``, ``t2``, ``pd``: mean absolute error of the log maps, means over batches, in the brain;
        ``slope_wm_t1`` and so on: over heads, of the estimated on the true mean log of a region; ``bias_wm_t1``: mean
        difference; NaN with fewer than three heads that show the region.
    """
    totals = dict.fromkeys(("nll", "t1", "t2", "pd"), 0.0)
    means: list[NDArray[np.float64]] = []
    if network is not None:
        network.eval()
    place = torch.device("cpu") if network is None else next(network.parameters()).device
    for each_batch in batches:
        batch = each_batch.to(place)
        with torch.inference_mode():
            log_maps, log_sd = run_network(network, batch.relative, batch.mask, batch.physics)
            error = log_maps - batch.truth
            terms = 0.5 * (error / log_sd.exp()).square() + log_sd
            weight = batch.weight[:, None]
            voxels = batch.weight.sum().clamp_min(1)
            totals["nll"] += float((terms * weight).sum() / (3 * voxels))
            for name, value in zip(("t1", "t2", "pd"), (error.abs() * weight).sum(dim=(0, 2, 3)) / voxels, strict=True):
                totals[name] += float(value)
            counts = batch.regions.sum(dim=(0, 2, 3))[:, None]
            both = [torch.einsum("smyx,sryx->rm", maps, batch.regions) / counts for maps in (batch.truth, log_maps)]
            means.append(
                torch.where(counts >= LEAST_VOXELS, torch.stack(both), torch.nan).cpu().numpy().astype(np.float64)
            )
    figures = {name: total / len(batches) for name, total in totals.items()}
    true, found = np.stack(means, axis=1)
    for r, region in enumerate(TRAINING_REGIONS):
        for m, name in enumerate(("t1", "t2")):
            pairs = agreement(found[:, r, m], true[:, r, m])
            bias = float(np.nanmean(found[:, r, m] - true[:, r, m])) if pairs.n >= LEAST_HEADS else float("nan")
            figures |= {f"slope_{region}_{name}": pairs.slope, f"bias_{region}_{name}": bias}
    return figures
