"""Simulated heads: fractions, maps, truth, resolution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from qmri_core.series.geometry import Volume
from qmri_core.simulation.anatomies import Anatomy, _anatomy, make_anatomy, random_slab, tissue_summary
from qmri_core.simulation.atlas import ATLAS_CLASSES, atlas_from_labels
from qmri_core.simulation.subjects import CLASSES, ISLAND, Island, TissueValues, draw_subject, for_training
from tests.phantoms import ellipsoid_templates, phantom_anatomy, phantom_atlas


@pytest.fixture(scope="module")
def head() -> Anatomy:
    return phantom_anatomy(0)


def test_fractions_are_fractions_and_air_is_empty(head: Anatomy) -> None:
    assert head.fractions.min() >= 0
    assert head.fractions.sum(axis=0).max() <= 1 + 1e-4
    assert np.all(head.pd[head.labels == 0] < 0.8)  # air is the largest of several parts
    assert head.pd[0, 0, 0] == 0
    assert 0.95 < head.pd[head.fractions[0] > 0.95].mean() < 1.01


def test_tissues_have_their_subjects_values(head: Anatomy) -> None:
    for name, label in (("csf", 0), ("wm", 2)):
        pure = head.fractions[label] > 0.97
        assert pure.sum() > 50
        assert_allclose(np.median(head.t1[pure]), head.subject.values[name].t1, rtol=0.03)  # texture of 2.5 %


def test_summary_is_what_a_plain_count_gives(head: Anatomy) -> None:
    summary = tissue_summary(head)
    assert list(summary) == ["CSF", "GM", "WM"]
    white = [
        (float(head.t2[index]), float(head.pd[index]))
        for index in np.ndindex(head.t2.shape)
        if head.fractions[(2, *index)] >= 0.95
    ]
    assert summary["WM"]["n"] == len(white)
    assert_allclose(summary["WM"]["T2_median"], np.median([t2 for t2, _ in white]), rtol=1e-6)
    assert_allclose(summary["WM"]["PD_mean"], sum(pd for _, pd in white) / len(white), rtol=1e-5)


def test_summary_of_a_tissue_that_is_nowhere_pure_is_nan(head: Anatomy) -> None:
    assert np.isnan(tissue_summary(head, purity=1.5)["GM"]["T1_median"])


def test_tissue_is_the_largest_fraction_of_the_brain(head: Anatomy) -> None:
    brain = head.fractions.sum(axis=0) >= 0.5
    assert_array_equal(head.tissue > 0, brain)
    assert_array_equal(head.tissue[brain], head.fractions[:, brain].argmax(axis=0) + 1)


def test_a_slab_is_the_same_person_as_the_head(head: Anatomy) -> None:
    atlas = phantom_atlas()
    x, y, z = (head.affine[k, 3] + head.affine[k, k] * np.arange(head.pd.shape[2 - k]) for k in range(3))
    slab = make_anatomy(atlas, seed=0, axes=(x, y, z[20:23]))
    assert_allclose(slab.t1, head.t1[20:23], rtol=1e-3)
    assert_allclose(slab.affine[2, 3], z[20])


def test_same_seed_is_the_same_head_and_another_is_not() -> None:
    again = make_anatomy(phantom_atlas(), seed=0, resolution=4.0)
    assert_array_equal(again.t2, phantom_anatomy(0).t2)
    assert np.abs(phantom_anatomy(1).t1 - again.t1).max() > 0.1


def test_resolution_does_not_change_who_it_is() -> None:
    fine, coarse = phantom_anatomy(3, 4.0), phantom_anatomy(3, 6.0)
    for label in (1, 2):  # the layer of liquor around the brain is thinner than a coarse voxel
        litres = [float(a.fractions[label].sum() * a.affine[0, 0] ** 3 / 1e6) for a in (fine, coarse)]
        assert_allclose(litres[0], litres[1], rtol=0.02)
    medians = [tissue_summary(a)["WM"]["T1_median"] for a in (fine, coarse)]
    assert_allclose(medians[0], medians[1], rtol=0.01)


def test_taking_out_the_fluid_and_putting_it_back_gives_the_mixture(head: Anatomy) -> None:
    t1, t2, pd = head.without_fluid()
    csf = head.subject.values["csf"]
    mixed = (head.fractions[0] > 0.2) & (head.fractions[2] > 0.2)
    assert mixed.sum() > 20
    fluid = head.fractions[0][mixed] * csf.pd
    assert_allclose(pd[mixed] + fluid, head.pd[mixed], rtol=1e-5)
    assert_allclose(pd[mixed] / t2[mixed] + fluid / csf.t2, head.pd[mixed] / head.t2[mixed], rtol=1e-4)
    only_tissue = (head.fractions[0] < 0.01) & (head.fractions[2] > 0.97)
    assert_allclose(t1[only_tissue], head.t1[only_tissue], rtol=0.02)


def test_random_slabs_have_the_asked_shape_and_differ() -> None:
    slabs = [random_slab(phantom_atlas(), seed=s, shape=(2, 30, 24), resolution=6.0, slice_spacing=8.0) for s in (1, 2)]
    assert slabs[0].t1.shape == (2, 30, 24)
    assert_allclose(np.diag(slabs[0].affine)[:3], [6, 6, 8])
    assert (slabs[0].tissue > 0).any()
    assert np.abs(slabs[0].pd - slabs[1].pd).max() > 0.1


def test_islands_have_their_own_values_and_change_nothing_elsewhere() -> None:
    """In training alone: the same subject without them is the oracle."""
    rng = np.random.default_rng(3)
    plain = for_training(draw_subject(2), rng, np.full(3, -30.0), np.full(3, 30.0))
    values = TissueValues(t1=1.6, t2=0.05, pd=0.84)
    nucleus = Island(
        name="putamen",
        centre=np.array([30.0, 0.0, 0.0]),
        semi_axes=np.array([8.0, 16.0, 12.0]),
        axes=np.eye(3),
        values=plain.values["putamen"],
    )
    island = replace(nucleus, name=ISLAND, centre=np.array([0.0, 0.0, 35.0]), values=values)
    axes = tuple(np.arange(-60.0, 61.0, 3.0) for _ in range(3))
    without, found = (
        _anatomy(phantom_atlas(), replace(plain, islands=some), axes, 3.0) for some in ((), (nucleus, island))
    )
    inside, label = {}, {"putamen": CLASSES.index("putamen") + 1, ISLAND: len(CLASSES) + 1}
    solid = without.fractions[1:].sum(axis=0) > 0.99
    for one in (nucleus, island):
        inside[one.name] = solid & (found.labels == label[one.name]) & (found.fractions[1] > 0.99)
        assert inside[one.name].sum() > 20
        assert_allclose(np.median(found.t1[inside[one.name]]), one.values.t1, rtol=0.05)
        assert_allclose(np.median(found.t2[inside[one.name]]), one.values.t2, rtol=0.05)
    size = np.array([scale * phantom_atlas().size for scale in plain.scale])
    z, y, x = np.meshgrid(*axes, indexing="ij")
    far = np.ones_like(solid)
    for one in (nucleus, island):
        offsets = [axis / s - c for axis, s, c in zip((x, y, z), size, one.centre, strict=True)]
        far &= np.sqrt(sum((o / a) ** 2 for o, a in zip(offsets, one.semi_axes, strict=True))) > 2.5
    assert far.sum() > 1000
    assert_allclose(found.t1[far], without.t1[far], rtol=1e-2)
    assert_allclose(found.fractions.sum(axis=0), without.fractions.sum(axis=0), atol=1e-5)
    assert_allclose(found.fractions[0], without.fractions[0], atol=1e-5)  # liquor stays


def test_subjects_for_training_vary_in_nuclei_and_not_in_cortex_and_white_matter() -> None:
    subjects = [draw_subject(seed) for seed in range(200)]
    low, high = np.array([-40.0, -50.0, 0.0]), np.array([40.0, 50.0, 30.0])
    varied = [for_training(one, np.random.default_rng(one.seed), low, high) for one in subjects]
    for name in ("gm", "wm", "csf", "lesion"):
        assert all(a.values[name] == b.values[name] for a, b in zip(subjects, varied, strict=True))
    spread, wider = (np.std([np.log(one.values["putamen"].t2) for one in some]) for some in (subjects, varied))
    assert_allclose(wider, np.hypot(spread, 0.08), rtol=0.15)
    islands = [island for one in varied for island in one.islands if island.name == ISLAND]
    assert_allclose(len(islands) / len(varied), 4.0, rtol=0.15)
    centres = np.array([island.centre for island in islands])
    assert (centres >= low).all()
    assert (centres <= high).all()


def test_lesions_are_white_matter_with_other_values() -> None:
    atlas = phantom_atlas()
    seed = next(s for s in range(40) if len(make_subject_lesions(s)) > 0)
    head = make_anatomy(atlas, seed=seed, resolution=4.0)
    healthy = make_anatomy(atlas, seed=seed, resolution=4.0, has_lesions=False)
    changed = np.abs(head.t2 - healthy.t2) > 0.02
    assert changed.any()
    assert_allclose(head.fractions, healthy.fractions, atol=1e-4)


def make_subject_lesions(seed: int) -> np.ndarray:
    return draw_subject(seed, lesion_sites=phantom_atlas().lesion_sites).lesions


def test_label_map_becomes_an_atlas() -> None:
    templates = ellipsoid_templates()
    gm, wm, brain = templates["gm"].array, templates["wm"].array, templates["t1"].array
    codes = np.select([wm > 0.5, gm > 0.5, brain > 0.2], [2, 3, 4], 0).astype(np.float32)
    atlas = atlas_from_labels(Volume(array=codes, affine=templates["gm"].affine), resolution=5.0)
    assert atlas.fractions.shape[0] == len(ATLAS_CLASSES)
    litres = atlas.fractions[ATLAS_CLASSES.index("wm")].sum() * 125 / 1e6
    assert_allclose(litres, (codes == 2).sum() * 64 / 1e6, rtol=0.02)
    with pytest.raises(ValueError, match="without csf, gm, wm"):
        atlas_from_labels(Volume(array=np.zeros_like(codes), affine=templates["gm"].affine), resolution=5.0)
