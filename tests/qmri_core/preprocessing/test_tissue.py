"""Bias field and tissue segmentation against a phantom whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qmri_core.acquisition import Contrast
from qmri_core.physics.registry import fast_signal
from qmri_core.preprocessing.bias_field import bias_field
from qmri_core.preprocessing.tissue import GREY_MATTER, WHITE_MATTER, TissueError, core, segment
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


def test_grey_and_white_matter_are_told_apart_among_many_mixed_voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    """An atrophic brain in thick slices: a third of its voxels hold grey matter and fluid, and FLAIR tells little."""
    rng = np.random.default_rng(6)
    shape, n_white, n_grey, n_fluid = (60, 24, 24), 10, 18, 10  # slices of each; between them and fluid mixed ones
    fluid, white = np.zeros(shape), np.zeros(shape)
    fluid[n_white + n_grey : -n_fluid] = np.linspace(0.02, 0.5, shape[0] - n_white - n_grey - n_fluid)[:, None, None]
    fluid[-n_fluid:] = 1.0
    white[:n_white] = 1.0
    images = {}
    for contrast, (of_white, of_grey, of_fluid, spread) in {
        Contrast.T1W: (219.0, 177.0, 80.0, 0.05),
        Contrast.T2W: (344.0, 500.0, 950.0, 0.05),
        Contrast.FLAIR: (345.0, 358.0, 8.0, 0.02),
    }.items():
        clean = white * of_white + (1 - white - fluid) * of_grey + fluid * of_fluid
        images[contrast] = (clean * np.exp(spread * rng.standard_normal(shape))).astype(np.float32)
    mask = np.ones(shape, dtype=np.uint8)
    pure_grey = np.zeros(shape, dtype=bool)
    pure_grey[n_white : n_white + n_grey] = True

    def errors() -> float:
        found = segment(images, mask)
        return float(np.mean(found[white > 0] != WHITE_MATTER) + np.mean(found[pure_grey] != GREY_MATTER))

    assert errors() < 0.1
    monkeypatch.setattr("qmri_core.preprocessing.tissue.WRONG_WAY", np.inf)
    assert errors() > 0.5  # by two components


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
