"""What a network is worth on simulated batches that no training run sees."""

from __future__ import annotations

import numpy as np
import torch

from qmri_core.inference import run_network
from qmri_core.network import MapNetwork
from qmri_core.simulation.atlas import Atlas
from qmri_core.training import TrainingSettings, make_batch, make_slab
from qmri_core.training_protocols import random_protocol

FIRST_SEED = 2_000_000_000
"""Training draws slabs from 1,000,000 times its seed on; seeds below 2,000 never come here."""


def held_out_score(
    network: MapNetwork, atlas: Atlas, *, n_batches: int = 24, settings: TrainingSettings | None = None
) -> dict[str, float]:
    """Score a network on heads and protocols that are the same for every network and in no training set.

    They come from the simulator that training uses: the score compares networks, and tells nothing about real images.

    Parameters
    ----------
    settings
        Of which the size of the batches is used.

    Returns
    -------
    dict
        ``nll``: mean Gaussian negative log-likelihood of the true log maps under the stated uncertainty, in nat per
        voxel and map; ``t1``, ``t2``, ``pd``: mean absolute error of the log maps. Means over batches, in the brain.
    """
    settings = settings or TrainingSettings()
    totals = dict.fromkeys(("nll", "t1", "t2", "pd"), 0.0)
    network.eval()
    for number in range(n_batches):
        rng = np.random.default_rng([FIRST_SEED, number])
        slab = make_slab(atlas, FIRST_SEED + number, settings)
        nominal, as_run = random_protocol(rng)
        with torch.inference_mode():
            relative, physics = make_batch(slab, nominal, as_run, rng)
            log_maps, log_sd = run_network(network, relative, slab.mask, physics)
            error = log_maps - slab.truth
            each = 0.5 * (error / log_sd.exp()).square() + log_sd
            weight = slab.weight[:, None]
            voxels = slab.weight.sum().clamp_min(1)
            totals["nll"] += float((each * weight).sum() / (3 * voxels))
            for name, value in zip(("t1", "t2", "pd"), (error.abs() * weight).sum(dim=(0, 2, 3)) / voxels, strict=True):
                totals[name] += float(value)
    return {name: total / n_batches for name, total in totals.items()}
