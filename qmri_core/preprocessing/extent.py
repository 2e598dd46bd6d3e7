"""What of the brain a T1w lacks: cut off by its field of view, or taken away before it came here."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qmri_core.preprocessing.brain_mask import PLAUSIBLE_LITRES, BrainMaskError, brain_mask
from qmri_core.series.acquisition import Contrast
from qmri_core.series.geometry import Affine, Volume, spacing_of

TOUCHING = 15.0
"""Square centimetres of brain in one of the two outermost planes from which a field of view may cut it. Where it does,
25 mm below the vertex or above the lowest cerebellum, 30 to 110 were seen; at the brain stem a section has 5 to 10."""
WITNESSES = (Contrast.FLAIR, Contrast.T2W)
"""Contrasts in which the brain is found where the T1w lacks it, the better one first: without alignment the masks of
FLAIR have a Dice of 0.92 to 0.97 with those of whole T1w, those of T2w 0.86 to 0.91, being a fifth larger (3 mm)."""
BACKGROUND_SHARE = 0.3
"""Share of one exact value from which on a volume has a background that was filled."""
HEAD_OVER_BRAIN = 1.6
"""What is left of an image, as a multiple of the brain in it, from which on it holds a head: skull and scalp, 15 mm
around, make it 1.7, with neck and face 2 and more; a brain with 7 mm of dura and meninges 1.5."""
_PLANES_AT_ONCE = 16


def missing_litres(
    t1w: Volume, mask: NDArray[np.uint8], others: Mapping[Contrast, Volume], from_t1w: Mapping[Contrast, Affine]
) -> float:
    """Volume of the brain beyond the field of view of a T1w, as another series shows it.

    It is only looked for where the mask reaches a border of the field of view (see `TOUCHING`).

    Parameters
    ----------
    t1w, mask
        Native T1w, and the brain in it.
    others, from_t1w
        The other series, and where points of the T1w (RAS mm) lie in them.

    Returns
    -------
    float
        Litres; 0 if the mask ends within the field of view, or no other series shows the brain.
    """
    faces = _touched(t1w, mask)
    if not faces:
        return 0.0
    for contrast in WITNESSES:
        if contrast not in others:
            continue
        witness = others[contrast]
        try:
            found = brain_mask(witness)
        except BrainMaskError:
            continue
        to_index = np.linalg.inv(t1w.affine) @ np.linalg.inv(from_t1w[contrast]) @ witness.affine
        index = np.argwhere(found)[:, ::-1] @ to_index[:3, :3].T + to_index[:3, 3]  # x, y, z of the T1w
        beyond = np.zeros(len(index), dtype=bool)
        for axis, is_last, plane in faces:
            along = index[:, 2 - axis]
            beyond |= along > plane + 0.5 if is_last else along < plane - 0.5
        return float(beyond.sum()) * abs(float(np.linalg.det(witness.affine[:3, :3]))) * 1e-6
    return 0.0


def _touched(t1w: Volume, mask: NDArray[np.uint8]) -> list[tuple[int, bool, int]]:
    """Borders that the mask reaches: array axis, whether the last one, and the outermost plane with an image."""
    spacing = spacing_of(t1w.affine)[::-1]
    faces = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        shown = np.flatnonzero(t1w.array.max(axis=others) > t1w.array.min(axis=others))  # not filled with one value
        if not len(shown):
            continue
        area = mask.astype(bool).sum(axis=others) * float(np.prod([spacing[other] for other in others])) / 100
        for is_last, plane, inner in ((False, shown[0], shown[0] + 2), (True, shown[-1], shown[-1] - 1)):
            outermost = area[plane:inner] if not is_last else area[inner : plane + 1]
            if len(outermost) and outermost.max() > TOUCHING:
                faces.append((axis, is_last, int(plane)))
    return faces


def support_of_stripped(t1w: Volume) -> NDArray[np.bool_] | None:
    """What is left of an image whose skull was taken away before; None of a head, with or without a face.

    A head whose air or face was filled with one value holds more than a brain can.
    """
    background = float(np.median(np.concatenate([t1w.array[[0, -1]].ravel(), t1w.array[:, [0, -1]].ravel()])))
    is_background = t1w.array == background
    if float(is_background.mean()) < BACKGROUND_SHARE:
        return None
    labels, n_parts = ndimage.label(~is_background)
    if n_parts == 0:
        return None
    sizes = np.zeros(n_parts + 1, dtype=np.int64)
    for start in range(0, len(labels), _PLANES_AT_ONCE):  # they are counted in 64 bits
        sizes += np.bincount(labels[start : start + _PLANES_AT_ONCE].ravel(), minlength=len(sizes))
    largest = labels == 1 + int(np.argmax(sizes[1:]))
    del labels, is_background
    left = ndimage.binary_fill_holes(largest)
    litres = float(left.sum()) * abs(float(np.linalg.det(t1w.affine[:3, :3]))) * 1e-6
    return np.asarray(left) if litres <= PLAUSIBLE_LITRES[1] * HEAD_OVER_BRAIN else None


def is_stripped(mask: NDArray[np.uint8], support: NDArray[np.bool_]) -> bool:
    """Whether hardly more than the brain of a mask is left of an image."""
    return float(support.sum()) < HEAD_OVER_BRAIN * float((mask > 0).sum())
