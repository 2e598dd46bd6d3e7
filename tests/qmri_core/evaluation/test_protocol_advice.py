"""What the protocol command prints, from text to table."""

from __future__ import annotations

import math

import pytest

from qmri_core.evaluation.protocol_advice import PRIOR_DEVIATIONS, TISSUES, parse_series, run_protocol
from qmri_core.series.acquisition import AcquisitionError, Contrast, PulseSequence


def test_default_protocol_is_as_well_posed_as_the_reference_says() -> None:
    report = run_protocol(snr=50)
    rows = {row.tissue: row for row in report.rows}
    assert set(rows) == set(TISSUES)
    # over eight protocol sets: grey matter T1 1.8-14 %, white matter T1 4.9-174 %
    assert 0.018 < rows["cortical grey"].alone[0] < 0.14
    assert 0.049 < rows["white matter"].alone[0] < 1.74
    for row in report.rows:
        assert all(found < prior for found, prior in zip(row.with_prior, PRIOR_DEVIATIONS, strict=True))
        assert row.condition > 1
    text = str(report)
    assert "white matter" in text
    assert "repetition time 2300 ms (m)" in text
    assert "centre index 9 (a)" in text
    assert "within 3.0%" in text
    assert not run_protocol(field_strength=7.0).slopes


def test_more_signal_determines_more() -> None:
    low, high = (run_protocol(snr=snr).rows[0].alone for snr in (50.0, 100.0))
    assert high == pytest.approx([value / 2 for value in low])


def test_two_contrasts_need_a_prior() -> None:
    report = run_protocol(t2w="")
    assert len(report.acquisitions) == 2
    assert all(math.isinf(value) for row in report.rows for value in row.alone)
    assert all(math.isnan(row.scale_gain) for row in report.rows)
    assert "- / - / -" in str(report)


def test_console_values_mean_what_the_vendor_means() -> None:
    ge = parse_series("mprage TR=7.7 TE=3.1 TI=400 FA=11 CYCLE=1720", manufacturer="GE")
    assert ge.repetition_time == pytest.approx(1.72)
    assert ge.echo_spacing == pytest.approx(0.0077)
    assert ge.inversion_time is not None
    assert ge.inversion_time > 0.9
    philips = parse_series("tse TR=3000 TE=80 FA=90 ETL=15 RFA=130", manufacturer="Philips")
    assert philips.refocusing_angle == pytest.approx(math.radians(130))
    assert philips.flip_angle == pytest.approx(math.pi / 2)


def test_double_inversion_recovery() -> None:
    found = parse_series("dir TR=11000 TE=25 TI=3400 TI2=325 FA=150 ETL=16")
    assert found.sequence is PulseSequence.INVERSION_RECOVERY_TSE
    assert found.contrast is Contrast.FLAIR
    assert found.second_inversion_time == pytest.approx(0.325)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not begin with"),
        ("epi TR=2000", "does not begin with"),
        ("tse TR=4000 TX=100", "'TX' is none of"),
        ("tse TR=4000 TE=x", "'x' is not a number"),
        ("tse TR=4 TE=100 ETL=16", "echo_time 0.1 s not in"),
        ("flair TR=9000 TE=100 ETL=16", "inversion_time is not in the header"),
    ],
)
def test_what_cannot_be_understood_is_said(text: str, message: str) -> None:
    with pytest.raises(AcquisitionError, match=message):
        parse_series(text)


def test_wrong_use_is_refused() -> None:
    with pytest.raises(ValueError, match="snr"):
        run_protocol(snr=0)
    with pytest.raises(ValueError, match="no series"):
        run_protocol(t1w="", t2w="", flair="")
