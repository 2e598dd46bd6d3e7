"""Discovery of series in trees of invented files."""

from __future__ import annotations

import datetime
import gzip
import logging
import shutil
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qmri_core.series.acquisition import Contrast, PulseSequence
from qmri_core.series.classification import SkipReason
from storage.source.discovery import (
    AssumptionError,
    Discovery,
    ReadError,
    Series,
    SourceError,
    decide,
    decide_session,
    discover,
    load_assumptions,
    read_volume,
    scan_source,
)
from storage.source.visits.identity import session_of
from tests.storage.slices import PATIENT_ID, SECRETS, STUDY, header, voxels, write, write_series

KEY = b"a key for tests, of thirty-two b"


def only(found: Discovery) -> Series:
    (series,) = found.series
    return series


def test_files_of_any_name_and_depth_are_one_series(tmp_path: Path) -> None:
    stored = voxels()
    write_series(tmp_path / "a" / "b", stored[:3], name="{z} with spaces.IMA")
    for z in (3, 4):
        dataset = header(SOPInstanceUID=f"{STUDY}.1.{z + 1}", InstanceNumber=str(z + 1))
        dataset.ImagePositionPatient = [-40, -50, -60 + 2.5 * z]
        write(tmp_path / f"no-extension-{z}", dataset, stored[z])
    (tmp_path / "notes.bin").write_bytes(b"no image at all, but long enough to have bytes behind 132" * 4)
    found = discover(tmp_path, key=KEY)
    series = only(found)
    assert found.n_files == 6
    assert found.unreadable == {SkipReason.NOT_IMAGE: 1}
    assert series.shape == (4, 6, 5)
    assert series.spacing == (3.0, 2.0, 2.5)
    assert series.header.repetition_time == pytest.approx(2.3)
    assert series.header.flip_angle == pytest.approx(np.radians(9))
    assert (series.sex, series.age, series.day) == ("F", 82, 0)
    decision = decide(series)
    assert (decision.contrast, decision.sequence, decision.reason) == (Contrast.T1W, PulseSequence.MPRAGE, None)


def test_voxels_and_affine_are_those_written(tmp_path: Path) -> None:
    stored = voxels()
    write_series(tmp_path, stored)
    series = only(discover(tmp_path, key=KEY))
    volume = read_volume(series)
    for z, y, x in ((0, 0, 0), (4, 5, 3), (2, 1, 3)):
        left, posterior = -40 + 3 * x, -50 + 2 * y
        world = np.array([-left, -posterior, -60 + 2.5 * z, 1.0])
        index = np.round(np.linalg.solve(volume.affine, world)[:3]).astype(int)
        np.testing.assert_allclose(volume.affine @ [*index, 1], world, atol=1e-9)
        assert volume.array[index[2], index[1], index[0]] == stored[z, y, x]
    assert volume.array.dtype == np.float32


def test_gzipped_files_read_the_same(tmp_path: Path) -> None:
    write_series(tmp_path / "plain", voxels())
    for path in (tmp_path / "plain").iterdir():
        (tmp_path / "zipped").mkdir(exist_ok=True)
        (tmp_path / "zipped" / f"{path.name}.dcm.gz").write_bytes(gzip.compress(path.read_bytes()))
    plain = read_volume(only(discover(tmp_path / "plain", key=KEY)))
    zipped = read_volume(only(discover(tmp_path / "zipped", key=KEY)))
    np.testing.assert_array_equal(plain.array, zipped.array)


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_missing_slice_is_refused_with_its_place(tmp_path: Path, missing: int) -> None:
    write_series(tmp_path, voxels(6), name="{z}")
    (tmp_path / str((missing * 7) % 101)).unlink()
    series = only(discover(tmp_path, key=KEY))
    decision = decide(series)
    assert decision.reason is SkipReason.INCOMPLETE
    assert f"{missing}" in decision.explanation
    assert "5.00 mm, not 2.50 mm" in decision.explanation
    with pytest.raises(ReadError, match="is no volume"):
        read_volume(series)


def test_a_slice_that_lies_beside_the_others_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path, voxels(5), name="{z}")
    dataset = header(SOPInstanceUID=f"{STUDY}.1.3", ImagePositionPatient=[-40, -47, -55])
    write(tmp_path / "14", dataset, voxels(1)[0])
    assert decide(only(discover(tmp_path, key=KEY))).reason is SkipReason.INCOMPLETE


def test_a_copied_file_is_a_duplicate_and_the_volume_stays(tmp_path: Path) -> None:
    write_series(tmp_path, voxels(), name="{z}")
    shutil.copy(tmp_path / "7", tmp_path / "z copy of something")
    found = discover(tmp_path, key=KEY)
    assert sorted(str(decide(one).reason) for one in found.series) == ["None", "duplicate"]
    whole = next(one for one in found.series if one.problem is None)
    assert whole.n_instances == 5


def test_another_slice_at_the_same_position_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path, voxels(), name="{z}")
    other = header(SOPInstanceUID=f"{STUDY}.1.77", ImagePositionPatient=[-40, -50, -55], InstanceNumber="77")
    write(tmp_path / "other", other, voxels(1, seed=9)[0])
    decision = decide(only(discover(tmp_path, key=KEY)))
    assert decision.reason is SkipReason.INCOMPLETE
    assert "share a position" in decision.explanation


def test_one_identifier_holding_two_echoes_and_phase_is_taken_apart(tmp_path: Path) -> None:
    gradient = {"ScanningSequence": "GR", "SequenceVariant": "SP", "InversionTime": None, "RepetitionTime": "20"}
    for index, (echo, part) in enumerate((e, p) for e in ("2.3", "4.6") for p in ("M", "P")):
        folder = tmp_path / str(index)
        for z, pixels in enumerate(voxels(seed=index)):
            changes = gradient | {
                "EchoTime": echo,
                "ImageType": ["ORIGINAL", "PRIMARY", part],
                "SOPInstanceUID": f"{STUDY}.1.{10 * index + z}",
                "ImagePositionPatient": [-40, -50, -60 + 2.5 * z],
            }
            write(folder / str(z), header(**changes), pixels)
    found = discover(tmp_path, key=KEY)
    assert sorted(str(decide(one).reason) for one in found.series) == ["field_map", "field_map", "phase", "phase"]
    assert all(one.shape == (4, 6, 5) for one in found.series)


def test_repeated_volumes_are_parted_by_a_counter(tmp_path: Path) -> None:
    for repeat in (1, 2):
        for z, pixels in enumerate(voxels(seed=repeat)):
            changes = {
                "SOPInstanceUID": f"{STUDY}.1.{100 * repeat + z}",
                "AcquisitionNumber": str(repeat),
                "ImagePositionPatient": [-40, -50, -60 + 2.5 * z],
            }
            write(tmp_path / f"{repeat}-{z}", header(**changes), pixels)
    found = discover(tmp_path, key=KEY)
    assert [one.shape for one in found.series] == [(4, 6, 5)] * 2
    codes = [one.reason for one in decide_session(found.series)]
    assert sorted(map(str, codes)) == ["None", "duplicate"]


def test_contrast_comes_from_numbers_not_from_names(tmp_path: Path) -> None:
    write_series(tmp_path / "T1w_mprage", voxels(), SeriesDescription="T1 MPRAGE", ScanningSequence="SE",
                 SequenceVariant="SK", MRAcquisitionType="2D", InversionTime=None, RepetitionTime="6000",
                 EchoTime="100", EchoTrainLength="16", FlipAngle="150")  # fmt: skip
    decision = decide(only(discover(tmp_path, key=KEY)))
    assert (decision.contrast, decision.sequence) == (Contrast.T2W, PulseSequence.TURBO_SPIN_ECHO)


def test_pseudonyms_tell_sessions_and_persons_apart_and_days_are_relative(tmp_path: Path) -> None:
    write_series(tmp_path / "first", voxels())
    write_series(tmp_path / "second", voxels(), series=2, StudyInstanceUID=f"{STUDY}.99", StudyDate="20240209")
    write_series(tmp_path / "other", voxels(), series=3, StudyInstanceUID=f"{STUDY}.98", PatientID="another")
    found = discover(tmp_path, key=KEY)
    assert len({one.session for one in found.series}) == 3
    assert len({one.person for one in found.series}) == 2
    assert sorted(one.day for one in found.series) == [0, 0, 30]
    first, _, last = sorted(one.date for one in found.series)  # for sites that keep days of scanners
    assert datetime.date.fromordinal(last).isoformat() == "2024-02-09"
    assert last - first == 30
    assert not any(str(one.date) in repr(one) for one in found.series)
    assert [row.patient_id for row in found.linkage].count(PATIENT_ID) == 2
    assert {row.session for row in found.linkage} == {one.session for one in found.series}


def test_the_day_of_a_session_without_dates_is_not_known(tmp_path: Path) -> None:
    write_series(tmp_path / "first", voxels())
    write_series(tmp_path / "second", voxels(), series=2, StudyInstanceUID=f"{STUDY}.99", StudyDate=None)
    assert [one.day for one in discover(tmp_path, key=KEY).series] == [0, None]


CONTRASTS = {
    Contrast.T1W: {},
    Contrast.T2W: {
        "ScanningSequence": "SE", "SequenceVariant": "SK", "MRAcquisitionType": "2D", "InversionTime": None,
        "RepetitionTime": "6000", "EchoTime": "100", "EchoTrainLength": "16", "FlipAngle": "150",
        "SeriesDescription": None,
    },
    Contrast.FLAIR: {
        "ScanningSequence": ["SE", "IR"], "SequenceVariant": "SK", "MRAcquisitionType": "2D", "InversionTime": "2500",
        "RepetitionTime": "9000", "EchoTime": "100", "EchoTrainLength": "16", "FlipAngle": "150",
    },
}  # fmt: skip


def write_heads(folder: Path, changes: dict[Contrast, dict[str, Any]], **common: Any) -> None:
    """Three coarse images of one head; ``changes`` are those of each contrast's headers."""
    for number, (contrast, values) in enumerate(CONTRASTS.items(), start=1):
        for z, pixels in enumerate(voxels(11, 5, 5, seed=number)):
            place = {
                "SeriesInstanceUID": f"{STUDY}.{number}", "SeriesNumber": str(number), "InstanceNumber": str(z + 1),
                "SOPInstanceUID": f"{STUDY}.{number}.{z}", "PixelSpacing": [30, 30], "SliceThickness": "12",
                "ImagePositionPatient": [-60, -60, -60 + 12 * z], "AcquisitionTime": f"12{number}000",
            }  # fmt: skip
            whole = values | place | common | changes.get(contrast, {})
            write(folder / f"{number}-{z}", header(**whole), pixels)


def taken(found: Discovery, session: str) -> dict[str, int]:
    members = [one for one in found.series if one.session == session]
    decisions = decide_session(members)
    return {str(d.contrast): one.number for one, d in zip(members, decisions, strict=True) if d.reason is None}


def told(found: Discovery) -> list[str]:
    return [str(remark.kind) for series in found.series for remark in series.remarks]


WHOLE = {"T1w": 1, "T2w": 2, "FLAIR": 3}
IRREGULAR: dict[str, tuple[dict[Contrast, dict[str, Any]], list[str]]] = {
    "nothing": ({}, []),
    "a study per series": (
        {contrast: {"StudyInstanceUID": f"{STUDY}.{contrast}"} for contrast in CONTRASTS},
        ["visit_joined"],
    ),
    "study renewed in mid-visit": (
        {Contrast.FLAIR: {"StudyInstanceUID": f"{STUDY}.9", "FrameOfReferenceUID": None}},
        ["visit_joined"],
    ),
    "another patient number": ({Contrast.T2W: {"PatientID": f"00{PATIENT_ID}"}}, ["patient_numbers"]),
    "no patient number in some": ({Contrast.T2W: {"PatientID": None}}, ["patient_numbers"]),
    "no patient number, and a name in other characters": (
        {c: {"PatientID": None, "PatientName": f"Zyxwvut{n}"} for n, c in enumerate(CONTRASTS)},
        ["patient_numbers"],
    ),
    "across midnight": (
        {Contrast.T1W: {"AcquisitionDate": "20240109", "AcquisitionTime": "235500", "FrameOfReferenceUID": None},
         Contrast.T2W: {"AcquisitionDate": "20240110", "AcquisitionTime": "000500"},
         Contrast.FLAIR: {"AcquisitionDate": "20240110", "AcquisitionTime": "001500"}},
        [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("trouble", IRREGULAR)
def test_a_visit_is_one_session_whatever_its_identifiers(tmp_path: Path, trouble: str) -> None:
    changes, expected = IRREGULAR[trouble]
    write_heads(tmp_path, changes)
    found = discover(tmp_path, key=KEY)
    (session,) = {one.session for one in found.series}
    assert len({one.person for one in found.series}) == 1
    assert taken(found, session) == WHOLE
    assert told(found) == expected
    assert {one.day for one in found.series} == {0}
    (row,) = found.linkage
    assert session_of(row.patient_id, row.study_instance_uid, KEY) == row.session == session


@pytest.mark.parametrize("order", ["names", "batches"])
def test_sessions_do_not_depend_on_how_a_scan_was_cut(tmp_path: Path, order: str) -> None:
    write_heads(tmp_path / "whole", IRREGULAR["a study per series"][0])
    expected = discover(tmp_path / "whole", key=KEY)
    part = tmp_path / "part"
    part.mkdir()
    files = sorted((tmp_path / "whole").iterdir(), reverse=order == "names")
    for half in (files[:15], files[15:]):  # the second scan goes on where the first one was cut
        for number, path in enumerate(half):
            shutil.copy(path, part / (path.name if order == "batches" else f"{number:03}-{path.name}"))
        with scan_source(part, key=KEY, index=tmp_path / "index") as scanned:
            last = [one for session in scanned.sessions for one in scanned.session(session)[0]]
    assert {one.session for one in last} == {one.session for one in expected.series}
    assert sorted(one.digest for one in last) == sorted(one.digest for one in expected.series)


def test_another_scanner_under_the_study_is_left_out_and_named(tmp_path: Path) -> None:
    other = {"MagneticFieldStrength": "1.5", "DeviceSerialNumber": "1", "FrameOfReferenceUID": f"{STUDY}.77"}
    write_heads(tmp_path, {Contrast.T2W: other, Contrast.FLAIR: other})
    found = discover(tmp_path, key=KEY)
    (session,) = {one.session for one in found.series}
    assert taken(found, session) == {"T1w": 1}
    assert [str(decide(one).reason) for one in found.series] == ["None", "other_visit", "other_visit"]
    assert told(found) == ["visit_parted"]


@pytest.mark.parametrize(
    ("changes", "age", "day", "expected"),
    [
        ({"PatientAge": "082Y"}, 82, 0, []),
        ({"PatientAge": "82"}, 82, 0, []),
        ({"PatientAge": "082 Y"}, 82, 0, []),
        ({"PatientAge": "045Y"}, None, 0, ["age_unknown"]),
        ({"PatientAge": "000Y"}, None, 0, ["age_unknown"]),
        ({"PatientAge": "999Y"}, None, 0, ["age_unknown"]),
        ({"StudyDate": "19000101"}, None, None, ["date_unknown"]),
        ({"StudyDate": "20990101"}, None, None, ["date_unknown"]),
        ({"StudyDate": "19411203"}, None, None, ["date_unknown"]),
        ({"PatientBirthDate": "20240110"}, None, None, ["age_unknown", "date_unknown"]),
        ({"PatientBirthDate": "20250110"}, None, None, ["age_unknown", "date_unknown"]),
        ({"PatientBirthDate": "19000101", "PatientAge": "045Y"}, 45, 0, []),
    ],
)
def test_dates_and_ages_that_cannot_be_are_not_known(
    tmp_path: Path, changes: dict[str, Any], age: int | None, day: int | None, expected: list[str]
) -> None:
    write_series(tmp_path, voxels(), **changes)
    found = discover(tmp_path, key=KEY)
    assert [(one.age, one.day) for one in found.series] == [(age, day)]
    assert sorted(told(found)) == expected


def test_the_digest_changes_with_pixels_and_not_with_names(tmp_path: Path) -> None:
    write_series(tmp_path / "a", voxels(), name="{z}")
    write_series(tmp_path / "b" / "c", voxels(), name="other {z}")
    changed = voxels()
    changed[2, 3, 1] += 1
    write_series(tmp_path / "d", changed)
    digests = [only(discover(tmp_path / name, key=KEY)).digest for name in "abd"]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("missing", [40, 5000, 64 * 64 * 2 - 1])
def test_truncated_pixels_name_the_instance(tmp_path: Path, missing: int) -> None:
    write_series(tmp_path, voxels(5, 64, 64), name="{z}")
    path = tmp_path / "14"
    path.write_bytes(path.read_bytes()[:-missing])
    series = only(discover(tmp_path, key=KEY))
    assert decide(series).reason is None  # what is damaged is not to pass for something that is left out on purpose
    with pytest.raises(ReadError, match="instance 3 cannot be decoded"):
        read_volume(series)


def test_no_text_shows_identity(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    secret_folder = tmp_path / "Zyxwvut Quentin 19411203"
    write_series(secret_folder, voxels(), name="Zyxwvut-{z}", SequenceName="Zyxwvut", ImageType=["ORIGINAL", "Quentin"])
    write(secret_folder / "Quentin.SR", header(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.22"), None)
    damaged = bytearray((secret_folder / "Zyxwvut-0").read_bytes())
    damaged[200:260] = b"Quentin Zyxwvut MRN-84412077 19411203 Quentin Zyxwvut xxxxxx"
    (secret_folder / "damaged-Quentin").write_bytes(bytes(damaged))
    found = discover(secret_folder.parent, key=KEY)
    texts = [repr(found), str(found.linkage), repr(found.series), caplog.text, *map(repr, map(decide, found.series))]
    for series in found.series:
        for path in secret_folder.iterdir():
            path.write_bytes(b"Quentin")
        try:
            read_volume(series)
        except ReadError:
            texts.append(traceback.format_exc(chain=False).split("Error:")[-1])
    captured = capsys.readouterr()
    everything = " ".join([*texts, captured.out, captured.err]).lower()
    assert "no volume" in everything or "cannot be" in everything
    for secret in (*SECRETS, str(tmp_path), STUDY):
        assert secret.lower() not in everything


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: None, "does not exist; give an existing folder"),
        (lambda path: path.mkdir(), "holds no file; give the folder"),
        (lambda path: (path.mkdir(), (path / "a.bin").write_bytes(b"x" * 300)), "1 files, none of them DICOM or NIfTI"),
        (lambda path: path.write_bytes(b"x" * 300), "is neither a DICOM nor a NIfTI file"),
    ],
)
def test_a_source_without_images_says_what_to_do(tmp_path: Path, make, message: str) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    make(tmp_path / "source")
    with pytest.raises(SourceError, match=message):
        discover(tmp_path / "source", key=KEY)


def test_a_missing_source_is_also_a_file_not_found_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        discover(tmp_path / "nowhere", key=KEY)


def test_one_file_and_link_loops_are_no_trouble(tmp_path: Path) -> None:
    write_series(tmp_path, voxels(), name="{z}")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert only(discover(tmp_path, key=KEY)).n_instances == 5
    assert only(discover(tmp_path / "7", key=KEY)).n_instances == 1


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    write_series(tmp_path, voxels())
    calls: list[tuple[int, int]] = []
    discover(tmp_path, key=KEY, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (5, 5)


def test_assumptions_fill_only_what_the_header_lacks(tmp_path: Path) -> None:
    write_series(tmp_path / "scan", voxels(), InversionTime=None, MagneticFieldStrength=None)
    file = tmp_path / "assume.yaml"
    file.write_text(
        "- {match: 'scan/*', parameters: {InversionTime: 1.1, MagneticFieldStrength: 3, RepetitionTime: 9}}\n"
        "- {match: 'elsewhere/*', contrast: T2w}\n"
    )
    plain = only(discover(tmp_path, key=KEY))
    found = discover(tmp_path, key=KEY, assume=load_assumptions(file))
    series = only(found)
    assert series.header.assumed == {"inversion_time", "magnetic_field_strength"}
    assert (series.header.inversion_time, series.header.repetition_time) == (1.1, 2.3)
    assert found.unmatched == (1,)
    assert series.digest != plain.digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {match: a, parameters: {RepetitionTime: 2300}}", "RepetitionTime.*seconds"),
        ("- {match: a, parameters: {EchoTme: 0.1}}", "EchoTme"),
        ("- {match: a, contrast: T3w}", "contrast"),
        ("- {contrast: T1w}", "match"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_a_wrong_assume_file_names_the_field(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "assume.yaml"
    file.write_text(text)
    with pytest.raises(AssumptionError, match=message):
        load_assumptions(file)
