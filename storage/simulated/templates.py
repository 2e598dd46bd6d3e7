"""Label maps from a folder, as RAS volumes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from qmri_core.series.geometry import Volume


def label_maps(folder: Path) -> list[Path]:
    """NIfTI files of label maps in ``folder``, by name; read one with `read_label_map`.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist or has no NIfTI file.
    """
    paths = sorted(_niftis(folder)) if folder.is_dir() else []
    if not paths:
        raise FileNotFoundError(f"no .nii or .nii.gz label map in {folder}; give a folder of FreeSurfer-coded maps")
    return paths


def read_label_map(path: Path) -> Volume:
    """One label map (FreeSurfer codes), its axes brought to increasing RAS."""
    return _read(path)


def _niftis(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.name.endswith((".nii", ".nii.gz")))


def _read(path: Path) -> Volume:
    """Read as (z, y, x) float32 with axes along increasing R, A, S."""
    image: Any = nib.as_closest_canonical(nib.load(path))  # type: ignore[no-untyped-call]
    array = np.asarray(image.dataobj, dtype=np.float32)
    return Volume(array=np.ascontiguousarray(array.T), affine=np.asarray(image.affine, dtype=np.float64))
