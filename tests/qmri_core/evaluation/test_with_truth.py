"""Figures of merit against small cases worked by hand and against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmri_core.evaluation.with_truth import (
    MIN_REGION_VOXELS,
    Truth,
    compare_session,
    contrast_ratio,
    pair_agreement,
    pure_tissues,
    region_medians,
    resample_truth,
    truth_on_grid,
    voxel_agreement,
)
from qmri_core.simulation.subjects import CLASSES

EVERYWHERE = np.ones((2, 3, 4), dtype=bool)


def ramp(shape: tuple[int, int, int]) -> np.ndarray:
    return (1 + np.arange(np.prod(shape), dtype=np.float32)).reshape(shape)


def test_errors_of_a_map_that_reads_ten_percent_high() -> None:
    true = ramp((2, 3, 4))
    result = voxel_agreement(1.1 * true, true, EVERYWHERE, sd=0.06 * true)
    assert result.n == 24
    assert result.bias == pytest.approx(0.1, rel=1e-5)
    assert result.median_error == pytest.approx(0.1, rel=1e-5)
    assert (result.within_one, result.within_two) == (0.0, 1.0)
    assert result.moments.slope == pytest.approx(1.1, rel=1e-6)


def test_a_constant_map_has_no_correlation_within_its_tissue_however_small_its_error() -> None:
    true = 1 + 0.001 * ramp((2, 3, 4))
    result = voxel_agreement(np.full_like(true, true.mean()), true, EVERYWHERE)
    assert result.median_error < 0.01
    assert result.moments.slope == pytest.approx(0.0, abs=1e-9)
    assert np.isnan(result.within_one)


def test_voxels_without_a_map_or_truth_do_not_count() -> None:
    true = ramp((2, 3, 4))
    true[0, 0, 0] = 0
    estimated = true.copy()
    estimated[1, 1, 1] = np.nan
    assert voxel_agreement(estimated, true, EVERYWHERE).n == 22
    empty = voxel_agreement(estimated, true, ~EVERYWHERE)
    assert empty.n == 0
    assert np.isnan(empty.median_error)


@given(seed=st.integers(0, 1000), spread=st.floats(0.01, 0.3))
def test_stated_deviations_that_are_true_cover_as_a_normal_distribution_does(seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    true = np.full((20, 20, 50), 5.0, dtype=np.float32)
    estimated = (true + spread * rng.standard_normal(true.shape)).astype(np.float32)
    result = voxel_agreement(estimated, true, np.ones(true.shape, dtype=bool), sd=np.full_like(true, spread))
    # 20,000 voxels: four standard errors of a share are 0.014
    assert result.within_one == pytest.approx(0.6827, abs=0.014)
    assert result.within_two == pytest.approx(0.9545, abs=0.014)


def test_pure_voxels_hold_one_tissue() -> None:
    fractions = np.array([[0.98, 0.5, 0.0, 0.0], [0.0, 0.5, 0.97, 0.03], [0.02, 0.0, 0.03, 0.97]], dtype=np.float32)
    pure = pure_tissues(fractions.reshape(3, 1, 1, 4))
    assert [int(each.sum()) for each in pure.values()] == [1, 1, 1, 2]


def test_medians_of_regions_and_contrast_of_a_lesion() -> None:
    labels = np.repeat([1, 2, 3], MIN_REGION_VOXELS).reshape(1, 3, MIN_REGION_VOXELS)
    labels[0, 2, 0] = 1
    true = np.where(labels == 2, 1.4, 0.8).astype(np.float32)
    estimated = np.where(labels == 2, 1.1, 0.8).astype(np.float32)
    regions = {"wm": 1, "lesion": 2, "few": 3}
    found = region_medians(estimated, labels, regions)
    assert found["lesion"] == pytest.approx(1.1)
    assert np.isnan(found["few"])
    ratio = contrast_ratio(found, region_medians(true, labels, regions), "lesion", "wm")
    assert ratio == pytest.approx(0.5, rel=1e-6)


def test_two_scans_differ_relative_to_their_mean() -> None:
    first = np.full((2, 3, 4), 0.9, dtype=np.float32)
    second = np.full((2, 3, 4), 1.1, dtype=np.float32)
    moments, difference = pair_agreement(first, second, EVERYWHERE)
    assert difference == pytest.approx(0.2, rel=1e-5)
    assert moments.count == 24
    assert pair_agreement(second, first, EVERYWHERE)[1] == pytest.approx(difference)


def test_truth_on_a_coarser_grid_is_the_mean_over_its_voxels() -> None:
    fine = ramp((4, 6, 8))
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    coarse = np.diag([2.0, 2.0, 2.0, 1.0])
    coarse[:3, 3] = 0.5
    means, weight = resample_truth(fine[None], np.ones_like(fine), affine, shape=(2, 3, 4), to=coarse)
    expected = fine.reshape(2, 2, 3, 2, 4, 2).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(means[0], expected, rtol=1e-6)
    np.testing.assert_allclose(weight, 1.0, rtol=1e-6)


def test_truth_counts_by_its_weight_and_is_unknown_where_there_is_none() -> None:
    values, weight = ramp((2, 2, 2)), np.zeros((2, 2, 2), dtype=np.float32)
    weight[0, 0, 1] = 1.0
    coarse = np.diag([2.0, 2.0, 2.0, 1.0])
    coarse[:3, 3] = 0.5
    means, total = resample_truth(values[None], weight, np.eye(4), shape=(1, 1, 2), to=coarse)
    assert means[0, 0, 0, 0] == pytest.approx(2.0)
    assert total[0, 0, 0] == pytest.approx(1 / 8)
    assert np.isnan(means[0, 0, 0, 1])


def test_truth_follows_a_rotated_and_flipped_grid() -> None:
    values = ramp((3, 4, 5))
    to = np.array([[0.0, 0, -1, 4], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # x of the truth runs against z
    means, _ = resample_truth(values[None], np.ones_like(values), np.eye(4), shape=(5, 3, 4), to=to)
    np.testing.assert_allclose(means[0], np.transpose(values[:, :, ::-1], (2, 0, 1)), rtol=1e-6)


def test_true_maps_mix_in_coarse_voxels_as_in_those_of_the_truth() -> None:
    """White matter beside CSF beside air, in voxels of two: rates weighted by PD, worked by hand."""
    fractions = np.zeros((3, 1, 1, 4), dtype=np.float32)
    fractions[2, ..., :2], fractions[0, ..., 2] = 1.0, 1.0
    row = {
        name: np.array(values, dtype=np.float32).reshape(1, 1, 4)
        for name, values in {
            "t1": [0.8, 0.8, 4.0, 1.0], "t2": [0.08, 0.08, 2.0, 0.1], "pd": [0.7, 0.7, 1.0, 0.0]
        }.items()
    }  # fmt: skip
    truth = Truth(**row, fractions=fractions, labels=np.zeros((1, 1, 4), dtype=np.uint8), affine=np.eye(4))
    coarse = np.diag([2.0, 1.0, 1.0, 1.0])
    coarse[0, 3] = 1.5  # the first voxel is half white matter, half CSF; the second is outside
    (t1, t2, pd), shares = truth_on_grid(truth, shape=(1, 1, 2), affine=coarse)
    assert t1[0, 0, 0] == pytest.approx(1.7 / (0.7 / 0.8 + 1 / 4), rel=1e-5)
    assert t2[0, 0, 0] == pytest.approx(1.7 / (0.7 / 0.08 + 1 / 2), rel=1e-5)
    assert pd[0, 0, 0] == pytest.approx(0.85, rel=1e-5)
    assert shares[:, 0, 0, 0] == pytest.approx([0.5, 0.0, 0.5])
    assert np.isnan([t1[0, 0, 1], t2[0, 0, 1], pd[0, 0, 1]]).all()


def test_a_region_holds_no_voxel_whose_label_is_pure_and_whose_content_is_not() -> None:
    """Half of the cortex is a third CSF, and labelled cortex all the same: it counts nowhere."""
    shape = (4, 10, 10)
    fractions = np.zeros((3, *shape), dtype=np.float32)
    fractions[1] = 1.0
    fractions[:2, :, 5:] = np.array([1 / 3, 2 / 3], dtype=np.float32)[:, None, None, None]
    t1 = np.where(fractions[0] > 0, 3.0, 1.5).astype(np.float32)
    truth = Truth(
        t1=t1,
        t2=np.full(shape, 0.1, dtype=np.float32),
        pd=np.full(shape, 0.8, dtype=np.float32),
        fractions=fractions,
        labels=np.full(shape, CLASSES.index("gm") + 1, dtype=np.uint8),
        affine=np.eye(4),
    )
    estimate = [np.where(t1 > 2, 9.0, 1.8).astype(np.float32), truth.t2, truth.pd]
    _, by_region = compare_session({"model": estimate}, {}, truth, 3.0, np.eye(4))
    cortex = next(r for r in by_region if (r["model"], r["map"], r["region"]) == ("model", "T1map", "gm"))
    assert (cortex["estimated"], cortex["true"]) == pytest.approx((1.8, 1.5))
