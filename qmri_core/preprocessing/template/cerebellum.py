"""Where the template's cerebellum is: no atlas that is at hand has labels of it.

The template shows it apart from the cerebrum by the fluid over it (the tentorium lies there). A watershed floods the
map of what is no tissue from both halves of it, from the labels of the cerebrum and from that of the brain stem.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name that its documentation uses
from numpy.typing import NDArray
from scipy import ndimage

from qmri_core.series.geometry import Affine

_CENTRE, _REACH = (22.0, -62.0, -40.0), 8.0
"""Millimetres (x, y, z) in the middle of its white matter, to both sides, and around that: surely cerebellum."""
_HIGHEST, _FOREMOST = 25.0, 10.0
"""Millimetres up and to the front, beyond which nothing is looked at."""
_SURELY_CEREBRUM = 5.0
"""Millimetres above which white matter is that of the cerebrum."""
_BLUR = 1.0
"""Standard deviation in mm, by which gaps of a voxel between tissue are closed."""
_LEAST_TISSUE = 0.1
_CEREBRUM, _STEM, _CEREBELLUM = 1, 2, 3


def cerebellum(
    tissue: NDArray[np.float32], is_cerebrum: NDArray[np.bool_], is_stem: NDArray[np.bool_], affine: Affine
) -> NDArray[np.bool_]:
    """Voxels of the cerebellum, fluid between its folia among them, of the ICBM 152 template at 1 mm.

    Parameters
    ----------
    tissue
        Probability of grey or white matter, shape (z, y, x).
    is_cerebrum, is_stem
        What is labelled as cortex or nucleus, and as brain stem; same shape.
    affine
        From voxel index x, y, z to RAS mm of Montreal, its axes along R, A and S.
    """
    along = [affine[k, 3] + affine[k, k] * np.arange(tissue.shape[2 - k]) for k in (2, 1, 0)]
    z, y, x = np.meshgrid(*along, indexing="ij", sparse=True)
    box = (slice(0, int(np.sum(z < _HIGHEST))), slice(0, int(np.sum(y < _FOREMOST))), slice(None))
    places = (np.abs(x), y, z)
    is_middle = np.all(
        np.broadcast_arrays(*(np.abs(place - at) < _REACH for place, at in zip(places, _CENTRE, strict=True))), axis=0
    )
    markers = np.zeros(tissue[box].shape, dtype=np.uint8)
    markers[is_middle[box]] = _CEREBELLUM
    markers[is_cerebrum[box] | ((tissue > 0.9) & (z > _SURELY_CEREBRUM))[box]] = _CEREBRUM
    markers[is_stem[box]] = _STEM
    fluid = ndimage.gaussian_filter(1 - np.clip(tissue[box], 0, 1), _BLUR).astype(np.float32)
    flooded = sitk.MorphologicalWatershedFromMarkers(
        sitk.GetImageFromArray(fluid), sitk.GetImageFromArray(markers), markWatershedLine=False
    )
    result = np.zeros(tissue.shape, dtype=bool)
    result[box] = (sitk.GetArrayFromImage(flooded) == _CEREBELLUM) & (tissue[box] > _LEAST_TISSUE)
    return result
