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

from qmri_core.calibration.expectation import Expectation
from qmri_core.calibration.session_model import Spreads, measurement_error, observations, person, posterior
from qmri_core.mapping.voxelwise import VoxelwiseEstimator, estimator
from qmri_core.physics.registry import fast_signal
from qmri_core.series.acquisition import Acquisition, Contrast, PulseSequence
from qmri_core.series.grouping import REFERENCES
from qmri_core.simulation.anatomies import random_slab
from qmri_core.simulation.atlas import Atlas
from qmri_core.simulation.subjects import CLASSES, ISLAND
from qmri_core.tissues import TISSUES
from qmri_core.training.populations import (
    TrainingPopulation,
    expected_of,
    levels_of,
    random_population,
    solid_kinds,
    told_of,
)
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
ANY_SCALE, ANY_SCALE_SHARE = 1.0, 0.15
"""Spread of scales of groups whose series have any, and the share of such groups."""
CONTRAST_ERRORS = (math.log(0.003), math.log(0.035)), (math.log(0.02), math.log(0.2))
"""Ranges of the logs of the standard deviations of the log contrast of grey matter, and of fluid, to white matter that
signal models do not have: magnetization transfer, slice profiles, trains; assumed."""
NUCLEI_ERROR = (0.2, 1.0)
"""Range of what nuclei have of such a contrast of grey matter."""
MEAN_TRANSMIT = (-0.07, 0.07)
"""Range of the deviation of the mean of the transmit field."""
GROUP_ERROR = 0.007
"""Standard deviation of the log of a group's level by contrast, beside what its people do; assumed."""
MISALIGNMENT = 0.15
"""Standard deviation in voxels, in plane, of a contrast's place after alignment."""
TRANSMIT = (math.log(0.03), math.log(0.15))
"""Range of the log of the amplitude of the transmit field over a slab, see `_smooth_field`."""
COMMON_REMAINS, OWN_REMAINS = (math.log(0.003), math.log(0.05)), (math.log(0.003), math.log(0.025))
"""Ranges of the logs of the amplitudes of what bias correction leaves, common to all series and of one."""
FIRST_HELD_OUT = 2_000_000_000
"""Seed of the first head that is held out; training draws from none of the seeds that follow it within 32 bits."""
TRANSMIT_SCALES = (0.4, 1.6, 121)
"""First, last and number of the transmit scales at which the shading of white matter is computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slab:
    """Truth of a stack of thin planes of one simulated head, `PLANE` apart."""

    solid: Tensor
    """T1, T2, PD at 3 T of what is not CSF; shape (3, plane, y, x)."""
    fractions: Tensor
    """Of CSF, grey and white matter, shape (3, plane, y, x)."""
    labels: Tensor
    """What most of a voxel is, as `qmri_core.simulation.anatomies.Anatomy` has it, shape (plane, y, x)."""
    resolution: float
    """Millimetres in plane."""
    tissues: Mapping[str, tuple[float, float, float]]
    """The subject's own T1, T2, PD at 3 T of ``WM``, ``GM`` and ``CSF``."""

    def to(self, device: torch.device | str) -> Slab:
        """The same slab on another device."""
        names = ("solid", "fractions", "labels")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Slices of one simulated session, with the truth that only the loss may see."""

    relative: Tensor
    """Calibrated signals relative to the white matter that is expected, shape (slice, contrast, y, x)."""
    mask: Tensor
    """Brain, shape (slice, y, x)."""
    weight: Tensor
    """What a voxel counts in the loss, shape (slice, y, x): mixed ones less, their truth being a convention."""
    truth: Tensor
    """Log T1, T2, PD over the white matter that is expected, shape (slice, 3, y, x)."""
    regions: Tensor
    """Voxels of one tissue in each region, shape (slice, region, y, x), in the order of `TRAINING_REGIONS`."""
    nominal: Protocol
    """What inference believes about the acquisition."""
    physics: VoxelwiseEstimator
    """Of the session: with what its tissues are expected to be."""

    def flipped(self) -> Batch:
        """Left and right exchanged."""
        return replace(self, **{name: getattr(self, name).flip(-1) for name in _PLANES})

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in _PLANES})


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
    fractions = torch.from_numpy(anatomy.fractions)
    own = {tissue: anatomy.subject.values[tissue.lower()] for tissue in TISSUES}
    return Slab(
        solid=_mixed(solid, lambda each: functional.avg_pool2d(each, finer)),
        fractions=functional.avg_pool2d(fractions, finer),
        labels=torch.from_numpy(anatomy.labels[:, ::finer, ::finer].copy()),
        resolution=resolution,
        tissues={tissue: (values.t1, values.t2, values.pd) for tissue, values in own.items()},
    )


def make_batch(
    slab: Slab,
    nominal: Protocol,
    as_run: Protocol,
    rng: np.random.Generator,
    *,
    slices: int = 6,
    people: TrainingPopulation | None = None,
) -> Batch:
    """Slices of a slab as preprocessing and calibration would hand them over, computed where the slab is.

    Tissue and CSF of a voxel add up. The person is one of ``people``, a random population of the protocol's field
    strength if none is given, of which calibration tells what it can. Slices of each contrast's own thickness and
    place, transmit field, remains of fields after bias correction, scales that deviate in the session and are estimated
    as calibration does, contrasts of tissues that the signal models do not have (`CONTRAST_ERRORS`), Rician noise.
    What the transmit field does to white matter is a smooth shading, which bias correction takes for the
    receive field's and removes; what it does to the contrast of other tissues to white matter stays. Remains have no
    mean over the slab, as those of a whole head have none over the brain after bias correction and calibration: else a
    network would learn to distrust the mean of a slice, which is all that it sees of a person. Their size differs
    from batch to batch down to less than preprocessing leaves: a network that expects more of them takes what differs
    smoothly within white matter for a field.
    """
    people = people or random_population(rng, next(iter(nominal.values())).field_strength)
    device = slab.solid.device
    head = _Head.of(slab, people)
    places, spacing, native = _slices(nominal, slab.resolution, rng, slices)
    over_grid = torch.from_numpy(_boxes(places, spacing)).to(device)
    depth, height, width = slab.solid.shape[1:]
    brain = (slab.fractions.sum(dim=0) > 0.5).to(torch.float32)
    of_transmit, of_all, of_each = (
        math.exp(float(rng.uniform(*logs))) for logs in (TRANSMIT, COMMON_REMAINS, OWN_REMAINS)
    )
    smooth = _smooth_field(rng, (depth, height, width), of_transmit, device)
    transmit = 1 + float(rng.uniform(*MEAN_TRANSMIT)) + _centred(smooth, brain)
    common = _smooth_field(rng, (len(places), height, width), of_all, device)
    errors, expected = _calibration(slab, people, nominal, as_run, rng)
    physics = estimator(nominal, expected=expected)
    fractions = _through(over_grid, slab.fractions)
    mask = (fractions.sum(dim=0) > 0.5).to(torch.float32)
    planes = []
    for contrast in physics.contrasts:
        weights = torch.from_numpy(native[contrast]).to(device)
        seen = _blurred(_seen(head, as_run[contrast], weights, transmit, rng), rng)
        own = _smooth_field(rng, (len(places), height, width), of_each, device)
        field = torch.exp(_centred(common + own, mask))
        sigma = 1 / float(rng.uniform(25, 80))
        drawn = rng.standard_normal((2, *seen.shape), dtype=np.float32)
        noise = torch.from_numpy(drawn).to(device) * sigma
        planes.append(torch.hypot(seen * field * math.exp(-errors[contrast]) + noise[0], noise[1]) * mask)
    reference = torch.tensor(physics.white_matter, device=device)[:, None, None, None]
    truth = torch.log(_mixed(head.maps, lambda each: _through(over_grid, each)).clamp_min(1e-3) / reference) * mask
    classes = torch.stack([slab.labels == (*CLASSES, ISLAND).index(region) + 1 for region in TRAINING_REGIONS])
    classes = classes.to(torch.float32)
    regions = (_through(over_grid, classes) >= REGION_SHARE) & (fractions.amax(dim=0) >= REGION_PURITY)
    return Batch(
        relative=torch.stack(planes, dim=1).to(torch.float32),
        mask=mask,
        weight=mask * torch.where(fractions.amax(dim=0) > PURE, 1.0, MIXED_WEIGHT),
        truth=truth.permute(1, 0, 2, 3).contiguous(),
        regions=(regions & (mask > 0)).permute(1, 0, 2, 3).to(torch.float32),
        nominal=nominal,
        physics=physics,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """The person of a slab as one of some people."""

    people: TrainingPopulation
    solid: Tensor
    """T1, T2, PD of what is not CSF; shape (3, plane, y, x)."""
    fluid: tuple[float, float, float]
    fluid_share: Tensor
    kinds: Tensor
    """From `solid_kinds`."""

    @classmethod
    def of(cls, slab: Slab, people: TrainingPopulation) -> _Head:
        kinds = solid_kinds(slab.fractions, slab.labels)
        solid = people.solid(slab.solid, kinds)
        fluid = people.person(slab.tissues["CSF"], "CSF")
        return cls(people=people, solid=solid, fluid=fluid, fluid_share=slab.fractions[0], kinds=kinds)

    @property
    def maps(self) -> Tensor:
        """T1, T2, PD of everything: PD adds up, rates are averaged by PD; shape (3, plane, y, x)."""
        t1, t2, pd = self.solid.unbind(0)
        fluid = self.fluid_share * self.fluid[2]
        both = (pd + fluid).clamp_min(1e-6)
        rates = [(pd / own + fluid / of_fluid) / both for own, of_fluid in zip((t1, t2), self.fluid[:2], strict=True)]
        return torch.stack([1 / rates[0].clamp(0.15, 20.0), 1 / rates[1].clamp(0.3, 300.0), pd + fluid])


def _seen(head: _Head, acquisition: Acquisition, weights: Tensor, transmit: Tensor, rng: np.random.Generator) -> Tensor:
    """Signal of each slice over that of white matter at its place, by the planes' weights; shape (slice, y, x)."""
    used = weights.any(dim=0).nonzero()[:, 0]
    planes = slice(int(used[0]), int(used[-1]) + 1)
    t1, t2, pd = head.solid[:, planes].unbind(0)
    csf_t1, csf_t2, csf_pd = (torch.tensor(value, device=weights.device) for value in head.fluid)
    angle = transmit[planes]
    grey, fluid = (math.exp(float(rng.uniform(*logs))) * float(rng.standard_normal()) for logs in CONTRAST_ERRORS)
    nuclei = grey * float(rng.uniform(*NUCLEI_ERROR))
    changed = torch.exp(grey * head.kinds[1, planes] + nuclei * head.kinds[2, planes])
    solid = fast_signal(acquisition, pd, t1, t2, transmit_scale=angle) * changed
    liquid = fast_signal(acquisition, csf_pd, csf_t1, csf_t2, transmit_scale=angle) * math.exp(fluid)
    signal = solid + head.fluid_share[planes] * liquid
    signal = signal / _white_matter(acquisition, head.people.usual("WM"), angle)
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
    """Spreads of the scales of a group, drawn between `SCALE_SPREADS`; in some groups any scale."""
    own, common = rng.uniform(*SCALE_SPREADS, len(contrasts)), rng.uniform(*SCALE_SPREADS)
    if rng.random() < ANY_SCALE_SHARE:
        own = np.full(len(contrasts), math.log(ANY_SCALE))
    return Spreads(own=dict(zip(contrasts, np.exp(own).tolist(), strict=True)), common=math.exp(common))


def _calibration(
    slab: Slab, people: TrainingPopulation, nominal: Protocol, as_run: Protocol, rng: np.random.Generator
) -> tuple[dict[Contrast, float], Expectation]:
    """Log of the estimated over the true scale of a session, by contrast, and what is told of its tissues.

    The group's scales are those at which its people's white matter has the signals of what is told of it. The session's
    deviations and those of its person are told apart as far as the model of `qmri_core.calibration.session_model` can.
    """
    session_transmit = 1 + 0.02 * float(rng.standard_normal())
    spreads = random_spreads(nominal, rng)
    shared = spreads.common * float(rng.standard_normal())
    true = {contrast: shared + spread * float(rng.standard_normal()) for contrast, spread in spreads.own.items()}
    deviations = []
    for contrast, tissue in observations(nominal):
        own = _tissue_signal(as_run[contrast], people.person(slab.tissues[tissue], tissue), session_transmit)
        usual = _tissue_signal(as_run[contrast], people.usual(tissue), 1.0)
        noise = measurement_error(contrast, tissue) * float(rng.standard_normal())
        deviations.append(float((own / usual).abs().log()) + true[contrast] + noise)
    told = told_of(people, rng)
    level, level_sd = levels_of(told)
    signals = np.asarray(deviations)
    known = person(signals, nominal, spreads, n_people=MANY, level=level, level_sd=level_sd)
    expected = expected_of(told, known, GROUP_ERROR)
    shifts = posterior(signals[None], nominal, spreads).shifts[0]
    white = replace(people, levels=told).usual("WM"), replace(people, levels=expected).usual("WM")
    errors = {}
    for contrast, shift in zip(nominal, shifts, strict=True):
        of_group = GROUP_ERROR * float(rng.standard_normal())
        of_person = _log_signal(nominal[contrast], white[1]) - _log_signal(nominal[contrast], white[0])
        errors[contrast] = float(shift) - true[contrast] + of_group + of_person
    return errors, expected


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
    """Random low-order polynomial over the slab and a wave, with about ``amplitude`` standard deviation together."""
    n, height, width = shape
    y = torch.linspace(-1, 1, height, device=device)[:, None]
    x = torch.linspace(-1, 1, width, device=device)[None, :]
    z = torch.linspace(-0.3, 0.3, n, device=device)[:, None, None]
    weights: NDArray[np.float64] = rng.standard_normal(6) * amplitude
    a = [float(w) for w in weights]
    plane = a[0] * x + a[1] * y + a[2] * (x * y) + a[3] * (x.square() - 0.33) + a[4] * (y.square() - 0.33)
    turn, phase = (float(value) for value in rng.uniform(0, 2 * math.pi, 2))
    pace = float(rng.uniform(1.0, 4.0))  # radians over half of the slab
    wave = torch.cos(pace * (math.cos(turn) * x + math.sin(turn) * y) + phase)
    return 0.9 * plane[None] + float(0.6 * amplitude * rng.standard_normal()) * wave[None] + a[5] * z
