"""Ages, sexes and days from the tables of BIDS trees."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qmri_core.series.acquisition import Contrast
from qmri_core.series.remarks import RemarkKind
from storage.source.bids.tables import Columns, age_in_words, date_of, sex_of
from storage.source.discovery import discover, scan_source
from storage.source.series import Series, decide_session
from tests.storage.niftis import SIDECARS, T1W, T2W, write_nifti, write_visit

KEY = bytes(32)


def table(path: Path, *rows: str, encoding: str = "utf-8", delimiter: str = "\t") -> None:
    path.write_bytes("".join(delimiter.join(row.split(" ")) + "\n" for row in rows).encode(encoding))


def sessions(root: Path) -> dict[tuple[str, str], list[Series]]:
    """Series by person and session, as the linkage names them."""
    found = discover(root, key=KEY)
    names = {row.session: (row.patient_id, row.study_instance_uid) for row in found.linkage}
    result: dict[tuple[str, str], list[Series]] = {}
    for one in found.series:
        result.setdefault(names[one.session], []).append(one)
    return result


def told(root: Path) -> dict[tuple[str, str], tuple[int | None, str, int | None]]:
    """Age, sex and day of each session, alike in all of its series."""
    result = {}
    for name, members in sessions(root).items():
        (result[name],) = {(one.age, one.sex, one.day) for one in members}
    return result


def remarks(root: Path) -> list[str]:
    members = [one for series in sessions(root).values() for one in series]
    return [remark.text for one in members for remark in one.remarks if remark.kind is RemarkKind.TABLES]


def two_people(root: Path) -> None:
    write_visit(root, "sub-01", "ses-01")
    write_visit(root, "sub-01", "ses-02")
    write_visit(root, "sub-02", "ses-01")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("delimiter", ["\t", ",", ";"])
def test_ages_sexes_and_days_stand_in_the_tables(tmp_path: Path, encoding: str, delimiter: str) -> None:
    two_people(tmp_path)
    kind = {"encoding": encoding, "delimiter": delimiter}
    table(
        tmp_path / "participants.tsv", "participant_id age sex site", "sub-01 67 F Zürich", "sub-02 89+ n/a x", **kind
    )
    table(
        tmp_path / "sub-01" / "sub-01_sessions.tsv", "session_id acq_time age",
        "ses-01 2018-10-01T18:37:40 67", "ses-02 2019-11-05T09:12:00 68", "ses-00 2010-01-01T00:00:00 58", **kind,
    )  # fmt: skip
    assert told(tmp_path) == {
        ("sub-01", "ses-01"): (67, "F", 0), ("sub-01", "ses-02"): (68, "F", 400), ("sub-02", "ses-01"): (90, "", None),
    }  # fmt: skip
    assert remarks(tmp_path) == []


def test_days_stand_in_scans_and_may_be_shifted(tmp_path: Path) -> None:
    two_people(tmp_path)
    for visit, dates in (("ses-01", ("1877-06-15T13:45:30", "n/a")), ("ses-02", ("1877-06-23", "1877-06-22T08:00:00"))):
        rows = [f"anat/{number}.nii.gz {date}" for number, date in enumerate(dates)]
        table(tmp_path / "sub-01" / visit / f"sub-01_{visit}_scans.tsv", "filename acq_time", *rows)
    assert {name: day for name, (_, _, day) in told(tmp_path).items()} == {
        ("sub-01", "ses-01"): 0, ("sub-01", "ses-02"): 7, ("sub-02", "ses-01"): None,
    }  # fmt: skip
    assert remarks(tmp_path) == []


def test_a_tree_without_sessions_has_the_scans_of_the_person(tmp_path: Path) -> None:
    write_visit(tmp_path, "sub-01")
    table(tmp_path / "sub-01" / "sub-01_scans.tsv", "filename acq_time", "anat/a.nii.gz 2001-02-03T04:05:06")
    table(tmp_path / "participants.tsv", "Participant_ID Gender Age_Months", "01 male 804")
    assert told(tmp_path) == {("sub-01", ""): (67, "M", 0)}


def test_the_age_of_participants_is_that_of_the_first_session(tmp_path: Path) -> None:
    two_people(tmp_path)
    table(tmp_path / "participants.tsv", "participant_id age", "sub-01 67", "sub-02 n/a")
    rows = ("ses-01 2018-10-01", "ses-02 2021-11-05")
    table(tmp_path / "sub-01" / "sub-01_sessions.tsv", "session_id acq_time", *rows)
    ages = {name: age for name, (age, _, _) in told(tmp_path).items()}
    assert ages == {("sub-01", "ses-01"): 67, ("sub-01", "ses-02"): 70, ("sub-02", "ses-01"): None}


def test_participants_may_have_a_row_for_each_session(tmp_path: Path) -> None:
    two_people(tmp_path)
    rows = ("sub-01 ses-01 67", "sub-01 ses-02 71", "sub-02 01 30")
    table(tmp_path / "participants.tsv", "participant_id session_id age", *rows)
    ages = {name: age for name, (age, _, _) in told(tmp_path).items()}
    assert ages == {("sub-01", "ses-01"): 67, ("sub-01", "ses-02"): 71, ("sub-02", "ses-01"): 30}


@pytest.mark.parametrize(
    ("columns", "description", "cells", "expected"),
    [
        ("age sex", {"age": {"Units": "months"}, "sex": {"Levels": {"1": "male", "2": "female"}}}, "804 2", (67, "F")),
        ("Age Sex", {"Age": {"Units": "years"}, "Sex": {"Levels": {"1": {"Description": "Male"}}}}, "67 1", (67, "M")),
        ("age_years gender", {}, "67.9 Woman", (67, "F")),
        ("age_in_weeks sex", {}, "208.8 O", (4, "O")),
        ("age_at_scan age_of_onset", {}, "44 12", (44, "")),
        ("age_of_onset sex", {}, "12 m", (None, "M")),
    ],
)
def test_columns_are_read_as_they_are_described(
    tmp_path: Path, columns: str, description: dict[str, Any], cells: str, expected: tuple[int | None, str]
) -> None:
    write_visit(tmp_path, "sub-01")
    table(tmp_path / "participants.tsv", f"participant_id {columns}", f"sub-01 {cells}")
    (tmp_path / "participants.json").write_text(json.dumps(description))
    assert told(tmp_path) == {("sub-01", ""): (*expected, None)}
    assert remarks(tmp_path) == []


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (("participant_id age", "sub-01 670"), "one that nobody has"),
        (("participant_id age", "sub-01 old"), "no number"),
        (("participant_id age", "sub-01 65+"), "only a bound"),
        (("participant_id age", "sub-01 40-50"), "no number"),
        (("participant_id sex", "sub-01 2"), "a code that no description explains"),
        (("subject age", "sub-01 67"), "participants.tsv is not read: it has no column participant_id"),
        (("participant_id age", "sub-01 40", "sub-01 50"), "differ by 10 years"),
    ],
)
def test_what_cannot_be_read_is_unknown_and_said(tmp_path: Path, rows: tuple[str, ...], text: str) -> None:
    write_visit(tmp_path, "sub-01")
    table(tmp_path / "participants.tsv", *rows)
    ((age, sex, day),) = told(tmp_path).values()
    assert (age, sex, day) == (40 if "10 years" in text else None, "", None)
    (said,) = remarks(tmp_path)
    assert text in said


@pytest.mark.parametrize(
    ("participants", "sidecar", "expected", "text"),
    [
        ("67 F", {"PatientAge": "067Y", "PatientSex": "F"}, (67, "F"), ""),
        ("67 F", {"PatientAge": "068Y"}, (67, "F"), ""),
        ("67 F", {"PatientAge": "045Y", "PatientSex": "F"}, (67, "F"), "differ by 22 years"),
        ("67 F", {"PatientSex": "M"}, (67, "F"), "the sex is stated in two ways"),
        ("n/a n/a", {"PatientAge": 45, "PatientSex": "M"}, (45, "M"), ""),
    ],
)
def test_tables_count_for_more_than_sidecars_and_contradictions_are_said(
    tmp_path: Path, participants: str, sidecar: dict[str, Any], expected: tuple[int, str], text: str
) -> None:
    write_visit(tmp_path, "sub-01", contrasts={name: values | sidecar for name, values in SIDECARS.items()})
    table(tmp_path / "participants.tsv", "participant_id age sex", f"sub-01 {participants}")
    assert told(tmp_path) == {("sub-01", ""): (*expected, None)}
    assert [text in one for one in remarks(tmp_path)] == [True] * bool(text)


@pytest.mark.parametrize("kind", ["sessions and scans differ", "one time everywhere"])
def test_dates_that_contradict_each_other_are_unknown_and_said(tmp_path: Path, kind: str) -> None:
    two_people(tmp_path)
    second = "2018-10-01T00:00:00" if kind == "one time everywhere" else "2018-12-01T00:00:00"
    rows = ("ses-01 2018-10-01T00:00:00", f"ses-02 {second}")
    table(tmp_path / "sub-01" / "sub-01_sessions.tsv", "session_id acq_time", *rows)
    if kind != "one time everywhere":
        scans = tmp_path / "sub-01" / "ses-02" / "sub-01_ses-02_scans.tsv"
        table(scans, "filename acq_time", "anat/a.nii.gz 2019-12-01T00:00:00")
    days = {name: day for name, (_, _, day) in told(tmp_path).items()}
    expected = None if kind == "one time everywhere" else 0
    assert (days["sub-01", "ses-01"], days["sub-01", "ses-02"]) == (expected, None)
    assert {"the day is not known" in text for text in remarks(tmp_path)} == {True}


@pytest.mark.parametrize(
    ("text", "unit", "age"),
    [
        ("67", "y", 67), ("067Y", "y", 67), ("89+", "y", 90), (">89", "y", 90), (">=90", "y", 90), ("95", "y", 90),
        ("804M", "y", 67), ("804", "m", 67), ("67,5", "y", 67), ("n/a", "y", None), ("", "y", None), ("-1", "y", None),
        ("24472.5", "d", 67), ("12 y", "m", 12), ("0", "y", 0), ("1e3", "y", None), ("67 furlongs", "y", None),
    ],
)  # fmt: skip
def test_ages_in_words(text: str, unit: str, age: int | None) -> None:
    assert age_in_words(text, unit)[0] == age


@pytest.mark.parametrize(
    ("text", "known"),
    [("2018-10-01T18:37:40", True), ("1877-06-15", True), ("20181001", True), ("2018-10-01 18:37:40.123Z", True),
     ("01/10/2018", False), ("n/a", False), ("2018-13-01", False), ("201810011", False)],
)  # fmt: skip
def test_dates_that_mean_one_day_are_known(text: str, known: bool) -> None:
    assert (date_of(text) is not None) is known


@pytest.mark.parametrize(("text", "sex"), [("Female", "F"), ("m", "M"), ("other", "O"), ("1", ""), ("male/female", "")])
def test_sexes_in_words(text: str, sex: str) -> None:
    assert sex_of({"sex": text}, Columns({}))[0] == sex


def test_a_corrected_age_makes_another_input_and_nothing_is_scanned_again(tmp_path: Path) -> None:
    source = tmp_path / "source"
    two_people(source)
    digests = []
    for age in ("67", "67", "68"):
        table(source / "participants.tsv", "participant_id age", f"sub-01 {age}")
        with scan_source(source, key=KEY, index=tmp_path / "index", runner=list if digests else _scanned) as scanned:
            digests.append({session: scanned.session(session)[0][0].digest for session in scanned.sessions})
    assert digests[0] == digests[1]
    assert sum(digests[1][session] != digest for session, digest in digests[2].items()) == 2


def _scanned(tasks: Any) -> Any:
    from storage.source.scans import scan_files

    return [scan_files(task) for task in tasks]


def test_no_date_and_no_name_leaves_the_reader(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    root = tmp_path / "Zyxwvut"
    for visit in ("ses-01", "ses-02"):
        write_visit(root, "sub-Quentin", visit, contrasts={"T1w": T1W, "T2w": T2W | {"PatientAge": "020Y"}})
    table(root / "participants.tsv", "participant_id age sex", "sub-Quentin 67 9")
    rows = ("ses-01 2018-10-01T18:37:40 67", "ses-02 2018-10-01T18:37:40 old")
    table(root / "sub-Quentin" / "sub-Quentin_sessions.tsv", "session_id acq_time age", *rows)
    found = sessions(root)
    everything = f"{list(found.values())!r} {caplog.text}".lower()
    assert "tables" in everything
    for secret in ("zyxwvut", "quentin", "2018", "18:37", str(tmp_path).lower()):
        assert secret not in everything


def dated(root: Path, person: str, visit: str, **values: Any) -> None:
    write_visit(root, person, visit, {name: sidecar | values for name, sidecar in SIDECARS.items()})


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"AcquisitionDateTime": "2018-10-01T18:37:40.5"}, {"AcquisitionDateTime": "2019-11-05T09:12:00.0"}),
        ({"AcquisitionDate": "20181001"}, {"StudyDate": "2019-11-05"}),
        ({"StudyDate": 20181001}, {"SeriesDate": "20191105", "AcquisitionTime": "09:12:00"}),
        ({"AcquisitionDateTime": "20181001183740.25"}, {"AcquisitionDateTime": "20191105091200"}),
    ],
)
def test_days_come_from_sidecars_where_no_table_says_a_date(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any]
) -> None:
    dated(tmp_path, "sub-01", "ses-01", **first)
    dated(tmp_path, "sub-01", "ses-02", **second)
    write_visit(tmp_path, "sub-01", "ses-03")
    found = {session: day for (_, session), (_, _, day) in told(tmp_path).items()}
    assert found == {"ses-01": 0, "ses-02": 400, "ses-03": None}
    assert remarks(tmp_path) == []


def test_tables_and_sidecars_of_a_person_never_mix(tmp_path: Path) -> None:
    dated(tmp_path, "sub-01", "ses-01", AcquisitionDateTime="2018-10-01T18:37:40")
    dated(tmp_path, "sub-01", "ses-02", AcquisitionDateTime="2019-11-05T18:37:40")
    table(tmp_path / "sub-01" / "sub-01_sessions.tsv", "session_id acq_time", "ses-01 1890-02-01T18:37:40")
    assert {session: day for (_, session), (_, _, day) in told(tmp_path).items()} == {"ses-01": 0, "ses-02": None}


@pytest.mark.parametrize("written", ["1900-01-01T00:00:00", "20000101", "2018", "18.10.2018", ["20181001"], None, ""])
def test_a_sidecar_whose_date_is_none_says_no_day(tmp_path: Path, written: Any) -> None:
    dated(tmp_path, "sub-01", "ses-01", AcquisitionDateTime=written)
    dated(tmp_path, "sub-01", "ses-02", AcquisitionDateTime=written)
    assert {day for _, _, day in told(tmp_path).values()} == {None}


def test_one_date_in_the_sidecars_of_two_sessions_is_told(tmp_path: Path) -> None:
    for visit in ("ses-01", "ses-02"):
        dated(tmp_path, "sub-01", visit, StudyDate="20180704")
    assert {day for _, _, day in told(tmp_path).values()} == {None}
    assert set(remarks(tmp_path)) == {"2 sessions have the same date and time: the day is not known"}
    assert "2018" not in repr([one for series in sessions(tmp_path).values() for one in series])


@pytest.mark.parametrize(
    ("times", "taken"),
    [
        (({"AcquisitionTime": "18:50:00.5"}, {"AcquisitionTime": "18:40:00"}), 1),
        (({"AcquisitionDateTime": "2018-10-01T18:40:00"}, {"AcquisitionDateTime": "2018-10-01T18:50:00"}), 2),
    ],
)
def test_of_two_runs_the_one_acquired_later_is_preferred(
    tmp_path: Path, times: tuple[dict[str, Any], ...], taken: int
) -> None:
    folder = write_visit(tmp_path, "sub-01", "", {"T2w": T2W | {"AcquisitionTime": "18:30:00"}})
    for number, values in enumerate(times, start=1):
        data = np.random.default_rng(number).integers(0, 2000, (4, 5, 6)).astype(np.int16)
        path = folder / "anat" / f"sub-01_run-{number}_T1w.nii.gz"
        write_nifti(path, T1W | {"SeriesNumber": 10 + number} | values, data=data)
    (members,) = sessions(tmp_path).values()
    decisions = zip(members, decide_session(members), strict=True)
    runs = {one.number: decision for one, decision in decisions if decision.contrast is Contrast.T1W}
    assert [number for number, decision in runs.items() if decision.reason is None] == [10 + taken]
    (other,) = [decision for decision in runs.values() if decision.reason is not None]
    assert other.explanation.endswith("it was acquired later")


@pytest.mark.parametrize("written", ["sub-AB01", "SUB-AB01", "sub_AB01", "AB01", "ab01", "Sub-aB01"])
def test_people_are_known_in_any_spelling_of_case_and_prefix(tmp_path: Path, written: str) -> None:
    write_visit(tmp_path, "sub-AB01")
    table(tmp_path / "participants.tsv", "participant_id age sex", f"{written} 67 F", "sub-02 30 M")
    assert told(tmp_path) == {("sub-AB01", ""): (67, "F", None)}
    assert remarks(tmp_path) == []


@pytest.mark.parametrize(
    ("rows", "others"),
    [
        (("sub-02 30 M",), ()),
        (("1 67 F", "sub-02 30 M"), ()),  # may be another person
        (("SUB-0001a 67 F", "sub_0001A 30 M"), ()),
        (("sub-0001A 67 F",), ("sub-0001A",)),  # that of the other
        (("0001A 67 F",), ("sub-0001A", "sub-0001B")),
    ],
)
def test_a_person_without_a_row_is_told(tmp_path: Path, rows: tuple[str, ...], others: tuple[str, ...]) -> None:
    for label in ("sub-0001a", *others):
        write_visit(tmp_path, label)
    table(tmp_path / "participants.tsv", "participant_id age sex", *rows)
    assert told(tmp_path)["sub-0001a", ""] == (None, "", None)
    text = "participants.tsv has no row of the person: age and sex not known"
    assert remarks(tmp_path).count(text) == 1 + ("sub-0001B" in others)


@pytest.mark.parametrize(
    ("sidecar", "columns", "text"),
    [
        ({"PatientAge": "067Y"}, "age sex", "participants.tsv has no row of the person: sex not known"),
        ({"PatientSex": "F"}, "age sex", "participants.tsv has no row of the person: age not known"),
        ({"PatientAge": "067Y", "PatientSex": "F"}, "age sex", ""),
        ({}, "site hand", ""),
    ],
)
def test_a_row_that_is_not_missed_is_not_told(tmp_path: Path, sidecar: dict[str, Any], columns: str, text: str) -> None:
    write_visit(tmp_path, "sub-01", contrasts={name: values | sidecar for name, values in SIDECARS.items()})
    table(tmp_path / "participants.tsv", f"participant_id {columns}", "sub-02 30 M")
    assert remarks(tmp_path) == [text] * bool(text)


def unknown_dates(root: Path) -> dict[tuple[str, str], list[str]]:
    found = sessions(root)
    return {
        name: [r.text for one in members for r in one.remarks if r.kind is RemarkKind.DATE_UNKNOWN]
        for name, members in found.items()
    }


@pytest.mark.parametrize("by", ["scans", "sidecars", "sessions and scans"])
@pytest.mark.parametrize(("second", "days"), [("2019-10-01", 365), ("2018-10-04", 3), ("2018-10-02", 0)])
def test_the_day_of_a_session_whose_images_lie_days_apart_is_unknown(
    tmp_path: Path, by: str, second: str, days: int
) -> None:
    dated(tmp_path, "sub-01", "ses-01")
    dated(tmp_path, "sub-01", "ses-02")
    visit = tmp_path / "sub-01" / "ses-01"
    if by == "sidecars":
        for suffix, date in (("T1w", "2018-10-01"), ("T2w", second)):
            path = visit / "anat" / f"sub-01_ses-01_{suffix}.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"AcquisitionDateTime": f"{date}T18:37:40"}))
        for path in (tmp_path / "sub-01" / "ses-02" / "anat").glob("*.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"AcquisitionDate": "20181011"}))
    else:
        rows = ("anat/sub-01_ses-01_T1w.nii.gz 2018-10-01T18:37:40", f"anat/sub-01_ses-01_T2w.nii.gz {second}T18:37:40")
        table(visit / "sub-01_ses-01_scans.tsv", "filename acq_time", *rows, "func/a.nii.gz 2025-01-01T00:00:00")
        other = tmp_path / "sub-01" / "ses-02" / "sub-01_ses-02_scans.tsv"
        table(other, "filename acq_time", "anat/sub-01_ses-02_T1w.nii.gz 2018-10-11T18:37:40")
    if by == "sessions and scans":
        table(tmp_path / "sub-01" / "sub-01_sessions.tsv", "session_id acq_time", "ses-01 2018-10-01T18:37:40")
    found = {session: day for (_, session), (_, _, day) in told(tmp_path).items()}
    assert found == ({"ses-01": None, "ses-02": 0} if days else {"ses-01": 0, "ses-02": 10})
    text = f"its images were acquired up to {days} days apart by their dates; its day is not known"
    assert unknown_dates(tmp_path) == {("sub-01", "ses-01"): [text] * bool(days), ("sub-01", "ses-02"): []}
    assert remarks(tmp_path) == []
