"""Small NIfTI files with sidecars."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

SCANNER: dict[str, Any] = {
    "Manufacturer": "Philips", "ManufacturersModelName": "Ingenia", "MagneticFieldStrength": 3,
}  # fmt: skip
T1W = SCANNER | {
    "MRAcquisitionType": "3D", "ScanningSequence": "GR_IR", "SequenceVariant": "SK_SP_MP", "RepetitionTime": 2.3,
    "EchoTime": 0.003, "InversionTime": 0.9, "FlipAngle": 9, "SeriesNumber": 4,
}  # fmt: skip
T2W = SCANNER | {
    "MRAcquisitionType": "2D", "ScanningSequence": "SE", "RepetitionTime": 4.2, "EchoTime": 0.093, "FlipAngle": 120,
    "EchoTrainLength": 15, "SeriesNumber": 2,
}  # fmt: skip
FLAIR = SCANNER | {
    "MRAcquisitionType": "2D", "ScanningSequence": "SE_IR", "RepetitionTime": 9, "EchoTime": 0.1, "InversionTime": 2.5,
    "FlipAngle": 150, "EchoTrainLength": 16, "SeriesNumber": 3,
}  # fmt: skip
SIDECARS = {"T1w": T1W, "T2w": T2W, "FLAIR": FLAIR}


def write_nifti(
    path: Path,
    sidecar: Mapping[str, Any] | None = None,
    *,
    data: Any = None,
    sform: tuple[Any, int] | None = None,
    qform: tuple[Any, int] | None = None,
) -> Path:
    """Write an image, with voxels of 1 x 1.2 x 2.5 mm unless told otherwise, and its sidecar if there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6) if data is None else data
    affine = np.diag([-1.0, 1.2, 2.5, 1.0])
    header = nibabel.Nifti1Header()
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    header.set_qform(*(qform or (affine, 1)))
    header.set_sform(*(sform or (affine, 1)))
    image = nibabel.Nifti1Image(data, None, header)  # with an affine, nibabel would write its own codes
    nibabel.save(image, path)
    if sidecar is not None:
        path.with_name(path.name.partition(".")[0] + ".json").write_text(json.dumps(sidecar))
    return path


def write_visit(root: Path, person: str, visit: str = "", contrasts: Mapping[str, Any] = SIDECARS) -> Path:
    """Write the images of one session of a BIDS tree; returns its folder."""
    folder = root / person / visit
    label = f"{person}_{visit}" if visit else person
    for suffix, sidecar in contrasts.items():
        data = np.random.default_rng(sum(map(ord, f"{label}{suffix}"))).integers(0, 2000, (4, 5, 6)).astype(np.int16)
        write_nifti(folder / "anat" / f"{label}_{suffix}.nii.gz", sidecar, data=data)
    return folder
