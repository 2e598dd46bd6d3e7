"""Batches of training: what each contrast sees of a head through its own slices."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qmri_core.calibration.expectation import DEVIATIONS, KINDS, Expectation
from qmri_core.physics.registry import signal
from qmri_core.series.acquisition import CONTRASTS, Contrast, PulseSequence
from qmri_core.simulation.subjects import draw_subject
from qmri_core.training.populations import TrainingPopulation, random_population
from qmri_core.training.protocols import Protocol, random_protocol
from qmri_core.training.simulated_batches import (
    DEPTH,
    TRAINING_REGIONS,
    _boxes,
    _calibration,
    _centred,
    _cubic,
    _Head,
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
    shares = _boxes(places, spacing)[0]
    people = random_population(np.random.default_rng(9), 3.0)
    batch = make_batch(slab, nominal, as_run, rng, slices=4, people=people)
    t1, t2, pd = _Head.of(slab, people).maps.numpy().astype(np.float64)
    density = np.tensordot(shares, pd, axes=1)
    expected = [density / np.tensordot(shares, pd / of, axes=1) for of in (t1, t2)]
    inside = batch.mask[0].numpy() > 0
    assert inside.sum() > 50
    for k, (known, reference) in enumerate(zip((*expected, density), batch.physics.white_matter, strict=True)):
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
    """Over a slab of one subject's uniform white matter: a few per cent, though the transmit field has up to 15."""
    slab = make_slab(phantom_atlas(), 7, 64)
    solid = torch.tensor([0.85, 0.07, 0.69])[:, None, None, None].expand_as(slab.solid)
    uniform = replace(slab, solid=solid, fractions=torch.zeros_like(slab.fractions))
    uniform.fractions[2] = 1.0
    nominal, as_run = protocol_of(PulseSequence.SPIN_ECHO)
    remains = []
    for seed in range(12):
        batch = make_batch(uniform, nominal, as_run, np.random.default_rng(seed), slices=4)
        smooth = torch.nn.functional.avg_pool2d(batch.relative, 8).flatten(2).log()
        remains.append(float(smooth.std(dim=-1).mean()))
    assert max(remains) < 0.08
    assert min(remains) < 0.012
    assert max(remains) > 2 * min(remains)


def test_half_of_the_slabs_are_as_fine_as_grids_are() -> None:
    found = [make_slab(phantom_atlas(), seed, 8).resolution for seed in range(60)]
    assert min(found) >= 1.0
    assert max(found) < 2.1
    assert 20 < sum(each < 1.14 for each in found) < 40


def test_regions_are_unmixed_and_lie_in_what_they_are_named_for() -> None:
    slab = make_slab(phantom_atlas(), 3, 48)
    people = TrainingPopulation(field_strength=3.0, levels=Expectation())
    batch = make_batch(slab, *protocol_of(PulseSequence.SPIN_ECHO), np.random.default_rng(2), slices=4, people=people)
    assert batch.regions.shape[1] == len(TRAINING_REGIONS)
    assert float(batch.regions.sum(dim=1).max()) == 1.0  # of one region at most
    wm = batch.regions[:, TRAINING_REGIONS.index("wm")] > 0
    own = np.log(slab.tissues["WM"][0] / batch.physics.white_matter[0])
    assert float(batch.truth[:, 0][wm].mean()) == pytest.approx(own, abs=0.03)


def test_what_is_told_is_as_certain_as_it_says_and_tells_people_apart() -> None:
    """Over drawn populations and people; the oracle is the draw."""
    slab = make_slab(phantom_atlas(), 7, 32)
    nominal, as_run = protocol_of(PulseSequence.MPRAGE)
    errors: dict[tuple[str, str], list[float]] = {each: [] for each in DEVIATIONS}
    sds: dict[tuple[str, str], list[float]] = {each: [] for each in DEVIATIONS}
    for seed in range(150):
        values = draw_subject(seed).values
        tissues = {name: values[name.lower()] for name in slab.tissues}
        person = replace(slab, tissues={name: (one.t1, one.t2, one.pd) for name, one in tissues.items()})
        rng = np.random.default_rng(seed)
        people = random_population(rng, 3.0)
        _, told = _calibration(person, people, nominal, as_run, rng)
        for kind in ("WM", "GM"):
            true = people.person(person.tissues[kind], kind)
            said = replace(people, levels=told).usual(kind)
            for quantity, one, other in zip(("t1", "t2", "pd"), true, said, strict=True):
                errors[kind, quantity].append(math.log(one / other))
                sds[kind, quantity].append(told.sd[DEVIATIONS.index((kind, quantity))])
    for each in ((kind, quantity) for kind in ("WM", "GM") for quantity in ("t1", "t2")):
        z = np.asarray(errors[each]) / np.asarray(sds[each])
        assert 0.6 < z.std() < 1.4, each
    assert np.std(errors["GM", "t2"]) < 0.08  # populations differ by 10 %, people by 5


def test_a_population_moves_every_tissue_by_what_it_says_and_no_other() -> None:
    slab = make_slab(phantom_atlas(), 3, 48)
    usual = _Head.of(slab, TrainingPopulation(field_strength=3.0, levels=Expectation()))
    inside = (slab.fractions[2] > 0.999) & (usual.kinds[0] > 0.999)
    assert int(inside.sum()) > 100
    for number, kind in enumerate(KINDS):
        shift = tuple(0.08 * (k == 3 * number) + 0.1 * (k == 3 * number + 1) for k in range(len(DEVIATIONS)))
        head = _Head.of(slab, TrainingPopulation(field_strength=3.0, levels=Expectation(shift=shift)))
        moved = torch.log(head.solid[:, inside] / usual.solid[:, inside]).median(dim=1).values
        expected = [0.08, 0.1] if kind == "WM" else [0.0, 0.0]
        assert moved[:2].tolist() == pytest.approx(expected, abs=1e-3)
        assert math.log(head.fluid[0] / usual.fluid[0]) == pytest.approx(0.08 * (kind == "CSF"))


def test_at_low_field_tissue_has_its_values() -> None:
    """Values of people drawn about those of 3 T become those about the references of 1.5 T."""
    people = TrainingPopulation(field_strength=1.5, levels=Expectation())
    for kind in ("WM", "GM", "CSF"):
        at_3t = TrainingPopulation(field_strength=3.0, levels=Expectation()).usual(kind)
        assert people.person(at_3t, kind) == pytest.approx(people.usual(kind), rel=1e-6)
