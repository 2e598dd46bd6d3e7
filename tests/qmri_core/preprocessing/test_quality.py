"""Quality figures against images whose noise, contrast, blur and ghosts are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from qmri_core.preprocessing.bias_field import thinned
from qmri_core.preprocessing.quality import (
    LIMITS,
    USUAL_GHOSTS,
    artefacts,
    contrast_of,
    figures_of_contrast,
    focus,
    ghosts,
    is_saturated,
    marks,
    noise,
    sharpness,
)
from qmri_core.series.geometry import FIELD_SHAPE, Volume
from tests.qmri_core.preprocessing import heads

SPACING = (2.0, 2.0, 2.0)
SHAPE = (40, 48, 44)


def head() -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Values and tissue of a ball of white matter in grey matter in air."""
    z, y, x = np.indices(SHAPE)
    radius = np.sqrt((z - 20.0) ** 2 + (y - 24.0) ** 2 + (x - 22.0) ** 2)
    tissue = np.where(radius < 9, 3, np.where(radius < 13, 2, 0)).astype(np.uint8)
    return np.choose(tissue, [0.0, 0.0, 100.0, 150.0]).astype(np.float32), tissue


def noisy(array: NDArray[np.float32], deviation: float, seed: int = 0) -> NDArray[np.float32]:
    """Magnitude image with noise of a standard deviation in both channels."""
    rng = np.random.default_rng(seed)
    parts = rng.normal(0, deviation, (2, *array.shape))
    return np.hypot(array + parts[0], parts[1]).astype(np.float32)


def volume(array: NDArray[np.float32]) -> Volume:
    return Volume(array=array, affine=np.diag([*SPACING, 1.0]))


@pytest.mark.parametrize("deviation", [2.0, 5.0, 10.0])
def test_noise_is_the_deviation_that_was_added(deviation: float) -> None:
    values, tissue = head()
    assert noise(volume(noisy(values, deviation)), tissue > 0) == pytest.approx(deviation, rel=0.12)  # 1,500 blocks


def test_noise_is_not_known_where_there_is_no_room() -> None:
    values, _ = head()
    assert math.isnan(noise(volume(values), np.zeros(SHAPE, dtype=bool)))


def test_contrast_is_that_of_the_medians() -> None:
    values, tissue = head()
    assert contrast_of(values, tissue) == pytest.approx((50 / 250, 150.0, 100.0))


def test_blur_makes_an_edge_less_steep_and_noise_does_not() -> None:
    values, tissue = head()
    figures = [
        sharpness(ndimage.gaussian_filter(values, width), tissue, SPACING, 50.0) for width in (0.0, 0.7, 1.5, 2.5)
    ]
    assert figures == sorted(figures, reverse=True)
    assert figures[0] > 2 * figures[-1] > 0
    assert sharpness(noisy(values, 5.0), tissue, SPACING, 50.0) == pytest.approx(figures[0], rel=0.05)
    inverted = sharpness(-values, tissue, SPACING, -50.0)
    assert inverted == pytest.approx(figures[0])


def test_ghosts_are_seen_in_the_air_and_noise_is_not() -> None:
    values, _ = head()
    clean = artefacts(volume(noisy(values, 3.0)), 150.0)
    ghost = values + 0.1 * np.roll(values, 23, axis=1)  # motion of every other line puts it half a field of view away
    assert clean < 0.002
    assert artefacts(volume(noisy(ghost, 3.0)), 150.0) > LIMITS["artefacts"][1]


def test_air_that_was_filled_is_not_judged() -> None:
    values, _ = head()
    assert math.isnan(artefacts(volume(values), 150.0))
    assert math.isnan(artefacts(volume(np.full(SHAPE, 100.0, dtype=np.float32)), 100.0))


def of_head(array: NDArray[np.floating], spacing: float = 3.0) -> Volume:
    return Volume(array=heads.noisy(array, 3.0), affine=np.diag([spacing, spacing, spacing, 1.0]))


STILL, BRAIN = heads.head()


def two_copies(share: float, axis: int) -> NDArray[np.floating]:
    return (
        (1 - share) * STILL + 0.6 * share * np.roll(STILL, 9, axis=axis) + 0.4 * share * np.roll(STILL, -17, axis=axis)
    )


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_ghosts_within_the_head_are_as_strong_as_they_are(axis: int) -> None:
    found = [ghosts(of_head(two_copies(share, axis))) for share in (0.0, 0.2, 0.3, 0.4)]
    assert found[0] < USUAL_GHOSTS
    assert found == sorted(found)
    assert found[3] > found[2] > LIMITS["ghosts"][1]
    # a copy of 24 % beside a head of 60 % and another copy; noise hides a part of the ripple
    assert 0.15 < found[3] < 0.45


def test_a_ghost_half_a_field_of_view_away_and_periodic_motion_are_seen() -> None:
    halves = [
        ghosts(of_head((1 - a) * STILL + a * np.roll(STILL, STILL.shape[1] // 2, axis=1))) for a in (0.0, 0.1, 0.2)
    ]
    assert halves == sorted(halves)
    assert halves[1] > LIMITS["ghosts"][1]
    motion = [ghosts(of_head(heads.moved(STILL, amplitude, 8))) for amplitude in (0.0, 1.0, 2.0)]
    assert motion == sorted(motion)
    assert motion[2] > LIMITS["ghosts"][1]


@pytest.mark.parametrize(
    "untroubled",
    [
        STILL,
        ndimage.gaussian_filter(STILL, (0.0, 0.6, 0.6)),
        heads.noisy(STILL, 8.0),
        STILL[:, :, 12:48],
        np.where(STILL > 20, STILL, 0),
    ],
    ids=["still", "blurred", "noisy", "cut", "masked"],
)
def test_anatomy_alone_makes_no_ghosts(untroubled: NDArray[np.float32]) -> None:
    assert ghosts(of_head(untroubled)) < LIMITS["ghosts"][1]


def test_ghosts_are_not_known_of_a_few_voxels() -> None:
    assert math.isnan(ghosts(volume(np.ones((20, 20, 20), dtype=np.float32))))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda strength: two_copies(0.4 * strength, 1),
        lambda strength: heads.moved(STILL, 2 * strength, 8),
        lambda strength: ndimage.gaussian_filter(STILL, 1.2 * strength),
        lambda strength: heads.noisy(STILL, 12.0 * strength),
    ],
    ids=["ghosts", "motion", "blur", "noise"],
)
def test_entropy_rises_with_whatever_spoils_an_image(spoil: Callable[[float], NDArray[np.floating]]) -> None:
    found = [focus(of_head(spoil(strength))) for strength in (0.0, 0.4, 0.7, 1.0)]
    assert found == sorted(found)
    assert found[-1] - found[0] > 0.01
    assert 0 < found[0] < found[-1] < 1


def test_entropy_of_one_voxel_and_of_all_alike() -> None:
    one = np.zeros((32, 32, 32), dtype=np.float32)
    one[16, 16, 16] = 5.0
    assert focus(volume(one)) == pytest.approx(0.0, abs=1e-6)
    assert focus(volume(np.full((32, 32, 32), 3.0, dtype=np.float32))) == pytest.approx(1.0)
    assert math.isnan(focus(volume(np.zeros((32, 32, 32), dtype=np.float32))))


def test_ghosts_take_from_signal_to_noise_and_from_sharpness() -> None:
    values, tissue = head()
    wide = tuple((margin, margin) for margin in (6, 6, 6))

    def figures(array: NDArray[np.float32]) -> dict[str, float]:
        return figures_of_contrast(volume(np.pad(array, wide)), np.pad(tissue > 0, wide), array, tissue, SPACING)

    still = noisy(values, 3.0)
    copies = (0.6 * still + 0.25 * np.roll(still, 9, axis=1) + 0.15 * np.roll(still, -17, axis=1)).astype(np.float32)
    good, bad = figures(still), figures(copies)
    assert bad["ghosts"] > LIMITS["ghosts"][1] > good["ghosts"]
    assert bad["snr"] < 0.5 * good["snr"]
    assert bad["sharpness"] < good["sharpness"]


def test_marks_name_what_is_beyond_its_limit() -> None:
    values, tissue = head()
    figures = figures_of_contrast(volume(noisy(values, 3.0)), tissue > 0, values, tissue, SPACING)
    assert set(figures) == {"snr", "contrast", "sharpness", "artefacts", "ghosts", "focus"}
    assert figures["snr"] == pytest.approx(50.0, rel=0.12)
    good = {"brain_volume": 1.4, "coverage": 1.0, "alignment_residual": 0.3, "T1w_snr": 50.0, "T2w_contrast": -0.2}
    assert marks(good) == ()
    bad = {"brain_volume": 0.7, "coverage": 0.8, "T1w_snr": 5.0, "T2w_contrast": 0.2, "FLAIR_sharpness": math.nan}
    assert marks(bad) == ("brain_volume", "coverage", "T1w_snr", "T2w_contrast")


@given(values=st.dictionaries(st.sampled_from(["T1w_alignment", "unknown", "snr"]), st.floats()))
def test_what_has_no_limit_is_never_marked(values: dict[str, float]) -> None:
    assert set(marks(values)) <= {"snr"}


def expanded(nodes: NDArray[np.float32], shape: tuple[int, int, int]) -> NDArray[np.float32]:
    places = np.meshgrid(
        *(np.linspace(0, n - 1, size) for size, n in zip(shape, nodes.shape, strict=True)), indexing="ij"
    )
    wide = ndimage.map_coordinates(np.log(nodes.astype(np.float64)), places, order=3, mode="nearest")
    return np.asarray(np.exp(wide), dtype=np.float32)


def test_a_kept_field_gives_the_field_back() -> None:
    """Splines of N4 have four spans over the field of view; the nodes are three times as dense."""
    rng = np.random.default_rng(1)
    shape = (92, 112, 92)
    coarse = rng.normal(0, 0.15, (5, 5, 5))
    places = np.meshgrid(*(np.linspace(0, 4, size) for size in shape), indexing="ij")
    field = np.exp(ndimage.map_coordinates(coarse, places, order=3, mode="nearest")).astype(np.float32)
    nodes = thinned(field)
    assert nodes.shape == FIELD_SHAPE
    inner = (slice(8, -8),) * 3
    np.testing.assert_allclose(expanded(nodes, shape)[inner], field[inner], rtol=0.01)


@pytest.mark.parametrize("top", [255.0, 4095.0])
def test_an_image_that_was_clipped_is_saturated(top: float) -> None:
    whole = heads.noisy(STILL, 3.0)
    scaled = np.round(whole / whole.max() * top)
    clipped = np.minimum(np.round(whole / np.quantile(whole[BRAIN > 0], 0.97) * top), top).astype(np.float32)
    assert is_saturated(volume(clipped), BRAIN > 0)
    assert is_saturated(volume(clipped * 0.37 - 5), BRAIN > 0)
    assert not is_saturated(volume(scaled.astype(np.float32)), BRAIN > 0)
    assert not is_saturated(volume(whole), BRAIN > 0)
