"""Sidecars: inheritance, encodings, names of repetition times, and times that cannot be seconds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from qmri_core.physics.header import acquisition_from_header
from qmri_core.series.acquisition import Contrast, PulseSequence
from qmri_core.series.classification import SkipReason
from qmri_core.series.remarks import RemarkKind
from storage.source.discovery import decide, discover, load_assumptions, scan_source
from storage.source.series import Series
from tests.storage.niftis import FLAIR, T1W, T2W, write_nifti

KEY = bytes(32)


def one(root: Path) -> Series:
    (series,) = discover(root, key=KEY).series
    return series


def put(path: Path, values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    "places",
    [
        ("T2w.json", "sub-01/sub-01_T2w.json"),
        ("T2w.json", "sub-01/ses-a/sub-01_ses-a_T2w.json"),
        ("acq-fast_T2w.json", "sub-01/ses-a/anat/sub-01_ses-a_T2w.json"),
        ("T2w.JSON", "sub-01/ses-a/anat/sub-01_ses-a_acq-fast_T2w.json"),
    ],
)
@pytest.mark.parametrize("described", [True, False])
def test_sidecars_are_inherited_from_above(tmp_path: Path, places: tuple[str, str], described: bool) -> None:
    write_nifti(tmp_path / "sub-01" / "ses-a" / "anat" / "sub-01_ses-a_acq-fast_T2w.nii.gz")
    if described:
        put(tmp_path / "dataset_description.json", {"Name": "a", "BIDSVersion": "1.9.0"})
    upper, lower = places
    put(tmp_path / upper, {name: T2W[name] for name in ("Manufacturer", "MRAcquisitionType")} | {"EchoTime": 0.5})
    put(tmp_path / lower, T2W)
    put(tmp_path / "T1w.json", {"InversionTime": 0.9})
    put(tmp_path / "sub-01" / "sub-01_acq-slow_T2w.json", {"EchoTime": 0.2, "EchoTrainLength": 3})
    series = one(tmp_path)
    values = series.header
    assert (values.repetition_time, values.echo_time, values.echo_train_length) == (4.2, 0.093, 15)
    assert values.inversion_time is None
    assert values.mr_acquisition_type == "2D"
    assert decide(series).contrast is Contrast.T2W


@pytest.mark.parametrize(("entity", "echo"), [("acq-se", 0.011), ("run-2", 0.012)])
def test_what_lies_beside_an_image_of_its_name_is_that_images_alone(tmp_path: Path, entity: str, echo: float) -> None:
    folder = tmp_path / "sub-01" / "anat"
    write_nifti(folder / "sub-01_T1w.nii.gz", T1W)
    write_nifti(folder / f"sub-01_{entity}_T1w.nii.gz", {"RepetitionTime": 0.5, "EchoTime": echo, "SeriesNumber": 9})
    other = next(series for series in discover(tmp_path, key=KEY).series if series.number == 9)
    assert (other.header.echo_time, other.header.inversion_time) == (echo, None)


def test_a_source_below_the_root_of_its_dataset_inherits_too(tmp_path: Path) -> None:
    write_nifti(tmp_path / "sub-01" / "anat" / "sub-01_T2w.nii.gz")
    put(tmp_path / "T2w.json", T2W)
    assert one(tmp_path / "sub-01").header.echo_time == 0.093


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
def test_sidecars_are_read_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    image = write_nifti(tmp_path / "sub-01_T2w.nii.gz")
    content = json.dumps(T2W | {"InstitutionName": "Universität"}, ensure_ascii=False)
    (image.parent / "sub-01_T2w.json").write_bytes(content.encode(encoding))
    assert one(tmp_path).header.echo_time == 0.093


@pytest.mark.parametrize("content", ['{"EchoTime": 0.09, "RepetitionTime": 4.2,', "[1, 2]", "\x00\x00", ""])
@pytest.mark.parametrize("upper", [True, False])
def test_a_broken_sidecar_is_said_and_nothing_is_taken(tmp_path: Path, content: str, upper: bool) -> None:
    write_nifti(tmp_path / "sub-01" / "anat" / "sub-01_T2w.nii.gz", T2W)
    (tmp_path / ("T2w.json" if upper else "sub-01/anat/sub-01_T2w.json")).write_text(content)
    series = one(tmp_path)
    decision = decide(series)
    assert decision.reason is SkipReason.NO_PARAMETERS
    assert "a sidecar" in decision.explanation
    assert [remark.kind for remark in series.remarks] == [RemarkKind.SIDECAR]
    assert series.header.echo_time is None


@pytest.mark.parametrize(
    ("stated", "cycle"),
    [
        ({"RepetitionTimePreparation": 2.6, "RepetitionTimeExcitation": 0.0071}, 2.6),
        ({"RepetitionTime": 0.0071, "RepetitionTimePreparation": 2.6, "RepetitionTimeExcitation": 0.0071}, 2.6),
        ({"RepetitionTime": 2.3, "RepetitionTimePreparation": 2.3, "RepetitionTimeExcitation": 0.0071}, 2.3),
        ({"RepetitionTimePreparation": 2.5}, 2.5),
    ],
)
def test_an_mprage_has_the_repetition_time_of_its_preparation(
    tmp_path: Path, stated: dict[str, float], cycle: float
) -> None:
    write_nifti(tmp_path / "sub-01_T1w.nii.gz", {k: v for k, v in T1W.items() if k != "RepetitionTime"} | stated)
    series = one(tmp_path)
    decision = decide(series)
    assert (decision.contrast, decision.sequence, decision.reason) == (Contrast.T1W, PulseSequence.MPRAGE, None)
    acquisition = acquisition_from_header(series.header, Contrast.T1W, PulseSequence.MPRAGE)
    assert acquisition.repetition_time == cycle
    assert acquisition.mark("repetition_time") == "measured"


def test_an_unprepared_gradient_echo_has_that_of_its_excitation(tmp_path: Path) -> None:
    sidecar = {"MRAcquisitionType": "3D", "ScanningSequence": "GR", "RepetitionTimeExcitation": 0.025, "FlipAngle": 30,
               "EchoTime": 0.005}  # fmt: skip
    write_nifti(tmp_path / "sub-01_T1w.nii.gz", sidecar)
    series = one(tmp_path)
    assert series.header.repetition_time == 0.025
    assert decide(series).sequence is PulseSequence.SPOILED_GRADIENT_ECHO


@pytest.mark.parametrize(
    ("suffix", "sidecar", "name"),
    [
        ("T1w", T1W | {"RepetitionTime": 2300, "EchoTime": 3, "InversionTime": 900}, "RepetitionTime 2300 s"),
        ("T1w", T1W | {"InversionTime": 900}, "InversionTime 900 s"),
        ("T1w", T1W | {"EchoTime": 3}, "EchoTime 3 s"),
        ("T2w", T2W | {"EchoTime": 93}, "EchoTime 93 s"),
        ("T2w", T2W | {"RepetitionTime": 4200}, "RepetitionTime 4200 s"),
        ("FLAIR", FLAIR | {"InversionTime": 2500}, "InversionTime 2500 s"),
        ("T1w", T1W | {"RepetitionTime": 0.0069, "EchoTime": 0.32}, "EchoTime 0.32 s is not below RepetitionTime"),
    ],
)
def test_times_in_milliseconds_are_refused_never_guessed(
    tmp_path: Path, suffix: str, sidecar: dict[str, Any], name: str
) -> None:
    write_nifti(tmp_path / f"sub-01_{suffix}.nii.gz", sidecar)
    series = one(tmp_path)
    decision = decide(series)
    assert decision.reason is SkipReason.NO_PARAMETERS
    assert name in decision.explanation
    assert "were milliseconds passed?" in decision.explanation
    assert [remark.kind for remark in series.remarks] == [RemarkKind.SIDECAR]
    header = series.header
    assert (header.repetition_time, header.echo_time, header.inversion_time) == (None, None, None)


def test_times_that_were_refused_can_be_stated(tmp_path: Path) -> None:
    write_nifti(tmp_path / "sub-01_T2w.nii.gz", T2W | {"EchoTime": 93})
    (tmp_path / "a.yaml").write_text("- {match: '*T2w*', parameters: {RepetitionTime: 4.2, EchoTime: 0.093}}")
    (series,) = discover(tmp_path, key=KEY, assume=load_assumptions(tmp_path / "a.yaml")).series
    assert decide(series).reason is None
    assert series.header.echo_time == 0.093


def test_a_sidecar_that_changes_is_read_again(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_nifti(source / "sub-01" / "anat" / "sub-01_T2w.nii.gz", T2W)
    digests = set()
    for place, echo in ((None, 0.093), ("sub-01/anat/sub-01_T2w.json", 0.1), ("sub-01/sub-01_T2w.json", 0.1)):
        if place:
            put(source / place, T2W | {"EchoTime": echo, "EchoTrainLength": 17})
        with scan_source(source, key=KEY, index=tmp_path / "index") as scanned:
            ((series,), _) = scanned.session(scanned.sessions[0])
        assert series.header.echo_time == echo
        digests.add(series.digest)
    shutil.rmtree(source / "sub-01" / "anat")
    assert len(digests) == 2  # what is inherited and said once more changes nothing


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"EchoTime": "0.093"}, "EchoTime is no number"),
        ({"EchoTime": [0.012, 0.093]}, "EchoTime is no number"),
        ({"RepetitionTime": float("nan")}, "RepetitionTime is not finite"),
        ({"InversionTime": float("inf")}, "InversionTime is not finite"),
        ({"FlipAngle": 2.0944}, "FlipAngle 2.0944 degrees is too small"),  # 120 degrees in radians
        ({"FlipAngle": "120"}, "FlipAngle is no number"),
        ({"ScanningSequence": "GR", "EchoTime": 0.003, "RepetitionTime": 0.02, "FlipAngle": 0.5236}, "were radians"),
    ],
)
def test_what_can_be_no_number_of_a_scanner_is_named_and_nothing_is_taken(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    write_nifti(tmp_path / "sub-01_T2w.nii.gz", T2W | changes)
    series = one(tmp_path)
    assert decide(series).reason is SkipReason.NO_PARAMETERS
    assert (series.header.repetition_time, series.header.echo_time) == (None, None)
    assert [remark.kind for remark in series.remarks] == [RemarkKind.SIDECAR]
    assert said in series.remarks[0].text


@pytest.mark.parametrize("changes", [{"FlipAngle": 2, "ScanningSequence": "GR", "EchoTime": 0.004}, {"FlipAngle": 90}])
def test_small_angles_of_gradient_echoes_and_large_ones_stay(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_nifti(tmp_path / "sub-01_T2w.nii.gz", T2W | changes)
    series = one(tmp_path)
    assert series.header.echo_time is not None
    assert series.remarks == ()
