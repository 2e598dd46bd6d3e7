"""Voxelwise estimate, network and inference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from qmri_core.acquisition import CONTRASTS, Contrast
from qmri_core.inference import Maps, infer_maps
from qmri_core.network import MapNetwork, NetworkSettings
from qmri_core.physics.registry import signal
from qmri_core.population import population
from qmri_core.voxelwise import compress, estimator
from tests.protocols import plain_protocol

PROTOCOL = plain_protocol()
SCALES = {Contrast.T1W: 900.0, Contrast.T2W: 40.0, Contrast.FLAIR: 7.0}
SMALL = NetworkSettings(widths=(4, 4, 4), embedding=4)


def network(*, is_random: bool) -> MapNetwork:
    """Fresh network: the voxelwise estimate; or with a random head, so that its weights count."""
    torch.manual_seed(0)
    result = MapNetwork(SMALL)
    if is_random:
        torch.nn.init.normal_(result.head.weight, std=0.05)
    return result.eval()


def phantom(t1: float = 1.0, t2: float = 0.08, pd: float = 0.75) -> dict[Contrast, np.ndarray]:
    """Noise-free images of a uniform tissue by the accurate models, with a little texture in PD."""
    shape = (19, 13, 10)
    texture = 1 + 0.02 * np.sin(np.arange(np.prod(shape))).reshape(shape)
    full = [torch.from_numpy(np.full(shape, v) * (texture if v == pd else 1)) for v in (pd, t1, t2)]
    return {c: (SCALES[c] * signal(PROTOCOL[c], *full).abs().numpy()).astype(np.float32) for c in PROTOCOL}


def mask_of(images: dict[Contrast, np.ndarray]) -> np.ndarray:
    mask = np.ones(images[Contrast.T1W].shape, dtype=np.uint8)
    mask[0] = 0
    mask[:, :2] = 0
    return mask


@pytest.mark.parametrize(
    ("t1", "t2", "pd", "tolerance"),
    [
        (0.85, 0.070, 0.69, 0.04),  # white matter
        (1.40, 0.095, 0.82, 0.05),  # cortex
        (1.15, 0.080, 0.76, 0.05),  # thalamus
    ],
)
def test_noise_free_tissue_comes_back(t1: float, t2: float, pd: float, tolerance: float) -> None:
    """The voxelwise estimate alone: a posterior mean under a wide prior, so a few per cent towards the prior."""
    images = phantom(t1, t2, pd)
    maps = infer_maps(network(is_random=False), images, mask_of(images), PROTOCOL, SCALES)
    found = [float(np.nanmedian(m)) for m in (maps.t1, maps.t2, maps.pd)]
    np.testing.assert_allclose(found, [t1, t2, pd], rtol=tolerance)
    assert np.nanmax(maps.residual) < 0.1


def test_longer_times_come_out_longer() -> None:
    short, long = (
        infer_maps(network(is_random=False), images, mask_of(images), PROTOCOL, SCALES)
        for images in (phantom(t1=1.0, t2=0.075), phantom(t1=1.1, t2=0.085))
    )
    assert np.nanmedian(long.t1) > 1.05 * np.nanmedian(short.t1)
    assert np.nanmedian(long.t2) > 1.06 * np.nanmedian(short.t2)


class Painter(MapNetwork):
    """Says that everything is usual white matter, or usual grey matter above some T1: it tells nobody apart."""

    def forward(self, inputs: Tensor, conditions: Tensor) -> tuple[Tensor, Tensor]:
        del conditions
        maps = torch.zeros_like(inputs[:, -4:-1])
        maps[:, 0] = torch.where(inputs[:, -4] > 0.3, 0.5, 0.0)
        return maps, torch.full_like(maps, -3.0)


def test_the_mean_white_matter_of_a_session_is_what_its_signals_say() -> None:
    """A network that paints constants still gives a person's mean white matter, to the bias of the estimate."""
    painter = Painter(SMALL)
    bias = estimator(PROTOCOL)(compress(torch.ones(1, 3, 1, 1)))[0, :2, 0, 0].numpy()
    for t1, t2 in ((0.85, 0.07), (0.93, 0.066), (0.79, 0.075)):
        images = phantom(t1=t1, t2=t2)
        maps = infer_maps(painter, images, mask_of(images), PROTOCOL, SCALES)
        alone = infer_maps(None, images, mask_of(images), PROTOCOL, SCALES)
        expected = [np.exp(np.nanmean(np.log(one)) - b) for one, b in zip((alone.t1, alone.t2), bias, strict=True)]
        assert np.nanmean(maps.t1) == pytest.approx(expected[0], rel=1e-4)
        assert np.nanmean(maps.t2) == pytest.approx(expected[1], rel=1e-4)
        painted = infer_maps(painter, images, mask_of(images), PROTOCOL, SCALES, session_level=False)
        assert np.nanmean(painted.t1) == pytest.approx(0.85, rel=1e-5)
        np.testing.assert_allclose(maps.t1_sd / maps.t1, painted.t1_sd / painted.t1, rtol=1e-5)


def test_grey_matter_keeps_what_the_network_says() -> None:
    painter = Painter(SMALL)
    images, grey = phantom(t1=0.93, t2=0.066), phantom(t1=1.5, t2=0.1)
    for contrast, image in images.items():
        image[:, :, image.shape[2] // 2 :] = grey[contrast][:, :, image.shape[2] // 2 :]
    maps = infer_maps(painter, images, mask_of(images), PROTOCOL, SCALES)
    grey_t1 = maps.t1[:, :, -2][np.isfinite(maps.t1[:, :, -2])]
    assert np.allclose(grey_t1, 0.85 * np.exp(0.5), rtol=1e-5)
    assert abs(np.nanmean(maps.t1[:, :, 1]) / 0.85 - 1) > 0.02


def test_too_little_white_matter_shifts_nothing() -> None:
    painter = Painter(SMALL)
    images = phantom(t1=0.93, t2=0.066)
    mask = np.zeros_like(mask_of(images))
    mask[3, 3:8, 3:8] = 1
    maps = infer_maps(painter, images, mask, PROTOCOL, SCALES)
    assert np.nanmean(maps.t1) == pytest.approx(0.85, rel=1e-5)


def test_maps_are_nan_outside_the_mask_and_where_a_contrast_is_missing() -> None:
    images = phantom()
    mask = mask_of(images)
    images[Contrast.FLAIR][5, 5, 5] = np.nan
    maps = infer_maps(network(is_random=True), images, mask, PROTOCOL, SCALES)
    expected = mask > 0
    expected[5, 5, 5] = False
    for name in Maps.__dataclass_fields__:
        np.testing.assert_array_equal(np.isfinite(getattr(maps, name)), expected, err_msg=name)


def test_units_of_the_images_do_not_matter_once_calibrated() -> None:
    images = phantom()
    scaled = {c: image * np.float32(8.0) for c, image in images.items()}
    scales = {c: 8.0 * scale for c, scale in SCALES.items()}
    one = infer_maps(network(is_random=True), images, mask_of(images), PROTOCOL, SCALES)
    other = infer_maps(network(is_random=True), scaled, mask_of(images), PROTOCOL, scales)
    np.testing.assert_allclose(one.t1, other.t1, rtol=1e-5)


def test_a_missing_contrast_still_gives_maps() -> None:
    images = phantom()
    two = {c: PROTOCOL[c] for c in (Contrast.T1W, Contrast.T2W)}
    maps = infer_maps(
        network(is_random=False), {c: images[c] for c in two}, mask_of(images), two, {c: SCALES[c] for c in two}
    )
    assert np.nanmedian(maps.t2) == pytest.approx(0.08, rel=0.15)


def test_what_does_not_fit_together_is_refused() -> None:
    images = phantom()
    with pytest.raises(ValueError, match="same contrasts"):
        infer_maps(network(is_random=False), images, mask_of(images), PROTOCOL, {Contrast.T1W: 1.0})
    with pytest.raises(ValueError, match="calibrate"):
        infer_maps(network(is_random=False), images, mask_of(images), PROTOCOL, {**SCALES, Contrast.T2W: 0.0})
    with pytest.raises(ValueError, match="at least two"):
        estimator({Contrast.T1W: PROTOCOL[Contrast.T1W]})


def test_compression_is_zero_at_white_matter_monotone_and_finite_at_zero() -> None:
    x = torch.linspace(0, 5, 50)
    y = compress(x)
    assert float(compress(torch.tensor(1.0))) == pytest.approx(0.0, abs=1e-7)
    assert bool((y.diff() > 0).all())
    assert bool(torch.isfinite(y).all())


def test_conditions_say_which_contrasts_are_there_and_differ_between_protocols() -> None:
    full = estimator(PROTOCOL).conditions
    two = estimator({c: PROTOCOL[c] for c in (Contrast.T1W, Contrast.FLAIR)}).conditions
    step = (len(full) - 3) // len(CONTRASTS)
    assert [full[k * step] for k in range(3)] == [1.0, 1.0, 1.0]
    assert [two[k * step] for k in range(3)] == [1.0, 0.0, 1.0]
    other = estimator(plain_protocol(1.5)).conditions
    assert not np.allclose(full, other)


def test_white_matter_reference_is_that_of_the_field_strength() -> None:
    wm = population(1.5).white_matter
    assert estimator(plain_protocol(1.5)).white_matter == (wm.t1, wm.t2, wm.pd)
