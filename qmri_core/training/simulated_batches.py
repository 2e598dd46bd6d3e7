"""Training batches: slices of simulated heads, as a random protocol shows them after preprocessing and calibration.

Every contrast sees the head through its own slices: thin ones are averaged over the grid's, thick ones lie elsewhere
and are interpolated, as `qmri_core.preprocessing` does it, so that contrasts disagree about mixed voxels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from qmri_core.calibration.population import population
from qmri_core.calibration.session_model import Spreads, measurement_error, observations, person, posterior
from qmri_core.mapping.voxelwise import VoxelwiseEstimator, estimator
from qmri_core.physics.registry import fast_signal
from qmri_core.series.acquisition import Acquisition, Contrast, PulseSequence
from qmri_core.series.grouping import REFERENCES
from qmri_core.simulation.anatomies import random_slab
from qmri_core.simulation.atlas import Atlas
from qmri_core.simulation.subjects import CLASSES, ISLAND
from qmri_core.tissues import MEMBERS, TISSUES
from qmri_core.training.protocols import Protocol

PURE = 0.9
"""Largest tissue fraction above which a voxel counts in full."""
MIXED_WEIGHT = 0.25
"""Weight in the loss of voxels of several tissues; chosen."""
TRAINING_REGIONS = ("gm", "wm", "thalamus", "caudate", "putamen", "pallidum", "lesion", ISLAND)
"""Regions whose means over a slab are compared as well, as the simulation names them; ``gm`` is the cortex."""
FIRST_SMALL = 2
"""Index in `TRAINING_REGIONS` from which nuclei, lesions and islands follow."""
REGION_SHARE, REGION_PURITY = 0.9, 0.97
"""Least share of planes in the region, and of one tissue, in a voxel of a region."""
PLANE = 1.0
"""Millimetres between the planes of which slices are made."""
DEPTH = 42
"""Planes of a slab."""
FINE = 1.4
"""Millimetres in plane above which a voxel is the mean of four points."""
SCALE_SPREADS = (math.log(0.01), math.log(0.08))
"""Range of the logs of the spreads of scales between sessions of a group, of one series and common to all."""
MANY = 1000
"""Number of people of a group whose mean counts as known."""
GROUP_PEOPLE = (math.log(4.0), math.log(200.0))
"""Range of the log of the number of people whose white matter stands for the population's."""
GROUP_ERROR = 0.007
"""Standard deviation of the log of a group's level by contrast, beside what its people do; assumed."""
MISALIGNMENT = 0.15
"""Standard deviation in voxels, in plane, of a contrast's place after alignment."""
TRANSMIT = (math.log(0.04), math.log(0.12))
"""Range of the log of the amplitude of the transmit field over a slab, see `_smooth_field`."""
COMMON_REMAINS, OWN_REMAINS = (math.log(0.004), math.log(0.04)), (math.log(0.004), math.log(0.02))
"""Ranges of the logs of the amplitudes of what bias correction leaves, common to all series and of one."""
FIRST_HELD_OUT = 2_000_000_000
"""Seed of the first head that is held out; training draws from none of the seeds that follow it within 32 bits."""
TRANSMIT_SCALES = (0.4, 1.6, 121)
"""First, last and number of the transmit scales at which the shading of white matter is computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slab:
    """Truth of a stack of thin planes of one simulated head, `PLANE` apart."""

    solid: Tensor
    """T1, T2, PD of what is not CSF; shape (3, plane, y, x)."""
    fractions: Tensor
    """Of CSF, grey and white matter, shape (3, plane, y, x)."""
    maps: Tensor
    """T1, T2, PD of everything, shape (3, plane, y, x)."""
    labels: Tensor
    """What most of a voxel is, as `qmri_core.simulation.anatomies.Anatomy` has it, shape (plane, y, x)."""
    resolution: float
    """Millimetres in plane."""
    tissues: Mapping[str, tuple[float, float, float]]
    """The subject's own T1, T2, PD of ``WM``, ``GM`` and ``CSF``."""

    def to(self, device: torch.device | str) -> Slab:
        """The same slab on another device."""
        names = ("solid", "fractions", "maps", "labels")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Slices of one simulated session, with the truth that only the loss may see."""

    relative: Tensor
    """Calibrated signals relative to the reference white matter, shape (slice, contrast, y, x)."""
    mask: Tensor
    """Brain, shape (slice, y, x)."""
    weight: Tensor
    """What a voxel counts in the loss, shape (slice, y, x): mixed ones less, their truth being a convention."""
    truth: Tensor
    """Log T1, T2, PD over the reference white matter of 3 T, shape (slice, 3, y, x)."""
    regions: Tensor
    """Voxels of one tissue in each region, shape (slice, region, y, x), in the order of `TRAINING_REGIONS`."""
    levels: Tensor
    """What the session's signals tell about its person, shape (len(LEVELS),), see `session_model.PersonLevels`."""
    nominal: Protocol
    """What inference believes about the acquisition."""
    physics: VoxelwiseEstimator

    def flipped(self) -> Batch:
        """Left and right exchanged."""
        return replace(self, **{name: getattr(self, name).flip(-1) for name in _PLANES})

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in (*_PLANES, "levels")})


_PLANES = ("relative", "mask", "weight", "truth", "regions")


def make_slab(atlas: Atlas, seed: int, size: int) -> Slab:
    """Planes of a random head, ``size`` voxels of 1 to 2.1 mm in plane, half of them below 1.14 mm.

    Grids are of 1 mm in plane, but for coarse acquisitions; with a uniform spread, few batches were as fine as that,
    and the network's T2 of the putamen was 7 % long at 1 mm and right at 2 mm.
    """
    rng = np.random.default_rng([seed, 41])
    resolution = 1 + 1.1 * float(rng.uniform()) ** 3
    finer = 2 if resolution > FINE else 1
    anatomy = random_slab(
        atlas,
        seed=seed,
        shape=(DEPTH, finer * size, finer * size),
        resolution=resolution / finer,
        slice_spacing=PLANE,
    )
    solid = torch.from_numpy(np.stack(anatomy.without_fluid()))
    maps = torch.from_numpy(np.stack([anatomy.t1, anatomy.t2, anatomy.pd]))
    fractions = torch.from_numpy(anatomy.fractions)
    own = {tissue: anatomy.subject.values[tissue.lower()] for tissue in TISSUES}
    return Slab(
        solid=_mixed(solid, lambda each: functional.avg_pool2d(each, finer)),
        fractions=functional.avg_pool2d(fractions, finer),
        maps=_mixed(maps, lambda each: functional.avg_pool2d(each, finer)),
        labels=torch.from_numpy(anatomy.labels[:, ::finer, ::finer].copy()),
        resolution=resolution,
        tissues={tissue: (values.t1, values.t2, values.pd) for tissue, values in own.items()},
    )


def make_batch(slab: Slab, nominal: Protocol, as_run: Protocol, rng: np.random.Generator, *, slices: int = 6) -> Batch:
    """Slices of a slab as preprocessing and calibration would hand them over, computed where the slab is.

    Tissue and CSF of a voxel add up. Slices of each contrast's own thickness and place, transmit field, remains of
    fields after bias correction, scales that deviate in the session and are estimated as calibration does,
    Rician noise. What the transmit field does to white matter is a smooth shading, which bias correction takes for the
    receive field's and removes; what it does to the contrast of other tissues to white matter stays. Remains have no
    mean over the slab, as those of a whole head have none over the brain after bias correction and calibration: else a
    network would learn to distrust the mean of a slice, which is all that it sees of a person. Their size differs
    from batch to batch down to less than preprocessing leaves: a network that expects more of them takes what differs
    smoothly within white matter for a field.
    """
    device = slab.maps.device
    places, spacing, native = _slices(nominal, slab.resolution, rng, slices)
    over_grid = torch.from_numpy(_boxes(places, spacing)).to(device)
    depth, height, width = slab.maps.shape[1:]
    brain = (slab.fractions.sum(dim=0) > 0.5).to(torch.float32)
    of_transmit, of_all, of_each = (
        math.exp(float(rng.uniform(*logs))) for logs in (TRANSMIT, COMMON_REMAINS, OWN_REMAINS)
    )
    smooth = _smooth_field(rng, (depth, height, width), of_transmit, device)
    transmit = 1 + float(rng.uniform(-0.05, 0.05)) + _centred(smooth, brain)
    common = _smooth_field(rng, (len(places), height, width), of_all, device)
    errors, levels = _calibration(slab, nominal, as_run, rng)
    physics = estimator(nominal)
    wm = population(3.0).white_matter
    fractions = _through(over_grid, slab.fractions)
    mask = (fractions.sum(dim=0) > 0.5).to(torch.float32)
    planes = []
    for contrast in physics.contrasts:
        weights = torch.from_numpy(native[contrast]).to(device)
        seen = _blurred(_seen(slab, as_run[contrast], weights, transmit), rng)
        own = _smooth_field(rng, (len(places), height, width), of_each, device)
        field = torch.exp(_centred(common + own, mask))
        sigma = 1 / float(rng.uniform(25, 80))
        drawn = rng.standard_normal((2, *seen.shape), dtype=np.float32)
        noise = torch.from_numpy(drawn).to(device) * sigma
        planes.append(torch.hypot(seen * field * math.exp(-errors[contrast]) + noise[0], noise[1]) * mask)
    maps = _mixed(slab.maps, lambda each: _through(over_grid, each))
    reference = torch.tensor([wm.t1, wm.t2, wm.pd], device=device)[:, None, None, None]
    truth = torch.log(maps.clamp_min(1e-3) / reference) * mask
    classes = torch.stack([slab.labels == (*CLASSES, ISLAND).index(region) + 1 for region in TRAINING_REGIONS])
    classes = classes.to(torch.float32)
    regions = (_through(over_grid, classes) >= REGION_SHARE) & (fractions.amax(dim=0) >= REGION_PURITY)
    return Batch(
        relative=torch.stack(planes, dim=1).to(torch.float32),
        mask=mask,
        weight=mask * torch.where(fractions.amax(dim=0) > PURE, 1.0, MIXED_WEIGHT),
        truth=truth.permute(1, 0, 2, 3).contiguous(),
        regions=(regions & (mask > 0)).permute(1, 0, 2, 3).to(torch.float32),
        levels=torch.tensor(levels, dtype=torch.float32, device=device),
        nominal=nominal,
        physics=physics,
    )


def _seen(slab: Slab, acquisition: Acquisition, weights: Tensor, transmit: Tensor) -> Tensor:
    """Signal of each slice over that of white matter at its place, by the planes' weights; shape (slice, y, x)."""
    used = weights.any(dim=0).nonzero()[:, 0]
    planes = slice(int(used[0]), int(used[-1]) + 1)
    wm = population(3.0).white_matter
    t1, t2, pd = slab.solid[:, planes].unbind(0)
    csf_t1, csf_t2, csf_pd = (torch.tensor(value, device=weights.device) for value in slab.tissues["CSF"])
    angle = transmit[planes]
    solid = fast_signal(acquisition, pd, t1, t2, transmit_scale=angle)
    fluid = fast_signal(acquisition, csf_pd, csf_t1, csf_t2, transmit_scale=angle)
    signal = solid + slab.fractions[0, planes] * fluid
    signal = signal / _white_matter(acquisition, (wm.t1, wm.t2, wm.pd), angle)
    return _through(weights[:, planes], signal[None])[0]


def _mixed(maps: Tensor, mean: Callable[[Tensor], Tensor]) -> Tensor:
    """T1, T2, PD of means over voxels: PD adds up, rates are averaged by PD, as in `simulation.anatomies.Anatomy`."""
    t1, t2, pd = maps.unbind(0)
    rates = mean(torch.stack([pd / t1, pd / t2, pd]))
    density = rates[2].clamp_min(1e-6)
    return torch.stack(
        [1 / (rates[0] / density).clamp(0.15, 20.0), 1 / (rates[1] / density).clamp(0.3, 300.0), rates[2]]
    )


def _through(weights: Tensor, planes: Tensor) -> Tensor:
    """Weighted sums over planes: (slice, plane) and (channel, plane, y, x) give (channel, slice, y, x)."""
    return torch.einsum("sp,cpyx->csyx", weights, planes)


def _is_thin(acquisition: Acquisition) -> bool:
    """Whether it is acquired in three dimensions, with slices as thin as its voxels."""
    if acquisition.sequence is PulseSequence.SPOILED_GRADIENT_ECHO:
        return acquisition.repetition_time < 0.05
    return acquisition.sequence in (PulseSequence.MPRAGE, PulseSequence.VARIABLE_FLIP_TSE)


def _slices(
    nominal: Protocol, resolution: float, rng: np.random.Generator, slices: int
) -> tuple[NDArray[np.float64], float, dict[Contrast, NDArray[np.float32]]]:
    """Places of the grid's slices in planes, their spacing, and what every contrast sees of the planes in each.

    The grid is that of the reference contrast; thin slices are averaged over the grid's, others interpolated from where
    they lie.
    """
    thickness = float(rng.uniform(2.0, 5.2))
    spacing_2d = thickness * float(rng.choice([1.0, 1.1, 1.2]))
    reference = next(contrast for contrast in REFERENCES if contrast in nominal)
    spacing = resolution if _is_thin(nominal[reference]) else spacing_2d
    margin = 1.6 * spacing_2d + thickness / 2
    free = DEPTH - 1 - 2 * margin
    count = max(2, min(slices, int(free / spacing) + 1))
    start = margin + float(rng.uniform(0, max(0.0, free - (count - 1) * spacing)))
    places = start + spacing * np.arange(count)
    native = {}
    for contrast, acquisition in nominal.items():
        if _is_thin(acquisition):
            native[contrast] = _boxes(places, max(spacing, resolution))
            continue
        offset = start + float(rng.uniform(0, spacing_2d))
        numbers = np.arange(-12, 40)
        of_slices = _boxes(offset + spacing_2d * numbers, thickness)
        at = (places - offset) / spacing_2d
        distance = np.abs(at[:, None] - numbers[None, :])
        native[contrast] = (_cubic(distance) @ of_slices).astype(np.float32)
    return places.astype(np.float64), spacing, native


def _boxes(places: NDArray[np.floating], thickness: float) -> NDArray[np.float32]:
    """Share of each plane in slices of ``thickness`` planes at ``places``, shape (slice, plane); rows sum to 1."""
    edges = np.arange(DEPTH) - 0.5
    low = np.maximum(edges[None, :], places[:, None] - thickness / 2)
    high = np.minimum(edges[None, :] + 1, places[:, None] + thickness / 2)
    shares = np.clip(high - low, 0, None)
    return np.asarray(shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-9), dtype=np.float32)


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cubic convolution (Keys 1981, doi:10.1109/TASSP.1981.1163711, eq. 15), near the B-spline of preprocessing."""
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def _blurred(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Shifted by what alignment leaves and blurred by interpolation in plane; shape (slice, y, x)."""
    for axis in (-2, -1):
        shift, between = float(rng.normal(0, MISALIGNMENT)), float(rng.uniform(0, 0.3))
        soft = between * (1 - between) / 2
        weights = torch.tensor(
            [soft + max(shift, 0.0), 1 - 2 * soft - abs(shift), soft + max(-shift, 0.0)], device=image.device
        )
        kernel = weights.reshape(1, 1, *((3, 1) if axis == -2 else (1, 3)))
        padding = (0, 0, 1, 1) if axis == -2 else (1, 1, 0, 0)
        image = functional.conv2d(functional.pad(image[:, None], padding, mode="replicate"), kernel)[:, 0]
    return image


def _centred(field: Tensor, mask: Tensor) -> Tensor:
    """A field without its mean over a mask."""
    return field - (field * mask).sum() / mask.sum().clamp_min(1)


def random_spreads(contrasts: Collection[Contrast], rng: np.random.Generator) -> Spreads:
    """Spreads of the scales of a group, drawn between `SCALE_SPREADS`."""
    own, common = rng.uniform(*SCALE_SPREADS, len(contrasts)), rng.uniform(*SCALE_SPREADS)
    return Spreads(own=dict(zip(contrasts, np.exp(own).tolist(), strict=True)), common=math.exp(common))


def _calibration(
    slab: Slab, nominal: Protocol, as_run: Protocol, rng: np.random.Generator
) -> tuple[dict[Contrast, float], NDArray[np.float64]]:
    """Log of the estimated over the true scale of a session, by contrast, and what calibration tells of the person.

    The group's level is taken to be that of the population's white matter, and is off (`_group_level`). The session's
    deviations and those of its person are told apart as far as the model of `qmri_core.calibration.session_model` can.
    """
    values = population(3.0)
    session_transmit = 1 + 0.02 * float(rng.standard_normal())
    spreads = random_spreads(nominal, rng)
    shared = spreads.common * float(rng.standard_normal())
    true = {contrast: shared + spread * float(rng.standard_normal()) for contrast, spread in spreads.own.items()}
    deviations = []
    for contrast, tissue in observations(nominal):
        member = getattr(values, MEMBERS[tissue])
        persons = _tissue_signal(as_run[contrast], slab.tissues[tissue], session_transmit)
        usual = _tissue_signal(as_run[contrast], (member.t1, member.t2, member.pd), 1.0)
        noise = measurement_error(contrast, tissue) * float(rng.standard_normal())
        deviations.append(float((persons / usual).abs().log()) + true[contrast] + noise)
    shifts = posterior(np.asarray([deviations]), nominal, spreads).shifts
    level = _group_level(as_run, nominal, rng)
    errors = {
        contrast: float(shift) - true[contrast] + float(error)
        for contrast, shift, error in zip(nominal, shifts[0], level, strict=True)
    }
    return errors, person(np.asarray(deviations), nominal, spreads, n_people=MANY).mean


def _group_level(as_run: Protocol, contrasts: Collection[Contrast], rng: np.random.Generator) -> NDArray[np.float64]:
    """Log of a group's estimated over its true scale by contrast: its people's mean is not the population's."""
    white = population(3.0).white_matter
    few = math.exp(-0.5 * float(rng.uniform(*GROUP_PEOPLE)))
    t1, t2 = (
        value * (1 + spread * few * float(rng.standard_normal()))
        for value, spread in ((white.t1, white.t1_spread), (white.t2, white.t2_spread))
    )
    reference, people = (white.t1, white.t2, white.pd), (t1, t2, white.pd)
    of_people = [_log_signal(as_run[each], people) - _log_signal(as_run[each], reference) for each in contrasts]
    return np.asarray(of_people + GROUP_ERROR * rng.standard_normal(len(of_people)))


def _log_signal(acquisition: Acquisition, tissue: tuple[float, float, float]) -> float:
    return float(_tissue_signal(acquisition, tissue, 1.0).abs().log())


def _tissue_signal(acquisition: Acquisition, tissue: tuple[float, float, float], transmit: float) -> Tensor:
    t1, t2, pd = (torch.tensor([value]) for value in tissue)
    return fast_signal(acquisition, pd, t1, t2, transmit_scale=torch.tensor([transmit]))


def _white_matter(acquisition: Acquisition, tissue: tuple[float, float, float], transmit: Tensor) -> Tensor:
    """Size of the signal of one tissue at each transmit scale, between the nodes of `TRANSMIT_SCALES` linearly."""
    first, last, n = TRANSMIT_SCALES
    t1, t2, pd = (torch.tensor(value, device=transmit.device).expand(n) for value in tissue)
    nodes = torch.linspace(first, last, n, device=transmit.device)
    values = fast_signal(acquisition, pd, t1, t2, transmit_scale=nodes).abs()
    at = ((transmit - first) * ((n - 1) / (last - first))).clamp(0, n - 1 - 1e-3)
    low = at.long()
    return torch.lerp(values[low], values[low + 1], at - low)


def _smooth_field(rng: np.random.Generator, shape: tuple[int, ...], amplitude: float, device: torch.device) -> Tensor:
    """Random low-order polynomial over the slab with about ``amplitude`` standard deviation."""
    n, height, width = shape
    y = torch.linspace(-1, 1, height, device=device)[:, None]
    x = torch.linspace(-1, 1, width, device=device)[None, :]
    z = torch.linspace(-0.3, 0.3, n, device=device)[:, None, None]
    weights: NDArray[np.float64] = rng.standard_normal(6) * amplitude
    a = [float(w) for w in weights]
    plane = a[0] * x + a[1] * y + a[2] * (x * y) + a[3] * (x.square() - 0.33) + a[4] * (y.square() - 0.33)
    return plane[None] + a[5] * z
