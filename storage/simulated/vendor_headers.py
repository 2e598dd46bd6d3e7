"""Header fields of simulated series as each vendor writes them, and identities wherever identities hide."""

from __future__ import annotations

import datetime
import math

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from qmri_core.series.geometry import Volume, spacing_of
from qmri_core.simulation.acquired import AcquiredSeries
from qmri_core.simulation.cohort import PlannedSession

_HERTZ_PER_TESLA = 42.577e6
_HOSPITALS = ("St. Vitus Hospital", "Klinikum Nordhang", "Hôpital de la Vallée", "Riverside Infirmary Westerleigh")
_LARGEST = {"Siemens": 4095, "Philips": 4095, "GE": 32767}


def series_header(plan: PlannedSession, series: AcquiredSeries, slope: float | None) -> Dataset:
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
    if series.contrast_agent:
        ds.ContrastBolusAgent = series.contrast_agent
        ds.ContrastBolusVolume = "7.5"
    ds.BodyPartExamined = "HEAD" if plan.protocol.vendor == "GE" else "BRAIN"
    _add_scaling(ds, plan.protocol.vendor, slope)
    _add_private(ds, plan.protocol.vendor, series, slope)
    return ds


def stored_values(
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


def _add_study(ds: Dataset, plan: PlannedSession) -> None:
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


def _add_equipment(ds: Dataset, plan: PlannedSession, series: AcquiredSeries) -> None:
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
        ds.RescaleSlope = decimal(_rescale_slope(slope))
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


def decimal(value: float) -> str:
    """Decimal string of at most 16 characters (DICOM value representation DS)."""
    for digits in range(12, 3, -1):
        text = f"{value:.{digits}f}".rstrip("0").rstrip(".")
        if len(text) <= 16:
            return "0" if text in ("-0", "") else text
    return f"{value:.8e}"


def _milliseconds(seconds: float | None) -> str:
    return f"{(seconds or 0.0) * 1e3:.6g}"


def _later(plan: PlannedSession, *, minutes: int) -> datetime.datetime:
    return datetime.datetime.combine(plan.date, plan.time) + datetime.timedelta(minutes=minutes)
