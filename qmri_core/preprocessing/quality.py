"""Figures that tell how good the images of a session are, and limits beyond which a session is marked.

A mark takes nothing away: it says where a person should look.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from qmri_core.preprocessing.distances import grown
from qmri_core.preprocessing.tissue import core
from qmri_core.series.acquisition import Contrast
from qmri_core.series.geometry import Volume, coarser, spacing_of
from qmri_core.tissues import GREY_MATTER, WHITE_MATTER

LIMITS: dict[str, tuple[float, float]] = {
    "brain_volume": (0.9, 2.0),
    "coverage": (0.97, 1.2),
    "alignment_residual": (0.0, 1.5),
    "snr": (8.0, math.inf),
    "T1w_contrast": (0.02, math.inf),
    "T2w_contrast": (-math.inf, -0.02),
    "FLAIR_contrast": (-math.inf, -0.01),
    "sharpness": (0.10, math.inf),
    "artefacts": (0.0, 0.02),
    "ghosts": (0.0, 0.10),
}
"""Lowest and highest value that is not marked, by the name of a figure, with or without its contrast."""

AIR_MARGIN = 10.0
"""Millimetres around the head that are not counted as air."""
MIN_AIR = 0.03
"""Share of a volume that must be air for the air to be judged."""
SATURATED_SHARE = 0.005
"""Share of the brain at exactly the largest value of an image from which on it counts as saturated. An image that was
not clipped reaches it in some voxels of fat or vessels; one of 8 bit in as many of fluid as fall into a level."""
USUAL_GHOSTS = 0.07
"""Repetition that anatomy alone shows: at most 0.069 in 60 simulated series of 16 protocols without ghosts, and
0.067 with k-space cut to 0.6. Copies of 12 and 8 % of the signal beside 80 % give 0.09 to 0.14, of 24 and 16 % 0.19 to
0.33, one of 10 % half a field of view away 0.21, motion of 6 mm to and fro 0.10 to 0.18."""
_WORKING_SPACING = 2.0
"""Millimetres to which finer voxels are averaged where ghosts and focus are judged: what an interpolation added is
gone, and a volume takes a second."""
_NEAREST_GHOST = 1 / 16
"""Share of the field of view from which on a repetition is a ghost; nearer ones are the width of skull and cortex."""
_FEWEST_LINES = 40
"""Samples along an axis below which a repetition along it is not told from anatomy."""
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
    planes = zip(np.moveaxis(volume.array, through, 0), np.moveaxis(inside, through, 0), strict=True)
    details = np.concatenate([_details(plane, within) for plane, within in planes])
    return float(np.median(np.abs(details)) / 0.6745) if details.size >= 100 else math.nan


def _details(plane: NDArray[np.float32], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Finest diagonal wavelet coefficients of the blocks of 2 x 2 pixels of a plane that lie inside."""
    rows, columns = (size // 2 * 2 for size in plane.shape)
    corners = [np.s_[row:rows:2, column:columns:2] for row in (0, 1) for column in (0, 1)]
    whole = np.logical_and.reduce([inside[corner] for corner in corners])
    detail = np.zeros(int(whole.sum()), dtype=np.float64)
    for corner, sign in zip(corners, (1, -1, -1, 1), strict=True):
        detail += sign * plane[corner][whole].astype(np.float64) / 2
    return detail


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
    air = ~grown(_filled(head), tuple(spacing), AIR_MARGIN)
    values = array[air]
    if values.size < MIN_AIR * array.size or float((values == np.median(values)).mean()) > 0.3:
        return math.nan
    deviation = float(np.median(values)) / _RAYLEIGH_MEDIAN
    bright = ndimage.binary_opening((array > _RAYLEIGH_TAIL * deviation) & air, ndimage.generate_binary_structure(3, 1))
    return float(bright.sum() / air.sum())


def ghosts(volume: Volume) -> float:
    """Strength of the strongest copy of the head that lies shifted along a voxel axis, inside the head or beside it.

    A copy of relative amplitude r at a distance d makes the log of the power spectrum ripple by 2 r cos(2 pi k d)
    along the axis of the shift, whatever the image is: the ripple is found as a peak of the spectrum of that log
    (power cepstrum), averaged over the other two axes. Only fine axes are searched; phase is never encoded along the
    slices of a 2D series. Copies nearer than a sixteenth of the field of view are not told from anatomy.

    Parameters
    ----------
    volume
        Native volume.

    Returns
    -------
    float
        Amplitude relative to the head, about 0 to 0.5; NaN where no axis has enough voxels.

    References
    ----------
    Bogert, Healy and Tukey 1963, The quefrency alanysis of time series for echoes, in: Proc Symp Time Series Analysis,
    209-243, for the cepstrum.
    """
    array, spacing = _coarser(volume)
    power = np.abs(fft.fftn(array)) ** 2
    log_power = np.log(power + 1e-3 * float(np.median(power)) + np.finfo(np.float32).tiny)
    frequencies = [np.abs(np.fft.fftfreq(size)) for size in array.shape]
    fine = [axis for axis in range(3) if spacing[axis] < 1.3 * min(spacing) and array.shape[axis] >= _FEWEST_LINES]
    strongest = math.nan
    for axis in fine:
        first, second = (frequencies[other] for other in range(3) if other != axis)
        is_edge = np.hypot(first[:, None], second[None, :]) > 0.1  # the smooth part of anatomy is no ripple's place
        is_edge &= (first[:, None] < 0.4) & (second[None, :] < 0.4)
        profile = fft.fftshift(np.moveaxis(log_power, axis, 0)[:, is_edge].mean(axis=1))
        strongest = float(np.fmax(strongest, _ripple(profile)))
    return strongest


def _ripple(profile: NDArray[np.floating]) -> float:
    """Half the amplitude of the strongest ripple of a log power profile over frequencies, zero in its middle."""
    size = len(profile)
    middle = size // 2
    one_side = profile[middle : middle + middle]
    cut = len(one_side)
    for place in range(int(0.15 * size), len(one_side) - 3):  # where a scanner filled k-space with zeros
        if one_side[place - 3 : place].mean() - one_side[place + 1 : place + 4].mean() > 1.5:
            cut = place - 1
            break
    part = profile[middle - cut + 1 : middle + cut]
    part = part - ndimage.gaussian_filter1d(part, 2.0, mode="nearest")
    window = np.hanning(len(part))
    n_points = 8 * len(part)
    spectrum = np.abs(np.fft.rfft(part * window, n=n_points)) / window.sum()
    shift = np.arange(len(spectrum)) / n_points  # as a share of the field of view
    return float(spectrum[shift > _NEAREST_GHOST].max())


def focus(volume: Volume) -> float:
    """Entropy-focus criterion: 0 if one voxel held all signal, 1 if all held the same.

    Ghosts, blur, ringing and noise spread signal over voxels that have little, and all raise it. It depends on how the
    head fills the volume, so it compares repeats of one series; between protocols it says little.

    Parameters
    ----------
    volume
        Native volume.

    Returns
    -------
    float
        NaN for an image without signal.

    References
    ----------
    Atkinson et al. 1997, IEEE Trans Med Imaging 16:903, equation 4; divided by its largest value.
    """
    values = np.abs(_coarser(volume)[0]).ravel().astype(np.float64)
    length = math.sqrt(float((values**2).sum()))
    if not length > 0:
        return math.nan
    share = values[values > 0] / length
    root = math.sqrt(values.size)
    return float(-(share * np.log(share)).sum() / (root * math.log(root)))


def _coarser(volume: Volume) -> tuple[NDArray[np.float32], tuple[float, ...]]:
    """Array with finer axes averaged to about `_WORKING_SPACING`, and its spacing, both in array order."""
    native = spacing_of(volume.affine)[::-1]
    steps = [max(1, round(_WORKING_SPACING / spacing)) for spacing in native]
    coarse = coarser(volume, steps)
    return coarse.array, tuple(spacing_of(coarse.affine)[::-1].tolist())


def _filled(head: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Without holes in any plane: sinuses and ears are no air around the head."""
    result = head.copy()
    cross = ndimage.generate_binary_structure(3, 1)
    for axis in range(3):
        in_plane = cross.copy()
        in_plane[(slice(None),) * axis + ([0, 2],)] = False
        result |= ndimage.binary_fill_holes(head, in_plane)
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
    smooth, values = ndimage.gaussian_filter(white[wide].astype(np.float32), 1.0), image[wide].astype(np.float32)
    squares, along = np.zeros_like(smooth), np.zeros_like(smooth)
    for axis, distance in enumerate(spacing[::-1]):  # one axis after the other: of all at once there are nine arrays
        normal = np.gradient(smooth, distance, axis=axis)
        squares += normal**2
        along += np.gradient(values, distance, axis=axis) * normal
    usable = border[wide] & (squares > 0) & np.isfinite(along)
    along = along[usable] / np.sqrt(squares[usable])
    return float(np.mean(along) / step) if usable.any() else math.nan


def figures_of_contrast(
    native: Volume,
    inside: NDArray[np.bool_],
    image: NDArray[np.float32],
    tissue: NDArray[np.uint8],
    spacing: tuple[float, float, float],
) -> dict[str, float]:
    """Figures of one contrast: ``snr``, ``contrast``, ``sharpness``, ``artefacts``, ``ghosts`` and ``focus``.

    Copies of the head average the noise away and blur the difference of tissues, which would raise the first and the
    third. Ghosts beyond `USUAL_GHOSTS` therefore count as noise, and take their share of the slope at borders.

    Parameters
    ----------
    native, inside
        Native volume, and the brain in it.
    image, tissue, spacing
        Bias-corrected image and tissue on the group grid.
    """
    contrast, white, grey = contrast_of(image, tissue)
    copies = ghosts(native)
    excess = math.sqrt(copies**2 - USUAL_GHOSTS**2) if copies > USUAL_GHOSTS else 0.0
    deviation = math.hypot(noise(native, inside), excess * white)
    return {
        "snr": white / deviation if deviation > 0 else math.nan,
        "contrast": contrast,
        "sharpness": sharpness(image, tissue, spacing, white - grey) * (1 - excess) / (1 + excess),
        "artefacts": artefacts(native, white),
        "ghosts": copies,
        "focus": focus(native),
    }


def is_saturated(volume: Volume, inside: NDArray[np.bool_]) -> bool:
    """Whether tissue lies at the image's largest value, where an export or a converter has clipped it.

    Parameters
    ----------
    volume
        Native volume.
    inside
        The brain, same shape.
    """
    values = volume.array[inside]
    return bool(values.size) and float((values >= volume.array.max()).mean()) > SATURATED_SHARE


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
