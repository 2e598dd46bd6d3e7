"""deepbet's network in slabs against deepbet's own run of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qmri_core.preprocessing.brain_mask import _model, _normalised, _sampled
from qmri_core.preprocessing.brain_network import is_brain
from tests.phantoms import smooth_volume


@pytest.mark.parametrize("network", [0, 1], ids=["head", "brain"])
def test_the_network_in_slabs_gives_what_it_gives_whole(network: int) -> None:
    extraction, *weights = _model()
    whole = (extraction.bbox_model, extraction.model)[network]
    image = torch.from_numpy(smooth_volume((128, 128, 128), seed=network).array)
    image += 0.05 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    image = _normalised(image, 0.0, 3.0)
    with torch.no_grad():
        expected = whole(image[None, None])[0, 1] > 0.5
    assert 0.01 < float(expected.float().mean()) < 0.99
    differ = is_brain(image, weights[network]) != expected
    assert int(differ.sum()) <= 1e-4 * expected.numel()  # rounding, where both classes are as probable


@pytest.mark.parametrize("shape", [(40, 61, 128), (300, 17, 256)])
@pytest.mark.parametrize("size", [128, 256])
def test_samples_are_those_of_torch(shape: tuple[int, int, int], size: int) -> None:
    image = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    image[3, 4, 5] = np.nan
    box = tuple(slice(length // 9, length - length // 7) for length in shape)
    inside = torch.nan_to_num(torch.from_numpy(image))[box][None, None]
    expected = torch.nn.functional.interpolate(inside, (size,) * 3, mode="nearest-exact")[0, 0]
    same = _sampled(image, box, size) == expected
    assert float(same.float().mean()) > 0.98  # beside them where a place lies between two voxels
