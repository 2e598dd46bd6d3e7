"""Whether an image of a session is mirrored left to right under a header that does not say so.

A head is nearly symmetric, so that a mirrored image aligns well enough to pass. Mirrored once more about the head's own
plane it fits better, as no image does that is the right way round.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize
from scipy.spatial.transform import Rotation

from qmri_core.preprocessing.alignment import AlignmentError, align
from qmri_core.series.acquisition import Contrast
from qmri_core.series.geometry import Volume

_POINTS = 12_000
"""Largest number of voxels that are compared."""
_BINS = 32
_CLOSE = 0.85
"""Share of the mutual information as it lies from which a mirrored image is moved to where it fits best."""
_BETTER = 1.10
"""Factor by which the mutual information must grow when the image is mirrored."""


def mirrored_contrasts(
    images: Mapping[Contrast, NDArray[np.float32]], inside: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> tuple[Contrast, ...]:
    """Contrasts that fit the rest mirrored, or the two of which one is mirrored where there is no third.

    Parameters
    ----------
    images
        Aligned images, the T1w among them, shape (z, y, x); the last axis runs from left to right.
    inside
        Brain without its rim.
    spacing
        Millimetres in the order x, y, z.
    """
    every = np.argwhere(inside)
    places = every[:: max(1, len(every) // _POINTS)].astype(np.float64)
    steps = np.asarray(spacing[::-1], dtype=np.float64)
    smooth = {c: ndimage.gaussian_filter(np.nan_to_num(image), 0.7) for c, image in images.items()}
    t1w = smooth[Contrast.T1W]
    others = [contrast for contrast in images if contrast is not Contrast.T1W]
    plane = _plane(t1w, places, steps)
    turned = [contrast for contrast in others if _fits_better(t1w, smooth[contrast], places, steps, plane)]
    if not turned:
        return ()
    if len(others) == 1:
        return (Contrast.T1W, others[0])
    return (Contrast.T1W,) if len(turned) == len(others) else tuple(turned)


def fits_mirrored(t1w: Volume, other: Volume, mask: NDArray[np.uint8], margin: float = 0.0) -> bool:
    """Whether a series that does not align with the T1w does so mirrored left to right; see `align`."""
    axis = 2 - int(np.argmax(np.abs(other.affine[0, :3])))
    mirrored = Volume(array=np.ascontiguousarray(np.flip(other.array, axis)), affine=other.affine)
    try:
        align(t1w, mirrored, mask, margin)
    except AlignmentError:
        return False
    return True


def _fits_better(
    t1w: NDArray[np.float32],
    other: NDArray[np.float32],
    places: NDArray[np.float64],
    steps: NDArray[np.float64],
    plane: NDArray[np.float64],
) -> bool:
    fixed = _ranks(_sampled(t1w, places))
    centre = places.mean(axis=0) * steps
    as_it_is = _information(fixed, _sampled(other, places))

    def lost(motion: NDArray[np.float64]) -> float:
        return -_information(fixed, _sampled(other, _reflected(places, steps, centre, plane, motion)))

    start = -lost(np.zeros(6))
    if start < _CLOSE * as_it_is:
        return False
    if start > _BETTER * as_it_is:
        return True
    best = optimize.minimize(lost, np.zeros(6), method="Powell", options={"maxiter": 2, "xtol": 0.1, "ftol": 1e-3})
    return bool(-best.fun > _BETTER * as_it_is)


def _plane(image: NDArray[np.float32], places: NDArray[np.float64], steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """The head's plane of symmetry: shift in mm along x, and rotation about z and y in degrees, from the middle."""
    centre = places.mean(axis=0) * steps
    few = places[::4]
    values = _sampled(image, few)

    def lost(plane: NDArray[np.float64]) -> float:
        return -float(np.corrcoef(values, _sampled(image, _reflected(few, steps, centre, plane, np.zeros(6))))[0, 1])

    starts = [np.array([shift, 0.0, 0.0]) for shift in (-6.0, 0.0, 6.0)]
    start = min(starts, key=lost)
    simplex = start + np.vstack([np.zeros(3), np.diag([3.0, 5.0, 5.0])])
    options = {"initial_simplex": simplex, "maxfev": 80, "xatol": 0.1, "fatol": 1e-4}
    return np.asarray(optimize.minimize(lost, start, method="Nelder-Mead", options=options).x)


def _reflected(
    places: NDArray[np.float64],
    steps: NDArray[np.float64],
    centre: NDArray[np.float64],
    plane: NDArray[np.float64],
    motion: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Voxel places (z, y, x) on the other side of the plane, then moved by mm and degrees."""
    shift, about_z, about_y = plane
    normal = Rotation.from_euler("zy", [about_z, about_y], degrees=True).apply([1.0, 0.0, 0.0])[::-1]
    offset = places * steps - centre
    offset = offset - 2 * np.outer(offset @ normal - shift, normal)
    turned = Rotation.from_euler("xyz", motion[3:], degrees=True).as_matrix()
    return np.asarray((offset @ turned.T + motion[:3] + centre) / steps)


def _sampled(image: NDArray[np.float32], places: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(ndimage.map_coordinates(image, places.T, order=1, mode="nearest"), dtype=np.float64)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.intp]:
    """Bins between the quantiles of 1 and 99 per cent."""
    low, high = np.quantile(values, [0.01, 0.99])
    bins = ((values - low) / max(high - low, 1e-12) * _BINS).astype(np.intp)
    return np.asarray(np.clip(bins, 0, _BINS - 1), dtype=np.intp)


def _information(fixed: NDArray[np.intp], moving: NDArray[np.float64]) -> float:
    """Mutual information in nats."""
    joint = np.bincount(fixed * _BINS + _ranks(moving), minlength=_BINS**2).reshape(_BINS, _BINS) / fixed.size
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    filled = joint > 0
    return float((joint[filled] * np.log(joint[filled] / apart[filled])).sum())
