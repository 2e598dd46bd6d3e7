"""CSF, grey and white matter from the images of a session and from where the template has tissues.

The template's probabilities, brought to the session, say where tissues may be; the session's own images say what their
signals are there. A contrast counts by what it shows: where it shows nothing, its tissues have the same signals and it
tells nothing; where it shows grey and white matter the other way round than its acquisition predicts, it is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qmri_core.preprocessing.checks import WEAK_GREY, predict
from qmri_core.preprocessing.template.brain import template
from qmri_core.preprocessing.template.mixture import CLASSES, Mixture, fit, fractions, log_signals
from qmri_core.preprocessing.template.registration import (
    Registered,
    labels_of,
    merged,
    priors_at,
    register,
    smooth_terms,
    some,
)
from qmri_core.preprocessing.tissue import TissueError
from qmri_core.series.acquisition import Acquisition, Contrast
from qmri_core.series.geometry import Affine, inside_of
from qmri_core.tissues import GREY_MATTER, WHITE_MATTER

LEAST_VOXELS = 2_000
"""Voxels without which nothing is segmented."""
N_FIT = 20_000
"""Largest number of voxels to which signals are fitted."""
USUAL_ORDER = {Contrast.T1W: -0.1, Contrast.T2W: 0.1, Contrast.FLAIR: 0.1}
"""Log of grey over white matter that is expected where no acquisition is known: its sign counts."""
WRONG_WAY = 0.05
"""Log of grey over white matter against the expected sign from which on a contrast is left out: cortex at 4 mm holds
fluid, which makes it darker on a FLAIR."""
SMOOTHING = 0.6
"""Standard deviation in voxels of the smoothing of fractions; suppresses single noisy voxels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmentation:
    """Tissues of a session, and where its brain lies in the template.

    Parameters
    ----------
    tissue
        uint8 (z, y, x): 0 outside, 1 CSF, 2 grey matter with nuclei, 3 white matter with lesions.
    registered
        Of the template to the session.
    left_out
        Contrasts that show white and grey matter the other way round than expected.
    """

    tissue: NDArray[np.uint8]
    registered: Registered
    left_out: tuple[Contrast, ...]


def segment_by_template(
    images: Mapping[Contrast, NDArray[np.float32]],
    mask: NDArray[np.uint8],
    affine: Affine,
    acquisitions: Mapping[Contrast, Acquisition] | None = None,
) -> Segmentation:
    """Segment the brain into three tissues, nuclei among the grey matter and lesions among the white.

    Parameters
    ----------
    images
        Bias-corrected images, shape (z, y, x), NaN where not acquired.
    mask
        Brain mask of the same shape.
    affine
        From voxel index (x, y, z) to RAS mm; the head is turned by less than 30 degrees or so.
    acquisitions
        What tells which of grey and white matter should be brighter; ``None`` for what is usual.

    Raises
    ------
    TissueError
        If fewer than `LEAST_VOXELS` voxels have all contrasts.
    """
    inside = inside_of(images.values(), mask)
    registered, against = _registered(images, inside, affine, acquisitions)
    used = {contrast: image for contrast, image in images.items() if contrast not in against} or images
    return Segmentation(
        tissue=tissues_of(used, inside, affine, registered), registered=registered, left_out=tuple(against)
    )


def regions_of(
    images: Mapping[Contrast, NDArray[np.float32]],
    mask: NDArray[np.uint8],
    affine: Affine,
    acquisitions: Mapping[Contrast, Acquisition] | None = None,
) -> tuple[NDArray[np.uint8], Registered]:
    """Nuclei and regions of the cortex in a session as it is stored; parameters and errors as `segment_by_template`.

    What `Template.names` calls each label, `qmri_core.preprocessing.template.brain.template` tells.

    Returns
    -------
    tuple
        Labels of shape (z, y, x), 0 for none and beyond the mask, and what they were drawn by: ``overlap`` and
        ``stretch`` say whether to believe them.
    """
    inside = inside_of(images.values(), mask)
    registered, _ = _registered(images, inside, affine, acquisitions)
    labels = labels_of(template().labels, registered.warp, mask.shape, affine)
    return np.where(mask > 0, labels, 0).astype(np.uint8), registered


def _registered(
    images: Mapping[Contrast, NDArray[np.float32]],
    inside: NDArray[np.bool_],
    affine: Affine,
    acquisitions: Mapping[Contrast, Acquisition] | None,
) -> tuple[Registered, list[Contrast]]:
    """The template brought to a session, by the images that do not show tissues the wrong way; and these."""
    n_voxels = int(inside.sum())
    if n_voxels < LEAST_VOXELS:
        raise TissueError(
            f"only {n_voxels} voxels of the brain mask have all contrasts; at least {LEAST_VOXELS} are needed"
        )
    registered = register(images, inside, affine, acquisitions)
    against = _against(registered.mixture, images, acquisitions)
    if against and len(against) < len(images):
        others = {contrast: image for contrast, image in images.items() if contrast not in against}
        registered = register(others, inside, affine, acquisitions)
    return registered, against


def tissues_of(
    images: Mapping[Contrast, NDArray[np.float32]], inside: NDArray[np.bool_], affine: Affine, registered: Registered
) -> NDArray[np.uint8]:
    """The tissue with the largest smoothed fraction in each voxel of ``inside``; parameters as of `register`.

    What is none of the brain's counts as fluid: it lies at the rim of the mask.

    Returns
    -------
    ndarray
        As `Segmentation.tissue`.
    """
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    where = inside[box]
    index = np.argwhere(where)
    offset = affine[:3, 3] + affine[:3, :3] @ [part.start for part in box[::-1]]
    places = (index[:, ::-1] @ affine[:3, :3].T + offset).T.astype(np.float32)
    priors = priors_at(template(), registered.warp, places)
    logs = np.stack([log_signals(image[box][where]) for image in images.values()], axis=1)
    design = smooth_terms(where)
    pick = some(len(logs), N_FIT)
    mixture = fit(registered.mixture, logs[pick], priors[pick], design[pick])
    found = fractions(mixture, logs, priors, design).T
    csf, grey, white = merged(found)
    csf = csf + found[CLASSES.index("void")]
    labels, most = where.astype(np.uint8), _smoothed(csf, where)
    for label, values in ((GREY_MATTER, grey), (WHITE_MATTER, white)):
        smooth = _smoothed(values, where)
        labels[where & (smooth > most)] = label
        np.maximum(most, smooth, out=most)
    tissue = np.zeros(inside.shape, dtype=np.uint8)
    tissue[box] = labels
    return tissue


def _smoothed(fraction: NDArray[np.float32], where: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Values of the voxels ``where``, in their places and smoothed; zero around."""
    values = np.zeros(where.shape, dtype=np.float32)
    values[where] = fraction
    return np.asarray(ndimage.gaussian_filter(values, SMOOTHING, mode="constant"))


def _against(
    mixture: Mixture,
    images: Mapping[Contrast, NDArray[np.float32]],
    acquisitions: Mapping[Contrast, Acquisition] | None,
) -> list[Contrast]:
    """Contrasts that show grey and white matter the other way round than expected."""
    grey, white = mixture.means[CLASSES.index("cortex")], mixture.means[CLASSES.index("white")]
    result = []
    for contrast, seen in zip(images, (grey - white).tolist(), strict=True):
        expected = USUAL_ORDER[contrast] if acquisitions is None else predict(acquisitions[contrast]).grey
        if abs(expected) >= WEAK_GREY and seen * math.copysign(1, expected) < -WRONG_WAY:
            result.append(contrast)
    return result
