"""Statistics against NumPy, by properties."""

from __future__ import annotations

import math
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmri_core.statistics import (
    JointMoments,
    Moments,
    agreement,
    densest,
    inter_group_variation,
    tissue_statistics,
    unseen_variation,
)

values = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60)


@given(parts=st.lists(values, min_size=1, max_size=6))
def test_any_partition_merges_to_the_whole(parts: list[list[float]]) -> None:
    whole = np.concatenate([np.asarray(part) for part in parts])
    merged = reduce(add, (Moments.of(part) for part in parts), Moments())
    assert merged.count == whole.size
    np.testing.assert_allclose(merged.mean, whole.mean(), rtol=1e-9, atol=1e-6)
    scale = max(1.0, float(np.abs(whole).max())) ** 2
    np.testing.assert_allclose(
        merged.sum_squared_deviations, whole.var() * whole.size, rtol=1e-9, atol=1e-9 * scale * whole.size
    )


def test_standard_deviation_is_that_of_numpy_and_nan_without_enough_values() -> None:
    assert Moments.of([1.0, 2.0, 4.0]).standard_deviation() == pytest.approx(np.std([1.0, 2.0, 4.0], ddof=1))
    assert np.isnan(Moments.of([1.0]).standard_deviation())
    assert np.isnan(Moments().standard_deviation())


def test_not_computed_voxels_do_not_count() -> None:
    result = tissue_statistics(np.array([1.0, np.nan, 3.0, 2.0], dtype=np.float32))
    assert (result.n, result.mean, result.median) == (3, 2.0, 2.0)
    assert result.q25 == pytest.approx(np.quantile([1.0, 2.0, 3.0], 0.25))
    empty = tissue_statistics(np.array([np.nan], dtype=np.float32))
    assert empty.n == 0
    assert np.isnan([empty.median, empty.mode]).all()


def test_variation_counts_groups_once_whatever_their_size() -> None:
    result = inter_group_variation([[1.0] * 100, [3.0], [np.nan]])
    assert result.n_groups == 2
    assert result.mean == 2.0
    assert result.cov == pytest.approx(np.std([1.0, 3.0], ddof=1) / 2.0)
    assert np.isnan(inter_group_variation([[1.0]]).cov)


def test_a_constant_map_has_no_slope() -> None:
    true = np.array([0.8, 0.85, 0.9])
    assert agreement(np.full(3, 0.85), true).slope == 0.0
    assert np.isnan(agreement(np.full(3, 0.85), true).r)


@given(gain=st.floats(0.1, 3.0), offset=st.floats(-1.0, 1.0))
def test_slope_recovers_a_line_and_ccc_falls_off_identity(gain: float, offset: float) -> None:
    true = np.linspace(0.7, 1.5, 9)
    result = agreement(gain * true + offset, true)
    assert result.slope == pytest.approx(gain)
    assert result.r == pytest.approx(1.0)
    assert result.ccc <= 1.0 + 1e-12
    assert agreement(true, true).ccc == pytest.approx(1.0)


def test_values_centred_on_zero_have_a_slope_but_no_relative_error() -> None:
    result = agreement([-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0])
    assert result.slope == pytest.approx(2.0)
    assert np.isnan(result.bias)


def test_unpaired_values_are_refused() -> None:
    with pytest.raises(ValueError, match="pairs"):
        agreement([1.0, 2.0], [1.0])


pairs = st.lists(st.tuples(st.floats(-1e3, 1e3, width=32), st.floats(-1e3, 1e3, width=32)), min_size=1, max_size=40)


@given(parts=st.lists(pairs, min_size=1, max_size=5))
def test_any_partition_of_pairs_merges_to_the_whole(parts: list[list[tuple[float, float]]]) -> None:
    x, y = np.asarray([pair for part in parts for pair in part]).T
    merged = reduce(add, (JointMoments.of(*np.asarray(part).T) for part in parts), JointMoments())
    assert merged.count == x.size
    scale = max(1.0, float(np.abs([x, y]).max())) ** 2 * x.size
    covariance = np.cov(x, y, ddof=0) * x.size if x.size > 1 else np.zeros((2, 2))
    found = np.array([[merged.sum_xx, merged.sum_xy], [merged.sum_xy, merged.sum_yy]])
    np.testing.assert_allclose(found, covariance, rtol=1e-9, atol=1e-9 * scale)
    np.testing.assert_allclose([merged.mean_x, merged.mean_y], [x.mean(), y.mean()], rtol=1e-9, atol=1e-9)


def test_centred_parts_hide_differences_of_means() -> None:
    x = np.array([1.0, 2.0, 3.0])
    apart = JointMoments.of(x, x) + JointMoments.of(x + 10, x - 10)
    assert apart.slope < 0
    assert (JointMoments.of(x, x).centred() + JointMoments.of(x + 10, x - 10).centred()).slope == pytest.approx(1.0)


def test_correlation_and_concordance_are_those_of_their_definitions() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=50)
    y = 0.5 * x + rng.normal(size=50) + 0.3
    moments = JointMoments.of(x, y)
    assert moments.r == pytest.approx(np.corrcoef(x, y)[0, 1])
    expected = 2 * np.cov(x, y, ddof=0)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    assert moments.ccc == pytest.approx(expected)


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.45), st.floats(0.01, 100.0))
@settings(max_examples=25)
def test_where_values_crowd_tails_do_not_reach(seed: int, share: float, unit: float) -> None:
    """Grey matter of 3 % of noise, a share of whose voxels holds up to half of a fluid three times as bright."""
    rng = np.random.default_rng(seed)
    fluid = np.where(rng.random(20_000) < share, rng.uniform(0, 0.5, 20_000), 0)
    values = unit * (1 + 2 * fluid) * np.exp(0.03 * rng.standard_normal(20_000))
    assert densest(values) == pytest.approx(unit, rel=0.015)
    assert np.median(values) >= densest(values) * 0.985
    np.testing.assert_allclose(densest(1000 * values), 1000 * densest(values), rtol=1e-9)
    assert math.isnan(densest(-values))


@given(st.lists(st.floats(0.01, 100.0), min_size=1, max_size=40))
def test_the_mode_is_the_mean_of_the_shortest_interval_with_a_quarter_of_the_values(numbers: list[float]) -> None:
    """Against all intervals one by one: of those that are as short, one is right."""
    logs = np.sort(np.log(numbers))
    n = math.ceil(len(logs) / 4)
    intervals = [logs[first : first + n] for first in range(len(logs) - n + 1)]
    shortest = min(each[-1] - each[0] for each in intervals)
    right = [math.exp(each.mean()) for each in intervals if each[-1] - each[0] <= shortest + 1e-12]
    found = tissue_statistics(np.asarray(numbers)).mode
    assert any(found == pytest.approx(each, rel=1e-9) for each in right)


@pytest.mark.parametrize("seen", [0.0, 0.5, 2.0])
def test_true_variation_is_what_is_seen_and_what_is_imposed_away(seen: float) -> None:
    """The oracle draws true means about posterior means, and takes their variation."""
    rng = np.random.default_rng(4)
    n, sd = 12, 1.0
    means = seen * rng.standard_normal(n)
    drawn = means + sd * rng.standard_normal((20_000, n))
    errors = np.full(n, sd * math.sqrt(1 - 1 / n))  # beside the mean over groups
    found = unseen_variation(means, errors)
    true = drawn.std(axis=1, ddof=1)
    assert found.imposed == pytest.approx(sd)
    assert math.sqrt(means.var(ddof=1) + found.imposed**2) == pytest.approx(np.sqrt(np.mean(true**2)), rel=0.01)
    assert found.error == pytest.approx(true.std(), rel=0.1)


def test_errors_of_few_differences_leave_the_variation_less_certain() -> None:
    """The oracle draws errors that two numbers make, as where two sets of groups are known beside each other."""
    rng = np.random.default_rng(5)
    n = 12
    shape = np.linalg.qr(rng.standard_normal((n, 3)) - 1 / n)[0][:, :2]
    shape -= shape.mean(axis=0)
    drawn = rng.standard_normal((20_000, 2)) @ shape.T
    covariance = shape @ shape.T
    errors = np.sqrt(np.diag(covariance))
    freedom = float(np.trace(covariance) ** 2 / np.sum(covariance**2))
    found = unseen_variation(np.zeros(n), errors, freedom)
    variances = drawn.var(axis=1, ddof=1)
    assert found.imposed**2 == pytest.approx(variances.mean(), rel=0.02)
    assert found.error == pytest.approx(variances.std() / (2 * found.imposed), rel=0.05)
    assert found.error > 1.5 * unseen_variation(np.zeros(n), errors).error


def test_what_is_imposed_is_not_known_of_one_group_or_without_an_error() -> None:
    for means, errors in (([1.0], [0.1]), ([1.0, 2.0], [0.1, math.nan]), ([1.0, math.nan], [0.1, 0.1])):
        assert math.isnan(unseen_variation(means, errors).imposed)
    assert unseen_variation([1.0, 1.0], [0.0, 0.0]).error == 0.0
