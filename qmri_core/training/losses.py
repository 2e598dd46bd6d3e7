"""What the network is trained on: likelihood of known maps, and means of regions."""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_VOXELS = 30
"""Number of voxels that a region needs for a mean."""


def negative_log_likelihood(estimate: Tensor, log_sd: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Gaussian negative log-likelihood of log maps with the standard deviation that the network states.

    The gradient of the mean is tempered by the variance to the power 0.5 (beta-NLL, Seitzer et al. 2022,
    arXiv 2203.09168, eq. 5), so that voxels which are hard today are not given up.

    Parameters
    ----------
    estimate, log_sd, truth
        Shape (slice, map, y, x).
    weight
        Shape (slice, y, x), 0 outside the brain.
    """
    variance = torch.exp(2 * log_sd)
    terms = 0.5 * (truth - estimate).square() / variance + log_sd
    tempered = terms * variance.detach().sqrt()
    total: Tensor = (tempered * weight[:, None]).sum() / (weight.sum() * estimate.shape[1]).clamp_min(1)
    return total


def regional_error(estimate: Tensor, truth: Tensor, regions: Tensor) -> Tensor:
    """Mean absolute difference of the means of log maps over regions of at least `LEAST_VOXELS` voxels; 0 without any.

    Parameters
    ----------
    estimate, truth
        Shape (slice, map, y, x).
    regions
        Shape (slice, region, y, x), 1 where a voxel belongs to it.
    """
    counts = regions.sum(dim=(0, 2, 3))
    sums = torch.einsum("smyx,sryx->rm", estimate - truth, regions)
    means = (sums / counts.clamp_min(1)[:, None])[counts >= LEAST_VOXELS]
    return means.abs().mean() if len(means) else estimate.new_zeros(())
