"""Bias field and tissue segmentation against a phantom whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from qmri_core.physics.registry import fast_signal
from qmri_core.preprocessing.bias_field import bias_field
from qmri_core.preprocessing.tissue import TissueError, core, eroded, segment
from qmri_core.series.acquisition import Contrast
from qmri_core.tissues import CSF, GREY_MATTER, WHITE_MATTER
from tests.phantoms import phantom_anatomy
from tests.protocols import plain_protocol

RESOLUTION = 3.0


@pytest.fixture(scope="module")
def images() -> dict[Contrast, NDArray[np.float32]]:
    """Noisy images of the phantom, each with its own scale."""
    anatomy = phantom_anatomy(seed=4, resolution=RESOLUTION)
    rng = np.random.default_rng(0)
    pd, t1, t2 = (torch.from_numpy(array) for array in (anatomy.pd, anatomy.t1, anatomy.t2))
    result = {}
    for scale, (contrast, acquisition) in zip((900.0, 40.0, 7.0), plain_protocol().items(), strict=True):
        clean = fast_signal(acquisition, pd, t1, t2).abs().numpy()
        noise = clean[anatomy.tissue == 3].mean() / 40 * rng.standard_normal((2, *clean.shape))
        result[contrast] = (scale * np.hypot(clean + noise[0], noise[1])).astype(np.float32)
    return result


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def test_tissues_are_those_of_the_phantom(images: dict[Contrast, NDArray[np.float32]]) -> None:
    truth = phantom_anatomy(seed=4, resolution=RESOLUTION).tissue
    found = segment(images, (truth > 0).astype(np.uint8))
    assert dice(found == WHITE_MATTER, truth == WHITE_MATTER) > 0.90
    assert dice(found == GREY_MATTER, truth == GREY_MATTER) > 0.80
    assert not found[truth == 0].any()


def test_two_contrasts_are_enough(images: dict[Contrast, NDArray[np.float32]]) -> None:
    truth = phantom_anatomy(seed=4, resolution=RESOLUTION).tissue
    two = {contrast: image for contrast, image in images.items() if contrast is not Contrast.FLAIR}
    found = segment(two, (truth > 0).astype(np.uint8))
    assert dice(found == WHITE_MATTER, truth == WHITE_MATTER) > 0.90


@pytest.mark.parametrize(
    ("slices", "of_t1w", "without"),
    [
        pytest.param((10, 18, 22, 10), (219.0, 177.0, 80.0), 0.0, id="white matter is the lesser part"),
        pytest.param((8, 18, 40, 10), (200.0, 185.0, 60.0), 1.0, id="more mixed voxels than of a tissue"),
    ],
)
def test_grey_and_white_matter_are_told_apart_among_many_mixed_voxels(
    slices: tuple[int, ...], of_t1w: tuple[float, ...], without: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An atrophic brain in thick slices: a third and more of it is grey matter with fluid, and FLAIR tells little.

    ``slices`` of white and grey matter, mixed and of fluid. ``without``: the error by two components.
    """
    rng = np.random.default_rng(6)
    n_white, n_grey, n_mixed, n_fluid = slices
    shape = (sum(slices), 24, 24)
    fluid, white = np.zeros(shape), np.zeros(shape)
    fluid[n_white + n_grey : -n_fluid] = np.linspace(0.02, 0.5, n_mixed)[:, None, None]
    fluid[-n_fluid:] = 1.0
    white[:n_white] = 1.0
    images = {}
    for contrast, (of_white, of_grey, of_fluid), spread in (
        (Contrast.T1W, of_t1w, 0.05),
        (Contrast.T2W, (344.0, 500.0, 950.0), 0.05),
        (Contrast.FLAIR, (345.0, 358.0, 8.0), 0.02),
    ):
        clean = white * of_white + (1 - white - fluid) * of_grey + fluid * of_fluid
        images[contrast] = (clean * np.exp(spread * rng.standard_normal(shape))).astype(np.float32)
    mask = np.ones(shape, dtype=np.uint8)

    def errors() -> float:
        found = segment(images, mask)
        grey = found[n_white : n_white + n_grey]
        return float(np.mean(found[:n_white] != WHITE_MATTER) + np.mean(grey != GREY_MATTER))

    assert errors() < 0.1
    monkeypatch.setattr("qmri_core.preprocessing.tissue.WRONG_WAY", np.inf)
    assert errors() == pytest.approx(without, abs=0.1)


def test_fluid_that_is_nulled_here_and_there_is_fluid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inversions null fluid in some voxels, and the log of these is far from that of all other fluid."""
    rng = np.random.default_rng(9)
    truth = np.empty((70, 24, 24), dtype=np.uint8)
    truth[:20], truth[20:50], truth[50:] = CSF, GREY_MATTER, WHITE_MATTER
    nulled = rng.uniform(0.0, 1.0, truth.shape)
    images = {}
    for contrast, (of_fluid, of_grey, of_white) in {
        Contrast.T1W: (100 * nulled, 170.0, 370.0),
        Contrast.T2W: (900.0, 580.0, 390.0),
        Contrast.FLAIR: (100 * nulled, 330.0, 350.0),
    }.items():
        clean = np.choose(truth - 1, (of_fluid, of_grey, of_white))
        images[contrast] = (clean * np.exp(0.08 * rng.standard_normal(truth.shape))).astype(np.float32)
    mask = np.ones(truth.shape, dtype=np.uint8)

    def lost() -> float:
        return float(np.mean(segment(images, mask)[truth == CSF] != CSF))

    assert lost() < 0.01
    assert np.mean(segment(images, mask) == truth) > 0.97
    monkeypatch.setattr("qmri_core.preprocessing.tissue.DARK", 0.02)
    assert lost() > 0.3


def test_intensity_scales_do_not_matter(images: dict[Contrast, NDArray[np.float32]]) -> None:
    mask = (phantom_anatomy(seed=4, resolution=RESOLUTION).tissue > 0).astype(np.uint8)
    scaled = {contrast: image * np.float32(64.0) for contrast, image in images.items()}
    np.testing.assert_array_equal(segment(images, mask), segment(scaled, mask))


def test_a_tiny_mask_is_refused(images: dict[Contrast, NDArray[np.float32]]) -> None:
    mask = np.zeros_like(images[Contrast.T1W], dtype=np.uint8)
    mask[:2, :2, :2] = 1
    with pytest.raises(TissueError, match="2000"):
        segment(images, mask)


def test_the_core_has_only_neighbours_of_its_own_tissue() -> None:
    tissue = np.full((5, 5, 5), 3, dtype=np.uint8)
    tissue[2, 2, 2] = 2
    inside = core(tissue, 3)
    assert not inside[2, 2, 1]
    assert not inside[0].any()  # the edge of the volume is not known
    assert inside[1, 1, 1]


@pytest.mark.parametrize("shape", [(1, 4, 5), (2, 3, 3), (3, 3, 3), (9, 8, 7)])
def test_what_is_eroded_is_what_scipy_erodes(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    for share in (0.5, 0.9, 0.98, 1.0):
        mask = rng.random(shape) < share
        before = mask.copy()
        np.testing.assert_array_equal(eroded(mask), ndimage.binary_erosion(mask))
        np.testing.assert_array_equal(mask, before)


def test_a_known_field_is_found_up_to_its_level(images: dict[Contrast, NDArray[np.float32]]) -> None:
    anatomy = phantom_anatomy(seed=4, resolution=RESOLUTION)
    mask = (anatomy.tissue > 0).astype(np.uint8)
    z, y, x = (np.linspace(-1, 1, n) for n in mask.shape)
    field = np.exp(0.3 * x[None, None, :] - 0.2 * (y**2)[None, :, None] + 0.1 * z[:, None, None]).astype(np.float32)
    image = images[Contrast.T1W]
    spacing = (RESOLUTION, RESOLUTION, RESOLUTION)
    before, after = bias_field(image, mask, spacing), bias_field(image * field, mask, spacing)
    white = anatomy.fractions[2] > 0.95
    left = np.log(image[white] * field[white] / after[white])
    assert np.log(after[mask > 0]).mean() == pytest.approx(0.0, abs=1e-4)
    assert left.std() < 0.5 * np.log(field[white]).std() + np.log(image[white] / before[white]).std()
    assert np.corrcoef(np.log(after[white] / before[white]), np.log(field[white]))[0, 1] > 0.9
