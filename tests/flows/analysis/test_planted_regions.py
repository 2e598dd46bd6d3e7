"""`qmri compare --regions` recovers effects that are planted in one nucleus and in white matter, from a store.

Half of the people, more of one scanner than of another, have 5 % longer T2 in the left putamen and 3 % longer T1 in
white matter. How often intervals hold what was planted is held against exact binomial bounds, outside of which a right
method ends once in a thousand runs; all is seeded.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats

from flows.analysis.compare import Comparison, compare
from flows.analysis.values import Asked
from qmri_core.analysis.harmonisation import combat
from tests.flows.analysis.region_store import (
    BETWEEN,
    NUCLEI,
    SHARES,
    WITHIN,
    draw_patients,
    draw_values,
    make_people,
    store_values,
)

PLANTED = {("putamen_L", "T2map"): 0.05, ("WM", "T1map"): 0.03}
ASKED = ("WM", *NUCLEI)
UNBELIEVED = "ses-3"
N_PEOPLE = 60


class Studies:
    """Studies of the same people, each with other patients and values."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.store, self.arms = folder / "store", folder / "arms.csv"
        self.people = make_people(self.store, self.rng, N_PEOPLE)

    def draw(self) -> tuple[NDArray[np.bool_], pd.DataFrame]:
        is_patient = draw_patients(self.rng, self.people)
        return is_patient, draw_values(self.rng, self.people, is_patient, PLANTED)

    def answer(self, is_patient: NDArray[np.bool_], values: pd.DataFrame) -> Comparison:
        """As ``qmri compare --factor arm --table arms.csv --regions ...`` has it."""
        cohort = store_values(self.store, self.people, values, unbelieved=[UNBELIEVED])
        arms = self.people[["person"]].assign(arm=np.where(is_patient, "patient", "control"))
        arms.to_csv(self.arms, index=False)
        return compare(cohort, "arm", asked=Asked(table=self.arms, regions=ASKED), reference="control")

    def regressors(self, is_patient: NDArray[np.bool_], *, with_groups: bool = True) -> NDArray[np.float64]:
        """Patient first, then a level of each group, or one of all, age and sex."""
        groups = pd.get_dummies(self.people["group"], dtype=float).to_numpy()
        levels = groups if with_groups else np.ones((N_PEOPLE, 1))
        return np.column_stack([is_patient, levels, self.people["age"], self.people["sex"] == "F"]).astype(np.float64)


def by_hand(regressors: NDArray[np.float64], logs: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Estimate, 95 % interval and p of the first regressor: least squares, HC3, Student's t."""
    inverse = np.linalg.inv(regressors.T @ regressors)
    beta = inverse @ regressors.T @ logs
    leverage = np.einsum("ij,jk,ik->i", regressors, inverse, regressors)
    weighted = regressors * ((logs - regressors @ beta) / (1 - leverage))[:, None]
    error = np.sqrt((inverse @ weighted.T @ weighted @ inverse)[0, 0])
    freedom = len(logs) - regressors.shape[1]
    far = stats.t.ppf(0.975, freedom) * error
    p = 2 * stats.t.sf(abs(beta[0]) / error, freedom)
    return tuple(map(float, (*np.expm1([beta[0], beta[0] - far, beta[0] + far]), p)))  # type: ignore[return-value]


def test_a_nucleus_is_compared_as_by_hand_from_what_regions_hold(tmp_path: Path) -> None:
    studies = Studies(tmp_path, seed=1)
    is_patient, values = studies.draw()
    table = studies.answer(is_patient, values).table
    assert len(table) == 2 * len(ASKED)
    regressors = studies.regressors(is_patient)
    for row in table.to_dict("records"):
        # a nucleus of a session to which the template was not fitted does not count; white matter of it does
        is_there = np.ones(N_PEOPLE, dtype=np.bool_) if row["region"] == "WM" else values.index != UNBELIEVED
        logs = np.log(values[(row["region"], row["map"])].to_numpy())
        expected = by_hand(regressors[is_there], logs[is_there])
        assert row["n_people"] == is_there.sum()
        np.testing.assert_allclose([row[name] for name in ("estimate", "low", "high", "p")], expected, rtol=1e-6)
    ordered = table.sort_values("p")
    steps = np.arange(len(table), 0, -1)  # Holm's
    holm = np.minimum(np.maximum.accumulate(ordered["p"] * steps), 1)
    np.testing.assert_allclose(ordered["p_corrected"], holm)


@pytest.mark.walk
def test_intervals_hold_what_is_planted_in_a_nucleus_as_often_as_they_say(tmp_path: Path) -> None:
    """A minute of a core. Run with ``-s`` it prints what it finds."""
    studies = Studies(tmp_path, seed=2)
    n_studies = 60
    tables, by_combat = [], []
    for _ in range(n_studies):
        is_patient, values = studies.draw()
        tables.append(studies.answer(is_patient, values).table)
        by_combat.append(of_combat(studies, is_patient, np.log(values)))
    table = pd.concat(tables, ignore_index=True)
    quantities = pd.MultiIndex.from_frame(table[["region", "map"]])
    table["planted"] = [PLANTED.get(quantity, 0.0) for quantity in quantities]
    table["covered"] = (table["low"] <= table["planted"]) & (table["planted"] <= table["high"])
    none = table[table["planted"] == 0]

    covered = table.groupby(["region", "map"])["covered"].sum()
    low, high = stats.binom.interval(0.999, n_studies, 0.95)
    assert ((covered >= low) & (covered <= high)).all()
    low, high = stats.binom.interval(0.999, len(table), 0.95)
    assert low <= table["covered"].sum() <= high
    low, high = stats.binom.interval(0.999, len(none), 0.05)
    assert low <= (none["p"] < 0.05).sum() <= high
    false = sum(bool((each.loc[~is_planted(each), "p_corrected"] < 0.05).any()) for each in tables)
    assert false <= stats.binom.ppf(0.999, n_studies, 0.05)

    within = np.mean([share * (1 - share) for share in SHARES])  # variance of who is a patient, within groups
    chance = np.hypot(BETWEEN, WITHIN) / np.sqrt(N_PEOPLE * within) / np.sqrt(n_studies)
    means = table.groupby(["region", "map"])["estimate"].mean()
    assert all(abs(means[quantity] - PLANTED.get(quantity, 0.0)) < 4 * chance for quantity in means.index)

    # untold, ComBat takes each group's mean with its patients: what is left is the part of their variance within groups
    left = within / (np.mean(SHARES) * (1 - np.mean(SHARES)))
    recovered = pd.DataFrame(by_combat).mean()
    effect = np.log1p(PLANTED["putamen_L", "T2map"])
    assert recovered["untold"] == pytest.approx(left, abs=4 * chance / effect)
    assert recovered["told"] == pytest.approx(1.0, abs=4 * chance / effect)
    assert recovered["untold"] < recovered["told"] - 0.15
    print(
        f"\n{n_studies} studies; covered: {(covered / n_studies).to_dict()}, of all {table['covered'].mean():.3f};\n"
        f"false: {(none['p'] < 0.05).mean():.3f}, of studies after correction {false / n_studies:.3f};\n"
        f"means: {means[list(PLANTED)].to_dict()}; ComBat: {recovered.to_dict()}"
    )


def is_planted(table: pd.DataFrame) -> pd.Series[bool]:
    return pd.Series([each in PLANTED for each in zip(table["region"], table["map"], strict=True)], index=table.index)


def of_combat(studies: Studies, is_patient: NDArray[np.bool_], logs: pd.DataFrame) -> dict[str, float]:
    """Share of the effect in the putamen that is found after ComBat, which is told of it or not."""
    covariates = studies.people[["age", "sex"]].set_index(logs.index)
    told = covariates.assign(arm=np.where(is_patient, "patient", "control"))
    groups = studies.people["group"].set_axis(logs.index)
    regressors = studies.regressors(is_patient, with_groups=False)
    quantity = ("putamen_L", "T2map")
    return {
        name: float(
            np.linalg.lstsq(regressors, combat(logs, groups, known)[quantity].to_numpy(), rcond=None)[0][0]
            / np.log1p(PLANTED[quantity])
        )
        for name, known in (("untold", covariates), ("told", told))
    }
