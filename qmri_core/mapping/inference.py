"""Maps of sessions from their images, scales and protocols, in parts of some slices each."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qmri_core.calibration.population import Population, pd_relation, population
from qmri_core.calibration.session_model import PersonLevels
from qmri_core.devices import in_precision
from qmri_core.mapping.network import MapNetwork, assemble
from qmri_core.mapping.parts import Part, mapped, parts_of
from qmri_core.mapping.voxelwise import VoxelwiseEstimator, compress
from qmri_core.series.acquisition import CONTRASTS, Acquisition, Contrast

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

    What estimates maps draws everyone towards the population. So it is told what the signals of the whole session, and
    calibration, say about its tissues (`qmri_core.calibration.expectation`): it is drawn to that in place of the
    population, and the network's maps are widened by what posterior means lack (`PersonLevels.widened`).

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
        From `qmri_core.calibration.scales.session_person`; ``None`` if nothing is known of the person.

    Raises
    ------
    ValueError
        If images, acquisitions and scales are not of the same contrasts, or a scale is not positive.
    """
    place = torch.device(device)
    session = prepared("", images, mask, acquisitions, scales, person, slices=block or slices_of(place, mask.shape))
    if network is not None:  # a copy: the caller's weights stay where they are
        network = on_device(network, place)
    packed = session.empty()
    for part in session.parts:
        (found,) = infer_parts(network, [part], place, precision=precision)
        session.put(packed, part, found.cpu().numpy())
    return session.maps(packed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A session whose parts are ready for the device."""

    inside: NDArray[np.bool_]
    """Where maps are made, shape (z, y, x)."""
    parts: Sequence[Part]

    def empty(self) -> NDArray[np.float32]:
        """Room for what `infer_parts` gives of the whole session: shape (7, voxel), only those where maps are made."""
        return np.empty((len(Maps.__dataclass_fields__), np.count_nonzero(self.inside)), dtype=np.float32)

    def put(self, packed: NDArray[np.float32], part: Part, found: NDArray[np.float32]) -> None:
        """Put what was found of a part in its place among the session's voxels."""
        start = np.count_nonzero(self.inside[: part.where.start])
        packed[:, start : start + found.shape[1]] = found

    def volume(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """One of the session's maps, from its values where maps are made; NaN elsewhere."""
        result = np.full(self.inside.shape, np.nan, dtype=np.float32)
        result[self.inside] = values
        return result

    def maps(self, packed: NDArray[np.float32]) -> Maps:
        """All of them, from what `infer_parts` gives."""
        return Maps(**dict(zip(Maps.__dataclass_fields__, map(self.volume, packed), strict=True)))


def prepared(
    owner: str,
    images: Mapping[Contrast, NDArray[np.float32]],
    mask: NDArray[np.uint8],
    acquisitions: Mapping[Contrast, Acquisition],
    scales: Mapping[Contrast, float],
    person: PersonLevels | None,
    *,
    slices: int,
) -> Prepared:
    """Parts of so many slices of a session; ``owner`` is its name, the other arguments are those of `session_maps`.

    Raises
    ------
    ValueError
        As `session_maps`.
    """
    _check_contrasts(images, acquisitions, scales)
    inside = mapped(images, mask)
    if not inside.any():
        return Prepared(inside=inside, parts=())
    parts = parts_of(owner, images, inside, acquisitions, scales, person, slices=slices)
    return Prepared(inside=inside, parts=parts)


def slices_of(place: torch.device, shape: tuple[int, ...], voxels: int | None = None) -> int:
    """Slices of a part of volumes of a shape (z, y, x): as many as have so many voxels, `VOXELS` of the device."""
    return max(1, (voxels or VOXELS.get(place.type, VOXELS["cpu"])) // (shape[1] * shape[2]))


def on_device(network: MapNetwork, place: torch.device) -> MapNetwork:
    """A copy of a network on a device, in the fast order of convolutions."""
    copied: MapNetwork = copy.deepcopy(network).to(device=place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return copied


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


def infer_parts(
    network: MapNetwork | None, parts: Sequence[Part], place: torch.device, *, precision: torch.dtype = torch.float32
) -> list[Tensor]:
    """Maps, their standard uncertainties and the residual of the voxels of some parts, in one pass of the network.

    Parameters
    ----------
    parts
        Their planes are of one shape.
    place
        Where the network is, and where the result stays.
    precision
        Of the network's features.

    Returns
    -------
    list of Tensor
        Of each part, shape (7, voxel), in the order of `Maps`.
    """
    with torch.inference_mode():
        started = [_Started(part, place) for part in parts]
        if network is not None:
            with in_precision(precision, place):
                conditions = [network.modulations(each.conditions()) for each in started]
                both = network.modulated(
                    _one([each.planes() for each in started]),
                    [_one(of_block) for of_block in zip(*conditions, strict=True)],
                )
            end = 0
            for each in started:
                start, end = end, end + len(each.inside)
                each.correct(both[0][start:end], both[1][start:end], network.settings.undetermined)
        return [each.finished() for each in started]


def _one(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))


def _sent(tensor: Tensor, place: torch.device) -> Tensor:
    """On a GPU by way of pinned memory, from which it is copied while the host goes on."""
    return tensor.pin_memory().to(place, non_blocking=True) if place.type == "cuda" else tensor.to(place)


class _Started:
    """A part on the device: what is voxelwise is done for each part by itself, and depends on no other."""

    def __init__(self, part: Part, place: torch.device) -> None:
        self.part = part
        self.packed = _sent(part.relative, place)[None, :, None]
        self.inside = _sent(part.inside, place)
        self.compressed, self.back = part.physics.standard(compress(self.packed))
        self.start = part.physics(self.compressed)
        self.log_maps = self.start + self.back
        self.log_sd = part.physics.log_sd.to(self.log_maps)[:, None, None].expand_as(self.log_maps)

    def conditions(self) -> Tensor:
        """Of the network, for each slice."""
        of_protocol = torch.as_tensor(self.part.physics.conditions, device=self.inside.device)
        return of_protocol.expand(len(self.inside), -1)

    def planes(self) -> Tensor:
        """Inputs of the network, shape (slice, N_INPUTS, y, x), zero where nothing is mapped."""
        ones = torch.ones_like(self.packed[:, 0])
        rows = network_inputs(self.compressed, self.start, ones, self.part.physics)[0, :, 0].T
        voxels = self.inside.flatten().nonzero()[:, 0]
        planes = rows.new_zeros((self.inside.numel(), rows.shape[1])).index_copy_(0, voxels, rows)
        # channels last: the fast order of convolutions
        return planes.reshape(*self.inside.shape, -1).permute(0, 3, 1, 2)

    def correct(self, log_maps: Tensor, log_sd: Tensor, undetermined: Sequence[float]) -> None:
        """Take what the network makes of the planes, in place of the voxelwise estimate."""
        voxels = self.inside.flatten().nonzero()[:, 0]
        self.log_maps, self.log_sd = (
            each.permute(0, 2, 3, 1).flatten(0, 2).index_select(0, voxels).to(self.packed.dtype).T[None, :, None]
            for each in (log_maps, log_sd)
        )
        self.log_maps = self.log_maps + self.back
        if self.part.person is not None:
            values = population(next(iter(self.part.acquisitions.values())).field_strength)
            self.log_maps, self.log_sd = widened(self.log_maps, self.log_sd, self.part.person, values, undetermined)

    def finished(self) -> Tensor:
        """Maps, uncertainties and residual, shape (7, voxel)."""
        physics, place = self.part.physics, self.packed.device
        maps = self.log_maps.exp() * torch.tensor(physics.white_matter, device=place)[:, None, None]
        difference = relative_signals(maps, self.part.acquisitions, physics) - self.packed
        difference = difference * self.part.to_median.to(place)[:, None, None]
        residual = difference.square().mean(dim=1, keepdim=True).sqrt()
        return torch.cat([maps, self.log_sd.exp() * maps, residual], dim=1)[0, :, 0]


def run_network(
    network: nn.Module | None,
    relative: Tensor,
    mask: Tensor,
    physics: VoxelwiseEstimator,
    *,
    precision: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Log maps and log standard deviations, over and from signals relative to the white matter that is expected.

    Parameters
    ----------
    relative
        Shape (slice, contrast, y, x), the contrasts of ``physics`` in their order.
    mask
        Shape (slice, y, x).
    physics
        Of the session: with what its tissues are expected to be.
    precision
        Of the network's features; what goes in and comes out is float32.
    """
    compressed, back = physics.standard(compress(relative))
    voxelwise = physics(compressed)
    if network is None:
        return voxelwise + back, physics.log_sd.to(voxelwise)[:, None, None].expand_as(voxelwise)
    conditions = torch.as_tensor(physics.conditions, device=relative.device).expand(relative.shape[0], -1)
    inputs = network_inputs(compressed, voxelwise, mask, physics)
    with in_precision(precision, relative.device):
        log_maps, log_sd = network(inputs, conditions)
    return log_maps.float() + back, log_sd.float()


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
