"""ComBat takes differences between groups away; it takes an effect with it where groups lean on it, unless told."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from qmri_core.analysis.harmonisation import (
    AS_STORED,
    COMBAT,
    COMBAT_TOLD,
    WITHIN,
    combat,
    planted_effects,
    variation_between,
)
from qmri_core.analysis.power import people_needed


def cohort(n: int = 120) -> tuple[pd.DataFrame, pd.Series, pd.Series, pd.DataFrame]:
    """Logs of six quantities of people in four groups that differ by 5 %."""
    rng = np.random.default_rng(4)
    number = np.arange(n)
    groups = pd.Series([f"g{k % 4}" for k in number])
    offsets = 0.05 * rng.standard_normal((4, 6))
    logs = pd.DataFrame(offsets[number % 4] + 0.03 * rng.standard_normal((n, 6)))
    covariates = pd.DataFrame({"age": rng.uniform(20, 80, n), "sex": np.where(rng.random(n) < 0.5, "F", "M")})
    return logs, groups, pd.Series([f"p{k}" for k in number]), covariates


def test_combat_takes_differences_between_groups_away() -> None:
    logs, groups, _, covariates = cohort()
    before, after = variation_between(logs, groups), variation_between(combat(logs, groups, covariates), groups)
    assert before.mean() > 0.03
    assert after.max() < 0.006  # shrunk towards, not onto, the common mean; 0.03 / sqrt(30) is chance


def test_what_becomes_of_a_planted_effect() -> None:
    logs, groups, people, covariates = cohort()
    table = planted_effects(logs, groups, people, covariates, repetitions=8)
    found = table.set_index(["drawn", "method"])["recovered"]
    chance = 0.03 * 2 / np.sqrt(120) / 0.05 / np.sqrt(6)  # of a mean over six quantities, in shares of the effect
    for drawn in ("even", "leaning"):
        assert found[drawn, WITHIN] == pytest.approx(1.0, abs=3 * chance)
        assert found[drawn, COMBAT_TOLD] == pytest.approx(1.0, abs=4 * chance)
    assert found["even", COMBAT] == pytest.approx(1.0, abs=3 * chance)
    assert found["leaning", COMBAT] < 0.8  # it takes a part of the effect for one of scanners
    assert abs(found["leaning", AS_STORED] - 1) > abs(found["leaning", WITHIN] - 1)


@pytest.mark.parametrize("visits", [1, 3])
def test_so_many_people_find_the_effect_as_often_as_stated(visits: int) -> None:
    """The oracle: simulated studies, tested by their t test."""
    from scipy import stats

    between, within, effect, shown = 0.04, 0.03, 0.05, 0.8
    n = int(people_needed(effect, between=between, within=within, shown=shown, visits=visits))
    rng = np.random.default_rng(5)
    n_studies = 4000
    spread = np.hypot(between, within / np.sqrt(visits))
    patients = spread * rng.standard_normal((n_studies, n)) + shown * np.log1p(effect)
    controls = spread * rng.standard_normal((n_studies, n))
    found = int((stats.ttest_ind(patients, controls, axis=1).pvalue < 0.05).sum())
    assert found / n_studies > 0.79
    assert found / n_studies < 0.84  # n is rounded up, by less than one person in 15


def test_an_effect_that_is_not_shown_needs_more_people_than_there_are() -> None:
    assert people_needed(0.05, between=0.04, within=0.02, shown=0.05) == float("inf")
    assert people_needed(0.05, between=0.04, within=0.02, shown=float("nan")) == float("inf")
    assert people_needed(0.9, between=0.01, within=0.01) == 2
