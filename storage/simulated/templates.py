"""Brain templates from the nilearn wheel, and label maps from a folder, as RAS volumes."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from qmri_core.series.geometry import Volume

_TEMPLATES = {
    "t1": "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz",
    "gm": "mni_icbm152_gm_tal_nlin_sym_09a_converted.nii.gz",
    "wm": "mni_icbm152_wm_tal_nlin_sym_09a_converted.nii.gz",
}


def tissue_templates() -> dict[str, Volume]:
    """ICBM152 2009a nonlinear symmetric templates, 1 mm, as the nilearn wheel packages them; nothing is downloaded.

    Returns
    -------
    dict
        ``gm`` and ``wm``: probabilities from 0 to 1; ``t1``: the stripped T1-weighted average from 0 to 1.

    Raises
    ------
    FileNotFoundError
        If this release of nilearn ships other templates.
    """
    # importing nilearn costs seconds, and only its files are wanted
    package = find_spec("nilearn")
    folders = (
        [Path(place) / "datasets" / "data" for place in (package.submodule_search_locations or ())] if package else []
    )
    result = {}
    for name, file_name in _TEMPLATES.items():
        path = next((folder / file_name for folder in folders if (folder / file_name).is_file()), None)
        if path is None:
            raise FileNotFoundError(
                f"template {file_name} is not in the installed nilearn; install a release of nilearn 0.14"
            )
        volume = _read(path)
        result[name] = Volume(array=volume.array / np.float32(255.0), affine=volume.affine)
    return result


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
