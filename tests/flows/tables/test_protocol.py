"""Series as text, and the text of a report."""

from __future__ import annotations

import math

import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from flows.tables.protocol import parse_series, protocol_of, report_text
from qmri_core.evaluation.protocol_advice import advise
from qmri_core.series.acquisition import AcquisitionError, Contrast, PulseSequence
from tests.protocols import plain_protocol


def printed(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["protocol", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_prints_the_protocol_and_the_tissues_of_its_field_strength() -> None:
    text = printed()
    for part in (
        "white matter",
        "putamen",
        "repetition time 2300 ms (m)",
        "centre index 9 (a)",
        "within 3.0%",
        "at 3 T",
    ):
        assert part in text
    other = printed("--field-strength", "1.5")
    assert "of tissues at 1.5 T" in other
    assert "putamen" not in other
    assert "no values are known at 1.5 T" in other
    assert "no values" not in text
    row = {
        name: next(line for line in each.splitlines() if "cortical" in line)
        for name, each in (("3", text), ("1.5", other))
    }
    assert row["3"] != row["1.5"]


@pytest.mark.parametrize("field_strength", ["7", "0.55"])
def test_a_field_strength_without_tissue_values_is_refused(field_strength: str) -> None:
    done = CliRunner().invoke(app, ["protocol", "--field-strength", field_strength])
    assert done.exit_code != 0
    assert f"no population values for {field_strength} T (known: 1.5, 3 T)" in str(done.exception)


def test_a_series_that_is_left_out_is_a_dash() -> None:
    two = [acquisition for contrast, acquisition in plain_protocol().items() if contrast is not Contrast.T2W]
    assert "- / - / -" in report_text(advise(two))
    texts = {Contrast.T1W: "mprage TR=2300 TE=2.98 TI=900 FA=9", Contrast.T2W: " "}
    (only,) = protocol_of(texts, manufacturer="Siemens", field_strength=3.0)
    assert only.contrast is Contrast.T1W


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
