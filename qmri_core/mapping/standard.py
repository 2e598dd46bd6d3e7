"""Signals and maps of a session whose tissues are expected beside the population's, as the population would have them.

What estimates maps, polynomial or network, is drawn to the population that it was made from, in each protocol by
another share. So it is given a session as if its tissues were the population's: the signals of every voxel are moved by
what the expected difference does to those of the tissues that the voxel may be of, and its maps are moved back by that
difference. A session that is as expected comes out as expected, whatever the share; what is drawn is only how it
differs from that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmri_core.calibration.expectation import KINDS, UNTOLD, Expectation, moved_tissue
from qmri_core.calibration.population import Population, pd_relation
from qmri_core.tissues import SIMULATED, SIMULATED_OVER_3T


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A tissue that a voxel may be of: reference T1 [s], T2 [s] and PD, how wide it is taken for, and how likely.

    ``levels`` are shares of `KINDS` by whose levels it moves.
    """

    tissue: tuple[float, float, float]
    wide: tuple[float, float]
    share: float
    levels: tuple[float, float, float, float]


DEEP_NUCLEI = ("thalamus", "caudate", "putamen", "pallidum")
SHARES = {"WM": 0.30, "GM": 0.30, "nuclei": 0.06, "lesion": 0.06, "CSF": 0.10}
"""Of voxels, by kind of tissue, for each of the places of the kind; chosen."""
N_SAMPLES = 400
"""Random voxels of each place."""
NOISE, TRANSMIT_SD = 0.015, 0.05
"""Standard deviations of the signals of such voxels over white matter's, and of their transmit scale; assumed."""
LEAST_SD = 0.03
"""Least standard deviation of compressed signals of a place, by what a voxel is told apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standard:
    """Between the compressed signals and log maps of a session and those of the population, in the same protocol."""

    centres: NDArray[np.float64]
    """Compressed signals of the tissues that are expected, shape (place, contrast)."""
    whitening: NDArray[np.float64]
    """Of the deviations from them, shape (place, contrast, contrast)."""
    log_weights: NDArray[np.float64]
    """Log of each place's share over the root of its determinant, shape (place,)."""
    signals: NDArray[np.float64]
    """What the expected difference does to compressed signals, shape (place, contrast)."""
    maps: NDArray[np.float64]
    """What it does to log maps over white matter, shape (place, 3)."""

    def moved(self, *, signals: NDArray[np.float64], maps: NDArray[np.float64]) -> Standard:
        """For a session whose tissues differ as ``signals`` and ``maps`` say."""
        return replace(self, centres=self.centres + signals, signals=signals, maps=maps)

    def __call__(self, compressed: Tensor) -> tuple[Tensor, Tensor]:
        """Signals as the population would have them, and what is added to log maps that are estimated from them.

        Parameters
        ----------
        compressed
            Shape (..., contrast, y, x), from `qmri_core.mapping.voxelwise.compress`.

        Returns
        -------
        tuple of Tensor
            Shapes (..., contrast, y, x) and (..., 3, y, x).
        """
        if not self.maps.any() and not self.signals.any():
            return compressed, compressed.new_zeros((*compressed.shape[:-3], 3, *compressed.shape[-2:]))
        shares = self.shares(compressed)
        signals, maps = (torch.from_numpy(each.T.copy()).to(compressed) for each in (self.signals, self.maps))
        shape = compressed.shape[-2:]
        moved, back = (
            (each @ shares.flatten(-2)).reshape(*shares.shape[:-3], len(each), *shape) for each in (signals, maps)
        )
        return compressed - moved, back

    def shares(self, compressed: Tensor) -> Tensor:
        """How likely each voxel is of each place, shape (..., place, y, x)."""
        planes = []
        for centre, whitening, weight in zip(self.centres, self.whitening, self.log_weights, strict=True):
            offset = compressed - torch.from_numpy(centre).to(compressed)[:, None, None]
            white = torch.from_numpy(whitening).to(compressed) @ offset.flatten(-2)
            distance = white.square().sum(dim=-2).reshape(*compressed.shape[:-3], *compressed.shape[-2:])
            planes.append(float(weight) - 0.5 * distance)
        return torch.stack(planes, dim=-3).softmax(dim=-3)


def places_of(values: Population) -> tuple[Place, ...]:
    """White and grey matter, nuclei, lesions and fluid of a field strength."""
    wm, gm, csf = values.white_matter, values.grey_matter, values.csf
    a, b = pd_relation(values)
    over_3t = SIMULATED_OVER_3T.get(values.field_strength, {}).get("nuclei")
    longer = over_3t or (1.0, 1.0)
    nuclei = []
    for name in DEEP_NUCLEI:
        t1, t2 = (
            SIMULATED[name][quantity].value * factor for quantity, factor in zip(("t1", "t2"), longer, strict=True)
        )
        nuclei.append(((t1, t2, 1 / (a + b / t1)), (0.07, 0.09), SHARES["nuclei"], (0.0, 0.0, 1.0, 0.0)))
    t1 = 1.2 * gm.t1
    rows = [
        ((wm.t1, wm.t2, wm.pd), (0.08, 0.08), SHARES["WM"], (1.0, 0.0, 0.0, 0.0)),
        ((gm.t1, gm.t2, gm.pd), (0.09, 0.09), SHARES["GM"], (0.0, 1.0, 0.0, 0.0)),
        *nuclei,
        ((t1, 1.9 * wm.t2, 1 / (a + b / t1)), (0.20, 0.25), SHARES["lesion"], (0.5, 0.5, 0.0, 0.0)),
        ((csf.t1, csf.t2, csf.pd), (0.08, 0.20), SHARES["CSF"], (0.0, 0.0, 0.0, 1.0)),
    ]
    return tuple(Place(tissue=tissue, wide=wide, share=share, levels=levels) for tissue, wide, share, levels in rows)


def standard_of(
    values: Population, compressed: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
) -> Standard:
    """Of the population itself.

    Parameters
    ----------
    values
        Of the field strength.
    compressed
        Compressed signals, shape (voxel, contrast), of T1 [s], T2 [s] and PD, shape (voxel, 3), and transmit scales,
        shape (voxel,).
    """
    rng = np.random.default_rng(2)
    centres, whitening, weights = [], [], []
    for place in places_of(values):
        wide = np.exp(np.asarray([*place.wide, 0.02]) * rng.standard_normal((N_SAMPLES, 3)))
        scales = np.clip(1 + TRANSMIT_SD * rng.standard_normal(N_SAMPLES), 0.75, 1.25)
        signals = compressed(np.asarray(place.tissue) * wide, scales)
        signals = signals + NOISE * rng.standard_normal(signals.shape)
        covariance = np.cov(signals, rowvar=False) + LEAST_SD**2 * np.eye(signals.shape[1])
        root = np.linalg.cholesky(np.linalg.inv(covariance))
        centres.append(compressed(np.asarray([place.tissue]), np.ones(1))[0])
        whitening.append(root.T)
        weights.append(math.log(place.share) + np.log(np.diag(root)).sum())
    return Standard(
        centres=np.stack(centres),
        whitening=np.stack(whitening),
        log_weights=np.asarray(weights),
        signals=np.zeros_like(np.stack(centres)),
        maps=np.zeros((len(centres), 3)),
    )


def tissues_of(values: Population, expected: Expectation = UNTOLD) -> NDArray[np.float64]:
    """T1 [s], T2 [s] and PD of `places_of`, moved as is expected; shape (place, 3)."""
    levels = np.asarray([expected.of(kind) for kind in KINDS])
    rows = []
    for place in places_of(values):
        kind = "CSF" if place.levels[-1] else "GM"
        shift = np.asarray(place.levels) @ levels
        rows.append(moved_tissue(values, place.tissue, kind, (float(shift[0]), float(shift[1]), float(shift[2]))))
    return np.asarray(rows)
