"""Maps of one session from its images, scales and protocol, in blocks of slices of fixed size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from qmri_core.acquisition import CONTRASTS, Acquisition, Contrast
from qmri_core.network import MULTIPLE, MapNetwork, assemble
from qmri_core.physics.registry import fast_signal
from qmri_core.voxelwise import VoxelwiseEstimator, compress, estimator

BLOCK = 8
"""Slices per pass; fixed, so that results do not depend on what else is computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Maps:
    """T1 [s], T2 [s], PD (CSF = 1), their standard uncertainties, and the re-synthesis residual; NaN outside the mask.

    Shape (z, y, x). ``residual`` is the root mean square over contrasts of re-synthesised minus acquired, relative to
    the contrast's median in the brain.
    """

    t1: NDArray[np.float32]
    t2: NDArray[np.float32]
    pd: NDArray[np.float32]
    t1_sd: NDArray[np.float32]
    t2_sd: NDArray[np.float32]
    pd_sd: NDArray[np.float32]
    residual: NDArray[np.float32]


def infer_maps(
    network: MapNetwork | None,
    images: Mapping[Contrast, NDArray[np.float32]],
    mask: NDArray[np.uint8],
    acquisitions: Mapping[Contrast, Acquisition],
    scales: Mapping[Contrast, float],
) -> Maps:
    """Infer the maps of one session.

    Parameters
    ----------
    network
        In evaluation mode; ``None`` for the voxelwise estimate alone, a baseline.
    images
        Aligned images, shape (z, y, x), arbitrary unit.
    mask
        Brain mask of the same shape; maps are NaN outside, and where a contrast is not finite.
    acquisitions
        Of the contrasts in ``images``.
    scales
        Image units per unit of proton density and signal, from the calibration.

    Raises
    ------
    ValueError
        If images, acquisitions and scales are not of the same contrasts, or a scale is not positive.
    """
    if not (set(images) == set(acquisitions) == set(scales)):
        raise ValueError(
            f"images of {sorted(images)}, acquisitions of {sorted(acquisitions)} and scales of {sorted(scales)}; "
            "all three must name the same contrasts"
        )
    for contrast, scale in scales.items():
        if not (np.isfinite(scale) and scale > 0):
            raise ValueError(f"the scale of {contrast} is {scale}; it must be positive: calibrate the group first")
    physics = estimator(acquisitions)
    inside = (mask > 0).copy()
    for image in images.values():
        inside &= np.isfinite(image)
    depth, height, width = mask.shape
    result = {name: np.full(mask.shape, np.nan, dtype=np.float32) for name in Maps.__dataclass_fields__}
    medians = {contrast: float(np.median(image[inside])) for contrast, image in images.items()} if inside.any() else {}
    for start in range(0, depth, BLOCK):
        slices = slice(start, min(start + BLOCK, depth))
        if not inside[slices].any():
            continue
        relative = _relative(images, inside, slices, scales, physics)
        block_mask = _padded(torch.from_numpy(inside[slices].astype(np.float32))[:, None])[:, 0]
        with torch.inference_mode():
            log_maps, log_sd = run_network(network, _padded(relative), block_mask, physics)
            maps = log_maps.exp() * torch.tensor(physics.white_matter)[:, None, None]
            sd = log_sd.exp() * maps
            residual = _residual(maps, _padded(relative), acquisitions, scales, medians, physics)
        count = slices.stop - slices.start
        where = inside[slices]
        for name, plane in zip(
            ("t1", "t2", "pd", "t1_sd", "t2_sd", "pd_sd", "residual"),
            (*maps.unbind(1), *sd.unbind(1), residual),
            strict=True,
        ):
            values = plane[:count, :height, :width].numpy()
            result[name][slices][where] = values[where]
    return Maps(**result)


def run_network(
    network: MapNetwork | None, relative: Tensor, mask: Tensor, physics: VoxelwiseEstimator
) -> tuple[Tensor, Tensor]:
    """Log maps and log standard deviations from signals relative to the reference white matter.

    Parameters
    ----------
    relative
        Shape (slice, contrast, y, x), the contrasts of ``physics`` in their order.
    mask
        Shape (slice, y, x).
    """
    compressed = compress(relative)
    voxelwise = physics(compressed)
    if network is None:
        return voxelwise, physics.log_sd.to(voxelwise)[:, None, None].expand_as(voxelwise)
    n = relative.shape[0]
    everything = torch.zeros((n, len(CONTRASTS), *relative.shape[-2:]), dtype=relative.dtype, device=relative.device)
    present = torch.zeros((n, len(CONTRASTS)), dtype=relative.dtype, device=relative.device)
    for k, contrast in enumerate(physics.contrasts):
        everything[:, CONTRASTS.index(contrast)] = compressed[:, k]
        present[:, CONTRASTS.index(contrast)] = 1.0
    conditions = torch.as_tensor(physics.conditions, device=relative.device).expand(n, -1)
    log_maps, log_sd = network(assemble(everything, present, voxelwise, mask), conditions)
    return log_maps, log_sd


def synthesise(maps: Tensor, acquisitions: Mapping[Contrast, Acquisition], physics: VoxelwiseEstimator) -> Tensor:
    """Signals relative to the reference white matter, shape (slice, contrast, y, x), of maps (slice, 3, y, x)."""
    t1, t2, pd = maps.unbind(1)
    planes = [
        fast_signal(acquisitions[contrast], pd, t1, t2).abs() / reference
        for contrast, reference in zip(physics.contrasts, physics.white_matter_signal, strict=True)
    ]
    return torch.stack(planes, dim=1)


def _relative(
    images: Mapping[Contrast, NDArray[np.float32]],
    inside: NDArray[np.bool_],
    slices: slice,
    scales: Mapping[Contrast, float],
    physics: VoxelwiseEstimator,
) -> Tensor:
    """Signals over that of the reference white matter; a block of `BLOCK` slices, zero outside the mask."""
    planes = []
    for contrast, reference in zip(physics.contrasts, physics.white_matter_signal, strict=True):
        block = np.zeros((BLOCK, *inside.shape[1:]), dtype=np.float32)
        count = slices.stop - slices.start
        block[:count] = np.where(inside[slices], images[contrast][slices] / (scales[contrast] * reference), 0.0)
        planes.append(torch.from_numpy(block))
    return torch.stack(planes, dim=1)


def _padded(block: Tensor) -> Tensor:
    height, width = block.shape[-2:]
    missing = BLOCK - block.shape[0]
    return functional.pad(block, (0, -width % MULTIPLE, 0, -height % MULTIPLE, 0, 0, 0, missing))


def _residual(
    maps: Tensor,
    relative: Tensor,
    acquisitions: Mapping[Contrast, Acquisition],
    scales: Mapping[Contrast, float],
    medians: Mapping[Contrast, float],
    physics: VoxelwiseEstimator,
) -> Tensor:
    difference = synthesise(maps, acquisitions, physics) - relative
    to_median = [
        scales[contrast] * reference / medians[contrast]
        for contrast, reference in zip(physics.contrasts, physics.white_matter_signal, strict=True)
    ]
    return (difference * torch.tensor(to_median)[:, None, None]).square().mean(dim=1).sqrt()
