"""Sessions on another scale: in the calibration of a store, in the catalogue, and in statistics of groups."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flows.calibration.calibrate import _stored_calibration, calibrate, current_calibrations
from flows.calibration.odd_sessions import Oddity, marked_sessions, oddity_of, suspects_of
from flows.calibration.tables import calibration_table, odd_sessions, unlikely_sessions
from flows.calibration.text import calibration_lines
from flows.cluster.clusters import dask_client
from flows.maps.infer import infer
from flows.maps.plan import plan_maps
from flows.maps.weights import chosen_weights
from flows.settings import Settings
from flows.statistics.aggregate import tables_of
from flows.tables.text import records
from qmri_core.calibration.estimation import COMMON
from qmri_core.calibration.scales import Signals
from qmri_core.series.acquisition import Contrast
from qmri_core.series.remarks import Remark, RemarkKind, remarks_of, remarks_text
from qmri_core.tissues import MEMBERS
from storage.store.acquisitions import acquisition_values
from storage.store.cohort import Cohort, begin_append, commit, write_arrays, writing
from tests.flows.tiny_cohort import GROUPS, images, placement_of, row_of, statistics
from tests.qmri_core.calibration.test_scales import PROTOCOL, draw, mistaken, scaled

ODD = "ses-000000000001"


def stored(
    folder: Path,
    sessions: list[Signals],
    remarks: Mapping[int, str] | None = None,
    ages: Mapping[int, float] | None = None,
) -> Cohort:
    """A store of one group whose sessions have these signals, without maps."""
    location = str(folder / "store")
    names = [f"ses-{number:012x}" for number in range(len(sessions))]
    with writing(location, create=True) as repository:
        wave = begin_append(repository, [placement_of(name, GROUPS[0]) for name in names])
        forks = [write_arrays(wave.session.fork(), wave.slots[name], images(0)) for name in names]
        values = {}
        for number, (name, signals) in enumerate(zip(names, sessions, strict=True)):
            values[name] = {
                "age": (ages or {}).get(number),
                "magnetic_field_strength": 3.0,
                **{
                    f"{contrast}_{member}_signal": own[tissue]
                    for contrast, own in signals.items()
                    for tissue, member in MEMBERS.items()
                },
            }
            for acquisition in PROTOCOL.values():
                values[name] |= acquisition_values(acquisition)
        rows = [
            row_of(name, person=f"sub-{number}", contrasts="T1w,T2w,FLAIR", remarks=(remarks or {}).get(number, ""))
            for number, name in enumerate(names)
        ]
        commit(repository, wave, forks, values=values, rows=rows, message="Ingest")
    return Cohort.open(location)


def odd_group() -> list[Signals]:
    sessions, _ = draw(6, 0.03, seed=4)
    factors = {contrast: 0.04 if contrast is Contrast.T2W else 1.0 for contrast in PROTOCOL}
    return [scaled(one, factors) if number == 1 else one for number, one in enumerate(sessions)]


def test_a_stored_session_on_another_scale_is_named_and_moves_no_other(tmp_path: Path) -> None:
    sessions = odd_group()
    cohort, rest = stored(tmp_path / "a", sessions), stored(tmp_path / "b", [sessions[0], *sessions[2:]])
    for one in (cohort, rest):
        calibrate(one)
    cohort, rest = cohort.refreshed(), rest.refreshed()
    [(_, scales, _)], [(_, without, _)] = (current_calibrations(one).values() for one in (cohort, rest))
    assert {contrast: (one.scale, one.n_sessions) for contrast, one in scales.items()} == {
        contrast: (one.scale, 5) for contrast, one in without.items()
    }
    [row] = odd_sessions(cohort).to_dict("records")
    assert (row["session"], row["part"]) == (ODD, "T2w")
    assert row["factor"] == pytest.approx(0.04, rel=0.15)
    assert unlikely_sessions(cohort).empty
    table = cohort.calibrations
    assert table is not None
    assert set(zip(table["n_sessions"], table["n_left_out"], strict=True)) == {(5, 1)}
    stored_row = records(table)[0]
    assert [_stored_calibration({**stored_row, "n_left_out": n}).n_left_out for n in (1, math.nan)] == [
        1,
        0,
    ]  # of before: NaN
    assert any("5 of 6" in line for line in calibration_lines(cohort, calibration_table(cohort)))
    assert any(ODD in line and "T2w" in line for line in calibration_lines(cohort, calibration_table(cohort)))
    assert calibration_table(cohort)["session_low"].min() > 0.8

    plans, _ = plan_maps(cohort, chosen_weights(cohort))
    marks = {plan.slot.session: plan.marks for plan in plans}
    assert marks.pop(ODD) == "T2w_scale"
    assert set(marks.values()) == {""}
    [odd] = [plan for plan in plans if plan.slot.session == ODD]
    [remark] = remarks_of(odd.oddity.remarks(""))
    assert remark.kind is RemarkKind.SCALE_ODD
    assert remark.text == f"T2w: the scale is {row['factor']:.3g} times that of the group"


@pytest.mark.parametrize(
    ("odd", "series", "by", "mark", "text"),
    [
        ({1}, (Contrast.T2W,), 0.04, "T2w_scale", "T2w: the scale is"),
        ({0, 4}, (*PROTOCOL,), 12.0, "scale", "all series: the scale is"),
    ],
)
def test_what_is_odd_reaches_the_summary_and_the_catalogue(
    tmp_path: Path, odd: set[int], series: tuple[Contrast, ...], by: float, mark: str, text: str
) -> None:
    sessions, _ = draw(6, 0.03, seed=4)
    factors = {contrast: by if contrast in series else 1.0 for contrast in PROTOCOL}
    now = [scaled(one, factors) if number in odd else one for number, one in enumerate(sessions)]
    cohort = stored(tmp_path, now)
    with dask_client(Settings.model_construct(workers=1), processes=False) as client:
        summary = infer(cohort, client=client)
    assert summary.remarks == {RemarkKind.SCALE_ODD: len(odd)}
    assert any("on another scale than its group" in line for line in summary.text().splitlines())
    cohort = cohort.refreshed()
    names = {f"ses-{number:012x}" for number in odd}
    rows = cohort.catalogue.set_index("session")["remarks"]
    told = {name: remarks_of(str(rows[name])) for name in rows.index}
    assert {name for name, some in told.items() if some} == names
    assert all(some[0].text.startswith(text) for name, some in told.items() if name in names)
    marks = cohort.sessions.set_index("session")["quality_marks"]
    assert {name for name in marks.index if mark in str(marks[name]).split(",")} == names


def test_of_two_stored_sessions_the_header_tells_which_is_odd(tmp_path: Path) -> None:
    told = {1: remarks_text([Remark(kind=RemarkKind.SCALE_UNKNOWN, text="T2w: series 2 lacks its scale factor")])}
    for name, remarks, expected in (("a", told, [ODD]), ("b", {}, [])):
        cohort = stored(tmp_path / name, odd_group()[:2], remarks)
        assert suspects_of(cohort.catalogue) == set(expected)
        calibrate(cohort)
        assert odd_sessions(cohort.refreshed())["session"].tolist() == expected


def test_a_session_that_is_nobodys_is_marked(tmp_path: Path) -> None:
    sessions, _ = draw(8, 0.03, seed=12)
    cohort = stored(tmp_path, [sessions[0], mistaken(sessions[1]), *sessions[2:]])
    calibrate(cohort)
    plans, _ = plan_maps(cohort.refreshed(), chosen_weights(cohort))
    assert {plan.slot.session: plan.marks for plan in plans if plan.marks} == {ODD: "signals"}


def test_a_child_moves_no_adult_and_children_alone_are_calibrated(tmp_path: Path) -> None:
    sessions, _ = draw(6, 0.03, seed=4)
    child = scaled(sessions[1], dict.fromkeys(PROTOCOL, 1.2))
    made = {}
    for name, members, ages in (
        ("with", [sessions[0], child, *sessions[2:]], {1: 7.0, 2: 18.0}),
        ("without", [sessions[0], *sessions[2:]], {1: 18.0}),
        ("alone", sessions, dict.fromkeys(range(6), 7.0)),
        ("adults", sessions, dict.fromkeys(range(6), 18.0)),
    ):
        cohort = stored(tmp_path / name, members, ages=ages)
        calibrate(cohort)
        [(_, scales, _)] = current_calibrations(cohort.refreshed()).values()
        made[name] = {contrast: (one.scale, one.n_sessions) for contrast, one in scales.items()}
    assert made["with"] == made["without"]
    assert made["alone"] == made["adults"]
    assert {count for _, count in made["alone"].values()} == {6}


def test_marks_and_remarks_follow_the_calibration() -> None:
    repeated = Remark(kind=RemarkKind.REPEATED, text="T1w: series 1 is taken, beside it lie series 2")
    odd = Oddity(factors={Contrast.T1W: 2.0, COMMON: 10.0})
    assert odd.marks("snr,T2w_scale") == "snr,T1w_scale,scale"
    text = odd.remarks(remarks_text([repeated]))
    assert [(one.kind, one.text) for one in remarks_of(text)] == [
        (RemarkKind.SCALE_ODD, "T1w: the scale is 2 times that of the group"),
        (RemarkKind.SCALE_ODD, "all series: the scale is 10 times that of the group"),
        (RemarkKind.REPEATED, repeated.text),
    ]
    right = Oddity()
    assert right.marks("snr,T1w_scale,scale") == "snr"
    assert right.remarks(text) == remarks_text([repeated])
    nobody = Oddity(is_nobodys=True)
    assert nobody.marks("") == "signals"
    assert [one.kind for one in remarks_of(nobody.remarks(""))] == [RemarkKind.SIGNALS_UNLIKELY]


def test_marked_sessions_count_in_no_group() -> None:
    whole = statistics(per_group=3).sessions
    marks = ["T2w_scale", "", "snr", "snr,signals", "", ""]
    table = pd.DataFrame({"session": [f"ses-{number:012x}" for number in range(6)], "quality_marks": marks})
    left_out = marked_sessions(table)
    assert left_out == {"ses-000000000000", "ses-000000000003"}
    found, expected = tables_of(whole, left_out=left_out), tables_of(whole[~whole["session"].isin(left_out)])
    pd.testing.assert_frame_equal(found.groups, expected.groups)
    pd.testing.assert_frame_equal(found.variation, expected.variation)
    assert set(found.groups["n_sessions"]) == {2}
    assert len(found.sessions) == len(whole)
    assert np.isfinite(found.variation["cov"]).all()


def test_a_session_as_its_group_is_has_no_oddity(tmp_path: Path) -> None:
    sessions, _ = draw(6, 0.03, seed=4)
    cohort = stored(tmp_path, sessions)
    calibrate(cohort)
    [(_, scales, _)] = current_calibrations(cohort.refreshed()).values()
    assert all(oddity_of(scales, one, PROTOCOL) == Oddity() for one in sessions)
