"""Places of voxels among other people: those of models fitted again without whoever it is, and standard."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import stats

from qmri_core.analysis.centiles import FEWEST_PEOPLE, age_and_sex
from qmri_core.analysis.voxel_scores import People, VoxelModel, VoxelScores

SPREAD, MEASURED = 0.04, 0.02


def cohort(rng: np.random.Generator, n_people: int) -> tuple[People, NDArray[np.float64]]:
    """People of four groups, and what is expected of their logs."""
    groups = np.arange(n_people) % 4
    table = pd.DataFrame({"age": rng.uniform(20, 80, n_people), "sex": rng.choice(["F", "M"], n_people)})
    table["person"] = np.arange(n_people)
    people = People(regressors=age_and_sex(table, np.ones(n_people, bool)), groups=groups)
    expected = 0.001 * (table["age"] - 45) + 0.02 * (table["sex"] == "F") + 0.1 * groups
    return people, expected.to_numpy()


def of_person(model: VoxelModel, logs: NDArray[np.float64], person: int, measured: float = MEASURED) -> VoxelScores:
    people = model.people
    noise = np.full(len(logs), measured)
    return model.scores(logs, noise, people.regressors[person], int(people.groups[person]), person)


@pytest.mark.parametrize("n_people", [30, 90])  # a line, and splines
def test_they_are_those_of_models_that_are_fitted_again(n_people: int) -> None:
    """Voxels where some have no tissue, a whole group among them; a first visit, and a later one in another group."""
    rng = np.random.default_rng(1)
    people, expected = cohort(rng, n_people)
    logs = expected[:, None] + SPREAD * rng.standard_normal((n_people, 12))
    logs[rng.uniform(size=logs.shape) < 0.05] = np.nan
    logs[people.groups == 2, 4] = np.nan
    logs[3, 5] = np.nan
    model = VoxelModel(people, logs)
    for person, group, later in ((3, int(people.groups[3]), False), (3, 1, True), (8, int(people.groups[8]), True)):
        seen = logs[person] if not later else logs[person] + 0.03
        seen = np.where(np.isfinite(seen), seen, 0.1)
        regressors = people.regressors[person] + (0.05 if later else 0.0)
        found = model.scores(seen, np.full(12, MEASURED), regressors, group, person)
        for voxel in range(12):
            used = np.isfinite(logs[:, voxel]) & (np.arange(n_people) != person)
            dummies = (people.groups[:, None] == np.unique(people.groups[used])).astype(float)
            fitted = sm.OLS(logs[used, voxel], np.column_stack([people.regressors, dummies])[used]).fit()
            own = (group == np.unique(people.groups[used])).astype(float)
            if used.sum() < FEWEST_PEOPLE or not own.any():
                assert np.isnan(found.z[voxel])
                continue
            predicted = fitted.get_prediction(np.concatenate([regressors, own])[None])
            t = (seen[voxel] - predicted.predicted_mean[0]) / predicted.se_obs[0]
            z = stats.norm.ppf(stats.t.cdf(t, fitted.df_resid))
            assert found.z[voxel] == pytest.approx(z, abs=1e-6), (person, voxel)
            measured = (MEASURED**2 + predicted.var_pred_mean[0]) / predicted.se_obs[0] ** 2
            expected_deviation = np.sqrt(measured + z**2 / (2 * fitted.df_resid))
            assert found.deviation[voxel] == pytest.approx(expected_deviation, rel=1e-6)
            assert found.n_people[voxel] == used.sum()


def test_z_of_people_who_are_left_out_are_standard() -> None:
    rng = np.random.default_rng(2)
    people, expected = cohort(rng, 100)
    logs = expected[:, None] + SPREAD * rng.standard_normal((100, 50))
    model = VoxelModel(people, logs)
    z = np.stack([of_person(model, logs[k], k).z for k in range(100)])
    assert z.mean() == pytest.approx(0.0, abs=0.01)
    assert z.std() == pytest.approx(1.0, abs=0.05)  # 5,000 voxels: 1 %
    n = z.size
    for beyond in ((z < stats.norm.ppf(0.05)).sum(), (z > stats.norm.ppf(0.95)).sum()):
        low, high = stats.binom.interval(0.999, n, 0.05)
        assert low <= beyond <= high


def test_the_deviation_is_that_of_z_over_measurements_and_cohorts() -> None:
    """One person, measured again and again beside cohorts that are drawn anew."""
    rng = np.random.default_rng(3)
    people, expected = cohort(rng, 40)
    found, stated = [], []
    for _ in range(60):
        logs = expected[:, None] + SPREAD * rng.standard_normal((40, 20))
        seen = expected[0] + 1.5 * SPREAD + MEASURED * rng.standard_normal(20)
        scores = of_person(VoxelModel(people, logs), seen, 0)
        found.append(scores.z)
        stated.append(scores.deviation)
    assert np.std(found) == pytest.approx(np.sqrt(np.mean(np.square(stated))), rel=0.08)  # 1,200 values


def test_a_lesion_is_seen_where_it_is_and_only_there() -> None:
    rng = np.random.default_rng(4)
    people, expected = cohort(rng, 60)
    logs = expected[:, None] + SPREAD * rng.standard_normal((60, 500))
    logs[7, 100:120] += np.log(1.5)
    z = of_person(VoxelModel(people, logs), logs[7], 7).z
    assert z[100:120].min() > 5
    assert np.abs(np.delete(z, slice(100, 120))).max() < 5
    others = of_person(VoxelModel(people, logs), logs[8], 8).z  # whom the lesion of one among sixty hardly touches
    assert np.abs(others).max() < 5


def test_where_few_others_have_tissue_nothing_is_said() -> None:
    rng = np.random.default_rng(5)
    people, expected = cohort(rng, 40)
    logs = expected[:, None] + SPREAD * rng.standard_normal((40, 2))
    logs[: 40 - FEWEST_PEOPLE, 1] = np.nan
    last, first = (of_person(VoxelModel(people, logs), logs[30] if k else logs[0] + 0, k) for k in (30, 0))
    assert np.isfinite(last.z).tolist() == [True, False]  # one of twenty: nineteen others
    assert last.n_people.tolist() == [39, FEWEST_PEOPLE - 1]
    assert np.isnan(first.z[1])  # who has no tissue there
    assert first.n_people.tolist() == [39, FEWEST_PEOPLE]


def test_a_cohort_of_one_sex_is_no_trouble() -> None:
    rng = np.random.default_rng(6)
    people, expected = cohort(rng, 30)
    people.regressors[:, -1] = 1.0
    logs = expected[:, None] + SPREAD * rng.standard_normal((30, 5))
    model = VoxelModel(people, logs)
    assert (model.freedom == 30 - 4 - 1).all()
    assert np.isfinite(of_person(model, logs[2], 2).z).all()
