"""Figures that tell how good the images of a session are, and limits beyond which a session is marked.

A mark takes nothing away: it says where a person should look.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qmri_core.preprocessing.tissue import core
from qmri_core.series.acquisition import Contrast
from qmri_core.series.geometry import Volume, spacing_of
from qmri_core.tissues import GREY_MATTER, WHITE_MATTER

LIMITS: dict[str, tuple[float, float]] = {
    "brain_volume": (0.9, 2.0),
    "coverage": (0.9, 1.2),
    "alignment_residual": (0.0, 1.5),
    "snr": (8.0, math.inf),
    "T1w_contrast": (0.02, math.inf),
    "T2w_contrast": (-math.inf, -0.02),
    "FLAIR_contrast": (-math.inf, -0.01),
    "sharpness": (0.10, math.inf),
    "artefacts": (0.0, 0.02),
}
"""Lowest and highest value that is not marked, by the name of a figure, with or without its contrast."""

AIR_MARGIN = 10.0
"""Millimetres around the head that are not counted as air."""
MIN_AIR = 0.03
"""Share of a volume that must be air for the air to be judged."""
_RAYLEIGH_MEDIAN = math.sqrt(2 * math.log(2))
_RAYLEIGH_TAIL = math.sqrt(2 * math.log(1000))  # one of a thousand noise voxels lies above, in standard deviations


def noise(volume: Volume, inside: NDArray[np.bool_]) -> float:
    """Standard deviation of the noise in a native volume, from diagonal differences of neighbours in its finest plane.

    The median of the finest diagonal wavelet coefficients is hardly moved by anatomy. Where a scanner has interpolated
    the image it is too small, and the signal-to-noise ratio too large.

    Parameters
    ----------
    volume
        Native volume, array of shape (z, y, x).
    inside
        Where to look, same shape.

    Returns
    -------
    float
        In the unit of the volume; NaN where fewer than 100 blocks lie inside.

    References
    ----------
    Donoho and Johnstone 1994, Biometrika 81:425, for the median of wavelet coefficients.
    """
    through = 2 - int(np.argmax(spacing_of(volume.affine)))  # array axis of the thickest direction
    array, within = np.moveaxis(volume.array, through, 0), np.moveaxis(inside, through, 0)
    rows, columns = array.shape[1] // 2 * 2, array.shape[2] // 2 * 2

    def corner(values: NDArray[np.generic], row: int, column: int) -> NDArray[np.generic]:
        return values[:, row:rows:2, column:columns:2]

    whole = np.ones((array.shape[0], rows // 2, columns // 2), dtype=bool)
    detail = np.zeros(whole.shape, dtype=np.float64)
    for row in (0, 1):
        for column in (0, 1):
            whole &= corner(within, row, column).astype(bool)
            detail += (1 if row == column else -1) * corner(array, row, column).astype(np.float64) / 2
    if whole.sum() < 100:
        return math.nan
    return float(np.median(np.abs(detail[whole])) / 0.6745)


def artefacts(volume: Volume, head_signal: float) -> float:
    """Share of the air around the head that holds signal: ghosts of motion and flow, wrapped anatomy, interference.

    Parameters
    ----------
    volume
        Native volume.
    head_signal
        Typical value of the brain.

    Returns
    -------
    float
        Between 0 and 1; NaN where there is too little air, or a scanner or a defacing has filled it with one value.

    References
    ----------
    Mortamet et al. 2009, Magn Reson Med 62:365 (the first quality index).
    """
    steps = [max(1, round(2.0 / spacing)) for spacing in spacing_of(volume.affine)[::-1]]
    array = np.abs(volume.array[:: steps[0], :: steps[1], :: steps[2]])
    spacing = [step * size for step, size in zip(steps, spacing_of(volume.affine)[::-1], strict=True)]
    head = ndimage.binary_opening(ndimage.uniform_filter(array, 3) > 0.15 * head_signal)
    labels, n_parts = ndimage.label(head)
    if n_parts == 0:
        return math.nan
    head = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    air = ndimage.distance_transform_edt(~_filled(head), sampling=spacing) > AIR_MARGIN
    values = array[air]
    if values.size < MIN_AIR * array.size or float((values == np.median(values)).mean()) > 0.3:
        return math.nan
    deviation = float(np.median(values)) / _RAYLEIGH_MEDIAN
    bright = ndimage.binary_opening((array > _RAYLEIGH_TAIL * deviation) & air, ndimage.generate_binary_structure(3, 1))
    return float(bright.sum() / air.sum())


def _filled(head: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Without holes in any plane: sinuses and ears are no air around the head."""
    result = head.copy()
    for axis in range(3):
        for index in range(head.shape[axis]):
            plane = (slice(None),) * axis + (index,)
            result[plane] |= ndimage.binary_fill_holes(head[plane])
    return result


def contrast_of(image: NDArray[np.float32], tissue: NDArray[np.uint8]) -> tuple[float, float, float]:
    """Contrast, and the medians of white and grey matter in the cores of the tissues; NaN where one is missing."""
    white, grey = (_median(image[core(tissue, label)]) for label in (WHITE_MATTER, GREY_MATTER))
    if not math.isfinite(grey):
        grey = _median(image[tissue == GREY_MATTER])
    total = white + grey
    return ((white - grey) / total if total else math.nan), white, grey


def sharpness(
    image: NDArray[np.float32], tissue: NDArray[np.uint8], spacing: tuple[float, float, float], step: float
) -> float:
    """Steepness across the border of white and grey matter, over the difference of the two.

    The slope is taken along the normal of the border and averaged over it, so that noise cancels. Blur by motion,
    thick slices and smoothing make it smaller.

    Parameters
    ----------
    image, tissue
        Arrays of shape (z, y, x) on the group grid.
    spacing
        Millimetres in the order x, y, z.
    step
        White minus grey matter, in the unit of ``image``.

    Returns
    -------
    float
        Per millimetre; NaN where there is no border or no contrast.
    """
    white = tissue == WHITE_MATTER
    border = white & ndimage.binary_dilation(tissue == GREY_MATTER) & np.isfinite(image)
    if border.sum() < 100 or not step:
        return math.nan
    box = ndimage.find_objects(border.astype(np.uint8))[0]
    wide = tuple(slice(max(0, one.start - 3), one.stop + 3) for one in box)
    normal = np.asarray(np.gradient(ndimage.gaussian_filter(white[wide].astype(np.float32), 1.0), *spacing[::-1]))
    slope = np.asarray(np.gradient(image[wide].astype(np.float32), *spacing[::-1]))
    length = np.sqrt((normal**2).sum(axis=0))
    usable = border[wide] & (length > 0) & np.isfinite(slope).all(axis=0)
    along = (slope * normal).sum(axis=0)[usable] / length[usable]
    return float(np.mean(along) / step) if usable.any() else math.nan


def figures_of_contrast(
    native: Volume,
    inside: NDArray[np.bool_],
    image: NDArray[np.float32],
    tissue: NDArray[np.uint8],
    spacing: tuple[float, float, float],
) -> dict[str, float]:
    """Figures of one contrast: ``snr``, ``contrast``, ``sharpness`` and ``artefacts``.

    Parameters
    ----------
    native, inside
        Native volume, and the brain in it.
    image, tissue, spacing
        Bias-corrected image and tissue on the group grid.
    """
    contrast, white, grey = contrast_of(image, tissue)
    deviation = noise(native, inside)
    return {
        "snr": white / deviation if deviation > 0 else math.nan,
        "contrast": contrast,
        "sharpness": sharpness(image, tissue, spacing, white - grey),
        "artefacts": artefacts(native, white),
    }


def marks(figures: Mapping[str, float]) -> tuple[str, ...]:
    """Names of the figures beyond their `LIMITS`, in the order given; a figure that is not known is not marked."""
    marked = []
    for name, value in figures.items():
        prefix, _, rest = name.partition("_")
        low, high = LIMITS.get(name) or LIMITS.get(rest if prefix in set(Contrast) else name, (-math.inf, math.inf))
        if math.isfinite(value) and not low <= value <= high:
            marked.append(name)
    return tuple(marked)


def _median(values: NDArray[np.float32]) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else math.nan
