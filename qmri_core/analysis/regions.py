"""Nuclei, and lobes of cortex and white matter, from the labels of the template in a session."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qmri_core.tissues import CSF, GREY_MATTER, WHITE_MATTER

VERSION = 2
"""Of what is measured; raised where that changes, so that all regions are measured again."""
FEWEST_VOXELS = 8
"""Voxels of a region, at least, for it to have values."""
RIM = 5.0
"""Millimetres from cortex within which white matter is that of its lobe, as FreeSurfer's ``wmparc`` has it."""
NUCLEI: Mapping[str, str] = {
    "thalamusproper": "thalamus",
    "caudate": "caudate",
    "putamen": "putamen",
    "pallidum": "pallidum",
    "accumbensarea": "accumbens",
    "hippocampus": "hippocampus",
    "amygdala": "amygdala",
    "brainstem": "brain_stem",
}
"""Names of the template's labels that are no cortex, and what they are called here."""
CEREBELLUM = "cerebellum"
"""Name of the template's labels of it."""
_PARTS = {"cortex": GREY_MATTER, "white": WHITE_MATTER}
LOBES: Mapping[str, tuple[str, ...]] = {
    "frontal": (
        *("superiorfrontal", "rostralmiddlefrontal", "caudalmiddlefrontal", "parsopercularis", "parstriangularis"),
        *("parsorbitalis", "lateralorbitofrontal", "medialorbitofrontal", "precentral", "paracentral", "frontalpole"),
    ),
    "parietal": ("superiorparietal", "inferiorparietal", "supramarginal", "postcentral", "precuneus"),
    "temporal": (
        *("superiortemporal", "middletemporal", "inferiortemporal", "bankssts", "fusiform", "transversetemporal"),
        *("entorhinal", "temporalpole", "parahippocampal"),
    ),
    "occipital": ("lateraloccipital", "lingual", "cuneus", "pericalcarine"),
    "cingulate": (*("rostralanteriorcingulate", "caudalanteriorcingulate", "posteriorcingulate", "isthmuscingulate"),),
    "insula": ("insula",),
}
"""Lobes by the template's labels of the cortex, after FreeSurfer's lobes, with the cingulate cortex and the insula for
themselves."""
PLACED: Mapping[str, float] = {
    "thalamus": 0.78,
    "caudate": 0.68,
    "putamen": 0.69,
    "pallidum": 0.58,
    "accumbens": 0.38,
    "hippocampus": 0.65,
    "amygdala": 0.62,
    "brain_stem": 0.83,
    "cerebellum_cortex": 0.86,
    "cerebellum_white": 0.79,
    "cortex": 0.59,
    "white": 0.71,
}
"""Dice of what is labelled with what truly is there, mean over simulated heads of four other people than the template's
(`tests/qmri_core/preprocessing/template/test_other_heads.py`); of lobes, of all lobes of a side together."""


def placed(region: str) -> float:
    """How well a region is placed: its `PLACED`, NaN for one that is not the template's."""
    kind = region.removesuffix("_L").removesuffix("_R")
    lobe, _, part = kind.rpartition("_")
    return PLACED.get(kind, PLACED.get(part, float("nan")) if lobe in LOBES else float("nan"))


def regions_in(
    labels: NDArray[np.uint8],
    tissue: NDArray[np.uint8],
    names: Mapping[int, tuple[str, str]],
    spacing: tuple[float, float, float],
) -> dict[str, NDArray[np.bool_]]:
    """Voxels of each region, by a name such as ``thalamus_L``, ``frontal_cortex_R`` or ``frontal_white_L``.

    Nuclei are what is labelled so and no fluid, cortex the grey matter that is labelled so, white matter of a lobe what
    is within `RIM` of its cortex and nearer to it than to another's. Cortex and white matter of the cerebellum are what
    is labelled so of either tissue.

    Parameters
    ----------
    labels, tissue
        Of a session, shape (z, y, x); `qmri_core.tissues` has the labels of tissues.
    names
        What each label is called, and its hemisphere.
    spacing
        Millimetres between voxels along z, y and x.
    """
    lobe_of = {label: lobe for lobe, members in LOBES.items() for label in members}
    found: dict[str, NDArray[np.bool_]] = {}
    places = {f"{lobe}_{side}": number for number, (lobe, side) in enumerate(_lobes_and_sides(), 1)}
    cortex = np.zeros(labels.shape, dtype=np.uint8)
    for label, (name, side) in names.items():
        is_it = labels == label
        if name in NUCLEI:
            title = NUCLEI[name] + ("" if side == "B" else f"_{side}")
            found[title] = is_it & (tissue != CSF) & (tissue > 0)
        elif name == CEREBELLUM:
            found |= {f"{name}_{part}_{side}": is_it & (tissue == of) for part, of in _PARTS.items()}
        elif name in lobe_of:
            cortex[is_it & (tissue == GREY_MATTER)] = places[f"{lobe_of[name]}_{side}"]
    for lobe, side in _lobes_and_sides():
        found[f"{lobe}_cortex_{side}"] = cortex == places[f"{lobe}_{side}"]
    if cortex.any():
        others = np.isin(labels, [label for label, (name, _) in names.items() if name in {*NUCLEI, CEREBELLUM}])
        distance, nearest = ndimage.distance_transform_edt(cortex == 0, sampling=spacing, return_indices=True)
        white = np.where((tissue == WHITE_MATTER) & ~others & (distance <= RIM), cortex[tuple(nearest)], 0)
        for lobe, side in _lobes_and_sides():
            found[f"{lobe}_white_{side}"] = white == places[f"{lobe}_{side}"]
    return found


def _lobes_and_sides() -> list[tuple[str, str]]:
    return [(lobe, side) for lobe in LOBES for side in ("L", "R")]
