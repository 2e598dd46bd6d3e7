"""CSF, grey and white matter from the three weighted images, never from the maps that they will be used to judge."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qmri_core.series.acquisition import Contrast

N_FIT = 20_000
"""Largest number of voxels to which the mixture is fitted."""
_AT_A_TIME = 200_000
"""Voxels whose probabilities are computed together: of all at once there are many copies."""
WHITE_OVER_GREY = {Contrast.T1W: 1.0, Contrast.T2W: -1.0, Contrast.FLAIR: -1.0}
FLUID_OVER_BRAIN = {Contrast.T1W: -1.0, Contrast.T2W: 1.0, Contrast.FLAIR: -0.5}
WRONG_WAY = 0.05
"""Log of white over grey matter against the sign of a contrast. Seen: 0.10 to 0.34 where mixed voxels were a component
of the mixture, at most 0.05 (FLAIR) where tissues were."""
MIXED_SHARE = 0.15
"""Share of the parenchyma, that nearest to fluid, from which a component of mixed voxels starts."""
DARK = 0.2
"""Share of the median signal below which a voxel is dark, however dark. The log of nulled fluid (T1-FLAIR, FLAIR) has
no bound: the darkest of it set a threshold that most fluid did not reach."""
SMOOTHING = 0.6
"""Standard deviation in voxels of the smoothing of posterior probabilities; suppresses single noisy voxels."""


class TissueError(ValueError):
    """The mask holds too little to tell tissues apart."""


def segment(images: dict[Contrast, NDArray[np.float32]], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Three-class segmentation from the log intensities of the contrasts present, in two steps.

    Fluid is told from parenchyma by what sets it apart most (T2w over T1w); grey from white matter by a two-component
    Gaussian mixture with one covariance, over the parenchyma without its outliers (lesions, vessels, partial volume
    with fluid), named by the sign that each contrast has at every clinical setting. Where a contrast has the other
    sign, the components are brain and mixed voxels (much fluid, thick slices): then mixed ones get a third.

    Parameters
    ----------
    images
        Bias-corrected images, shape (z, y, x), NaN where not acquired.
    mask
        Brain mask of the same shape.

    Returns
    -------
    ndarray
        uint8: 0 outside, 1 CSF, 2 grey matter, 3 white matter. Lesions of white matter may come out as grey matter.

    Raises
    ------
    TissueError
        If fewer than 2,000 voxels have all contrasts.
    """
    inside = mask > 0
    for image in images.values():
        inside &= np.isfinite(image)
    n_voxels = int(inside.sum())
    if n_voxels < 2_000:
        raise TissueError(f"only {n_voxels} voxels of the brain mask have all contrasts; at least 2000 are needed")
    names = list(images)
    features = np.stack([_log_ratio(image[inside]) for image in images.values()], axis=1)
    fluid = _fluid_probability(features, names)
    parenchyma = fluid < 0.05
    spread = _half_width(features[parenchyma])
    signs = np.asarray([WHITE_OVER_GREY[contrast] for contrast in names])
    usual = parenchyma & np.all(np.abs(features) < 3 * spread, axis=1)
    rng = np.random.default_rng(0)
    candidates = np.flatnonzero(usual)
    sample = features[rng.choice(candidates, size=min(N_FIT, candidates.size), replace=False)]
    white, separation = _white_probability(features, sample, signs / spread)
    if np.any(separation * signs < -WRONG_WAY):
        towards_fluid = sample @ np.asarray([FLUID_OVER_BRAIN[contrast] for contrast in names])
        is_mixed = towards_fluid > np.quantile(towards_fluid, 1 - MIXED_SHARE)
        white, _ = _white_probability(features, sample, signs / spread, is_mixed)
    tissue = np.zeros(mask.shape, dtype=np.uint8)
    box = ndimage.find_objects(inside.astype(np.uint8))[0]  # beyond, probabilities are zero as outside of the array
    where = inside[box]
    most, labels = _smoothed(fluid, where), where.astype(np.uint8)
    for label, share in ((2, 1 - white), (3, white)):
        values = _smoothed((1 - fluid) * share, where)
        labels[where & (values > most)] = label
        np.maximum(most, values, out=most)
    tissue[box] = labels
    return tissue


def _smoothed(probability: NDArray[np.float64], where: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Probabilities of the voxels ``where``, in their places and smoothed; zero around."""
    values = np.zeros(where.shape, dtype=np.float32)
    values[where] = probability
    return np.asarray(ndimage.gaussian_filter(values, SMOOTHING, mode="constant"))


def _white_probability(
    features: NDArray[np.float64],
    chosen: NDArray[np.float64],
    towards_white: NDArray[np.float64],
    is_mixed: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probability of white over grey matter, shape (voxel,), and what the features of white have over those of grey.

    Parameters
    ----------
    chosen
        Features to fit, shape (n, contrast).
    towards_white
        Weights of the features, shape (contrast,).
    is_mixed
        Of those chosen, where a third component starts; ``None`` for two.
    """
    from sklearn.mixture import GaussianMixture  # takes a second to import

    pure = chosen if is_mixed is None else chosen[~is_mixed]
    brightness = pure @ towards_white
    is_white = brightness > np.median(brightness)
    starts = [pure[~is_white].mean(axis=0), pure[is_white].mean(axis=0)]
    if is_mixed is not None:
        starts.append(chosen[is_mixed].mean(axis=0))
    mixture = GaussianMixture(
        len(starts), covariance_type="tied", means_init=np.stack(starts), reg_covar=1e-4, random_state=0
    )
    mixture.fit(chosen)
    white, grey = np.argsort(mixture.means_[:2] @ towards_white)[::-1]  # the third stays that of mixed voxels
    parts = np.array_split(features, 1 + len(features) // _AT_A_TIME)
    probabilities = np.concatenate([mixture.predict_proba(part) for part in parts])
    share = probabilities[:, white] / np.maximum(probabilities[:, white] + probabilities[:, grey], np.finfo(float).tiny)
    return share, mixture.means_[white] - mixture.means_[grey]


def _log_ratio(values: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = values.astype(np.float64)
    return np.asarray(np.log(np.maximum(wide / np.median(wide), DARK)), dtype=np.float64)


def _half_width(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviation of each column, by the central nine tenths: the lesser tissue is no outlier, lesions are."""
    low, high = np.quantile(features, [0.05, 0.95], axis=0)
    return np.asarray((high - low) / 3.29 + 1e-6, dtype=np.float64)


def _fluid_probability(features: NDArray[np.float64], names: list[Contrast]) -> NDArray[np.float64]:
    """Soft threshold half-way between the parenchyma's mode and fluid on the axis bright T2w, dark T1w and FLAIR."""
    signs = np.asarray([FLUID_OVER_BRAIN[contrast] for contrast in names])
    axis = features @ signs
    far = float(np.quantile(axis, 0.99))
    half_way = (float(np.median(axis)) + far) / 2
    parenchyma = axis[axis < half_way]  # much fluid shifts quantiles of all voxels
    middle = float(np.median(parenchyma))
    threshold = max(half_way, middle + 1.2 * (middle - float(np.quantile(parenchyma, 0.16))))
    width = max((far - threshold) / 4, 1e-3)
    return np.asarray(1 / (1 + np.exp(-np.clip((axis - threshold) / width, -30, 30))), dtype=np.float64)


def core(tissue: NDArray[np.uint8], label: int) -> NDArray[np.bool_]:
    """Voxels of a tissue whose six neighbours are of the same tissue: little partial volume."""
    return eroded(tissue == label)


def eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels of a mask (z, y, x) whose six neighbours are all of it; none at the array's ends.

    As ``scipy.ndimage.binary_erosion``, in a sixth of its time.
    """
    result = np.zeros_like(mask)
    inner = result[1:-1, 1:-1, 1:-1]
    inner |= mask[1:-1, 1:-1, 1:-1]
    for axis in range(3):
        for beside in (slice(None, -2), slice(2, None)):
            place = [slice(1, -1)] * 3
            place[axis] = beside
            inner &= mask[tuple(place)]
    return result
