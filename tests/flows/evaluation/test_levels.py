"""Levels of a store's groups against the truth, on people whose values are known in advance."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from flows.evaluation.levels import CALIBRATED, _of_models
from flows.evaluation.voxels import MODES, NETWORK, NULL

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
