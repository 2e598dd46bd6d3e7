"""What preprocessing says of a session beside its images: coverage, brains that were stripped, clipped values."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from numpy.typing import NDArray

from qmri_core.preprocessing.brain_mask import BrainMaskError
from qmri_core.preprocessing.quality import LIMITS
from qmri_core.preprocessing.session import MIN_COVERAGE, FieldOfViewError, _brain_of, _covered, _marks
from qmri_core.series.acquisition import Contrast
from qmri_core.series.geometry import Volume
from tests.qmri_core.preprocessing.heads import head, noisy

T1W, T2W, FLAIR = Contrast
MASK = "qmri_core.preprocessing.session.brain_mask"
STILL, BRAIN = head()
IMAGE = noisy(STILL, 3.0)
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])


def of(array: NDArray[np.generic]) -> Volume:
    return Volume(array=np.asarray(array, dtype=np.float32), affine=AFFINE)


@pytest.mark.parametrize("n_slices", [0, 6, 9])
@pytest.mark.parametrize("by", ["slices of the T2w", "the T1w's field of view"])
def test_coverage_is_the_share_of_the_whole_brain(n_slices: int, by: str) -> None:
    brain = BRAIN > 0
    top = int(np.flatnonzero(brain.any(axis=(1, 2)))[-1])
    lost = slice(top + 1 - n_slices, None) if n_slices else slice(0, 0)
    share = 1 - float(brain[lost].sum()) / float(brain.sum())
    short, kept = IMAGE.copy(), brain.copy()
    missing = 0.0
    if by == "slices of the T2w":
        short[lost] = np.nan
    else:
        kept[lost], missing = False, float(brain[lost].sum())
    covered, found = _covered(kept, {T1W: IMAGE, T2W: short}, missing)
    assert found == pytest.approx(share)
    assert covered.sum() == pytest.approx(share * brain.sum())
    assert (found < LIMITS["coverage"][0]) == (n_slices > 0)


def test_a_t1w_that_lacks_half_of_the_brain_fails() -> None:
    missing = float(BRAIN.sum()) * (1 / MIN_COVERAGE - 1) + 100
    with pytest.raises(FieldOfViewError, match="of the brain"):
        _covered(BRAIN > 0, {T1W: IMAGE}, missing)


def stripped(margin: float) -> NDArray[np.float32]:
    z, y, x = np.indices(BRAIN.shape) - np.asarray([27.5, 35.5, 29.5])[:, None, None, None]
    radius = np.sqrt((z / 1.05) ** 2 + (y / 1.2) ** 2 + x**2)
    return np.where(radius < 21 + margin, IMAGE, 0).astype(np.float32)


@pytest.mark.parametrize("margin", [-1.0, 0.0, 1.0])
def test_the_brain_of_a_stripped_image_lies_in_what_is_left_and_is_marked(margin: float) -> None:
    image = of(stripped(margin))
    with patch(MASK, return_value=BRAIN):
        mask, was_stripped = _brain_of(image)
    assert was_stripped
    np.testing.assert_array_equal(mask > 0, (BRAIN > 0) & (image.array > 0))
    assert list(_marks({T1W: image, T2W: of(IMAGE)}, {T1W: mask > 0, T2W: mask > 0})) == ["T1w_skull_stripped"]


def test_where_no_brain_is_found_in_a_stripped_image_it_is_what_is_left() -> None:
    image = of(stripped(0.0))
    with patch(MASK, side_effect=BrainMaskError("none")):
        mask, was_stripped = _brain_of(image)
        assert was_stripped
        np.testing.assert_array_equal(mask > 0, image.array > 0)
        with pytest.raises(BrainMaskError):
            _brain_of(of(IMAGE))


def test_heads_are_not_marked_with_a_face_or_without() -> None:
    defaced = IMAGE.copy()
    defaced[:28, 50:] = 0
    volumes = {T1W: of(IMAGE), T2W: of(defaced)}
    with patch(MASK, return_value=BRAIN):
        assert not _brain_of(volumes[T2W])[1]
    assert list(_marks(volumes, dict.fromkeys(volumes, BRAIN > 0))) == []


def test_a_clipped_contrast_is_named() -> None:
    clipped = of(np.minimum(IMAGE, np.quantile(IMAGE[BRAIN > 0], 0.95)))
    volumes = {T1W: of(IMAGE), FLAIR: clipped}
    assert list(_marks(volumes, dict.fromkeys(volumes, BRAIN > 0))) == ["FLAIR_saturated"]
