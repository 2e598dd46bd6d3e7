"""The table of protocols: breadth, vendor conventions, agreement with its source."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
from numpy.testing import assert_allclose

from qmri_core.physics.sequences import check
from qmri_core.series.acquisition import Contrast, PulseSequence
from qmri_core.simulation.protocols import SimulatedProtocol, SimulatedSeries, protocol_table

SOURCE = Path(__file__).parents[4] / "shared" / "physics" / "clinical_protocols.csv"
TABLE = protocol_table()
SERIES = [pytest.param(p, s, id=f"{p.name}-{s.contrast}") for p in TABLE for s in p.series]


def test_table_is_as_broad_as_promised() -> None:
    assert len(TABLE) >= 16
    assert len({p.model for p in TABLE}) >= 6
    assert {p.vendor for p in TABLE} == {"Siemens", "Philips", "GE"}
    assert {p.vendor for p in TABLE[:4]} == {"Siemens", "Philips", "GE"}  # what a small demo takes
    assert {s.acquisition.sequence for p in TABLE for s in p.series} == set(PulseSequence)


@pytest.mark.parametrize("protocol", TABLE, ids=lambda p: p.name)
def test_every_protocol_has_the_three_contrasts(protocol: SimulatedProtocol) -> None:
    assert tuple(s.contrast for s in protocol.series) == tuple(Contrast)


@pytest.mark.parametrize(("protocol", "series"), SERIES)
def test_true_acquisition_can_be_evaluated(protocol: SimulatedProtocol, series: SimulatedSeries) -> None:
    check(series.acquisition)
    if series.acquisition.sequence in (PulseSequence.TURBO_SPIN_ECHO, PulseSequence.VARIABLE_FLIP_TSE):
        assert series.acquisition.echo_spacing is not None
        assert series.acquisition.centre_index is not None
        assert_allclose(series.acquisition.echo_time, series.acquisition.echo_spacing * series.acquisition.centre_index)
    if protocol.vendor != "GE" and series.acquisition.sequence is not PulseSequence.MPRAGE:
        # only GE writes an effective echo time for variable flip trains; Philips' table value is the time to centre
        assert series.header.echo_time is not None


def test_headers_hide_what_vendors_hide() -> None:
    mprage = {
        p.vendor: p.series[0] for p in reversed(TABLE) if p.series[0].acquisition.sequence is PulseSequence.MPRAGE
    }
    siemens, philips, ge = mprage["Siemens"], mprage["Philips"], mprage["GE"]
    assert siemens.header.repetition_time == siemens.acquisition.repetition_time
    assert siemens.header.inversion_time == siemens.acquisition.inversion_time
    assert philips.header.inversion_time is None
    assert philips.prepulse_delay == philips.acquisition.inversion_time
    assert philips.header.repetition_time == philips.acquisition.echo_spacing
    assert ge.header.inversion_time is not None
    assert ge.acquisition.inversion_time is not None
    assert ge.acquisition.echo_spacing is not None
    assert ge.acquisition.centre_index is not None
    to_first_pulse = ge.acquisition.inversion_time - (ge.acquisition.centre_index - 1) * ge.acquisition.echo_spacing
    assert_allclose(to_first_pulse, ge.header.inversion_time)
    assert_allclose(ge.header.repetition_time, ge.acquisition.echo_spacing)


@pytest.mark.skipif(not SOURCE.exists(), reason="needs ../shared/physics/clinical_protocols.csv")
def test_header_values_are_those_of_the_clinical_table() -> None:
    with SOURCE.open(encoding="utf-8") as file:
        source = {(row["group"], row["weighting"]): row for row in csv.DictReader(file)}
    changed = 0
    for protocol in TABLE:
        for series in protocol.series:
            row, header = source[protocol.name, str(series.contrast)], series.header
            assert_allclose((header.repetition_time or 0) * 1e3, float(row["hdr_RepetitionTime_ms"]), rtol=1e-9)
            assert_allclose((header.echo_time or 0) * 1e3, float(row["hdr_EchoTime_ms"]), rtol=1e-9)
            assert_allclose(math.degrees(header.flip_angle or 0), float(row["hdr_FlipAngle_deg"]), rtol=1e-9)
            inversion = series.prepulse_delay or header.inversion_time
            assert (inversion is None) == (row["hdr_InversionTime_ms"] == "")
            changed += inversion is not None and abs(inversion * 1e3 - float(row["hdr_InversionTime_ms"])) > 1e-6
            assert_allclose(series.acquisition.repetition_time * 1e3, float(row["true_cycle_ms"]), rtol=1e-9)
    assert changed == 2  # two 3D FLAIR whose source does not give the inversion time: shortened to null CSF
