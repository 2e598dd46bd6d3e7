"""Plans of cohorts, and sessions made from them."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from pydicom.uid import UID

from qmri_core.simulation.acquired import Role
from qmri_core.simulation.cohort import Design, PlannedSession, _clinic, plan_cohort, uid
from qmri_core.simulation.sessions import SCALE_SPREAD, _scale, simulate_session
from qmri_core.simulation.subjects import draw_subject, of_clinic
from tests.phantoms import phantom_atlas


@settings(max_examples=40, deadline=None)
@given(groups=st.integers(1, 20), factor=st.integers(2, 4), seed=st.integers(0, 99), design=st.sampled_from(Design))
def test_every_design_fills_every_group(groups: int, factor: int, seed: int, design: Design) -> None:
    plans = plan_cohort(sessions=groups * factor, groups=groups, seed=seed, design=design)
    assert [plan.index for plan in plans] == list(range(groups * factor))
    assert len({plan.group for plan in plans}) == groups
    assert len({plan.study_instance_uid for plan in plans}) == len(plans)
    visits = Counter((plan.person.number, plan.visit) for plan in plans)
    assert set(visits.values()) == {1}
    by_person = defaultdict(set)
    for plan in plans:
        by_person[plan.person.number].add(plan.group)
    sizes = {len(seen) for seen in by_person.values()}
    assert sizes <= {{Design.TRAVELLING_HEADS: groups}.get(design, 1), 2 if design is Design.CLINICS else 1}


def test_clinics_differ_in_age_and_tissue_and_one_person_in_ten_comes_to_two() -> None:
    plans = plan_cohort(sessions=660, groups=6, seed=4, design="clinics")
    first = [plan for plan in plans if plan.visit == 0]
    ages = [float(np.mean([plan.age for plan in first if plan.group == group])) for group in {p.group for p in plans}]
    assert 9 < max(ages) - min(ages) < 21
    assert 12 < np.std([plan.age for plan in first]) < 18
    assert min(plan.age for plan in plans) >= 18
    again = [plan for plan in plans if plan.visit == 1]
    assert len(again) == 60
    homes = {plan.person.number: plan for plan in first}
    for plan in again:
        home = homes[plan.person.number]
        assert plan.group != home.group
        assert (plan.person, plan.clinic) == (home.person, home.clinic)
        assert plan.date > home.date
    assert len({plan.clinic for plan in plans}) == 6
    spread = np.std([_clinic(seed, home) for seed in range(60) for home in range(20)], axis=0)
    assert_allclose(spread, (0.013, 0.013, 0.011, 0.016), rtol=0.1)


def test_all_tissue_of_a_clinics_people_differs_and_no_other_does() -> None:
    usual = draw_subject(3)
    ill = of_clinic(usual, (0.1, -0.1, 0.05, 0.2))
    for name, (t1, t2) in {"wm": (0.1, -0.1), "gm": (0.05, 0.2), "putamen": (0.05, 0.2), "csf": (0, 0)}.items():
        assert ill.values[name].t1 == pytest.approx(usual.values[name].t1 * np.exp(t1))
        assert ill.values[name].t2 == pytest.approx(usual.values[name].t2 * np.exp(t2))
    assert ill.values["wm"].pd > usual.values["wm"].pd  # longer T1, more water
    assert ill.lesions is usual.lesions


def test_a_session_does_not_depend_on_how_many_there_are() -> None:
    assert plan_cohort(sessions=20, groups=4, seed=3)[7] == plan_cohort(sessions=8, groups=4, seed=3)[7]


def test_groups_take_the_protocols_named() -> None:
    plans = plan_cohort(sessions=6, groups=3, seed=3, protocols=["G09", "G02"])
    assert [plan.group for plan in plans] == ["G09", "G02", "G09-1"] * 2
    assert [plan.protocol.model for plan in plans[:2]] == ["Ingenia", "Prisma_fit"]
    assert plans[0].serial_number != plans[2].serial_number


def test_seeds_share_no_identity() -> None:
    def identities(seed: int) -> set[str | int]:
        plans = plan_cohort(sessions=40, groups=4, seed=seed)
        return {
            v for p in plans for v in (p.person.patient_id, p.study_instance_uid, p.uid("series", 1), p.subject_seed)
        }

    first, second = identities(1), identities(2)
    assert len(first) == 160
    assert not first & second


def test_identifiers_are_valid_in_dicom() -> None:
    values = [uid("a", k) for k in range(200)]
    assert all(UID(value).is_valid and len(value) <= 64 for value in values)
    assert len(set(values)) == 200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"design": "parade"}, "none of cohort"),
        ({"sessions": 3}, "do not fill"),
        ({"groups": 0}, "at least 1"),
        ({"design": "retest", "sessions": 7}, "do not fill"),
        ({"protocols": ["G02", "G99"]}, "G99 are none of G01, G02"),
        ({"protocols": ["G02", "G02"]}, "one twice"),
    ],
)
def test_impossible_plans_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_cohort(**({"sessions": 12, "groups": 4, "seed": 0} | changes))  # type: ignore[arg-type]


def test_scales_spread_by_the_stated_amount_within_a_group() -> None:
    plans = [plan for plan in plan_cohort(sessions=400, groups=4, seed=5) if plan.group == "G13"]
    logs = [
        [np.log(_scale(plan, series, plan.generator(2, k))) for k, series in enumerate(plan.protocol.series)]
        for plan in plans
    ]
    assert_allclose(np.std(logs, axis=0), SCALE_SPREAD, rtol=0.25)  # 100 sessions: 7 % standard error
    assert np.ptp(np.mean(logs, axis=0)) > 0.3
    assert abs(np.corrcoef(np.array(logs).T)[0, 1]) < 0.35


@pytest.fixture(scope="module")
def plan() -> PlannedSession:
    return plan_cohort(sessions=4, groups=4, seed=11)[1]


def test_session_is_the_same_on_every_run(plan: PlannedSession) -> None:
    first, second = (simulate_session(plan, phantom_atlas(), resolution=4.0) for _ in range(2))
    for a, b in zip(first.series, second.series, strict=True):
        assert a.number == b.number
        for left, right in zip(a.volumes, b.volumes, strict=True):
            assert_array_equal(left.array, right.array)
            assert_array_equal(left.affine, right.affine)
    roles = [s.role for s in first.series]
    assert roles[0] is Role.LOCALIZER
    assert roles.count(Role.IMAGE) == len(first.images) == 3
    assert len({s.number for s in first.series}) == len(roles)


def test_grey_values_fit_what_the_vendor_can_store() -> None:
    for plan in plan_cohort(sessions=4, groups=4, seed=2):
        if plan.protocol.vendor != "Philips":
            session = simulate_session(plan, phantom_atlas(), resolution=4.0)
            limit = 4095 if plan.protocol.vendor == "Siemens" else 32767
            for series in session.series:
                clipped = np.mean([np.mean(v.array > limit) for v in series.volumes])
                assert clipped < 1e-3, (plan.group, series.series.contrast)
