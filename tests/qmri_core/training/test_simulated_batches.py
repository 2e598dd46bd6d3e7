"""Batches of training: what each contrast sees of a head through its own slices."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qmri_core.calibration.session_model import LEVELS
from qmri_core.physics.registry import signal
from qmri_core.series.acquisition import CONTRASTS, Contrast, PulseSequence
from qmri_core.simulation.subjects import draw_subject
from qmri_core.training.protocols import Protocol, random_protocol
from qmri_core.training.simulated_batches import (
    DEPTH,
    GROUP_ERROR,
    TRAINING_REGIONS,
    _boxes,
    _calibration,
    _centred,
    _cubic,
    _group_level,
    _slices,
    _white_matter,
    make_batch,
    make_slab,
)
from tests.phantoms import phantom_atlas


def protocol_of(t1w: PulseSequence, *, seed: int = 0) -> tuple[Protocol, Protocol]:
    """A random protocol whose T1w is of one sequence, and whose tables are few: no variable-flip trains."""
    rng = np.random.default_rng(seed)
    while True:
        nominal, as_run = random_protocol(rng)
        families = {contrast: one.sequence for contrast, one in nominal.items()}
        if families[Contrast.T1W] is t1w and PulseSequence.VARIABLE_FLIP_TSE not in families.values():
            return nominal, as_run


def test_a_batch_is_calibrated_to_white_matter() -> None:
    slab = make_slab(phantom_atlas(), 7, 48)
    nominal, as_run = protocol_of(PulseSequence.MPRAGE)
    batch = make_batch(slab, nominal, as_run, np.random.default_rng(1), slices=4)
    assert batch.relative.shape == (len(batch.mask), 3, 48, 48)
    assert tuple(batch.physics.contrasts) == CONTRASTS
    white = batch.regions[:, 1] > 0
    assert int(white.sum()) > 50
    for k, contrast in enumerate(CONTRASTS):
        assert float(batch.relative[:, k][white].median()) == pytest.approx(1.0, rel=0.35), contrast
    outside = (batch.mask < 1)[:, None].expand_as(batch.relative)
    assert not bool(batch.relative[outside].any())
    assert not bool(batch.truth[(batch.mask < 1)[:, None].expand_as(batch.truth)].any())


def test_the_truth_of_a_slice_is_the_mean_of_its_planes_by_proton_density() -> None:
    slab = make_slab(phantom_atlas(), 3, 32)
    nominal, as_run = protocol_of(PulseSequence.SPIN_ECHO)
    rng = np.random.default_rng(2)
    places, spacing, _ = _slices(nominal, slab.resolution, np.random.default_rng(2), 4)
    batch = make_batch(slab, nominal, as_run, rng, slices=4)
    shares = _boxes(places, spacing)[0]
    t1, t2, pd = slab.maps.numpy().astype(np.float64)
    density = np.tensordot(shares, pd, axes=1)
    expected = [density / np.tensordot(shares, pd / of, axes=1) for of in (t1, t2)]
    inside = batch.mask[0].numpy() > 0
    assert inside.sum() > 50
    for k, (known, reference) in enumerate(zip((*expected, density), (0.85, 0.07, 0.69), strict=True)):
        found = np.exp(batch.truth[0, k].numpy()[inside]) * reference
        np.testing.assert_allclose(found, known[inside], rtol=2e-3)


def test_equal_seeds_give_equal_batches_and_others_differ() -> None:
    slab = make_slab(phantom_atlas(), 5, 32)
    nominal, as_run = protocol_of(PulseSequence.SPIN_ECHO)
    first, second, third = (make_batch(slab, nominal, as_run, np.random.default_rng(k), slices=2) for k in (1, 1, 2))
    assert torch.equal(first.relative, second.relative)
    assert first.relative.shape != third.relative.shape or not torch.equal(first.relative, third.relative)


def test_a_flipped_batch_is_mirrored_with_its_truth() -> None:
    slab = make_slab(phantom_atlas(), 5, 32)
    batch = make_batch(slab, *protocol_of(PulseSequence.SPIN_ECHO), np.random.default_rng(1), slices=2)
    flipped = batch.flipped()
    assert torch.equal(flipped.truth[..., 0], batch.truth[..., -1])
    assert torch.equal(flipped.relative[..., 3], batch.relative[..., -4])


@given(thickness=st.floats(0.3, 6.0), place=st.floats(8.0, 30.0))
def test_a_slice_sees_the_planes_it_covers(thickness: float, place: float) -> None:
    shares = _boxes(np.array([place]), thickness)[0]
    assert shares.sum() == pytest.approx(1.0, abs=1e-5)
    assert (shares >= 0).all()
    assert float(shares @ np.arange(DEPTH)) == pytest.approx(place, abs=0.51)
    far = np.abs(np.arange(DEPTH) - place) > thickness / 2 + 0.5
    assert not shares[far].any()


@given(at=st.floats(0.0, 1.0), slope=st.floats(-3, 3), curve=st.floats(-1, 1))
def test_cubic_convolution_reproduces_parabolas(at: float, slope: float, curve: float) -> None:
    """Keys 1981: exact for polynomials of the second degree."""
    nodes = np.arange(-1, 3)
    weights = _cubic(np.abs(at - nodes))
    assert weights.sum() == pytest.approx(1.0)
    assert float(weights @ (curve * nodes**2 + slope * nodes)) == pytest.approx(curve * at**2 + slope * at, abs=1e-9)


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_every_slice_of_every_contrast_lies_within_the_slab(seed: int) -> None:
    rng = np.random.default_rng(seed)
    nominal, _ = random_protocol(rng)
    places, spacing, native = _slices(nominal, float(rng.uniform(1.0, 2.1)), rng, 6)
    assert places[0] > 0
    assert places[-1] < DEPTH - 1
    assert np.diff(places) == pytest.approx(spacing)
    for contrast in nominal:
        weights = native[contrast]
        assert weights.shape == (len(places), DEPTH)
        np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-4)
        centres = weights @ np.arange(DEPTH)
        np.testing.assert_allclose(centres, places, atol=1.0)  # to within a plane


def test_a_missing_contrast_leaves_the_others() -> None:
    slab = make_slab(phantom_atlas(), 5, 32)
    nominal, as_run = protocol_of(PulseSequence.SPIN_ECHO)
    partial = {contrast: one for contrast, one in nominal.items() if contrast is not Contrast.T2W}
    batch = make_batch(slab, partial, as_run, np.random.default_rng(1), slices=2)
    assert batch.relative.shape[1] == 2
    assert tuple(batch.physics.contrasts) == (Contrast.T1W, Contrast.FLAIR)


def test_thick_slices_mix_what_thin_ones_keep_apart() -> None:
    """Two tissues that meet at a plane: a thick-sliced contrast blurs the edge, a thin-sliced one does not."""
    nominal, _ = protocol_of(PulseSequence.MPRAGE)
    thin = {
        Contrast.T2W: replace(nominal[Contrast.T1W], contrast=Contrast.T2W),
        Contrast.FLAIR: nominal[Contrast.FLAIR],
    }
    _, spacing, native = _slices(thin, 1.0, np.random.default_rng(4), 6)
    assert spacing == 1.0
    edge = (np.arange(DEPTH) > DEPTH / 2).astype(float)
    levels = {contrast: weights @ edge for contrast, weights in native.items()}
    between = {contrast: int(((each > 0.02) & (each < 0.98)).sum()) for contrast, each in levels.items()}
    assert between[Contrast.T2W] <= 1
    widths = {contrast: int((weights > 1e-3).sum(axis=1).max()) for contrast, weights in native.items()}
    assert widths[Contrast.T2W] <= 2 < widths[Contrast.FLAIR]


def test_fields_have_no_mean_over_the_head_and_keep_their_shape() -> None:
    rng = np.random.default_rng(0)
    field = torch.from_numpy(rng.normal(3.0, 1.0, (4, 9, 9)))
    mask = torch.from_numpy((rng.random((4, 9, 9)) < 0.5).astype(np.float64))
    found = _centred(field, mask)
    assert float((found * mask).sum()) == pytest.approx(0.0, abs=1e-9)
    torch.testing.assert_close(found - field, (found - field)[0, 0, 0].expand_as(field))


@pytest.mark.parametrize("t1w", [PulseSequence.MPRAGE, PulseSequence.SPIN_ECHO])
def test_the_shading_of_white_matter_is_that_of_the_accurate_model(t1w: PulseSequence) -> None:
    _, as_run = protocol_of(t1w)
    scales = torch.tensor([[0.72, 0.903], [1.0, 1.28]])
    for contrast, acquisition in as_run.items():
        t1, t2, pd = (torch.full_like(scales, value) for value in (0.85, 0.07, 0.69))
        expected = signal(acquisition, pd, t1, t2, transmit_scale=scales).abs()
        found = _white_matter(acquisition, (0.85, 0.07, 0.69), scales)
        torch.testing.assert_close(found, expected, rtol=5e-3, atol=0, msg=str(contrast))


def test_what_fields_leave_in_white_matter_is_small_and_differs_between_batches() -> None:
    """Over a slab of one subject's uniform white matter: a few per cent, though the transmit field has up to 12."""
    slab = make_slab(phantom_atlas(), 7, 64)
    solid = torch.tensor([0.85, 0.07, 0.69])[:, None, None, None].expand_as(slab.solid)
    uniform = replace(slab, solid=solid, maps=solid, fractions=torch.zeros_like(slab.fractions))
    uniform.fractions[2] = 1.0
    nominal, as_run = protocol_of(PulseSequence.SPIN_ECHO)
    remains = []
    for seed in range(12):
        batch = make_batch(uniform, nominal, as_run, np.random.default_rng(seed), slices=4)
        smooth = torch.nn.functional.avg_pool2d(batch.relative, 8).flatten(2).log()
        remains.append(float(smooth.std(dim=-1).mean()))
    assert max(remains) < 0.06
    assert min(remains) < 0.012
    assert max(remains) > 2 * min(remains)


def test_half_of_the_slabs_are_as_fine_as_grids_are() -> None:
    found = [make_slab(phantom_atlas(), seed, 8).resolution for seed in range(60)]
    assert min(found) >= 1.0
    assert max(found) < 2.1
    assert 20 < sum(each < 1.14 for each in found) < 40


def test_a_group_of_few_people_has_a_level_that_is_off_in_all_contrasts_at_once() -> None:
    """Long T2 of the people makes T2w and FLAIR bright together, and both scales too large."""
    _, as_run = protocol_of(PulseSequence.MPRAGE)
    errors = np.array([_group_level(as_run, as_run, np.random.default_rng(k)) for k in range(600)])
    t2w, flair = (errors[:, list(as_run).index(contrast)] for contrast in (Contrast.T2W, Contrast.FLAIR))
    assert np.corrcoef(t2w, flair)[0, 1] > 0.4
    assert np.all(np.abs(errors.mean(axis=0)) < 0.002)
    # log-uniform from 4 to 200 people: variances of 4 % over their number, times about TE / T2 for the signal
    mean_variance = 0.04**2 * (1 / 4 - 1 / 200) / math.log(200 / 4)
    flair_te = as_run[Contrast.FLAIR].echo_time / 0.07
    assert 0.5 < np.sqrt((np.var(flair) - GROUP_ERROR**2) / mean_variance) / flair_te < 2


def test_regions_are_unmixed_and_lie_in_what_they_are_named_for() -> None:
    slab = make_slab(phantom_atlas(), 3, 48)
    batch = make_batch(slab, *protocol_of(PulseSequence.SPIN_ECHO), np.random.default_rng(2), slices=4)
    assert batch.regions.shape[1] == len(TRAINING_REGIONS)
    assert float(batch.regions.sum(dim=1).max()) == 1.0  # of one region at most
    wm = batch.regions[:, TRAINING_REGIONS.index("wm")] > 0
    own = np.log(slab.tissues["WM"][0] / 0.85)
    assert float(batch.truth[:, 0][wm].mean()) == pytest.approx(own, abs=0.03)


def test_levels_tell_people_apart_and_are_of_what_calibration_sees() -> None:
    """Over drawn people: a posterior mean, so regression of the truth on it has slope 1; the oracle is the draw."""
    slab = make_slab(phantom_atlas(), 7, 32)
    nominal, as_run = protocol_of(PulseSequence.MPRAGE)
    true, told = [], []
    for seed in range(400):
        values = draw_subject(seed).values
        tissues = {name: values[name.lower()] for name in slab.tissues}
        person = replace(slab, tissues={name: (one.t1, one.t2, one.pd) for name, one in tissues.items()})
        told.append(_calibration(person, nominal, as_run, np.random.default_rng(seed))[1])
        true.append([math.log(getattr(tissues[tissue], quantity)) for tissue, quantity in LEVELS])
    for known, found in zip(np.transpose(true), np.transpose(told), strict=True):
        assert np.corrcoef(known, found)[0, 1] > 0.4
        assert np.polyfit(found, known, 1)[0] == pytest.approx(1, abs=0.25)
        assert np.std(found) < np.std(known)
