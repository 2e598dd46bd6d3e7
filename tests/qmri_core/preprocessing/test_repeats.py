"""Equal series of a contrast: the one that looks best is taken, and among equals the one that headers prefer."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from qmri_core.preprocessing.repeats import EQUAL_FOCUS, EQUAL_SHARE, Look, look_at, order_of, why_better
from qmri_core.series.geometry import Volume
from tests.qmri_core.preprocessing.heads import head, moved, noisy

ALIGN = "qmri_core.preprocessing.repeats.align"


def look(array: NDArray[np.float32]) -> Look | None:
    """Judged against a still T1w, whose alignment is known."""
    values, brain = head()
    with patch(ALIGN, return_value=(np.eye(4), 1.0)):
        return look_at(Volume(array=array, affine=np.eye(4) * 3), Volume(array=values, affine=np.eye(4) * 3), brain)


GOOD = noisy(head()[0], 3.0)
SPOILT = {
    "ghosts": noisy(0.7 * head()[0] + 0.2 * np.roll(head()[0], 9, axis=0) + 0.1 * np.roll(head()[0], -17, axis=0), 3.0),
    "motion": noisy(moved(head()[0], 1.0, 8), 3.0),
    "blur": noisy(ndimage.gaussian_filter(head()[0], (0.0, 1.0, 1.0)), 3.0),
    "noise": noisy(head()[0], 9.0),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_the_spoilt_one_comes_last_wherever_it_lies(kind: str) -> None:
    looks = [look(GOOD), look(SPOILT[kind])]
    assert order_of(looks) == (0, 1)
    assert order_of(looks[::-1]) == (1, 0)
    assert "looks better" in why_better(*looks)


def test_among_equal_ones_the_order_given_stands() -> None:
    looks = [look(noisy(head()[0], 3.0, seed)) for seed in range(4)]
    assert order_of(looks) == (0, 1, 2, 3)
    values = [one.focus for one in looks if one is not None]
    assert max(values) - min(values) < EQUAL_FOCUS


def test_one_that_lacks_slices_comes_after_a_whole_one_that_is_a_bit_worse() -> None:
    cut = GOOD.copy()
    cut[30:] = 0
    short, blurred = look(cut), look(SPOILT["blur"])
    assert short is not None
    assert short.share < 1 - EQUAL_SHARE
    assert order_of([short, blurred]) == (1, 0)
    assert "of the brain" in why_better(blurred, short)


def test_what_cannot_be_aligned_comes_last() -> None:
    good = look(GOOD)
    assert order_of([None, good]) == (1, 0)
    assert order_of([None, None]) == (0, 1)
    assert look(np.zeros_like(GOOD)) is None or order_of([look(np.zeros_like(GOOD)), good]) == (1, 0)
