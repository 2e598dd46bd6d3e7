"""Reference values."""

from __future__ import annotations

import numpy as np
import pytest

from qmri_core.calibration.population import FieldStrengthError, pd_relation, population, sample_tissues


def test_siemens_three_tesla_is_2_89_and_counts() -> None:
    assert population(2.89).field_strength == 3.0
    assert population(1.5).field_strength == 1.5


@pytest.mark.parametrize("field", [0.55, 7.0, float("nan")])
def test_other_fields_are_refused_with_what_is_known(field: float) -> None:
    with pytest.raises(FieldStrengthError, match=r"1.5, 3 T"):
        population(field)


def test_samples_are_physical_and_follow_the_relation_of_pd_to_t1() -> None:
    values = population(3.0)
    tissues = sample_tissues(values, 5000, np.random.default_rng(0))
    t1, t2, pd = tissues.T
    assert np.all((t2 > 0) & (t2 < t1) & (pd > 0.3) & (pd <= 1.1))
    a, b = pd_relation(values)
    solid = t1 < 2.0
    residual = np.log(pd[solid] * (a + b / t1[solid]))
    assert abs(residual.mean()) < 0.005
    assert residual.std() == pytest.approx(0.03, rel=0.15)
