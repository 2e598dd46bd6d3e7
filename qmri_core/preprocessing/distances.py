"""Distances from a mask, in the box around it."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name that its documentation uses
from numpy.typing import NDArray
from scipy import ndimage

from qmri_core.series.geometry import Affine, Volume, spacing_of


def depth(mask: NDArray[np.bool_], affine: Affine, margin: float) -> Volume:
    """Millimetres from the centres of voxels to the edge of a mask, negative inside.

    Parameters
    ----------
    mask
        Shape (z, y, x), set somewhere.
    affine
        Of its voxels.
    margin
        Millimetres around the mask that the volume holds, as far as the mask's own array goes.
    """
    spacing = tuple(spacing_of(affine)[::-1].tolist())
    box = box_around(mask, spacing, margin)
    inside = mask[box]
    half = np.float32(min(spacing) / 2)  # distances are to centres of voxels, the edge lies between them
    signed = _distance(inside, spacing)
    signed -= _distance(~inside, spacing)
    signed += np.where(inside, half, -half)
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ [part.start for part in box[::-1]]
    return Volume(array=signed, affine=moved)


def grown(mask: NDArray[np.bool_], spacing: tuple[float, ...], distance: float) -> NDArray[np.bool_]:
    """The mask and all within ``distance`` mm of it; ``spacing`` in array order."""
    box = box_around(mask, spacing, distance)
    result = np.zeros(mask.shape, dtype=bool)
    result[box] = _distance(mask[box], spacing) <= distance
    return result


def box_around(mask: NDArray[np.bool_], spacing: tuple[float, ...], margin: float) -> tuple[slice, ...]:
    """The box of a mask that is set somewhere, and ``margin`` mm around it within the array."""
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    reach = [int(np.ceil(margin / step)) for step in spacing]
    return tuple(slice(max(0, part.start - r), part.stop + r) for part, r in zip(box, reach, strict=True))


def _distance(mask: NDArray[np.bool_], spacing: tuple[float, ...]) -> NDArray[np.float32]:
    """Millimetres to the nearest voxel of the mask: exact, as scipy's, in less than half of its time and memory."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(spacing[::-1])
    method = sitk.SignedMaurerDistanceMapImageFilter()
    method.SetNumberOfThreads(1)
    method.SetInsideIsPositive(False)
    method.SetSquaredDistance(False)
    method.SetUseImageSpacing(True)
    signed = np.asarray(sitk.GetArrayFromImage(method.Execute(image)), dtype=np.float32)
    return np.maximum(signed, np.float32(0), out=signed)
