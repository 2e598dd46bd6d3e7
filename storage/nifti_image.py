"""NIfTI images of stored arrays."""

from __future__ import annotations

from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

SHEAR = 1e-3
"""Largest difference, in millimetres per voxel, between an affine and the quaternion form that shows the same."""


def affine_image(array: NDArray[Any], affine: NDArray[np.float64]) -> nibabel.Nifti1Image:
    """Image of an array of shape (z, y, x), with the same affine in both of NIfTI's forms where both can hold it."""
    affine = np.asarray(affine, dtype=np.float64)
    image = nibabel.Nifti1Image(array.T, affine)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")  # type: ignore[no-untyped-call]
    image.set_sform(affine, code="scanner")  # type: ignore[no-untyped-call]
    image.set_qform(affine, code="scanner")  # type: ignore[no-untyped-call]
    if np.abs(image.get_qform() - affine)[:3, :3].max() > SHEAR:  # type: ignore[no-untyped-call]
        image.set_qform(None, code=0)  # type: ignore[no-untyped-call]
    return image
