"""Classic MR Image Storage files of simulated sessions, with the header fields that each vendor writes.

For simulated data only: identities are invented, pixel data comes from arrays.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from qmri_core.geometry import Affine, Volume, spacing_of
from qmri_core.simulation.cohort import SessionPlan
from qmri_core.simulation.sessions import AcquiredSeries, SimulatedSession

_RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])
_HERTZ_PER_TESLA = 42.577e6
_HOSPITALS = ("St. Vitus Hospital", "Klinikum Nordhang", "Hôpital de la Vallée", "Riverside Imaging Center")
_IMPLEMENTATION = "2.25.180170417326398462180236436713148166203"
_LARGEST = {"Siemens": 4095, "Philips": 4095, "GE": 32767}


def write_session(session: SimulatedSession, folder: Path) -> int:
    """Write all series of a session below ``folder``, in folders that carry the person's name, as archives do.

    Parameters
    ----------
    session
        From `simulate_session`.
    folder
        The input tree; created if it does not exist. Nothing of the truth is written.

    Returns
    -------
    int
        Number of files.
    """
    plan = session.plan
    top = folder / f"{plan.person.family_name}_{plan.person.given_name}_{plan.person.patient_id}"
    study = top / f"{plan.date:%Y%m%d}_{plan.index:04d}"
    count = 0
    for series in session.series:
        target = study / f"S{series.number:04d}"
        target.mkdir(parents=True, exist_ok=True)
        for instance, dataset in enumerate(datasets(plan, series), start=1):
            dataset.save_as(target / f"IM{instance:05d}", enforce_file_format=True)
            count += 1
    return count


def datasets(plan: SessionPlan, series: AcquiredSeries) -> Iterator[FileDataset]:
    """Files of one series in the order of their instance numbers, one per slice."""
    stored, slope = _stored(plan.protocol.vendor, series.volumes)
    header = _encoded(_series_header(plan, series, slope))
    total = sum(len(volume.array) for volume in series.volumes)
    instance = 0
    for volume, array in zip(series.volumes, stored, strict=True):
        for index in range(len(array)):
            instance += 1
            yield _instance(plan, series, header, volume, array, index, instance, total)


def _stored(
    vendor: str, volumes: tuple[Volume, ...]
) -> tuple[list[NDArray[np.uint16] | NDArray[np.int16]], float | None]:
    """Integers as the vendor stores them, and the Philips scale slope (stored per floating-point value)."""
    largest = _LARGEST[vendor]
    slope = None
    if vendor == "Philips":
        peak = max(float(volume.array.max()) for volume in volumes)
        slope = float(np.float32(largest / max(peak, 1e-6)))
    kind = np.int16 if vendor == "GE" else np.uint16
    factor = 1.0 if slope is None else slope
    return [np.clip(np.rint(volume.array * factor), 0, largest).astype(kind) for volume in volumes], slope


def _series_header(plan: SessionPlan, series: AcquiredSeries, slope: float | None) -> Dataset:
    """Everything that the files of a series share."""
    ds = Dataset()
    _add_study(ds, plan)
    _add_equipment(ds, plan, series)
    header, codes = series.series.header, series.series.codes
    ds.SeriesInstanceUID = plan.uid("series", series.number)
    ds.SeriesNumber = series.number
    ds.AcquisitionNumber = 1
    ds.SeriesDescription = ds.ProtocolName = series.description
    started = _later(plan, minutes=4 * (series.number // 100 if series.number > 100 else series.number))
    ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = f"{plan.date:%Y%m%d}"
    ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = f"{started:%H%M%S}"
    ds.FrameOfReferenceUID = plan.uid("frame")
    ds.PositionReferenceIndicator = ""
    ds.ImageType = list(codes.image_type)
    ds.ScanningSequence = list(codes.scanning_sequence)
    ds.SequenceVariant = list(codes.sequence_variant)
    ds.ScanOptions = list(codes.scan_options)
    ds.MRAcquisitionType = header.mr_acquisition_type
    if plan.protocol.vendor == "Siemens":
        ds.SequenceName = codes.sequence_name
    ds.RepetitionTime = _milliseconds(header.repetition_time)
    ds.EchoTime = _milliseconds(header.echo_time)
    if header.inversion_time is not None:
        ds.InversionTime = _milliseconds(header.inversion_time)
    ds.FlipAngle = f"{math.degrees(header.flip_angle or 0.0):g}"
    ds.EchoTrainLength = header.echo_train_length
    ds.NumberOfAverages = "1"
    field = header.magnetic_field_strength or 3.0
    ds.MagneticFieldStrength = f"{field:g}"
    ds.ImagingFrequency = f"{field * _HERTZ_PER_TESLA / 1e6:.6f}"
    ds.ImagedNucleus = "1H"
    ds.PixelBandwidth = "200"
    ds.PercentSampling = ds.PercentPhaseFieldOfView = "100"
    ds.InPlanePhaseEncodingDirection = "ROW"
    ds.PatientPosition = "HFS"
    ds.BodyPartExamined = "HEAD" if plan.protocol.vendor == "GE" else "BRAIN"
    _add_scaling(ds, plan.protocol.vendor, slope)
    _add_private(ds, plan.protocol.vendor, series, slope)
    return ds


def _encoded(header: Dataset) -> Dataset:
    """Return the same elements as raw bytes: files of a series then share them without encoding them again."""
    buffer = BytesIO()
    header.save_as(buffer, implicit_vr=False, little_endian=True)
    buffer.seek(0)
    return dcmread(buffer, force=True)


def _add_study(ds: Dataset, plan: SessionPlan) -> None:
    """Who and when, in all the places where hospitals leave identities."""
    person, physician = plan.person, "Doktor^Eva^^Dr."
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName = f"{person.family_name}^{person.given_name}"
    ds.PatientID = person.patient_id
    ds.PatientBirthDate = f"{person.birth_date:%Y%m%d}"
    ds.PatientSex = person.sex
    ds.PatientAge = f"{plan.age:03d}Y"
    ds.PatientWeight = "70"
    ds.OtherPatientNames = f"{person.family_name}^{person.given_name[0]}"
    ds.PatientAddress = f"{person.number + 1} {person.family_name} Street"
    ds.PatientComments = f"Mrs/Mr {person.family_name}, please call back"
    ds.StudyInstanceUID = plan.study_instance_uid
    ds.StudyDate = f"{plan.date:%Y%m%d}"
    ds.StudyTime = f"{plan.time:%H%M%S}"
    ds.StudyID = str(plan.index + 1)
    ds.AccessionNumber = f"A{plan.uid('accession')[-10:]}"
    ds.StudyDescription = f"MR head {person.family_name}"
    ds.ReferringPhysicianName = physician
    ds.OperatorsName = "tech^mr"
    ds.RequestingPhysician = physician


def _add_equipment(ds: Dataset, plan: SessionPlan, series: AcquiredSeries) -> None:
    protocol = plan.protocol
    ds.Modality = "MR"
    ds.Manufacturer = protocol.manufacturer
    ds.ManufacturerModelName = protocol.model
    ds.SoftwareVersions = protocol.software.split("\\")
    ds.DeviceSerialNumber = plan.serial_number
    ds.StationName = f"MR{plan.serial_number}"
    ds.InstitutionName = _HOSPITALS[int(plan.serial_number) % len(_HOSPITALS)]
    ds.ReceiveCoilName = {"Siemens": "HeadMatrix", "Philips": "MULTI COIL", "GE": "8HRBRAIN"}[protocol.vendor]
    ds.TransmitCoilName = "Body"
    ds.SpacingBetweenSlices = f"{spacing_of(series.volumes[0].affine)[2]:.6g}"
    ds.SliceThickness = f"{spacing_of(series.volumes[0].affine)[2] - series.series.geometry.gap:.6g}"


def _add_scaling(ds: Dataset, vendor: str, slope: float | None) -> None:
    if vendor == "Philips" and slope is not None:
        ds.RescaleIntercept = "0"
        ds.RescaleSlope = _decimal(_rescale_slope(slope))
        ds.RescaleType = "normalized"
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated = 16
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = (16, 15, 1) if vendor == "GE" else (12, 11, 0)
    ds.LossyImageCompression = "00"


def _rescale_slope(slope: float) -> float:
    """Slope to displayed values: arbitrary, and different in each series, as the console's window is."""
    return 0.8 + 3.0 * (slope * 1e3 % 1.0)


def _add_private(ds: Dataset, vendor: str, series: AcquiredSeries, slope: float | None) -> None:
    if vendor == "Philips":
        one = ds.private_block(0x2001, "Philips Imaging DD 001", create=True)
        one.add_new(0x18, "SL", sum(len(volume.array) for volume in series.volumes))
        if series.series.prepulse_delay is not None:
            one.add_new(0x1B, "FL", series.series.prepulse_delay * 1e3)
        five = ds.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
        five.add_new(0x0D, "FL", 0.0)
        if slope is not None:
            five.add_new(0x0E, "FL", slope)
    elif vendor == "GE":
        block = ds.private_block(0x0019, "GEMS_ACQU_01", create=True)
        block.add_new(0x9C, "LO", series.series.codes.sequence_name or "efgre")


def _instance(
    plan: SessionPlan,
    series: AcquiredSeries,
    header: Dataset,
    volume: Volume,
    array: NDArray[np.uint16] | NDArray[np.int16],
    index: int,
    instance: int,
    total: int,
) -> FileDataset:
    """One slice; elements of the series are shared, not copied."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = UID(plan.uid("instance", series.number, instance))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(_IMPLEMENTATION)
    ds = FileDataset("", {}, preamble=b"\0" * 128, file_meta=meta)
    ds.update(header)
    ds.set_original_encoding(
        is_implicit_vr=False, is_little_endian=True, character_encoding=header.original_character_set
    )
    ds.SOPClassUID = MRImageStorage
    ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    ds.InstanceNumber = instance
    ds.ImagesInAcquisition = total
    row, column, position, location = _geometry(volume.affine, index)
    spacing = spacing_of(volume.affine)
    ds.ImagePositionPatient = [_decimal(value) for value in position]
    ds.ImageOrientationPatient = [_decimal(value) for value in (*row, *column)]
    ds.PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[0])]
    ds.SliceLocation = _decimal(location)
    ds.Rows, ds.Columns = array.shape[1:]
    middle = float(array.max()) / 2
    ds.WindowCenter, ds.WindowWidth = f"{middle:.0f}", f"{max(2 * middle, 1):.0f}"
    ds.add_new("PixelData", "OW", np.ascontiguousarray(array[index]).tobytes())
    return ds


def _geometry(
    affine: Affine, index: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float]:
    """Directions along a row and down a column, centre of the first voxel of slice ``index`` (LPS), its location."""
    directions = affine[:3, :3] / spacing_of(affine) * _RAS_TO_LPS[:, None]
    row, column = directions[:, 0], directions[:, 1]
    position = (affine @ np.array([0.0, 0.0, index, 1.0]))[:3] * _RAS_TO_LPS
    return row, column, position, float(np.cross(row, column) @ position)


def _decimal(value: float) -> str:
    """Decimal string of at most 16 characters (DICOM value representation DS)."""
    for digits in range(12, 3, -1):
        text = f"{value:.{digits}f}".rstrip("0").rstrip(".")
        if len(text) <= 16:
            return "0" if text in ("-0", "") else text
    return f"{value:.8e}"


def _milliseconds(seconds: float | None) -> str:
    return f"{(seconds or 0.0) * 1e3:.6g}"


def _later(plan: SessionPlan, *, minutes: int) -> datetime.datetime:
    return datetime.datetime.combine(plan.date, plan.time) + datetime.timedelta(minutes=minutes)
