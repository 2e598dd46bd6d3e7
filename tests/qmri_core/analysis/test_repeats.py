"""Agreement of repeats: against published figures, and against simulated people with known components."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from qmri_core.analysis.repeats import icc_2_1, limits_of_agreement, variance_components

SHROUT_FLEISS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
"""Table 2 of Shrout and Fleiss 1979: six people, four judges."""


def test_icc_is_that_of_the_paper() -> None:
    found = icc_2_1(pd.DataFrame(SHROUT_FLEISS, dtype=float))
    assert found.icc == pytest.approx(0.29, abs=0.005)  # its table 4
    assert (found.n_people, found.n_raters) == (6, 4)
    assert found.low == pytest.approx(0.019, abs=0.002)  # the interval that psych and pingouin give for these data
    assert found.high == pytest.approx(0.761, abs=0.002)


def test_icc_is_that_of_an_analysis_of_variance() -> None:
    """The oracle: mean squares by statsmodels, for people and scanners of no table in a book."""
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    rng = np.random.default_rng(9)
    table = pd.DataFrame(rng.normal(1, 0.05, (12, 1)) + rng.normal(0, 0.02, 3) + rng.normal(0, 0.01, (12, 3)))
    long = table.rename_axis("person").reset_index().melt(id_vars="person", var_name="rater")
    squares = anova_lm(ols("value ~ C(person) + C(rater)", long).fit())["mean_sq"]
    people, raters, error = (float(squares.iloc[place]) for place in range(3))
    expected = (people - error) / (people + 2 * error + 3 * (raters - error) / 12)
    assert icc_2_1(table).icc == pytest.approx(expected, rel=1e-9)


def test_rows_that_lack_a_rater_are_left_out_and_few_people_tell_nothing() -> None:
    table = pd.DataFrame(SHROUT_FLEISS, dtype=float)
    more = pd.concat([table, pd.DataFrame([[1.0, np.nan, 2.0, 3.0]])], ignore_index=True)
    assert icc_2_1(more) == icc_2_1(table)
    assert np.isnan(icc_2_1(table.iloc[:2]).icc)


def test_limits_hold_as_many_differences_as_they_say() -> None:
    rng = np.random.default_rng(1)
    first = rng.normal(1.0, 0.1, 4000)
    second = first + rng.normal(0.02, 0.03, 4000)
    found = limits_of_agreement(first, second)
    assert found.mean_low < 0.02 < found.mean_high
    inside = np.mean((second - first > found.low) & (second - first < found.high))
    assert inside == pytest.approx(0.95, abs=0.01)
    assert np.isnan(limits_of_agreement([1.0], [2.0]).mean)


def travelling(
    rng: np.random.Generator, *, person: float, scanner: float, visit: float, rest: float, twice: bool
) -> pd.DataFrame:
    """Twenty people, each on four scanners, a day for each; at each visit once or twice."""
    rows = []
    of_scanners = scanner * np.asarray([1.2, -1.2, 0.8, -0.8]) / np.std([1.2, -1.2, 0.8, -0.8], ddof=1)
    for number in range(20):
        own = person * rng.standard_normal()
        for place in range(4):
            at_visit = visit * rng.standard_normal()
            for _ in range(1 + twice):
                log = own + of_scanners[place] + at_visit + rest * rng.standard_normal()
                rows.append({"person": f"p{number}", "label": f"s{place}", "day": place, "value": np.exp(log)})
    return pd.DataFrame(rows).assign(age=50.0, sex="F")


def test_components_are_those_that_were_drawn() -> None:
    rng = np.random.default_rng(2)
    found = variance_components(travelling(rng, person=0.05, scanner=0.03, visit=0.02, rest=0.01, twice=True))
    assert (found.n_people, found.n_sessions) == (20, 160)
    assert found.person == pytest.approx(0.05, rel=0.4)  # 20 people: 16 % standard error
    assert found.scanner == pytest.approx(0.03, rel=0.25)  # fixed, but for the visits
    assert found.visit == pytest.approx(0.02, rel=0.3)  # 60 degrees of freedom: 9 %
    assert found.rest == pytest.approx(0.01, rel=0.25)  # 80: 8 %
    assert sum(found.shares().values()) == pytest.approx(1.0)
    assert found.repeatability == pytest.approx(2.77 * np.hypot(found.visit, found.rest), rel=1e-3)
    assert found.reproducibility == pytest.approx(
        2.77 * np.sqrt(found.visit**2 + found.rest**2 + found.scanner**2), rel=1e-3
    )


def test_what_repeats_cannot_tell_is_not_told() -> None:
    rng = np.random.default_rng(3)
    frame = travelling(rng, person=0.05, scanner=0.03, visit=0.02, rest=0.01, twice=False)
    once_a_day = variance_components(frame)
    assert np.isnan(once_a_day.visit)
    assert once_a_day.rest == pytest.approx(np.hypot(0.02, 0.01), rel=0.3)
    on_one = variance_components(frame[frame["label"] == "s0"])
    assert on_one.n_sessions == 0
    assert np.isnan(on_one.person)


def test_where_people_do_not_differ_their_variance_is_0() -> None:
    """With this draw it lies at its bound, where the likelihood has no curvature that could be inverted."""
    n = 60
    frame = pd.DataFrame(
        {
            "person": np.repeat([f"sub-{number:03d}" for number in range(n)], 3),
            "day": np.tile([0.0, 180.0, 360.0], n),
            "label": "a",
            "age": np.repeat(30.0 + np.arange(n) % 50, 3),
            "sex": np.repeat(np.resize(["F", "M"], n), 3),
            "value": np.exp(0.03 * np.random.default_rng(19).standard_normal(3 * n)),
        }
    )
    found = variance_components(frame)
    assert found.person < 0.003
    assert found.rest == pytest.approx(0.03, rel=0.15)
