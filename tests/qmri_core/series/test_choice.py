"""The choice between series of one contrast."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmri_core.series.acquisition import Contrast, PulseSequence, SeriesHeader
from qmri_core.series.choice import Candidate, choose
from qmri_core.series.classification import Decision, SkipReason


def candidate(number: int, *, step: float = 1.0, kind: str = "M", contrast: Contrast = Contrast.T1W) -> Candidate:
    return Candidate(
        decision=Decision(contrast=contrast, sequence=PulseSequence.MPRAGE, reason=None, explanation="by numbers"),
        header=SeriesHeader(image_type=("ORIGINAL", "PRIMARY", kind)),
        shape=(256, 256, 176),
        spacing=(1.0, 1.0, step),
        number=number,
    )


@pytest.mark.parametrize(
    ("pair", "taken", "why"),
    [
        ((candidate(3), candidate(4)), 1, "acquired later"),
        ((candidate(4), candidate(3)), 0, "acquired later"),
        ((candidate(3, kind="NORM"), candidate(4)), 0, "intensity-normalised"),
        ((candidate(3), candidate(4, step=5.0)), 0, "thinner"),
    ],
)
def test_the_better_series_is_taken_and_the_other_told_why(
    pair: tuple[Candidate, Candidate], taken: int, why: str
) -> None:
    result = choose(pair)
    assert result[taken].reason is None
    assert result[1 - taken].reason is SkipReason.DUPLICATE
    assert why in result[1 - taken].explanation
    assert result[1 - taken].contrast is Contrast.T1W


@given(
    numbers=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    contrasts=st.lists(st.sampled_from(list(Contrast)), min_size=6, max_size=6),
)
def test_exactly_one_per_contrast_is_taken(numbers: list[int], contrasts: list[Contrast]) -> None:
    candidates = [candidate(n, contrast=c) for n, c in zip(numbers, contrasts, strict=False)]
    taken = [one.contrast for one in choose(candidates) if one.reason is None]
    assert sorted(taken) == sorted({one.decision.contrast for one in candidates})


def test_repeats_of_the_series_taken_have_a_place_and_others_none() -> None:
    coarse, second, first = candidate(9, step=2.0), candidate(4), candidate(3)
    other = replace(candidate(2), header=SeriesHeader(echo_time=0.003))
    flair = candidate(6, contrast=Contrast.FLAIR)
    assert [one.place for one in choose([coarse, first, second, other, flair])] == [None, 1, 0, None, 0]
