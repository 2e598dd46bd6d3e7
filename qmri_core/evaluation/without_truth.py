"""Maps without a truth: how well they give the images back, and whether what is bright on FLAIR is long in T1 and T2.

Nothing here shows that a map is right. Every scale of an image is free, so images that are given back hold no
information on the absolute level of the maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qmri_core.evaluation.with_truth import MIN_REGION_VOXELS
from qmri_core.physics.synthesis import synthesise
from qmri_core.preprocessing.tissue import core
from qmri_core.series.acquisition import Acquisition
from qmri_core.series.geometry import Affine
from qmri_core.tissues import MAPS, WHITE_MATTER

SIGMA, RADIUS = 1.5, 5
"""Voxels: standard deviation and half-width of the window of the structural similarity."""
K1, K2 = 0.01, 0.03
RANGE = (0.005, 0.995)
"""Quantiles in the brain between which an image counts as its range."""
BRIGHT = 3.0
"""Robust standard deviations above the median of white matter from which a voxel is bright."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resynthesis:
    """One image against the same image synthesised from the maps; NaN where nothing can be compared.

    ``n`` voxels; ``error`` is the median absolute difference relative to the acquired value, over voxels where that is
    positive; ``similarity`` is the mean structural similarity.
    """

    n: int
    error: float
    similarity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionCandidates:
    """White matter that is bright on FLAIR: how much, and its median over that of other white matter, by map.

    ``voxels`` and ``millilitres`` are NaN where there is no FLAIR or no white matter to look in; ``ratios`` with fewer
    than `qmri_core.evaluation.with_truth.MIN_REGION_VOXELS` voxels too.
    """

    voxels: float
    millilitres: float
    ratios: Mapping[str, float]


def resynthesis(
    acquisition: Acquisition,
    image: NDArray[np.float32],
    scale: float,
    maps: Mapping[str, NDArray[np.float32]],
    mask: NDArray[np.bool_],
) -> Resynthesis:
    """Compare an image with the signal that the maps give.

    The signal model is the one behind the maps, so a wrong model that fits goes unseen.

    Parameters
    ----------
    image, scale
        Arbitrary unit, and image units per unit of proton density and signal.
    maps
        ``T1map`` and ``T2map`` in seconds, ``PDmap``; of the image's shape (z, y, x).
    mask
        The brain.
    """
    synthesised = synthesise(acquisition, maps["PDmap"], maps["T1map"], maps["T2map"])
    return image_agreement(synthesised, image / np.float32(scale), mask)


def image_agreement(
    synthesised: NDArray[np.float32], acquired: NDArray[np.float32], mask: NDArray[np.bool_]
) -> Resynthesis:
    """Compare two images of one unit and shape (z, y, x) where the mask is set and both are finite."""
    inside = mask & np.isfinite(synthesised) & np.isfinite(acquired)
    if not inside.any():
        return Resynthesis(n=0, error=float("nan"), similarity=float("nan"))
    x, y = acquired[inside].astype(np.float64), synthesised[inside].astype(np.float64)
    positive = x > 0
    low, high = np.quantile(x, RANGE)
    return Resynthesis(
        n=int(x.size),
        error=float(np.median(np.abs(y[positive] / x[positive] - 1))) if positive.any() else float("nan"),
        similarity=structural_similarity(synthesised, acquired, inside, data_range=float(high - low)),
    )


def structural_similarity(
    first: NDArray[np.float32], second: NDArray[np.float32], inside: NDArray[np.bool_], *, data_range: float
) -> float:
    r"""Mean structural similarity of two images over the voxels inside a mask, with windows in axial slices.

    .. math:: \frac{(2\mu_x\mu_y + C_1)(2\sigma_{xy} + C_2)}{(\mu_x^2 + \mu_y^2 + C_1)(\sigma_x^2 + \sigma_y^2 + C_2)},
        \quad C_i = (K_i L)^2

    with Gaussian windows (11 x 11 voxels, standard deviation 1.5) and the data range L. Weights of a window are shared
    out among its voxels inside the mask, so that nothing outside counts, whatever it holds.

    Parameters
    ----------
    first, second
        Shape (z, y, x), finite inside the mask.
    inside
        Mask of that shape.
    data_range
        L, in the unit of the images.

    Returns
    -------
    float
        1 for equal images; NaN without voxels or range.

    References
    ----------
    Wang et al. 2004, IEEE Trans Image Process 13:600, eq. 13, doi:10.1109/TIP.2003.819861
    """
    if not inside.any() or not data_range > 0:
        return float("nan")
    (box,) = ndimage.find_objects(inside.astype(np.uint8))
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    total = 0.0
    for a, b, where in zip(first[box], second[box], inside[box], strict=True):
        if not where.any():
            continue
        x, y = (np.where(where, plane, 0.0).astype(np.float64) for plane in (a, b))
        weight = _windowed(where.astype(np.float64))[where]
        mean_x, mean_y, xx, yy, xy = (_windowed(plane)[where] / weight for plane in (x, y, x * x, y * y, x * y))
        spread = np.maximum(xx - mean_x**2, 0) + np.maximum(yy - mean_y**2, 0)
        luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        total += float((luminance * (2 * (xy - mean_x * mean_y) + c2) / (spread + c2)).sum())
    return total / int(inside.sum())


def lesion_candidates(
    tissue: NDArray[np.uint8],
    flair: NDArray[np.float32] | None,
    maps: Mapping[str, NDArray[np.float32]],
    affine: Affine,
) -> LesionCandidates:
    """Voxels within white matter whose FLAIR is far above that of the rest, and their maps beside the rest's.

    This is no segmentation of lesions: it shows whether what is bright on FLAIR is long in T1 and T2. Lesions that are
    labelled grey matter are missed, what touches the border of white matter is left out, and of noise alone one voxel
    in a thousand is bright. The maps are made from the same FLAIR, so the ratios are no independent evidence.

    Parameters
    ----------
    tissue
        Labels, shape (z, y, x); white matter is eroded by one voxel.
    flair
        Of that shape, arbitrary unit; None if it was not acquired.
    maps
        By the names of `qmri_core.evaluation.with_truth.MAPS`, of that shape.
    affine
        For the volume of a voxel.
    """
    ratios = dict.fromkeys(MAPS, float("nan"))
    white = core(tissue, WHITE_MATTER)
    for each in maps.values():
        white &= np.isfinite(each)
    if flair is not None:
        white &= np.isfinite(flair)
    if flair is None or not white.any():
        return LesionCandidates(voxels=float("nan"), millilitres=float("nan"), ratios=ratios)
    values = flair[white].astype(np.float64)
    middle = np.median(values)
    is_bright = values > middle + BRIGHT * 1.4826 * np.median(np.abs(values - middle))
    n = int(is_bright.sum())
    if n >= MIN_REGION_VOXELS:
        inside = {name: maps[name][white].astype(np.float64) for name in MAPS}
        ratios = {
            name: float(np.median(each[is_bright]) / np.median(each[~is_bright])) for name, each in inside.items()
        }
    voxel = abs(float(np.linalg.det(affine[:3, :3])))
    return LesionCandidates(voxels=float(n), millilitres=n * voxel / 1000, ratios=ratios)


def _windowed(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(ndimage.gaussian_filter(plane, SIGMA, radius=RADIUS, mode="constant"), dtype=np.float64)
