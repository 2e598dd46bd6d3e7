"""Comparisons recover planted effects: intervals cover as often as stated, and no effect is found as often as stated.

How often is held against exact binomial bounds, outside of which a right method ends once in a thousand runs; all is
seeded.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from qmri_core.analysis.comparison import MIXED, ROBUST, Effect, compare_values
from qmri_core.analysis.design import ConfoundedError
from tests.qmri_core.analysis.people import BETWEEN, PER_YEAR, WITHIN, people

COVARIATES = ["age", "sex"]


def bounds(n: int, share: float) -> tuple[float, float]:
    low, high = stats.binom.interval(0.999, n, share)
    return low / n, high / n


def effect_of(frame: pd.DataFrame, reference: str = "control") -> Effect:
    (effect,) = compare_values(frame, "factor", COVARIATES, reference=reference)
    return effect


@pytest.mark.walk
@pytest.mark.parametrize(("visits", "n_runs", "method"), [(1, 100, ROBUST), (2, 40, MIXED)])
@pytest.mark.parametrize("planted", [0.0, 0.05])
def test_intervals_cover_the_planted_effect_as_often_as_they_say(
    visits: int, n_runs: int, method: str, planted: float
) -> None:
    rng = np.random.default_rng(20 + visits)
    effects = [effect_of(people(rng, visits=visits, effect=planted)) for _ in range(n_runs)]
    assert {effect.method for effect in effects} == {method}
    covered = np.mean([effect.low <= planted <= effect.high for effect in effects])
    low, high = bounds(n_runs, 0.95)
    assert low <= covered <= high
    found = np.mean([effect.p < 0.05 for effect in effects])
    if planted == 0:
        low, high = bounds(n_runs, 0.05)
        assert low <= found <= high
    else:
        assert found > 0.9  # 60 people, 5 % beside 4 %
    spread = np.hypot(BETWEEN, WITHIN)
    error = 2 * spread / np.sqrt(60) / np.sqrt(n_runs)
    assert np.mean([effect.estimate for effect in effects]) == pytest.approx(planted, abs=4 * error)
    standardised = np.mean([effect.standardised for effect in effects])
    assert standardised == pytest.approx(np.log1p(planted) / spread, abs=0.1)


def test_an_effect_that_varies_within_people_is_found_within_them() -> None:
    """Two visits on different groups: 2 % between them is seen beside 4 % between people."""
    rng = np.random.default_rng(3)
    frame = people(rng, n_people=40, n_groups=1, visits=2, within=0.01)
    second = np.arange(len(frame)) >= 40
    frame["visit"] = np.where(second, "later", "first")
    frame.loc[second, "value"] *= 1.02
    (effect,) = compare_values(frame, "visit", reference="first")
    assert effect.low < 0.02 < effect.high
    assert effect.high - effect.low < 0.02  # of 4 % between people the interval would have a width of 3.5 %
    assert effect.freedom == 39  # 80 rows, 40 people, one term within; and no more than between people


def test_a_number_has_an_effect_per_unit() -> None:
    rng = np.random.default_rng(4)
    (effect,) = compare_values(people(rng, n_people=200), "age", ["sex"])
    assert effect.low < np.expm1(PER_YEAR) < effect.high
    assert (effect.term, effect.reference) == ("per unit", "")


def test_each_level_stands_beside_the_reference() -> None:
    frame = people(np.random.default_rng(5), n_people=90)
    frame["stage"] = np.resize(["a", "b", "c", "a", "a"], 90)
    assert [effect.term for effect in compare_values(frame, "stage")] == ["b", "c"]
    assert [effect.term for effect in compare_values(frame, "stage", reference="c")] == ["a", "b"]
    assert [effect.n_level for effect in compare_values(frame, "stage")] == [18, 18]


def test_rows_that_lack_something_are_left_out() -> None:
    frame = people(np.random.default_rng(6))
    frame.loc[:4, "age"] = np.nan
    frame.loc[5:6, "sex"] = ""
    frame.loc[7, "value"] = np.nan
    assert effect_of(frame).n_people == 60 - 8


def confounded(kind: str) -> pd.DataFrame:
    frame = people(np.random.default_rng(7))
    is_patient = frame["factor"] == "patient"
    if kind == "group":
        frame["group"] = np.where(is_patient, "scanner-a", "scanner-b")
    elif kind == "age":
        frame["age"] = np.where(is_patient, 70.0, 30.0) + np.arange(60) % 5
    elif kind == "one level":
        frame["factor"] = "control"
    elif kind == "few":
        frame["factor"] = np.where(np.arange(60) < 2, "patient", "control")
    return frame


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("group", "no group has people with and without it"),
        ("age", "confounded: the groups and age and sex explain"),
        ("one level", "there is only control"),
        ("few", "patient has 2 people, and 3 are the fewest"),
    ],
)
def test_a_question_that_data_cannot_answer_is_refused_with_the_reason(kind: str, reason: str) -> None:
    with pytest.raises(ConfoundedError, match=reason):
        effect_of(confounded(kind))


def test_an_unknown_reference_is_named() -> None:
    with pytest.raises(ConfoundedError, match="there are control, patient"):
        effect_of(people(np.random.default_rng(8)), reference="healthy")


def test_scanners_can_be_compared_where_that_is_asked() -> None:
    frame = confounded("group")
    (effect,) = compare_values(frame, "group", within_groups=False, reference="scanner-b")
    assert effect.n_level == 30
