"""Maps of one session from its images, scales and protocol, in blocks of slices."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qmri_core.calibration.population import Population, pd_relation, population
from qmri_core.calibration.session_model import LEVELS, PersonLevels
from qmri_core.mapping.network import MULTIPLE, REACH, MapNetwork, assemble
from qmri_core.mapping.voxelwise import VoxelwiseEstimator, compress, estimator
from qmri_core.series.acquisition import CONTRASTS, Acquisition, Contrast
from qmri_core.series.geometry import inside_of

VOXELS = {"cpu": 1 << 17, "cuda": 1 << 22}
"""Voxels of whole slices per pass, by device: what a pass needs does not grow with the number of slices."""


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


def session_maps(
    network: MapNetwork | None,
    images: Mapping[Contrast, NDArray[np.float32]],
    mask: NDArray[np.uint8],
    acquisitions: Mapping[Contrast, Acquisition],
    scales: Mapping[Contrast, float],
    *,
    device: torch.device | str = "cpu",
    precision: torch.dtype = torch.float32,
    block: int | None = None,
    person: PersonLevels | None = None,
) -> Maps:
    """Infer the maps of one session.

    A network that sees one slice at a time draws everyone towards the population. So it is told what the signals of the
    whole session say about the person, and its maps are widened by what posterior means lack (`PersonLevels.widened`).

    Parameters
    ----------
    network
        In evaluation mode, on any device; ``None`` for the voxelwise estimate alone, a baseline.
    images
        Aligned images, shape (z, y, x), arbitrary unit.
    mask
        Brain mask of the same shape; maps are NaN outside, and where a contrast is not finite.
    acquisitions
        Of the contrasts in ``images``.
    scales
        Image units per unit of proton density and signal, from the calibration.
    device
        Where to compute; the maps come back to the CPU.
    precision
        Of the network's features; its inputs, its start and everything voxelwise are float32.
    block
        Slices per pass; ``None`` for as many as have `VOXELS` of the device, at least one. Maps of other blocks differ
        by the rounding of float32.
    person
        From `qmri_core.calibration.scales.session_person`; ``None`` if nothing is known of the person. Not used by the
        voxelwise estimate.

    Raises
    ------
    ValueError
        If images, acquisitions and scales are not of the same contrasts, or a scale is not positive.
    """
    _check_contrasts(images, acquisitions, scales)
    inside = inside_of(images.values(), mask)
    result = {name: np.full(mask.shape, np.nan, dtype=np.float32) for name in Maps.__dataclass_fields__}
    if not inside.any():
        return Maps(**result)
    place = torch.device(device)
    if network is not None:  # a copy: the caller's weights stay where they are
        network = copy.deepcopy(network).to(device=place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    size = block or max(1, VOXELS.get(place.type, VOXELS["cpu"]) // (inside.shape[1] * inside.shape[2]))
    blocks = [slice(start, start + size) for start in range(0, inside.shape[0], size)]
    for some, found in _in_blocks(network, images, inside, acquisitions, scales, blocks, place, precision, person):
        for name, row in zip(Maps.__dataclass_fields__, found.cpu().numpy(), strict=True):
            result[name][some][inside[some]] = row
    return Maps(**result)


def _check_contrasts(
    images: Mapping[Contrast, NDArray[np.float32]],
    acquisitions: Mapping[Contrast, Acquisition],
    scales: Mapping[Contrast, float],
) -> None:
    if not (set(images) == set(acquisitions) == set(scales)):
        raise ValueError(
            f"images of {sorted(images)}, acquisitions of {sorted(acquisitions)} and scales of {sorted(scales)}; "
            "all three must name the same contrasts"
        )
    for contrast, scale in scales.items():
        if not (np.isfinite(scale) and scale > 0):
            raise ValueError(f"the scale of {contrast} is {scale}; it must be positive: calibrate the group first")


def _in_blocks(
    network: MapNetwork | None,
    images: Mapping[Contrast, NDArray[np.float32]],
    inside: NDArray[np.bool_],
    acquisitions: Mapping[Contrast, Acquisition],
    scales: Mapping[Contrast, float],
    blocks: Iterable[slice],
    place: torch.device,
    precision: torch.dtype,
    person: PersonLevels | None,
) -> Iterator[tuple[slice, Tensor]]:
    """Each block of slices that holds some brain, and what `infer_block` gives of its voxels."""
    physics = estimator(acquisitions)
    # of the images, per unit of signal relative to white matter; a median of zero ends the session with an error
    units = physics.units(scales)
    medians = [float(np.median(images[contrast][inside])) for contrast in physics.contrasts]
    to_median = torch.tensor([unit / median for unit, median in zip(units, medians, strict=True)], device=place)
    for some in blocks:
        where = inside[some]
        if not where.any():
            continue
        planes = [images[contrast][some][where] for contrast in physics.contrasts]
        signals = [plane / unit for plane, unit in zip(planes, units, strict=True)]
        relative = torch.from_numpy(np.stack(signals, dtype=np.float32))
        with torch.inference_mode():
            yield (
                some,
                infer_block(
                    network,
                    relative.to(place),
                    torch.from_numpy(cropped(where)).to(place),
                    acquisitions,
                    physics,
                    to_median,
                    precision=precision,
                    person=person,
                ),
            )


def widened(
    log_maps: Tensor, log_sd: Tensor, person: PersonLevels, values: Population, undetermined: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Shift log T1 and T2 by what posterior means of a person lack, and widen the uncertainty by what that adds.

    White and grey matter are told apart by log T1: in between both count in proportion, beyond grey matter its part
    falls to nothing at CSF. PD is as uncertain as the person's T1 makes it, through the relation between the two.

    Parameters
    ----------
    log_maps, log_sd
        Shape (slice, 3, y, x), log maps over the reference white matter.
    values
        Of the field strength.
    undetermined
        Of the weights, `qmri_core.mapping.network.NetworkSettings`.
    """
    grey, fluid = (math.log(tissue.t1 / values.white_matter.t1) for tissue in (values.grey_matter, values.csf))
    t1 = log_maps[:, :1]
    towards = (t1 / grey).clamp(0, 1)
    white, grey_share = 1 - towards, torch.minimum(towards, ((fluid - t1) / (fluid - grey)).clamp(0, 1))
    of_white, of_grey, sd_white, sd_grey = (
        torch.as_tensor(each, dtype=t1.dtype, device=t1.device)[:, None, None]
        for levels in (person.widened - person.mean, person.widened_sd(undetermined))
        for each in np.split(levels, 2)
    )
    relaxation = log_maps[:, :2] + white * of_white + grey_share * of_grey
    offset, slope = pd_relation(values)
    per_t1 = [slope / tissue.t1 / (offset + slope / tissue.t1) for tissue in (values.white_matter, values.grey_matter)]
    sd_white, sd_grey = (torch.cat([sd, one * sd[:1]]) for sd, one in zip((sd_white, sd_grey), per_t1, strict=True))
    variance = (2 * log_sd).exp() + (white * sd_white).square() + (grey_share * sd_grey).square()
    return torch.cat([relaxation, log_maps[:, 2:]], dim=1), 0.5 * variance.log()


def fastest() -> tuple[torch.device, torch.dtype]:
    """Device and precision to infer with in this process: a GPU and bfloat16 if it has one, else float32 on the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda"), torch.bfloat16
    return torch.device("cpu"), torch.float32


def cropped(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask (slice, y, x) without what the network cannot see from within it, in y and x padded to `MULTIPLE`.

    The crop starts at a multiple of `MULTIPLE`: the network averages the same voxels as in the whole slice.
    """
    padding = [(0, -size % MULTIPLE) for size in inside.shape[1:]]
    spans = []
    for axis, (_, extra) in enumerate(padding, start=1):
        at = np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))
        first = max(0, at[0] - REACH) // MULTIPLE * MULTIPLE
        end = min(inside.shape[axis] + extra, at[-1] + 1 + REACH)
        spans.append(slice(first, end + -end % MULTIPLE))
    return np.pad(inside, [(0, 0), *padding])[:, spans[0], spans[1]]


def infer_block(
    network: MapNetwork | None,
    relative: Tensor,
    inside: Tensor,
    acquisitions: Mapping[Contrast, Acquisition],
    physics: VoxelwiseEstimator,
    to_median: Tensor,
    *,
    precision: torch.dtype = torch.float32,
    person: PersonLevels | None = None,
) -> Tensor:
    """Maps, their standard uncertainties and the residual of the voxels of some slices, all on one device.

    Parameters
    ----------
    relative
        Signals relative to the reference white matter, shape (contrast, voxel): the voxels of ``inside`` in its order.
    inside
        Brain mask, shape (slice, y, x), y and x multiples of `MULTIPLE`.
    to_median
        Brain median over the reference white matter, inverted, by contrast.
    precision
        Of the network's features.
    person
        As in `session_maps`.

    Returns
    -------
    Tensor
        Shape (7, voxel), in the order of `Maps`.
    """
    packed = relative[None, :, None]
    compressed = compress(packed)
    log_maps = physics(compressed)
    log_sd = physics.log_sd.to(log_maps)[:, None, None].expand_as(log_maps)
    if network is not None:
        ones = torch.ones_like(packed[:, 0])
        rows = network_inputs(compressed, log_maps, ones, physics)[0, :, 0].T
        voxels = inside.flatten().nonzero()[:, 0]
        planes = rows.new_zeros((inside.numel(), rows.shape[1])).index_copy_(0, voxels, rows)
        planes = planes.reshape(*inside.shape, -1).permute(0, 3, 1, 2)  # channels last: the fast order of convolutions
        conditions = torch.as_tensor(physics.conditions, device=planes.device).expand(len(planes), -1)
        levels = planes.new_zeros(len(LEVELS)) if person is None else torch.from_numpy(person.mean).to(planes)
        with in_precision(precision, planes.device):
            both = network(planes, conditions, levels.expand(len(planes), -1))
        log_maps, log_sd = (
            each.permute(0, 2, 3, 1).flatten(0, 2).index_select(0, voxels).to(relative.dtype).T[None, :, None]
            for each in both
        )
        if person is not None:
            values = population(next(iter(acquisitions.values())).field_strength)
            log_maps, log_sd = widened(log_maps, log_sd, person, values, network.settings.undetermined)
    maps = log_maps.exp() * torch.tensor(physics.white_matter, device=relative.device)[:, None, None]
    difference = (relative_signals(maps, acquisitions, physics) - packed) * to_median[:, None, None]
    residual = difference.square().mean(dim=1, keepdim=True).sqrt()
    return torch.cat([maps, log_sd.exp() * maps, residual], dim=1)[0, :, 0]


@contextmanager
def in_precision(precision: torch.dtype, device: torch.device) -> Iterator[None]:
    """Features of this precision; float32 is float32, not the TF32 that PyTorch takes for it on a GPU."""
    is_lower = precision is not torch.float32
    with (
        torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=is_lower),
        torch.autocast(device.type, dtype=precision if is_lower else torch.bfloat16, enabled=is_lower),
    ):
        yield


def run_network(
    network: nn.Module | None,
    relative: Tensor,
    mask: Tensor,
    physics: VoxelwiseEstimator,
    levels: Tensor,
    *,
    precision: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Log maps and log standard deviations from signals relative to the reference white matter.

    Parameters
    ----------
    relative
        Shape (slice, contrast, y, x), the contrasts of ``physics`` in their order.
    mask
        Shape (slice, y, x).
    levels
        Of the session's person, shape (len(LEVELS),), see `qmri_core.calibration.session_model.PersonLevels.mean`.
    precision
        Of the network's features; what goes in and comes out is float32.
    """
    compressed = compress(relative)
    voxelwise = physics(compressed)
    if network is None:
        return voxelwise, physics.log_sd.to(voxelwise)[:, None, None].expand_as(voxelwise)
    conditions = torch.as_tensor(physics.conditions, device=relative.device).expand(relative.shape[0], -1)
    inputs = network_inputs(compressed, voxelwise, mask, physics)
    with in_precision(precision, relative.device):
        log_maps, log_sd = network(inputs, conditions, levels.expand(relative.shape[0], -1))
    return log_maps.float(), log_sd.float()


def network_inputs(compressed: Tensor, voxelwise: Tensor, mask: Tensor, physics: VoxelwiseEstimator) -> Tensor:
    """Input channels of the network, shape (slice, N_INPUTS, y, x).

    Parameters
    ----------
    compressed
        Shape (slice, contrast, y, x), the contrasts of ``physics`` in their order.
    voxelwise
        Shape (slice, 3, y, x).
    mask
        Shape (slice, y, x).
    """
    n = compressed.shape[0]
    everything = compressed.new_zeros((n, len(CONTRASTS), *compressed.shape[-2:]))
    present = compressed.new_zeros((n, len(CONTRASTS)))
    for k, contrast in enumerate(physics.contrasts):
        everything[:, CONTRASTS.index(contrast)] = compressed[:, k]
        present[:, CONTRASTS.index(contrast)] = 1.0
    return assemble(everything, present, voxelwise, mask)


def relative_signals(maps: Tensor, acquisitions: Mapping[Contrast, Acquisition], physics: VoxelwiseEstimator) -> Tensor:
    """Signals relative to the reference white matter, shape (slice, contrast, y, x), of maps (slice, 3, y, x)."""
    t1, t2, pd = maps.unbind(1)
    planes = [
        physics.model(acquisitions[contrast], pd, t1, t2).abs() / reference
        for contrast, reference in zip(physics.contrasts, physics.white_matter_signal, strict=True)
    ]
    return torch.stack(planes, dim=1)
