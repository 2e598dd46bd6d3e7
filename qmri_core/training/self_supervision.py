"""Self-supervised training on stored images: maps are worth what they say about the images and what tissue can be.

The network's maps with their stated uncertainty are a distribution over the maps of each voxel. Its evidence lower
bound (Kingma and Welling 2014, arXiv 1312.6114, eq. 3) needs no truth: the expected likelihood of the calibrated
signals, the prior of `log_prior`, and the distribution's own entropy. Re-synthesis alone would follow the noise along
what the protocol does not determine; here the prior holds the maps there, and the entropy keeps the uncertainty as wide
as the images leave it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qmri_core.calibration.expectation import Expectation
from qmri_core.calibration.population import (
    FLUID_SCATTER,
    PD_SCATTER,
    Cloud,
    Population,
    pd_relation,
    population,
    tissue_clouds,
)
from qmri_core.calibration.session_model import PersonLevels
from qmri_core.mapping.inference import relative_signals, run_network
from qmri_core.mapping.network import MULTIPLE
from qmri_core.mapping.voxelwise import VoxelwiseEstimator, estimator
from qmri_core.series.acquisition import Acquisition, Contrast
from qmri_core.series.geometry import extent_in_plane, inside_of
from qmri_core.training.loop import Loss

NOISE = 0.02
"""Standard deviation of a signal relative to white matter, in addition to the relative error."""
RELATIVE_ERROR = 0.04
"""Standard deviation of a signal over its size, by the transmit field, remains of the receive field and the model;
assumed."""
_FREEDOM = 4.0
"""Degrees of freedom of the likelihood (Lange, Little and Taylor 1989, J Am Stat Assoc 84:881): vessels, and what the
mask holds of bone, are no tissue, and by a normal one few such voxels outweighed all others of a session."""
_T_PEAK = math.lgamma((_FREEDOM + 1) / 2) - math.lgamma(_FREEDOM / 2) - 0.5 * math.log(_FREEDOM * math.pi)
_BOUNDS = (-3.0, 3.5)
"""Lowest and highest log of a drawn map over the reference white matter."""
_ANYTHING = 1e-3
"""Share of the prior that is spread evenly within the bounds."""
LEAST_BRAIN = 500
"""Number of voxels of brain that a slice needs to be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Calibrated slices of one stored session."""

    relative: Tensor
    """Signals relative to the reference white matter, shape (slice, contrast, y, x), 0 outside the mask."""
    mask: Tensor
    """Shape (slice, y, x)."""
    expected: Expectation
    """What calibration tells of the session's tissues."""
    acquisitions: Mapping[Contrast, Acquisition]


def calibrated_slices(
    images: Mapping[Contrast, NDArray[np.float32]],
    mask: NDArray[np.uint8],
    acquisitions: Mapping[Contrast, Acquisition],
    scales: Mapping[Contrast, float],
    person: PersonLevels,
    *,
    n: int,
    rng: np.random.Generator,
) -> Images | None:
    """Up to ``n`` random slices of a session, cut to the brain in plane; ``None`` if no slice holds enough brain.

    Parameters
    ----------
    images, mask
        Aligned images in arbitrary unit and the brain mask, shape (z, y, x).
    acquisitions, scales
        Of the contrasts in ``images``; image units per unit of proton density and signal.
    person
        From `qmri_core.calibration.scales.session_person`.
    """
    inside = inside_of(images.values(), mask)
    useful = np.flatnonzero(inside.sum(axis=(1, 2)) >= LEAST_BRAIN)
    if not useful.size:
        return None
    indices = np.sort(rng.permutation(useful)[:n])
    rows, columns = extent_in_plane(inside)
    physics = estimator(acquisitions, expected=person.expectation)
    where = inside[indices, rows, columns]
    planes = [
        np.where(where, images[contrast][indices, rows, columns] / unit, 0).astype(np.float32)
        for contrast, unit in zip(physics.contrasts, physics.units(scales), strict=True)
    ]
    return Images(
        relative=torch.from_numpy(np.stack(planes, axis=1)),
        mask=torch.from_numpy(where.astype(np.float32)),
        expected=person.expectation,
        acquisitions=dict(acquisitions),
    )


def evidence(
    log_maps: Tensor,
    log_sd: Tensor,
    relative: Tensor,
    mask: Tensor,
    acquisitions: Mapping[Contrast, Acquisition],
    physics: VoxelwiseEstimator,
    drawn: Tensor,
) -> Tensor:
    """Negative evidence lower bound in nat per voxel and map, from one draw of the maps.

    Parameters
    ----------
    log_maps, log_sd
        What the network says, shape (slice, 3, y, x): log T1, T2, PD over the reference white matter.
    relative, mask
        As in `Images`.
    drawn
        Standard normal numbers of the maps' shape.
    """
    sample = (log_maps + log_sd.exp() * drawn).clamp(*_BOUNDS)
    reference = torch.tensor(physics.white_matter, device=log_maps.device)[:, None, None]
    signal = relative_signals(sample.exp() * reference, acquisitions, physics)
    sd = torch.sqrt(NOISE**2 + (RELATIVE_ERROR * relative).square())
    far = torch.log1p(((signal - relative) / sd).square() / _FREEDOM)
    likelihood = (_T_PEAK - 0.5 * (_FREEDOM + 1) * far - sd.log()).sum(dim=1)
    values = population(next(iter(acquisitions.values())).field_strength)
    wm = values.white_matter
    over = torch.log(reference / torch.tensor([wm.t1, wm.t2, wm.pd], device=log_maps.device)[:, None, None])
    terms = likelihood + log_prior((sample + over).movedim(1, -1), values) + log_sd.sum(dim=1)
    total: Tensor = -(terms * mask).sum() / (3 * mask.sum().clamp_min(1))
    return total


def log_prior(log_maps: Tensor, values: Population) -> Tensor:
    """Log density of log T1, T2 and PD relative to white matter: the clouds of `sample_tissues`.

    Mixed voxels lie between the clouds, where the density is low and not zero; a tenth of it is a cloud as wide as all
    of tissue, so that they cost little, and a thousandth lies anywhere.

    Parameters
    ----------
    log_maps
        Shape (..., 3).
    """
    wm, csf = values.white_matter, values.csf
    t1, t2, pd = log_maps.unbind(-1)
    t1, t2, pd = t1 + math.log(wm.t1), t2 + math.log(wm.t2), pd + math.log(wm.pd)
    a, b = pd_relation(values)
    related = -torch.log(a + b * torch.exp(-t1))
    wide = Cloud(share=0.1, t1=math.sqrt(wm.t1 * csf.t1), t2=math.sqrt(wm.t2 * csf.t2), t1_wide=0.8, t2_wide=1.5)
    terms = []
    for cloud in (*tissue_clouds(values), wide):
        centre = torch.full_like(pd, math.log(csf.pd)) if cloud.is_fluid else related
        scatter = FLUID_SCATTER if cloud.is_fluid else 3 * PD_SCATTER if cloud is wide else PD_SCATTER
        share = cloud.share if cloud is wide else (1 - wide.share - _ANYTHING) * cloud.share
        terms.append(
            math.log(share)
            + _log_normal(t1, math.log(cloud.t1), cloud.t1_wide)
            + _log_normal(t2, math.log(cloud.t2), cloud.t2_wide)
            + _log_normal(pd, centre, scatter)
        )
    anywhere = math.log(_ANYTHING) - 3 * math.log(_BOUNDS[1] - _BOUNDS[0])
    terms.append(torch.full_like(pd, anywhere))
    return torch.logsumexp(torch.stack(terms), dim=0)


def _log_normal(x: Tensor, centre: Tensor | float, sd: float) -> Tensor:
    return -0.5 * ((x - centre) / sd).square() - math.log(sd) - 0.5 * math.log(2 * math.pi)


def image_loss(
    sessions: Sequence[Images], *, seed: int, slices: int, size: int, device: torch.device | str = "cpu",
    precision: torch.dtype = torch.float32,
) -> Loss:  # fmt: skip
    """Loss on random windows of ``size`` voxels of random slices of the sessions.

    Raises
    ------
    ValueError
        Without any session.
    """
    if not sessions:
        raise ValueError("there is no session to train on")

    def loss(network: nn.Module, number: int) -> tuple[Tensor, Mapping[str, float]]:
        rng = np.random.default_rng([seed, 3, number])
        session = sessions[int(rng.integers(len(sessions)))]
        indices = np.sort(rng.permutation(len(session.mask))[:slices])
        window = (slice(None), *(_window(length, size, rng) for length in session.mask.shape[1:]))
        relative = session.relative[indices].to(device)[:, :, window[1], window[2]]
        mask = session.mask[indices].to(device)[window]
        value = _of(network, relative, mask, session.expected, session.acquisitions, rng, precision)
        return value, {"images": value.item()}

    return loss


def image_score(network: nn.Module, sessions: Sequence[Images], *, precision: torch.dtype = torch.float32) -> float:
    """Mean over sessions of `evidence` on all their slices, with the same draws for every network."""
    scores = []
    device = next(network.parameters()).device
    with torch.inference_mode():
        for number, one in enumerate(sessions):
            rng = np.random.default_rng([number, 5])
            both = _padded(one.relative.to(device)), _padded(one.mask.to(device))
            scores.append(float(_of(network, *both, one.expected, one.acquisitions, rng, precision)))
    return float(np.mean(scores))


def mixed_loss(first: Loss, second: Loss, share: float) -> Loss:
    """A loss that takes every batch from one of two, ``share`` of them from the second, evenly spread."""
    return lambda network, number: (second if _is_due(number, share) else first)(network, number)


def _is_due(number: int, share: float) -> bool:
    return int((number + 1) * share) > int(number * share)


def _of(
    network: nn.Module,
    relative: Tensor,
    mask: Tensor,
    expected: Expectation,
    acquisitions: Mapping[Contrast, Acquisition],
    rng: np.random.Generator,
    precision: torch.dtype,
) -> Tensor:
    physics = estimator(acquisitions, expected=expected)
    log_maps, log_sd = run_network(network, relative, mask, physics, precision=precision)
    drawn = torch.from_numpy(rng.standard_normal(tuple(log_maps.shape), dtype=np.float32)).to(log_maps.device)
    return evidence(log_maps, log_sd, relative, mask, acquisitions, physics, drawn)


def _window(length: int, size: int, rng: np.random.Generator) -> slice:
    size = min(size, length) // MULTIPLE * MULTIPLE
    first = int(rng.integers(length - size + 1))
    return slice(first, first + size)


def _padded(planes: Tensor) -> Tensor:
    height, width = planes.shape[-2:]
    return nn.functional.pad(planes, (0, -width % MULTIPLE, 0, -height % MULTIPLE))
