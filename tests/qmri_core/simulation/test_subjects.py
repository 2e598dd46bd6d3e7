"""Simulated people differ as people do."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from qmri_core.calibration.population import population
from qmri_core.simulation.subjects import CLASSES, Subject, draw_subject, proton_density


@pytest.fixture(scope="module")
def people() -> list[Subject]:
    sites = np.zeros((5, 3), dtype=np.float32)
    return [draw_subject(seed, lesion_sites=sites) for seed in range(120)]


@pytest.mark.parametrize(
    ("tissue", "t1", "sd1", "t2", "sd2"),
    [("wm", 0.85, 0.04, 0.070, 0.04), ("gm", 1.40, 0.035, 0.095, 0.05), ("csf", 4.3, 0.02, 2.0, 0.05)],
)
def test_tissues_spread_around_working_values(
    people: list[Subject], tissue: str, t1: float, sd1: float, t2: float, sd2: float
) -> None:
    for name, mean, sd in (("t1", t1, sd1), ("t2", t2, sd2)):
        values = np.array([getattr(person.values[tissue], name) for person in people])
        assert_allclose(values.mean(), mean, rtol=4 * sd / np.sqrt(len(people)))
        assert 0.75 * sd < values.std() / values.mean() < 1.25 * sd  # sampling error of the sd is 6 %


def test_proton_density_follows_t1_with_little_scatter(people: list[Subject]) -> None:
    ratio = np.array([person.values["wm"].pd / proton_density(person.values["wm"].t1) for person in people])
    assert_allclose(ratio.mean(), 1.0, atol=0.006)
    assert 0.01 < ratio.std() < 0.02
    assert {person.values["csf"].pd for person in people} == {1.0}


@pytest.mark.parametrize("tissue", ["white_matter", "grey_matter"])
def test_people_have_the_proton_density_that_calibration_imposes(tissue: str) -> None:
    one = getattr(population(3.0), tissue)
    assert_allclose(proton_density(one.t1), one.pd, rtol=1e-12)


def test_the_relation_is_near_that_of_its_sources() -> None:
    # physics notes: 0.68 at 850 ms, 0.80 at 1350 ms, 1.02 at 4300 ms
    assert_allclose(proton_density(np.array([0.85, 1.35, 4.3])), [0.68, 0.80, 1.02], rtol=0.03)


def test_white_and_grey_matter_shift_together(people: list[Subject]) -> None:
    pairs = np.array([(person.values["wm"].t1, person.values["gm"].t1) for person in people])
    assert 0.25 < np.corrcoef(pairs.T)[0, 1] < 0.75


def test_same_seed_same_person_and_some_have_lesions(people: list[Subject]) -> None:
    again = draw_subject(7, lesion_sites=np.zeros((5, 3), dtype=np.float32))
    assert again.values == people[7].values
    assert set(again.values) == set(CLASSES)
    assert_allclose(again.displacement[0][0].control, people[7].displacement[0][0].control)
    share = np.mean([len(person.lesions) > 0 for person in people])
    assert 0.2 < share < 0.6
    assert len(draw_subject(7).lesions) == 0
