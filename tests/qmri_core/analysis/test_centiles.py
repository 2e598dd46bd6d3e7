"""Places among people are calibrated: as many beyond a centile as it says, z of people who are left out standard."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from qmri_core.analysis.centiles import TooFewPeopleError, curves, scores

SPREAD, MEASURED = 0.04, 0.02


def cohort(rng: np.random.Generator, n_people: int = 150, visits: int = 1) -> pd.DataFrame:
    """People whose logs bend with age and differ by sex and group; further visits differ by the measurement alone."""
    number = np.arange(n_people)
    table = pd.DataFrame(
        {
            "person": [f"p{k:03d}" for k in number],
            "label": [f"g{k % 3}" for k in number],
            "age": rng.uniform(20, 80, n_people),
            "sex": rng.choice(["F", "M"], n_people),
        }
    )
    true = expected(table) + np.sqrt(SPREAD**2 - MEASURED**2) * rng.standard_normal(n_people)
    rows = pd.concat([table.assign(true=true, day=float(k)) for k in range(visits)], ignore_index=True)
    value = np.exp(rows["true"] + MEASURED * rng.standard_normal(len(rows)))
    session = rows["person"] + "-" + rows["day"].astype(int).astype(str)
    return rows.assign(value=value, deviation=MEASURED * value, session=session)


def expected(table: pd.DataFrame) -> pd.Series:
    bent = 2e-5 * (table["age"] - 45) ** 2 + 0.001 * (table["age"] - 45)
    return bent + 0.02 * (table["sex"] == "F") + 0.1 * table["label"].str[-1].astype(int)


def test_as_many_lie_beyond_a_centile_as_it_says() -> None:
    rng = np.random.default_rng(1)
    found = pd.concat([scores(cohort(rng)) for _ in range(8)])
    n = len(found)
    for share, beyond in (
        (0.05, (found["centile"] < 0.05).sum()),
        (0.05, (found["centile"] > 0.95).sum()),
        (0.5, (found["centile"].between(0.25, 0.75)).sum()),
    ):
        low, high = stats.binom.interval(0.999, n, share)
        assert low <= beyond <= high
    assert stats.kstest(found["z"], "norm").pvalue > 0.001
    assert found["z"].std() == pytest.approx(1.0, abs=0.06)  # 1,200 people: 2 % standard error
    assert found["z_deviation"].mean() == pytest.approx(MEASURED / SPREAD, rel=0.05)


def test_age_sex_and_group_are_expected() -> None:
    frame = cohort(np.random.default_rng(2), n_people=400)
    found = scores(frame).set_index("session")["expected"]
    true = np.exp(expected(frame.set_index("session")))
    assert float(np.abs(found / true - 1).max()) < 0.03  # 4 % over the root of 400 / 9
    assert np.corrcoef(found, true)[0, 1] > 0.99


def test_who_is_far_out_does_not_hide_themself() -> None:
    frame = cohort(np.random.default_rng(3), n_people=30)
    frame.loc[4, "value"] *= 1.5  # ten standard deviations
    z = scores(frame).set_index("session")["z"]
    assert z[frame.loc[4, "session"]] > 5
    assert z.drop(frame.loc[4, "session"]).abs().max() < 3


def test_later_visits_lie_beside_other_people_and_not_beside_themselves() -> None:
    frame = cohort(np.random.default_rng(4), n_people=60, visits=2)
    found = scores(frame)
    assert len(found) == 120
    first, second = (found[found["session"].str.endswith(end)]["z"].to_numpy() for end in ("-0", "-1"))
    between = 1 - (MEASURED / SPREAD) ** 2  # correlation of two measurements of people
    assert np.corrcoef(first, second)[0, 1] == pytest.approx(between, abs=0.2)
    assert np.std(second) == pytest.approx(1.0, abs=0.3)


def test_whoever_it_is_of_is_left_out() -> None:
    """The oracle: the model fitted again without one person, and their visits predicted by statsmodels."""
    import statsmodels.api as sm

    frame = cohort(np.random.default_rng(7), n_people=30, visits=2)
    found = scores(frame).set_index("session")["centile"]
    rows = frame.sort_values(["person", "day"], ignore_index=True)
    regressors = pd.get_dummies(rows[["age", "sex", "label"]], drop_first=True, dtype=float).assign(one=1.0)
    for person in ("p003", "p017"):
        others = (rows["person"] != person) & (rows["day"] == 0)
        fitted = sm.OLS(np.log(rows.loc[others, "value"]), regressors[others]).fit()
        for place in np.flatnonzero(rows["person"] == person):
            predicted = fitted.get_prediction(regressors.iloc[[place]])
            t = (np.log(rows["value"][place]) - predicted.predicted_mean[0]) / predicted.se_obs[0]
            expected = float(stats.t.cdf(t, fitted.df_resid))
            assert found[rows["session"][place]] == pytest.approx(expected, abs=1e-9)


def test_few_people_and_lonely_groups_tell_nothing() -> None:
    frame = cohort(np.random.default_rng(5), n_people=25)
    frame.loc[0, "label"] = "alone"
    found = scores(frame).set_index("session")
    assert np.isnan(found.loc[frame.loc[0, "session"], "z"])
    assert found["z"].notna().sum() == 24
    with pytest.raises(TooFewPeopleError, match="19 people"):
        scores(frame.iloc[:19])
    frame["sex"] = ""
    with pytest.raises(TooFewPeopleError, match="0 people"):
        scores(frame)


def test_curves_hold_as_many_people_as_they_say() -> None:
    frame = cohort(np.random.default_rng(6), n_people=600)
    table = curves(frame, np.arange(0.0, 100.0, 1.0))
    assert table["age"].between(20, 80).all()
    rows = frame.assign(age=frame["age"].round()).merge(table, on=["sex", "age"])
    level = 0.1 - 0.1 * rows["label"].str[-1].astype(int)  # to the average group
    shares = [float((rows["value"] * np.exp(level) < rows[centile]).mean()) for centile in (0.05, 0.5, 0.95)]
    np.testing.assert_allclose(shares, [0.05, 0.5, 0.95], atol=0.06)  # 600 people: 2 % at the middle, three times
