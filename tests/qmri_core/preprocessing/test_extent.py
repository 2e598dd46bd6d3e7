"""Brain that a T1w lacks: cut off by its field of view, as another series shows it, or stripped before."""

from __future__ import annotations

from collections.abc import Mapping
from unittest.mock import patch

import numpy as np
import pytest
from numpy.typing import NDArray

from qmri_core.preprocessing.brain_mask import BrainMaskError
from qmri_core.preprocessing.extent import is_stripped, missing_litres, support_of_stripped
from qmri_core.series.acquisition import Contrast
from qmri_core.series.geometry import Affine, Volume
from tests.qmri_core.preprocessing.heads import head, noisy

MASK = "qmri_core.preprocessing.extent.brain_mask"
STILL, BRAIN = head()
WHOLE = noisy(STILL, 3.0)
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
VOXEL = 27e-6
FLAIR, T2W = Contrast.FLAIR, Contrast.T2W


def cut(axis: int, n_planes: int, *, first: bool, padded: bool = False) -> tuple[Volume, NDArray[np.uint8], float]:
    """T1w without planes of brain at one side, its mask, and the litres of brain that it lacks."""
    planes = np.flatnonzero(BRAIN.any(axis=tuple(other for other in range(3) if other != axis)))
    keep = slice(int(planes[0]) + n_planes, None) if first else slice(0, int(planes[-1]) + 1 - n_planes)
    part = (slice(None),) * axis + (keep,)
    lacking = float(BRAIN.sum() - BRAIN[part].sum()) * VOXEL
    if padded:
        array, mask = np.zeros_like(WHOLE), np.zeros_like(BRAIN)
        array[part], mask[part] = WHOLE[part], BRAIN[part]
        return Volume(array=array, affine=AFFINE), mask, lacking
    affine = AFFINE.copy()
    affine[2 - axis, 3] = 3.0 * (keep.start or 0)
    return Volume(array=WHOLE[part], affine=affine), BRAIN[part], lacking


def missing(
    t1w: Volume, mask: NDArray[np.uint8], contrasts: tuple[Contrast, ...] = (FLAIR,), shift: float = 0.0
) -> float:
    """What is missing, as other series show it whose heads lie ``shift`` mm to the right."""
    moved = AFFINE.copy()
    moved[0, 3] = shift
    from_t1w = np.eye(4)
    from_t1w[0, 3] = shift
    transforms: Mapping[Contrast, Affine] = dict.fromkeys(contrasts, from_t1w)
    with patch(MASK, return_value=BRAIN):
        return missing_litres(t1w, mask, dict.fromkeys(contrasts, Volume(array=WHOLE, affine=moved)), transforms)


@pytest.mark.parametrize("padded", [False, True], ids=["cut", "filled"])
@pytest.mark.parametrize(("axis", "first"), [(0, False), (0, True), (1, True), (2, False)])
@pytest.mark.parametrize("n_planes", [6, 10])
def test_what_a_field_of_view_cuts_off_is_what_the_other_series_show(
    axis: int, first: bool, n_planes: int, padded: bool
) -> None:
    t1w, mask, lacking = cut(axis, n_planes, first=first, padded=padded)
    assert lacking > 0.02
    assert missing(t1w, mask) == pytest.approx(lacking, abs=1e-9)
    assert missing(t1w, mask, (T2W,), shift=5.0) == pytest.approx(lacking, abs=1e-9)


def test_a_whole_t1w_lacks_nothing_and_nobody_is_asked() -> None:
    with patch(MASK, side_effect=AssertionError):
        assert missing_litres(Volume(array=WHOLE, affine=AFFINE), BRAIN, {}, {}) == 0.0
        beside = {FLAIR: Volume(array=WHOLE, affine=AFFINE)}
        assert missing_litres(Volume(array=WHOLE, affine=AFFINE), BRAIN, beside, {FLAIR: np.eye(4)}) == 0.0


def test_a_mask_that_reaches_the_border_lacks_nothing_where_the_others_show_no_more() -> None:
    t1w, mask, _ = cut(0, 0, first=False)
    assert missing(t1w, mask) == 0.0


def test_the_next_series_is_asked_where_no_brain_is_found() -> None:
    t1w, mask, lacking = cut(0, 8, first=False)
    others = {FLAIR: Volume(array=np.zeros_like(WHOLE), affine=AFFINE), T2W: Volume(array=WHOLE, affine=AFFINE)}

    def found(volume: Volume) -> NDArray[np.uint8]:
        if not volume.array.any():
            raise BrainMaskError("none")
        return BRAIN

    with patch(MASK, found):
        assert missing_litres(t1w, mask, others, dict.fromkeys(others, np.eye(4))) == pytest.approx(lacking)
        assert missing_litres(t1w, mask, {FLAIR: others[FLAIR]}, {FLAIR: np.eye(4)}) == 0.0


def stripped(array: NDArray[np.float32]) -> bool:
    support = support_of_stripped(Volume(array=array, affine=AFFINE))
    return support is not None and is_stripped(BRAIN, support)


def radius() -> NDArray[np.floating]:
    z, y, x = np.indices(BRAIN.shape) - np.asarray([27.5, 35.5, 29.5])[:, None, None, None]
    return np.asarray(np.sqrt((z / 1.05) ** 2 + (y / 1.2) ** 2 + x**2))


@pytest.mark.parametrize("margin", [-1.0, 0.0, 1.3], ids=["tightly", "brain", "with dura"])
def test_a_brain_without_a_head_was_stripped(margin: float) -> None:
    left = radius() < 21 + margin
    array = np.where(left, WHOLE, 0).astype(np.float32)
    support = support_of_stripped(Volume(array=array, affine=AFFINE))
    assert support is not None
    np.testing.assert_array_equal(support, left)
    assert stripped(array)
    assert stripped(np.where(left, WHOLE, -1000).astype(np.float32))


def test_a_head_is_not_stripped_whatever_was_filled() -> None:
    defaced = WHOLE.copy()
    defaced[:28, 50:] = 0
    air = np.where(radius() < 25.5, WHOLE, 0).astype(np.float32)
    both = np.where(radius() < 25.5, defaced, 0).astype(np.float32)
    assert [stripped(array) for array in (WHOLE, defaced, air, both)] == [False] * 4
