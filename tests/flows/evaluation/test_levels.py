"""Levels of a store's groups against the truth, on people whose values are known in advance."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flows.calibration.calibrate import version_rows, write_versions
from flows.evaluation.levels import CALIBRATED, _of_models, level_scores_table
from flows.evaluation.voxels import MODES, NETWORK, NULL
from flows.tables.text import detail_tables
from qmri_core.calibration.levels import GroupLevel
from qmri_core.calibration.scales import ScaleCalibration
from qmri_core.series.acquisition import Contrast
from storage.store.cohort import Cohort, begin_update, commit, writing
from tests.flows import tiny_cohort

GROUPS = ("a", "b", "c")


def cohort() -> tuple[pd.DataFrame, pd.DataFrame]:
    """People of three groups, 1 % older by each decade, in maps that hold half of it; levels are right but for 1 %."""
    rng = np.random.default_rng(0)
    group = np.repeat(GROUPS, 40)
    age = np.repeat([40.0, 50.0, 60.0], 40) + rng.normal(0, 10, 120)
    true = math.log(0.85) + 0.001 * (age - 45)
    maps = math.log(0.85) + 0.0005 * (age - 45)
    logs = pd.DataFrame(
        {"group": group, "age": age, "true": true, NETWORK: maps, MODES: maps + 0.02, NULL: math.log(0.85)}
    )
    means = logs.groupby("group")["true"].mean() - math.log(0.85)
    return logs, pd.DataFrame({"level": means + 0.01, "sd": 0.001})


def test_levels_maps_and_one_constant_stand_beside_each_other() -> None:
    logs, levels = cohort()
    table = pd.DataFrame(_of_models(logs, levels, {"tissue": "WM", "map": "T1map"})).set_index("model")
    assert list(table.index) == [CALIBRATED, NETWORK, MODES, NULL]
    assert table["bias"][CALIBRATED] == pytest.approx(0.01)
    assert table["within_one"][CALIBRATED] == 1.0  # all share the one percent
    assert table["trend"][CALIBRATED] == pytest.approx(0.0, abs=1e-9)
    assert table["trend"][NETWORK] == pytest.approx(-0.0075, abs=1e-6)
    assert table["trend"][NULL] == pytest.approx(-0.015)
    assert table["cov"][NULL] == 0.0
    assert table["cov"][NETWORK] == pytest.approx(table["true_cov"][NETWORK] / 2, rel=0.02)
    assert table["ageing"][MODES] == pytest.approx(0.0075)
    assert list(table["true_ageing"]) == pytest.approx([0.015] * 4)
    assert table["ageing"][NULL] == pytest.approx(0.0)
    assert table["within_one"].drop(CALIBRATED).isna().all()


def test_a_calibration_of_before_levels_is_left_out() -> None:
    logs, levels = cohort()
    table = pd.DataFrame(_of_models(logs, levels.iloc[:2], {"tissue": "WM", "map": "T1map"}))
    assert list(table["model"]) == [NETWORK, MODES, NULL]


def calibration(level: float) -> ScaleCalibration:
    """Of a group whose white matter has a longer T1 than the population's by ``level``; known to 1 %."""
    zeros = (0.0,) * 4
    of_group = GroupLevel(
        mean=(level, 0.0, 0.0, 0.0), sd=(0.01,) * 4, from_ages=zeros, measured=zeros, n_bridging=0, component=0
    )
    numbers = dict.fromkeys(
        ("scale", "reference_signal", "white_matter_signal", "grey_matter_signal", "csf_signal"), 1.0
    ) | dict.fromkeys(("spread", "common_spread", "determined"), 0.1)
    return ScaleCalibration(**numbers, n_sessions=2, n_people=2.0, level=of_group)


def test_a_store_is_held_against_its_truth_by_groups(tmp_path: Path) -> None:
    """Statistics of `tiny_cohort`: white-matter T1 of sessions 0 and 2, and of 1 and 3, by 1 % a number."""
    location = tiny_cohort.make_store(tmp_path)
    names = [f"ses-{number:012x}" for number in range(4)]
    with writing(location) as repository:
        update = begin_update(repository, names)
        values = {
            name: {"magnetic_field_strength": 3.0, "age": 40.0 + 10 * number} for number, name in enumerate(names)
        }
        commit(repository, update, [update.session.fork()], values=values, rows=[], message="State ages")
        rows = [
            row
            for group, level in zip(tiny_cohort.GROUPS, (0.01, 0.02), strict=True)
            for row in version_rows(group, 1, {Contrast.T1W: calibration(level)}, "of a test")
        ]
        write_versions(repository, Cohort.open(location), rows, message="Calibrate", run="calibrate")
    true = pd.DataFrame({"session": names, "WM_T1_median": [0.85, 0.86, 0.87, 0.88]})
    for missing in ("WM_T2", "GM_T1", "GM_T2"):
        true[f"{missing}_median"] = math.nan
    table = level_scores_table(Cohort.open(location), tiny_cohort.statistics().sessions, true)
    assert set(zip(table["tissue"], table["map"], strict=True)) == {("WM", "T1map")}
    [(_, header, rows)] = detail_tables({"levels": table})
    assert header[:4] == ["tissue", "map", "model", "bias"]
    assert [row[2] for row in rows] == [CALIBRATED, NETWORK, MODES, NULL]
    table = table.set_index("model")
    means = [np.mean(np.log([0.85, 0.87])), np.mean(np.log([0.86, 0.88]))]
    assert table["n_groups"][CALIBRATED] == 2
    expected = np.mean([math.log(0.85) + 0.01 - means[0], math.log(0.85) + 0.02 - means[1]])
    assert table["bias"][CALIBRATED] == pytest.approx(expected)
    of_maps = [np.mean(np.log([0.85, 0.85 * 1.02])), np.mean(np.log([0.85 * 1.01, 0.85 * 1.03]))]
    assert table["bias"][NETWORK] == pytest.approx(np.mean(np.subtract(of_maps, means)))
    assert table["bias"][NULL] == pytest.approx(math.log(0.85) - np.mean(means))
    assert table["true_ageing"][NULL] == pytest.approx(15 * (math.log(0.87 / 0.85) + math.log(0.88 / 0.86)) / 40)
