"""What a protocol can determine."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from qmri_core.calibration.population import FieldStrengthError, population
from qmri_core.evaluation.protocol_advice import PRIOR_DEVIATIONS, advise, reference_tissues
from qmri_core.series.acquisition import Acquisition, Contrast
from tests.protocols import plain_protocol


def protocol(field_strength: float = 3.0) -> list[Acquisition]:
    return [replace(acquisition, field_strength=field_strength) for acquisition in plain_protocol().values()]


def test_a_usual_protocol_is_as_well_posed_as_the_reference_says() -> None:
    report = advise(protocol(), snr=50)
    rows = {row.tissue: row for row in report.rows}
    assert list(rows) == ["white matter", "cortical grey", "putamen", "lesion", "fluid"]
    # over eight protocol sets: grey matter T1 1.8-14 %, white matter T1 4.9-174 %
    assert 0.018 < rows["cortical grey"].alone[0] < 0.14
    assert 0.049 < rows["white matter"].alone[0] < 1.74
    for row in report.rows:
        assert all(found < prior for found, prior in zip(row.with_prior, PRIOR_DEVIATIONS, strict=True))
        assert row.condition > 1


@pytest.mark.parametrize(("field_strength", "nearest"), [(3.0, 3.0), (2.89, 3.0), (1.5, 1.5), (1.494, 1.5)])
def test_tissues_are_those_of_the_field_strength(field_strength: float, nearest: float) -> None:
    """The oracle is the table of the population, and the report of the same images at the other field strength."""
    tissues, values = reference_tissues(field_strength), population(nearest)
    for name, of in {
        "white matter": values.white_matter,
        "cortical grey": values.grey_matter,
        "fluid": values.csf,
    }.items():
        assert tissues[name] == (of.t1, of.t2, of.pd)
    assert ("lesion" in tissues) is (nearest == 3.0)
    report = advise(protocol(field_strength))
    assert report.field_strength == nearest
    assert [row.tissue for row in report.rows] == list(tissues)
    other = advise(protocol(4.5 - nearest))
    assert report.rows[0].alone != pytest.approx(other.rows[0].alone)
    assert next(iter(report.slopes.values())) != pytest.approx(next(iter(other.slopes.values())))


@pytest.mark.parametrize("field_strength", [0.55, 7.0])
def test_a_field_strength_without_values_is_refused(field_strength: float) -> None:
    with pytest.raises(FieldStrengthError, match=f"no population values for {field_strength:g} T"):
        advise(protocol(field_strength))


def test_more_signal_determines_more() -> None:
    low, high = (advise(protocol(), snr=snr).rows[0].alone for snr in (50.0, 100.0))
    assert high == pytest.approx([value / 2 for value in low])


def test_two_contrasts_need_a_prior() -> None:
    report = advise([one for one in protocol() if one.contrast is not Contrast.T2W])
    assert all(math.isinf(value) for row in report.rows for value in row.alone)
    assert all(math.isnan(row.scale_gain) for row in report.rows)


def test_wrong_use_is_refused() -> None:
    with pytest.raises(ValueError, match="snr"):
        advise(protocol(), snr=0)
    with pytest.raises(ValueError, match="no series"):
        advise([])
