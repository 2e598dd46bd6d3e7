"""The template is brought to simulated heads whose way from it is known, whatever their images show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from qmri_core.physics.registry import fast_signal
from qmri_core.preprocessing.template.brain import template, tissue_templates
from qmri_core.preprocessing.template.deformable import Warp, places_of, sampled
from qmri_core.preprocessing.template.mixture import CLASSES
from qmri_core.preprocessing.template.registration import Registered, fluid_signs, labels_of, register
from qmri_core.series.acquisition import Contrast
from qmri_core.simulation.anatomies import Anatomy, _template_coordinates, make_anatomy
from qmri_core.simulation.atlas import _ICBM_CENTRE, Atlas, atlas_from_templates
from tests.protocols import plain_protocol

RESOLUTION = 4.0
Images = dict[Contrast, NDArray[np.float32]]


@cache
def atlas() -> Atlas:
    return atlas_from_templates(tissue_templates(), resolution=RESOLUTION)


@cache
def head() -> Anatomy:
    """An old head: wide ventricles and sulci, at the edge of what the simulation makes."""
    return make_anatomy(atlas(), seed=11, resolution=RESOLUTION, age=80.0)


def images_of(anatomy: Anatomy) -> Images:
    rng = np.random.default_rng(0)
    pd, t1, t2 = (torch.from_numpy(array) for array in (anatomy.pd, anatomy.t1, anatomy.t2))
    result = {}
    for contrast, acquisition in plain_protocol().items():
        clean = fast_signal(acquisition, pd, t1, t2).abs().numpy()
        noise = clean[anatomy.tissue == 3].mean() / 40 * rng.standard_normal((2, *clean.shape))
        result[contrast] = np.hypot(clean + noise[0], noise[1]).astype(np.float32)
    return result


def turned() -> NDArray[np.float64]:
    """How the head lies in the scanner: nodding and turned by ten degrees, and off its centre."""
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", [10, -5, 8], degrees=True).as_matrix()
    motion[:3, 3] = 12.0, -20.0, 30.0
    return motion


@cache
def known() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """RAS mm of the voxels in the scanner, and where in the template the simulation took them from: (3, z, y, x)."""
    anatomy = head()
    axes = [anatomy.affine[k, 3] + anatomy.affine[k, k] * np.arange(anatomy.tissue.shape[2 - k]) for k in range(3)]
    truth = torch.stack(_template_coordinates(atlas(), anatomy.subject, *axes)).numpy()
    places = places_of(anatomy.tissue.shape, turned() @ anatomy.affine)
    return places, truth + np.asarray(_ICBM_CENTRE).reshape(3, 1, 1, 1)


def errors(found: Registered) -> NDArray[np.float64]:
    """Millimetres in the template by which the voxels of the brain are off."""
    inside = head().tissue > 0
    places, truth = known()
    return np.asarray(np.linalg.norm(found.warp.points(places[:, inside]) - truth[:, inside], axis=0))


@cache
def registered() -> Registered:
    return register(images_of(head()), head().tissue > 0, turned() @ head().affine, plain_protocol())


@pytest.fixture
def found() -> Registered:
    return registered()


def test_every_place_of_an_old_and_turned_head_is_found(found: Registered) -> None:
    assert errors(found).mean() < 3.0, errors(found).mean()  # half of the distance between two gyri
    assert np.quantile(errors(found), 0.95) < 7.0
    assert found.overlap > 0.7
    assert found.stretch < 1.0


def test_an_image_that_shows_nothing_leads_nowhere_else(found: Registered) -> None:
    images = images_of(head())
    brain = head().tissue > 0
    noise = np.random.default_rng(1).normal(1, 0.05, brain.shape)
    images[Contrast.T1W] = np.where(brain, noise, 0).astype(np.float32)
    other = register(images, brain, turned() @ head().affine, plain_protocol())
    assert errors(other).mean() < errors(found).mean() + 1.0, errors(other).mean()
    separation = other.mixture.means[CLASSES.index("cortex")] - other.mixture.means[CLASSES.index("white")]
    assert abs(separation[0]) < 0.02
    assert separation[1] > 0.1


NUCLEI = {"caudate": 4, "putamen": 5, "thalamusproper": 6, "pallidum": 7}
"""Names of the template, and what they are among the labels of a simulated head."""


def nuclei_missed(warp: Warp) -> Iterator[tuple[str, str, float, float]]:
    """Of the nuclei of either side as labelled by a warp: mm between centres, and Dice, with the same labels on the way
    that the simulation took."""
    drawn = labels_of(template().labels, warp, head().tissue.shape, turned() @ head().affine)
    at = template().labels
    expected = sampled(at.array[None], at.affine, known()[1], is_nearest=True)[0]
    for number, (name, side) in template().names.items():
        if name in NUCLEI:
            one, other = drawn == number, expected == number
            centres = [np.argwhere(part).mean(axis=0) * RESOLUTION for part in (one, other)]
            dice = 2 * float((one & other).sum()) / float(one.sum() + other.sum())
            yield name, side, float(np.linalg.norm(centres[0] - centres[1])), dice


def test_nuclei_lie_where_the_simulation_has_them(found: Registered) -> None:
    """Within a voxel, by the simulation's own way from the template.

    The ellipsoids that a simulated head has for nuclei are no measure of the centre: those of caudate and putamen lie 4
    to 7 mm from the centres of the template's, which have tails, and so few voxels of 4 mm remain of a pallidum (19 on
    both sides) that one more on the left than on the right moves their common centre by 2 mm.
    """
    missed = list(nuclei_missed(found.warp))
    assert len(missed) == 8
    assert np.mean([distance for _, _, distance, _ in missed]) < RESOLUTION / 2
    for name, side, distance, dice in missed:
        assert distance < RESOLUTION, (name, side)
        assert dice > 0.7, (name, side)


def test_an_affine_alone_does_not_find_nuclei(found: Registered) -> None:
    """What is asked above, asked of a warp that deforms nothing."""
    missed = list(nuclei_missed(replace(found.warp, displacement=np.zeros_like(found.warp.displacement))))
    assert np.mean([distance for _, _, distance, _ in missed]) > RESOLUTION / 2
    assert min(dice for _, _, _, dice in missed) < 0.7


@pytest.mark.parametrize("name", list(NUCLEI))
def test_what_a_simulated_head_has_for_a_nucleus_is_labelled_as_that(found: Registered, name: str) -> None:
    """As much of its ellipsoid as under the way that the simulation took, but for one voxel in eight."""
    is_nucleus = head().labels == NUCLEI[name]
    of_template = [number for number, (label, _) in template().names.items() if label == name]
    at = template().labels
    expected = sampled(at.array[None], at.affine, known()[1], is_nearest=True)[0][is_nucleus]
    drawn = labels_of(template().labels, found.warp, head().tissue.shape, turned() @ head().affine)[is_nucleus]
    assert np.isin(drawn, of_template).mean() > np.isin(expected, of_template).mean() - 1 / 8


def test_fluid_is_negative_where_it_is_inverted_and_has_not_recovered() -> None:
    """1 - (1 + m) exp(-0.9 / 4.3) with what the cycle gives back: m 0.28 of 2.3 s, which nulls it, 0.7 of 6 s."""
    nothing = np.zeros(1, dtype=np.float32)
    plain = plain_protocol()
    slow = {Contrast.T1W: replace(plain[Contrast.T1W], repetition_time=6.0), Contrast.T2W: plain[Contrast.T2W]}
    np.testing.assert_array_equal(fluid_signs(dict.fromkeys(plain, nothing), plain), np.ones((len(CLASSES), 3)))
    signs = fluid_signs(dict.fromkeys(slow, nothing), slow)
    assert signs[CLASSES.index("csf")].tolist() == [-1.0, 1.0]
    assert (signs[1:] == 1).all()
    assert (fluid_signs(dict.fromkeys(slow, nothing), None) == 1).all()
