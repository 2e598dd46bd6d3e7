"""Tissues of a simulated head, right images and wrong ones."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from qmri_core.preprocessing.template.brain import template
from qmri_core.preprocessing.template.registration import labels_of
from qmri_core.preprocessing.template.segmentation import regions_of, segment_by_template, tissues_of
from qmri_core.preprocessing.tissue import TissueError
from qmri_core.series.acquisition import Contrast
from qmri_core.tissues import CSF, GREY_MATTER, WHITE_MATTER
from tests.protocols import plain_protocol
from tests.qmri_core.preprocessing.template.test_registration import head, images_of, registered, turned


def dice(found: NDArray[np.uint8], label: int) -> float:
    one, other = found == label, head().tissue == label
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def test_tissues_are_those_of_an_old_head_at_4_mm() -> None:
    found = tissues_of(images_of(head()), head().tissue > 0, turned() @ head().affine, registered())
    assert not found[head().tissue == 0].any()
    assert found[head().tissue > 0].all()
    assert dice(found, WHITE_MATTER) > 0.9  # seen: 0.92 of each; without the template 0.92, 0.84 and 0.59
    assert dice(found, GREY_MATTER) > 0.9
    assert dice(found, CSF) > 0.88


def test_scales_do_not_matter() -> None:
    images = images_of(head())
    inside, affine = head().tissue > 0, turned() @ head().affine
    scaled = {contrast: image * np.float32(64.0) for contrast, image in images.items()}
    np.testing.assert_array_equal(
        tissues_of(images, inside, affine, registered()), tissues_of(scaled, inside, affine, registered())
    )


def test_a_t1w_with_bright_and_dark_exchanged_is_left_out() -> None:
    images = images_of(head())
    brain = head().tissue > 0
    t1w = images[Contrast.T1W]
    images[Contrast.T1W] = np.where(brain, 1.2 * t1w[brain].max() - t1w, 0).astype(np.float32)
    found = segment_by_template(images, brain.astype(np.uint8), turned() @ head().affine, plain_protocol())
    assert found.left_out == (Contrast.T1W,)
    assert dice(found.tissue, WHITE_MATTER) > 0.88  # seen: 0.91, 0.90 and 0.88; without the template 0.92, 0.82, 0.38
    assert dice(found.tissue, GREY_MATTER) > 0.86
    assert dice(found.tissue, CSF) > 0.84


def test_regions_of_a_stored_session_are_those_of_its_registration() -> None:
    """Without what headers say, and with the images as a store gives them: none beyond the brain."""
    brain, affine = head().tissue > 0, turned() @ head().affine
    images = {contrast: np.where(brain, image, np.nan) for contrast, image in images_of(head()).items()}
    labels, found = regions_of(images, brain.astype(np.uint8), affine)
    assert not labels[~brain].any()
    expected = labels_of(template().labels, registered().warp, brain.shape, affine)
    assert np.mean(labels[brain] == expected[brain]) > 0.9  # whose fluid was known to be inverted
    assert found.overlap > 0.7


def test_a_tiny_mask_is_refused() -> None:
    mask = np.zeros(head().tissue.shape, dtype=np.uint8)
    mask[20:24, 20:24, 20:24] = 1
    with pytest.raises(TissueError, match="2000"):
        segment_by_template(images_of(head()), mask, head().affine, plain_protocol())
