"""Simulated DICOM, read back by independent software."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from numpy.testing import assert_allclose

from qmri_core.series.acquisition import Contrast
from qmri_core.series.geometry import Volume
from qmri_core.simulation.acquired import AcquiredSeries
from qmri_core.simulation.cohort import plan_cohort
from qmri_core.simulation.sessions import SimulatedSession, simulate_session
from storage.simulated.vendor_headers import decimal
from storage.simulated.writer import datasets, write_session
from storage.source.discovery import discover, read_volume
from tests.phantoms import phantom_atlas

VENDORS = ("Siemens", "Philips", "GE")


@pytest.fixture(scope="module")
def sessions() -> dict[str, SimulatedSession]:
    plans = plan_cohort(sessions=4, groups=4, seed=21)[:3]
    return {plan.protocol.vendor: simulate_session(plan, phantom_atlas(), resolution=6.0) for plan in plans}


def images(session: SimulatedSession) -> list[AcquiredSeries]:
    return list(session.images)


@pytest.mark.parametrize("vendor", VENDORS)
def test_dcm2niix_sees_the_same_voxels_at_the_same_places(
    sessions: dict[str, SimulatedSession], vendor: str, tmp_path: Path
) -> None:
    dcm2niix = pytest.importorskip("dcm2niix")
    session = sessions[vendor]
    write_session(session, tmp_path / "in")
    for series in images(session):
        (folder,) = (tmp_path / "in").glob(f"*/*/S{series.number:04d}")
        out = tmp_path / f"{series.number}"
        out.mkdir()
        command = [dcm2niix.bin, "-z", "n", "-b", "n", "-m", "n", "-f", "image", "-o", str(out), str(folder)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
        (path,) = out.glob("*.nii")
        converted = nib.load(path)
        truth = series.volumes[0]
        assert_same_image(np.asarray(converted.dataobj), converted.affine, truth, vendor)


def assert_same_image(values: np.ndarray, affine: np.ndarray, truth: Volume, vendor: str) -> None:
    """``values`` are indexed x, y, z; places within 0.01 mm, values within half of a stored step."""
    expected = truth.array.T
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * 1.0
    corners[:, :3] *= np.array(expected.shape) - 1
    to_truth = np.linalg.inv(truth.affine) @ affine
    last = np.array(values.shape) - 1
    own = np.array([[i, j, k, 1] for i in (0, last[0]) for j in (0, last[1]) for k in (0, last[2])])
    mapped = (to_truth @ own.T).T[:, :3]
    nearest = np.rint(mapped)
    assert np.abs(truth.affine[:3, :3] @ (mapped - nearest).T).max() < 0.01
    assert {tuple(row) for row in nearest} == {tuple(row[:3]) for row in corners}
    step = truth.array.max() / 4095 if vendor == "Philips" else 1.0
    index = np.indices(values.shape).reshape(3, -1)
    where = np.rint(to_truth[:3, :3] @ index + to_truth[:3, 3:]).astype(int)
    got = values.reshape(-1)
    clipped = np.minimum(expected[tuple(where)], 4095 if vendor == "Siemens" else np.inf)
    assert np.abs(got - clipped).max() <= 0.51 * step


@pytest.mark.parametrize("vendor", VENDORS)
def test_mandatory_attributes_of_mr_images_are_there(sessions: dict[str, SimulatedSession], vendor: str) -> None:
    # types 1 of the modules Patient, General Study, General Series, Frame of Reference, Equipment, Image Plane, Pixel
    present = [
        "SOPClassUID",
        "SOPInstanceUID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "FrameOfReferenceUID",
        "Modality",
        "PixelSpacing",
        "ImageOrientationPatient",
        "ImagePositionPatient",
        "ImageType",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "Rows",
        "Columns",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
        "PixelData",
        "ScanningSequence",
        "SequenceVariant",
    ]
    # type 2: there, perhaps empty
    there = [
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyDate",
        "StudyTime",
        "ReferringPhysicianName",
        "StudyID",
        "AccessionNumber",
        "SeriesNumber",
        "Manufacturer",
        "InstanceNumber",
        "PositionReferenceIndicator",
        "SliceThickness",
        "ScanOptions",
        "MRAcquisitionType",
        "EchoTime",
        "EchoTrainLength",
        "RepetitionTime",
    ]
    for series in sessions[vendor].series:
        for ds in datasets(sessions[vendor].plan, series):
            assert all(ds.get(name) not in (None, "") for name in present)
            assert all(name in ds for name in there)
            assert len(ds.PixelData) == 2 * ds.Rows * ds.Columns
            assert ds.SeriesInstanceUID.is_valid
            assert abs(np.dot(ds.ImageOrientationPatient[:3], ds.ImageOrientationPatient[3:])) < 1e-6


def test_headers_keep_each_vendors_habits(sessions: dict[str, SimulatedSession]) -> None:
    first = {
        vendor: next(
            next(datasets(session.plan, series)) for series in images(session) if series.series.contrast is Contrast.T1W
        )
        for vendor, session in sessions.items()
    }
    philips, siemens, ge = first["Philips"], first["Siemens"], first["GE"]
    assert "InversionTime" not in philips
    assert philips[0x2001, 0x101B].value == pytest.approx(830)
    assert float(philips.RepetitionTime) == pytest.approx(6.9)
    assert (0x2005, 0x100E) in philips
    assert float(siemens.InversionTime) == 900
    assert float(siemens.RepetitionTime) == 2300
    assert siemens.SequenceName.startswith("*tfl3d")
    assert "RescaleSlope" not in ge
    assert ge.PixelRepresentation == 1


def test_philips_private_slope_gives_back_floating_point_values(sessions: dict[str, SimulatedSession]) -> None:
    session = sessions["Philips"]
    for series in images(session):
        volume = series.volumes[0]
        for k, ds in enumerate(datasets(session.plan, series)):
            displayed = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
            values = displayed / (float(ds.RescaleSlope) * ds[0x2005, 0x100E].value)
            assert_allclose(values, volume.array[k], atol=0.51 * volume.array.max() / 4095)


@pytest.mark.parametrize("vendor", VENDORS)
def test_own_reader_finds_the_three_series_and_their_values(
    sessions: dict[str, SimulatedSession], vendor: str, tmp_path: Path
) -> None:
    session = sessions[vendor]
    assert write_session(session, tmp_path) == sum(len(v.array) for s in session.series for v in s.volumes)
    found = {one.number: one for one in discover(tmp_path, key=bytes(32)).series}
    for series in images(session):
        one = found[series.number]
        volume, truth = read_volume(one), series.volumes[0]
        assert_allclose(one.header.repetition_time, series.series.header.repetition_time, rtol=1e-5)
        assert_allclose(one.header.echo_time, series.series.header.echo_time, rtol=1e-5)
        assert one.header.manufacturer == vendor
        place, value = brightest(volume)
        there, expected = brightest(truth)
        assert_allclose(value, min(expected, 4095 if vendor == "Siemens" else np.inf), rtol=2e-3)
        if expected < 4095:
            assert_allclose(place, there, atol=0.01)


def brightest(volume: Volume) -> tuple[np.ndarray, float]:
    index = np.unravel_index(np.argmax(volume.array), volume.array.shape)
    return (volume.affine @ [*index[::-1], 1])[:3], float(volume.array[index])


def test_same_session_gives_the_same_bytes(sessions: dict[str, SimulatedSession], tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_session(sessions["GE"], tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("IM*"))
    assert len(files) > 10
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    shutil.rmtree(tmp_path / "a")


def test_identities_stand_in_many_tags(sessions: dict[str, SimulatedSession]) -> None:
    session = sessions["Siemens"]
    ds = next(datasets(session.plan, session.series[0]))
    name = session.plan.person.family_name
    holders = [
        element.keyword for element in ds if element.VR in ("PN", "LO", "LT", "SH") and name in str(element.value)
    ]
    assert len(holders) >= 5
    assert isinstance(ds, pydicom.FileDataset)


@pytest.mark.parametrize("value", [0.0, -0.0, 1 / 3, -123.456789012345, 1e-9, -0.99999999999999, 12345678.9])
def test_decimal_strings_are_short_and_close(value: float) -> None:
    text = decimal(value)
    assert len(text) <= 16
    assert float(text) == pytest.approx(value, abs=1e-6)
