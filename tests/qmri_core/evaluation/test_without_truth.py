"""Structural similarity against its definition window by window; bright white matter against a volume made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from qmri_core.evaluation.without_truth import image_agreement, lesion_candidates, resynthesis, structural_similarity
from qmri_core.physics.registry import signal
from tests.protocols import plain_protocol

SHAPE = (3, 24, 20)
AFFINE = np.diag([2.0, 1.0, 5.0, 1.0])
"""Voxels of 0.01 ml."""


def pictures(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two images that are alike, and a mask with a ragged edge."""
    rng = np.random.default_rng(seed)
    first = (1 + rng.uniform(size=SHAPE)).astype(np.float32)
    second = (first + 0.1 * rng.normal(size=SHAPE)).astype(np.float32)
    y, x = np.mgrid[:24, :20]
    mask = np.stack([(y - 12) ** 2 + (x - 10) ** 2 < radius**2 for radius in (0.0, 7.5, 9.5)])
    return first, second, mask


def windowed_similarity(first: np.ndarray, second: np.ndarray, mask: np.ndarray, data_range: float) -> float:
    """Equation 13 of Wang et al. 2004, one voxel after the other, with 11 x 11 weights over the voxels in the mask."""
    offsets = range(-5, 6)
    values = []
    for z, y, x in np.argwhere(mask):
        places = [
            ((z, y + dy, x + dx), math.exp(-(dy**2 + dx**2) / (2 * 1.5**2)))
            for dy in offsets
            for dx in offsets
            if 0 <= y + dy < mask.shape[1] and 0 <= x + dx < mask.shape[2] and mask[z, y + dy, x + dx]
        ]
        weights = np.array([weight for _, weight in places])
        weights /= weights.sum()
        a, b = (np.array([image[place] for place, _ in places], dtype=np.float64) for image in (first, second))
        ma, mb = weights @ a, weights @ b
        va, vb, cov = weights @ (a - ma) ** 2, weights @ (b - mb) ** 2, weights @ ((a - ma) * (b - mb))
        c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
        values.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return float(np.mean(values))


def test_similarity_is_that_of_its_definition() -> None:
    first, second, mask = pictures()
    found = structural_similarity(first, second, mask, data_range=1.0)
    assert_allclose(found, windowed_similarity(first, second, mask, 1.0), rtol=1e-9)
    assert 0.5 < found < 0.98


def test_an_image_is_like_itself_and_unlike_its_negative() -> None:
    first, second, mask = pictures()
    assert structural_similarity(first, first, mask, data_range=1.0) == pytest.approx(1, abs=1e-12)
    assert structural_similarity(first, 3 - first, mask, data_range=1.0) < 0
    both = [structural_similarity(*each, mask, data_range=1.0) for each in ((first, second), (second, first))]
    assert both[0] == pytest.approx(both[1], rel=1e-12)


def test_only_the_brain_counts_and_slices_do_not_touch_each_other() -> None:
    first, second, mask = pictures()
    alone = structural_similarity(first, second, mask, data_range=1.0)
    outside = np.where(mask, second, np.float32(np.nan))
    assert structural_similarity(first, outside, mask, data_range=1.0) == pytest.approx(alone, rel=1e-12)
    slices = [structural_similarity(first[[z]], second[[z]], mask[[z]], data_range=1.0) for z in (1, 2)]
    counts = mask.sum(axis=(1, 2))[1:]
    assert alone == pytest.approx(np.average(slices, weights=counts), rel=1e-12)


def test_nothing_to_compare_is_not_a_number() -> None:
    first, second, mask = pictures()
    assert math.isnan(structural_similarity(first, second, np.zeros_like(mask), data_range=1.0))
    assert math.isnan(structural_similarity(first, second, mask, data_range=0.0))
    found = image_agreement(first, np.full_like(first, np.nan), mask)
    assert found.n == 0
    assert math.isnan(found.error)
    assert math.isnan(found.similarity)
    assert math.isnan(image_agreement(first, -first, mask).error)  # relative to nothing positive


def test_a_gain_of_ten_percent_is_an_error_of_ten_percent_and_changes_no_structure() -> None:
    first, _, mask = pictures()
    found = image_agreement(1.1 * first, first, mask)
    assert found.n == mask.sum()
    assert found.error == pytest.approx(0.1, rel=1e-5)
    assert found.similarity > 0.95


def test_the_range_is_the_acquired_image_s_without_its_extremes() -> None:
    first, second, mask = pictures()
    inside = first[mask].astype(np.float64)
    expected = windowed_similarity(first, second, mask, float(np.subtract(*np.quantile(inside, [0.995, 0.005]))))
    assert image_agreement(second, first, mask).similarity == pytest.approx(expected, rel=1e-9)


def test_images_made_of_the_maps_are_given_back() -> None:
    first, second, mask = pictures()
    maps = {"T1map": first, "T2map": 0.1 * second, "PDmap": np.clip(second / 2, 0.5, 1.0)}
    maps["T1map"] = np.where(first > 1.99, np.float32(np.nan), first)
    for contrast, acquisition in plain_protocol().items():
        values = [torch.from_numpy(maps[name]).double() for name in ("PDmap", "T1map", "T2map")]
        image = (250 * signal(acquisition, *values).abs()).numpy().astype(np.float32)
        found = resynthesis(acquisition, image, 250.0, maps, mask)
        assert found.n == (mask & np.isfinite(maps["T1map"])).sum()
        assert found.error < 2e-3, contrast  # the lookup table is within 0.2 % of the phase graph
        assert found.similarity > 0.999
        assert resynthesis(acquisition, image, 200.0, maps, mask).error == pytest.approx(0.2, abs=3e-3)


def white_matter(n_bright: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """A block of white matter in grey matter, with bright voxels within: T1 1.5, T2 2 and PD 1.2 times the rest's."""
    tissue = np.full((9, 16, 14), 2, dtype=np.uint8)
    tissue[1:8, 1:15, 1:13] = 3
    flair = np.random.default_rng(0).normal(100, 2, tissue.shape).clip(95, 105).astype(np.float32)
    where = np.zeros(tissue.shape, dtype=bool)
    where.ravel()[np.flatnonzero((np.indices(tissue.shape).sum(axis=0) % 7 == 0) & _within(tissue))[:n_bright]] = True
    flair[where] = 200
    ratios = {"T1map": (0.8, 1.5), "T2map": (0.07, 2.0), "PDmap": (0.7, 1.2)}
    maps = {name: (level * np.where(where, ratio, 1.0)).astype(np.float32) for name, (level, ratio) in ratios.items()}
    return tissue, flair, maps


def _within(tissue: np.ndarray) -> np.ndarray:
    inside = np.zeros(tissue.shape, dtype=bool)
    inside[2:7, 2:14, 2:12] = True
    return inside


def test_bright_white_matter_is_counted_and_compared_with_the_rest() -> None:
    tissue, flair, maps = white_matter(30)
    flair[0] = flair[1] = 500  # grey matter, and the border of white matter: not looked at
    found = lesion_candidates(tissue, flair, maps, AFFINE)
    assert found.voxels == 30
    assert found.millilitres == pytest.approx(0.3)
    assert found.ratios == {
        name: pytest.approx(ratio) for name, ratio in (("T1map", 1.5), ("T2map", 2), ("PDmap", 1.2))
    }


def test_few_bright_voxels_give_no_ratio_and_no_flair_gives_no_number() -> None:
    tissue, flair, maps = white_matter(19)
    found = lesion_candidates(tissue, flair, maps, AFFINE)
    assert found.voxels == 19
    assert all(math.isnan(ratio) for ratio in found.ratios.values())
    for missing in (None, np.full_like(flair, np.nan)):
        found = lesion_candidates(tissue, missing, maps, AFFINE)
        assert math.isnan(found.voxels)
        assert math.isnan(found.millilitres)
        assert set(found.ratios) == {"T1map", "T2map", "PDmap"}
        assert all(math.isnan(ratio) for ratio in found.ratios.values())
    assert math.isnan(lesion_candidates(np.zeros_like(tissue), flair, maps, AFFINE).voxels)


def test_the_threshold_is_three_robust_deviations_above_the_median() -> None:
    tissue, _, maps = white_matter(0)
    levels = np.repeat([99, 100, 101, 104.4, 104.5], [250, 100, 200, 25, 25])  # median 100, of the deviations 1
    assert 104.4 < 100 + 3 * 1.4826 < 104.5
    flair = np.full(tissue.shape, 300, dtype=np.float32)
    flair[_within(tissue)] = np.random.default_rng(0).permutation(levels)
    found = lesion_candidates(tissue, flair, maps, AFFINE)
    assert found.voxels == 25
    assert found.ratios["T2map"] == pytest.approx(1)
