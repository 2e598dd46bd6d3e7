"""Whether the images of a session look like what they are called: what headers say, asked of the pixels.

Nothing here rests on the segmentation, which believes the names. Fluid is where the image called T1w is darkest, inside
of the brain's rim; every other image must then show it as its own acquisition predicts, and images must rise and fall
together, or against each other, as grey and white matter do in them. If the image called T1w is none, the others
contradict it. Where an acquisition predicts too little contrast, nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from qmri_core.physics.registry import signal
from qmri_core.preprocessing.mirrored import mirrored_contrasts
from qmri_core.series.acquisition import Acquisition, Contrast
from qmri_core.series.geometry import block_means
from qmri_core.series.remarks import Remark, RemarkKind
from qmri_core.tissues import REFERENCE_VALUES, TISSUES

_WORKING_SPACING = 3.0
"""Millimetres to about which images are averaged first: limits were measured there."""
RIM = 3.5
"""Millimetres inside of the brain mask that are left out: dura, vessels and bone are dark in every contrast."""
COARSEST = 4.0
"""Millimetres in the plane of slices beyond which voxels mix tissues too much to judge; no clinical image has them."""
LEAST_VOXELS = 300
"""Voxels inside of the rim without which nothing is said."""
FLUID_SHARE = 0.03
"""Share of the brain, the darkest of the T1w, that is taken for fluid."""
BRAIN_FROM = 0.4
"""Quantile of the T1w from which voxels are taken for grey and white matter."""
PURER_FROM = 0.6
"""The same, where heads with much fluid have hardly any: with atrophy, mixed voxels reach beyond `BRAIN_FROM`, and
their fluid turns the sense of FLAIR against T1w and T2w. A wrong image contradicts the others in either."""
WEAK_FLUID, WEAK_GREY = 0.25, 0.05
"""Log of fluid over brain, and of grey over white matter, below which a prediction decides nothing."""
LEAST_SHARE = {Contrast.T1W: 0.35, Contrast.T2W: 0.15, Contrast.FLAIR: 0.10}
"""Share of the predicted log of fluid over brain that an image must show. Seen: at least 0.40, 0.42 and 0.27."""
AGAINST, ALONE_AGAINST = -0.12, -0.3
"""Least correlation in the brain, in its predicted sense, of an image with all others, and with any of them. Seen: 0.04
and more, once -0.17 between two of three."""
PALE, PALE_AGAINST = 0.5, 0.02
"""The share of the predicted fluid below which a T1w is pale, and the least correlation with it that is then asked."""
ALIKE = 0.95
"""Correlation, in the brain and with the fluid, from which two images are one contrast."""
ENHANCED = 1.15
"""Signal over that of white matter, in the whole brain and around the voxel, from which a voxel is enhanced."""
ENHANCED_SHARE = 2.5e-4
"""Largest share of the brain of a native T1w that is enhanced and lies beside fluid, as vessels and plexus do. Seen:
more in 2 of 416 simulated native ones and in 93 of 96 after an agent."""
_WHITE_QUANTILE, _WHITE_FROM = 0.95, 0.6
"""Quantiles of a T1w in the brain that are white matter's signal, and from which voxels are taken for white matter."""
_AROUND = 12.0
"""Standard deviation in mm of what is around a voxel: a rest of the bias field is no enhancement."""


class ImageMismatchError(ValueError):
    """An image of a session is not what it is called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """Logs of signals: ``fluid`` over the mean of grey and white matter, ``grey`` over white matter."""

    fluid: float
    grey: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Images, and in which voxels to look, on a coarse grid of ``spacing`` [mm] (x, y, z)."""

    images: Mapping[Contrast, NDArray[np.float32]]
    mask: NDArray[np.bool_]
    inner: NDArray[np.bool_]
    fluid: NDArray[np.bool_]
    brain: NDArray[np.bool_]
    purer: NDArray[np.bool_]
    spacing: tuple[float, float, float]

    def fluid_of(self, contrast: Contrast) -> float:
        """Log of fluid over brain."""
        image = self.images[contrast]
        brain = float(np.median(image[self.brain]))
        return math.log(max(float(np.median(image[self.fluid])), 1e-3 * brain) / brain) if brain > 0 else math.nan

    def correlation(self, one: Contrast, other: Contrast, inside: NDArray[np.bool_]) -> float:
        """Correlation of the logs of two images, their extremes clipped: lesions and vessels count little."""
        values = []
        for contrast in (one, other):
            image = self.images[contrast]
            logs = np.log(np.maximum(image[inside], 0.05 * np.median(image[self.brain])))
            values.append(np.clip(logs, *np.quantile(logs, [0.02, 0.98])))
        if min(float(each.std()) for each in values) == 0.0:
            return 0.0
        return float(np.corrcoef(*values)[0, 1])


def check(
    images: Mapping[Contrast, NDArray[np.float32]],
    mask: NDArray[np.uint8],
    spacing: tuple[float, float, float],
    acquisitions: Mapping[Contrast, Acquisition],
) -> tuple[Remark, ...]:
    """Compare the images of a session with what their acquisitions predict, and with each other.

    Parameters
    ----------
    images
        Aligned and bias-corrected, shape (z, y, x), NaN where not kept; the T1w among them. The last axis runs from
        left to right.
    mask
        Brain, same shape.
    spacing
        Millimetres in the order x, y, z.
    acquisitions
        What the series are said to be.

    Returns
    -------
    tuple
        That the T1w looks like one after a contrast agent, if it does.

    Raises
    ------
    ImageMismatchError
        With all that does not fit, in one sentence each.
    """
    seen = _observed(images, mask, spacing)
    if seen is None:
        return ()
    predicted = {contrast: predict(acquisitions[contrast]) for contrast in seen.images}
    is_t1w = _shows_fluid(seen, Contrast.T1W, predicted[Contrast.T1W])  # nothing can be mirrored against another image
    found = [*_mirrored(seen)] if is_t1w else []
    found = found or [*_against_prediction(seen, predicted), *_alike(seen)]
    if found:
        raise ImageMismatchError("; ".join(found))
    share = enhanced_share(seen)
    if share <= ENHANCED_SHARE:
        return ()
    text = (
        f"T1w: {share:.3%} of the brain lie beside fluid and are {ENHANCED:g} times as bright as white matter and more "
        f"(native: at most {ENHANCED_SHARE:.3%}), as vessels, plexus and lesions are after a contrast agent"
    )
    return (Remark(kind=RemarkKind.AGENT, text=text),)


def predict(acquisition: Acquisition) -> Predicted:
    """Order of fluid, grey and white matter in an image of an acquisition.

    Where no values are known for a field strength, those of the nearest are taken: the order is the same.
    """
    nearest = min(REFERENCE_VALUES, key=lambda known: abs(known - acquisition.field_strength))
    of_field = REFERENCE_VALUES[nearest]
    pd, t1, t2 = (
        torch.tensor([of_field[name][quantity].value for name in TISSUES], dtype=torch.float64)
        for quantity in ("pd", "t1", "t2")
    )
    with torch.no_grad():
        values = signal(acquisition, pd, t1, t2).abs().clamp(min=1e-4)
    fluid, grey, white = (math.log(float(value)) for value in values)
    return Predicted(fluid=fluid - (grey + white) / 2, grey=grey - white)


def _observed(
    images: Mapping[Contrast, NDArray[np.float32]], mask: NDArray[np.uint8], spacing: tuple[float, float, float]
) -> Observed | None:
    """What to look at; ``None`` where voxels are too few or too large to judge."""
    steps = tuple(max(1, int(_WORKING_SPACING / step + 0.05)) for step in spacing[::-1])
    coarse = {contrast: block_means(image, steps) for contrast, image in images.items()}
    wide = tuple(step * size for step, size in zip(steps[::-1], spacing, strict=True))
    inside = block_means(mask, steps) > 0.5
    known = inside & np.logical_and.reduce([np.isfinite(image) for image in coarse.values()])
    inner = known & (ndimage.distance_transform_edt(inside, sampling=wide[::-1]) > RIM)
    if inner.sum() < LEAST_VOXELS or sorted(spacing)[1] > COARSEST:
        return None
    t1w = coarse[Contrast.T1W]
    low, middle, upper = np.quantile(t1w[inner], [FLUID_SHARE, BRAIN_FROM, PURER_FROM])
    return Observed(
        images=coarse,
        mask=inside,
        inner=inner,
        fluid=inner & (t1w <= low),
        brain=inner & (t1w >= middle),
        purer=inner & (t1w >= upper),
        spacing=(wide[0], wide[1], wide[2]),
    )


def _shows_fluid(seen: Observed, contrast: Contrast, expected: Predicted) -> bool:
    """Whether fluid is as bright or dark as predicted, or nothing is predicted."""
    return abs(expected.fluid) < WEAK_FLUID or seen.fluid_of(contrast) / expected.fluid >= LEAST_SHARE[contrast]


def _against_prediction(seen: Observed, predicted: Mapping[Contrast, Predicted]) -> Iterator[str]:
    """What contradicts the acquisitions: fluid first, then grey against white matter in two images."""
    wrong = set()
    of_t1w = predicted[Contrast.T1W].fluid
    is_pale = abs(of_t1w) >= WEAK_FLUID and seen.fluid_of(Contrast.T1W) / of_t1w < PALE
    for contrast, expected in predicted.items():
        if not _shows_fluid(seen, contrast, expected):
            wrong.add(contrast)
            value = seen.fluid_of(contrast)
            yield (
                f"{contrast}: fluid has {math.exp(value):.2f} times the signal of brain where its parameters predict "
                f"{math.exp(expected.fluid):.2f}"
            )
    for contrast in _contradicting(seen, predicted, is_pale=is_pale):
        wrong.add(contrast)
        yield f"{contrast}: grey against white matter is the other way round than its parameters and the others have it"
    if wrong:
        yield (
            "one of these images is another contrast, or has bright and dark exchanged: look at the series, and state "
            "what they are with --assume or move the wrong one out of the source"
        )


def _contradicting(seen: Observed, predicted: Mapping[Contrast, Predicted], *, is_pale: bool) -> Iterator[Contrast]:
    """Images that rise where they should fall, in grey and white matter, with all others that say something."""
    judged = [
        (one, other)
        for one, other in combinations(predicted, 2)
        if min(abs(predicted[one].grey), abs(predicted[other].grey)) >= WEAK_GREY
    ]
    least = AGAINST if len(judged) > 1 else ALONE_AGAINST
    plain = set()
    bad = set()
    for one, other in judged:
        sense = math.copysign(1, predicted[one].grey * predicted[other].grey)
        limit = PALE_AGAINST if is_pale and one is Contrast.T1W else least
        value = max(seen.correlation(one, other, inside) * sense for inside in (seen.brain, seen.purer))
        if value < limit:
            bad.add((one, other))
        if value < ALONE_AGAINST:
            plain.add(one)
    for contrast in predicted:
        own = [pair for pair in judged if contrast in pair]
        if contrast in plain or (own and bad.issuperset(own)):
            yield contrast


def _alike(seen: Observed) -> Iterator[str]:
    for one, other in combinations(seen.images, 2):
        if min(seen.correlation(one, other, seen.brain), seen.correlation(one, other, seen.inner)) > ALIKE:
            yield f"{one} and {other} are one contrast twice; move one of the two out of the source"


def _mirrored(seen: Observed) -> Iterator[str]:
    names = mirrored_contrasts(seen.images, seen.inner, seen.spacing)
    if names:
        yield mirrored_text(names)


def mirrored_text(names: Iterable[Contrast]) -> str:
    """What to say of an image that is mirrored; of several names it is one."""
    return (
        f"{' or '.join(names)} fits the other images better mirrored left to right than as its header has it: its "
        "orientation was lost; export it again"
    )


def enhanced_share(seen: Observed) -> float:
    """Share of the brain within its rim that is much brighter than white matter on the T1w, beside fluid."""
    image = np.nan_to_num(seen.images[Contrast.T1W])
    dark, middle, least, white = np.quantile(image[seen.inner], [FLUID_SHARE, 0.5, _WHITE_FROM, _WHITE_QUANTILE])
    is_white = (seen.inner & (image > least) & (image < 1.2 * white)).astype(np.float32)
    sigma = [_AROUND / step for step in seen.spacing[::-1]]
    around = ndimage.gaussian_filter(image * is_white, sigma) / np.maximum(
        ndimage.gaussian_filter(is_white, sigma), np.float32(1e-3)
    )
    beside = ndimage.binary_dilation(seen.inner & (image < (dark + middle) / 2), iterations=2) & seen.inner
    return float((image > ENHANCED * np.maximum(white, around))[beside].sum() / seen.inner.sum())
