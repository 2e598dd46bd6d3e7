from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qmri_core.series.acquisition import Contrast
from qmri_core.simulation.anatomies import make_anatomy
from qmri_core.simulation.cohort import plan_cohort
from qmri_core.simulation.effects import effects_of
from qmri_core.simulation.faults import Fault
from qmri_core.simulation.sessions import simulate_session
from qmri_core.simulation.subjects import CLASSES
from qmri_core.simulation.vessels import CONCENTRATION, RELAXIVITY, VALUES, with_vessels
from tests.phantoms import phantom_atlas

T1W = Contrast.T1W


def t1w_of(effects: str, fault: Fault | None = None, *, series: int = 0) -> np.ndarray:
    design = "cohort" if fault is None else "faults"
    plans = plan_cohort(sessions=30, groups=4, seed=3, design=design, effects=effects_of(effects))
    plan = plans[0] if fault is None else next(one for one in plans if one.fault is fault)
    made = simulate_session(plan, phantom_atlas(), resolution=6.0)
    return (
        [one for one in made.series if one.series.contrast is T1W and one.role.value in ("image", "rival")][series]
        .volumes[0]
        .array
    )


def test_blood_has_its_own_values_and_a_short_t1_after_an_agent() -> None:
    head = make_anatomy(phantom_atlas(), seed=5, resolution=3.0)
    native, after = with_vessels(head), with_vessels(head, has_agent=True)
    is_blood = native.pd > 0
    changed = np.abs(after.t1 - native.t1) > 0.2
    assert 50 < changed.sum() < 0.2 * is_blood.sum()
    short = 1 / (1 / VALUES["blood"].t1 + RELAXIVITY[0] * CONCENTRATION["blood"])
    assert short == pytest.approx(0.32, abs=0.01)
    assert after.t1[changed].min() == pytest.approx(short, rel=0.02)  # a voxel of nothing but blood
    assert np.all(after.pd == native.pd)
    assert np.all(after.fractions <= head.fractions + 1e-6)


def test_lesions_of_some_people_take_up_agent() -> None:
    head = make_anatomy(phantom_atlas(), seed=5, resolution=6.0)
    is_lesion = head.fractions[2] > 0.9
    head = replace(head, labels=np.where(is_lesion, CLASSES.index("lesion") + 1, head.labels).astype(np.uint8))
    after = [
        with_vessels(replace(head, subject=replace(head.subject, seed=seed)), has_agent=True).t1[is_lesion]
        for seed in range(20)
    ]
    shares = [float(np.median(t1 / head.t1[is_lesion])) for t1 in after]
    assert all(share < 0.6 or share == pytest.approx(1, abs=0.02) for share in shares)
    assert 2 <= sum(share < 0.6 for share in shares) <= 12


def test_an_effect_that_is_not_asked_for_changes_nothing() -> None:
    np.testing.assert_array_equal(t1w_of("default"), t1w_of("default,noise"))
    assert np.any(t1w_of("default") != t1w_of("+vessels"))


def test_the_agent_is_in_the_t1w_with_and_without_a_header_that_says_so() -> None:
    native = t1w_of("+vessels")
    assert np.quantile(t1w_of("+contrast-agent") - native, 0.999) > 0.05 * native.max()
    first, second = (t1w_of("+vessels", Fault.CONTRAST_AGENT_TOO, series=index) for index in (0, 1))
    assert np.quantile(second - first, 0.999) > 0.05 * first.max()
    same = [t1w_of("default", Fault.CONTRAST_AGENT_TOO, series=index) for index in (0, 1)]
    np.testing.assert_array_equal(*same)
