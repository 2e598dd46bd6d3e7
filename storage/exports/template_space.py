"""Maps in template space as NIfTI files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from storage.nifti_image import affine_image

SPACE = "MNI152NLin2009aSym"
"""Name of the template's space, as TemplateFlow and BIDS write such names."""


def write_maps(
    folder: Path,
    session: str,
    maps: Mapping[str, Mapping[str, NDArray[np.float32]]],
    affine: NDArray[np.float64],
) -> list[Path]:
    """Write ``SESSION_space-SPACE_desc-MAP_WHAT.nii.gz`` for each map of each kind, and return the files.

    Parameters
    ----------
    maps
        By what they say, such as ``z``, and by the map that they are about; shape (z, y, x), NaN where nothing is said.
    affine
        From voxel index x, y, z to RAS mm of the template.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for what, of_maps in maps.items():
        for name, values in of_maps.items():
            image = affine_image(np.asarray(values, dtype=np.float32), affine)
            image.set_sform(affine, code="mni")  # type: ignore[no-untyped-call]
            image.set_qform(affine, code="mni")  # type: ignore[no-untyped-call]
            files.append(folder / f"{session}_space-{SPACE}_desc-{name}_{what}.nii.gz")
            nibabel.save(image, files[-1])
    return files
