"""The published recipe against numbers worked by hand, and its training in small."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from qmri_core.baseline.network import UPPER_LIMITS, RecipeNetwork, RecipeSettings
from qmri_core.baseline.published_recipe import (
    Slice,
    bounded_scale,
    histogram_mode,
    infer_recipe,
    kept_contrasts,
    recipe_loss,
    sample_slices,
    textbook_signal,
    train_recipe,
    warm_up_loss,
)
from qmri_core.series.acquisition import CONTRASTS, Acquisition, Contrast
from tests.protocols import plain_protocol
from tests.qmri_core.physics.acquisitions import EXAMPLES

PROTOCOL = plain_protocol()
TINY = RecipeSettings(widths=(4, 4, 4), bottleneck=4, batch=4, n_epochs=4, learning_rate=1e-2)
T1, T2, PD = 1.2, 0.08, 0.8


def signal_of(acquisition: Acquisition, t1: float = T1, t2: float = T2, pd: float = PD) -> float:
    maps = (torch.tensor(value, dtype=torch.float64) for value in (pd, t1, t2))
    return float(textbook_signal(acquisition, *maps))


GRADIENT_ECHO = EXAMPLES["spoiled_gradient_echo"]
LONG_FLAIR = replace(PROTOCOL[Contrast.FLAIR], echo_time=0.39, repetition_time=5.0, inversion_time=1.8)


@pytest.mark.parametrize(
    ("acquisition", "expected"),
    [
        # e^(-0.25/1.2) = 0.811930, sin 70 = 0.939693, cos 70 = 0.342020: 0.8 * 0.939693 * 0.188070 / 0.722304
        (GRADIENT_ECHO, 0.195737),
        # e^(-5/1.2) = 0.015504, e^(-0.9 * 0.1 / 0.08) = 0.324652
        (PROTOCOL[Contrast.T2W], 0.8 * (1 - 0.015504) * 0.324652),
        # e^(-2.5/1.2) = 0.124515, e^(-9/1.2) = 0.000553, e^(-0.089/0.08) = 0.328736
        (PROTOCOL[Contrast.FLAIR], 0.8 * (1 - 2 * 0.124515 + 0.000553) * 0.328736),
        # e^(-1.8/1.2) = 0.223130, e^(-5/1.2) = 0.015504, e^(-0.42 * 0.39 / 0.08) = 0.129057
        (LONG_FLAIR, 0.8 * (1 - 2 * 0.223130 + 0.015504) * 0.129057),
        # e^(-0.9/1.2) = 0.472367, e^(-2.3/1.2) = 0.147096
        (PROTOCOL[Contrast.T1W], 0.8 * (1 - 2 * 0.472367 / 1.147096)),
    ],
    ids=["gradient echo", "TSE", "FLAIR", "long FLAIR", "MPRAGE"],
)
def test_textbook_equations(acquisition: Acquisition, expected: float) -> None:
    assert signal_of(acquisition) == pytest.approx(expected, rel=1e-4)  # six digits above


def test_signals_in_the_limits() -> None:
    assert signal_of(GRADIENT_ECHO, t1=1e-3) == pytest.approx(PD * math.sin(math.radians(70)))
    assert signal_of(PROTOCOL[Contrast.T2W], t1=1e-3, t2=1e6) == pytest.approx(PD, rel=1e-6)
    null = 2.5 / math.log(2)  # of an inversion recovery with a long repetition time
    assert signal_of(replace(PROTOCOL[Contrast.FLAIR], repetition_time=29.9), t1=null) < 2e-4
    assert signal_of(PROTOCOL[Contrast.T1W], t1=5.0) > 0  # a magnitude, though still inverted


def test_the_mode_is_that_of_the_bright_peak_between_the_percentiles() -> None:
    rng = np.random.default_rng(0)
    fluid, grey, white = rng.rayleigh(5, 60_000), rng.normal(80, 3, 20_000), rng.normal(120, 3, 14_000)
    image = np.concatenate([fluid, grey, white, [900.0, 0.0]]).astype(np.float32).reshape(2, -1)
    # the darker peak is the higher one: of T1w the percentiles from 60 leave it out, of T2w those from 35 do not
    assert histogram_mode(image, Contrast.T1W) == pytest.approx(120, abs=2.5)
    assert histogram_mode(image, Contrast.T2W) == pytest.approx(80, abs=2.5)
    assert histogram_mode(7 * image, Contrast.T1W) == pytest.approx(7 * histogram_mode(image, Contrast.T1W), rel=1e-3)


def test_an_image_without_foreground_cannot_be_normalised() -> None:
    for empty in (np.zeros(0), np.zeros((2, 3, 4))):
        with pytest.raises(ValueError, match="T1w"):
            histogram_mode(empty.astype(np.float32), Contrast.T1W)


@pytest.mark.parametrize(("brighter", "expected"), [(1.1, 1.1), (3.0, 1.2), (0.1, 0.8)])
def test_the_scale_stays_within_a_fifth_of_the_white_matter_constant(brighter: float, expected: float) -> None:
    acquisition = PROTOCOL[Contrast.T2W]
    white = signal_of(acquisition, 0.85, 0.07, 0.70)
    signal = torch.linspace(0.01, 0.2, 12).reshape(3, 4)
    mask = torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]])
    image = torch.where(mask > 0, brighter / white * signal, torch.tensor(50.0))  # outside nothing counts
    assert float(bounded_scale(signal, image, mask, acquisition)) == pytest.approx(expected / white, rel=1e-5)


def test_perfect_maps_cost_nothing_and_each_term_counts_as_described() -> None:
    t1, t2, pd = (torch.full((1, 4, 4), value) for value in (0.85, 0.07, 0.70))
    maps, mask = torch.stack([t1, t2, pd], dim=1), torch.ones(1, 4, 4)
    images = torch.ones(1, 3, 4, 4)  # white matter everywhere, and that is what the mode makes 1
    assert float(recipe_loss(maps, images, mask, [PROTOCOL])) == pytest.approx(0, abs=1e-6)
    assert float(warm_up_loss(maps, mask)) == pytest.approx(0, abs=1e-6)
    low = maps * torch.tensor([1.0, 1.0, 0.5])[:, None, None]  # PD 0.35: scale takes up a fifth, 0.4 of signals lack
    assert float(recipe_loss(low, images, mask, [PROTOCOL])) == pytest.approx(0.4 + 0.1 * 0.25, rel=1e-4)
    assert float(warm_up_loss(low, mask)) == pytest.approx(0.5 / 3, rel=1e-5)
    step = maps.clone()
    step[0, 0, :, 2:] *= 3  # of 12 horizontal pairs, 4 differ by twice the unit, in one of three maps
    smoothness = recipe_loss(step, images, mask, [PROTOCOL]) - _images_alone(step, images, mask)
    assert float(smoothness) == pytest.approx(0.01 * 4 * 2 / (3 * 12), rel=1e-3)


def _images_alone(maps: torch.Tensor, images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The first term, by NumPy."""
    t1, t2, pd = maps[0].double()
    errors = []
    for contrast, acquisition in PROTOCOL.items():
        signal = textbook_signal(acquisition, pd, t1, t2).numpy()
        image, inside = images[0, CONTRASTS.index(contrast)].numpy(), mask[0].numpy() > 0
        constant = 1 / signal_of(acquisition, 0.85, 0.07, 0.70)
        fitted = np.linalg.lstsq(signal[inside][:, None], image[inside], rcond=None)[0][0]
        scale = np.clip(fitted, 0.8 * constant, 1.2 * constant)
        errors.append(np.abs(scale * signal - image)[inside].mean())
    return torch.tensor(np.mean(errors))


def test_at_most_one_contrast_is_dropped_and_none_of_two() -> None:
    acquired = np.ones((4000, 3), dtype=bool)
    acquired[2000:, 1] = False
    kept = kept_contrasts(acquired, np.random.default_rng(0))
    assert not (kept & ~acquired).any()
    assert set(kept[:2000].sum(axis=1)) == {2, 3}
    assert (kept[2000:] == acquired[2000:]).all()
    # all three stay with probability 1/8; four standard errors of 2000 draws are 0.03
    assert (kept[:2000].sum(axis=1) == 3).mean() == pytest.approx(1 / 8, abs=0.03)
    np.testing.assert_allclose(1 - kept[:2000].mean(axis=0), 7 / 24, atol=0.041)


@cache
def phantom() -> tuple[dict[Contrast, np.ndarray], np.ndarray]:
    """Images of a head of three tissues by the textbook equations, in odd units, with a little noise."""
    z, y, x = np.meshgrid(
        np.linspace(-1.2, 1.2, 6), np.linspace(-1.1, 1.1, 22), np.linspace(-1.2, 1.2, 19), indexing="ij"
    )
    radius = np.sqrt(0.3 * z**2 + y**2 + x**2)
    tissue = np.select([radius < 0.25, radius < 0.8, radius < 1.0], [0, 1, 2], 3)
    values = torch.tensor([(4.0, 1.5, 1.0), (0.85, 0.07, 0.70), (1.4, 0.095, 0.82), (1.0, 0.05, 0.0)])
    t1, t2, pd = values[torch.from_numpy(tissue)].movedim(-1, 0)
    rng = np.random.default_rng(0)
    images = {}
    for unit, (contrast, acquisition) in zip((900, 4000, 70), PROTOCOL.items(), strict=True):
        noise = 0.004 * rng.standard_normal((2, *tissue.shape))
        clean = textbook_signal(acquisition, pd, t1, t2).numpy()
        images[contrast] = (unit * np.hypot(clean + noise[0], noise[1])).astype(np.float32)
    return images, tissue < 3


def slices() -> list[Slice]:
    images, mask = phantom()
    return sample_slices(images, mask, PROTOCOL, 8, np.random.default_rng(1))


def test_slices_are_normalised_cut_to_the_brain_and_as_many_as_asked() -> None:
    images, mask = phantom()
    every = slices()
    assert len(every) == int((mask.sum(axis=(1, 2)) >= 64).sum())
    assert len(sample_slices(images, mask, PROTOCOL, 2, np.random.default_rng(1))) == 2
    for each in every:
        assert each.mask.shape == (mask.any(axis=(0, 2)).sum(), mask.any(axis=(0, 1)).sum())
        assert not each.images[:, ~each.mask].any()
    white = np.concatenate([each.images[0][each.mask] for each in every])
    assert np.abs(white - 1).min() < 0.05
    without = {contrast: images[contrast] for contrast in (Contrast.T1W, Contrast.T2W)}
    assert not sample_slices(without, mask, PROTOCOL, 1, np.random.default_rng(1))[0].images[2].any()


def test_training_is_determined_by_its_seed() -> None:
    told: list[tuple[int, int, str]] = []
    first, record = train_recipe(slices(), TINY, progress=lambda *call: told.append(call))
    second, again = train_recipe(slices(), TINY)
    other, _ = train_recipe(slices(), replace(TINY, seed=2))
    for (name, one), two in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(one, two), name
    assert not torch.equal(first.head.weight, other.head.weight)
    steps = TINY.n_epochs * math.ceil(len(slices()) / TINY.batch)
    assert (record["steps"], record["slices"]) == (steps, len(slices()))
    assert record.keys() == again.keys()
    assert told[-1][:2] == (steps, steps)


def test_training_lowers_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qmri_core.baseline.published_recipe.RECIPE_WARM_UP", 10)
    _, record = train_recipe(slices(), replace(TINY, n_epochs=50))
    assert record["last_loss"] < 0.7 * record["first_loss"]


def test_a_deadline_ends_training_whatever_the_epochs() -> None:
    _, record = train_recipe(slices(), replace(TINY, n_epochs=10**6), deadline=0.3)
    assert 0 < record["steps"] < 1000
    with pytest.raises(ValueError, match="no slice"):
        train_recipe([], TINY)


@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_maps_stay_within_their_limits_and_training_survives_them(shift: float) -> None:
    torch.manual_seed(0)
    network = RecipeNetwork(TINY)
    with torch.no_grad():
        network.head.bias += shift
    images, present = torch.rand(2, 3, 16, 16), torch.tensor([[True, True, True], [True, False, True]])
    maps = network(images, present)
    for values, limit in zip(maps.unbind(1), UPPER_LIMITS, strict=True):
        assert float(values.detach().min()) >= 0
        assert float(values.detach().max()) <= limit
    recipe_loss(maps, images, torch.ones(2, 16, 16), [PROTOCOL] * 2).backward()
    assert all(bool(each.grad.isfinite().all()) for each in network.parameters() if each.grad is not None)


def test_a_missing_contrast_is_not_looked_at() -> None:
    torch.manual_seed(0)
    network = RecipeNetwork(TINY).eval()
    images, mask = phantom()
    without = {contrast: images[contrast] for contrast in (Contrast.T1W, Contrast.FLAIR)}
    with torch.no_grad():
        planes = torch.rand(1, 3, 16, 16)
        changed = planes.clone()
        changed[:, 1] += 5
        present = torch.tensor([[True, False, True]])
        assert torch.equal(network(planes, present), network(changed, present))
        assert not torch.equal(network(planes, present), network(changed, torch.ones(1, 3, dtype=torch.bool)))
    for found in (infer_recipe(network, without, mask), infer_recipe(network, images, mask)):
        for values in found:
            assert values.shape == mask.shape
            np.testing.assert_array_equal(np.isfinite(values), mask)
    with pytest.raises(ValueError, match="no contrast"):
        infer_recipe(network, {}, mask)


def test_maps_do_not_depend_on_the_unit_of_images_or_on_where_the_head_lies() -> None:
    network, _ = train_recipe(slices(), TINY)
    images, mask = phantom()
    t1, t2, pd = infer_recipe(network, images, mask.astype(np.uint8))
    around = ((0, 0), (3, 8), (11, 2))
    moved = {contrast: np.pad(37 * image, around) for contrast, image in images.items()}
    for one, other in zip((t1, t2, pd), infer_recipe(network, moved, np.pad(mask, around)), strict=True):
        np.testing.assert_allclose(other[:, 3:-8, 11:-2], one, rtol=2e-2)  # bins of the mode move by a little
