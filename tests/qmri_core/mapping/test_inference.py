"""Voxelwise estimate, network and inference."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from qmri_core.calibration.expectation import DEVIATIONS, UNTOLD, Expectation, moved_tissue
from qmri_core.calibration.population import population
from qmri_core.calibration.session_model import PersonLevels
from qmri_core.mapping.inference import Maps, session_maps, widened
from qmri_core.mapping.network import MapNetwork, NetworkSettings
from qmri_core.mapping.voxelwise import REFERENCE_TISSUES, compress, estimator
from qmri_core.physics.registry import signal
from qmri_core.series.acquisition import Contrast
from tests.protocols import plain_protocol

PROTOCOL = plain_protocol()
SCALES = {Contrast.T1W: 900.0, Contrast.T2W: 40.0, Contrast.FLAIR: 7.0}
LEFT_OPEN = (0.6, 0.3, 0.5, 0.2)
SMALL = NetworkSettings(widths=(4, 4, 4), embedding=4, undetermined=LEFT_OPEN)


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
    maps = session_maps(network(is_random=False), images, mask_of(images), PROTOCOL, SCALES)
    found = [float(np.nanmedian(m)) for m in (maps.t1, maps.t2, maps.pd)]
    np.testing.assert_allclose(found, [t1, t2, pd], rtol=tolerance)
    assert np.nanmax(maps.residual) < 0.1


def test_longer_times_come_out_longer() -> None:
    short, long = (
        session_maps(network(is_random=False), images, mask_of(images), PROTOCOL, SCALES)
        for images in (phantom(t1=1.0, t2=0.075), phantom(t1=1.1, t2=0.085))
    )
    assert np.nanmedian(long.t1) > 1.05 * np.nanmedian(short.t1)
    assert np.nanmedian(long.t2) > 1.06 * np.nanmedian(short.t2)


class Painter(MapNetwork):
    """Says that everything is usual white matter, or usual grey matter above some T1: it tells nobody apart."""

    def modulated(self, inputs: Tensor, modulations: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        del modulations
        maps = torch.zeros_like(inputs[:, -4:-1])
        maps[:, 0] = torch.where(inputs[:, -4] > 0.3, 0.5, 0.0)
        return maps, torch.full_like(maps, -3.0)


PERSON = PersonLevels(
    mean=np.array([0.02, -0.01, 0.03, 0.04]),
    determined=np.array([0.36, 0.25, 0.49, 0.64]),
    spread=np.array([0.04, 0.04, 0.035, 0.05]),
    n_people=20.0,
    told=UNTOLD,
)


@pytest.mark.parametrize(("t1", "grey"), [(0.85, False), (1.4, True)])
def test_a_tissue_is_widened_by_what_posterior_means_lack(t1: float, *, grey: bool) -> None:
    """Of a network that paints constants: 1 / determined - 1 times the mean, at most once it, in the pure tissue."""
    images = phantom(t1=t1)
    painted = session_maps(Painter(SMALL), images, mask_of(images), PROTOCOL, SCALES)
    maps = session_maps(Painter(SMALL), images, mask_of(images), PROTOCOL, SCALES, person=PERSON)
    at = slice(2, 4) if grey else slice(0, 2)
    expected = PERSON.mean[at] * np.minimum(1 / PERSON.determined[at] - 1, 1)
    for name, shift, added in zip(("t1", "t2"), expected, PERSON.widened_sd(LEFT_OPEN)[at], strict=True):
        before, after = getattr(painted, name), getattr(maps, name)
        assert np.nanmean(np.log(after / before)) == pytest.approx(shift, abs=2e-4)
        sd = np.hypot(getattr(painted, f"{name}_sd") / before, added)
        np.testing.assert_allclose(getattr(maps, f"{name}_sd") / after, sd, rtol=1e-3)
    np.testing.assert_array_equal(maps.pd, painted.pd)
    # of 1/PD = A + B/T1 through both tissues: PD changes by so much of what T1 does
    wm, gm = population(3.0).white_matter, population(3.0).grey_matter
    b = (1 / wm.pd - 1 / gm.pd) / (1 / wm.t1 - 1 / gm.t1)
    of_t1 = b / gm.t1 * gm.pd if grey else b / wm.t1 * wm.pd
    sd = np.hypot(painted.pd_sd / painted.pd, of_t1 * PERSON.widened_sd(LEFT_OPEN)[at][0])
    np.testing.assert_allclose(maps.pd_sd / maps.pd, sd, rtol=1e-3)


@pytest.mark.parametrize(("t1", "part"), [(0.6, (1, 0)), (1.0909, (0.5, 0.5)), (2.4536, (0, 0.5)), (4.3, (0, 0))])
def test_between_tissues_both_count_in_proportion(t1: float, part: tuple[float, float]) -> None:
    log_maps = torch.tensor([math.log(t1 / 0.85), 0.1, 0.2])[None, :, None, None]
    shifted, sd = widened(log_maps, torch.full_like(log_maps, -30.0), PERSON, population(3.0), LEFT_OPEN)
    added = PERSON.widened - PERSON.mean
    expected = np.asarray(part) @ added.reshape(2, 2)
    np.testing.assert_allclose((shifted - log_maps)[0, :2, 0, 0], expected, atol=2e-4)
    of_parts = np.sqrt(np.square(part) @ np.square(PERSON.widened_sd(LEFT_OPEN)).reshape(2, 2))
    np.testing.assert_allclose(sd.exp()[0, :2, 0, 0], of_parts, atol=2e-4)


def test_nothing_known_of_a_person_is_no_deviation() -> None:
    images = phantom()
    usual = PersonLevels(mean=np.zeros(4), determined=np.ones(4), spread=np.full(4, 0.04), n_people=1e9)
    one = session_maps(network(is_random=True), images, mask_of(images), PROTOCOL, SCALES)
    other = session_maps(network(is_random=True), images, mask_of(images), PROTOCOL, SCALES, person=usual)
    for name in Maps.__dataclass_fields__:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", ["WM", "GM", "CSF"])
def test_what_is_expected_of_a_tissue_comes_out_of_its_signals_as_usual_tissue_does_of_its_own(kind: str) -> None:
    """The voxelwise estimate is drawn to the population: to what is expected, if something else is."""
    values, shift = population(3.0), (0.06, -0.08, 0.02)
    member = {"WM": values.white_matter, "GM": values.grey_matter, "CSF": values.csf}[kind]
    usual = (member.t1, member.t2, member.pd)
    moved = moved_tissue(values, usual, kind, shift)
    expected = Expectation(shift=tuple(shift[k % 3] for k in range(len(DEVIATIONS))))
    told = PersonLevels(mean=np.zeros(4), determined=np.ones(4), spread=np.full(4, 0.04), n_people=9.0, told=expected)
    found = []
    for tissue, person in ((usual, None), (moved, told)):
        images = phantom(*tissue)
        maps = session_maps(None, images, mask_of(images), PROTOCOL, SCALES, person=person)
        found.append([np.nanmedian(each) for each in (maps.t1, maps.t2, maps.pd)])
    pulls = np.log(np.asarray(found) / [usual, moved])
    np.testing.assert_allclose(pulls[0], pulls[1], atol=0.008)


def test_maps_are_nan_outside_the_mask_and_where_a_contrast_is_missing() -> None:
    images = phantom()
    mask = mask_of(images)
    images[Contrast.FLAIR][5, 5, 5] = np.nan
    maps = session_maps(network(is_random=True), images, mask, PROTOCOL, SCALES)
    expected = mask > 0
    expected[5, 5, 5] = False
    for name in Maps.__dataclass_fields__:
        np.testing.assert_array_equal(np.isfinite(getattr(maps, name)), expected, err_msg=name)


def test_units_of_the_images_do_not_matter_once_calibrated() -> None:
    images = phantom()
    scaled = {c: image * np.float32(8.0) for c, image in images.items()}
    scales = {c: 8.0 * scale for c, scale in SCALES.items()}
    one = session_maps(network(is_random=True), images, mask_of(images), PROTOCOL, SCALES)
    other = session_maps(network(is_random=True), scaled, mask_of(images), PROTOCOL, scales)
    np.testing.assert_allclose(one.t1, other.t1, rtol=1e-5)


def test_a_missing_contrast_still_gives_maps() -> None:
    images = phantom()
    two = {c: PROTOCOL[c] for c in (Contrast.T1W, Contrast.T2W)}
    maps = session_maps(
        network(is_random=False), {c: images[c] for c in two}, mask_of(images), two, {c: SCALES[c] for c in two}
    )
    assert np.nanmedian(maps.t2) == pytest.approx(0.08, rel=0.15)


def test_what_does_not_fit_together_is_refused() -> None:
    images = phantom()
    with pytest.raises(ValueError, match="same contrasts"):
        session_maps(network(is_random=False), images, mask_of(images), PROTOCOL, {Contrast.T1W: 1.0})
    with pytest.raises(ValueError, match="calibrate"):
        session_maps(network(is_random=False), images, mask_of(images), PROTOCOL, {**SCALES, Contrast.T2W: 0.0})
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
    step = REFERENCE_TISSUES + 1
    assert [full[k * step] for k in range(3)] == [1.0, 1.0, 1.0]
    assert [two[k * step] for k in range(3)] == [1.0, 0.0, 1.0]
    other = estimator(plain_protocol(1.5)).conditions
    assert not np.allclose(full, other)


def test_white_matter_reference_is_that_of_the_field_strength() -> None:
    wm = population(1.5).white_matter
    assert estimator(plain_protocol(1.5)).white_matter == (wm.t1, wm.t2, wm.pd)
