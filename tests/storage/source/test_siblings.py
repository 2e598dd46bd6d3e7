"""What the images of one session say about each other, read from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import LegacyConvertedEnhancedMRImageStorage

from qmri_core.series.acquisition import Contrast
from qmri_core.series.classification import Decision, SkipReason
from storage.source.discovery import Series, decide_session, discover, read_volume
from tests.storage.slices import STUDY, voxels, write_enhanced, write_series

KEY = bytes(32)
SPIN_ECHO: dict[str, Any] = {
    "ScanningSequence": "SE", "SequenceVariant": "SK", "MRAcquisitionType": "2D", "RepetitionTime": "4200",
    "InversionTime": None, "FlipAngle": "120", "EchoTrainLength": "15", "SeriesDescription": "axial",
}  # fmt: skip
NAMED = {"SeriesDescription": "sagittal"}


def session(folder: Path) -> list[tuple[Series, Decision]]:
    members = list(discover(folder, key=KEY).series)
    return list(zip(members, decide_session(members), strict=True))


def taken(folder: Path) -> dict[Contrast | None, Series]:
    return {decision.contrast: one for one, decision in session(folder) if decision.reason is None}


def reasons(folder: Path) -> dict[int, str]:
    return {one.number: str(decision.reason or decision.contrast) for one, decision in session(folder)}


@pytest.mark.parametrize("identifiers", [(2, 2), (2, 3)])
def test_of_a_dual_echo_the_later_is_a_t2w_and_the_earlier_proton_density(
    tmp_path: Path, identifiers: tuple[int, int]
) -> None:
    for echo, (time, series) in enumerate(zip(("12", "93"), identifiers, strict=True)):
        write_series(
            tmp_path / time, voxels(seed=echo), **SPIN_ECHO, EchoTime=time, EchoNumbers=str(echo + 1),
            SeriesInstanceUID=f"{STUDY}.{series}", SeriesNumber=str(series), series=10 + echo,
        )  # fmt: skip
    t2w = taken(tmp_path)[Contrast.T2W]
    assert t2w.header.echo_time == pytest.approx(0.093)
    assert (read_volume(t2w).array == voxels(seed=1)[::-1]).all()  # slices run down along their normal
    [early] = [decision for _, decision in session(tmp_path) if decision.reason is not None]
    assert early.reason is SkipReason.CONTRAST_UNKNOWN
    assert early.explanation.startswith("proton density")


def test_of_an_enhanced_dual_echo_too(tmp_path: Path) -> None:
    stored = voxels(10)
    write_enhanced(tmp_path / "IM", stored, list(range(10)), inversion_times=None)
    dataset = pydicom.dcmread(tmp_path / "IM")
    dataset.EchoPulseSequence, dataset.MRAcquisitionType, dataset.SeriesDescription = "SPIN", "2D", "axial"
    [shared] = dataset.SharedFunctionalGroupsSequence
    shared.MRTimingAndRelatedParametersSequence[0].RepetitionTime = "4200"
    shared.MRTimingAndRelatedParametersSequence[0].FlipAngle = "90"
    del shared.MRModifierSequence
    for place, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        frame.MREchoSequence[0].EffectiveEchoTime = 12.0 if place < 5 else 93.0
        frame.PlanePositionSequence[0].ImagePositionPatient = [-40, -50, -60 + 2.5 * (place % 5)]
    dataset.save_as(tmp_path / "IM")
    t2w = taken(tmp_path)[Contrast.T2W]
    assert (t2w.header.echo_time, t2w.shape) == (pytest.approx(0.093), (4, 6, 5))
    assert [frame for _, frame in t2w.frames] == [9, 8, 7, 6, 5]


def legacy(path: Path, **changes: Any) -> None:
    """Write a Legacy Converted Enhanced MR object of the slices of `voxels` as a T2w."""
    write_enhanced(path, voxels(), list(range(5)), inversion_times=None)
    dataset = pydicom.dcmread(path)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = LegacyConvertedEnhancedMRImageStorage
    for name in ("EchoPulseSequence", "MRAcquisitionType"):
        if name in dataset:
            delattr(dataset, name)
    unassigned, numbered = Dataset(), Dataset()
    for name, value in (SPIN_ECHO | {"EchoTime": "93", "MRAcquisitionType": "2D"}).items():
        if value is not None and name != "SeriesDescription":
            setattr(numbered if name in {"EchoTime"} else unassigned, name, value)
    [shared] = dataset.SharedFunctionalGroupsSequence
    del shared.MRTimingAndRelatedParametersSequence
    del shared.MRModifierSequence
    shared.UnassignedSharedConvertedAttributesSequence = Sequence([unassigned])
    for z, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        del frame.MREchoSequence
        del frame.PixelValueTransformationSequence
        frame.UnassignedPerFrameConvertedAttributesSequence = Sequence([numbered])
        frame.FrameContentSequence = Sequence([Dataset()])
        frame.FrameContentSequence[0].FrameAcquisitionDateTime = f"20240110185300.{z}"
    for name, value in changes.items():
        setattr(dataset, name, value)
    dataset.SeriesDescription = "axial (enhanced conversion)"
    dataset.save_as(path)


def test_a_legacy_converted_object_has_the_times_that_lie_unassigned(tmp_path: Path) -> None:
    legacy(tmp_path / "IM")
    t2w = taken(tmp_path)[Contrast.T2W]
    assert t2w.header.repetition_time == pytest.approx(4.2)
    assert t2w.header.echo_time == pytest.approx(0.093)
    assert t2w.header.scanning_sequence == ("SE",)
    assert t2w.context.converted
    assert (read_volume(t2w).array == voxels()[::-1]).all()


@pytest.mark.parametrize("numbers", [(2, 1002), (1002, 2)])
def test_a_converted_copy_is_another_copy_of_the_classic_series(tmp_path: Path, numbers: tuple[int, int]) -> None:
    classic, converted = numbers
    write_series(
        tmp_path / "classic", voxels(), **SPIN_ECHO, EchoTime="93", SeriesNumber=str(classic), AcquisitionTime="185300",
        series=2,
    )  # fmt: skip
    write_series(tmp_path / "t1w", voxels(seed=3), **NAMED, AcquisitionTime="190000", series=3, SeriesNumber="9")
    legacy(tmp_path / "IM", SeriesNumber=str(converted), SeriesInstanceUID=f"{STUDY}.77")
    found = {one.number: decision for one, decision in session(tmp_path)}
    assert found[classic].reason is None
    assert found[converted].reason is SkipReason.DUPLICATE
    assert "another copy of the same images" in found[converted].explanation


MPRAGE_ECHOES = ("1.69", "3.55", "5.41", "7.27")


@pytest.mark.parametrize("layout", ["one series", "four series"])
@pytest.mark.parametrize(
    "kind",
    [["ORIGINAL", "PRIMARY", "OTHER", "ND"], ["DERIVED", "PRIMARY", "M", "RMS"], ["ORIGINAL", "PRIMARY", "M", "MEAN"]],
)  # fmt: skip
def test_the_combination_of_the_echoes_of_an_mprage_is_its_t1w(tmp_path: Path, layout: str, kind: list[str]) -> None:
    for echo, time in enumerate(MPRAGE_ECHOES):
        series = 5 if layout == "one series" else 5 + echo
        write_series(
            tmp_path / time, voxels(seed=echo), **NAMED, EchoTime=time, EchoNumbers=str(echo + 1), series=20 + echo,
            SeriesInstanceUID=f"{STUDY}.{series}", SeriesNumber=str(series),
        )  # fmt: skip
    write_series(
        tmp_path / "rms", voxels(seed=9), **NAMED, EchoTime="1.69", ImageType=kind, SeriesNumber="12", series=12
    )  # fmt: skip
    t1w = taken(tmp_path)[Contrast.T1W]
    assert t1w.number == 12
    assert t1w.context.combined
    assert set(reasons(tmp_path).values()) == {"T1w", "contrast_unknown"}


def test_images_that_the_header_counts_and_are_not_there_are_missing(tmp_path: Path) -> None:
    write_series(tmp_path / "a", voxels(12), **NAMED, ImagesInAcquisition="20")
    [(series, _)] = session(tmp_path)
    assert series.context.n_missing == 8
    write_series(tmp_path / "b", voxels(8), **NAMED, ImagesInAcquisition="16", series=2, SeriesNumber="2")
    for z, path in enumerate(sorted((tmp_path / "b").iterdir())):  # each slice under an identifier of its own
        dataset = pydicom.dcmread(path)
        dataset.SeriesInstanceUID, dataset.ImagesInAcquisition = f"{STUDY}.2.{z}.5", "8"
        dataset.save_as(path)
    assert [one.context.n_missing for one, _ in session(tmp_path)] == [0, 8]


def test_where_each_second_slice_is_missing_the_series_is_incomplete(tmp_path: Path) -> None:
    write_series(tmp_path, voxels(20), **NAMED, SpacingBetweenSlices="2.5")
    for path in sorted(tmp_path.iterdir()):
        if int(pydicom.dcmread(path).InstanceNumber) % 2 == 0:
            path.unlink()
    [(_, decision)] = session(tmp_path)
    assert decision.reason is SkipReason.INCOMPLETE
    assert decision.explanation == "slices lie 5.00 mm apart, not 2.50 mm, and their numbers skip as many"


def test_a_spacing_that_only_the_header_contradicts_is_that_of_the_positions(tmp_path: Path) -> None:
    write_series(tmp_path, voxels(20), **NAMED, SpacingBetweenSlices="1.25")
    assert taken(tmp_path)[Contrast.T1W].spacing == (3.0, 2.0, 2.5)


@pytest.mark.parametrize(
    ("change", "trait"),
    [
        ({"LossyImageCompression": "01"}, "lossy"),
        ({"ConversionType": "WSD"}, "processed"),
        ({"InstanceCreationDate": "20240301"}, "processed"),
        ({"MRAcquisitionType": "2D", "SliceThickness": "5"}, "processed"),
    ],
)
def test_copies_that_are_not_the_scanners_own_lose(tmp_path: Path, change: dict[str, str], trait: str) -> None:
    plain = {**SPIN_ECHO, "EchoTime": "93", "InstanceCreationDate": "20240110", "AcquisitionTime": "185300"}
    write_series(tmp_path / "a", voxels(), **plain, SeriesNumber="2")
    write_series(tmp_path / "b", voxels(seed=2), **(plain | change), SeriesNumber="40", series=40)
    assert taken(tmp_path)[Contrast.T2W].number == 2
    copy = next(one for one, _ in session(tmp_path) if one.number == 40)
    assert getattr(copy.context, trait)


@pytest.mark.parametrize(
    ("times", "known"),
    [([0.0, 1.7976931348623157e308], None), ([float("nan")], None), ([0.0, 0.0], None), ([2500.0, 1e308], 2.5)],
)
def test_inversion_times_that_cannot_be_are_unknown(tmp_path: Path, times: list[Any], known: float | None) -> None:
    flair = SPIN_ECHO | {"RepetitionTime": "9000", "EchoTime": "90"}
    write_series(tmp_path / "f", voxels(), **flair, InversionTimes=times, SeriesNumber="3", series=3)
    write_series(tmp_path / "t", voxels(seed=2), **SPIN_ECHO, EchoTime="93", SeriesNumber="2", series=2)
    found = {one.number: (one, decision) for one, decision in session(tmp_path)}
    series, decision = found[3]
    assert series.header.inversion_time == known
    assert decision.contrast is not None
    assert decision.reason is (None if known else SkipReason.CONTRAST_UNKNOWN)
    assert found[2][1].reason is None
    assert series.context.odd_inversion_time is (known is None and times != [0.0, 0.0])


def test_images_that_share_an_identifier_are_not_missing(tmp_path: Path) -> None:
    write_series(tmp_path, voxels(12), **NAMED, ImagesInAcquisition="12", SOPInstanceUID=f"{STUDY}.1.1")
    assert taken(tmp_path)[Contrast.T1W].context.n_missing == 0
